//! The image that is built in: the host's `/usr`, read-only, under a skeleton root with an `/etc` of its own, so that
//! Python and the shell are there at once and without a network. And what every other image lacks: two layers, one below
//! it with the folders and files that no root can do without, one on top of it with those that are ours.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use sandbar_linux::launch::Bind;
use sha2::{Digest, Sha256};

use super::{Image, ImageError};

/// The built-in image.
pub(super) fn make(parent: &Path, agent: &[u8]) -> Result<Image, ImageError> {
    let files = etc_files();
    let is_whole = |layer: &Path| {
        let copy_is_whole = |path: &PathBuf| match fs::symlink_metadata(path) {
            Ok(original) if original.is_file() => {
                fs::symlink_metadata(layer.join(path.strip_prefix("/").unwrap_or(path))).is_ok_and(|copy| copy.len() == original.len())
            }
            _ => true,
        };
        has_agent(layer, agent) && has_files(layer, |_| true) && files.iter().all(copy_is_whole)
    };
    let layer = once(parent, &format!("host-{}", fingerprint(&files, agent)), is_whole, |half| write_skeleton(half, &files, agent))?;
    let binds = HOST_DIRS
        .iter()
        .map(Path::new)
        .filter(|dir| fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()))
        .map(|dir| Bind { source: dir.to_owned(), target: dir.strip_prefix("/").unwrap_or(dir).to_owned(), read_only: true, idmap: true })
        .collect();
    let env = [("PATH", PATH), ("LANG", "C.UTF-8"), ("HOME", "/root")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(Image { lowers: vec![layer], binds, env })
}

/// What lies around the layers of other images.
#[derive(Debug, Clone)]
pub(super) struct Around {
    pub top: PathBuf,
    pub bottom: PathBuf,
}

pub(super) fn around(parent: &Path, agent: &[u8]) -> Result<Around, ImageError> {
    let name = fingerprint(&[], agent);
    let top_is_whole = |layer: &Path| has_agent(layer, agent) && has_files(layer, |name| OURS.contains(&name));
    let top = once(parent, &format!("top-{name}"), top_is_whole, |half| {
        for name in ["etc", "procd", "procd/bin", "procd/runtimes"] {
            make_dir(&half.join(name), 0o755)?;
        }
        for (name, text) in FILES.iter().filter(|(name, _)| OURS.contains(name)) {
            write_file(&half.join(name), text.as_bytes(), 0o644)?;
        }
        write_agent(half, agent)
    })?;
    let bottom_is_whole = |layer: &Path| has_files(layer, |name| !OURS.contains(&name));
    let bottom = once(parent, &format!("bottom-{name}"), bottom_is_whole, |half| {
        for (name, mode) in DIRS {
            make_dir(&half.join(name), *mode)?;
        }
        for (name, text) in FILES.iter().filter(|(name, _)| !OURS.contains(name)) {
            write_file(&half.join(name), text.as_bytes(), if *name == "etc/shadow" { 0o640 } else { 0o644 })?;
        }
        Ok(())
    })?;
    Ok(Around { top, bottom })
}

/// The agent as a file, to be executed as pid 1.
pub(super) fn agent_in(layer: &Path) -> PathBuf {
    layer.join(AGENT)
}

fn has_agent(layer: &Path, agent: &[u8]) -> bool {
    fs::read(agent_in(layer)).is_ok_and(|found| found == agent) && fs::read_link(layer.join(RUNNER)).is_ok_and(|to| to == Path::new(RUNNER_TO))
}

fn write_agent(layer: &Path, agent: &[u8]) -> Result<(), ImageError> {
    write_file(&layer.join(AGENT), agent, 0o755)?;
    let runner = layer.join(RUNNER);
    symlink(RUNNER_TO, &runner).map_err(|source| failed("make", &runner, source))
}

fn has_files(layer: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    FILES.iter().filter(|(name, _)| wanted(name)).all(|(name, text)| fs::read(layer.join(name)).is_ok_and(|found| found == text.as_bytes()))
}

