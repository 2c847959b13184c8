//! After runs: when cleaning up is tried again, and which sandboxes that were kept are kept no longer.

use std::collections::HashMap;

use super::{Cleanup, RunStatus, run::CleanupPolicy};
use crate::limits::app_runs as limits;

/// What follows a cleanup that did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Again {
        at_ms: i64,
    },
    /// What there is stays as it is, paused.
    GivenUp,
}

/// `tries` with the one that failed just now. Only archiving is ever given up: its files are still there. What is to be deleted or
/// stopped would go on costing.
pub fn after_failure(policy: CleanupPolicy, tries: u32, now_ms: i64) -> Next {
    match policy {
        CleanupPolicy::Archive if tries >= limits::RUN_CLEANUP_TRIES_MAX => Next::GivenUp,
        CleanupPolicy::Archive | CleanupPolicy::Stop | CleanupPolicy::Delete => Next::Again { at_ms: now_ms.saturating_add(pause_ms(tries)) },
    }
}

fn pause_ms(tries: u32) -> i64 {
    let doubled = limits::RUN_CLEANUP_PAUSE_MS.checked_shl(tries.saturating_sub(1).min(30)).unwrap_or(i64::MAX);
    doubled.min(limits::RUN_CLEANUP_PAUSE_MAX_MS)
}

/// How a run is for which a sandbox was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub status: RunStatus,
    pub policy: CleanupPolicy,
    pub cleanup: Option<Cleanup>,
    /// The sandbox is the one that it ran in, not one that a server before began to make.
    pub is_its_own: bool,
}

/// Whether somebody still has use for a sandbox that was made for a run; `None`: the run is gone.
pub fn is_needed(run: Option<Ended>) -> bool {
    let Some(Ended { status, policy, cleanup, is_its_own }) = run else { return false };
    match cleanup {
        // Whoever cleans up looks after all of them.
        Some(Cleanup::Pending) => true,
        Some(Cleanup::Succeeded) => policy == CleanupPolicy::Stop && is_its_own,
        // What could not be archived is kept.
        Some(Cleanup::Failed) => policy != CleanupPolicy::Delete && is_its_own,
        Some(Cleanup::Skipped) => false,
        None => !status.is_final(),
    }
}

/// A sandbox that was stopped after its run and is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub sandbox_id: String,
    pub app_id: String,
    /// None: somebody asked for the run.
    pub schedule_id: Option<String>,
    /// So many of its schedule are kept, as that was when it ran.
    pub keep: Option<u32>,
    pub created_at_ms: i64,
}

/// Those that are kept no longer: of each schedule, and of what was asked for of each app, all but the newest. The newest one says how
/// many that are.
pub fn surplus(mut stopped: Vec<Stopped>) -> Vec<String> {
    stopped.sort_by(|a, b| (b.created_at_ms, &b.sandbox_id).cmp(&(a.created_at_ms, &a.sandbox_id)));
    let mut kept: HashMap<(String, Option<String>), (u32, u32)> = HashMap::new();
    let mut surplus = Vec::new();
    for Stopped { sandbox_id, app_id, schedule_id, keep, created_at_ms: _ } in stopped {
        let (count, max) = kept.entry((app_id, schedule_id)).or_insert((0, keep.unwrap_or(limits::RUN_STOPPED_KEPT_DEFAULT)));
        if *count < *max {
            *count += 1;
        } else {
            surplus.push(sandbox_id);
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_is_tried_again_without_an_end() {
        use CleanupPolicy as P;
        let max = limits::RUN_CLEANUP_TRIES_MAX;
        let pause = limits::RUN_CLEANUP_PAUSE_MS;
        for (policy, tries, next) in [
            (P::Delete, 1, Next::Again { at_ms: pause }),
            (P::Delete, 2, Next::Again { at_ms: 2 * pause }),
            (P::Delete, 3, Next::Again { at_ms: 4 * pause }),
            (P::Delete, max, Next::Again { at_ms: pause << (max - 1) }),
            (P::Delete, 1000, Next::Again { at_ms: limits::RUN_CLEANUP_PAUSE_MAX_MS }),
            (P::Stop, u32::MAX, Next::Again { at_ms: limits::RUN_CLEANUP_PAUSE_MAX_MS }),
            (P::Archive, max - 1, Next::Again { at_ms: pause << (max - 2) }),
            (P::Archive, max, Next::GivenUp),
            (P::Archive, max + 1, Next::GivenUp),
        ] {
            assert_eq!(after_failure(policy, tries, 0), next, "{policy:?} {tries}");
        }
    }

    #[test]
    fn a_sandbox_is_needed_as_long_as_its_run_has_use_for_it() {
        use Cleanup as C;
        use CleanupPolicy as P;
        use RunStatus as S;
        assert!(!is_needed(None));
        for (status, policy, cleanup, is_its_own, needed) in [
            (S::Running, P::Delete, None, true, true),
            (S::Running, P::Delete, None, false, true),
            (S::Queued, P::Stop, None, false, true),
            (S::Cancelled, P::Stop, None, true, false),
            (S::Succeeded, P::Delete, Some(C::Pending), true, true),
            (S::Succeeded, P::Delete, Some(C::Succeeded), true, false),
            (S::Succeeded, P::Stop, Some(C::Succeeded), true, true),
            (S::Succeeded, P::Stop, Some(C::Succeeded), false, false),
            (S::Succeeded, P::Archive, Some(C::Succeeded), true, false),
            (S::Failed, P::Archive, Some(C::Failed), true, true),
            (S::Failed, P::Archive, Some(C::Failed), false, false),
            (S::Failed, P::Stop, Some(C::Failed), true, true),
            (S::Failed, P::Delete, Some(C::Failed), true, false),
            (S::Succeeded, P::Stop, Some(C::Skipped), true, false),
        ] {
            assert_eq!(is_needed(Some(Ended { status, policy, cleanup, is_its_own })), needed, "{status:?} {policy:?} {cleanup:?} {is_its_own}");
        }
    }

    #[test]
    fn of_each_schedule_the_newest_are_kept() {
        let one = |id: &str, schedule: Option<&str>, keep: Option<u32>, at: i64| Stopped {
            sandbox_id: id.to_owned(),
            app_id: "app".to_owned(),
            schedule_id: schedule.map(str::to_owned),
            keep,
            created_at_ms: at,
        };
        let many: Vec<_> = (0..13).map(|at| one(&format!("d{at:02}"), Some("daily"), None, at)).collect();
        assert_eq!(surplus(many), ["d02", "d01", "d00"], "ten, unless something is said");
        let mixed = vec![
            one("a1", Some("a"), Some(5), 1),
            one("a3", Some("a"), Some(1), 3),
            one("a2", Some("a"), None, 2),
            one("b1", Some("b"), Some(0), 1),
            one("c1", None, None, 1),
        ];
        assert_eq!(surplus(mixed), ["a2", "b1", "a1"], "the newest says how many, and none may be kept, too");
        let mut other = one("x", None, Some(0), 9);
        other.app_id = "other".to_owned();
        assert_eq!(surplus(vec![other, one("y", None, None, 1)]), ["x"], "apps do not count together");
        assert!(surplus(Vec::new()).is_empty());
    }
}
