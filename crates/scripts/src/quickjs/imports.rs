//! What the guest can ask of this process: the functions that `shim.c` imports, and the few of WASI that its C library wants.
//!
//! Everything that comes in is the script's and is measured before it is copied. A guest that speaks of memory that it has not
//! is broken and gets a trap.

use ring::digest;
use serde_json::value::RawValue;
use url::{Url, quirks};
use wasmtime::{Caller, Linker, Memory};

use super::{
    clock::GuestClock,
    limits::{Budget, MemoryCap},
    random::Stream,
};
use crate::{
    Level, LogLine, Op,
    call::{LOG_CUT, SLEEPS_MAX, SLEEPS_PENDING_MAX},
    frame::Asked,
    json::{self, JsonFault},
};

/// Of the arguments of all ops of one step: as large as an answer to a call may be, and a bit.
const ARGS_BYTES_MAX: usize = 8 << 20;
/// Of a description of an error.
const DESCRIPTION_BYTES_MAX: usize = 256 << 10;
/// Of a URL; there are no longer ones in practice, and taking one apart cannot be interrupted.
const URL_BYTES_MAX: usize = 64 << 10;
/// The last line of a log.
const LOG_FULL: &str = "[the log is full: further lines are left out]";
/// Of what is hashed at a time; between, time is looked at.
const DIGEST_BYTES: usize = 1 << 20;

/// One call, as far as the host's side of the guest has to know it.
pub(super) struct State {
    pub(super) memory: Option<Memory>,
    pub(super) budget: Budget,
    pub(super) cap: MemoryCap,
    pub(super) clock: GuestClock,
    pub(super) random: Stream,
    pub(super) logs: Logs,
    pub(super) ops: Ops,
    pub(super) output_bytes: usize,
    pub(super) ending: Option<Ending>,
    /// The script is through, and its result is being written as JSON.
    pub(super) is_writing: bool,
    /// What a URL came to, until the guest has made room for it.
    answer: String,
}

/// How the guest says that a run ended.
pub(super) enum Ending {
    Value(Box<RawValue>),
    Nothing,
    Unfit(JsonFault),
    TooLarge(usize),
    Thrown(String),
    Unserializable(String),
    /// The stack at that moment.
    Interrupted(String),
    Deadlock,
}

/// What the script asks for, until it is fetched.
pub(super) struct Ops {
    pub(super) asked: Vec<Asked>,
    /// Numbers of those that wait for an answer.
    waiting: Vec<u32>,
    pending_max: usize,
    /// Left to ask for.
    left: usize,
    /// The same of timers.
    sleeping: Vec<u32>,
    sleeps_left: usize,
    last: u32,
}

/// What the script logs, until it is fetched. Bounded over the whole run.
pub(super) struct Logs {
    pub(super) lines: Vec<LogLine>,
    lines_left: usize,
    bytes_left: usize,
    closed: bool,
}

impl State {
    pub(super) fn new(budget: Budget, cap: MemoryCap, clock: GuestClock, random: Stream, logs: Logs, ops: Ops, output_bytes: usize) -> Self {
        Self { memory: None, budget, cap, clock, random, logs, ops, output_bytes, ending: None, is_writing: false, answer: String::new() }
    }

    /// For the start of the guest, before there is any script: nothing that it reads now is of the real world.
    pub(super) fn for_image() -> Self {
        let forever = std::time::Duration::MAX;
        let budget = Budget::new(forever, forever, std::sync::Arc::default());
        let clock = GuestClock::new(Some(crate::call::Clock::default()));
        Self::new(budget, MemoryCap::new(usize::MAX), clock, Stream::new(&[]), Logs::new(0, 0), Ops::new(0, 0), 0)
    }
}

impl Ops {
    pub(super) fn new(pending_max: usize, most: usize) -> Self {
        Self { asked: Vec::new(), waiting: Vec::new(), pending_max, left: most, sleeping: Vec::new(), sleeps_left: SLEEPS_MAX, last: 0 }
    }

    /// Whether it waits for this answer; not any more now.
    pub(super) fn answered(&mut self, seq: u32) -> bool {
        [&mut self.waiting, &mut self.sleeping].into_iter().any(|waiting| {
            let at = waiting.iter().position(|waits| *waits == seq);
            at.map(|at| waiting.swap_remove(at)).is_some()
        })
    }

