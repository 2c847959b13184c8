//! The log of a run: what its command printed, both streams in the order in which they were read.
//!
//! Beside it stands how much of each stream is in it. The agent keeps what was printed, so a server that starts anew reads it from its
//! begin and leaves out what is in the log already; what was written and not noted any more is cut off first. So nothing is in it twice.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::Arc,
};

use sandbar_core::{
    limits::app_runs as limits,
    redact::{Redactor, dropped_bytes},
};
use sandbar_procd_api::Stream;

use super::{Live, RunDir};

const CUT_MARK: &str = "\n[sandbar: what follows is not kept: the log of a run has an end]\n";
const PLACE_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// Bytes of the log.
    length: u64,
    /// Bytes that were taken of stdout and of stderr.
    taken: [u64; 2],
    cut: bool,
}

/// The writer of a run's log.
pub(super) struct RunLog {
    log: File,
    place_file: File,
    place: Place,
    /// Where the agent's telling is, since it was asked last.
    told: [u64; 2],
    /// Of each stream: a secret may come in pieces.
    redactors: [Redactor; 2],
    live: Arc<Live>,
}

impl RunLog {
    /// Opens the log, new or as it was left. Blocks for the disk.
    pub fn open(dir: &RunDir, live: Arc<Live>, redactor: Redactor) -> io::Result<Self> {
        dir.make()?;
        let open = |path| OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
        let (mut log, place_file) = (open(dir.log())?, open(dir.log_place())?);
        let mut place = read_place(&place_file)?;
        // After a loss of power the log may be behind its place; then some of it is missing, and nothing is told twice.
        place.length = place.length.min(log.metadata()?.len());
        log.set_len(place.length)?;
        log.seek(SeekFrom::End(0))?;
        live.logged.send_replace(place.length);
        Ok(Self { log, place_file, place, told: [0; 2], redactors: [redactor.clone(), redactor], live })
    }

    /// The agent begins to tell from the first byte.
    pub fn told_anew(&mut self) {
        self.told = [0; 2];
        // What was held back is told again.
        self.redactors = self.redactors.clone().map(|mut redactor| {
            redactor.finish();
            redactor
        });
    }

    pub fn length(&self) -> u64 {
        self.place.length
    }

    pub fn is_cut(&self) -> bool {
        self.place.cut
    }

    /// Adds what the agent told, as far as it is new. Blocks for the disk.
    pub fn add(&mut self, pieces: &[(Stream, String)]) -> io::Result<()> {
        let mut text = String::new();
        for (stream, piece) in pieces {
            let lane = usize::from(*stream == Stream::Stderr);
            let lost = dropped_bytes(piece);
            let bytes = lost.unwrap_or(piece.len() as u64);
            let begin = self.told[lane];
            self.told[lane] = begin.saturating_add(bytes);
            // What of it is in the log already.
            let known = self.place.taken[lane].saturating_sub(begin).min(bytes);
            match lost {
                Some(_) if known < bytes => {
                    text.push_str(&String::from_utf8_lossy(&self.redactors[lane].cut()));
                    text.push_str(&lost_mark(bytes - known));
                }
                Some(_) => {}
                None => {
                    let new = &piece[piece.ceil_char_boundary(known as usize)..];
                    text.push_str(&String::from_utf8_lossy(&self.redactors[lane].push(new.as_bytes())));
                }
            }
            // What is held back is not in the log yet.
            let taken = self.told[lane].saturating_sub(self.redactors[lane].held() as u64);
            self.place.taken[lane] = self.place.taken[lane].max(taken);
        }
        self.write(&text)
    }

    /// Adds what was held back: nothing follows.
    pub fn end(&mut self) -> io::Result<()> {
        let mut text = String::new();
        for (lane, redactor) in self.redactors.iter_mut().enumerate() {
            self.place.taken[lane] += redactor.held() as u64;
            text.push_str(&String::from_utf8_lossy(&redactor.finish()));
        }
        self.write(&text)
    }

    /// Adds a sentence of our own.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.write(text)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let room = limits::RUN_LOG_MAX_BYTES.saturating_sub(self.place.length) as usize;
        if self.place.cut || text.is_empty() {
            return self.note();
        }
        let kept = &text[..text.floor_char_boundary(room)];
        self.log.write_all(kept.as_bytes())?;
        self.place.length += kept.len() as u64;
        if kept.len() < text.len() {
            self.log.write_all(CUT_MARK.as_bytes())?;
            self.place.length += CUT_MARK.len() as u64;
            self.place.cut = true;
        }
        self.note()?;
        self.live.logged.send_replace(self.place.length);
        Ok(())
    }

    fn note(&self) -> io::Result<()> {
        let mut bytes = [0; PLACE_BYTES];
        let values = [self.place.length, self.place.taken[0], self.place.taken[1], u64::from(self.place.cut)];
        for (at, value) in bytes.chunks_exact_mut(8).zip(values) {
            at.copy_from_slice(&value.to_le_bytes());
        }
        self.place_file.write_all_at(&bytes, 0)
    }
}

