use sandbar_core::{
    limits,
    script::{ConcurrencyPolicy, Part, Split, Trigger},
};
use sandbar_store::{
    Busy, DEAD_LETTER_EVENT, JobEnd, JobFilter, JobState, Language, NewScriptEvent, ScriptJob, ScriptRecord, ScriptVersion, Store, StoreError,
};

use crate::Fresh;

const NOW: i64 = 1_800_000_000_000;

fn script(id: &str, trigger: Trigger, pattern: &str) -> ScriptRecord {
    ScriptRecord {
        id: id.into(),
        team_id: "team".into(),
        name: id.into(),
        trigger,
        pattern: Some(pattern.into()),
        active: true,
        last_version: 1,
        spec: sandbar_core::script::ScriptSpec::default(),
        created_by: None,
        created_at_ms: NOW,
        updated_at_ms: NOW,
        generation: 1,
    }
}

fn version(script_id: &str, number: u32) -> ScriptVersion {
    ScriptVersion {
        script_id: script_id.into(),
        number,
        hash: format!("hash-{number}"),
        language: Language::JavaScript,
        source: "return 1".into(),
        code: None,
        author_kind: None,
        created_by: None,
        created_at_ms: NOW,
    }
}

async fn put(store: &Store, script: &ScriptRecord) {
    store.script_create(script, &version(&script.id, 1)).await.expect("creates");
}

fn event(id: &str, target: &str) -> NewScriptEvent {
    NewScriptEvent {
        id: id.into(),
        team_id: "team".into(),
        target: target.into(),
        data: r#"{"n":1}"#.into(),
        depth: 0,
        cause_run_id: None,
        subject: "{}".into(),
        created_at_ms: NOW,
    }
}

async fn jobs(store: &Store, state: JobState) -> Vec<ScriptJob> {
    let filter = JobFilter { script_id: None, state: Some(state) };
    let listed = store.script_jobs_list("team", filter, None, 200).await.expect("lists");
    listed.into_iter().map(|listed| listed.job).collect()
}

async fn claim(store: &Store, now_ms: i64) -> Vec<ScriptJob> {
    store.script_jobs_claim(now_ms, Busy::default()).await.expect("claims").jobs
}

async fn end(store: &Store, id: &str, end: JobEnd, now_ms: i64) -> bool {
    store.script_job_end(id, end, Some("it threw".into()), now_ms).await.expect("ends")
}

#[tokio::test]
async fn each_script_that_asks_for_it_is_told_once() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    put(&store, &script("all", Trigger::Event, "items")).await;
    put(&store, &script("created", Trigger::Event, "items:*:created")).await;
    put(&store, &script("other", Trigger::Event, "orders")).await;
    put(&store, &ScriptRecord { active: false, ..script("asleep", Trigger::Event, "items") }).await;
    assert_eq!(store.script_event_publish(&event("e1", "items:posts:created")).await.expect("publishes"), 2);
    assert_eq!(store.script_event_publish(&event("e1", "items:posts:created")).await.expect("is the same"), 2);
    let other = NewScriptEvent { data: "2".into(), ..event("e1", "items:posts:created") };
    assert!(matches!(store.script_event_publish(&other).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.script_event_publish(&NewScriptEvent { team_id: "team".into(), ..event("e2", "nobody:asks") }).await.expect("publishes"), 0);
    let waiting = jobs(&store, JobState::Pending).await;
    let of: Vec<_> = waiting.iter().map(|job| (job.script_id.as_str(), job.input.as_str(), job.source.as_str(), job.version)).collect();
    assert_eq!(of, [("all", "", "e1", 1), ("created", "", "e1", 1)], "in lists without inputs");
    let input = r#"{"event":"items:posts:created","data":{"n":1}}"#;
    assert_eq!(store.script_job_get("team", &waiting[0].id).await.expect("reads").expect("is there").input, input);
    let events = store.script_events_list("team", None, 10).await.expect("lists");
    assert_eq!(events.iter().map(|event| (event.event.id.as_str(), event.jobs)).collect::<Vec<_>>(), [("e1", 2), ("e2", 0)]);
    assert_eq!(store.script_events_list("team", Some((NOW, "e1".into())), 10).await.expect("pages").len(), 1);
    assert_eq!(store.script_events_list("nobody", None, 10).await.expect("lists").len(), 0);

    // After a restart they are there, and claimed once.
    drop(store);
    let store = fresh.open();
    assert_eq!(claim(&store, NOW - 1).await.len(), 0, "not before their time");
    let claimed = claim(&store, NOW).await;
    assert_eq!(claimed.iter().map(|job| (job.state, job.attempts)).collect::<Vec<_>>(), [(JobState::Running, 1); 2]);
    assert_eq!(claim(&store, NOW).await.len(), 0);
    assert!(end(&store, &claimed[0].id, JobEnd::Succeeded, NOW).await);
    assert!(!end(&store, &claimed[0].id, JobEnd::Dead, NOW).await, "it has ended");
    // What the server was at when it was killed.
    assert_eq!(store.script_jobs_recover(NOW + 5).await.expect("recovers"), (1, 0));
    let again = claim(&store, NOW + 5).await;
    assert_eq!(again.iter().map(|job| (job.id.as_str(), job.attempts, job.interruptions)).collect::<Vec<_>>(), [(claimed[1].id.as_str(), 1, 1)]);
}

