//! How much of what happens inside is told.

use std::collections::HashSet;

use crate::limits;

/// Lets so many events through: a burst, and from there on so many a second.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    at_ms: i64,
    burst: f64,
    per_second: f64,
}

impl Bucket {
    pub fn new(burst: u32, per_second: u32, now_ms: i64) -> Self {
        Self { tokens: f64::from(burst), at_ms: now_ms, burst: f64::from(burst), per_second: f64::from(per_second) }
    }

    /// Whether one more may pass. A clock that was set back gives nothing.
    pub fn take(&mut self, now_ms: i64) -> bool {
        let passed_s = (now_ms - self.at_ms).max(0) as f64 / 1000.0;
        self.at_ms = now_ms;
        self.tokens = (self.tokens + passed_s * self.per_second).min(self.burst);
        let passes = self.tokens >= 1.0;
        if passes {
            self.tokens -= 1.0;
        }
        passes
    }
}

/// Names under which the agent writes what is to replace a file in one step. Nobody is told of them.
const TEMPORARY: (&str, &str) = ("/.sandbar-", ".tmp");

/// A change of a file, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Change {
    /// create, write, remove, rename or chmod.
    pub event: String,
    pub path: String,
    /// What it was called before.
    pub old_path: Option<String>,
}

/// Changes of files that are told together: a program that writes a file in a thousand pieces changes it once.
#[derive(Debug, Default)]
pub struct Burst {
    order: Vec<Change>,
    known: HashSet<Change>,
    lost: u64,
}

impl Burst {
    /// Notes what was seen, unless the same is noted already. A file that was moved is seen twice, under its former name
    /// and under its present one, and told once; one that replaced another in one step was written.
    pub fn add(&mut self, event: &str, path: &str, old_path: Option<&str>) {
        if is_temporary(path) {
            return;
        }
        let mut change = Change { event: event.to_owned(), path: path.to_owned(), old_path: None };
        match old_path {
            Some(former) if is_temporary(former) => change.event = "write".to_owned(),
            Some(former) => {
                let seen = Change { event: "rename".to_owned(), path: former.to_owned(), old_path: None };
                if self.known.remove(&seen) {
                    self.order.retain(|other| *other != seen);
                }
                change.event = "rename".to_owned();
                change.old_path = Some(former.to_owned());
            }
            None => {}
        }
        if self.known.contains(&change) {
            return;
        }
        if self.order.len() >= limits::WEBHOOK_BURST_FILES_MAX {
            self.lost += 1;
            return;
        }
        self.known.insert(change.clone());
        self.order.push(change);
    }

    /// Notes that something was missed.
    pub fn lose(&mut self) {
        self.lost += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty() && self.lost == 0
    }

    /// The changes in order, and how many more there were.
    pub fn take(&mut self) -> (Vec<Change>, u64) {
        self.known.clear();
        (std::mem::take(&mut self.order), std::mem::take(&mut self.lost))
    }
}

fn is_temporary(path: &str) -> bool {
    path.rfind('/').is_some_and(|at| path[at..].starts_with(TEMPORARY.0) && path.ends_with(TEMPORARY.1))
}
