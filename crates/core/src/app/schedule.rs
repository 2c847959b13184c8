//! Schedules of apps: when they tick, and how they come to their end.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use jiff::Timestamp;

use super::manifest::{Code, Diagnostic, Schedule, When};
use crate::{
    schedule::{Decision, Every, Next, Once, Ticks, cron},
    validate::Violation,
};

/// Whether a schedule goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    Active,
    /// It came as often as it was to.
    Completed,
    /// Its end has passed.
    Expired,
    MaxRunsReached,
    /// Somebody stopped it; it can be started again.
    Stopped,
    /// What is stored of it cannot be read.
    Failed,
    /// It is kept for what it ran.
    Deleted,
}

/// Who keeps a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeper {
    Api,
    /// The manifest of the live version: nobody else changes it.
    Manifest,
}

/// The ticks of a schedule within its bounds.
#[derive(Debug)]
pub struct Bounded {
    ticks: Box<dyn Ticks + Send + Sync>,
    from_ms: i64,
    until_ms: i64,
}

impl Ticks for Bounded {
    fn next_after(&self, at_ms: i64) -> Option<i64> {
        let next = self.ticks.next_after(at_ms.max(self.from_ms.saturating_sub(1)))?;
        (next <= self.until_ms).then_some(next)
    }
}

/// When a schedule ticks that was made, or was last made another, at a moment.
pub fn ticks(spec: &Schedule, made_at_ms: i64) -> Result<Bounded, String> {
    let start_ms = spec.start_at.map(|at| at.as_millisecond());
    let ticks: Box<dyn Ticks + Send + Sync> = match &spec.when {
        When::Cron(pattern) => Box::new(cron::Schedule::parse(pattern, &spec.policy.timezone)?),
        When::Rate(rate) => {
            let every_ms = i64::from(rate.seconds()) * 1000;
            Box::new(Every::new(start_ms.unwrap_or(made_at_ms.saturating_add(every_ms)), every_ms))
        }
        When::Once(at) => Box::new(Once { at_ms: at.as_millisecond() }),
    };
    Ok(Bounded { ticks, from_ms: start_ms.unwrap_or(i64::MIN), until_ms: spec.end_at.map_or(i64::MAX, |at| at.as_millisecond()) })
}

/// The first tick of a schedule that was made at a moment. A moment that has passed when a schedule of it is made is not run.
pub fn first(id: &str, spec: &Schedule, made_at_ms: i64) -> Result<Option<Next>, String> {
    Ok(crate::schedule::next(id, &ticks(spec, made_at_ms)?, &spec.policy, made_at_ms))
}

/// Whether two schedules tick alike, so that one may go on where the other was.
pub fn is_same_time(one: &Schedule, other: &Schedule) -> bool {
    let time = |spec: &Schedule| (spec.when.clone(), spec.policy.timezone.clone(), spec.policy.jitter_seconds, spec.start_at, spec.end_at);
    time(one) == time(other)
}

/// Lets no more ticks fire than there may be runs.
pub fn cap(decision: &mut Decision, left: Option<u64>) {
    let Some(mut left) = left else { return };
    for tick in &mut decision.ticks {
        if tick.fires && left == 0 {
            tick.fires = false;
            tick.reason = Some("maxRuns was reached".to_owned());
        } else if tick.fires {
            left -= 1;
        }
    }
    if left == 0 {
        decision.next = None;
    }
}

/// Runs that may still come; none = any number.
pub fn runs_left(spec: &Schedule, executions: u64) -> Option<u64> {
    spec.max_runs.map(|max| u64::from(max).saturating_sub(executions))
}

/// Which schedules of a manifest have the name of one that a client keeps: nobody takes that from the client.
pub fn names_taken<'a>(wanted: &[Schedule], there: impl IntoIterator<Item = (&'a str, Keeper)>) -> Vec<NameTaken> {
    let kept: BTreeSet<&str> = there.into_iter().filter(|(_, keeper)| *keeper == Keeper::Api).map(|(name, _)| name).collect();
    let taken = wanted.iter().enumerate().filter(|(_, spec)| kept.contains(spec.name.as_str()));
    taken.map(|(at, spec)| NameTaken { at, name: spec.name.clone() }).collect()
}