#[tokio::test]
async fn a_loop_ends() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    put(&store, &script("loop", Trigger::Event, "loop")).await;
    let max = limits::SCRIPT_EVENT_DEPTH_MAX;
    assert_eq!(store.script_event_publish(&NewScriptEvent { depth: max, ..event("e1", "loop:x") }).await.expect("publishes"), 1);
    assert_eq!(store.script_event_publish(&NewScriptEvent { depth: max + 1, ..event("e2", "loop:x") }).await.expect("publishes"), 0);
    let events = store.script_events_list("team", None, 10).await.expect("lists");
    assert!(events[0].note.is_none() && events[1].note.as_ref().is_some_and(|note| note.contains("loop")));
}

#[tokio::test]
async fn a_dead_letter_is_told_of_and_tried_again() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    put(&store, &script("work", Trigger::Event, "orders")).await;
    put(&store, &script("watch", Trigger::Event, "system:job.dead_letter")).await;
    store.script_event_publish(&event("e1", "orders:paid")).await.expect("publishes");
    let job = claim(&store, NOW).await.remove(0);
    // A retry that would come too late is none.
    assert!(end(&store, &job.id, JobEnd::Retry { at_ms: NOW + 1000 }, NOW).await);
    assert_eq!(claim(&store, NOW + 999).await.len(), 0);
    assert_eq!(store.script_jobs_claim(NOW, Busy::default()).await.expect("claims").next_at_ms, Some(NOW + 1000));
    let job = claim(&store, NOW + 1000).await.remove(0);
    assert_eq!(job.attempts, 2);
    assert!(end(&store, &job.id, JobEnd::Retry { at_ms: job.give_up_at_ms }, NOW + 2000).await);
    let dead = jobs(&store, JobState::Dead).await;
    assert_eq!((dead.len(), dead[0].last_error.as_deref(), dead[0].finished_at_ms), (1, Some("it threw"), Some(NOW + 2000)));
    let letter = claim(&store, NOW + 2000).await.remove(0);
    assert_eq!((letter.script_id.as_str(), letter.depth), ("watch", 1));
    assert!(letter.input.contains(DEAD_LETTER_EVENT) && letter.input.contains(r#""functionName":"work""#), "{}", letter.input);
    // Who is told of dead letters and dies of it is not told of that.
    assert!(end(&store, &letter.id, JobEnd::Dead, NOW + 2000).await);
    assert_eq!(jobs(&store, JobState::Pending).await.len(), 0);

    // The code is mended; the letter is tried with what is live now.
    let mended = ScriptRecord { last_version: 2, ..script("work", Trigger::Event, "orders") };
    store.script_update(&mended, Some(version("work", 2))).await.expect("updates");
    assert_eq!(store.script_jobs_redrive("team", Some("work"), None, NOW + 3000).await.expect("redrives"), (1, false));
    let job = claim(&store, NOW + 3000).await.remove(0);
    assert_eq!((job.version, job.attempts, job.finished_at_ms), (2, 1, None));
    assert!(end(&store, &job.id, JobEnd::Succeeded, NOW + 3000).await);
    let letters = jobs(&store, JobState::Dead).await;
    assert_eq!(letters.len(), 1);
    assert!(matches!(store.script_job_delete_dead("other", &letters[0].id).await, Err(StoreError::NotFound { .. })));
    store.script_job_delete_dead("team", &letters[0].id).await.expect("deletes");
    assert_eq!(jobs(&store, JobState::Dead).await.len(), 0);
}

#[tokio::test]
async fn of_dead_letters_a_team_keeps_the_newest() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.team_insert(&crate::team("other", "user")).await.expect("creates");
    put(&store, &script("work", Trigger::Event, "x")).await;
    put(&store, &script("more", Trigger::Event, "x")).await;
    put(&store, &ScriptRecord { team_id: "other".into(), ..script("theirs", Trigger::Event, "x") }).await;
    for (n, team_id) in ["team", "team", "other"].into_iter().enumerate() {
        let made = NewScriptEvent { team_id: team_id.into(), created_at_ms: NOW + n as i64, ..event(&format!("e{n}"), "x:y") };
        store.script_event_publish(&made).await.expect("publishes");
    }
    for job in claim(&store, NOW + 10).await {
        assert!(end(&store, &job.id, JobEnd::Dead, NOW + 10).await);
    }
    assert_eq!(store.script_jobs_prune(NOW + 10, 100).await.expect("prunes"), 0);
    // A byte more than there is room for, of two scripts together: the oldest goes, of them alone.
    let much = rusqlite::Connection::open(fresh.path()).expect("opens");
    let third = limits::SCRIPT_DEAD_LETTERS_PER_TEAM_MAX_BYTES / 3;
    much.execute("UPDATE script_job SET bytes = ?1", [third + 1]).expect("writes");
    assert_eq!(store.script_jobs_prune(NOW + 10, 1).await.expect("prunes"), 1, "in steps");
    assert_eq!(store.script_jobs_prune(NOW + 10, 100).await.expect("prunes"), 1);
    let left: Vec<_> = jobs(&store, JobState::Dead).await.into_iter().map(|job| job.source).collect();
    assert_eq!(left, ["e1", "e1"]);
    let theirs = store.script_jobs_list("other", JobFilter::default(), None, 10).await.expect("lists");
    assert_eq!(theirs.len(), 1, "each team has its own room");
}

