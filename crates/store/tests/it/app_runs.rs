use std::collections::BTreeMap;

use sandbar_core::{
    app::{
        Cleanup, Phase, RunStatus,
        receipt::Kind,
        run::{AtOnce, CleanupPolicy, FailureReason, Group, GroupPolicy, Known, Place, RunCause, RunDoc, Terms, Withdrawn},
        uploads::RunFile,
    },
    limits::app_runs as limits,
};
use sandbar_store::{
    AppRunEnd, AppRunFilter, CancelMet, InsertedRun, NewAppRun, ReceiptRecord, ReceiptsGone, ReceiptsKept, SignReceipt, SignedReceipt, Store, StoreError, Which,
};

use crate::Fresh;

const NOW: i64 = 1_800_000_000_000;

fn doc() -> RunDoc {
    RunDoc {
        command: "true".into(),
        cwd: None,
        env: BTreeMap::new(),
        sealed_env: BTreeMap::new(),
        timeout_s: 60,
        requires_start: false,
        place: Place::App,
        cleanup: CleanupPolicy::Delete,
        keep: None,
        artifact_paths: Vec::new(),
        files: Vec::new(),
        input_sha256: "in".into(),
        manifest_sha256: "man".into(),
        source_sha256: "src".into(),
        caused_by: None,
        caller: None,
        kind: Kind::Action,
        schedule: None,
        ground: None,
        max_spend_micros: None,
        terms: Terms::default(),
        known: Known::default(),
    }
}

fn new(id: &str, at: i64) -> NewAppRun {
    NewAppRun {
        id: id.into(),
        team_id: "team".into(),
        app_id: "app".into(),
        app_name: "report".into(),
        version: 1,
        action: "build".into(),
        cause: RunCause::Api,
        schedule_id: None,
        tick_ms: None,
        group: None,
        key: None,
        created_at_ms: NOW + at,
        doc: doc(),
        input: "{}".into(),
    }
}

fn grouped(id: &str, at: i64, max: u32, policy: GroupPolicy) -> NewAppRun {
    NewAppRun { group: Some(Group { name: "g".into(), max, policy }), ..new(id, at) }
}

fn end(id: &str, from: RunStatus, status: RunStatus) -> AppRunEnd {
    AppRunEnd {
        id: id.into(),
        from,
        status,
        failure_reason: (status == RunStatus::Failed).then_some(FailureReason::ExitCode),
        cleanup: None,
        finished_at_ms: NOW + 100,
        log_bytes: 3,
        artifact_bytes: 4,
        doc: doc(),
    }
}

/// What a receipt says here: its place, and whose it is.
fn sign() -> SignReceipt {
    Box::new(|run, place| {
        let doc = format!("{} {:?} {} {}", place.seq, place.prev_sha256, run.id, run.status.as_str());
        Ok(SignedReceipt { id: format!("r-{}", run.id), sha256: format!("sha-{}", place.seq), doc })
    })
}

async fn claim(store: &Store) -> Vec<String> {
    store.app_runs_claim(AtOnce::of(64), NOW + 50).await.expect("claims").into_iter().map(|run| run.id).collect()
}

