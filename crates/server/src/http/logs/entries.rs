//! Log lines one by one: which are asked for, and how they look.

use sandbar_api::log::LogEntry;
use sandbar_core::limits;
use sandbar_procd_api::{LogLine, Stream};

use crate::{
    app::logs::Logs,
    error::ApiError,
    http::{
        params::{Params, shown},
        render::HERE,
        time::rfc3339,
    },
};

/// Which lines are asked for.
#[derive(Debug)]
pub struct Query {
    pub limit: usize,
    after: Option<Cursor>,
    start_ms: i64,
    end_ms: i64,
    context_id: Option<String>,
    stream: Option<Stream>,
}

/// A place in a runtime's log: behind line `n`.
#[derive(Debug)]
struct Cursor {
    runtime_id: String,
    n: u64,
}

impl Query {
    pub fn of(params: &Params) -> Result<Self, ApiError> {
        let after = match params.text("cursor") {
            None => None,
            Some(text) => {
                let parts = text.rsplit_once('.').and_then(|(runtime, n)| Some((runtime, n.parse().ok()?)));
                let Some((runtime_id, n)) = parts else {
                    return Err(ApiError::bad_request(format!("cursor: {} is not one of ours", shown(text))));
                };
                Some(Cursor { runtime_id: runtime_id.to_owned(), n })
            }
        };
        let stream = match params.text("stream") {
            None => None,
            Some("stdout") => Some(Stream::Stdout),
            Some("stderr") => Some(Stream::Stderr),
            Some("pty") => Some(Stream::Pty),
            Some(other) => return Err(ApiError::bad_request(format!("stream: {} is not stdout, stderr or pty", shown(other)))),
        };
        Ok(Self {
            limit: params.integer("limit", 1..=limits::LOG_PAGE_MAX)?.unwrap_or(limits::LOG_PAGE_DEFAULT) as usize,
            after,
            start_ms: params.time_ms("start_time")?.unwrap_or(i64::MIN),
            end_ms: params.time_ms("end_time")?.unwrap_or(i64::MAX),
            context_id: params.text("context_id").map(str::to_owned),
            stream,
        })
    }

    /// Whether lines of the runtime before can be among those asked for: not, when the cursor is beyond it already.
    pub fn reaches(&self, previous: &str, logs: &Logs) -> bool {
        self.after.as_ref().is_none_or(|after| after.runtime_id == previous || Some(&after.runtime_id) != logs.current.as_ref())
    }

    /// Whether a line of this runtime is asked for.
    pub fn admits(&self, runtime_id: &str, line: &LogLine) -> bool {
        let at_ms = i64::try_from(line.t).unwrap_or(i64::MAX);
        self.after.as_ref().is_none_or(|after| after.runtime_id != runtime_id || line.n > after.n)
            && (self.start_ms..=self.end_ms).contains(&at_ms)
            && self.context_id.as_ref().is_none_or(|context| *context == line.c)
            && self.stream.is_none_or(|stream| stream == line.s)
    }
}

/// A line as clients read it.
pub fn entry(runtime_id: &str, line: LogLine, logs: &Logs) -> LogEntry {
    let at = rfc3339(i64::try_from(line.t).unwrap_or_default());
    LogEntry {
        team_id: logs.team_id.clone(),
        sandbox_id: logs.sandbox_id.clone(),
        region_id: HERE.to_owned(),
        cluster_id: HERE.to_owned(),
        occurred_at: at.clone(),
        ingested_at: at,
        message: line.m,
        cursor: format!("{runtime_id}.{}", line.n),
        context_id: line.c,
        stream: match line.s {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Pty => "pty",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, ApiError> {
        Query::of(&Params::parse(text))
    }

    #[test]
    fn lines_are_chosen_by_cursor_time_context_and_stream() {
        let line = LogLine { n: 5, t: 1500, c: "ctx-1".into(), s: Stream::Stderr, m: String::new(), more: false };
        for (text, admitted) in [
            ("", true),
            ("cursor=rt-1.4", true),
            ("cursor=rt-1.5", false),
            ("cursor=rt-0.9", true),
            ("start_time=1970-01-01T00:00:02Z", false),
            ("end_time=1970-01-01T00:00:01Z", false),
            ("context_id=ctx-1&stream=stderr", true),
            ("context_id=ctx-2", false),
            ("stream=pty", false),
        ] {
            assert_eq!(query(text).expect(text).admits("rt-1", &line), admitted, "{text}");
        }
        for text in ["cursor=x", "cursor=rt-1.x", "cursor=.", "stream=all", "limit=0", "limit=5000", "start_time=now"] {
            assert_eq!(query(text).expect_err(text).status(), 400, "{text}");
        }
    }
}