/// Makes a folder whole or not at all, unless it is there. One that is not whole lost a part of itself in a power failure.
fn once(parent: &Path, name: &str, is_whole: impl Fn(&Path) -> bool, write: impl FnOnce(&Path) -> Result<(), ImageError>) -> Result<PathBuf, ImageError> {
    let layer = parent.join(name);
    if layer.exists() && !is_whole(&layer) {
        tracing::warn!(layer = %layer.display(), "a part of the built-in image is damaged and is made again");
        let away = parent.join(crate::random_id(super::HALF));
        fs::rename(&layer, &away).map_err(|source| failed("move away", &layer, source))?;
    }
    if !layer.exists() {
        let half = parent.join(crate::random_id(super::HALF));
        make_dir(&half, 0o755)?;
        write(&half)?;
        fs::rename(&half, &layer).map_err(|source| failed("make", &layer, source))?;
    }
    Ok(layer)
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the agent stands inside, as published.
const AGENT: &str = "procd/bin/procd";
/// What runs the handlers of functions, as published: the agent under another name.
const RUNNER: &str = "procd/runtimes/python-runner";
const RUNNER_TO: &str = "../bin/procd";
/// Programs and libraries. Where one is a link (`/bin -> usr/bin`), the skeleton has the same link.
const HOST_DIRS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Folders that the skeleton has, with their modes.
const DIRS: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("home/user", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("procd", 0o755),
    ("procd/bin", 0o755),
    ("procd/runtimes", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
    ("workspace", 0o755),
];
/// What is taken from the host's `/etc`: configuration that its programs need to run, never accounts, keys or secrets.
const ETC: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "gai.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "lsb-release",
    "magic",
    "magic.mime",
    "mime.types",
    "os-release",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "profile.d",
    "protocols",
    "python3",
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "rpc",
    "services",
    "shells",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];
/// A stranger thing than configuration is not copied.
const ETC_FILE_BYTES_MAX: u64 = 8 << 20;

/// Files that are ours in every image: names are asked of our own resolver.
const OURS: &[&str] = &["etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// Files of the skeleton with fixed content.
const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nbin:x:2:2:bin:/bin:/usr/sbin/nologin\nmail:x:8:8:mail:/var/mail:/usr/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "etc/group",
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nadm:x:4:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\nshadow:x:42:\nutmp:x:43:\nstaff:x:50:\nusers:x:100:\nuser:x:1000:\nnogroup:x:65534:\n",
    ),
    ("etc/shadow", "root:*:20000:0:99999:7:::\nuser:*:20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    ("etc/hostname", "sandbox\n"),
    ("etc/host.conf", "multi on\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"),
    ("etc/resolv.conf", "nameserver 127.213.0.2\noptions edns0 timeout:3 attempts:2\n"),
    (
        "etc/profile",
        "export PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}\nfor f in /etc/profile.d/*.sh; do [ -r \"$f\" ] && . \"$f\"; done\nunset f\n",
    ),
    ("root/.profile", "[ -n \"$BASH\" ] && [ -f ~/.bashrc ] && . ~/.bashrc\n"),
    ("etc/fstab", ""),
    ("etc/motd", ""),
];

/// Paths of the host's `/etc` that exist, relative to `/`, folders expanded, in a stable order.
fn etc_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue: Vec<PathBuf> = ETC.iter().map(|name| Path::new("/etc").join(name)).collect();
    while let Some(path) = queue.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            queue.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
            found.push(path);
        } else if meta.is_symlink() || (meta.is_file() && meta.len() <= ETC_FILE_BYTES_MAX && meta.permissions().mode() & 0o004 != 0) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Changes when anything that the skeleton is made of changes.