    /// A number, or why there is none (see `shim.c`).
    fn ask(&mut self, op: &[u8], args: &[u8]) -> i32 {
        const TOO_MANY_WAIT: i32 = -1;
        const TOO_MANY: i32 = -2;
        const UNKNOWN: i32 = -3;
        const BAD_ARGS: i32 = -4;
        let Some(op) = std::str::from_utf8(op).ok().and_then(Op::named) else { return UNKNOWN };
        let (waiting, pending_max, left) = match op {
            Op::Sleep => (&mut self.sleeping, SLEEPS_PENDING_MAX, &mut self.sleeps_left),
            _ => (&mut self.waiting, self.pending_max, &mut self.left),
        };
        if *left == 0 {
            return TOO_MANY;
        }
        if waiting.len() >= pending_max {
            return TOO_MANY_WAIT;
        }
        let before: usize = self.asked.iter().map(|asked| asked.args.get().len()).sum();
        if before + args.len() > ARGS_BYTES_MAX {
            return BAD_ARGS;
        }
        let Ok(args) = json::accept(args) else { return BAD_ARGS };
        *left -= 1;
        self.last += 1;
        waiting.push(self.last);
        self.asked.push(Asked { seq: self.last, op, args });
        self.last as i32
    }
}

impl Logs {
    pub(super) fn new(lines: usize, bytes: usize) -> Self {
        Self { lines: Vec::new(), lines_left: lines, bytes_left: bytes, closed: false }
    }

    /// Whether more lines are taken. The first one that does not fit is cut off, or is replaced by a line that says so, and is the last.
    fn push(&mut self, level: u32, at_ms: i64, text: &[u8]) -> bool {
        if self.closed {
            return false;
        }
        if self.lines_left == 0 || self.bytes_left == 0 {
            self.closed = true;
            self.lines.push(LogLine { level: Level::Warn, at_ms, text: LOG_FULL.into() });
            return false;
        }
        let level = match level {
            0 => Level::Debug,
            2 => Level::Info,
            3 => Level::Warn,
            4 => Level::Error,
            _ => Level::Log,
        };
        // Of a line that is too long there is as much as there is room for.
        let room = self.bytes_left;
        self.lines_left -= 1;
        self.bytes_left = room.saturating_sub(text.len());
        let mut line = String::from_utf8_lossy(&text[..text.len().min(room)]).into_owned();
        self.closed = text.len() > room;
        if self.closed {
            line.truncate(line.trim_end_matches('\u{fffd}').len());
            line.push_str(LOG_CUT);
        }
        self.lines.push(LogLine { level, at_ms, text: line });
        !self.closed
    }
}

type Guest<'a> = Caller<'a, State>;

pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("sandbar", "ask", |mut guest: Guest<'_>, op: u32, op_length: u32, args: u32, args_length: u32| {
        let (memory, state) = inside(&mut guest)?;
        Ok(state.ops.ask(part(memory, op, op_length)?, part(memory, args, args_length)?))
    })?;
    linker.func_wrap("sandbar", "log", |mut guest: Guest<'_>, level: u32, text: u32, length: u32| {
        let (memory, state) = inside(&mut guest)?;
        let at_ms = state.clock.stamp();
        Ok(u32::from(state.logs.push(level, at_ms, part(memory, text, length)?)))
    })?;
    linker.func_wrap("sandbar", "done", |mut guest: Guest<'_>, how: u32, text: u32, length: u32| {
        let (memory, state) = inside(&mut guest)?;
        if how == WRITING {
            state.is_writing = true;
            return Ok(());
        }
        state.ending = Some(ending(how, part(memory, text, length)?, state.output_bytes)?);
        Ok(())
    })?;
    linker.func_wrap("sandbar", "interrupt", |guest: Guest<'_>| u32::from(guest.data().budget.stopping().is_some()))?;
    linker.func_wrap("sandbar", "now", |mut guest: Guest<'_>| guest.data_mut().clock.read() as f64)?;
    linker.func_wrap("sandbar", "random", |mut guest: Guest<'_>, bytes: u32, length: u32| {
        let (memory, state) = inside(&mut guest)?;
        state.random.fill(part_mut(memory, bytes, length)?);
        Ok(())
    })?;
    linker.func_wrap("sandbar", "digest", |mut guest: Guest<'_>, algorithm: u32, bytes: u32, length: u32, out: u32| {
        let (memory, state) = inside(&mut guest)?;
        let algorithm = match algorithm {
            0 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            1 => &digest::SHA256,
            2 => &digest::SHA384,
            _ => &digest::SHA512,
        };
        let mut digest = digest::Context::new(algorithm);
        for bytes in part(memory, bytes, length)?.chunks(DIGEST_BYTES) {
            // Nothing interrupts what is not the guest's own code.
            if state.budget.look().is_some() {
                return Err(wasmtime::Error::msg("the call has to stop"));
            }
            digest.update(bytes);
        }
        let sum = digest.finish();
        let sum = sum.as_ref();
        part_mut(memory, out, sum.len() as u32)?.copy_from_slice(sum);
        Ok(sum.len() as u32)
    })?;
    linker.func_wrap("sandbar", "url", |mut guest: Guest<'_>, which: u32, url: u32, url_length: u32, text: u32, length: u32| {
        let (memory, state) = inside(&mut guest)?;
        let url = part(memory, url, url_length)?;
        let text = if text == 0 { None } else { Some(part(memory, text, length)?) };
        if url.len() + text.map_or(0, <[u8]>::len) > URL_BYTES_MAX {
            return Ok(-1);
        }
        let url = String::from_utf8_lossy(url);
        let text = text.map(String::from_utf8_lossy);
        Ok(match url_parts(which, &url, text.as_deref()) {
            None => -1,
            Some(parts) => {
                state.answer = parts;
                state.answer.len() as i32
            }
        })
    })?;
    linker.func_wrap("sandbar", "answer", |mut guest: Guest<'_>, out: u32| {
        let (memory, state) = inside(&mut guest)?;
        let answer = std::mem::take(&mut state.answer);
        part_mut(memory, out, answer.len() as u32)?.copy_from_slice(answer.as_bytes());
        Ok(())
    })?;
    wasi(&mut linker)?;
    Ok(linker)
}