#[tokio::test]
async fn a_run_ends_once_and_its_receipt_is_in_the_chain() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(store.app_run_insert(new(id, at as i64)).await.expect("inserts"), InsertedRun::Queued);
    }
    assert_eq!(claim(&store).await.len(), 3);
    assert!(claim(&store).await.is_empty(), "none begins twice");
    let mut known = doc();
    known.known.context_id = Some("ctx".into());
    store.app_run_step("a", Phase::Commanding, Some("sb"), &known).await.expect("steps");
    let found = store.app_run_get("team", "a").await.expect("reads").expect("is there");
    assert_eq!((found.status, found.phase, found.sandbox_id.as_deref()), (RunStatus::Running, Phase::Commanding, Some("sb")));
    assert_eq!(found.doc.known.context_id.as_deref(), Some("ctx"));
    assert_eq!(store.app_run_get("other", "a").await.expect("reads"), None);

    let first = store.app_run_finish(end("a", RunStatus::Running, RunStatus::Succeeded), sign()).await.expect("ends").expect("was running");
    assert_eq!((first.seq, first.doc.as_str()), (1, "1 None a succeeded"));
    for status in [RunStatus::Queued, RunStatus::Running] {
        assert_eq!(store.app_run_finish(end("a", status, RunStatus::Failed), sign()).await.expect("is refused"), None);
    }
    let refused: SignReceipt = Box::new(|_, _| Err(StoreError::Query("no key")));
    assert!(store.app_run_finish(end("b", RunStatus::Running, RunStatus::Failed), refused).await.is_err());
    assert_eq!(store.app_run_find("b").await.expect("reads").expect("is there").status, RunStatus::Running, "no end without a receipt");
    let second = store.app_run_finish(end("b", RunStatus::Running, RunStatus::Failed), sign()).await.expect("ends").expect("was running");
    assert_eq!(second.doc, "2 Some(\"sha-1\") b failed");
    assert!(store.app_run_step("b", Phase::Collecting, None, &known).await.is_err(), "nothing is done to what has ended");

    let listed = store.receipts_list("team", None, 1, (10, 1 << 20)).await.expect("lists");
    assert_eq!((&listed.receipts[..], &listed.gone), (std::slice::from_ref(&second), &None));
    assert_eq!(store.receipts_list("team", Some("app"), 0, (1, 1 << 20)).await.expect("lists").receipts, std::slice::from_ref(&first));
    assert_eq!(store.receipts_list("team", Some("none"), 0, (1, 1 << 20)).await.expect("lists").receipts, []);
    assert_eq!(store.receipt_get("team", "r-b").await.expect("reads"), Some(second));
    assert_eq!(store.receipt_get("other", "r-b").await.expect("reads"), None);
    assert_eq!(store.receipt_of_run("team", "a").await.expect("reads").as_ref(), Some(&first));
    let runs = store.app_runs_list("team", AppRunFilter { app_id: Some("app".into()), limit: 2, ..AppRunFilter::default() }).await.expect("lists");
    assert_eq!(runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["c", "b"]);
    assert_eq!(runs[1].receipt_id.as_deref(), Some("r-b"));
}

#[tokio::test]
async fn who_asks_twice_by_one_key_is_answered_once() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let keyed = |id: &str, body: &str| NewAppRun { key: Some(("k".into(), body.into())), ..new(id, 0) };
    assert_eq!(store.app_run_insert(keyed("a", "one")).await.expect("inserts"), InsertedRun::Queued);
    assert_eq!(store.app_run_insert(keyed("b", "one")).await.expect("answers"), InsertedRun::Same { run_id: "a".into() });
    assert_eq!(store.app_run_insert(keyed("c", "two")).await.expect("answers"), InsertedRun::Other { run_id: "a".into() });
    assert_eq!(store.app_run_find("b").await.expect("reads"), None);
    let elsewhere = NewAppRun { app_id: "other".into(), ..keyed("d", "two") };
    assert_eq!(store.app_run_insert(elsewhere).await.expect("inserts"), InsertedRun::Queued);
}

#[tokio::test]
async fn groups_queue_skip_and_cancel() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(store.app_run_insert(grouped(id, at as i64, 2, GroupPolicy::Queue)).await.expect("inserts"), InsertedRun::Queued);
    }
    assert_eq!(claim(&store).await, ["a", "b"], "two at a time");
    assert!(claim(&store).await.is_empty());
    assert_eq!(store.app_run_insert(grouped("d", 9, 2, GroupPolicy::Skip)).await.expect("inserts"), InsertedRun::Skipped);
    let unwanted = store.app_runs_unwanted(10).await.expect("reads");
    assert_eq!((unwanted.len(), unwanted[0].id.as_str(), unwanted[0].doc.known.skipped), (1, "d", true));
    store.app_run_finish(end("d", RunStatus::Queued, RunStatus::Cancelled), sign()).await.expect("ends").expect("was queued");

    // Three are there: of one at a time, all three have to go.
    assert_eq!(store.app_run_insert(grouped("e", 10, 1, GroupPolicy::Cancel)).await.expect("inserts"), InsertedRun::Queued);
    assert_eq!(store.app_runs_to_cancel().await.expect("reads"), ["a", "b"]);
    assert_eq!(store.app_runs_unwanted(10).await.expect("reads").len(), 1, "the one that waits");
    assert!(claim(&store).await.is_empty(), "they have not ended yet");
    for (id, from) in [("a", RunStatus::Running), ("b", RunStatus::Running), ("c", RunStatus::Queued)] {
        store.app_run_finish(end(id, from, RunStatus::Cancelled), sign()).await.expect("ends").expect("was there");
    }
    assert_eq!(claim(&store).await, ["e"]);
}

