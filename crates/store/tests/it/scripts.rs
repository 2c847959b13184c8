//! Scripts, their versions, secrets and keys, and runs.

use sandbar_core::{
    limits,
    script::{LIVE, Part, RunTrigger, ScriptSpec, Split, Trigger},
};
use sandbar_store::{
    Idempotency, JobEnd, JobKind, JobState, Language, RunFilter, RunStatus, ScriptJob, ScriptKey, ScriptRecord, ScriptRun, ScriptVersion, Store, StoreError,
};

use super::Fresh;

pub fn script(id: &str, name: &str) -> ScriptRecord {
    ScriptRecord {
        id: id.into(),
        team_id: "team".into(),
        name: name.into(),
        trigger: Trigger::Http,
        pattern: None,
        active: true,
        last_version: 1,
        spec: ScriptSpec::default(),
        created_by: Some("user".into()),
        created_at_ms: 1000,
        updated_at_ms: 1000,
        generation: 1,
    }
}

pub fn version(script_id: &str, number: u32) -> ScriptVersion {
    ScriptVersion {
        script_id: script_id.into(),
        number,
        hash: format!("hash-{number}"),
        language: Language::JavaScript,
        source: format!("return {number}"),
        code: None,
        author_kind: None,
        created_by: None,
        created_at_ms: 1000,
    }
}

fn run(id: &str, created_at_ms: i64) -> ScriptRun {
    ScriptRun {
        id: id.into(),
        team_id: "team".into(),
        script_id: "s1".into(),
        script_name: "one".into(),
        version: 1,
        trigger: RunTrigger::Http,
        status: RunStatus::Succeeded,
        error_code: None,
        provider: Some("quickjs".into()),
        created_at_ms,
        started_at_ms: Some(created_at_ms),
        finished_at_ms: Some(created_at_ms + 1),
        duration_us: Some(1000),
        cpu_us: Some(900),
        peak_memory_bytes: Some(1 << 20),
        doc: "{}".into(),
        input: "{\"a\":1}".into(),
        output: Some("1".into()),
        logs: Some("[]".into()),
        recording: Some("{}".into()),
    }
}

async fn with_script(fresh: &Fresh) -> Store {
    let store = fresh.installed().await;
    store.script_create(&script("s1", "one"), &version("s1", 1)).await.expect("creates");
    store
}

#[tokio::test]
async fn a_script_is_found_by_id_and_name_and_stale_writers_are_refused() {
    let fresh = Fresh::new();
    let store = with_script(&fresh).await;
    let taken = store.script_create(&script("s2", "one"), &version("s2", 1)).await;
    assert!(matches!(taken, Err(StoreError::Exists { .. })), "{taken:?}");
    let whole = store.script_find("team", "one").await.unwrap().expect("by name");
    assert_eq!(store.script_find("team", "s1").await.unwrap().expect("by id"), whole);
    assert_eq!(store.script_get("s1").await.unwrap().expect("of any team"), whole);
    assert!(store.script_find("other", "s1").await.unwrap().is_none());
    assert_eq!((whole.live().unwrap().number, whole.alias(LIVE).unwrap().split.clone()), (1, Split::whole(1)));
    let mut changed = ScriptRecord { last_version: 2, active: false, ..whole.script.clone() };
    store.script_update(&changed, Some(version("s1", 2))).await.expect("updates");
    let stale = store.script_update(&changed, None).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })), "{stale:?}");
    let now = store.script_get("s1").await.unwrap().unwrap();
    assert_eq!((now.live().unwrap().number, now.script.active, now.script.generation), (2, false, 2));
    changed.id = "none".into();
    assert!(matches!(store.script_update(&changed, None).await, Err(StoreError::NotFound { .. })));
    store.script_delete("team", "s1").await.expect("deletes");
    assert!(matches!(store.script_delete("team", "s1").await, Err(StoreError::NotFound { .. })));
    assert!(store.script_version("s1", 1).await.unwrap().is_none() && store.scripts_list("team").await.unwrap().is_empty());
}