/// The clock, and no file at all.
fn wasi(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    const MODULE: &str = "wasi_snapshot_preview1";
    const BAD_FILE: u32 = 8;
    linker.func_wrap(MODULE, "clock_time_get", |mut guest: Guest<'_>, _clock: u32, _precision: u64, out: u32| {
        let (memory, state) = inside(&mut guest)?;
        let nanoseconds = (state.clock.read() as u64).wrapping_mul(1_000_000);
        part_mut(memory, out, 8)?.copy_from_slice(&nanoseconds.to_le_bytes());
        Ok(0_u32)
    })?;
    linker.func_wrap(MODULE, "fd_close", |_: u32| BAD_FILE)?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |_: u32, _: u32| BAD_FILE)?;
    linker.func_wrap(MODULE, "fd_seek", |_: u32, _: u64, _: u32, _: u32| BAD_FILE)?;
    linker.func_wrap(MODULE, "fd_write", |_: u32, _: u32, _: u32, _: u32| BAD_FILE)?;
    Ok(())
}

fn inside<'a>(guest: &'a mut Guest<'_>) -> wasmtime::Result<(&'a mut [u8], &'a mut State)> {
    let memory = guest.data().memory.ok_or_else(|| wasmtime::Error::msg("the guest called before it was set up"))?;
    Ok(memory.data_and_store_mut(guest))
}

fn part(memory: &[u8], at: u32, length: u32) -> wasmtime::Result<&[u8]> {
    memory.get(at as usize..at as usize + length as usize).ok_or_else(outside)
}

fn part_mut(memory: &mut [u8], at: u32, length: u32) -> wasmtime::Result<&mut [u8]> {
    memory.get_mut(at as usize..at as usize + length as usize).ok_or_else(outside)
}

fn outside() -> wasmtime::Error {
    wasmtime::Error::msg("the guest spoke of memory that it does not have")
}

/// No end yet: the result is being written.
const WRITING: u32 = 6;

/// The numbers are those of `shim.c`.
fn ending(how: u32, text: &[u8], output_bytes: usize) -> wasmtime::Result<Ending> {
    let description = || String::from_utf8_lossy(&text[..text.len().min(DESCRIPTION_BYTES_MAX)]).into_owned();
    Ok(match how {
        0 if text.len() > output_bytes => Ending::TooLarge(text.len()),
        0 => match json::accept(text) {
            Ok(value) => Ending::Value(value),
            Err(JsonFault::NoJson) => return Err(wasmtime::Error::msg("the guest's result is no JSON")),
            Err(fault) => Ending::Unfit(fault),
        },
        1 => Ending::Nothing,
        2 => Ending::Thrown(description()),
        3 => Ending::Unserializable(description()),
        4 => Ending::Interrupted(description()),
        5 => Ending::Deadlock,
        _ => return Err(wasmtime::Error::msg("the guest ended in a way that there is not")),
    })
}