#[tokio::test]
async fn a_long_queue_of_one_hides_nobody_and_has_an_end() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for number in 0..limits::RUNS_WAITING_PER_TEAM_MAX {
        store.app_run_insert(grouped(&format!("g{number:04}"), 0, 1, GroupPolicy::Queue)).await.expect("inserts");
    }
    let refused = store.app_run_insert(new("z", 1)).await;
    assert!(matches!(refused, Err(StoreError::TooMany { .. })), "{refused:?}");
    assert_eq!(claim(&store).await, ["g0000"]);
    store.app_run_insert(new("z", 1)).await.expect("there is room again");
    assert_eq!(claim(&store).await, ["z"], "the group's queue is before it, and does not stop it");
}

#[tokio::test]
async fn cancelling_says_what_it_met() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.app_run_insert(new("a", 0)).await.expect("inserts");
    assert_eq!(store.app_run_cancel("other", "a", NOW).await.expect("answers"), None);
    claim(&store).await;
    store.app_run_insert(new("b", 0)).await.expect("inserts");
    assert_eq!(store.app_run_cancel("team", "a", NOW).await.expect("answers"), Some(CancelMet::Running));
    assert_eq!(store.app_run_cancel("team", "b", NOW).await.expect("answers"), Some(CancelMet::Queued));
    assert!(claim(&store).await.is_empty(), "a run that is not wanted does not begin");
    store.app_run_finish(end("b", RunStatus::Queued, RunStatus::Cancelled), sign()).await.expect("ends").expect("was queued");
    assert_eq!(store.app_run_cancel("team", "b", NOW).await.expect("answers"), Some(CancelMet::Final));
}

#[tokio::test]
async fn what_is_cleaned_up_or_kept_too_long_goes() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for id in ["a", "b", "c"] {
        store.app_run_insert(new(id, 0)).await.expect("inserts");
    }
    assert_eq!(claim(&store).await.len(), 3);
    for id in ["a", "b"] {
        let end = AppRunEnd { cleanup: Some(Cleanup::Pending), ..end(id, RunStatus::Running, RunStatus::Failed) };
        store.app_run_finish(end, sign()).await.expect("ends").expect("was running");
    }
    let uncleaned = async |now_ms: i64| store.app_runs_uncleaned(now_ms, 10).await.expect("reads").into_iter().map(|run| run.id).collect::<Vec<_>>();
    assert_eq!(uncleaned(NOW).await, ["a", "b"]);
    let mut tried = doc();
    tried.known.cleanup_error = Some("no".into());
    // It is tried again later, and sooner only when the clock was set back so far that later would be never.
    store.app_run_cleaned("b", Cleanup::Pending, Some(NOW + 5_000), &tried).await.expect("writes");
    assert_eq!(uncleaned(NOW + 4_999).await, ["a"]);
    assert_eq!(uncleaned(NOW + 5_000).await, ["a", "b"]);
    assert_eq!(uncleaned(NOW - limits::RUN_CLEANUP_PAUSE_MAX_MS).await, ["a", "b"]);
    store.app_run_cleaned("a", Cleanup::Failed, None, &tried).await.expect("writes");
    let found = store.app_run_find("a").await.expect("reads").expect("is there");
    assert_eq!((found.status, found.cleanup), (RunStatus::Failed, Some(Cleanup::Failed)));
    assert_eq!(uncleaned(NOW + 5_000).await, ["b"]);
    let pruned = store.app_runs_prune(NOW + 1000, 1).await.expect("prunes");
    assert_eq!(pruned.into_iter().map(|run| run.id).collect::<Vec<_>>(), ["a"], "neither what runs nor what is to be cleaned up");
    assert_eq!(store.app_run_ids().await.expect("reads").len(), 2);
    assert!(store.receipt_of_run("team", "a").await.expect("reads").is_some(), "receipts are kept");
}

