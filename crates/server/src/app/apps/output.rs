//! What the start command and services of an app printed: the lines of their processes in the log of their sandbox, which is there
//! also while it sleeps.

use std::{collections::HashSet, time::SystemTime};

use sandbar_core::{
    app::{AppState, manifest::START},
    limits::app_launch as limits,
    redact::Redactor,
};
use sandbar_procd_api::LogLine;

use super::{
    manifest_of,
    online::{seen_of, shape_of},
    sealed::SealedLines,
};
use crate::{
    app::{App, auth::Principal},
    error::ApiError,
};

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub output: String,
    /// Where the next part begins.
    pub cursor: String,
    /// Nothing more comes unless it is started again.
    pub completed: bool,
}

/// A place in a log: after a line of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cursor {
    runtime_id: String,
    line: u64,
}

/// What a log was made of when it was looked at last: as long as that is the same, there is nothing new in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Looked(Option<Made>);

/// How long a file is and when it was written to; none of one that is not there.
type FileState = Option<(u64, SystemTime)>;

#[derive(Debug, Clone, PartialEq)]
struct Made {
    processes: Vec<(String, String)>,
    completed: bool,
    env_epoch: u64,
    /// Of each runtime its name, and of both files of its log how long they are and when they were written to.
    files: Vec<(String, [FileState; 2])>,
}

impl App {
    /// The log of `start` or of a service, from a cursor on.
    pub(crate) async fn app_output(&self, who: &Principal, name: &str, source: &str, since: Option<&str>) -> Result<Part, ApiError> {
        let part = self.app_output_since(who, name, source, since, &mut Looked::default()).await?;
        part.ok_or_else(|| ApiError::internal("reading the log", &"it was looked at before"))
    }

    /// The same for who looks again and again; none when nothing can have come since the last look.
    pub(crate) async fn app_output_since(
        &self,
        who: &Principal,
        name: &str,
        source: &str,
        since: Option<&str>,
        looked: &mut Looked,
    ) -> Result<Option<Part>, ApiError> {
        let env_epoch = self.app_env_epoch();
        let app = self.app(who, name).await?;
        let whole = self.app_whole(app).await?;
        let supervised = whole.online.as_ref().and_then(|row| self.supervised(&row.sandbox_id));
        let seen = seen_of(&whole.app);
        let known = match (&supervised, &whole.live) {
            (Some(supervised), _) => supervised.launch().entry(source).is_some(),
            (None, Some(live)) => shape_of(&whole.app, live)?.entry(source).is_some(),
            (None, None) => false,
        };
        if !known && !seen.entries.contains_key(source) {
            let what = if source == START { "start command of app" } else { "service" };
            return Err(ApiError::not_found(what, if source == START { name } else { source }));
        }
        let since = since.map_or(Ok(None), Cursor::read)?;
        let view = supervised.as_ref().and_then(|supervised| supervised.view(source));
        let processes = match &view {
            Some(view) => view.processes.clone(),
            None => seen.entries.get(source).map(|seen| seen.processes.clone()).unwrap_or_default(),
        };
        let completed = view.is_none_or(|view| matches!(view.state, AppState::None | AppState::Exited | AppState::Failed));
        let record = match &whole.online {
            Some(row) => self.record_of(&row.sandbox_id).await?,
            None => None,
        };
        let mut runtimes: Vec<String> = record.iter().flat_map(|record| [&record.previous_runtime_id, &record.runtime_id]).flatten().cloned().collect();
        runtimes.dedup();
        // Before they are read, so that what comes meanwhile is found by the next look.
        let mut files = Vec::with_capacity(runtimes.len());
        for runtime_id in &runtimes {
            files.push((runtime_id.clone(), self.log_files(runtime_id).await));
        }
        let made = Made { processes, completed, env_epoch, files };
        if looked.0.as_ref() == Some(&made) {
            return Ok(None);
        }
        // What it was started with, and what it would be started with.
        let mut redactor = supervised.as_ref().map(|supervised| supervised.redactor().as_ref().clone()).unwrap_or_default();
        if let Some(live) = &whole.live {
            redactor = redactor.and(&self.app_given(&whole.app, &manifest_of(live)?).await?.redactor());
        }
        let mut part = Collected::new(since, &redactor);
        for runtime_id in &runtimes {
            let contexts: HashSet<&str> = made.processes.iter().filter(|(of, _)| of == runtime_id).map(|(_, context)| context.as_str()).collect();
            if !contexts.is_empty() && part.reads(&runtimes, runtime_id) {
                let lines = self.read_log(runtime_id).await?;
                part.add(runtime_id, lines.into_iter().filter(|line| contexts.contains(line.c.as_str())).collect());
            }
        }
        // Where there is more than one answer has room for, the next look has to read on.
        looked.0 = (!part.full).then_some(made);
        Ok(Some(part.done(completed)))
    }
}

struct Collected {
    output: String,
    at: Option<Cursor>,
    full: bool,
    sealed: SealedLines,
}

impl Collected {
    fn new(since: Option<Cursor>, redactor: &Redactor) -> Self {
        Self { output: String::new(), at: since, full: false, sealed: SealedLines::of(redactor) }
    }