/// The parts of a URL, one on each line, none of which can have a line break: those of `new URL(url, text)` for 0, else those of
/// `url` with its nth part set to `text`. The order is that of `prelude/url.js`.
fn url_parts(which: u32, url: &str, text: Option<&str>) -> Option<String> {
    let mut parsed = match (which, text) {
        (0, Some(base)) => Url::parse(base).ok()?.join(url).ok()?,
        _ => Url::parse(url).ok()?,
    };
    let text = text.unwrap_or_default();
    match which {
        0 => {}
        2 => quirks::set_protocol(&mut parsed, text).ok()?,
        3 => quirks::set_username(&mut parsed, text).ok()?,
        4 => quirks::set_password(&mut parsed, text).ok()?,
        5 => quirks::set_host(&mut parsed, text).ok()?,
        6 => quirks::set_hostname(&mut parsed, text).ok()?,
        7 => quirks::set_port(&mut parsed, text).ok()?,
        8 => quirks::set_pathname(&mut parsed, text),
        9 => quirks::set_search(&mut parsed, text),
        10 => quirks::set_hash(&mut parsed, text),
        _ => return None,
    }
    let url = &parsed;
    let parts = [
        quirks::href(url),
        &quirks::origin(url),
        quirks::protocol(url),
        quirks::username(url),
        quirks::password(url),
        quirks::host(url),
        quirks::hostname(url),
        quirks::port(url),
        quirks::pathname(url),
        quirks::search(url),
        quirks::hash(url),
    ];
    Some(parts.join("\n"))
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_says_so_once() {
        let mut logs = Logs::new(3, 10);
        assert!(logs.push(0, 1, b"1234"));
        assert!(logs.push(4, 2, b"123456"));
        assert!(!logs.push(1, 3, b"1"));
        assert!(!logs.push(1, 4, b""));
        assert_eq!(logs.lines.iter().map(|line| (line.level, line.at_ms)).collect::<Vec<_>>(), [(Level::Debug, 1), (Level::Error, 2), (Level::Warn, 3)]);
        assert!(logs.lines[2].text.contains("full"));
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_off_and_says_so() {
        let mut logs = Logs::new(3, 10);
        assert!(logs.push(1, 1, b"12345"));
        assert!(!logs.push(4, 2, "123\u{e4}\u{e4}\u{e4}".as_bytes()));
        assert!(!logs.push(1, 3, b"1"));
        let texts: Vec<_> = logs.lines.iter().map(|line| (line.level, line.text.as_str())).collect();
        assert_eq!(texts, [(Level::Log, "12345"), (Level::Error, "123\u{e4} [cut off here: the log is full, further lines are left out]")]);
    }

    #[test]
    fn ops_are_counted() {
        let mut ops = Ops::new(2, 3);
        assert_eq!(ops.ask(b"no.such", b"null"), -3);
        assert_eq!(ops.ask(b"fetch", b"{"), -4);
        assert_eq!(ops.ask(b"fetch", &vec![b' '; ARGS_BYTES_MAX + 1]), -4);
        assert_eq!((ops.ask(b"db.one", b"{}"), ops.ask(b"fetch", b"{}"), ops.ask(b"db.one", b"{}")), (1, 2, -1));
        assert_eq!(ops.ask(b"sleep", b"{}"), 3, "a timer is no op");
        assert_eq!([1, 1, 3, 9].map(|seq| ops.answered(seq)), [true, false, true, false]);
        assert_eq!((ops.ask(b"fetch", b"{}"), ops.answered(2), ops.ask(b"fetch", b"{}")), (4, true, -2));
    }

    #[test]
    fn timers_are_counted_apart() {
        let mut ops = Ops::new(0, 0);
        let first: Vec<i32> = (0..=SLEEPS_PENDING_MAX).map(|_| ops.ask(b"sleep", b"{}")).collect();
        assert_eq!((first[0], first[SLEEPS_PENDING_MAX]), (1, -1));
        let mut asked = SLEEPS_PENDING_MAX;
        while ops.answered(asked as u32) && ops.ask(b"sleep", b"{}") > 0 {
            asked += 1;
            ops.asked.clear();
        }
        assert_eq!(asked, SLEEPS_MAX);
    }

    #[test]
    fn urls_are_taken_apart() {
        let parts = |which, url, text| url_parts(which, url, text).map(|parts| parts.split('\n').map(str::to_owned).collect::<Vec<_>>());
        let whole = parts(0, "https://a:b@ex%41mple.org:8443/x/../y?q=1#h", None).unwrap();
        assert_eq!(
            whole,
            [
                "https://a:b@example.org:8443/y?q=1#h",
                "https://example.org:8443",
                "https:",
                "a",
                "b",
                "example.org:8443",
                "example.org",
                "8443",
                "/y",
                "?q=1",
                "#h"
            ]
        );
        assert_eq!(parts(0, "../z", Some("http://h/a/b")).unwrap()[0], "http://h/z");
        assert_eq!(parts(9, "http://h/", Some("a b\nc")).unwrap()[0], "http://h/?a%20bc");
        assert_eq!(parts(0, "not a url", None), None);
        assert_eq!(parts(99, "http://h/", Some("")), None);
    }
}