#[tokio::test]
async fn what_runs_of_a_sandbox_were_given_sealed_is_found() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let given = |value: &str| BTreeMap::from([("K".to_owned(), value.to_owned())]);
    let with = |value: &str| RunDoc { sealed_env: given(value), ..doc() };
    for (at, (id, doc)) in [("a", with("one")), ("b", doc()), ("c", with("two")), ("d", with("three"))].into_iter().enumerate() {
        store.app_run_insert(NewAppRun { doc, ..new(id, at as i64) }).await.expect("inserts");
    }
    claim(&store).await;
    for (id, sandbox_id, doc) in [("a", "sb-1", with("one")), ("b", "sb-1", doc()), ("c", "sb-1", with("two")), ("d", "sb-2", with("three"))] {
        store.app_run_step(id, Phase::Preparing, Some(sandbox_id), &doc).await.expect("writes");
    }
    let sealed = async |sandbox_id: &str| store.app_runs_sealed("app", sandbox_id).await.expect("reads");
    assert_eq!(sealed("sb-1").await, [given("two"), given("one")]);
    assert_eq!((sealed("sb-2").await, sealed("sb-3").await), (vec![given("three")], vec![]));
    // A row that cannot be read keeps nobody from the others.
    {
        let db = rusqlite::Connection::open(fresh.path()).expect("opens");
        db.execute("UPDATE app_run SET doc = '{\"sealed_env\":' WHERE id = 'c'", []).expect("writes");
    }
    assert_eq!(sealed("sb-1").await, [BTreeMap::new(), given("one")]);
}

#[tokio::test]
async fn runs_end_with_their_app_and_say_so() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let placed = |id: &str, at: i64, place: Place| NewAppRun { doc: RunDoc { place, ..doc() }, ..new(id, at) };
    for (at, (id, place)) in [("in", Place::App), ("own", Place::Fresh), ("asked", Place::App)].into_iter().enumerate() {
        store.app_run_insert(placed(id, at as i64, place)).await.expect("inserts");
    }
    assert_eq!(claim(&store).await.len(), 3);
    store.app_run_step("in", Phase::Preparing, Some("sb-1"), &doc()).await.expect("writes");
    store.app_run_insert(placed("waits", 9, Place::App)).await.expect("inserts");
    store.app_run_insert(NewAppRun { app_id: "other".into(), ..placed("others", 9, Place::App) }).await.expect("inserts");
    store.app_run_cancel("team", "asked", NOW).await.expect("writes");

    let has = async |which: Which, besides: Option<&str>| store.app_has_runs("app", which, besides).await.expect("reads");
    assert!(has(Which::OfApp, None).await && has(Which::In("sb-1".into()), None).await);
    assert!(!has(Which::In("sb-1".into()), Some("in")).await && !has(Which::In("sb-2".into()), None).await);
    let withdraw = async |which: Which, why: Withdrawn| {
        let mut ids = store.app_runs_withdraw("app", which, why, NOW + 1).await.expect("writes");
        ids.sort();
        ids
    };
    assert_eq!(withdraw(Which::In("sb-1".into()), Withdrawn::AppReplaced).await, ["in"]);
    assert_eq!(withdraw(Which::OfApp, Withdrawn::AppStopped).await, ["asked", "in", "waits"]);
    let why = async |id: &str| store.app_run_withdrawn(id).await.expect("reads");
    assert_eq!((why("in").await, why("waits").await), (Some(Withdrawn::AppReplaced), Some(Withdrawn::AppStopped)), "the first reason stays");
    assert_eq!((why("asked").await, why("own").await, why("others").await), (None, None, None));
    assert_eq!(store.app_runs_to_cancel().await.expect("reads"), ["in", "asked"]);
    assert_eq!(store.app_runs_running().await.expect("reads"), ["in", "own", "asked"]);
    assert_eq!(withdraw(Which::All, Withdrawn::AppDeleted).await, ["asked", "in", "own", "waits"]);
    for id in ["in", "own", "asked"] {
        store.app_run_finish(end(id, RunStatus::Running, RunStatus::Cancelled), sign()).await.expect("ends").expect("was running");
    }
    assert!(!has(Which::All, None).await, "one that waits and is not wanted keeps nothing awake");
}

