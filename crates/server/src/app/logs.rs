//! What the processes of a sandbox printed, read from the segments that its agent writes. The agent is not asked, so a
//! paused sandbox is not woken; and it is not trusted, so lines that make no sense are passed over.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::SystemTime,
};

use sandbar_core::limits;
use sandbar_procd_api::{LOG_SEGMENT_BYTES_MAX, LogLine};
use tokio::sync::Semaphore;

use crate::{
    app::{App, auth::Principal},
    error::ApiError,
};

/// Bytes of a segment that are read; the agent is to stay below, and one that does not loses the rest.
const SEGMENT_READ_MAX: u64 = LOG_SEGMENT_BYTES_MAX + (1 << 20);
/// Bytes of a followed line that has no end yet; a longer one is dropped.
const LINE_BYTES_MAX: usize = 256 << 10;

static READS: Semaphore = Semaphore::const_new(limits::LOG_READS_MAX);

/// Whose log, and the runtimes that have one.
#[derive(Debug, Clone)]
pub struct Logs {
    pub sandbox_id: String,
    pub team_id: String,
    /// The present runtime, or of a sandbox that sleeps the last one.
    pub current: Option<String>,
    /// The runtime before. While nothing runs that is the last one, too.
    pub previous: Option<String>,
}

impl App {
    /// Which logs a sandbox has.
    pub async fn logs(&self, who: &Principal, id: &str) -> Result<Logs, ApiError> {
        let record = self.get(who, id).await?;
        Ok(Logs {
            current: record.runtime_id.or_else(|| record.previous_runtime_id.clone()),
            previous: record.previous_runtime_id,
            sandbox_id: record.id,
            team_id: record.team_id,
        })
    }

    /// All lines of a runtime's log that are still there, oldest first. A runtime without a log has none.
    pub async fn read_log(&self, runtime_id: &str) -> Result<Vec<LogLine>, ApiError> {
        let dir = self.node.log_dir(runtime_id);
        let _permit = READS.acquire().await.map_err(|error| ApiError::internal("reading the log", &error))?;
        tokio::task::spawn_blocking(move || read_all(&dir))
            .await
            .map_err(|error| ApiError::internal("reading the log", &error))?
            .map_err(|error| ApiError::internal("reading the log", &error))
    }

    /// How long both files of a runtime's log are and when they were written to last, as far as they are there.
    pub(crate) async fn log_files(&self, runtime_id: &str) -> [Option<(u64, SystemTime)>; 2] {
        let mut files = [None, None];
        for (path, file) in segment_paths(&self.node.log_dir(runtime_id)).into_iter().zip(&mut files) {
            *file = tokio::fs::metadata(path).await.ok().and_then(|found| Some((found.len(), found.modified().ok()?)));
        }
        files
    }

    /// Follows a runtime's log from its beginning.
    pub fn follow_log(&self, runtime_id: Option<&str>) -> Follower {
        Follower::new(runtime_id.map(|id| self.node.log_dir(id)))
    }
}

/// Reads a growing log, piece by piece. Nothing tells it that more came; it is asked now and then.
pub struct Follower {
    segments: Vec<Segment>,
    /// Lines up to here were given.
    last: Option<u64>,
}

struct Segment {
    path: PathBuf,
    offset: u64,
    /// A line whose end has not been read yet.
    partial: Vec<u8>,
}

impl Follower {
    fn new(dir: Option<PathBuf>) -> Self {
        let segments = dir.iter().flat_map(|dir| segment_paths(dir)).map(|path| Segment { path, offset: 0, partial: Vec::new() }).collect();
        Self { segments, last: None }
    }

    /// What came since the last look, oldest first. Gives itself back.
    pub async fn look(mut self) -> Result<(Self, Vec<LogLine>), ApiError> {
        let failure = |error: &dyn std::fmt::Display| ApiError::internal("reading the log", error);
        let _permit = READS.acquire().await.map_err(|error| failure(&error))?;
        let looked = tokio::task::spawn_blocking(move || self.read_more().map(|lines| (self, lines))).await;
        looked.map_err(|error| failure(&error))?.map_err(|error| failure(&error))
    }

