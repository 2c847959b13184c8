//! Roles and what they may do.

use std::{fmt, str::FromStr};

/// What a member or a key is in its team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Developer,
    Builder,
    Admin,
}

/// Not one of the four roles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; the roles are admin, builder, developer and viewer")]
pub struct UnknownRole(pub String);

impl Role {
    pub const ALL: [Self; 4] = [Self::Admin, Self::Builder, Self::Developer, Self::Viewer];

    /// The name on the wire and in storage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Builder => "builder",
            Self::Developer => "developer",
            Self::Viewer => "viewer",
        }
    }

    /// What the role may do. Each role may do all that the ones below it may.
    pub fn permissions(self) -> Permissions {
        use Permission as P;
        const READ: [Permission; 7] = [P::SandboxRead, P::TemplateRead, P::VolumeRead, P::FunctionRead, P::CredentialSourceRead, P::QuotaRead, P::UsageRead];
        const DEVELOP: [Permission; 8] =
            [P::SandboxCreate, P::SandboxWrite, P::SandboxDelete, P::VolumeWrite, P::VolumeDelete, P::FunctionCreate, P::FunctionWrite, P::FunctionDelete];
        const BUILD: [Permission; 6] =
            [P::TemplateCreate, P::TemplateWrite, P::TemplateDelete, P::CredentialSourceWrite, P::CredentialSourceDelete, P::RegistryWrite];
        const ADMINISTER: [Permission; 2] = [P::AuditRead, P::TeamAdmin];
        let read = Permissions::of(&READ);
        match self {
            Self::Viewer => read,
            Self::Developer => read | Permissions::of(&DEVELOP),
            Self::Builder => read | Permissions::of(&DEVELOP) | Permissions::of(&BUILD),
            Self::Admin => read | Permissions::of(&DEVELOP) | Permissions::of(&BUILD) | Permissions::of(&ADMINISTER),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.chars().take(64).collect()))
    }
}

/// One thing that routes ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Permission {
    SandboxRead,
    SandboxCreate,
    SandboxWrite,
    SandboxDelete,
    TemplateRead,
    TemplateCreate,
    TemplateWrite,
    TemplateDelete,
    VolumeRead,
    VolumeWrite,
    VolumeDelete,
    FunctionRead,
    FunctionCreate,
    FunctionWrite,
    FunctionDelete,
    CredentialSourceRead,
    CredentialSourceWrite,
    CredentialSourceDelete,
    RegistryWrite,
    QuotaRead,
    UsageRead,
    AuditRead,
    /// Members, keys and the team itself.
    TeamAdmin,
}

impl Permission {
    pub const ALL: [Self; 23] = [
        Self::SandboxRead,
        Self::SandboxCreate,
        Self::SandboxWrite,
        Self::SandboxDelete,
        Self::TemplateRead,
        Self::TemplateCreate,
        Self::TemplateWrite,
        Self::TemplateDelete,
        Self::VolumeRead,
        Self::VolumeWrite,
        Self::VolumeDelete,
        Self::FunctionRead,
        Self::FunctionCreate,
        Self::FunctionWrite,
        Self::FunctionDelete,
        Self::CredentialSourceRead,
        Self::CredentialSourceWrite,
        Self::CredentialSourceDelete,
        Self::RegistryWrite,
        Self::QuotaRead,
        Self::UsageRead,
        Self::AuditRead,
        Self::TeamAdmin,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SandboxRead => "sandbox:read",
            Self::SandboxCreate => "sandbox:create",
            Self::SandboxWrite => "sandbox:write",
            Self::SandboxDelete => "sandbox:delete",
            Self::TemplateRead => "template:read",
            Self::TemplateCreate => "template:create",
            Self::TemplateWrite => "template:write",
            Self::TemplateDelete => "template:delete",
            Self::VolumeRead => "sandboxvolume:read",
            Self::VolumeWrite => "sandboxvolume:write",
            Self::VolumeDelete => "sandboxvolume:delete",
            Self::FunctionRead => "function:read",
            Self::FunctionCreate => "function:create",
            Self::FunctionWrite => "function:write",
            Self::FunctionDelete => "function:delete",
            Self::CredentialSourceRead => "credentialsource:read",
            Self::CredentialSourceWrite => "credentialsource:write",
            Self::CredentialSourceDelete => "credentialsource:delete",
            Self::RegistryWrite => "registry:write",
            Self::QuotaRead => "quota:read",
            Self::UsageRead => "usage:read",
            Self::AuditRead => "audit:read",
            Self::TeamAdmin => "team:admin",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u32);

impl Permissions {
    /// These.
    pub const fn of(list: &[Permission]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < list.len() {
            bits |= 1 << list[i] as u32;
            i += 1;
        }
        Self(bits)
    }

    /// All that any of these roles may.
    pub fn of_roles(roles: &[Role]) -> Self {
        roles.iter().fold(Self::default(), |all, role| all | role.permissions())
    }

    pub fn has(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u32) != 0
    }

    /// Whether every permission of `other` is in this set.
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.has(*permission))
    }
}

impl std::ops::BitOr for Permissions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitAnd for Permissions {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_covers_the_one_below() {
        let order = [Role::Viewer, Role::Developer, Role::Builder, Role::Admin];
        for pair in order.windows(2) {
            assert!(pair[1].permissions().covers(pair[0].permissions()) && !pair[0].permissions().covers(pair[1].permissions()), "{pair:?}");
        }
        assert_eq!(Role::Admin.permissions().iter().count(), Permission::ALL.len());
    }

    #[test]
    fn a_viewer_only_reads() {
        assert!(Role::Viewer.permissions().iter().all(|permission| permission.as_str().ends_with(":read")));
        assert!(!Role::Viewer.permissions().has(Permission::SandboxWrite));
        assert!("owner".parse::<Role>().is_err());
    }
}