#[tokio::test]
async fn sandboxes_of_runs_are_found_with_what_their_runs_say() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    assert_eq!(store.run_sandboxes().await.expect("reads"), []);
    assert_eq!(store.run_sandboxes_stopped(None).await.expect("reads"), []);
    assert_eq!(store.apps_woken().await.expect("reads"), [""; 0]);
    assert_eq!(store.app_run_by_key("app", "k").await.expect("reads"), None);
    store.app_run_insert(NewAppRun { key: Some(("k".into(), "sha".into())), ..new("a", 0) }).await.expect("inserts");
    assert_eq!(store.app_run_by_key("app", "k").await.expect("reads"), Some(("a".into(), "sha".into())));
    assert_eq!(store.app_run_by_key("other", "k").await.expect("reads"), None);
}

#[tokio::test]
async fn a_run_that_cannot_be_read_keeps_no_other_from_anything() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for (at, id) in ["a", "b"].into_iter().enumerate() {
        store.app_run_insert(new(id, at as i64)).await.expect("inserts");
    }
    {
        let db = rusqlite::Connection::open(fresh.path()).expect("opens");
        db.execute("UPDATE app_run SET doc = '{' WHERE id = 'a'", []).expect("writes");
    }
    for (at, column) in ["phase", "cause", "withdrawn"].into_iter().enumerate() {
        store.app_run_insert(new(column, 10 + at as i64)).await.expect("inserts");
        let db = rusqlite::Connection::open(fresh.path()).expect("opens");
        db.execute(&format!("UPDATE app_run SET {column} = 'unheard of' WHERE id = ?1"), [column]).expect("writes");
    }
    let claimed = store.app_runs_claim(AtOnce::of(64), NOW + 50).await.expect("claims");
    let readable: Vec<_> = claimed.iter().map(|run| (run.id.as_str(), run.doc.known.unreadable.is_none())).collect();
    assert_eq!(readable, [("a", false), ("b", true), ("phase", false), ("cause", false), ("withdrawn", false)]);
    let ended = AppRunEnd { doc: claimed[0].doc.clone(), ..end("a", RunStatus::Running, RunStatus::Failed) };
    assert!(store.app_run_finish(ended, sign()).await.expect("ends").is_some(), "it has its receipt");
    let found = store.app_run_get("team", "a").await.expect("reads").expect("is there");
    assert!(found.status == RunStatus::Failed && found.doc.known.unreadable.is_some(), "{found:?}");
    assert_eq!(store.app_runs_running().await.expect("reads").len(), 4);
}

#[tokio::test]
async fn files_of_runs_that_have_not_ended_are_bounded() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let with_file = |id: &str, at: i64, size_bytes: u64| {
        let file = RunFile { input: "table".into(), path: "/workspace/table".into(), size_bytes, sha256: "s".into() };
        NewAppRun { doc: RunDoc { files: vec![file], ..doc() }, ..new(id, at) }
    };
    let most = limits::RUNS_FILES_PER_TEAM_MAX_BYTES as u64;
    store.app_run_insert(with_file("a", 0, most - 10)).await.expect("inserts");
    let refused = store.app_run_insert(with_file("b", 1, 11)).await;
    assert!(matches!(refused, Err(StoreError::TooMany { .. })), "{refused:?}");
    store.app_run_insert(with_file("c", 2, 10)).await.expect("fits");
    store.app_run_insert(new("d", 3)).await.expect("has none");
    assert_eq!(claim(&store).await.len(), 3);
    store.app_run_finish(end("a", RunStatus::Running, RunStatus::Succeeded), sign()).await.expect("ends").expect("was running");
    store.app_run_insert(with_file("f", 5, most - 10)).await.expect("fits again");
    assert!(store.app_runs_prune(0, 10).await.expect("prunes").is_empty());
}

/// Ends so many runs, the first at [`NOW`] and each some time later, and returns their receipts.
async fn receipts(store: &Store, count: i64, every_ms: i64) -> Vec<ReceiptRecord> {
    let mut receipts = Vec::new();
    for at in 0..count {
        let id = format!("run-{at}");
        store.app_run_insert(new(&id, at)).await.expect("inserts");
        claim(store).await;
        let end = AppRunEnd { finished_at_ms: NOW + at * every_ms, ..end(&id, RunStatus::Running, RunStatus::Succeeded) };
        receipts.push(store.app_run_finish(end, sign()).await.expect("ends").expect("was running"));
    }
    receipts
}

