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

/// Changes of files that are told together: a program that writes a file in a thousand pieces changes it once.
#[derive(Debug, Default)]
pub struct Burst {
    order: Vec<(String, String)>,
    known: HashSet<(String, String)>,
    lost: u64,
}

impl Burst {
    /// Notes a change, unless the same is noted already.
    pub fn add(&mut self, event: &str, path: &str) {
        let key = (event.to_owned(), path.to_owned());
        if self.known.contains(&key) {
            return;
        }
        if self.order.len() >= limits::WEBHOOK_BURST_FILES_MAX {
            self.lost += 1;
            return;
        }
        self.known.insert(key.clone());
        self.order.push(key);
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty() && self.lost == 0
    }

    /// Event and path of each change in order, and how many more there were.
    pub fn take(&mut self) -> (Vec<(String, String)>, u64) {
        self.known.clear();
        (std::mem::take(&mut self.order), std::mem::take(&mut self.lost))
    }
}