    /// Whether a runtime is to be read, of those that have a log. One that the cursor names and that has none any more is passed over.
    fn reads(&self, runtimes: &[String], runtime_id: &str) -> bool {
        let place = |id: &str| runtimes.iter().position(|other| other == id);
        let at = self.at.as_ref().and_then(|at| place(&at.runtime_id));
        !self.full && place(runtime_id) >= at
    }

    /// Adds what comes after the cursor. A secret may begin before it, so all lines of the runtime are looked through.
    fn add(&mut self, runtime_id: &str, lines: Vec<LogLine>) {
        let after = self.at.as_ref().filter(|at| at.runtime_id == runtime_id).map_or(0, |at| at.line);
        for line in self.sealed.hide(lines).into_iter().filter(|line| line.n > after) {
            if self.full || (!self.output.is_empty() && self.output.len() + line.m.len() > limits::LOG_REPLY_MAX_BYTES) {
                self.full = true;
                return;
            }
            self.output.push_str(&line.m);
            if !line.more {
                self.output.push('\n');
            }
            self.at = Some(Cursor { runtime_id: runtime_id.to_owned(), line: line.n });
        }
    }

    fn done(self, completed: bool) -> Part {
        let cursor = self.at.map(|at| format!("{}.{}", at.runtime_id, at.line)).unwrap_or_default();
        Part { output: self.output, cursor, completed: completed && !self.full }
    }
}

impl Cursor {
    /// None: the beginning.
    fn read(text: &str) -> Result<Option<Self>, ApiError> {
        if text == "0" {
            return Ok(None);
        }
        let read = text.rsplit_once('.').and_then(|(runtime_id, line)| Some(Self { runtime_id: runtime_id.to_owned(), line: line.parse().ok()? }));
        read.map(Some).ok_or_else(|| ApiError::bad_request("since: is neither the cursor of an answer before nor 0, which is the beginning"))
    }
}

#[cfg(test)]
mod tests {
    use sandbar_procd_api::Stream;

    use super::*;

    fn line(n: u64, text: &str) -> LogLine {
        LogLine { n, t: 0, c: "c".into(), s: Stream::Stdout, m: text.into(), more: false }
    }

    #[test]
    fn a_log_goes_on_where_it_ended_through_runtimes() {
        let runtimes = ["rt-a".to_owned(), "rt-b".to_owned()];
        let none = Redactor::default();
        let mut all = Collected::new(None, &none);
        assert!(all.reads(&runtimes, "rt-a") && all.reads(&runtimes, "rt-b"));
        all.add("rt-a", vec![line(1, "one"), line(5, "two")]);
        let first = all.done(true);
        assert_eq!((first.output.as_str(), first.cursor.as_str(), first.completed), ("one\ntwo\n", "rt-a.5", true));
        let mut rest = Collected::new(Cursor::read(&first.cursor).unwrap(), &none);
        assert!(rest.reads(&runtimes, "rt-a"));
        rest.add("rt-a", vec![line(1, "one"), line(5, "two"), line(6, "three")]);
        rest.add("rt-b", vec![line(1, "four")]);
        let second = rest.done(false);
        assert_eq!((second.output.as_str(), second.cursor.as_str(), second.completed), ("three\nfour\n", "rt-b.1", false));
        let last = Collected::new(Cursor::read("rt-b.1").unwrap(), &none);
        assert!(!last.reads(&runtimes, "rt-a") && last.reads(&runtimes, "rt-b"));
        assert_eq!(last.done(true).cursor, "rt-b.1");
        // A runtime whose log is gone: all that there is.
        assert!(Collected::new(Cursor::read("rt-z.9").unwrap(), &none).reads(&runtimes, "rt-a"));
    }

    #[test]
    fn a_reply_is_bounded_and_says_that_there_is_more() {
        let long = "x".repeat(limits::LOG_REPLY_MAX_BYTES / 2 + 1);
        let mut all = Collected::new(None, &Redactor::default());
        all.add("rt-a", vec![line(1, &long), line(2, &long), line(3, "short")]);
        let part = all.done(true);
        assert_eq!((part.cursor.as_str(), part.completed, part.output.len()), ("rt-a.1", false, long.len() + 1));
        for wrong in ["x", "a.b", "1", "00", "-1"] {
            assert!(Cursor::read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Cursor::read("0").unwrap(), None);
    }

    #[test]
    fn a_secret_of_several_lines_is_hidden_from_whoever_comes_in_its_middle() {
        let redactor = Redactor::new([("KEY", "first line\nsecond\nthird")]);
        let lines = || vec![line(1, "first line"), line(2, "second"), line(3, "third"), line(4, "second")];
        for (since, output) in [
            (None, "[secret KEY]\n[secret KEY]\n[secret KEY]\nsecond\n"),
            (Some("rt-a.1"), "[secret KEY]\n[secret KEY]\nsecond\n"),
            (Some("rt-a.2"), "[secret KEY]\nsecond\n"),
            (Some("rt-a.3"), "second\n"),
        ] {
            let mut part = Collected::new(since.and_then(|since| Cursor::read(since).unwrap()), &redactor);
            part.add("rt-a", lines());
            assert_eq!(part.done(true).output, output, "{since:?}");
        }
    }
}
