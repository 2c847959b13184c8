//! How many requests a route lets through. Time is an argument.

use std::time::Duration;

use super::RateLimit;

/// A bucket of tokens: full at the beginning, refilled steadily, never above the burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    tokens: f64,
    /// Since some common moment.
    at: Duration,
}

impl Bucket {
    pub fn new(limit: RateLimit, now: Duration) -> Self {
        Self { tokens: size(limit), at: now }
    }

    /// Takes one token, or tells how long it takes until there is one.
    pub fn take(&mut self, limit: RateLimit, now: Duration) -> Result<(), Duration> {
        let gained = now.saturating_sub(self.at).as_secs_f64() * limit.rps;
        self.tokens = (self.tokens + gained).min(size(limit));
        self.at = self.at.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::try_from_secs_f64((1.0 - self.tokens) / limit.rps).unwrap_or(Duration::MAX))
    }

    /// Like [`Self::take`], and takes nothing.
    pub fn look(&self, limit: RateLimit, now: Duration) -> Result<(), Duration> {
        Self { ..*self }.take(limit, now)
    }

    /// Whether it is as good as a new one, so that it need not be remembered.
    pub fn is_full(&self, limit: RateLimit, now: Duration) -> bool {
        self.tokens + now.saturating_sub(self.at).as_secs_f64() * limit.rps >= size(limit)
    }
}

/// A burst below one would never let anything through.
fn size(limit: RateLimit) -> f64 {
    limit.burst.max(1.0)
}
