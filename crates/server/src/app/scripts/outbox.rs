//! Mail that was not sent because no SMTP server is set: a folder for each team, a file for each mail.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sandbar_api::ErrorCode;
use sandbar_core::limits;
use sandbar_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::{
    app::{App, auth::Principal},
    error::ApiError,
};

#[cfg(test)]
mod tests;

/// The mail as it would have been sent.
const MAIL: &str = "eml";
/// What it is about, as JSON.
const ABOUT: &str = "json";
/// A file that is not whole yet.
const NEW: &str = "new";
/// Of a file that says what a mail is about.
const ABOUT_MAX_BYTES: u64 = 256 << 10;

/// Mails that were kept. Clones are the same.
#[derive(Clone)]
pub(crate) struct Outbox {
    dir: PathBuf,
    /// One writer: what is kept is counted before something is added.
    writing: Arc<Mutex<()>>,
}

/// What a mail is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub created_at_ms: i64,
    pub from: String,
    pub to: Vec<String>,
    #[serde(default)]
    pub cc: Vec<String>,
    pub subject: String,
    pub script_id: Option<String>,
    pub script_name: Option<String>,
    pub run_id: Option<String>,
}

/// A mail in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub id: String,
    pub bytes: u64,
    pub about: About,
}

impl App {
    /// The newest mails of a team, newest first, and before that one.
    pub(crate) async fn outbox_list(&self, who: &Principal, before: Option<String>, limit: usize) -> Result<Vec<Kept>, ApiError> {
        let (outbox, team) = (self.reach.mailer.outbox.clone(), who.team_id.clone());
        let listed = tokio::task::spawn_blocking(move || outbox.list(&team, before.as_deref(), limit)).await;
        listed.map_err(|error| ApiError::internal("reading the outbox", &error))?.map_err(|error| ApiError::internal("reading the outbox", &error))
    }

    /// One mail, with its text as it would have been sent.
    pub(crate) async fn outbox_get(&self, who: &Principal, id: &str) -> Result<(Kept, String), ApiError> {
        let (outbox, team, wanted) = (self.reach.mailer.outbox.clone(), who.team_id.clone(), id.to_owned());
        let found = tokio::task::spawn_blocking(move || outbox.get(&team, &wanted)).await;
        let found =
            found.map_err(|error| ApiError::internal("reading the outbox", &error))?.map_err(|error| ApiError::internal("reading the outbox", &error))?;
        found.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("mail {:?} is not in the outbox", id.chars().take(64).collect::<String>())))
    }
}

impl Outbox {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("outbox"), writing: Arc::default() }
    }

    /// Keeps a mail. When it returns the mail is safe on disk.
    pub(super) async fn put(&self, team: &str, about: About, mail: Vec<u8>) -> io::Result<()> {
        let (outbox, team) = (self.clone(), team.to_owned());
        tokio::task::spawn_blocking(move || outbox.write(&team, &about, &mail)).await.map_err(io::Error::other)?
    }

    /// Removes the mails of a team that is no more.
    pub(crate) async fn forget(&self, team: &str) {
        let (outbox, team) = (self.clone(), team.to_owned());
        let removed = tokio::task::spawn_blocking(move || {
            let _one = outbox.writing.lock().unwrap_or_else(PoisonError::into_inner);
            fs::remove_dir_all(outbox.team_dir(&team)?)
        });
        match removed.await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, "the outbox of a deleted team was not removed"),
            Ok(Ok(()) | Err(_)) | Err(_) => {}
        }
    }

    /// The same for all teams that are no more, as after a crash.
    pub(crate) async fn forget_deleted(&self, store: &Store) -> Result<(), StoreError> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Ok(()) };
        for team in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if store.team_get(&team).await?.is_none() {
                self.forget(&team).await;
            }
        }
        Ok(())
    }

    fn write(&self, team: &str, about: &About, mail: &[u8]) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.team_dir(team)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        make_room(&dir, mail.len() as u64)?;
        // By name they are in the order of time.
        let id = format!("{:013}-{}", about.created_at_ms, uuid::Uuid::new_v4().simple());
        // The mail last: it is there when all of it is.
        write_file(&dir, &id, ABOUT, &serde_json::to_vec(about)?)?;
        write_file(&dir, &id, MAIL, mail)?;
        fs::File::open(&dir)?.sync_all()
    }

    fn list(&self, team: &str, before: Option<&str>, limit: usize) -> io::Result<Vec<Kept>> {
        let dir = self.team_dir(team)?;
        let mut names = names(&dir)?;
        names.retain(|(id, _)| before.is_none_or(|before| id.as_str() < before));
        names.reverse();
        Ok(names.into_iter().filter_map(|(id, bytes)| read_about(&dir, id, bytes)).take(limit).collect())
    }

    fn get(&self, team: &str, id: &str) -> io::Result<Option<(Kept, String)>> {
        let dir = self.team_dir(team)?;
        // A client's text is looked for among the names and makes no path.
        let Some((id, bytes)) = names(&dir)?.into_iter().find(|(name, _)| name == id) else { return Ok(None) };
        let mail = match fs::read(dir.join(format!("{id}.{MAIL}"))) {
            Ok(mail) => mail,
            // It had to go just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(read_about(&dir, id, bytes).map(|kept| (kept, String::from_utf8_lossy(&mail).into_owned())))
    }

    fn team_dir(&self, team: &str) -> io::Result<PathBuf> {
        let is_name = !team.is_empty() && team.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if is_name { Ok(self.dir.join(team)) } else { Err(io::Error::other("the team's id is no name of a folder")) }
    }
}

/// Ids and sizes of the mails in a folder, oldest first.
fn names(dir: &Path) -> io::Result<Vec<(String, u64)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(&format!(".{MAIL}")).map(str::to_owned)) else { continue };
        if let Ok(metadata) = entry.metadata() {
            names.push((name, metadata.len()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read_about(dir: &Path, id: String, bytes: u64) -> Option<Kept> {
    let path = dir.join(format!("{id}.{ABOUT}"));
    let size = fs::metadata(&path).ok()?.len();
    let about = (size <= ABOUT_MAX_BYTES).then(|| fs::read(&path).ok()).flatten()?;
    Some(Kept { id, bytes, about: serde_json::from_slice(&about).ok()? })
}

/// Removes the oldest until there is a place and room for one more.
fn make_room(dir: &Path, bytes: u64) -> io::Result<()> {
    let names = names(dir)?;
    let mut total: u64 = names.iter().map(|(_, bytes)| bytes).sum();
    let mut count = names.len();
    for (id, size) in names {
        if count < limits::OUTBOX_MAX && total + bytes <= limits::OUTBOX_MAX_BYTES {
            break;
        }
        // The mail first: without it the other file is nothing.
        for kind in [MAIL, ABOUT] {
            match fs::remove_file(dir.join(format!("{id}.{kind}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        count -= 1;
        total -= size;
    }
    Ok(())
}

/// Writes a file that is there whole or not at all.
fn write_file(dir: &Path, id: &str, kind: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{id}.{kind}.{NEW}"));
    let write = || {
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(format!("{id}.{kind}")))
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}
