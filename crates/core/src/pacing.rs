//! How fast idle sandboxes are made: they are for claims to come, so they yield to whatever runs now, but never stop
//! coming for want of a quiet moment.

use std::time::Duration;

/// Below this much free memory, in bytes, no idle sandboxes are made.
pub const FREE_MEMORY_MIN_BYTES: u64 = 256 << 20;

/// Runnable threads for each thousand cores from which there is a wait before the next launch, and how long. The first
/// row that fits holds.
const WAITS: [(u64, Duration); 3] = [(8000, Duration::from_millis(500)), (3000, Duration::from_millis(100)), (1500, Duration::from_millis(20))];

/// What the machine is busy with. What is not known does not hold anything up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    pub free_memory_bytes: Option<u64>,
    /// Threads that run or want to, of the whole machine.
    pub runnable: Option<u64>,
    pub cores: u64,
}

/// When the next idle sandbox is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// After this time, which may be none.
    After(Duration),
    /// Not until there is more memory.
    NoMemory,
}

/// Decides about the next launch for a pool, of a sandbox that may use `memory_bytes`.
pub fn next_launch(machine: Machine, memory_bytes: u64) -> Pace {
    // An idle one uses a small part of what it may use.
    let needed = FREE_MEMORY_MIN_BYTES.saturating_add(memory_bytes / 16);
    if machine.free_memory_bytes.is_some_and(|free| free < needed) {
        return Pace::NoMemory;
    }
    let per_thousand_cores = machine.runnable.unwrap_or(0).saturating_mul(1000) / machine.cores.max(1);
    let wait = WAITS.iter().find(|(from, _)| per_thousand_cores >= *from).map_or(Duration::ZERO, |(_, wait)| *wait);
    Pace::After(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_slows_and_memory_stops() {
        let after = |ms| Pace::After(Duration::from_millis(ms));
        let (mib, gib) = (1u64 << 20, 1u64 << 30);
        // Free memory, runnable threads, cores, what the sandbox may use.
        let table = [
            (Some(8 * gib), Some(0), 2, gib, after(0)),
            (Some(8 * gib), Some(2), 2, gib, after(0)),
            (Some(8 * gib), Some(3), 2, gib, after(20)),
            (Some(8 * gib), Some(3), 4, gib, after(0)),
            (Some(8 * gib), Some(6), 2, gib, after(100)),
            (Some(8 * gib), Some(16), 2, gib, after(500)),
            (Some(8 * gib), Some(u64::MAX), 1, gib, after(500)),
            (Some(255 * mib), Some(0), 2, 0, Pace::NoMemory),
            (Some(256 * mib), Some(0), 2, 0, after(0)),
            (Some(300 * mib), Some(0), 2, gib, Pace::NoMemory),
            (Some(320 * mib), Some(0), 2, gib, after(0)),
            (Some(0), Some(99), 0, gib, Pace::NoMemory),
            (None, None, 0, gib, after(0)),
            (None, Some(3), 0, u64::MAX, after(100)),
        ];
        for (free_memory_bytes, runnable, cores, memory_bytes, wanted) in table {
            let machine = Machine { free_memory_bytes, runnable, cores };
            assert_eq!(next_launch(machine, memory_bytes), wanted, "{machine:?}, {memory_bytes}");
        }
    }
}
