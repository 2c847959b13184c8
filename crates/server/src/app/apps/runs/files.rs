//! What is kept of a run on the host: `DATA/app-runs/ID/` with what it was given, its log and its artifacts.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

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

    fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// One of those that the run was given.
    pub fn file(&self, number: usize) -> PathBuf {
        self.files().join(number.to_string())
    }

    /// Keeps what a run is given, on disk before anything says that it is there.
    pub fn keep_files(&self, files: &[Bytes]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.files())?;
        for (number, bytes) in files.iter().enumerate() {
            let mut file = fs::File::create_new(self.file(number))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        fs::File::open(self.files())?.sync_all()
    }

    /// Takes them away; the folder, too, where nothing else is in it.
    pub fn remove_files(&self) -> io::Result<()> {
        remove(&self.files())?;
        match fs::remove_dir(&self.0) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(error),
            _ => Ok(()),
        }
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
