use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60_000;

fn minutes() -> cron::Schedule {
    cron::Schedule::parse("* * * * *", "UTC").unwrap()
}

fn state<'a>(cron: &'a cron::Schedule, policy: &'a Policy, busy: bool, now_ms: i64) -> State<'a> {
    State { id: "s", ticks: cron, policy, next_tick_ms: MINUTE, accounted: &[], busy, waiting: 0, now_ms }
}

/// `f3` fired at minute 3, `l3` the same but late, `s1-2` skipped from 1 to 2.
fn words(decision: &Decision) -> String {
    let word = |tick: &Tick| match (tick.fires, &tick.reason) {
        (true, None) => format!("f{}", tick.tick_ms / MINUTE),
        (true, Some(_)) => format!("l{}", tick.tick_ms / MINUTE),
        (false, _) => format!("s{}-{}", tick.first_tick_ms / MINUTE, tick.tick_ms / MINUTE),
    };
    let mut words: Vec<_> = decision.ticks.iter().map(word).collect();
    words.extend(decision.next.map(|next| format!("next{}", next.tick_ms / MINUTE)));
    words.extend(decision.replaces.then(|| "replaces".to_owned()));
    words.join(" ")
}

#[test]
fn by_policy() {
    use ConcurrencyPolicy::{Allow, Queue, Replace, Skip};
    use MissedRunPolicy::{RunAll, RunOnce};
    let cron = minutes();
    let on_time = 5 * MINUTE + 50;
    let after = 5 * MINUTE + 40_000;
    for (missed, concurrency, busy, now, expected) in [
        // Nothing is due yet.
        (RunOnce, Skip, false, MINUTE - 1, "next1"),
        (RunOnce, Skip, false, MINUTE, "f1 next2"),
        (RunOnce, Skip, true, MINUTE, "s1-1 next2"),
        (RunOnce, Allow, true, MINUTE, "f1 next2"),
        (RunOnce, Queue, true, MINUTE, "f1 next2"),
        (RunOnce, Replace, true, MINUTE, "f1 next2 replaces"),
        (RunOnce, Replace, false, MINUTE, "f1 next2"),
        // Five are due, the last of them on time.
        (RunOnce, Skip, false, on_time, "s1-4 f5 next6"),
        (MissedRunPolicy::Skip, Skip, false, on_time, "s1-4 f5 next6"),
        (RunAll, Skip, false, on_time, "s1-1 l2 l3 l4 s5-5 next6"),
        (RunAll, Allow, false, on_time, "s1-1 l2 l3 l4 f5 next6"),
        (RunAll, Queue, true, on_time, "s1-1 l2 l3 l4 f5 next6"),
        (RunAll, Replace, true, on_time, "s1-1 s2-4 f5 next6 replaces"),
        // None of them is on time.
        (RunOnce, Skip, false, after, "s1-4 l5 next6"),
        (RunOnce, Skip, true, after, "s1-4 s5-5 next6"),
        (RunOnce, Allow, true, after, "s1-4 l5 next6"),
        (MissedRunPolicy::Skip, Skip, false, after, "s1-5 next6"),
        (RunAll, Skip, false, after, "s1-2 l3 l4 l5 next6"),
        (RunAll, Skip, true, after, "s1-2 l3 l4 l5 next6"),
    ] {
        let policy = Policy { missed_run_policy: missed, missed_runs_max: 3, concurrency_policy: concurrency, ..Policy::default() };
        let decision = decide(&state(&cron, &policy, busy, now));
        assert_eq!(words(&decision), expected, "{missed:?} {concurrency:?} busy {busy} at {now}");
    }
}

#[test]
fn what_is_later_than_its_deadline_is_skipped() {
    let cron = minutes();
    let policy = Policy { starting_deadline_seconds: Some(90), missed_run_policy: MissedRunPolicy::RunAll, ..Policy::default() };
    let decision = decide(&state(&cron, &policy, false, 5 * MINUTE + 40_000));
    assert_eq!(words(&decision), "s1-4 l5 next6");
    assert!(decision.ticks[0].reason.as_ref().unwrap().contains("startingDeadlineSeconds"));
    let policy = Policy { starting_deadline_seconds: Some(1), ..Policy::default() };
    assert_eq!(words(&decide(&state(&cron, &policy, false, MINUTE + 2000))), "s1-1 next2");
}

#[test]
fn jitter_that_is_longer_than_the_pause_loses_no_tick() {
    let cron = minutes();
    let policy = Policy { jitter_seconds: 3600, ..Policy::default() };
    let mut coming = next("s", &cron, &policy, 0).unwrap();
    for minute in 1..200 {
        assert_eq!(coming.tick_ms, minute * MINUTE);
        assert!((coming.tick_ms..coming.tick_ms + MINUTE).contains(&coming.due_at_ms), "{coming:?}");
        let decision = decide(&State { next_tick_ms: coming.tick_ms, ..state(&cron, &policy, false, coming.due_at_ms) });
        assert_eq!(words(&decision), format!("f{minute} next{}", minute + 1));
        coming = decision.next.unwrap();
    }
}

