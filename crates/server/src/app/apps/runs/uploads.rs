//! Files that a run is given: kept beside its row from before it is there until the run has ended, and put into the sandbox before the
//! command begins.

use axum::body::Body;
use bytes::Bytes;
use sandbar_core::{
    app::{
        manifest::Manifest,
        run::{FailureReason, Verdict},
        uploads::{self, Given, RunFile},
    },
    validate::Violation,
};
use sandbar_node::Runtime;
use serde_json::Value;

use super::{
    RunDir,
    command::told,
    execute::{Halt, Runner, Step, has_room},
};
use crate::{
    app::{App, room::full},
    error::ApiError,
};

/// A file as it was sent.
#[derive(Debug, Clone)]
pub(crate) struct WishFile {
    /// The property of the input that it is.
    pub input: String,
    pub filename: String,
    pub content_type: Option<String>,
    /// Lower-case hex.
    pub sha256: String,
    pub bytes: Bytes,
}

/// Where the files of a wish go, and the input with their paths in it.
pub(super) fn place(manifest: &Manifest, input: Option<&Value>, files: &[WishFile]) -> Result<(Option<Value>, Vec<RunFile>), Vec<Violation>> {
    let asked = manifest.inputs.schema.as_ref().map(uploads::uploads).unwrap_or_default();
    if files.is_empty() && asked.is_empty() {
        return Ok((input.cloned(), Vec::new()));
    }
    let given: Vec<_> = files.iter().map(|file| Given { input: &file.input, filename: &file.filename, content_type: file.content_type.as_deref() }).collect();
    let paths = uploads::place(&asked, &manifest.volumes, &given)?;
    let of = |(file, path): (&WishFile, String)| RunFile { input: file.input.clone(), path, size_bytes: file.bytes.len() as u64, sha256: file.sha256.clone() };
    let kept: Vec<RunFile> = files.iter().zip(paths).map(of).collect();
    let mut input = input.cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    uploads::fill(&mut input, &asked, &kept)?;
    Ok((Some(input), kept))
}

impl App {
    /// Keeps the files of a run that is about to be asked for.
    pub(super) async fn keep_run_files(&self, run_id: &str, files: &[WishFile]) -> Result<(), ApiError> {
        if files.is_empty() {
            return Ok(());
        }
        let bytes = files.iter().map(|file| file.bytes.len() as u64).sum();
        if !has_room(&self.config.data_dir, bytes) {
            return Err(full());
        }
        let (dir, files): (RunDir, Vec<Bytes>) = (self.run_dir(run_id), files.iter().map(|file| file.bytes.clone()).collect());
        let kept = tokio::task::spawn_blocking(move || dir.keep_files(&files)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if let Err(error) = kept {
            self.drop_run_files(run_id).await;
            return Err(ApiError::internal("keeping the files of a run", &error));
        }
        Ok(())
    }

    /// Nobody reads them any more.
    pub(super) async fn drop_run_files(&self, run_id: &str) {
        let dir = self.run_dir(run_id);
        let removed = tokio::task::spawn_blocking(move || dir.remove_files()).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if let Err(error) = removed {
            tracing::warn!(run = run_id, %error, "the files that a run was given were not removed; they go with the run");
        }
    }
}

impl Runner {
    /// Puts the run's files where the manifest says, in place of what is there.
    pub(super) async fn write_files(&self, runtime: &Runtime) -> Step<()> {
        for (number, file) in self.run.doc.files.iter().enumerate() {
            let failed = |text: String| Halt::Ends(Verdict::failed(FailureReason::SandboxFailed, text));
            let path = self.dir.file(number);
            let bytes = tokio::fs::read(&path).await.map_err(|error| {
                tracing::error!(run = self.run.id, %error, "a file that a run was given is gone");
                failed(format!("its file {} is gone from the server", file.input))
            })?;
            if let Some((folder, _)) = file.path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
                let made = runtime.client.mkdir(folder, true).await;
                made.map_err(|error| failed(format!("the folder {folder} for its file {} could not be made: {}", file.input, told(&error))))?;
            }
            let length = bytes.len() as u64;
            let written = runtime.client.write_file(&file.path, None, Some(length), Body::from(bytes)).await;
            written.map_err(|error| failed(format!("its file {} could not be written to {}: {}", file.input, file.path, told(&error))))?;
        }
        Ok(())
    }
}
