//! Volumes: who may have them, and where inside a sandbox.

use sandbar_api::{sandbox::Mount as Asked, template::TemplateSpec};

use crate::{limits, sandbox::Mount, validate::Violation};

/// Who may have a volume mounted at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessMode {
    /// One sandbox, which may write.
    Rwo,
    /// Many, which may only read.
    Rox,
    /// Many, which may write.
    Rwx,
}

impl AccessMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rwo => "RWO",
            Self::Rox => "ROX",
            Self::Rwx => "RWX",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Rwo, Self::Rox, Self::Rwx].into_iter().find(|mode| mode.as_str() == name)
    }
}

/// Folders that a sandbox cannot work without, or that are not its own: nothing is mounted on them or below them.
const SYSTEM: [&str; 13] = ["/proc", "/sys", "/dev", "/procd", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot"];
/// Folders that others stand in: nothing is mounted on them, but below.
const SHARED: [&str; 5] = ["/tmp", "/var", "/run", "/home", "/var/lib"];

/// What is wrong with a mount point, if anything. `/workspace` and the like may be mounted on as a whole by those who
/// name them; only the system's own folders may not.
pub fn check_mount_point(path: &str) -> Result<(), &'static str> {
    let Some(rest) = path.strip_prefix('/') else { return Err("must be an absolute path") };
    if rest.is_empty() {
        return Err("must not be the root folder");
    }
    if path.len() > limits::PATH_MAX_BYTES || rest.split('/').count() > limits::MOUNT_DEPTH_MAX {
        return Err("is too long or too deep");
    }
    if path.contains('\0') || rest.split('/').any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255) {
        return Err("must be clean: no empty parts, no \".\" or \"..\", no zero bytes");
    }
    if SYSTEM.iter().any(|folder| is_in(path, folder)) || is_in(path, "/run/sandbar") || path == "/var/lib/sandbox0" || is_in(path, "/var/lib/sandbox0/procd") {
        return Err("lies in a folder of the system");
    }
    if SHARED.contains(&path) {
        return Err("is a folder of the system; choose one below it");
    }
    Ok(())
}

/// The mounts of a claim: each where the template lets it be, none in or on another.
pub fn plan(template: &TemplateSpec, asked: &[Asked], mode_of: impl Fn(&str) -> Option<AccessMode>) -> Result<Vec<Mount>, Vec<Violation>> {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut out = Vec::new();
    if asked.len() > limits::MOUNTS_MAX {
        return Err(vec![Violation::new("mounts", format!("there are {}; {} is the limit", asked.len(), limits::MOUNTS_MAX))]);
    }
    let declared = template.volume_mounts.as_deref().unwrap_or_default();
    let in_memory: Vec<&str> = template.ephemeral_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    for (index, ask) in asked.iter().enumerate() {
        let mut bad = |field: &str, text: String| out.push(Violation::new(format!("mounts[{index}].{field}"), text));
        let place = ask.mount_point.as_str();
        if let Err(text) = check_mount_point(place) {
            bad("mount_point", text.to_owned());
            continue;
        }
        let known = declared.iter().find(|mount| mount.mount_path == place);
        if known.is_none() && !declared.is_empty() {
            let names: Vec<&str> = declared.iter().map(|mount| mount.mount_path.as_str()).collect();
            bad("mount_point", format!("is not one that the template declares in volumeMounts: {}", names.join(", ")));
            continue;
        }
        let taken = mounts.iter().map(|mount| mount.mount_point.as_str()).chain(in_memory.iter().copied());
        if let Some(other) = taken.into_iter().find(|other| overlap(place, other)) {
            let text = format!("lies on or in another mount, {other}");
            bad("mount_point", text);
            continue;
        }
        let Some(mode) = mode_of(&ask.sandboxvolume_id) else {
            bad("sandboxvolume_id", "there is no such volume".to_owned());
            continue;
        };
        if mode == AccessMode::Rwo && mounts.iter().any(|mount| mount.volume_id == ask.sandboxvolume_id) {
            bad("sandboxvolume_id", "is mounted twice; a volume of mode RWO can be mounted once".to_owned());
            continue;
        }
        let read_only = mode == AccessMode::Rox || known.is_some_and(|mount| mount.read_only);
        mounts.push(Mount { volume_id: ask.sandboxvolume_id.clone(), mount_point: place.to_owned(), read_only });
    }
    if out.is_empty() { Ok(mounts) } else { Err(out) }
}

/// Whether one of two mount points would hide the other or a part of it.
pub fn overlap(one: &str, other: &str) -> bool {
    is_in(one, other) || is_in(other, one)
}

/// Whether a path is a folder or something in it.
fn is_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use sandbar_api::template::{EphemeralMount, VolumeMount};

    use super::*;

    fn ask(id: &str, at: &str) -> Asked {
        Asked { sandboxvolume_id: id.into(), mount_point: at.into(), extra: Default::default() }
    }

    fn mode(id: &str) -> Option<AccessMode> {
        AccessMode::named(id.split('-').next()?)
    }

    #[test]
    fn mount_points() {
        for good in ["/workspace", "/workspace/data", "/data", "/var/lib/data", "/home/user", "/tmp/x", "/root", "/a b/c"] {
            assert_eq!(check_mount_point(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/",
            "data",
            "/a/../b",
            "/a//b",
            "/a/",
            "/./a",
            "/proc",
            "/proc/1",
            "/etc",
            "/etc/x",
            "/usr/local",
            "/lib",
            "/tmp",
            "/var",
            "/a\0b",
            "/procd/bin",
            "/run/sandbar/runs",
        ] {
            assert!(check_mount_point(bad).is_err(), "{bad:?}");
        }
        assert!(check_mount_point("/library").is_ok());
    }

    #[test]
    fn mounts_of_a_claim() {
        let free = TemplateSpec::default();
        let mounts = plan(&free, &[ask("RWO-1", "/a"), ask("ROX-1", "/b")], mode).expect("two mounts");
        assert_eq!(mounts.iter().map(|m| m.read_only).collect::<Vec<_>>(), [false, true]);
        let wrong = |template: &TemplateSpec, asked: &[Asked]| plan(template, asked, mode).expect_err("refused")[0].to_string();
        assert!(wrong(&free, &[ask("RWO-1", "/a"), ask("RWX-1", "/a/b")]).contains("another mount, /a"));
        assert!(wrong(&free, &[ask("RWO-1", "/a/b"), ask("RWX-1", "/a")]).contains("another mount, /a/b"));
        assert!(wrong(&free, &[ask("RWO-1", "/a"), ask("RWO-1", "/b")]).contains("twice"));
        assert!(wrong(&free, &[ask("nope", "/a")]).starts_with("mounts[0].sandboxvolume_id"));
        assert!(plan(&free, &[ask("RWX-1", "/a"), ask("RWX-1", "/ab")], mode).is_ok());
        let declared = TemplateSpec {
            volume_mounts: Some(vec![VolumeMount { name: "d".into(), mount_path: "/d".into(), read_only: true }]),
            ephemeral_mounts: Some(vec![EphemeralMount { mount_path: "/d/cache".into(), size_limit: "1Mi".into() }]),
            ..TemplateSpec::default()
        };
        assert!(wrong(&declared, &[ask("RWO-1", "/e")]).contains("declares in volumeMounts: /d"));
        assert!(wrong(&declared, &[ask("RWO-1", "/d")]).contains("another mount, /d/cache"));
    }
}
