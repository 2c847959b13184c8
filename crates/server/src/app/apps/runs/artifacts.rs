//! What a run leaves: files below the workspace that its patterns mean, copied to the host with their sums.
//!
//! The agent opens each below the workspace without following a link, so nothing from elsewhere gets in, whatever a process does meanwhile.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::Path,
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use sandbar_core::{
    app::{
        artifact::Pattern,
        manifest::WORKSPACE,
        run::{ArtifactStatus, RunArtifact},
    },
    limits::app_runs as limits,
};
use sandbar_node::{Runtime, client::ProcdError};
use sandbar_procd_api::{ErrorCode, FileType, PROTOCOL_BENEATH};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    RunDir,
    command::told,
    execute::{Runner, has_room},
    usage,
};
use crate::app::sandboxes::now_ms;

/// What an agent says of a folder that there is not.
const HOLD_NOTHING: [ErrorCode; 4] = [ErrorCode::FileNotFound, ErrorCode::DirectoryNotFound, ErrorCode::NotFound, ErrorCode::PathNotDirectory];
/// The room on the disk is looked at each time so much more came.
const LOOK_EVERY_BYTES: u64 = 4 << 20;

impl Runner {
    /// Fetches what the run left and measures what it used, as far as its sandbox runs: it is woken for nothing. Nothing here fails the run.
    pub(super) async fn collect(&mut self) {
        let runtime = match &self.run.sandbox_id {
            Some(id) => self.app.app_runtime_awake(id).await,
            None => Err("it had no sandbox"),
        };
        let patterns = self.run.doc.artifact_paths.clone();
        let begun = Instant::now();
        self.run.doc.known.artifacts = match &runtime {
            Ok(runtime) => {
                let collecting = Collector { runtime, dir: &self.dir, data_dir: &self.app.config.data_dir, found: Vec::new(), bytes: 0 };
                collecting.collect(&patterns).await
            }
            Err(why) => patterns.iter().enumerate().map(|(at, pattern)| failed(at as u32 + 1, pattern, (*why).to_owned())).collect(),
        };
        self.run.doc.known.collecting_ms = u64::try_from(begun.elapsed().as_millis()).ok();
        if let Ok(runtime) = runtime {
            self.run.doc.known.usage = usage::measure(&self.run, &runtime, self.app.app_runs.server_id(), self.resumed).await;
            self.forget_command(&runtime).await;
        }
    }
}

struct Collector<'a> {
    runtime: &'a Runtime,
    dir: &'a RunDir,
    data_dir: &'a Path,
    found: Vec<RunArtifact>,
    /// Of all that was captured.
    bytes: u64,
}

/// Why a file was not captured.
enum Miss {
    NotThere,
    Failed(String),
}

