//! Log lines as text: cut to what was asked for, with times when wanted.

use sandbar_core::limits;
use sandbar_procd_api::{LogLine, Stream};

use crate::{
    error::ApiError,
    http::{params::Params, time::rfc3339},
};

/// What was asked for, and in the case of a followed log how far it got.
#[derive(Debug, Clone)]
pub struct TextLog {
    tail_lines: usize,
    /// None = as much as there is, when following.
    limit_bytes: Option<usize>,
    /// Unix time in milliseconds.
    since_ms: Option<u64>,
    timestamps: bool,
    /// Whose line is not at its end yet.
    open: Option<(String, Stream)>,
    /// What a followed log may still write.
    left_bytes: Option<usize>,
}

impl TextLog {
    /// Reads the query. Numbers out of range are brought into it.
    pub fn of(params: &Params, now_ms: i64) -> Result<Self, ApiError> {
        let since_s = params.clamped("since_seconds", i32::MAX as usize)?.filter(|seconds| *seconds >= 1);
        let limit_bytes = params.clamped("limit_bytes", limits::LOG_BYTES_MAX)?.filter(|bytes| *bytes > 0);
        Ok(Self {
            tail_lines: params.clamped("tail_lines", limits::LOG_TAIL_LINES_MAX)?.unwrap_or(limits::LOG_TAIL_LINES_DEFAULT),
            limit_bytes,
            since_ms: since_s.map(|seconds| now_ms.unsigned_abs().saturating_sub(seconds as u64 * 1000)),
            timestamps: params.boolean("timestamps")?.unwrap_or_default(),
            open: None,
            left_bytes: limit_bytes,
        })
    }

    /// The last lines, as many and as long as asked for: the newest are kept.
    pub fn snapshot(mut self, lines: &[LogLine]) -> String {
        let mut text = self.tail(lines);
        if self.open.is_some() {
            text.push('\n');
        }
        let limit = self.limit_bytes.unwrap_or(limits::LOG_BYTES_DEFAULT);
        cut_front(&mut text, limit);
        text
    }

    /// What stands at the beginning of a followed log. `None` when nothing more may be written.
    pub fn begin(&mut self, lines: &[LogLine]) -> Option<String> {
        let text = self.tail(lines);
        self.spend(text)
    }

    /// What came since. `None` when nothing more may be written.
    pub fn go_on(&mut self, lines: &[LogLine]) -> Option<String> {
        let text = self.render(lines);
        self.spend(text)
    }

    fn tail(&mut self, lines: &[LogLine]) -> String {
        let since = self.since_ms.unwrap_or_default();
        let first = lines.iter().position(|line| line.t >= since).unwrap_or(lines.len());
        let mut text = self.render(&lines[first..]);
        cut_lines(&mut text, self.tail_lines);
        text
    }

    fn render(&mut self, lines: &[LogLine]) -> String {
        let mut text = String::new();
        for line in lines {
            let goes_on = matches!(&self.open, Some((context, stream)) if *context == line.c && *stream == line.s);
            if !goes_on {
                if self.open.is_some() {
                    text.push('\n');
                }
                if self.timestamps {
                    text.push_str(&rfc3339(i64::try_from(line.t).unwrap_or_default()));
                    text.push(' ');
                }
            }
            text.push_str(&line.m);
            self.open = line.more.then(|| (line.c.clone(), line.s));
            if !line.more {
                text.push('\n');
            }
        }
        text
    }

    fn spend(&mut self, mut text: String) -> Option<String> {
        let Some(left) = self.left_bytes else { return Some(text) };
        if left == 0 {
            return None;
        }
        sandbar_core::text::shorten(&mut text, left);
        self.left_bytes = Some(left - text.len());
        if text.is_empty() && left < 4 {
            // Not even one character fits any more.
            self.left_bytes = Some(0);
        }
        Some(text)
    }
}

/// Keeps the last `count` lines.
fn cut_lines(text: &mut String, count: usize) {
    if count == 0 {
        text.clear();
        return;
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    if let Some((start, _)) = body.rmatch_indices('\n').nth(count - 1) {
        text.drain(..=start);
    }
}

/// Keeps the last `max` bytes, from the beginning of a line when there is one.
fn cut_front(text: &mut String, max: usize) {
    if text.len() <= max {
        return;
    }
    let start = text.ceil_char_boundary(text.len() - max);
    let starts_line = text.as_bytes()[start - 1] == b'\n';
    let next_line = text[start..].find('\n').map(|at| start + at + 1).filter(|at| *at < text.len());
    let start = if starts_line { start } else { next_line.unwrap_or(start) };
    text.drain(..start);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u64, context: &str, text: &str, more: bool) -> LogLine {
        LogLine { n, t: n * 1000, c: context.into(), s: Stream::Stdout, m: text.into(), more }
    }

    fn rows(count: u64) -> Vec<LogLine> {
        (1..=count).map(|n| line(n, "a", &format!("row{n}"), false)).collect()
    }

    fn log(query: &str, now_ms: i64) -> TextLog {
        TextLog::of(&Params::parse(query), now_ms).expect("valid")
    }

    #[test]
    fn the_newest_lines_are_kept() {
        assert_eq!(log("tail_lines=2", 0).snapshot(&rows(50)), "row49\nrow50\n");
        assert_eq!(log("tail_lines=0", 0).snapshot(&rows(50)), "");
        assert_eq!(log("tail_lines=-1", 0).snapshot(&rows(3)), "row1\nrow2\nrow3\n");
        assert_eq!(log("tail_lines=99999", 0).snapshot(&rows(6000)).lines().count(), 5000);
        assert_eq!(log("", 0).snapshot(&rows(300)).lines().count(), 200);
        assert_eq!(log("limit_bytes=13", 0).snapshot(&rows(50)), "row49\nrow50\n");
        assert_eq!(log("limit_bytes=3", 0).snapshot(&rows(50)), "50\n");
        assert_eq!(log("since_seconds=2", 50_000).snapshot(&rows(50)), "row48\nrow49\nrow50\n");
        assert_eq!(log("since_seconds=0", 50_000).snapshot(&rows(2)), "row1\nrow2\n");
        assert_eq!(log("timestamps=1", 0).snapshot(&rows(1)), "1970-01-01T00:00:01Z row1\n");
        for query in ["tail_lines=x", "limit_bytes=1.5", "since_seconds=soon", "timestamps=maybe"] {
            assert_eq!(TextLog::of(&Params::parse(query), 0).expect_err(query).status(), 400);
        }
    }

    #[test]
    fn pieces_of_a_line_are_joined_and_others_do_not_cut_in() {
        let lines = [line(1, "a", "one-", true), line(2, "a", "line", false), line(3, "a", "open", true), line(4, "b", "other", false)];
        assert_eq!(log("", 0).snapshot(&lines), "one-line\nopen\nother\n");
        assert_eq!(log("", 0).snapshot(&lines[..3]), "one-line\nopen\n");
        let mut followed = log("", 0);
        assert_eq!(followed.begin(&lines[..1]).as_deref(), Some("one-"));
        assert_eq!(followed.go_on(&lines[1..]).as_deref(), Some("line\nopen\nother\n"));
    }

    #[test]
    fn a_followed_log_stops_at_its_limit() {
        let mut followed = log("limit_bytes=7", 0);
        assert_eq!(followed.begin(&rows(1)).as_deref(), Some("row1\n"));
        assert_eq!(followed.go_on(&rows(1)).as_deref(), Some("ro"));
        assert_eq!(followed.go_on(&rows(1)), None);
    }
}
