//! Files of a sandbox: each call wakes it when it sleeps, then is the agent's, who resolves every path inside.

use axum::body::Body;
use http::{HeaderValue, Response};
use sandbar_node::client::{AgentBody, Lines};
use sandbar_procd_api::{FileInfo, Move, WatchLine, Written};

use crate::{
    app::{App, auth::Principal, contexts::unless_frozen},
    error::ApiError,
};

impl App {
    /// The bytes of a file, or of the range that is asked for.
    pub async fn read_file(&self, who: &Principal, sandbox: &str, path: &str, range: Option<HeaderValue>) -> Result<Response<AgentBody>, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.read_file(path, range)).await
    }

    /// Replaces a file by what `body` gives, which is `length` bytes when that is known.
    pub async fn write_file(
        &self,
        who: &Principal,
        sandbox: &str,
        path: &str,
        mode: Option<&str>,
        length: Option<u64>,
        body: Body,
    ) -> Result<Written, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.write_file(path, mode, length, body)).await
    }

    pub async fn make_folder(&self, who: &Principal, sandbox: &str, path: &str, recursive: bool) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.mkdir(path, recursive)).await
    }

    pub async fn remove_file(&self, who: &Principal, sandbox: &str, path: &str) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.remove(path)).await
    }

    pub async fn move_file(&self, who: &Principal, sandbox: &str, request: &Move) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.move_(request)).await
    }

    pub async fn stat_file(&self, who: &Principal, sandbox: &str, path: &str) -> Result<FileInfo, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.stat(path)).await
    }

    pub async fn list_files(&self, who: &Principal, sandbox: &str, path: &str) -> Result<Vec<FileInfo>, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.list(path)).await
    }

    pub async fn watch_files(&self, who: &Principal, sandbox: &str, path: &str, recursive: bool) -> Result<Lines<WatchLine>, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.watch(path, recursive)).await
    }
}
