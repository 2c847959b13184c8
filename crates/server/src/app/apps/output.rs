//! What the start command and services of an app printed: the lines of their processes in the log of their sandbox, which is there
//! also while it sleeps.

use std::{collections::HashSet, sync::Arc};

use sandbar_core::{
    app::{AppState, manifest::START, redact::Redactor},
    limits::app_launch as limits,
};
use sandbar_procd_api::LogLine;

use super::{
    manifest_of,
    online::{seen_of, shape_of},
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

impl App {
    /// The log of `start` or of a service, from a cursor on.
    pub(crate) async fn app_output(&self, who: &Principal, name: &str, source: &str, since: Option<&str>) -> Result<Part, ApiError> {
        let since = since.map(Cursor::read).transpose()?;
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
        let view = supervised.as_ref().and_then(|supervised| supervised.view(source));
        let processes = match &view {
            Some(view) => view.processes.clone(),
            None => seen.entries.get(source).map(|seen| seen.processes.clone()).unwrap_or_default(),
        };
        let completed = view.is_none_or(|view| matches!(view.state, AppState::None | AppState::Exited | AppState::Failed));
        // What it was started with; of one that does not run, what it would be started with.
        let redactor = match (&supervised, &whole.live) {
            (Some(supervised), _) => Arc::clone(supervised.redactor()),
            (None, Some(live)) => Arc::new(self.app_given(&whole.app, &manifest_of(live)?).await?.redactor()),
            (None, None) => Arc::default(),
        };
        let mut part = Collected::new(since, redactor);
        if let Some(row) = &whole.online
            && let Some(record) = self.record_of(&row.sandbox_id).await?
        {
            let mut runtimes: Vec<String> = record.previous_runtime_id.into_iter().chain(record.runtime_id).collect();
            runtimes.dedup();
            for runtime_id in part.from(&runtimes) {
                let contexts: HashSet<&str> = processes.iter().filter(|(of, _)| of == runtime_id).map(|(_, context)| context.as_str()).collect();
                if !contexts.is_empty() {
                    let lines = self.read_log(runtime_id).await?;
                    part.add(runtime_id, lines.iter().filter(|line| contexts.contains(line.c.as_str())));
                }
            }
        }
        Ok(part.done(completed))
    }
}

struct Collected {
    output: String,
    at: Option<Cursor>,
    full: bool,
    redactor: Arc<Redactor>,
}

impl Collected {
    fn new(since: Option<Cursor>, redactor: Arc<Redactor>) -> Self {
        Self { output: String::new(), at: since, full: false, redactor }
    }

    /// The runtimes to read, of those that have a log. One that the cursor names and that has none any more is passed over.
    fn from<'a>(&self, runtimes: &'a [String]) -> &'a [String] {
        let at = self.at.as_ref().and_then(|at| runtimes.iter().position(|id| *id == at.runtime_id));
        &runtimes[at.unwrap_or(0)..]
    }

    fn add<'a>(&mut self, runtime_id: &str, lines: impl Iterator<Item = &'a LogLine>) {
        let after = self.at.as_ref().filter(|at| at.runtime_id == runtime_id).map_or(0, |at| at.line);
        for line in lines.filter(|line| line.n > after) {
            if self.full || self.output.len() + line.m.len() > limits::LOG_REPLY_MAX_BYTES {
                self.full = true;
                return;
            }
            self.output.push_str(&self.redactor.text(&line.m));
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
    fn read(text: &str) -> Result<Self, ApiError> {
        let read = text.rsplit_once('.').and_then(|(runtime_id, line)| Some(Self { runtime_id: runtime_id.to_owned(), line: line.parse().ok()? }));
        read.ok_or_else(|| ApiError::bad_request("since: is no cursor of a log"))
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
        let mut all = Collected::new(None, Arc::default());
        assert_eq!(all.from(&runtimes).len(), 2);
        all.add("rt-a", [line(1, "one"), line(5, "two")].iter());
        let first = all.done(true);
        assert_eq!((first.output.as_str(), first.cursor.as_str(), first.completed), ("one\ntwo\n", "rt-a.5", true));
        let mut rest = Collected::new(Some(Cursor::read(&first.cursor).unwrap()), Arc::default());
        assert_eq!(rest.from(&runtimes).len(), 2);
        rest.add("rt-a", [line(1, "one"), line(5, "two"), line(6, "three")].iter());
        rest.add("rt-b", [line(1, "four")].iter());
        let second = rest.done(false);
        assert_eq!((second.output.as_str(), second.cursor.as_str(), second.completed), ("three\nfour\n", "rt-b.1", false));
        let last = Collected::new(Some(Cursor::read("rt-b.1").unwrap()), Arc::default());
        assert_eq!(last.from(&runtimes), ["rt-b"]);
        assert_eq!(last.done(true).cursor, "rt-b.1");
        // A runtime whose log is gone: all that there is.
        assert_eq!(Collected::new(Some(Cursor::read("rt-z.9").unwrap()), Arc::default()).from(&runtimes).len(), 2);
    }

    #[test]
    fn a_reply_is_bounded_and_says_that_there_is_more() {
        let long = "x".repeat(limits::LOG_REPLY_MAX_BYTES / 2 + 1);
        let mut all = Collected::new(None, Arc::default());
        all.add("rt-a", [line(1, &long), line(2, &long), line(3, "short")].iter());
        let part = all.done(true);
        assert_eq!((part.cursor.as_str(), part.completed, part.output.len()), ("rt-a.1", false, long.len() + 1));
        assert!(Cursor::read("x").is_err() && Cursor::read("a.b").is_err());
    }
}