#[tokio::test]
async fn who_is_interrupted_too_often_is_given_up() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    put(&store, &script("fails", Trigger::Event, "x")).await;
    put(&store, &script("watch", Trigger::Event, "system:job.dead_letter")).await;
    store.script_event_publish(&event("e1", "x:y")).await.expect("publishes");
    for round in 0..limits::SCRIPT_INTERRUPTIONS_MAX {
        let job = claim(&store, NOW + 5).await.remove(0);
        assert_eq!((job.attempts, job.interruptions), (1, round), "an interruption is no attempt");
        store.script_job_interrupt(&job.id, "the server is ill", NOW + 5, NOW + 1).await.expect("gives back");
        assert_eq!(claim(&store, NOW + 4).await.len(), 0, "not before it is time");
    }
    let job = claim(&store, NOW + 5).await.remove(0);
    store.script_job_interrupt(&job.id, "the server is ill", NOW + 9, NOW + 6).await.expect("gives up");
    let dead = jobs(&store, JobState::Dead).await;
    assert_eq!((dead.len(), dead[0].last_error.as_deref(), dead[0].finished_at_ms), (1, Some("the server is ill"), Some(NOW + 6)));
    assert_eq!(claim(&store, NOW + 9).await[0].script_id, "watch", "and that is told");
    // What does not run any more is not given back.
    store.script_job_interrupt(&job.id, "again", NOW, NOW).await.expect("does nothing");
    assert_eq!(jobs(&store, JobState::Dead).await[0].last_error.as_deref(), Some("the server is ill"));
}

