//! The log files: every line that a process prints, as JSON lines in two segments that the host reads. Losing lines
//! is better than holding up a process: a full disk or a slow one costs lines, nothing else.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use sandbar_procd_api::{LOG_LINE_BYTES_MAX, LOG_SEGMENT_BYTES_MAX, LogLine, Stream};

use crate::io::IoPool;
use crate::limits::LOG_PENDING_BYTES_MAX;

struct Segments {
    files: [File; 2],
    current: usize,
    written: u64,
    /// A write failed midway: the next one begins with a line end.
    torn: bool,
}

/// The writer of both segments.
#[derive(Default)]
pub struct Journal {
    segments: Option<Arc<Mutex<Segments>>>,
    next: Cell<u64>,
    /// Begun lines by context and stream.
    partial: RefCell<HashMap<(String, Stream), String>>,
    pending: RefCell<Vec<u8>>,
    writing: Cell<bool>,
    io: IoPool,
    handle: RefCell<std::rc::Weak<Journal>>,
}

impl Journal {
    /// A journal over two segments; one that writes nothing when they are missing.
    pub fn new(a: Option<OwnedFd>, b: Option<OwnedFd>, io: IoPool) -> Rc<Self> {
        let segments = a.zip(b).map(|(a, b)| {
            let files = [File::from(a), File::from(b)];
            let size = |f: &File| f.metadata().map_or(0, |m| m.len());
            let current = usize::from(size(&files[0]) >= LOG_SEGMENT_BYTES_MAX);
            let written = size(&files[current]);
            Arc::new(Mutex::new(Segments { files, current, written, torn: false }))
        });
        let journal = Rc::new(Self { segments, io, ..Self::default() });
        *journal.handle.borrow_mut() = Rc::downgrade(&journal);
        journal
    }

    /// Adds text; complete lines are written.
    pub fn push(&self, context: &str, stream: Stream, text: &str) {
        if self.segments.is_none() {
            return;
        }
        let mut partial = self.partial.borrow_mut();
        let mut begun = partial.remove(&(context.to_owned(), stream)).unwrap_or_default();
        let mut rest = text;
        loop {
            match rest.split_once('\n') {
                Some((line, after)) => {
                    rest = after;
                    if begun.is_empty() {
                        self.long_line(context, stream, line);
                    } else {
                        begun.push_str(line);
                        self.long_line(context, stream, &begun);
                        begun.clear();
                    }
                }
                None => {
                    begun.push_str(rest);
                    break;
                }
            }
        }
        while begun.len() > LOG_LINE_BYTES_MAX {
            let at = floor_char(&begun, LOG_LINE_BYTES_MAX);
            let after = begun.split_off(at);
            self.line(context, stream, &begun, true);
            begun = after;
        }
        if !begun.is_empty() {
            partial.insert((context.to_owned(), stream), begun);
        }
    }

    /// A stream has ended: its last line is complete without a line end.
    pub fn end_of_stream(&self, context: &str, stream: Stream) {
        let begun = self.partial.borrow_mut().remove(&(context.to_owned(), stream));
        if let Some(line) = begun.filter(|l| !l.is_empty()) {
            self.line(context, stream, &line, false);
        }
    }

    fn long_line(&self, context: &str, stream: Stream, line: &str) {
        let mut rest = line.strip_suffix('\r').unwrap_or(line);
        while rest.len() > LOG_LINE_BYTES_MAX {
            let (piece, after) = rest.split_at(floor_char(rest, LOG_LINE_BYTES_MAX));
            self.line(context, stream, piece, true);
            rest = after;
        }
        self.line(context, stream, rest, false);
    }

    fn line(&self, context: &str, stream: Stream, text: &str, more: bool) {
        let n = self.next.get() + 1;
        self.next.set(n);
        let mut pending = self.pending.borrow_mut();
        if pending.len() + text.len() > LOG_PENDING_BYTES_MAX {
            return;
        }
        let t = crate::agent::now_ms();
        let line = LogLine { n, t, c: context.to_owned(), s: stream, m: text.to_owned(), more };
        if serde_json::to_writer(&mut *pending, &line).is_ok() {
            pending.push(b'\n');
        }
        drop(pending);
        if !self.writing.replace(true)
            && let Some(journal) = self.handle.borrow().upgrade()
        {
            tokio::task::spawn_local(async move { journal.flush().await });
        }
    }

    async fn flush(&self) {
        let Some(segments) = self.segments.clone() else { return };
        loop {
            let batch = self.pending.take();
            if batch.is_empty() {
                break;
            }
            let segments = segments.clone();
            // What cannot be written is lost, and the next batch tries again.
            let _ = self.io.run(move || write(&segments, &batch)).await;
        }
        self.writing.set(false);
    }
}

fn write(segments: &Mutex<Segments>, batch: &[u8]) -> io::Result<()> {
    let mut segments = segments.lock().unwrap_or_else(PoisonError::into_inner);
    for lines in batch.split_inclusive(|b| *b == b'\n').collect::<Vec<_>>().chunks(256) {
        if segments.written >= LOG_SEGMENT_BYTES_MAX {
            let other = 1 - segments.current;
            segments.files[other].set_len(0)?;
            segments.current = other;
            segments.written = 0;
        }
        let mut text = lines.concat();
        if segments.torn {
            text.insert(0, b'\n');
        }
        let current = segments.current;
        segments.torn = true;
        segments.files[current].write_all(&text)?;
        segments.torn = false;
        segments.written += text.len() as u64;
    }
    Ok(())
}

fn floor_char(text: &str, limit: usize) -> usize {
    let mut at = limit.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
