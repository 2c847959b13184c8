use super::*;
use proptest::prelude::*;

const S: i64 = 1000;

fn sandbox(ttl: i32, hard_ttl: i32) -> SandboxRecord {
    let config = SandboxConfig { ttl: Some(ttl), hard_ttl: Some(hard_ttl), ..SandboxConfig::default() };
    let new = Claim {
        id: "sb-1".into(),
        team_id: "t".into(),
        user_id: "u".into(),
        template_id: "default".into(),
        template: TemplateSpec::default(),
        config,
        mounts: Vec::new(),
        base: None,
    };
    let mut record = claim(new, 0);
    record.runtime_id = Some("rt-1".into());
    record.root_id = Some("root-1".into());
    observe(&record, Observation::Started, 0).record
}

fn paused(record: &SandboxRecord, now_ms: i64) -> SandboxRecord {
    let t = pause(record, reason::USER_REQUEST, "asked", now_ms).expect("pause");
    assert_eq!(t.effects, [Effect::Freeze]);
    observe(&t.record, Observation::Frozen, now_ms).record
}

#[test]
fn claim_arms_what_is_on() {
    let record = sandbox(300, 3600);
    assert_eq!((record.expires_at_ms, record.hard_expires_at_ms), (Some(300 * S), Some(3600 * S)));
    let off = sandbox(0, 0);
    assert_eq!((off.expires_at_ms, off.hard_expires_at_ms, next_deadline(&off)), (None, None, None));
    assert_eq!(power_state(&off).phase, "stable");
}

/// The timeline of the product's page: ttl 300, hard_ttl 3600, refresh at 310.
#[test]
fn timeline_of_the_mission() {
    let record = sandbox(300, 3600);
    assert_eq!(on_deadline(&record, 300 * S - 1), None);
    let t = on_deadline(&record, 300 * S).expect("ttl is due");
    assert_eq!(t.effects, [Effect::Freeze]);
    assert_eq!(t.record.reason_code.as_deref(), Some(reason::TTL_EXPIRED));
    let record = observe(&t.record, Observation::Frozen, 300 * S).record;
    let record = refresh(&record, None, 310 * S).expect("refresh while paused").record;
    assert_eq!((record.expires_at_ms, record.hard_expires_at_ms), (Some(610 * S), Some(3910 * S)));
    assert_eq!(record.desired, Desired::Paused);
    let record = observe(&resume(&record, 400 * S).expect("resume").record, Observation::Thawed, 400 * S).record;
    assert_eq!(record.hard_expires_at_ms, Some(3910 * S));
    let t = on_deadline(&record, 3910 * S).expect("hard ttl is due");
    assert_eq!(t.effects, [Effect::Destroy { root: true }]);
    let record = observe(&t.record, Observation::Cleaned, 3910 * S).record;
    assert_eq!(wire_status(&record, Profile::May).status, "cleaned");
    assert_eq!(wire_status(&record, Profile::Current), WireStatus { status: "paused", paused: true, cleaned: true });
    assert_eq!(next_deadline(&record), None);
    assert_eq!(refresh(&record, None, 4000 * S), Err(LifecycleError::Cleaned));
    let t = resume(&record, 4000 * S).expect("restore");
    assert_eq!(t.effects, [Effect::Launch]);
    assert_eq!((t.record.expires_at_ms, t.record.hard_expires_at_ms, t.record.root_id), (Some(4300 * S), Some(7600 * S), None));
}

#[test]
fn pause_freezes_then_hibernates() {
    let record = paused(&sandbox(0, 0), 10 * S);
    assert_eq!(next_deadline(&record), Some((610 * S, Deadline::Hibernate)));
    assert_eq!((status(&record), wire_status(&record, Profile::May).status), (Status::Paused, "running"));
    assert_eq!(power_state(&record), power_state(&pause(&record, reason::USER_REQUEST, "", 11 * S).expect("again").record));
    let t = on_deadline(&record, 610 * S).expect("due");
    assert_eq!(t.effects, [Effect::Hibernate]);
    let record = observe(&t.record, Observation::Hibernated, 611 * S).record;
    assert_eq!((record.runtime_id.as_deref(), record.previous_runtime_id.as_deref(), record.root_id.as_deref()), (None, Some("rt-1"), Some("root-1")));
    assert_eq!(next_deadline(&record), None);
    let t = resume(&record, 700 * S).expect("resume");
    assert_eq!((t.effects, t.record.runtime_generation, t.record.observed), (vec![Effect::Launch], 2, Observed::Starting));
    assert_eq!(power_state(&t.record).phase, "resuming");
    let record = observe(&t.record, Observation::Started, 700 * S).record;
    assert_eq!((power_state(&record).phase.as_str(), record.reason), ("stable", None));
}

