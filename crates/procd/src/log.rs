//! What a process printed: text chunks of up to two streams in the order they were read, the oldest dropped beyond a
//! cap. Readers keep positions of their own and are told how much they missed.
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use sandbar_procd_api::Stream;

use crate::limits::{CHUNK_BYTES_MAX, CHUNK_OVERHEAD_BYTES, STREAM_BYTES_MAX};

/// Slots of a log: stdout (or the terminal) and stderr.
pub const STREAMS: usize = 2;

/// Bytes of output that all logs keep together.
#[derive(Debug, Default)]
pub struct Budget(Cell<usize>);

impl Budget {
    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.0.get()
    }
}

/// A position: absolute bytes of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position([u64; STREAMS]);

impl Position {
    /// Absolute bytes of one stream.
    pub fn of(&self, slot: usize) -> u64 {
        self.0[slot]
    }
}

#[derive(Debug)]
struct Chunk {
    /// Order among the chunks of both streams.
    order: u64,
    /// Absolute position of the first byte in its stream.
    start: u64,
    text: String,
}

impl Chunk {
    fn cost(&self) -> usize {
        self.text.len() + CHUNK_OVERHEAD_BYTES
    }
    fn end(&self) -> u64 {
        self.start + self.text.len() as u64
    }
}

#[derive(Debug, Default)]
struct Lane {
    chunks: VecDeque<Chunk>,
    cost: usize,
    end: u64,
}

impl Lane {
    fn first(&self) -> u64 {
        self.chunks.front().map_or(self.end, |c| c.start)
    }
    /// Index of the chunk that holds the byte at `position`, or of the first one after it.
    fn find(&self, position: u64) -> usize {
        self.chunks.partition_point(|c| c.end() <= position)
    }
}

/// A piece of output.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Text(usize, &'a str),
    /// This many bytes of the stream are gone.
    Lost(usize, u64),
}

/// The output of one process.
#[derive(Debug)]
pub struct Log {
    lanes: [Lane; STREAMS],
    next_order: u64,
    terminal: bool,
    budget: Rc<Budget>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let cost: usize = self.lanes.iter().map(|l| l.cost).sum();
        self.budget.0.set(self.budget.0.get().saturating_sub(cost));
    }
}

/// The line that stands for dropped output.
pub fn marker(bytes: u64) -> String {
    format!("[sandbar: {bytes} bytes of earlier output dropped]\n")
}

impl Log {
    /// An empty log; `terminal` when its one stream is a terminal.
    pub fn new(terminal: bool, budget: Rc<Budget>) -> Self {
        Self { lanes: Default::default(), next_order: 0, terminal, budget }
    }

    /// The public name of a slot.
    pub fn stream(&self, slot: usize) -> Stream {
        match (self.terminal, slot) {
            (true, _) => Stream::Pty,
            (false, 0) => Stream::Stdout,
            (false, _) => Stream::Stderr,
        }
    }

    /// Where the next byte will go.
    pub fn end(&self) -> Position {
        Position([self.lanes[0].end, self.lanes[1].end])
    }

    /// Whether a reader at `at` has seen everything up to `goal`.
    pub fn reached(at: &Position, goal: &Position) -> bool {
        at.0.iter().zip(goal.0).all(|(at, goal)| *at >= goal)
    }

    /// Bytes that a reader at `at` has still to read of one stream, as far as they are kept.
    pub fn behind(&self, at: &Position, slot: usize) -> usize {
        let lane = &self.lanes[slot];
        lane.end.saturating_sub(at.0[slot].max(lane.first())) as usize
    }

    /// Cost of what is kept of one stream.
    pub fn kept(&self, slot: usize) -> usize {
        self.lanes[slot].cost
    }

    /// True when older output is gone.
    pub fn truncated(&self) -> bool {
        self.lanes.iter().any(|l| l.first() > 0)
    }