#[test]
fn a_queue_has_an_end() {
    let cron = minutes();
    let policy = Policy { concurrency_policy: ConcurrencyPolicy::Queue, ..Policy::default() };
    let full = State { waiting: limits::SCRIPT_SCHEDULE_QUEUE_MAX, ..state(&cron, &policy, true, MINUTE) };
    assert_eq!(words(&decide(&full)), "s1-1 next2");
}

#[test]
fn what_was_decided_before_the_clock_was_set_back_stands() {
    let cron = minutes();
    let policy = Policy { concurrency_policy: ConcurrencyPolicy::Allow, missed_run_policy: MissedRunPolicy::RunAll, ..Policy::default() };
    let accounted = [(2 * MINUTE, 3 * MINUTE), (5 * MINUTE, 5 * MINUTE)];
    let state = State { accounted: &accounted, ..state(&cron, &policy, false, 6 * MINUTE) };
    assert_eq!(words(&decide(&state)), "l1 l4 f6 next7");
}

#[test]
fn a_year_that_was_missed_second_by_second_is_decided_in_steps() {
    let cron = cron::Schedule::parse("* * * * * *", "UTC").unwrap();
    let policy = Policy::default();
    let (mut next, mut skipped, mut fired) = (1000, 0, 0);
    let now_ms = 200_000_500;
    while next <= now_ms {
        let decision = decide(&State { next_tick_ms: next, ..state(&cron, &policy, false, now_ms) });
        skipped += decision.ticks.iter().filter(|tick| !tick.fires).map(|tick| tick.count).sum::<u64>();
        fired += decision.ticks.iter().filter(|tick| tick.fires).count();
        next = decision.next.unwrap().tick_ms;
    }
    // The first tick on time fires, the ten after it find it running.
    assert_eq!((skipped, fired), (199_999, 1));
}

#[test]
fn what_a_run_is_told() {
    let input: serde_json::Value = serde_json::from_str(&crate::script::tick_input("0 9 * * *", 1_767_258_000_000, 1_767_258_000_042)).unwrap();
    assert_eq!(input, serde_json::json!({ "firedAt": "2026-01-01T09:00:00.042Z", "pattern": "0 9 * * *", "scheduledAt": "2026-01-01T09:00:00.000Z" }));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whenever it is looked, and however often: each tick is in one entry, and never in two.
    #[test]
    fn each_tick_is_accounted_for_once(
        pattern in prop_oneof![Just("* * * * *"), Just("*/7 * * * * *"), Just("30 2 * * *"), Just("0 * * * *")],
        zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Australia/Lord_Howe")],
        missed in prop_oneof![Just(MissedRunPolicy::Skip), Just(MissedRunPolicy::RunOnce), Just(MissedRunPolicy::RunAll)],
        concurrency in proptest::sample::select(ConcurrencyPolicy::ALL.to_vec()),
        deadline in proptest::option::of(0u32..100),
        jitter in 0u32..200,
        busy in proptest::collection::vec(any::<bool>(), 1..8),
        pauses in proptest::collection::vec(prop_oneof![0i64..2000, 0i64..200_000, 0i64..20_000_000], 1..8),
        start in 1_700_000_000_000i64..1_800_000_000_000,
    ) {
        let cron = cron::Schedule::parse(pattern, zone).unwrap();
        let policy = Policy {
            missed_run_policy: missed, concurrency_policy: concurrency, starting_deadline_seconds: deadline, jitter_seconds: jitter, ..Policy::default()
        };
        let first = next("s", &cron, &policy, start).unwrap();
        let (mut coming, mut now, mut expected) = (first, start, first.tick_ms);
        for (pause, busy) in pauses.iter().zip(busy.iter().cycle()) {
            now += pause;
            let state = State { id: "s", ticks: &cron, policy: &policy, next_tick_ms: coming.tick_ms, accounted: &[], busy: *busy, waiting: 0, now_ms: now };
            let decision = decide(&state);
            for tick in &decision.ticks {
                prop_assert_eq!(tick.first_tick_ms, expected, "none is left out");
                for _ in 1..tick.count {
                    expected = cron.next_after(expected).unwrap();
                }
                prop_assert_eq!(tick.tick_ms, expected);
                prop_assert!(due_at_ms("s", &policy, expected, cron.next_after(expected)) <= now);
                prop_assert!(tick.fires || tick.reason.is_some());
                expected = cron.next_after(expected).unwrap();
            }
            let fired = decision.ticks.iter().filter(|tick| tick.fires).count();
            if concurrency == ConcurrencyPolicy::Skip && missed != MissedRunPolicy::RunAll {
                prop_assert!(fired <= usize::from(!busy));
            }
            if concurrency == ConcurrencyPolicy::Replace {
                prop_assert!(fired <= 1);
            }
            coming = decision.next.unwrap();
            prop_assert_eq!(coming.tick_ms, expected);
            prop_assert!(coming.due_at_ms > now);
        }
    }
}
