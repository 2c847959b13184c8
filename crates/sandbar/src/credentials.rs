//! The login that `sandbar login` remembers, readable by its owner only.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::PathBuf,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// A server and a key for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credentials {
    pub url: String,
    pub token: String,
}

/// Where they are kept: below `XDG_CONFIG_HOME`, else `~/.config`.
pub fn path() -> anyhow::Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = match (absolute("XDG_CONFIG_HOME"), absolute("HOME")) {
        (Some(base), _) => base,
        (None, Some(home)) => home.join(".config"),
        (None, None) => bail!("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for credentials"),
    };
    Ok(base.join("sandbar/credentials.json"))
}

/// The stored login; `None` when there is none.
pub fn load() -> anyhow::Result<Option<Credentials>> {
    let Ok(path) = path() else { return Ok(None) };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged; run `sandbar login` again", path.display()))
}

/// Replaces the stored login.
pub fn store(credentials: &Credentials) -> anyhow::Result<PathBuf> {
    let path = path()?;
    let dir = path.parent().context("the credentials' path has no folder")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let fresh = path.with_extension(format!("json.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        // The mode above holds only for a new file.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec_pretty(credentials)?)?;
        file.write_all(b"\n")?;
        fs::rename(&fresh, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
