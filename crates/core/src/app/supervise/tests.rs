use proptest::prelude::*;

use super::*;

fn service() -> Upkeep {
    Upkeep::new(Restart::of(RestartPolicy::OnFailure), 60_000)
}

fn start() -> Upkeep {
    Upkeep::new(Restart::default(), 60_000)
}

fn exit(code: i32) -> Seen {
    Seen::Ended(Ending::of("web", Some(code), None, 0, Vec::new()))
}

#[test]
fn a_start_goes_through_its_states() {
    let mut start = start();
    assert_eq!((start.state(), start.next(0)), (AppState::None, Next::Rest));
    for (seen, at, state, next) in [
        (Seen::Wanted, 0, AppState::Starting, Next::Launch { adopt: false }),
        // A second call joins.
        (Seen::Wanted, 5, AppState::Starting, Next::Launch { adopt: false }),
        (Seen::Runs, 10, AppState::Starting, Next::Check { until_ms: 60_010 }),
        (Seen::Missed, 20, AppState::Starting, Next::Check { until_ms: 60_010 }),
        (Seen::Wanted, 20, AppState::Starting, Next::Check { until_ms: 60_010 }),
        (Seen::Passed, 30, AppState::Ready, Next::Look),
        (Seen::Wanted, 31, AppState::Ready, Next::Look),
        (Seen::Missed, 40, AppState::Ready, Next::Look),
        (Seen::Missed, 41, AppState::Ready, Next::Look),
        (Seen::Passed, 42, AppState::Ready, Next::Look),
        (Seen::Missed, 43, AppState::Ready, Next::Look),
        (Seen::Missed, 44, AppState::Ready, Next::Look),
        (Seen::Missed, 45, AppState::Unhealthy, Next::Look),
        (Seen::Missed, 46, AppState::Unhealthy, Next::Look),
        (Seen::Passed, 47, AppState::Ready, Next::Look),
        // Asleep, and awake: it is checked again, not believed.
        (Seen::Lost, 50, AppState::Starting, Next::Launch { adopt: true }),
        (Seen::Runs, 60, AppState::Starting, Next::Check { until_ms: 60_060 }),
        (Seen::Passed, 70, AppState::Ready, Next::Look),
        (exit(3), 80, AppState::Failed, Next::Rest),
        (Seen::Lost, 81, AppState::Failed, Next::Rest),
        (Seen::Passed, 82, AppState::Failed, Next::Rest),
        (Seen::Wanted, 90, AppState::Starting, Next::Launch { adopt: false }),
        (Seen::Runs, 91, AppState::Starting, Next::Check { until_ms: 60_091 }),
        (exit(0), 92, AppState::Exited, Next::Rest),
        (Seen::Unwanted, 93, AppState::None, Next::Rest),
        (Seen::Runs, 94, AppState::None, Next::Rest),
    ] {
        start.see(seen.clone(), at);
        assert_eq!((start.state(), start.next(at)), (state, next), "{seen:?} at {at}");
    }
}

#[test]
fn what_is_not_ready_in_time_is_ended() {
    let mut start = start();
    start.see(Seen::Wanted, 0);
    start.see(Seen::Runs, 100);
    assert_eq!(start.next(60_099), Next::Check { until_ms: 60_100 });
    assert_eq!(start.next(60_100), Next::End);
    start.see(Seen::Ended(Ending::new(Why::StartNotReady, "late", 60_100)), 60_100);
    assert_eq!(start.state(), AppState::Failed);
    assert_eq!(start.last().map(|last| last.why), Some(Why::StartNotReady));
}

#[test]
fn the_pause_before_a_restart_doubles_up_to_a_minute_and_begins_anew_after_a_stable_time() {
    let mut service = service();
    service.see(Seen::Wanted, 0);
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        service.see(Seen::Runs, now);
        service.see(exit(1), now);
        let Next::Pause { until_ms } = service.next(now) else { panic!("{service:?}") };
        pauses.push(until_ms - now);
        now = until_ms;
        assert_eq!((service.state(), service.next(now)), (AppState::Starting, Next::Launch { adopt: false }));
    }
    assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    assert_eq!(service.restarts(), 9);
    service.see(Seen::Runs, now);
    service.see(Seen::Passed, now);
    now += STABLE_MS;
    service.see(exit(1), now);
    assert_eq!(service.next(now), Next::Pause { until_ms: now + 1_000 });
    assert_eq!(service.restarts(), 10);
}

#[test]
fn policies() {
    let over = |when, max: Option<u32>, codes: &[i32]| {
        let mut upkeep = Upkeep::new(Restart { max_restarts: max, ..Restart::of(when) }, 1_000);
        upkeep.see(Seen::Wanted, 0);
        for (nth, code) in codes.iter().enumerate() {
            upkeep.see(Seen::Runs, 0);
            upkeep.see(exit(*code), 0);
            if upkeep.next(0) == Next::Rest {
                return (nth + 1, upkeep.state());
            }
            upkeep.see(Seen::Lost, 0);
        }
        (codes.len(), upkeep.state())
    };
    assert_eq!(over(RestartPolicy::Never, None, &[1]), (1, AppState::Failed));
    assert_eq!(over(RestartPolicy::Never, None, &[0]), (1, AppState::Exited));
    assert_eq!(over(RestartPolicy::OnFailure, None, &[1, 1, 0]), (3, AppState::Exited));
    assert_eq!(over(RestartPolicy::OnFailure, Some(2), &[1, 1, 1, 1]), (3, AppState::Failed));
    assert_eq!(over(RestartPolicy::OnFailure, Some(0), &[1]), (1, AppState::Failed));
    assert_eq!(over(RestartPolicy::Always, Some(1), &[0, 0]), (2, AppState::Exited));
    assert_eq!(over(RestartPolicy::Always, None, &[0, 1, 0]), (3, AppState::Starting));
}