/// A schedule of a manifest, by its place there, whose name another one has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a schedule {name:?} that was not made by the manifest is there already; call this one otherwise, or delete that one first (`sandbar app schedules rm`)"
)]
pub struct NameTaken {
    pub at: usize,
    pub name: String,
}

impl NameTaken {
    /// As it is told with a manifest.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic { path: format!("$.schedules[{}].name", self.at), code: Code::DuplicateName, message: self.to_string(), line: 1, column: 1 }
    }
}

/// Why a schedule that begins at a moment never comes, and what is allowed; none where it does. A schedule that a client makes has to
/// come; one of a manifest that was deployed again may have been.
pub fn never_comes(id: &str, spec: &Schedule, now_ms: i64) -> Result<Option<Violation>, String> {
    if first(id, spec, now_ms)?.is_some() {
        return Ok(None);
    }
    let is_past = |at: Timestamp| at.as_millisecond() <= now_ms;
    let now = Timestamp::from_millisecond(now_ms).map_or_else(|_| now_ms.to_string(), |now| now.to_string());
    Ok(Some(match (&spec.when, spec.end_at) {
        (When::Once(at), _) if is_past(*at) => Violation::new("once", format!("has passed ({at}): it must be a moment after now, which is {now}")),
        (_, Some(end)) if is_past(end) => Violation::new("endAt", format!("has passed ({end}): it must be a moment after now, which is {now}")),
        (When::Once(at), _) => Violation::new("once", format!("{at} is not between startAt and endAt, so it never comes")),
        (_, Some(end)) => Violation::new("endAt", format!("comes before the first time of the schedule ({end}): it must be after that")),
        (_, None) => Violation::new("cron", "never comes any more".to_owned()),
    }))
}

/// How a schedule that begins now is over already, if it is.
pub fn over(id: &str, spec: &Schedule, executions: u64, next: Option<Next>, now_ms: i64) -> Result<Option<(Lifecycle, String)>, String> {
    Ok(match ended(spec, executions, next) {
        Some((Lifecycle::Completed | Lifecycle::Expired, reason)) => {
            let why = never_comes(id, spec, now_ms)?.map_or(reason, |why| why.to_string());
            Some((Lifecycle::Expired, why))
        }
        ended => ended,
    })
}

/// After the clock was set back to a moment: from when a schedule counts and what its next tick is, where it comes sooner than is planned.
/// What was made by a clock that was ahead counts from that moment, else a rate would wait until the clock is there again.
pub fn sooner(id: &str, spec: &Schedule, timed_at_ms: i64, planned_ms: Option<i64>, now_ms: i64) -> Result<Option<(i64, Next)>, String> {
    let timed_at_ms = timed_at_ms.min(now_ms);
    let next = crate::schedule::next(id, &ticks(spec, timed_at_ms)?, &spec.policy, now_ms);
    Ok(next.filter(|next| planned_ms.is_none_or(|planned_ms| planned_ms > next.tick_ms)).map(|next| (timed_at_ms, next)))
}

/// How a schedule has come to its end, if it has, after so many runs and with such a next tick.
pub fn ended(spec: &Schedule, executions: u64, next: Option<Next>) -> Option<(Lifecycle, String)> {
    match (runs_left(spec, executions), next, &spec.when, spec.end_at) {
        (Some(0), ..) => Some((Lifecycle::MaxRunsReached, format!("it ran {executions} times, which is its maxRuns"))),
        (_, Some(_), ..) => None,
        (_, None, When::Once(_), _) => Some((Lifecycle::Completed, "its one moment has passed".to_owned())),
        (_, None, _, Some(end)) => Some((Lifecycle::Expired, format!("its endAt has passed ({end})"))),
        (_, None, _, None) => Some((Lifecycle::Completed, "it has no further tick".to_owned())),
    }
}

