//! Schedules without a calendar: every so often, and once.

use super::Ticks;

/// A moment, and every so many milliseconds from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every {
    from_ms: i64,
    every_ms: i64,
}

/// One moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    pub at_ms: i64,
}

impl Every {
    /// At least a millisecond apart.
    pub fn new(from_ms: i64, every_ms: i64) -> Self {
        Self { from_ms, every_ms: every_ms.max(1) }
    }
}

impl Ticks for Every {
    fn next_after(&self, at_ms: i64) -> Option<i64> {
        if at_ms < self.from_ms {
            return Some(self.from_ms);
        }
        let passed = at_ms.checked_sub(self.from_ms)? / self.every_ms;
        self.from_ms.checked_add(passed.checked_add(1)?.checked_mul(self.every_ms)?)
    }
}

impl Ticks for Once {
    fn next_after(&self, at_ms: i64) -> Option<i64> {
        (at_ms < self.at_ms).then_some(self.at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_come_every_so_often_and_once() {
        let every = Every::new(1000, 60_000);
        let table = [(i64::MIN, 1000), (0, 1000), (999, 1000), (1000, 61_000), (1001, 61_000), (60_999, 61_000), (61_000, 121_000)];
        for (at, expected) in table {
            assert_eq!(every.next_after(at), Some(expected), "after {at}");
        }
        assert_eq!(every.next_after(i64::MAX), None);
        assert_eq!(Every::new(0, 0).next_after(5), Some(6));
        let once = Once { at_ms: 7 };
        assert_eq!([6, 7, 8].map(|at| once.next_after(at)), [Some(7), None, None]);
    }
}