    /// Adds text and drops what is beyond the cap.
    pub fn push(&mut self, slot: usize, mut text: &str) {
        while !text.is_empty() {
            let newest = self.next_order.wrapping_sub(1);
            let lane = &mut self.lanes[slot];
            let before = lane.cost;
            let room = match lane.chunks.back() {
                Some(last) if last.order == newest => CHUNK_BYTES_MAX.saturating_sub(last.text.len()),
                _ => 0,
            };
            let take = split_at_char(text, if room >= 4 { room } else { CHUNK_BYTES_MAX });
            let (piece, rest) = text.split_at(take);
            match lane.chunks.back_mut() {
                Some(last) if room >= 4 => last.text.push_str(piece),
                _ => {
                    lane.chunks.push_back(Chunk { order: self.next_order, start: lane.end, text: piece.to_owned() });
                    lane.cost += CHUNK_OVERHEAD_BYTES;
                    self.next_order += 1;
                }
            }
            lane.cost += piece.len();
            lane.end += piece.len() as u64;
            self.budget.0.set(self.budget.0.get() + lane.cost - before);
            text = rest;
            self.shrink(slot, STREAM_BYTES_MAX, u64::MAX);
        }
    }

    /// Drops the oldest output of a stream until it costs no more than `limit`, but nothing after `before`.
    pub fn shrink(&mut self, slot: usize, limit: usize, before: u64) {
        let lane = &mut self.lanes[slot];
        while lane.cost > limit && lane.chunks.len() > 1 && lane.chunks.front().is_some_and(|c| c.end() <= before) {
            if let Some(chunk) = lane.chunks.pop_front() {
                lane.cost -= chunk.cost();
                self.budget.0.set(self.budget.0.get().saturating_sub(chunk.cost()));
            }
        }
    }

    /// Forgets all text of a finished process.
    pub fn clear(&mut self) {
        for lane in &mut self.lanes {
            self.budget.0.set(self.budget.0.get().saturating_sub(lane.cost));
            lane.chunks = VecDeque::new();
            lane.cost = 0;
        }
    }

    /// The next piece for a reader, at most `limit` bytes of text; `None` when it has all up to `until`. The reader
    /// goes on by [`Log::advance`].
    pub fn next(&self, at: &Position, until: &Position, limit: usize) -> Option<Piece<'_>> {
        let mut best: Option<(u64, usize, &Chunk)> = None;
        for (slot, lane) in self.lanes.iter().enumerate() {
            if at.0[slot] >= until.0[slot] {
                continue;
            }
            match lane.chunks.get(lane.find(at.0[slot])) {
                Some(chunk) => {
                    if best.is_none_or(|(order, ..)| chunk.order < order) {
                        best = Some((chunk.order, slot, chunk));
                    }
                }
                // Everything up to `until` has been dropped.
                None => return Some(Piece::Lost(slot, until.0[slot] - at.0[slot])),
            }
        }
        let (_, slot, chunk) = best?;
        let here = at.0[slot];
        if chunk.start > here {
            return Some(Piece::Lost(slot, chunk.start.min(until.0[slot]) - here));
        }
        let text = &chunk.text[(here - chunk.start) as usize..];
        let text = &text[..text.len().min((until.0[slot] - here) as usize)];
        Some(Piece::Text(slot, &text[..split_at_char(text, limit)]))
    }

    /// The last text of a stream, at most `limit` bytes of it.
    pub fn tail(&self, slot: usize, limit: usize) -> String {
        let (mut pieces, mut left) = (Vec::new(), limit);
        for chunk in self.lanes[slot].chunks.iter().rev() {
            let mut from = chunk.text.len().saturating_sub(left);
            while !chunk.text.is_char_boundary(from) {
                from += 1;
            }
            pieces.push(&chunk.text[from..]);
            left -= chunk.text.len() - from;
            if from > 0 {
                break;
            }
        }
        pieces.into_iter().rev().collect()
    }

    /// Moves a reader over a piece.
    pub fn advance(at: &mut Position, slot: usize, bytes: u64) {
        at.0[slot] += bytes;
    }

    /// Calls `each` with every piece between two positions; only those of one slot when it is given.
    pub fn replay(&self, from: Position, until: Position, only: Option<usize>, mut each: impl FnMut(&str)) {
        let mut at = from;
        if let Some(only) = only {
            for slot in (0..STREAMS).filter(|s| *s != only) {
                at.0[slot] = until.0[slot];
            }
        }
        while let Some(piece) = self.next(&at, &until, usize::MAX) {
            match piece {
                Piece::Text(slot, text) => {
                    let bytes = text.len() as u64;
                    each(text);
                    Self::advance(&mut at, slot, bytes);
                }
                Piece::Lost(slot, bytes) => {
                    each(&marker(bytes));
                    Self::advance(&mut at, slot, bytes);
                }
            }
        }
    }
}