fn fingerprint(files: &[PathBuf], agent: &[u8]) -> String {
    use std::os::unix::fs::MetadataExt;
    let mut hash = Sha256::new();
    hash.update(agent);
    for (name, text) in FILES {
        hash.update(name);
        hash.update(text);
    }
    for (name, mode) in DIRS {
        hash.update(name);
        hash.update(mode.to_le_bytes());
    }
    for path in files {
        hash.update(path.as_os_str().as_encoded_bytes());
        if let Ok(meta) = fs::symlink_metadata(path) {
            hash.update(meta.len().to_le_bytes());
            hash.update(meta.mtime().to_le_bytes());
        }
    }
    for dir in HOST_DIRS {
        hash.update(fs::read_link(dir).unwrap_or_default().as_os_str().as_encoded_bytes());
    }
    hex::encode(&hash.finalize()[..8])
}

fn write_skeleton(top: &Path, files: &[PathBuf], agent: &[u8]) -> Result<(), ImageError> {
    for (name, mode) in DIRS {
        make_dir(&top.join(name), *mode)?;
    }
    for dir in HOST_DIRS.iter().map(Path::new) {
        let Ok(meta) = fs::symlink_metadata(dir) else { continue };
        let inside = top.join(dir.strip_prefix("/").unwrap_or(dir));
        if meta.is_symlink() {
            fs::read_link(dir).and_then(|to| symlink(to, &inside)).map_err(|source| failed("make", &inside, source))?;
        } else if meta.is_dir() {
            make_dir(&inside, 0o755)?;
        }
    }
    for path in files {
        let inside = top.join(path.strip_prefix("/").unwrap_or(path));
        copy_public(path, &inside).map_err(|source| failed("make", path, source))?;
    }
    for (name, text) in FILES {
        let path = top.join(name);
        write_file(&path, text.as_bytes(), if *name == "etc/shadow" { 0o640 } else { 0o644 })?;
    }
    write_agent(top, agent)?;
    symlink("/proc/self/mounts", top.join("etc/mtab")).map_err(|source| failed("make", top, source))?;
    symlink("/run", top.join("var/run")).map_err(|source| failed("make", top, source))?;
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), ImageError> {
    fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode))).map_err(|source| failed("make", path, source))
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ImageError> {
    fs::write(path, bytes).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode))).map_err(|source| failed("make", path, source))
}

/// A folder, link or file of the host's `/etc`, without its owner.
fn copy_public(from: &Path, to: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(from) {
        // Changed since it was listed: leave it out.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if meta.is_dir() {
        fs::create_dir_all(to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o755))
    } else if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else {
        fs::copy(from, to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(meta.permissions().mode() & 0o755 | 0o444))
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> ImageError {
    ImageError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_image_has_no_account_or_key_of_the_host() {
        let dir = std::env::temp_dir().join(crate::random_id("sandbar-image-"));
        fs::create_dir(&dir).unwrap();
        let layer = &make(&dir, b"agent").unwrap().lowers[0];
        assert!(!layer.join("etc/ssl/private").exists());
        assert!(!layer.join("etc/ssh").exists());
        assert_eq!(fs::read_to_string(layer.join("etc/shadow")).unwrap(), FILES[2].1);
        assert_eq!(fs::read(agent_in(layer)).unwrap(), b"agent");
        // The same parts make the same layer, once.
        assert_eq!(&make(&dir, b"agent").unwrap().lowers[0], layer);
        let around = around(&dir, b"agent").unwrap();
        // What a power failure left empty is made again.
        fs::write(agent_in(layer), b"").unwrap();
        assert_eq!(fs::read(agent_in(&make(&dir, b"agent").unwrap().lowers[0])).unwrap(), b"agent");
        assert_eq!(fs::read(agent_in(&around.top)).unwrap(), b"agent");
        assert_eq!(fs::read(layer.join(RUNNER)).unwrap(), b"agent");
        assert_eq!(fs::read(around.top.join(RUNNER)).unwrap(), b"agent");
        assert!(around.top.join("etc/resolv.conf").exists() && !around.bottom.join("etc/resolv.conf").exists());
        assert!(around.bottom.join("etc/passwd").exists() && !around.top.join("etc/passwd").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