impl Lifecycle {
    pub const ALL: [Self; 7] = [Self::Active, Self::Completed, Self::Expired, Self::MaxRunsReached, Self::Stopped, Self::Failed, Self::Deleted];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::MaxRunsReached => "max_runs_reached",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lifecycle| lifecycle.as_str() == text)
    }
}

impl Keeper {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Manifest => "manifest",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        [Self::Api, Self::Manifest].into_iter().find(|keeper| keeper.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::schedule::{State, decide};

    const MINUTE: i64 = 60_000;
    const DAY: i64 = 1440 * MINUTE;

    fn spec(given: Value) -> Schedule {
        let mut whole = json!({ "name": "s", "enabled": true, "target": { "kind": "action", "name": "a" }, "runtimePolicy": "run_and_stop" });
        whole.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn ticks_lie_within_their_bounds() {
        let table = [
            (json!({ "rate": "1 minute" }), 500, vec![500 + MINUTE, 500 + 2 * MINUTE]),
            (json!({ "rate": "1 minute", "startAt": "1970-01-01T00:10:00Z" }), 500, vec![10 * MINUTE, 11 * MINUTE]),
            (json!({ "rate": "1 minute", "endAt": "1970-01-01T00:01:30Z" }), 0, vec![MINUTE]),
            (json!({ "cron": "0 0 * * *" }), 1, vec![DAY, 2 * DAY]),
            (json!({ "cron": "* * * * *", "startAt": "1970-01-01T00:10:00Z", "endAt": "1970-01-01T00:11:00Z" }), 1, vec![10 * MINUTE, 11 * MINUTE]),
            (json!({ "once": "1970-01-01T00:10:00Z" }), 0, vec![10 * MINUTE]),
            (json!({ "once": "1970-01-01T00:10:00Z" }), 10 * MINUTE, vec![]),
        ];
        for (given, made, expected) in table {
            let spec = spec(given.clone());
            let bounded = ticks(&spec, made).unwrap();
            let mut seen = Vec::new();
            let mut at = made;
            while let Some(next) = bounded.next_after(at) {
                at = next;
                seen.push(next);
                if seen.len() == 2 {
                    break;
                }
            }
            assert_eq!(seen, expected, "{given}");
        }
    }

    #[test]
    fn what_a_client_keeps_is_taken_by_no_manifest() {
        let wanted = ["a", "b", "c"].map(|name| Schedule { name: name.to_owned(), ..spec(json!({ "rate": "1 hour" })) });
        type Row = (&'static [(&'static str, Keeper)], &'static [usize]);
        let table: [Row; 5] = [
            (&[], &[]),
            (&[("a", Keeper::Manifest)], &[]),
            (&[("d", Keeper::Api)], &[]),
            (&[("b", Keeper::Api), ("a", Keeper::Manifest)], &[1]),
            (&[("c", Keeper::Api), ("a", Keeper::Api)], &[0, 2]),
        ];
        for (there, expected) in table {
            let taken = names_taken(&wanted, there.iter().copied());
            assert_eq!(taken.iter().map(|taken| taken.at).collect::<Vec<_>>(), expected, "{there:?}");
            for taken in taken {
                let told = taken.diagnostic();
                assert_eq!(told.path, format!("$.schedules[{}].name", taken.at));
                assert!(told.message.contains(&format!("{:?}", taken.name)) && told.message.contains("delete"), "{told}");
            }
        }
    }

    #[test]
    fn runs_have_an_end() {
        let spec = spec(json!({ "cron": "* * * * *", "maxRuns": 2, "missedRunPolicy": "run_all", "concurrencyPolicy": "allow" }));
        let calendar = ticks(&spec, 0).unwrap();
        let state =
            State { id: "s", ticks: &calendar, policy: &spec.policy, next_tick_ms: MINUTE, accounted: &[], busy: false, waiting: 0, now_ms: 4 * MINUTE };
        let mut decision = decide(&state);
        cap(&mut decision, runs_left(&spec, 0));
        assert_eq!(decision.ticks.iter().map(|tick| tick.fires).collect::<Vec<_>>(), [true, true, false, false]);
        assert_eq!(decision.next, None);
        assert_eq!(ended(&spec, 2, decision.next).unwrap().0, Lifecycle::MaxRunsReached);
        assert_eq!(ended(&spec, 1, Some(Next { tick_ms: 1, due_at_ms: 1 })), None);
    }

    #[test]
    fn what_never_comes_is_told_with_what_is_allowed() {
        let now = 20 * MINUTE;
        let table = [
            (json!({ "once": "1970-01-01T00:20:00Z" }), Some(("once", "must be a moment after now, which is 1970-01-01T00:20:00Z"))),
            (json!({ "once": "1970-01-01T00:20:01Z" }), None),
            (json!({ "once": "1970-01-01T00:30:00Z", "endAt": "1970-01-01T00:25:00Z" }), Some(("once", "not between startAt and endAt"))),
            (json!({ "once": "1970-01-01T00:30:00Z", "startAt": "1970-01-01T00:35:00Z" }), Some(("once", "not between startAt and endAt"))),
            (json!({ "cron": "* * * * *", "endAt": "1970-01-01T00:19:00Z" }), Some(("endAt", "has passed"))),
            (json!({ "rate": "1 hour", "endAt": "1970-01-01T00:25:00Z" }), Some(("endAt", "comes before the first time"))),
            (json!({ "rate": "1 hour" }), None),
        ];
        for (given, expected) in table {
            let spec = spec(given.clone());
            let why = never_comes("s", &spec, now).unwrap();
            assert_eq!(why.as_ref().map(|why| why.path.as_str()), expected.map(|(path, _)| path), "{given}");
            if let Some((why, (_, text))) = why.zip(expected) {
                assert!(why.message.contains(text), "{given}: {why}");
                let over = over("s", &spec, 0, None, now).unwrap().unwrap();
                assert_eq!(over, (Lifecycle::Expired, why.to_string()), "{given}");
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_wait() {
        let hour = 60 * MINUTE;
        let table = [
            // Planned by a clock that was an hour ahead, and made by it.
            (json!({ "rate": "5 minutes" }), 3 * hour, Some(3 * hour + 5 * MINUTE), Some((2 * hour, 2 * hour + 5 * MINUTE))),
            // Made before: it keeps its beat.
            (json!({ "rate": "5 minutes" }), 2 * MINUTE, Some(3 * hour + 2 * MINUTE), Some((2 * MINUTE, 2 * hour + 2 * MINUTE))),
            (json!({ "cron": "30 * * * *" }), 3 * hour, Some(3 * hour + 30 * MINUTE), Some((2 * hour, 2 * hour + 30 * MINUTE))),
            // It had come to its end by then.
            (json!({ "cron": "30 * * * *", "endAt": "1970-01-01T02:45:00Z" }), 0, None, Some((0, 2 * hour + 30 * MINUTE))),
            (json!({ "cron": "30 * * * *", "endAt": "1970-01-01T02:15:00Z" }), 0, None, None),
            // Nothing is sooner.
            (json!({ "once": "1970-01-01T04:00:00Z" }), 0, Some(4 * hour), None),
            (json!({ "rate": "1 hour", "startAt": "1970-01-01T09:00:00Z" }), 3 * hour, Some(9 * hour), None),
        ];
        for (given, made, planned, expected) in table {
            let found = sooner("s", &spec(given.clone()), made, planned, 2 * hour).unwrap();
            assert_eq!(found.map(|(timed, next)| (timed, next.tick_ms)), expected, "{given}");
        }
    }

    /// What is known of a schedule, as rows keep it.
    struct Kept {
        spec: Schedule,
        timed_at_ms: i64,
        next: Option<Next>,
        /// From and to of what was decided, by its last tick.
        decided: BTreeMap<i64, i64>,
        fired: BTreeSet<i64>,
    }

    impl Kept {
        /// What a server does that finds the clock at a moment.
        fn look(&mut self, now_ms: i64) -> Result<(), TestCaseError> {
            let calendar = ticks(&self.spec, self.timed_at_ms).unwrap();
            let Some(next) = self.next.filter(|next| next.due_at_ms <= now_ms) else { return Ok(()) };
            let accounted: Vec<(i64, i64)> = self.decided.range(next.tick_ms..).map(|(to, from)| (*from, *to)).collect();
            let policy = &self.spec.policy;
            let state = State { id: "s", ticks: &calendar, policy, next_tick_ms: next.tick_ms, accounted: &accounted, busy: false, waiting: 0, now_ms };
            let decision = decide(&state);
            for tick in decision.ticks {
                prop_assert!(self.decided.insert(tick.tick_ms, tick.first_tick_ms).is_none(), "decided twice: {tick:?}");
                prop_assert!(!tick.fires || self.fired.insert(tick.tick_ms), "fired twice: {tick:?}");
            }
            // None that has come is left out.
            let mut at = next.tick_ms;
            while at <= now_ms && decision.next.is_none_or(|next| at < next.tick_ms) {
                prop_assert!(self.decided.range(at..).any(|(_, from)| *from <= at), "nothing was decided about {at}");
                let Some(following) = calendar.next_after(at) else { break };
                at = following;
            }
            self.next = decision.next;
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

        /// However the clock is set, and for whatever time the server is away: no tick fires twice, none is left out, and the next one is
        /// never further away than it is by the clock of now.
        #[test]
        fn clocks_may_be_set(
            given in prop_oneof![
                Just(json!({ "cron": "*/20 * * * *", "timezone": "Europe/Berlin" })),
                Just(json!({ "cron": "30 2 * * *", "timezone": "America/New_York", "missedRunPolicy": "run_all", "concurrencyPolicy": "allow" })),
                Just(json!({ "rate": "25 minutes" })),
                Just(json!({ "rate": "25 minutes", "jitterSeconds": 600, "missedRunPolicy": "skip" })),
                Just(json!({ "once": "2026-10-25T01:30:00Z" })),
            ],
            moves in proptest::collection::vec(prop_oneof![3 => 0i64..30 * MINUTE, 1 => 0i64..2 * DAY, 1 => -2 * DAY..0], 1..40),
        ) {
            let spec = spec(given);
            let mut now_ms = "2026-10-24T20:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
            let next = first("s", &spec, now_ms).unwrap();
            let mut kept = Kept { spec, timed_at_ms: now_ms, next, decided: BTreeMap::new(), fired: BTreeSet::new() };
            for by in moves {
                now_ms += by;
                if by < 0
                    && let Some((timed_at_ms, next)) = sooner("s", &kept.spec, kept.timed_at_ms, kept.next.map(|next| next.tick_ms), now_ms).unwrap()
                {
                    (kept.timed_at_ms, kept.next) = (timed_at_ms, Some(next));
                }
                kept.look(now_ms)?;
                let by_now = crate::schedule::next("s", &ticks(&kept.spec, kept.timed_at_ms).unwrap(), &kept.spec.policy, now_ms);
                // A jitter may put one off that has come already.
                prop_assert!(by_now.is_none_or(|by_now| kept.next.is_some_and(|next| next.tick_ms <= by_now.tick_ms)), "{by_now:?} {:?}", kept.next);
            }
        }
    }

    #[test]
    fn how_it_ended_is_told() {
        let end = |given: Value| ended(&spec(given), 1, None).unwrap().0;
        assert_eq!(end(json!({ "once": "1970-01-01T00:10:00Z" })), Lifecycle::Completed);
        assert_eq!(end(json!({ "rate": "1 hour", "endAt": "1970-01-01T00:10:00Z" })), Lifecycle::Expired);
    }
}