#[test]
fn one_who_wants_it_does_not_wait_for_the_pause_to_end() {
    let mut service = service();
    service.see(Seen::Wanted, 0);
    service.see(Seen::Runs, 0);
    service.see(exit(1), 0);
    service.see(Seen::Wanted, 1);
    assert_eq!(service.next(1), Next::Launch { adopt: false });
    assert_eq!(service.restarts(), 0);
}

#[test]
fn a_new_server_begins_with_what_was_stored() {
    let over = start().again(Some(Ending::of("start", Some(3), None, 0, vec!["bad".into()])));
    assert_eq!((over.state(), over.next(0)), (AppState::Failed, Next::Rest));
    let exited = start().again(Some(Ending::of("start", Some(0), None, 0, Vec::new())));
    assert_eq!(exited.state(), AppState::Exited);
    let running = start().again(None);
    assert_eq!((running.state(), running.next(0)), (AppState::Starting, Next::Launch { adopt: true }));
}

#[test]
fn endings_say_why() {
    for (code, told, why, text) in [
        (Some(0), None, Why::Exited, "\"web\" exited with code 0"),
        (Some(3), None, Why::ExitCode, "\"web\" exited with code 3"),
        (Some(143), Some("ttl: the context reached its ttl of 5 s"), Why::TimedOut, "longer than its timeoutSeconds"),
        (Some(137), Some("out_of_memory: the sandbox ..."), Why::OutOfMemory, "memory limit"),
        (Some(139), Some("signal: SIGSEGV"), Why::Signal, "\"web\" was ended by SIGSEGV (exit code 139)"),
        (None, None, Why::NotStarted, "not known"),
    ] {
        let ending = Ending::of("web", code, told, 7, Vec::new());
        assert_eq!(ending.why, why);
        assert!(ending.text.contains(text), "{}", ending.text);
    }
}

#[test]
fn the_tail_is_the_last_lines_cut() {
    let text: String = (0..150).map(|n| format!("line {n}\n")).collect();
    let lines = tail(&text, 100, 6);
    assert_eq!((lines.len(), lines[0].as_str()), (100, "line 5"));
    assert_eq!(tail("a\n\nb", 100, 10), ["a", "", "b"]);
    assert!(tail("", 5, 5).is_empty());
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        Just(Seen::Wanted),
        Just(Seen::Unwanted),
        Just(Seen::Lost),
        Just(Seen::Runs),
        Just(Seen::Passed),
        Just(Seen::Missed),
        (0..2).prop_map(exit),
        Just(Seen::Ended(Ending::new(Why::StartNotReady, "late", 0))),
        Just(Seen::Blocked(Ending::new(Why::DependencyFailed, "db", 0))),
    ]
}

proptest! {
    #[test]
    fn whatever_is_seen_some_things_hold(
        steps in proptest::collection::vec((seen(), 0..100_000i64), 0..60),
        when in prop_oneof![Just(RestartPolicy::Never), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Always)],
        max in proptest::option::of(0..4u32),
    ) {
        let mut upkeep = Upkeep::new(Restart { max_restarts: max, ..Restart::of(when) }, 5_000);
        let (mut now, mut passed) = (0, false);
        for (seen, later) in steps {
            now += later;
            let before = upkeep.clone();
            upkeep.see(seen.clone(), now);
            // Ready comes from a check that passed, and is lost with the processes.
            passed = match (&seen, before.state()) {
                (Seen::Passed, AppState::Starting | AppState::Ready | AppState::Unhealthy) => true,
                (Seen::Lost | Seen::Unwanted | Seen::Ended(_) | Seen::Blocked(_), _) => false,
                _ => passed,
            };
            if upkeep.state() == AppState::Ready {
                prop_assert!(passed);
            }
            if seen == Seen::Lost {
                prop_assert!(upkeep.state() != AppState::Ready && upkeep.state() != AppState::Unhealthy);
            }
            // A pause is within its bounds, and never in the past when it is set.
            if let (Seen::Ended(_), Next::Pause { until_ms }) = (&seen, upkeep.next(now)) {
                prop_assert!(upkeep == before || (1_000..=60_000).contains(&(until_ms - now)));
            }
            // Never: nobody starts it but who wants it.
            if when == RestartPolicy::Never && !matches!(seen, Seen::Wanted | Seen::Lost) && before.next(now) == Next::Rest {
                prop_assert_eq!(upkeep.next(now), Next::Rest);
            }
            if let Some(max) = max {
                prop_assert!(upkeep.in_a_row <= max);
            }
        }
        upkeep.see(Seen::Unwanted, now);
        prop_assert_eq!((upkeep.state(), upkeep.next(now), upkeep.last()), (AppState::None, Next::Rest, None));
    }
}
