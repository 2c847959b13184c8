//! Files of a sandbox or a volume: each call wakes what sleeps, then is an agent's, who resolves every path inside.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use sandbar_node::{
    Runtime,
    client::{Lines, ProcdError},
    volumes::Keeper,
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

    /// The path inside. Paths of a volume begin at its own top, which is the root of its keeper.
    fn inside(&self, path: &str) -> String {
        match self {
            Self::Sandbox(_) => path.to_owned(),
            Self::Volume(_) => from_top(path),
        }
    }
}

/// A path from the top: parts that mean nothing are dropped, and `..` leads no higher.
fn from_top(path: &str) -> String {
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
    format!("/{}", parts.join("/"))
}

/// What a watch of files tells.
pub struct FileWatch {
    /// Whoever serves them stays.
    _files: Files,
    lines: Lines<WatchLine>,
}

impl FileWatch {
    pub async fn next(&mut self) -> Result<Option<WatchLine>, ProcdError> {
        self.lines.next().await
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
        let response = unless_frozen(runtime, runtime.client.read_file(&files.inside(path), range)).await?;
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
        unless_frozen(runtime, runtime.client.write_file(&files.inside(path), mode, length, body)).await
    }

    pub async fn make_folder(&self, who: &Principal, owner: &FileOwner, path: &str, recursive: bool) -> Result<(), ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        unless_frozen(runtime, runtime.client.mkdir(&files.inside(path), recursive)).await
    }

    pub async fn remove_file(&self, who: &Principal, owner: &FileOwner, path: &str) -> Result<(), ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        unless_frozen(runtime, runtime.client.remove(&files.inside(path))).await
    }

    pub async fn move_file(&self, who: &Principal, owner: &FileOwner, request: &Move) -> Result<(), ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        let request = Move { source: files.inside(&request.source), destination: files.inside(&request.destination) };
        unless_frozen(runtime, runtime.client.move_(&request)).await
    }

    pub async fn stat_file(&self, who: &Principal, owner: &FileOwner, path: &str) -> Result<FileInfo, ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        unless_frozen(runtime, runtime.client.stat(&files.inside(path))).await
    }

    pub async fn list_files(&self, who: &Principal, owner: &FileOwner, path: &str) -> Result<Vec<FileInfo>, ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        unless_frozen(runtime, runtime.client.list(&files.inside(path))).await
    }

    pub async fn watch_files(&self, who: &Principal, owner: &FileOwner, path: &str, recursive: bool) -> Result<FileWatch, ApiError> {
        let files = self.files_of(who, owner).await?;
        let runtime = files.runtime();
        let lines = unless_frozen(runtime, runtime.client.watch(&files.inside(path), recursive)).await?;
        Ok(FileWatch { _files: files, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_a_volume_leads_out_of_it() {
        for (path, inside) in [("/a/b", "/a/b"), ("a", "/a"), ("/", "/"), ("../../etc", "/etc"), ("/a/../../b//./c", "/b/c"), ("..", "/")] {
            assert_eq!(from_top(path), inside, "{path}");
        }
    }
}
