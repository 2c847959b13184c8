//! Logs on the host's disk that are read by a cursor of bytes: whoever was away goes on where it was.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
};

use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use crate::error::ApiError;

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub output: String,
    /// Where to go on.
    pub cursor: u64,
    /// Nothing follows any more.
    pub completed: bool,
}

/// A log that is being written, with a bound.
pub(crate) struct Log {
    file: Option<File>,
    left_bytes: u64,
    lost_bytes: u64,
}

impl Log {
    /// Begins a log anew.
    pub async fn create(path: &Path, bytes_max: u64) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.create(true).write(true).truncate(true).mode(0o600).open(path).await?;
        Ok(Self { file: Some(file), left_bytes: bytes_max, lost_bytes: 0 })
    }

    /// Writes what fits. A disk that takes no more costs the log and nothing else.
    pub async fn write(&mut self, bytes: &[u8]) {
        let fits = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(bytes.len());
        self.left_bytes -= fits as u64;
        self.lost_bytes += (bytes.len() - fits) as u64;
        self.put(&bytes[..fits]).await;
    }

    /// A line of our own, in a line of its own.
    pub async fn line(&mut self, text: &str) {
        self.write(format!("{text}\n").as_bytes()).await;
    }

    /// Says how much was left out, if something was, and `text`, for which there is room in any case.
    pub async fn end(mut self, text: &str) {
        if self.lost_bytes > 0 {
            self.put(format!("\n==> {} bytes more were printed; the log has no room for them\n", self.lost_bytes).as_bytes()).await;
        }
        self.put(format!("{text}\n").as_bytes()).await;
        if let Some(mut file) = self.file.take() {
            let _ = file.flush().await;
        }
    }

    async fn put(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let written = async {
            file.write_all(bytes).await?;
            file.flush().await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "a log cannot be written any more");
            self.file = None;
        }
    }
}

/// Reads a log from a byte on; `finished` says that nobody writes to it any more. A log that is gone is empty.
pub(crate) async fn read(path: PathBuf, since: u64, bytes_max: u64, finished: bool) -> Result<Piece, ApiError> {
    let empty = |at: u64| Piece { output: String::new(), cursor: at, completed: finished };
    let mut file = match File::open(&path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(empty(since)),
        Err(error) => return Err(ApiError::internal("opening the log", &error)),
    };
    let failed = |error: std::io::Error| ApiError::internal("reading the log", &error);
    let length = file.metadata().await.map_err(failed)?.len();
    if since >= length {
        return Ok(empty(length));
    }
    file.seek(SeekFrom::Start(since)).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).await.map_err(failed)?;
    let read_all = since + bytes.len() as u64 >= length;
    if !(read_all && finished) {
        bytes.truncate(whole_characters(&bytes));
    }
    Ok(Piece { output: String::from_utf8_lossy(&bytes).into_owned(), cursor: since + bytes.len() as u64, completed: finished && read_all })
}

/// How many bytes come before a character that only begins.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        // In the middle there is what is no text at all; then only the end matters.
        Err(_) => {
            let begun = bytes.iter().rev().take(3).position(|byte| *byte >= 0xc0);
            begun.map_or(bytes.len(), |back| {
                let at = bytes.len() - 1 - back;
                let whole = at == 0 || std::str::from_utf8(&bytes[at..]).map_or_else(|error| error.error_len().is_some(), |_| true);
                if whole { bytes.len() } else { at }
            })
        }
        Ok(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        for (bytes, whole) in [
            (&b"abc"[..], 3),
            ("aé".as_bytes(), 3),
            (&"aé".as_bytes()[..2], 1),
            (&"a€".as_bytes()[..3], 1),
            (&b"\xff\xfe"[..], 2),
            (&b"\xffab"[..], 3),
            (&b"\xffab\xe2\x82"[..], 3),
            (&b"\xc3"[..], 1),
            (&b""[..], 0),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_log_is_read_from_where_one_was_and_bounded() {
        let path = std::env::temp_dir().join(format!("sandbar-log-{}", std::process::id())).join("a.log");
        let piece = |output: &str, cursor, completed| Piece { output: output.to_owned(), cursor, completed };
        assert_eq!(read(path.clone(), 0, 100, true).await.expect("none"), piece("", 0, true));
        let mut log = Log::create(&path, 8).await.expect("makes");
        log.write("one\n".as_bytes()).await;
        assert_eq!(read(path.clone(), 0, 100, false).await.expect("reads"), piece("one\n", 4, false));
        assert_eq!(read(path.clone(), 4, 100, false).await.expect("reads"), piece("", 4, false));
        log.write(b"twothree").await;
        log.end("done").await;
        let rest = read(path.clone(), 4, 100, true).await.expect("reads");
        assert!(rest.completed && rest.output.starts_with("twot\n==> 4 bytes more") && rest.output.ends_with("done\n"), "{rest:?}");
        assert_eq!(read(path.clone(), 0, 2, true).await.expect("reads"), piece("on", 2, false));
        let _ = std::fs::remove_dir_all(path.parent().expect("a folder"));
    }
}