#[test]
fn resume_arms_ttl_but_not_hard_ttl() {
    let record = paused(&sandbox(300, 3600), 200 * S);
    let t = resume(&record, 1000 * S).expect("resume");
    assert_eq!(t.effects, [Effect::Thaw]);
    assert_eq!((t.record.expires_at_ms, t.record.hard_expires_at_ms, t.record.runtime_generation), (Some(1300 * S), Some(3600 * S), 2));
    let again = resume(&observe(&t.record, Observation::Thawed, 1000 * S).record, 1001 * S).expect("idempotent");
    assert!(!again.changed);
    let extended = refresh(&record, Some(3000), 1000 * S).expect("refresh").record;
    assert_eq!(resume(&extended, 1001 * S).expect("resume").record.expires_at_ms, Some(4000 * S), "what a refresh gave is kept");
}

#[test]
fn refresh_rules() {
    let record = sandbox(300, 3600);
    for (duration, expires) in [(None, 350), (Some(0), 350), (Some(60), 110), (Some(3600), 3650)] {
        let next = refresh(&record, duration, 50 * S).expect("refresh").record;
        assert_eq!((next.expires_at_ms, next.hard_expires_at_ms), (Some(expires * S), Some(3650 * S)));
    }
    for duration in [-1, i32::MIN, 3601, i32::MAX] {
        assert!(matches!(refresh(&record, Some(duration), 0), Err(LifecycleError::Invalid(v)) if v.path == "duration"));
    }
    let off = sandbox(0, 0);
    assert_eq!(refresh(&off, None, 50 * S).expect("refresh").record.expires_at_ms, None);
    assert_eq!(refresh(&off, Some(60), 50 * S).expect("refresh").record.expires_at_ms, Some(110 * S));
    assert!(refresh(&off, Some(i32::MAX), i64::MAX).is_ok(), "no overflow");
}

#[test]
fn reconfigure_arms_only_what_was_named() {
    let record = sandbox(300, 3600);
    let next = reconfigure(&record, record.config.clone(), Some(600), None, 100 * S).expect("update").record;
    assert_eq!((next.ttl_s, next.expires_at_ms, next.hard_expires_at_ms), (600, Some(700 * S), Some(3600 * S)));
    let off = reconfigure(&next, next.config.clone(), Some(0), Some(0), 200 * S).expect("update").record;
    assert_eq!((off.expires_at_ms, off.hard_expires_at_ms, next_deadline(&off)), (None, None, None));
    assert!(next_deadline(&record).is_some_and(|(at, what)| (at, what) == (300 * S, Deadline::Ttl)));
}

#[test]
fn a_lost_runtime_counts_as_paused_and_wakes() {
    let lost = observe(&sandbox(300, 0), Observation::RuntimeLost { code: reason::RESTARTED, text: "restarted".into() }, 5 * S);
    assert_eq!(lost.effects, []);
    assert_eq!((lost.record.desired, lost.record.observed, status(&lost.record)), (Desired::Active, Observed::Hibernated, Status::Paused));
    assert_eq!(lost.record.reason_code.as_deref(), Some(reason::RESTARTED));
    let t = resume(&lost.record, 6 * S).expect("wakes");
    assert_eq!(t.effects, [Effect::Launch]);
    // Its ttl passes before anybody comes: then it is simply paused.
    let t = on_deadline(&lost.record, 300 * S).expect("due");
    assert_eq!((t.effects, power_state(&t.record).phase.as_str()), (vec![], "stable"));
    assert_eq!(t.record.reason_code.as_deref(), Some(reason::RESTARTED));
}

#[test]
fn a_failed_start_can_be_tried_again() {
    let record = sandbox(0, 50);
    let failed = observe(&record, Observation::LaunchFailed { code: reason::LAUNCH_FAILED, text: "no room".into() }, S).record;
    assert_eq!(wire_status(&failed, Profile::Current).status, "failed");
    assert!(matches!(pause(&failed, reason::USER_REQUEST, "", S), Err(LifecycleError::Failed(text)) if text == "no room"));
    assert_eq!(resume(&failed, 2 * S).expect("resume").effects, [Effect::Launch]);
    assert_eq!(on_deadline(&failed, 50 * S).expect("hard ttl holds here too").effects, [Effect::Destroy { root: true }]);
}

#[test]
fn intents_that_cross() {
    // Paused while starting: frozen as soon as it started.
    let mut starting = sandbox(0, 0);
    starting.observed = Observed::Starting;
    let t = pause(&starting, reason::USER_REQUEST, "", S).expect("pause");
    assert_eq!(t.effects, []);
    assert_eq!(observe(&t.record, Observation::Started, S).effects, [Effect::Freeze]);
    // Resumed before the freeze was done.
    let pausing = pause(&sandbox(0, 0), reason::USER_REQUEST, "", S).expect("pause").record;
    let t = resume(&pausing, S).expect("resume");
    assert_eq!((t.effects, power_state(&t.record).phase.as_str(), t.record.runtime_generation), (vec![], "stable", 2));
    // Restored before the cleaning was done.
    let cleaning = clean(&sandbox(0, 9), reason::HARD_TTL_EXPIRED, "", 9 * S).expect("clean").record;
    assert_eq!(resume(&cleaning, 10 * S).expect("resume").effects, [Effect::Destroy { root: true }, Effect::Launch]);
}

