//! Landlock, the second fence behind capabilities and seccomp.
//!
//! Landlock only adds up what is allowed beneath a path, it cannot take a subdirectory away again; so read-only places
//! (`/usr`, `/proc/sys`) are read-only mounts, and Landlock holds what a mount cannot: no device nodes anywhere, no change of mounts
//! (the kernel refuses those to every process with a file system ruleset), and no signals or abstract sockets that leave the sandbox.
use std::sync::OnceLock;

/// `LANDLOCK_ACCESS_FS_MAKE_CHAR`: never allowed.
pub(crate) const MAKE_CHAR: u64 = 1 << 6;
/// `LANDLOCK_ACCESS_FS_MAKE_BLOCK`: never allowed.
pub(crate) const MAKE_BLOCK: u64 = 1 << 11;
/// `LANDLOCK_ACCESS_FS_REFER`: refused by every ruleset that does not allow it, so it is allowed beneath `/`.
pub(crate) const REFER: u64 = 1 << 13;

const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// The first version with which renames across directories can be allowed; with an older one we do without Landlock.
pub const ABI_MIN: u32 = 2;
/// The version that keeps signals and abstract sockets inside (Linux 6.12). Before, namespaces alone do: pids and the network are its own.
pub const ABI_SCOPES: u32 = 6;

/// The rights of version 1, by number.
const FS_V1: u64 = (1 << 13) - 1;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// Bind and connect TCP.
const NET_V4: u64 = 3;
/// To read, write, make, rename and remove files and folders: numbers 1 to 5, 7, 8, and what came later.
pub(crate) const PLAIN_FILES: u64 = 0b1_1011_1110 | REFER | TRUNCATE;

/// `struct landlock_ruleset_attr`. Kernels that know a shorter one accept this while the rest is zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RulesetAttr {
    pub handled_access_fs: u64,
    pub handled_access_net: u64,
    pub scoped: u64,
}

/// `struct landlock_path_beneath_attr`, which is packed in the kernel's header.
#[repr(C, packed)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathBeneathAttr {
    pub allowed_access: u64,
    pub parent_fd: i32,
}

/// The Landlock version of this kernel; 0 when it has none or has it switched off.
pub fn abi() -> u32 {
    static ABI: OnceLock<u32> = OnceLock::new();
    *ABI.get_or_init(|| {
        const VERSION: usize = 1;
        // SAFETY: with the version flag the kernel takes a null pointer and size 0 and reads nothing.
        let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, VERSION) };
        u32::try_from(version).unwrap_or(0)
    })
}

/// All that this kernel's Landlock can take away. For kernels that have any.
pub(crate) fn everything() -> RulesetAttr {
    let abi = abi();
    let from = |version, rights| if abi >= version { rights } else { 0 };
    RulesetAttr {
        handled_access_fs: FS_V1 | from(2, REFER) | from(3, TRUNCATE) | from(5, IOCTL_DEV),
        handled_access_net: from(4, NET_V4),
        scoped: from(ABI_SCOPES, SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL),
    }
}

/// What a sandbox's ruleset says, or `None` when this kernel cannot.
pub(crate) fn ruleset() -> Option<RulesetAttr> {
    let abi = abi();
    (abi >= ABI_MIN).then_some(RulesetAttr {
        handled_access_fs: MAKE_CHAR | MAKE_BLOCK | REFER,
        handled_access_net: 0,
        scoped: if abi >= ABI_SCOPES { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 },
    })
}