    fn read_more(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for segment in &mut self.segments {
            segment.read_more(&mut lines)?;
        }
        lines.sort_by_key(|line| line.n);
        // A segment that was emptied and filled again is read from its beginning; what was given is not given again.
        lines.retain(|line| self.last.is_none_or(|last| line.n > last));
        lines.dedup_by_key(|line| line.n);
        self.last = lines.last().map(|line| line.n).or(self.last);
        Ok(lines)
    }
}

impl Segment {
    fn read_more(&mut self, lines: &mut Vec<LogLine>) -> io::Result<()> {
        let Some(mut file) = open(&self.path)? else { return Ok(()) };
        let length = file.metadata()?.len();
        if length < self.offset {
            self.offset = 0;
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.take(SEGMENT_READ_MAX).read_to_end(&mut self.partial)?;
        self.offset += read as u64;
        let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') else {
            if self.partial.len() > LINE_BYTES_MAX {
                self.partial.clear();
            }
            return Ok(());
        };
        parse(&self.partial[..end], lines);
        self.partial.drain(..=end);
        Ok(())
    }
}

fn read_all(dir: &Path) -> io::Result<Vec<LogLine>> {
    let mut lines = Vec::new();
    for path in segment_paths(dir) {
        let Some(file) = open(&path)? else { continue };
        let mut bytes = Vec::new();
        file.take(SEGMENT_READ_MAX).read_to_end(&mut bytes)?;
        parse(&bytes, &mut lines);
    }
    lines.sort_by_key(|line| line.n);
    lines.dedup_by_key(|line| line.n);
    Ok(lines)
}

fn segment_paths(dir: &Path) -> [PathBuf; 2] {
    [dir.join("log.a"), dir.join("log.b")]
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8], lines: &mut Vec<LogLine>) {
    let records = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.extend(records.filter_map(|line| serde_json::from_slice::<LogLine>(line).ok()));
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sandbar_procd_api::Stream;

    use super::*;

    fn line(n: u64) -> String {
        let line = LogLine { n, t: 1000 + n, c: "ctx-1".into(), s: Stream::Stdout, m: format!("row{n}"), more: false };
        serde_json::to_string(&line).expect("json") + "\n"
    }

    fn numbers(lines: &[LogLine]) -> Vec<u64> {
        lines.iter().map(|line| line.n).collect()
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sandbar-logs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        dir
    }

    #[test]
    fn segments_are_merged_by_number_and_garbage_is_passed_over() {
        let dir = folder("merge");
        std::fs::write(dir.join("log.a"), format!("{}garbage\n{{\"n\":1}}\n{}\u{0}\n{}", line(3), line(4), &line(9)[..10])).expect("write");
        std::fs::write(dir.join("log.b"), format!("{}{}{}", line(1), line(2), line(3))).expect("write");
        assert_eq!(numbers(&read_all(&dir).expect("read")), [1, 2, 3, 4]);
        std::fs::remove_file(dir.join("log.a")).expect("remove");
        assert_eq!(numbers(&read_all(&dir).expect("read")), [1, 2, 3]);
        std::fs::remove_dir_all(&dir).expect("clean");
        assert!(read_all(&dir).expect("absent").is_empty());
    }

    #[test]
    fn a_follower_gives_each_line_once_though_segments_are_emptied() {
        let dir = folder("follow");
        let mut follower = Follower::new(Some(dir.clone()));
        assert!(follower.read_more().expect("no files yet").is_empty());
        let append = |name: &str, text: &str| {
            std::fs::File::options().append(true).create(true).open(dir.join(name)).expect("open").write_all(text.as_bytes()).expect("write");
        };
        append("log.a", &format!("{}{}", line(1), &line(2)[..5]));
        assert_eq!(numbers(&follower.read_more().expect("read")), [1]);
        append("log.a", &line(2)[5..]);
        append("log.b", &line(3));
        assert_eq!(numbers(&follower.read_more().expect("read")), [2, 3]);
        std::fs::write(dir.join("log.a"), line(4)).expect("empty and begin anew");
        assert_eq!(numbers(&follower.read_more().expect("read")), [4]);
        assert!(follower.read_more().expect("nothing new").is_empty());
        std::fs::remove_dir_all(&dir).expect("clean");
    }
}
