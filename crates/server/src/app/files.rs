//! Files of a sandbox or a volume: each call wakes what sleeps, then is an agent's, who resolves every path inside.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use sandbar_node::{
    Runtime,
    client::{Lines, ProcdError},
    volumes::{Keeper, VOLUME_PATH},
};
use sandbar_procd_api::{FileInfo, Move, WatchLine, Written};

use crate::{
    app::{App, auth::Principal, contexts::unless_frozen},
    error::ApiError,
};

/// Whose files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOwner {
    Sandbox(String),
    Volume(String),
}

/// Where an owner's files are served.
enum Files {
    Sandbox(Arc<Runtime>),
    Volume(Keeper),
}

impl Files {
    fn runtime(&self) -> &Arc<Runtime> {
        match self {
            Self::Sandbox(runtime) => runtime,
            Self::Volume(keeper) => &keeper.runtime,
        }
    }

    /// The path inside. Paths of a volume are below its own top, whatever they say.
    fn inside(&self, path: &str) -> String {
        match self {
            Self::Sandbox(_) => path.to_owned(),
            Self::Volume(_) => below(VOLUME_PATH, path),
        }
    }

    /// A path inside as clients know it.
    fn outside(&self, path: String) -> String {
        match self {
            Self::Sandbox(_) => path,
            Self::Volume(_) => match path.strip_prefix(VOLUME_PATH) {
                Some("") => "/".to_owned(),
                Some(rest) => rest.to_owned(),
                None => path,
            },
        }
    }

    /// A refusal in paths that clients know.
    fn told(&self, error: ApiError) -> ApiError {
        match self {
            Self::Sandbox(_) => error,
            Self::Volume(_) => error.with_message(|message| message.replace(&format!("{VOLUME_PATH}/"), "/")),
        }
    }

    fn known(&self, mut info: FileInfo) -> FileInfo {
        info.path = self.outside(info.path);
        info
    }
}

/// A path below a folder: parts that mean nothing are dropped, and `..` leads no higher than the folder.
fn below(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().fold(folder.to_owned(), |path, part| path + "/" + part)
}

/// What a watch of files tells, in paths that clients know.
pub struct FileWatch {
    files: Files,
    lines: Lines<WatchLine>,
}

impl FileWatch {
    pub async fn next(&mut self) -> Result<Option<WatchLine>, ProcdError> {
        Ok(self.lines.next().await?.map(|line| match line {
            WatchLine::Subscribed { path } => WatchLine::Subscribed { path: self.files.outside(path) },
            WatchLine::Event { event, path, old_path } => {
                WatchLine::Event { event, path: self.files.outside(path), old_path: old_path.map(|path| self.files.outside(path)) }
            }
            error @ WatchLine::Error { .. } => error,
        }))
    }
}

impl App {
    /// Wakes whoever serves these files.
    pub async fn wake_files(&self, who: &Principal, owner: &FileOwner) -> Result<(), ApiError> {
        self.files_of(who, owner).await.map(drop)
    }

    async fn files_of(&self, who: &Principal, owner: &FileOwner) -> Result<Files, ApiError> {
        match owner {
            FileOwner::Sandbox(id) => Ok(Files::Sandbox(self.access(who, id).await?)),
            FileOwner::Volume(id) => Ok(Files::Volume(self.volume_keeper(who, id).await?)),
        }
    }

    /// The bytes of a file, or of the range that is asked for.
    pub async fn read_file(&self, who: &Principal, owner: &FileOwner, path: &str, range: Option<HeaderValue>) -> Result<Response<Body>, ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        let response = unless_frozen(runtime, runtime.client.read_file(&files.inside(path), range)).await.map_err(|error| files.told(error))?;
        // Whoever serves it stays until the last byte.
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &files;
                frame
            }))
        }))
    }

    /// Replaces a file by what `body` gives, which is `length` bytes when that is known.
    pub async fn write_file(
        &self,
        who: &Principal,
        owner: &FileOwner,
        path: &str,
        mode: Option<&str>,
        length: Option<u64>,
        body: Body,
    ) -> Result<Written, ApiError> {
        if let FileOwner::Volume(id) = owner {
            self.check_volume_room(who, id, length.unwrap_or(0)).await?;
        }
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        unless_frozen(runtime, runtime.client.write_file(&files.inside(path), mode, length, body)).await.map_err(|error| files.told(error))
    }

    pub async fn make_folder(&self, who: &Principal, owner: &FileOwner, path: &str, recursive: bool) -> Result<(), ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        unless_frozen(runtime, runtime.client.mkdir(&files.inside(path), recursive)).await.map_err(|error| files.told(error))
    }

    pub async fn remove_file(&self, who: &Principal, owner: &FileOwner, path: &str) -> Result<(), ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        unless_frozen(runtime, runtime.client.remove(&files.inside(path))).await.map_err(|error| files.told(error))
    }

    pub async fn move_file(&self, who: &Principal, owner: &FileOwner, request: &Move) -> Result<(), ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        let request = Move { source: files.inside(&request.source), destination: files.inside(&request.destination) };
        unless_frozen(runtime, runtime.client.move_(&request)).await.map_err(|error| files.told(error))
    }

    pub async fn stat_file(&self, who: &Principal, owner: &FileOwner, path: &str) -> Result<FileInfo, ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        Ok(files.known(unless_frozen(runtime, runtime.client.stat(&files.inside(path))).await.map_err(|error| files.told(error))?))
    }

    pub async fn list_files(&self, who: &Principal, owner: &FileOwner, path: &str) -> Result<Vec<FileInfo>, ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        let entries = unless_frozen(runtime, runtime.client.list(&files.inside(path))).await.map_err(|error| files.told(error))?;
        Ok(entries.into_iter().map(|entry| files.known(entry)).collect())
    }

    pub async fn watch_files(&self, who: &Principal, owner: &FileOwner, path: &str, recursive: bool) -> Result<FileWatch, ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        let lines = unless_frozen(runtime, runtime.client.watch(&files.inside(path), recursive)).await.map_err(|error| files.told(error))?;
        Ok(FileWatch { files, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_a_volume_leads_out_of_it() {
        for (path, inside) in
            [("/a/b", "/volume/a/b"), ("a", "/volume/a"), ("/", "/volume"), ("../../etc", "/volume/etc"), ("/a/../../b//./c", "/volume/b/c"), ("..", "/volume")]
        {
            assert_eq!(below(VOLUME_PATH, path), inside, "{path}");
        }
    }
}