#[tokio::test]
async fn aliases_point_to_versions_that_are_there() {
    let fresh = Fresh::new();
    let store = with_script(&fresh).await;
    let split = |parts: &[(u32, u32)]| Split::of(parts.iter().map(|(version, weight)| Part { version: *version, weight: *weight }).collect()).unwrap();
    assert!(matches!(store.script_alias_put("s1", "next", &split(&[(2, 1)]), None, 1).await, Err(StoreError::NotFound { what: "version", .. })));
    let whole = store.script_get("s1").await.unwrap().unwrap();
    store.script_update(&ScriptRecord { last_version: 2, ..whole.script }, Some(version("s1", 2))).await.unwrap();
    store.script_alias_put("s1", "next", &split(&[(1, 1), (2, 3)]), Some("user"), 5).await.expect("sets");
    let whole = store.script_get("s1").await.unwrap().unwrap();
    assert_eq!((whole.aliases.len(), whole.versions.len(), whole.alias("next").unwrap().updated_at_ms), (2, 2, 5));
    assert!(matches!(store.script_alias_delete("s1", LIVE).await, Err(StoreError::NotFound { .. })));
    store.script_alias_delete("s1", "next").await.expect("deletes");
    assert_eq!(store.script_versions("s1").await.unwrap().iter().map(|version| version.number).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn secrets_and_keys_belong_to_one_script() {
    let fresh = Fresh::new();
    let store = with_script(&fresh).await;
    for sealed in ["one", "two"] {
        store.script_secret_put("s1", "KEY", sealed, 7).await.expect("keeps");
    }
    let secret = store.script_secret_get("s1", "KEY").await.unwrap().unwrap();
    assert_eq!((secret.sealed.as_str(), secret.version), ("two", 2));
    assert_eq!(store.script_get("s1").await.unwrap().unwrap().secrets, ["KEY"]);
    assert!(matches!(store.script_secret_put("none", "KEY", "x", 7).await, Err(StoreError::NotFound { .. })));
    let key = ScriptKey { id: "k1".into(), script_id: "s1".into(), name: "shop".into(), created_at_ms: 8 };
    store.script_key_insert(&key, "sha").await.expect("keeps");
    assert_eq!(store.script_key_find("sha").await.unwrap(), Some(key.clone()));
    assert_eq!(store.script_keys("s1").await.unwrap(), [key]);
    assert!(matches!(store.script_key_delete("s2", "k1").await, Err(StoreError::NotFound { .. })));
    store.script_delete("team", "s1").await.unwrap();
    assert!(store.script_key_find("sha").await.unwrap().is_none(), "gone with its script");
}

#[tokio::test]
async fn runs_are_listed_in_pages_and_the_oldest_go() {
    let fresh = Fresh::new();
    let store = with_script(&fresh).await;
    for (id, at) in [("r1", 1), ("r3", 2), ("r2", 2), ("r4", 3)] {
        let failed = id == "r4";
        let run =
            ScriptRun { status: if failed { RunStatus::Failed } else { RunStatus::Succeeded }, error_code: failed.then(|| "timeout".into()), ..run(id, at) };
        store.script_run_put(run).await.expect("keeps");
    }
    let list = async |filter: RunFilter| {
        let runs = store.script_runs_list("team", RunFilter { limit: filter.limit.max(2), ..filter }, false).await.unwrap();
        runs.into_iter().map(|run| run.id).collect::<Vec<_>>()
    };
    assert_eq!(list(RunFilter::default()).await, ["r4", "r2"]);
    assert_eq!(list(RunFilter { after: Some((2, "r2".into())), ..RunFilter::default() }).await, ["r3", "r1"]);
    assert_eq!(list(RunFilter { script_id: Some("s2".into()), ..RunFilter::default() }).await, [""; 0]);
    assert_eq!(list(RunFilter { status: Some(RunStatus::Failed), error_code: Some("timeout".into()), ..RunFilter::default() }).await, ["r4"]);
    assert_eq!(list(RunFilter { since_ms: Some(2), until_ms: Some(3), limit: 9, ..RunFilter::default() }).await, ["r2", "r3"]);
    assert_eq!(store.script_run_get("team", "r1").await.unwrap(), Some(run("r1", 1)));
    assert_eq!(store.script_run_get("other", "r1").await.unwrap(), None);
    assert_eq!(store.script_runs_prune(2, 100, usize::MAX >> 1, 10).await.unwrap(), 1, "the old one");
    assert_eq!(store.script_runs_prune(0, 2, usize::MAX >> 1, 10).await.unwrap(), 1, "of too many");
    assert_eq!(list(RunFilter { limit: 9, ..RunFilter::default() }).await, ["r4", "r2"]);
    assert_eq!(store.script_runs_prune(0, 100, 20, 10).await.unwrap(), 1, "of too large ones");
    store.script_run_put(ScriptRun { status: RunStatus::Running, ..run("r9", 0) }).await.unwrap();
    assert_eq!(store.script_runs_prune(1, 100, usize::MAX >> 1, 10).await.unwrap(), 0, "what goes on stays");
}

#[tokio::test]
async fn a_key_is_one_call_for_a_day() {
    let fresh = Fresh::new();
    let store = with_script(&fresh).await;
    let begun = |id: &str, at| ScriptRun { status: RunStatus::Running, ..run(id, at) };
    assert_eq!(store.script_idempotency_claim("k", "body", &begun("r1", 10)).await.unwrap(), Idempotency::New);
    let Idempotency::Used(used) = store.script_idempotency_claim("k", "other", &begun("r2", 20)).await.unwrap() else { panic!("it is taken") };
    assert_eq!((used.run_id.as_str(), used.body_sha256.as_str()), ("r1", "body"));
    assert!(store.script_run_get("team", "r1").await.unwrap().is_some() && store.script_run_get("team", "r2").await.unwrap().is_none());
    assert_eq!(store.script_idempotency_claim("k", "body", &begun("r3", 10 + 86_400_001)).await.unwrap(), Idempotency::New, "after a day");
    store.script_idempotency_release("s1", "k", "r3").await.unwrap();
    assert!(store.script_run_get("team", "r3").await.unwrap().is_none());
    assert_eq!(store.script_idempotency_claim("k", "body", &begun("r4", 30)).await.unwrap(), Idempotency::New);
    // A server that starts finds what the one before was at.
    assert_eq!(store.script_runs_interrupt("{\"message\":\"ended\"}", 99).await.unwrap(), 2);
    let interrupted = store.script_run_get("team", "r4").await.unwrap().unwrap();
    assert_eq!((interrupted.status, interrupted.error_code.as_deref(), interrupted.doc.contains("ended")), (RunStatus::Failed, Some("internal"), true));
}

#[tokio::test]
async fn a_run_that_is_owed_ends_with_its_job() {
    let fresh = Fresh::new();
    let store = with_script(&fresh).await;
    let job = ScriptJob {
        id: "j1".into(),
        team_id: "team".into(),
        script_id: "s1".into(),
        version: 1,
        kind: JobKind::Async,
        source: "r1".into(),
        state: JobState::Pending,
        run_at_ms: 5,
        attempts: 0,
        interruptions: 0,
        give_up_at_ms: 1_000_000,
        depth: 0,
        input: "{}".into(),
        subject: "{}".into(),
        last_run_id: None,
        last_error: None,
        created_at_ms: 5,
        finished_at_ms: None,
    };
    let queued = ScriptRun { status: RunStatus::Queued, trigger: RunTrigger::Async, finished_at_ms: None, ..run("r1", 5) };
    let key = Some(("k".to_owned(), "body".to_owned()));
    assert_eq!(store.script_run_enqueue(queued.clone(), job.clone(), key.clone()).await.unwrap(), Idempotency::New);
    let again = store.script_run_enqueue(ScriptRun { id: "r2".into(), ..queued.clone() }, ScriptJob { id: "j2".into(), source: "r2".into(), ..job }, key).await;
    assert!(matches!(again.unwrap(), Idempotency::Used(used) if used.run_id == "r1"));
    let claimed = store.script_jobs_claim(10, sandbar_store::Busy::default()).await.unwrap();
    assert_eq!(claimed.jobs.len(), 1);
    store.script_run_begin("r1", 11).await.unwrap();
    let failed =
        ScriptRun { status: RunStatus::Failed, created_at_ms: 11, finished_at_ms: Some(12), doc: "{\"error\":{\"message\":\"no\"}}".into(), ..queued.clone() };
    store.script_run_finish(failed, Some(("j1".into(), JobEnd::Retry { at_ms: 20 }))).await.unwrap();
    let waiting = store.script_run_get("team", "r1").await.unwrap().unwrap();
    assert_eq!((waiting.status, waiting.finished_at_ms, waiting.created_at_ms), (RunStatus::Queued, None, 5), "one run however often it is tried");
    assert_eq!(store.script_jobs_claim(20, sandbar_store::Busy::default()).await.unwrap().jobs[0].last_error.as_deref(), Some("no"));
    let done = ScriptRun { status: RunStatus::Succeeded, finished_at_ms: Some(22), ..queued };
    store.script_run_finish(done, Some(("j1".into(), JobEnd::Succeeded))).await.unwrap();
    assert_eq!(store.script_run_get("team", "r1").await.unwrap().unwrap().status, RunStatus::Succeeded);
    assert_eq!(store.script_job_get("team", "j1").await.unwrap().unwrap().state, JobState::Succeeded);
}

#[tokio::test]
async fn a_call_that_is_given_up_has_failed() {
    let fresh = Fresh::new();
    let store = with_script(&fresh).await;
    let enqueue = async |n: u32| {
        let job = ScriptJob {
            id: format!("j{n}"),
            team_id: "team".into(),
            script_id: "s1".into(),
            version: 1,
            kind: JobKind::Async,
            source: format!("r{n}"),
            state: JobState::Pending,
            run_at_ms: 5,
            attempts: 0,
            interruptions: 0,
            give_up_at_ms: 100,
            depth: 0,
            input: "{}".into(),
            subject: "{}".into(),
            last_run_id: None,
            last_error: None,
            created_at_ms: 5,
            finished_at_ms: None,
        };
        let queued = ScriptRun { status: RunStatus::Queued, trigger: RunTrigger::Async, finished_at_ms: None, ..run(&format!("r{n}"), 5) };
        store.script_run_enqueue(queued.clone(), job, None).await.unwrap();
        queued
    };
    let is = async |n: u32| {
        let run = store.script_run_get("team", &format!("r{n}")).await.unwrap().unwrap();
        (run.status, run.error_code, run.finished_at_ms)
    };
    let claim = async || store.script_jobs_claim(10, sandbar_store::Busy::default()).await.unwrap();
    // A retry that would come too late.
    let queued = enqueue(1).await;
    assert_eq!(claim().await.jobs.len(), 1);
    let failed = ScriptRun { status: RunStatus::Failed, error_code: Some("user_error".into()), finished_at_ms: Some(12), ..queued };
    store.script_run_finish(failed, Some(("j1".into(), JobEnd::Retry { at_ms: 100 }))).await.unwrap();
    assert_eq!(is(1).await, (RunStatus::Failed, Some("user_error".into()), Some(12)));
    // One that is tried again waits again.
    assert_eq!(store.script_jobs_redrive("team", None, Some("j1"), 13).await.unwrap().0, 1);
    assert_eq!(is(1).await, (RunStatus::Queued, None, None));
    assert_eq!(store.script_jobs_claim(13, sandbar_store::Busy::default()).await.unwrap().jobs.len(), 1);
    // One that ends without a run.
    store.script_job_end("j1", JobEnd::Dropped, Some("its version is gone".into()), 14).await.unwrap();
    assert_eq!(is(1).await, (RunStatus::Failed, Some("cancelled".into()), Some(14)));
    assert!(store.script_run_get("team", "r1").await.unwrap().unwrap().doc.contains("its version is gone"));
    // One that the end of the server cuts short too often.
    enqueue(2).await;
    for _ in 0..=limits::SCRIPT_INTERRUPTIONS_MAX {
        assert_eq!(claim().await.jobs.len(), 1);
        store.script_run_begin("r2", 11).await.unwrap();
        store.script_jobs_recover(15).await.unwrap();
        store.script_runs_interrupt("{}", 15).await.unwrap();
    }
    assert_eq!(is(2).await, (RunStatus::Failed, Some("internal".into()), Some(15)));
    // One whose function is deleted.
    enqueue(3).await;
    store.script_delete("team", "s1").await.unwrap();
    assert_eq!(claim().await.dropped, 1);
    assert_eq!(is(3).await, (RunStatus::Failed, Some("cancelled".into()), Some(10)));
}