#[tokio::test]
async fn receipts_go_from_the_oldest_on_and_the_chain_goes_on() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let all = receipts(&store, 6, 1000).await;
    let bytes = |receipts: &[ReceiptRecord]| receipts.iter().map(|receipt| receipt.doc.len() as u64).sum::<u64>();
    let keep = ReceiptsKept { max: 6, bytes_max: bytes(&all), since_ms: NOW };
    assert_eq!(store.receipts_prune(keep, NOW, 1).await.expect("prunes"), 0, "all may stay");

    // By number, by bytes, and by age; in steps of one and of many.
    for (kept, step, left) in [
        (ReceiptsKept { max: 5, ..keep }, 1, 5),
        (ReceiptsKept { bytes_max: bytes(&all[2..]), ..keep }, 9, 4),
        (ReceiptsKept { since_ms: NOW + 3000, ..keep }, 9, 3),
    ] {
        assert_eq!(store.receipts_prune(kept, NOW + 9000, step).await.expect("prunes"), 1, "{kept:?}");
        let page = store.receipts_list("team", None, 0, (10, 1 << 20)).await.expect("lists");
        let gone = &all[all.len() - left - 1];
        assert_eq!(page.receipts, all[all.len() - left..]);
        assert_eq!(page.gone, Some(ReceiptsGone { seq: gone.seq, sha256: gone.sha256.clone(), at_ms: NOW + 9000 }));
        assert_eq!(store.receipts_prune(kept, NOW, step).await.expect("prunes"), 0);
    }

    let none = ReceiptsKept { max: 0, bytes_max: 0, since_ms: i64::MAX };
    assert_eq!(store.receipts_prune(none, NOW, 1).await.expect("prunes"), 2);
    let page = store.receipts_list("team", Some("app"), 0, (10, 1 << 20)).await.expect("lists");
    assert_eq!(page.receipts, all[5..], "the next one names the newest");
    store.app_run_insert(new("next", 99)).await.expect("inserts");
    claim(&store).await;
    let next = store.app_run_finish(end("next", RunStatus::Running, RunStatus::Succeeded), sign()).await.expect("ends").expect("was running");
    assert_eq!(next.doc, "7 Some(\"sha-6\") next succeeded");
    assert_eq!(store.receipts_prune(keep, NOW, 9).await.expect("prunes"), 0, "what went is not counted any more");
    assert!(store.app_run_find("run-0").await.expect("reads").is_some(), "runs are another matter");
}

#[tokio::test]
async fn a_page_of_receipts_has_no_more_bytes_than_it_may() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let all = receipts(&store, 5, 1000).await;
    let two = all[3].doc.len() + all[4].doc.len();
    for (limit, bytes, counts) in [
        (10, usize::MAX, &[5][..]),
        (5, usize::MAX, &[5, 0]),
        (2, usize::MAX, &[2, 2, 1]),
        (10, two, &[2, 2, 1]),
        // One that is larger than a page goes alone.
        (10, 0, &[1, 1, 1, 1, 1]),
    ] {
        let (mut after, mut seen, mut found) = (0, Vec::new(), Vec::new());
        loop {
            let page = store.receipts_list("team", None, after, (limit, bytes)).await.expect("lists");
            found.push(page.receipts.len());
            after = page.receipts.last().map_or(after, |last| last.seq);
            seen.extend(page.receipts);
            if !page.more {
                break;
            }
        }
        assert_eq!((&found[..], &seen), (counts, &all), "{limit} {bytes}");
    }
}

#[tokio::test]
async fn inputs_count_like_what_runs_leave() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    // As many bytes of inputs as an app may keep would not fit here: what is left of that is taken by an artifact.
    for (at, id) in ["old", "new"].into_iter().enumerate() {
        store.app_run_insert(NewAppRun { input: format!("\"{}\"", "x".repeat(1000)), ..new(id, at as i64) }).await.expect("inserts");
    }
    assert_eq!(claim(&store).await.len(), 2);
    for id in ["old", "new"] {
        let end = AppRunEnd { artifact_bytes: limits::RUNS_PER_APP_MAX_BYTES / 2 - 500, log_bytes: 0, ..end(id, RunStatus::Running, RunStatus::Succeeded) };
        store.app_run_finish(end, sign()).await.expect("ends").expect("was running");
    }
    let pruned = store.app_runs_prune(0, 10).await.expect("prunes");
    assert_eq!(pruned.into_iter().map(|run| run.id).collect::<Vec<_>>(), ["old"]);
}