#[tokio::test]
async fn interruptions_have_an_end() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    put(&store, &script("kills", Trigger::Event, "x")).await;
    store.script_event_publish(&event("e1", "x:y")).await.expect("publishes");
    for round in 0..=limits::SCRIPT_INTERRUPTIONS_MAX {
        assert_eq!(claim(&store, NOW).await[0].attempts, 1, "an interruption is no attempt");
        let dead = usize::from(round == limits::SCRIPT_INTERRUPTIONS_MAX);
        assert_eq!(store.script_jobs_recover(NOW).await.expect("recovers"), (1 - dead, dead));
    }
    assert_eq!(jobs(&store, JobState::Dead).await.len(), 1);
}

#[tokio::test]
async fn turns_go_around_the_teams_and_within_bounds() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.team_insert(&crate::team("other", "user")).await.expect("creates");
    put(&store, &script("much", Trigger::Event, "x")).await;
    let little = ScriptRecord { team_id: "other".into(), ..script("little", Trigger::Event, "x") };
    put(&store, &little).await;
    for n in 0..40 {
        store.script_event_publish(&NewScriptEvent { created_at_ms: NOW + n, ..event(&format!("m{n:02}"), "x:y") }).await.expect("publishes");
    }
    let late = NewScriptEvent { team_id: "other".into(), created_at_ms: NOW + 100, ..event("l", "x:y") };
    store.script_event_publish(&late).await.expect("publishes");
    let claimed = claim(&store, NOW + 200).await;
    let of: Vec<_> = claimed.iter().map(|job| job.script_id.as_str()).collect();
    assert_eq!(of.iter().filter(|id| **id == "much").count(), limits::SCRIPT_CONCURRENCY_DEFAULT as usize);
    assert_eq!(&of[..3], ["much", "little", "much"], "the second team's first comes before the first team's second");
    let busy = Busy { teams: [("team".to_owned(), 10)].into(), scripts: [("much".to_owned(), 10)].into() };
    assert_eq!(store.script_jobs_claim(NOW + 200, busy.clone()).await.expect("claims").jobs.len(), 0);
    let one_free = Busy { scripts: [("much".to_owned(), 9)].into(), ..busy };
    assert_eq!(store.script_jobs_claim(NOW + 200, one_free).await.expect("claims").jobs.len(), 1);

    // Whoever is put to sleep is not told what still waits.
    let asleep = ScriptRecord { active: false, ..script("much", Trigger::Event, "x") };
    store.script_update(&asleep, None).await.expect("updates");
    let claimed = store.script_jobs_claim(NOW + 200, Busy::default()).await.expect("claims");
    assert_eq!((claimed.jobs.len(), claimed.dropped), (0, 29));
    assert!(jobs(&store, JobState::Dropped).await[0].last_error.as_ref().is_some_and(|error| error.contains("not active")));
}

