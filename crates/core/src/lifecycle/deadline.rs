//! Deadlines: which is next, and what happens when it is due. They are rows, not timers, so they fire late rather than
//! never.

use crate::{
    lifecycle::{Effect, Transition, clean, pause, reason_text},
    sandbox::{Desired, Observed, SandboxRecord, reason},
};

/// What is due at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deadline {
    /// The hard ttl: clean.
    HardTtl,
    /// The ttl: pause.
    Ttl,
    /// A frozen sandbox gives its memory back.
    Hibernate,
}

/// The next moment at which something is due, and what.
pub fn next_deadline(record: &SandboxRecord) -> Option<(i64, Deadline)> {
    let hard = record.hard_expires_at_ms.filter(|_| matches!(record.desired, Desired::Active | Desired::Paused));
    // A sandbox that failed has nothing to pause.
    let soft = record.expires_at_ms.filter(|_| record.desired == Desired::Active && record.observed != Observed::Failed);
    let hibernate = record.hibernate_at_ms.filter(|_| record.desired == Desired::Paused && record.observed == Observed::Frozen);
    // The order decides ties: cleaning makes the other two pointless.
    [(hard, Deadline::HardTtl), (soft, Deadline::Ttl), (hibernate, Deadline::Hibernate)]
        .into_iter()
        .filter_map(|(at, deadline)| at.map(|at| (at, deadline)))
        .min_by_key(|(at, _)| *at)
}

/// What to do now, if a deadline is due. When the hard ttl is due too it alone counts, however late we are.
pub fn on_deadline(record: &SandboxRecord, now_ms: i64) -> Option<Transition> {
    let (_, deadline) = next_deadline(record).filter(|(at, _)| *at <= now_ms)?;
    let hard_due = matches!(record.desired, Desired::Active | Desired::Paused) && record.hard_expires_at_ms.is_some_and(|at| at <= now_ms);
    match if hard_due { Deadline::HardTtl } else { deadline } {
        Deadline::HardTtl => clean(record, reason::HARD_TTL_EXPIRED, reason_text(reason::HARD_TTL_EXPIRED), now_ms).ok(),
        Deadline::Ttl => pause(record, reason::TTL_EXPIRED, reason_text(reason::TTL_EXPIRED), now_ms).ok(),
        // Intent stays as it is: paused. The deadline is gone once `Hibernated` was observed.
        Deadline::Hibernate => Some(Transition { record: record.clone(), effects: vec![Effect::Hibernate], changed: false }),
    }
}

/// The moment `seconds` from now; none when 0 = off.
pub(super) fn after(now_ms: i64, seconds: u32) -> Option<i64> {
    (seconds > 0).then(|| now_ms.saturating_add(i64::from(seconds) * 1000))
}