fn read_place(file: &File) -> io::Result<Place> {
    let mut bytes = [0; PLACE_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Place::default()),
        Err(error) => return Err(error),
    }
    let mut values = bytes.chunks_exact(8).map(|chunk| chunk.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    let mut next = || values.next().unwrap_or_default();
    Ok(Place { length: next(), taken: [next(), next()], cut: next() != 0 })
}

fn lost_mark(bytes: u64) -> String {
    format!("[sandbar: {bytes} bytes of earlier output dropped]\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::apps::{
        log::{self, Piece},
        runs::AppRuns,
    };

    struct Folder(RunDir);

    impl Folder {
        fn new(name: &str) -> Self {
            let dir = RunDir::of(&std::env::temp_dir().join(format!("sandbar-run-log-{}", std::process::id())), name);
            dir.remove().unwrap();
            Self(dir)
        }

        fn open(&self) -> RunLog {
            RunLog::open(&self.0, AppRuns::default().live("x"), Redactor::new([("KEY", "hunter22")])).unwrap()
        }

        fn text(&self) -> String {
            self.read(0, 64 << 20).output
        }

        fn read(&self, since: u64, max: u64) -> Piece {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(log::read(self.0.log(), since, max, true)).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = self.0.remove();
        }
    }

    fn out(text: &str) -> (Stream, String) {
        (Stream::Stdout, text.to_owned())
    }

    fn err(text: &str) -> (Stream, String) {
        (Stream::Stderr, text.to_owned())
    }

    #[test]
    fn what_is_told_again_is_not_in_it_twice() {
        let folder = Folder::new("again");
        let mut log = folder.open();
        log.add(&[out("one "), err("warn "), out("two ")]).unwrap();
        // Another server; the agent cuts its telling elsewhere, and has more by now.
        let mut log = folder.open();
        log.add(&[out("one two"), err("warn wa")]).unwrap();
        log.add(&[err("rn"), out(" three")]).unwrap();
        assert_eq!(folder.text(), "one warn two warnthree");
        log.told_anew();
        log.add(&[out("one two three"), err("warn warn")]).unwrap();
        assert_eq!(folder.text(), "one warn two warnthree");
    }

    #[test]
    fn secrets_stay_out_also_when_they_come_in_pieces_and_a_server_dies_between() {
        let folder = Folder::new("secret");
        folder.open().add(&[out("a hun"), err("hunter"), out("ter22 b hunt")]).unwrap();
        assert_eq!(folder.text(), "a [secret KEY] b ");
        let mut log = folder.open();
        log.add(&[out("a hunter22 b hunt"), err("hunter22"), out("er2")]).unwrap();
        log.end().unwrap();
        assert_eq!(folder.text(), "a [secret KEY] b [secret KEY]hunter2");
        folder.open().add(&[out("a hunter22 b hunter2"), err("hunter22")]).unwrap();
        assert_eq!(folder.text(), "a [secret KEY] b [secret KEY]hunter2", "nothing is there twice");
    }

    #[test]
    fn what_was_written_and_not_noted_is_written_again() {
        let folder = Folder::new("torn");
        folder.open().add(&[out("one ")]).unwrap();
        OpenOptions::new().append(true).open(folder.0.log()).unwrap().write_all(b"two").unwrap();
        folder.open().add(&[out("one two")]).unwrap();
        assert_eq!(folder.text(), "one two");
    }

    #[test]
    fn what_the_agent_lost_is_said_as_far_as_it_is_not_there() {
        let folder = Folder::new("lost");
        folder.open().add(&[out("0123456789")]).unwrap();
        folder.open().add(&[out(&lost_mark(15)), out("rest")]).unwrap();
        assert_eq!(folder.text(), format!("0123456789{}rest", lost_mark(5)));
        folder.open().add(&[out(&lost_mark(15)), out("rest and more")]).unwrap();
        assert_eq!(folder.text(), format!("0123456789{}rest and more", lost_mark(5)));
    }

    #[test]
    fn it_has_an_end_and_is_read_in_whole_characters() {
        let folder = Folder::new("end");
        let mut log = folder.open();
        let line = format!("{}\n", "é".repeat(511));
        for _ in 0..limits::RUN_LOG_MAX_BYTES / line.len() as u64 + 5 {
            log.add(&[out(&line)]).unwrap();
        }
        assert!(log.is_cut());
        let text = folder.text();
        assert!(text.ends_with(CUT_MARK) && text.len() as u64 <= limits::RUN_LOG_MAX_BYTES + CUT_MARK.len() as u64);
        assert_eq!(log.length(), text.len() as u64);
        assert_eq!(folder.read(0, 5), Piece { output: "éé".to_owned(), cursor: 4, completed: false });
        assert_eq!(folder.read(log.length(), 5), Piece { output: String::new(), cursor: log.length(), completed: true });
    }
}
