//! What is kept of a run on the host: `DATA/app-runs/ID/` with its log and its artifacts.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const FOLDER: &str = "app-runs";

/// The folder of a run. Its id is the server's own, and so is every name in it.
#[derive(Debug, Clone)]
pub(crate) struct RunDir(PathBuf);

impl RunDir {
    pub fn of(data_dir: &Path, run_id: &str) -> Self {
        Self(data_dir.join(FOLDER).join(run_id))
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// How much of each stream is in the log.
    pub fn log_place(&self) -> PathBuf {
        self.0.join("log.at")
    }

    pub fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }

    pub fn artifact(&self, number: u32) -> PathBuf {
        self.artifacts().join(number.to_string())
    }

    /// Makes the folder; nobody else may look into it.
    pub fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// An empty folder for artifacts, whatever was there.
    pub fn make_artifacts(&self) -> io::Result<()> {
        remove(&self.artifacts())?;
        DirBuilder::new().recursive(true).mode(0o700).create(self.artifacts())
    }

    pub fn remove(&self) -> io::Result<()> {
        remove(&self.0)
    }

    /// The runs that have a folder.
    pub fn all(data_dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(data_dir.join(FOLDER)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