impl Collector<'_> {
    async fn collect(mut self, patterns: &[String]) -> Vec<RunArtifact> {
        if patterns.is_empty() {
            return Vec::new();
        }
        let dir = self.dir.clone();
        let made = tokio::task::spawn_blocking(move || dir.make_artifacts()).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = made {
            return patterns.iter().enumerate().map(|(at, pattern)| failed(at as u32 + 1, pattern, format!("there is no place for it: {error}"))).collect();
        }
        let within = Duration::from_secs(limits::RUN_ARTIFACTS_WITHIN_S);
        if tokio::time::timeout(within, self.all(patterns)).await.is_err() {
            self.fail("**", format!("not all artifacts were fetched within {} s", within.as_secs()));
        }
        self.found
    }

    async fn all(&mut self, patterns: &[String]) {
        let mut parsed = Vec::new();
        for text in patterns {
            match Pattern::parse(text) {
                Ok(pattern) => parsed.push((text, pattern)),
                Err(why) => self.fail(text, why.to_owned()),
            }
        }
        let mut files = BTreeSet::new();
        let open: Vec<&Pattern> = parsed.iter().map(|(_, pattern)| pattern).filter(|pattern| pattern.literal().is_none()).collect();
        let cut = if open.is_empty() { None } else { self.walk(&open, &mut files).await };
        let mut taken = BTreeSet::new();
        for (text, pattern) in &parsed {
            let meant: Vec<String> = match pattern.literal() {
                Some(path) => vec![path],
                None => files.iter().filter(|path| pattern.matches(path)).cloned().collect(),
            };
            if meant.is_empty() {
                self.missing(text);
            }
            for path in meant {
                if self.found.len() >= limits::RUN_ARTIFACTS_MAX {
                    return self.fail(text, format!("a run has at most {} artifacts; what follows was left out", limits::RUN_ARTIFACTS_MAX));
                }
                if taken.insert(path.clone()) {
                    self.take(path).await;
                }
            }
        }
        if let Some(why) = cut {
            self.fail("**", why);
        }
    }

    /// Looks for files that may be meant, folder by folder and into no link. Returns why some may have been left out.
    async fn walk(&mut self, patterns: &[&Pattern], files: &mut BTreeSet<String>) -> Option<String> {
        let mut folders = VecDeque::from([String::new()]);
        let (mut looked, mut entries) = (0, 0);
        while let Some(folder) = folders.pop_front() {
            looked += 1;
            if self.found.len() >= limits::RUN_ARTIFACTS_MAX {
                return Some("too many folders could not be looked into; the rest was left out".to_owned());
            }
            if looked > limits::RUN_ARTIFACT_FOLDERS_MAX {
                return Some(format!("more than {} folders may hold artifacts; the rest was not looked into", limits::RUN_ARTIFACT_FOLDERS_MAX));
            }
            let place = if folder.is_empty() { WORKSPACE.to_owned() } else { format!("{WORKSPACE}/{folder}") };
            let listed = match self.runtime.client.list(&place).await {
                Ok(listed) => listed,
                // One that went meanwhile, or is a link by now, holds nothing.
                Err(error) if HOLD_NOTHING.iter().any(|code| error.is_code(*code)) => continue,
                Err(error) => {
                    let shown = if folder.is_empty() { "." } else { &folder };
                    self.fail(shown, format!("the folder could not be looked into: {}", told(&error)));
                    continue;
                }
            };
            for entry in listed {
                entries += 1;
                if entries > limits::RUN_ARTIFACT_ENTRIES_MAX {
                    return Some(format!("more than {} files were looked at; the rest was left out", limits::RUN_ARTIFACT_ENTRIES_MAX));
                }
                let path = if folder.is_empty() { entry.name.clone() } else { format!("{folder}/{}", entry.name) };
                match entry.kind {
                    FileType::Dir if patterns.iter().any(|pattern| pattern.may_match_in(&path)) => folders.push_back(path),
                    FileType::Dir => {}
                    // Links and what is no file are told of when they would be fetched: as refused.
                    FileType::File | FileType::Symlink | FileType::Other if patterns.iter().any(|pattern| pattern.matches(&path)) => {
                        files.insert(path);
                    }
                    FileType::Symlink if patterns.iter().any(|pattern| pattern.leads_through(&path)) => self.link_to_folder(&path).await,
                    FileType::File | FileType::Symlink | FileType::Other => {}
                }
            }
        }
        None
    }

    /// What was looked for behind a link is not there by that name: it is said so, unless no folder is behind it.
    async fn link_to_folder(&mut self, path: &str) {
        if self.found.len() < limits::RUN_ARTIFACTS_MAX && self.runtime.client.stat(&format!("{WORKSPACE}/{path}/.")).await.is_ok() {
            self.fail(path, "it is a link to a folder, which is not looked into; artifacts are files of the workspace itself".to_owned());
        }
    }

    async fn take(&mut self, path: String) {
        let number = self.next();
        let target = self.dir.artifact(number);
        match self.fetch(&path, &target).await {
            Ok((size_bytes, sha256)) => {
                self.bytes += size_bytes;
                let captured_at_ms = Some(now_ms());
                self.found.push(RunArtifact { number, path, status: ArtifactStatus::Captured, size_bytes, sha256: Some(sha256), error: None, captured_at_ms });
            }
            Err(miss) => {
                // What came of it is of no use.
                let _ = tokio::fs::remove_file(&target).await;
                match miss {
                    Miss::NotThere => self.missing(&path),
                    Miss::Failed(why) => self.fail(&path, why),
                }
            }
        }
    }

    async fn fetch(&self, path: &str, target: &Path) -> Result<(u64, String), Miss> {
        // What is no file is not even opened: who writes into a pipe would take us for its reader. Where something else takes the place of
        // a file after that, opening it waits for nobody.
        let folder = "it is a folder; end the pattern with /** for all that is in it";
        match self.runtime.client.stat(&format!("{WORKSPACE}/{path}")).await.map(|found| found.kind) {
            Ok(FileType::Other) => return Err(Miss::Failed("it is a pipe, a socket or a device; artifacts are files".to_owned())),
            Ok(FileType::Dir) => return Err(Miss::Failed(folder.to_owned())),
            Ok(FileType::File | FileType::Symlink) | Err(_) => {}
        }
        let response = self.open(path).await.map_err(|error| match error {
            error if error.is_code(ErrorCode::FileNotFound) => Miss::NotThere,
            ProcdError::Api { ref body, .. } if body.code == ErrorCode::InvalidRequest || body.code == ErrorCode::PathNotDirectory => {
                Miss::Failed("it is a link, or lies behind one; artifacts are files of the workspace itself".to_owned())
            }
            ProcdError::Api { ref body, .. } if body.code == ErrorCode::PathNotFile => Miss::Failed("it is no file by now".to_owned()),
            error => Miss::Failed(told(&error)),
        })?;
        let unwritten = |error: io::Error| Miss::Failed(format!("it could not be written: {error}"));
        let mut file = tokio::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(target).await.map_err(unwritten)?;
        let mut body = response.into_body();
        let (mut hash, mut size, mut looked) = (Sha256::new(), 0_u64, 0_u64);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Miss::Failed(format!("it broke off: {error}")))?;
            let Ok(bytes) = frame.into_data() else { continue };
            size += bytes.len() as u64;
            if size > limits::RUN_ARTIFACT_MAX_BYTES {
                return Err(Miss::Failed(format!("it has more than {} bytes, which is the limit of one artifact", limits::RUN_ARTIFACT_MAX_BYTES)));
            }
            if self.bytes + size > limits::RUN_ARTIFACTS_MAX_BYTES {
                return Err(Miss::Failed(format!("all artifacts of a run may have {} bytes together", limits::RUN_ARTIFACTS_MAX_BYTES)));
            }
            if size >= looked {
                looked = size + LOOK_EVERY_BYTES;
                if !has_room(self.data_dir, LOOK_EVERY_BYTES) {
                    return Err(Miss::Failed("the server's disk is full".to_owned()));
                }
            }
            hash.update(&bytes);
            file.write_all(&bytes).await.map_err(unwritten)?;
        }
        file.flush().await.map_err(unwritten)?;
        // A receipt will name it.
        file.sync_all().await.map_err(unwritten)?;
        Ok((size, hex::encode(hash.finalize())))
    }

    async fn open(&self, path: &str) -> Result<http::Response<sandbar_node::client::AgentBody>, ProcdError> {
        let client = &self.runtime.client;
        if client.protocol().await? >= PROTOCOL_BENEATH {
            return client.read_beneath(WORKSPACE, path).await;
        }
        // An agent of before: each part is looked at first. Who exchanges one between is in that sandbox as it is, and gets no further.
        let mut place = WORKSPACE.to_owned();
        for part in path.split('/') {
            place = format!("{place}/{part}");
            if client.stat(&place).await?.is_link {
                let message = format!("{place} is a link");
                return Err(ProcdError::Api { status: 400, body: sandbar_procd_api::ErrorBody { code: ErrorCode::InvalidRequest, message } });
            }
        }
        client.read_file(&place, None).await
    }

    fn next(&self) -> u32 {
        self.found.len() as u32 + 1
    }

    fn missing(&mut self, path: &str) {
        let number = self.next();
        let status = ArtifactStatus::Missing;
        self.found.push(RunArtifact { number, path: path.to_owned(), status, size_bytes: 0, sha256: None, error: None, captured_at_ms: None });
    }

    fn fail(&mut self, path: &str, why: String) {
        let number = self.next();
        self.found.push(failed(number, path, why));
    }
}

fn failed(number: u32, path: &str, why: String) -> RunArtifact {
    RunArtifact { number, path: path.to_owned(), status: ArtifactStatus::Failed, size_bytes: 0, sha256: None, error: Some(why), captured_at_ms: None }
}
