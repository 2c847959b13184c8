//! Which permission a route asks for, by method and path. Routes of users, teams and keys decide for themselves.

use axum::http::Method;
use sandbar_core::roles::Permission;

/// The permission for a request; none when its handler decides. What is below `/api/v1` and not known here takes what
/// writing sandboxes takes, so that a new route is closed rather than open.
pub fn needed(method: &Method, path: &str) -> Option<Permission> {
    use Permission as P;
    let (_, rest) = path.split_once("/api/v1/")?;
    let mut parts = rest.split('/');
    let resource = parts.next().unwrap_or_default();
    let below: Vec<&str> = parts.collect();
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let whole = below.len() <= 1;
    let of = |read, create, write, delete| {
        if reads {
            read
        } else if *method == Method::POST && below.is_empty() {
            create
        } else if *method == Method::DELETE && whole {
            delete
        } else {
            write
        }
    };
    Some(match resource {
        // Input goes both ways over an attached context.
        "sandboxes" if reads && below.get(1) == Some(&"contexts") && below.last() == Some(&"ws") => P::SandboxWrite,
        "sandboxes" => of(P::SandboxRead, P::SandboxCreate, P::SandboxWrite, P::SandboxDelete),
        "templates" => of(P::TemplateRead, P::TemplateCreate, P::TemplateWrite, P::TemplateDelete),
        "sandboxvolumes" => of(P::VolumeRead, P::VolumeWrite, P::VolumeWrite, P::VolumeDelete),
        "functions" => of(P::FunctionRead, P::FunctionCreate, P::FunctionWrite, P::FunctionDelete),
        "credential-sources" => of(P::CredentialSourceRead, P::CredentialSourceWrite, P::CredentialSourceWrite, P::CredentialSourceDelete),
        "quotas" if reads => P::QuotaRead,
        // The operator's, who is asked for by the handler.
        "quotas" => P::TeamAdmin,
        "usage" if reads => P::UsageRead,
        "audit" if reads => P::AuditRead,
        "registry" => P::RegistryWrite,
        _ if reads => P::SandboxRead,
        _ => P::SandboxWrite,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        use Permission as P;
        for (method, path, permission) in [
            (Method::GET, "/api/v1/sandboxes", Some(P::SandboxRead)),
            (Method::POST, "/api/v1/sandboxes", Some(P::SandboxCreate)),
            (Method::POST, "/compat/2026-05/api/v1/sandboxes", Some(P::SandboxCreate)),
            (Method::DELETE, "/api/v1/sandboxes/sb-1", Some(P::SandboxDelete)),
            (Method::DELETE, "/api/v1/sandboxes/sb-1/files", Some(P::SandboxWrite)),
            (Method::PUT, "/api/v1/sandboxes/sb-1", Some(P::SandboxWrite)),
            (Method::POST, "/api/v1/sandboxes/sb-1/pause", Some(P::SandboxWrite)),
            (Method::GET, "/api/v1/sandboxes/sb-1/contexts/ctx-1", Some(P::SandboxRead)),
            (Method::GET, "/api/v1/sandboxes/sb-1/contexts/ctx-1/ws", Some(P::SandboxWrite)),
            (Method::GET, "/api/v1/sandboxes/sb-1/files/watch", Some(P::SandboxRead)),
            (Method::POST, "/api/v1/templates", Some(P::TemplateCreate)),
            (Method::GET, "/api/v1/quotas", Some(P::QuotaRead)),
            (Method::POST, "/api/v1/something-new", Some(P::SandboxWrite)),
            (Method::GET, "/users/me", None),
            (Method::POST, "/api-keys", None),
        ] {
            assert_eq!(needed(&method, path), permission, "{method} {path}");
        }
    }
}