#[test]
fn delete_ends_everything() {
    let gone = delete(&paused(&sandbox(9, 9), S), 2 * S).expect("delete");
    assert_eq!(
        (gone.effects.as_slice(), status(&gone.record), next_deadline(&gone.record)),
        ([Effect::Destroy { root: true }].as_slice(), Status::Terminating, None)
    );
    let record = gone.record;
    assert_eq!(delete(&record, 3 * S), Err(LifecycleError::Deleted));
    assert_eq!(pause(&record, reason::USER_REQUEST, "", 3 * S), Err(LifecycleError::Deleted));
    assert_eq!(resume(&record, 3 * S), Err(LifecycleError::Deleted));
    assert_eq!(refresh(&record, None, 3 * S), Err(LifecycleError::Deleted));
    assert_eq!(on_deadline(&record, 99 * S), None);
}

#[test]
fn words_of_list_filters() {
    assert_eq!(statuses_named("paused", Profile::Current), Some(vec![Status::Paused, Status::Cleaned]));
    assert_eq!(statuses_named("running", Profile::May), Some(vec![Status::Running, Status::Paused]));
    assert_eq!(statuses_named("completed", Profile::May), Some(vec![Status::Cleaned]));
    assert_eq!(statuses_named("completed", Profile::Current), Some(vec![]));
    assert_eq!(statuses_named("sleeping", Profile::Current), None);
}

#[derive(Debug, Clone)]
enum Step {
    Pause,
    Resume,
    Clean,
    Refresh(Option<i32>),
    Deadline,
    Done,
    Lost,
    Fail,
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Pause),
        Just(Step::Resume),
        Just(Step::Clean),
        proptest::option::of(0..5000i32).prop_map(Step::Refresh),
        Just(Step::Deadline),
        Just(Step::Done),
        Just(Step::Lost),
        Just(Step::Fail),
        (0..2_000_000i64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: generations never go back, the observed one never overtakes, a deadline that
    /// was handled is not due again, and the effects lead to the intent.
    #[test]
    fn any_order_converges(ttl in 0..2000i32, hard in 2000..4000i32, steps in proptest::collection::vec(step(), 0..40)) {
        let mut record = sandbox(ttl, hard);
        let mut now = 0;
        for step in steps {
            let before = record.clone();
            let transition = match step {
                Step::Pause => pause(&record, reason::USER_REQUEST, "asked", now).ok(),
                Step::Resume => resume(&record, now).ok(),
                Step::Clean => clean(&record, reason::USER_REQUEST, "asked", now).ok(),
                Step::Refresh(duration) => refresh(&record, duration, now).ok(),
                Step::Deadline => on_deadline(&record, now),
                Step::Lost if record.observed.has_runtime() => Some(observe(&record, Observation::RuntimeLost { code: reason::RESTARTED, text: String::new() }, now)),
                Step::Fail if record.observed == Observed::Starting => Some(observe(&record, Observation::LaunchFailed { code: reason::LAUNCH_FAILED, text: "x".into() }, now)),
                Step::Done => next_effect(&record).map(|effect| observe(&record, done(effect), now)),
                Step::Wait(ms) => { now += ms; None }
                Step::Lost | Step::Fail => None,
            };
            if let Some(t) = transition {
                record = t.record;
            }
            prop_assert!(record.desired_generation >= before.desired_generation);
            prop_assert!(record.runtime_generation >= before.runtime_generation);
            prop_assert!(record.observed_generation <= record.desired_generation);
        }
        // Everything that is due is done, and then rest comes.
        for _ in 0..8 {
            if let Some(t) = on_deadline(&record, now) {
                let effects = t.effects.clone();
                record = t.record;
                for effect in effects {
                    record = observe(&record, done(effect), now).record;
                }
            } else if record.observed == Observed::Starting {
                record = observe(&record, Observation::Started, now).record;
            } else if let Some(effect) = next_effect(&record) {
                record = observe(&record, done(effect), now).record;
            }
        }
        prop_assert_eq!(next_effect(&record), None);
        prop_assert!(next_deadline(&record).is_none_or(|(at, _)| at > now));
    }
}

fn done(effect: Effect) -> Observation {
    match effect {
        Effect::Launch => Observation::Started,
        Effect::Freeze => Observation::Frozen,
        Effect::Thaw => Observation::Thawed,
        Effect::Hibernate => Observation::Hibernated,
        Effect::Destroy { .. } => Observation::Cleaned,
    }
}