#[tokio::test]
async fn what_there_is_no_room_for_is_refused_with_its_cause() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    put(&store, &script("slow", Trigger::Event, "x")).await;
    store.script_event_publish(&event("e0", "x:y")).await.expect("fits");
    let listed = store.script_jobs_list("team", JobFilter::default(), None, 1).await.expect("lists").remove(0);
    let input = store.script_job_get("team", &listed.job.id).await.expect("reads").expect("is there").input.len();
    assert_eq!(listed.input_bytes, input as u64);
    let much = rusqlite::Connection::open(fresh.path()).expect("opens");
    let waits = |jobs: usize, bytes: usize| much.execute("UPDATE script_backlog SET jobs = ?1, bytes = ?2", [jobs, bytes]).expect("writes");
    let is_refused = |published: &Result<u32, StoreError>| matches!(published, Err(StoreError::TooMany { .. }));
    for (jobs, bytes) in [(limits::SCRIPT_JOBS_WAITING_MAX, 0), (1, limits::SCRIPT_JOBS_WAITING_MAX_BYTES)] {
        waits(jobs, bytes);
        let refused = store.script_event_publish(&event("e1", "x:y")).await;
        assert!(is_refused(&refused), "{refused:?}");
    }
    assert_eq!(store.script_events_list("team", None, 10).await.expect("lists").len(), 1, "and not written");
    // What has begun waits no more; what comes back waits again.
    waits(limits::SCRIPT_JOBS_WAITING_MAX, limits::SCRIPT_JOBS_WAITING_MAX_BYTES);
    let claimed = claim(&store, NOW).await.remove(0);
    store.script_event_publish(&event("e1", "x:y")).await.expect("fits now");
    store.script_job_release(&claimed.id, NOW).await.expect("gives back");
    assert!(is_refused(&store.script_event_publish(&event("e2", "x:y")).await));
    let backlog = || much.query_row("SELECT jobs, bytes FROM script_backlog", [], |row| Ok((row.get(0)?, row.get(1)?))).expect("reads");
    waits(2, 2 * input);
    for job in claim(&store, NOW).await {
        assert!(end(&store, &job.id, JobEnd::Dead, NOW).await);
    }
    assert_eq!(backlog(), (0usize, 0usize));
    store.script_jobs_redrive("team", None, None, NOW).await.expect("redrives");
    assert_eq!(backlog(), (2, 2 * input));
}

#[tokio::test]
async fn an_alias_decides_who_is_run() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    put(&store, &script("s", Trigger::Event, "x")).await;
    let second = ScriptRecord { last_version: 2, ..script("s", Trigger::Event, "x") };
    store.script_update(&second, Some(version("s", 2))).await.expect("updates");
    let half = Split::of(vec![Part { version: 1, weight: 1 }, Part { version: 2, weight: 1 }]).expect("a split");
    store.script_alias_put("s", "live", &half, None, NOW).await.expect("sets");
    for n in 0..40 {
        store.script_event_publish(&event(&format!("e{n}"), "x:y")).await.expect("publishes");
    }
    let waiting = jobs(&store, JobState::Pending).await;
    let first = waiting.iter().filter(|job| job.version == 1).count();
    assert!((5..=35).contains(&first), "{first} of 40");
}

#[tokio::test]
async fn a_tick_fires_once_or_is_skipped_with_its_reason() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let minutely = script("tick", Trigger::Cron, "* * * * *");
    put(&store, &minutely).await;
    let first = store.script_schedule_get("tick").await.expect("reads").expect("has one").next_tick_ms.expect("comes");
    assert_eq!(store.script_schedules_due(first - 1, 10).await.expect("looks"), (Vec::new(), Some(first)));
    assert_eq!(store.script_schedules_due(first, 10).await.expect("looks").0, ["tick"]);
    assert_eq!(store.script_schedule_step("tick", first - 1).await.expect("steps").fired, 0, "not before its time");
    assert_eq!(store.script_schedule_step("tick", first).await.expect("steps").fired, 1);
    assert_eq!(store.script_schedule_step("tick", first).await.expect("steps").fired, 0, "once");
    // The run goes on while the next ones come.
    let job = claim(&store, first).await.remove(0);
    assert!(job.input.contains("scheduledAt") && job.source == first.to_string());
    for n in 1..=2 {
        let stepped = store.script_schedule_step("tick", first + n * 60_000).await.expect("steps");
        assert_eq!((stepped.fired, stepped.skipped), (0, 1));
    }
    assert!(end(&store, &job.id, JobEnd::Succeeded, first + 130_000).await);
    // A change that does not concern it leaves the next tick, another pattern begins anew.
    let described = ScriptRecord { updated_at_ms: first + 500_000, ..minutely.clone() };
    store.script_update(&described, None).await.expect("updates");
    let next = store.script_schedule_get("tick").await.expect("reads").expect("has one").next_tick_ms;
    assert_eq!(next, Some(first + 180_000));
    // The server was away for a while.
    let stepped = store.script_schedule_step("tick", first + 600_000).await.expect("steps");
    assert_eq!((stepped.fired, stepped.skipped), (1, 7));
    let ticks = store.script_ticks_list("tick", None, 10).await.expect("lists");
    let rows: Vec<_> = ticks.iter().map(|row| ((row.tick.first_tick_ms - first) / 60_000, (row.tick.tick_ms - first) / 60_000, row.tick.fires)).collect();
    assert_eq!(rows, [(10, 10, true), (3, 9, false), (2, 2, false), (1, 1, false), (0, 0, true)]);
    assert!(ticks.iter().all(|row| row.tick.fires == row.job_id.is_some() && (row.tick.fires || row.tick.reason.is_some())));

    // The clock is set back: what was decided stays, and what was not comes when it is time.
    assert_eq!(store.script_schedules_rewind(first + 590_000).await.expect("rewinds"), 1);
    assert_eq!(store.script_schedule_step("tick", first + 600_000).await.expect("steps").fired, 0);
    assert_eq!(store.script_ticks_list("tick", None, 10).await.expect("lists").len(), 5);

    let hourly = ScriptRecord { pattern: Some("0 * * * *".into()), updated_at_ms: first + 600_000, generation: 2, ..minutely.clone() };
    store.script_update(&hourly, None).await.expect("updates");
    let next = store.script_schedule_get("tick").await.expect("reads").expect("has one").next_tick_ms.expect("comes");
    assert_eq!(next % 3_600_000, 0);
    store.script_update(&ScriptRecord { active: false, generation: 3, ..hourly }, None).await.expect("updates");
    assert_eq!(store.script_schedule_get("tick").await.expect("reads"), None);
}