fn split_at_char(text: &str, limit: usize) -> usize {
    if text.len() <= limit {
        return text.len();
    }
    let mut at = limit;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Turns bytes into text: a character cut by the end of the input waits for its rest, what is no UTF-8 becomes
/// U+FFFD.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Decodes the next bytes.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        let joined;
        let mut rest = if self.held.is_empty() {
            bytes
        } else {
            let mut all = std::mem::take(&mut self.held);
            all.extend_from_slice(bytes);
            joined = all;
            joined.as_slice()
        };
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    if !text.is_empty() {
                        each(text);
                    }
                    return;
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    if let Ok(text) = std::str::from_utf8(good)
                        && !text.is_empty()
                    {
                        each(text);
                    }
                    match e.error_len() {
                        None => {
                            self.held.extend_from_slice(bad);
                            return;
                        }
                        Some(length) => {
                            each("\u{fffd}");
                            rest = &bad[length..];
                        }
                    }
                }
            }
        }
    }

    /// The input has ended: a character that was cut is one replacement.
    pub fn finish(&mut self, mut each: impl FnMut(&str)) {
        if !std::mem::take(&mut self.held).is_empty() {
            each("\u{fffd}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(log: &Log, only: Option<usize>) -> String {
        let mut text = String::new();
        log.replay(Position::default(), log.end(), only, |t| text.push_str(t));
        text
    }

    #[test]
    fn streams_keep_their_common_order() {
        let mut log = Log::new(false, Rc::default());
        for (slot, text) in [(0, "a"), (1, "b"), (0, "c"), (0, "d"), (1, "e")] {
            log.push(slot, text);
        }
        assert_eq!(all(&log, None), "abcde");
        assert_eq!(all(&log, Some(0)), "acd");
        assert_eq!(all(&log, Some(1)), "be");
    }

    #[test]
    fn the_last_text_of_a_stream() {
        let mut log = Log::new(false, Rc::default());
        assert_eq!(log.tail(0, 10), "");
        for (slot, text) in [(0, "aé"), (1, "b"), (0, "cd"), (1, "e")] {
            log.push(slot, text);
        }
        for (limit, wanted) in [(0, ""), (1, "d"), (2, "cd"), (3, "cd"), (4, "écd"), (5, "aécd"), (99, "aécd")] {
            assert_eq!(log.tail(0, limit), wanted, "{limit}");
        }
        assert_eq!(log.tail(1, 9), "be");
    }

    #[test]
    fn the_oldest_goes_and_a_marker_says_so() {
        let budget = Rc::new(Budget::default());
        let mut log = Log::new(false, budget.clone());
        let line = "é".repeat(5_000);
        for _ in 0..1000 {
            log.push(0, &line);
        }
        log.push(1, "end");
        assert!(log.kept(0) <= STREAM_BYTES_MAX && budget.used() == log.kept(0) + log.kept(1));
        let text = all(&log, None);
        let lost = 10_000_000 - log.behind(&Position::default(), 0);
        assert!(text.starts_with(&marker(lost as u64)) && text.ends_with("ééend"), "{}", &text[..80]);
        let end = log.end();
        log.clear();
        assert_eq!(budget.used(), 0);
        assert_eq!(log.end(), end);
        assert_eq!(all(&log, Some(1)), marker(3));
    }

    #[test]
    fn characters_are_never_cut() {
        let bytes = "né\u{1f680}\0x".as_bytes();
        let mut decoder = Decoder::default();
        let mut text = String::new();
        for byte in bytes {
            decoder.push(&[*byte], |t| text.push_str(t));
        }
        decoder.push(b"\xff\xfe\xf0\x9f", |t| text.push_str(t));
        decoder.finish(|t| text.push_str(t));
        assert_eq!(text, "né\u{1f680}\0x\u{fffd}\u{fffd}\u{fffd}");
    }
}