#[tokio::test]
async fn a_team_has_so_many_schedules_that_come_by_seconds() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let max = limits::SCRIPT_SCHEDULES_BY_SECONDS_MAX;
    for n in 0..max {
        put(&store, &script(&format!("s{n}"), Trigger::Cron, "*/10 * * * * *")).await;
    }
    let more = script("more", Trigger::Cron, "*/10 * * * * *");
    let refused = store.script_create(&more, &version("more", 1)).await.expect_err("is too much");
    assert!(matches!(refused, StoreError::TooMany { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("more often than once a minute") && text.contains(&max.to_string()), "{text}");
    assert_eq!(store.script_get("more").await.expect("reads"), None, "nothing of it is kept");
    // What comes by the minute is not counted, nor is what does not come; and who has one may change it.
    put(&store, &script("minutely", Trigger::Cron, "* * * * *")).await;
    put(&store, &ScriptRecord { active: false, ..more.clone() }).await;
    assert!(matches!(store.script_update(&more, None).await, Err(StoreError::TooMany { .. })), "it would come now");
    let changed = script("s0", Trigger::Cron, "*/20 * * * * *");
    store.script_update(&changed, None).await.expect("is as many as before");
    store.script_update(&ScriptRecord { active: false, generation: 2, ..changed }, None).await.expect("sleeps");
    store.script_update(&more, None).await.expect("there is room");
}

#[tokio::test]
async fn a_later_tick_replaces_what_runs() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let mut replaces = script("tick", Trigger::Cron, "* * * * *");
    replaces.spec.schedule.concurrency_policy = ConcurrencyPolicy::Replace;
    put(&store, &replaces).await;
    let first = store.script_schedule_get("tick").await.expect("reads").expect("has one").next_tick_ms.expect("comes");
    store.script_schedule_step("tick", first).await.expect("steps");
    let running = claim(&store, first).await.remove(0);
    let stepped = store.script_schedule_step("tick", first + 60_000).await.expect("steps");
    assert_eq!((stepped.fired, stepped.replaced), (1, vec![running.id.clone()]));
    assert!(!end(&store, &running.id, JobEnd::Succeeded, first + 60_001).await, "it was not wanted any more");
    assert_eq!(jobs(&store, JobState::Dropped).await.len(), 1);
    assert_eq!(claim(&store, first + 60_001).await.len(), 1);
}
