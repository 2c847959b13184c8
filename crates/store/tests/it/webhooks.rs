use sandbar_api::sandbox::Webhook;
use sandbar_core::{
    limits,
    sandbox::{Desired, SandboxRecord},
    webhook::Kind,
};
use sandbar_store::{Attempt, DeliveryState, Due, Ended, NewDelivery, NewEvent, Store, StoreError, Taken};

use crate::{Fresh, sandboxes::sandbox};

const NOW: i64 = 1000;

fn hooked(id: &str, url: &str) -> SandboxRecord {
    let mut record = sandbox(id, "team", NOW);
    record.config.webhook = Some(Webhook { url: url.into(), secret: Some("sealed".into()), watch_dir: None });
    record
}

fn event(id: &str, kind: Kind) -> NewDelivery {
    NewDelivery { event_id: id.into(), kind, body: format!("{{\"event_id\":\"{id}\"}}") }
}

fn noted(deliveries: Vec<NewDelivery>) -> NewEvent {
    NewEvent { deliveries, ..NewEvent::new(NOW, "sandbox.ready", "claimed") }
}

async fn insert(store: &Store, id: &str) -> SandboxRecord {
    let record = hooked(id, &format!("http://{id}.test/"));
    store.sandbox_insert(&record, &[noted(vec![event(&format!("{id}-ready"), Kind::Ready)])]).await.expect("inserts");
    record
}

async fn due(store: &Store, now_ms: i64) -> Vec<Due> {
    store.webhook_due(now_ms, 100, Vec::new(), Vec::new()).await.expect("reads")
}

async fn due_ids(store: &Store, now_ms: i64) -> Vec<String> {
    due(store, now_ms).await.into_iter().map(|due| due.event_id).collect()
}

async fn ids(store: &Store, sandbox: &str, state: Option<DeliveryState>) -> Vec<String> {
    let listed = store.webhook_deliveries("team", sandbox, state, None, 10_000).await.expect("lists");
    listed.into_iter().map(|delivery| delivery.event_id).collect()
}

async fn finish(store: &Store, ended: Ended, at_ms: i64) {
    for due in due(store, at_ms).await {
        let attempt = Attempt { at_ms, status: Some(200), error: None, answer: Some("ok".into()) };
        store.webhook_attempted(&due.sandbox_id, due.seq, &attempt, ended).await.expect("is noted");
    }
}

#[tokio::test]
async fn an_event_is_written_with_its_change_or_not_at_all() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = insert(&store, "sb-1").await;
    assert_eq!(due_ids(&store, NOW).await, ["sb-1-ready"]);
    let stale = store.sandbox_update(&record, record.version + 5, &[noted(vec![event("lost", Kind::Paused)])]).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })));
    assert!(store.sandbox_insert(&record, &[noted(vec![event("twice", Kind::Ready)])]).await.is_err());
    assert_eq!(ids(&store, "sb-1", None).await, ["sb-1-ready"], "what failed tells nothing");
    drop(store);
    let store = fresh.open();
    let due = due(&store, NOW).await;
    assert_eq!((due.len(), due[0].url.as_str(), due[0].secret.as_deref()), (1, "http://sb-1.test/", Some("sealed")), "after a restart");
    assert_eq!((due[0].receiver.as_str(), due[0].body.as_str()), ("sb-1.test:80", "{\"event_id\":\"sb-1-ready\"}"));
    // Without a webhook there is nobody to tell.
    store.sandbox_insert(&sandbox("sb-2", "team", NOW), &[noted(vec![event("x", Kind::Ready)])]).await.expect("inserts");
    assert_eq!(ids(&store, "sb-2", None).await, Vec::<String>::new());
    assert_eq!(store.webhook_get("team", "sb-2").await.expect("reads"), None);
    assert_eq!(store.webhook_get("other", "sb-1").await.expect("reads"), None, "another team's does not exist");
}

#[tokio::test]
async fn one_waits_for_the_one_before() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = insert(&store, "sb-1").await;
    insert(&store, "sb-2").await;
    store.sandbox_update(&record, record.version, &[noted(vec![event("second", Kind::Paused), event("third", Kind::Resumed)])]).await.expect("updates");
    assert_eq!(due_ids(&store, NOW).await, ["sb-1-ready", "sb-2-ready"]);
    let busy = store.webhook_due(NOW, 100, vec!["sb-2".into()], Vec::new()).await.expect("reads");
    assert_eq!(busy.len(), 1, "one that is under way is not taken twice");
    let full = store.webhook_due(NOW, 100, Vec::new(), vec!["team sb-1.test:80".into()]).await.expect("reads");
    assert_eq!((full.len(), full[0].sandbox_id.as_str()), (1, "sb-2"));
    assert_eq!(store.webhook_due(NOW, 100, Vec::new(), vec!["team".into()]).await.expect("reads"), []);
    let first = due(&store, NOW).await.remove(0);
    let failed = Attempt { at_ms: NOW, error: Some("no answer".into()), ..Attempt::default() };
    store.webhook_attempted("sb-1", first.seq, &failed, Ended::Retry { at_ms: NOW + 500 }).await.expect("is noted");
    assert_eq!(due_ids(&store, NOW + 499).await, ["sb-2-ready"], "the later ones wait, too");
    assert_eq!(store.webhook_next(NOW).await.expect("reads"), Some(NOW + 500));
    let again = due(&store, NOW + 500).await.into_iter().find(|due| due.sandbox_id == "sb-1").expect("is due");
    assert_eq!((again.event_id.as_str(), again.attempts, again.body == first.body), ("sb-1-ready", 1, true));
    let listed = store.webhook_deliveries("team", "sb-1", None, None, 10).await.expect("lists");
    assert_eq!(listed.iter().map(|d| d.event_id.as_str()).collect::<Vec<_>>(), ["third", "second", "sb-1-ready"]);
    assert_eq!(listed.iter().map(|d| d.next_attempt_at_ms).collect::<Vec<_>>(), [None, None, Some(NOW + 500)]);
    assert_eq!((listed[2].attempts, listed[2].last_error.as_deref(), &listed[2].body), (1, Some("no answer"), &None));
    for wanted in ["sb-1-ready", "second", "third"] {
        assert!(due_ids(&store, NOW + 600).await.contains(&wanted.to_owned()), "{wanted}");
        finish(&store, if wanted == "second" { Ended::Failed } else { Ended::Delivered }, NOW + 600).await;
    }
    assert_eq!(due_ids(&store, i64::MAX).await, Vec::<String>::new());
    assert_eq!(ids(&store, "sb-1", Some(DeliveryState::Failed)).await, ["second"]);
    assert_eq!(store.webhook_next(0).await.expect("reads"), None);
}

#[tokio::test]
async fn an_event_is_posted_again_when_that_is_asked_for() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = insert(&store, "sb-1").await;
    finish(&store, Ended::Failed, NOW).await;
    store.sandbox_update(&record, record.version, &[noted(vec![event("second", Kind::Paused)])]).await.expect("updates");
    store.webhook_redeliver("team", "sb-1", "sb-1-ready", NOW + 7).await.expect("is posted again");
    store.webhook_redeliver("team", "sb-1", "sb-1-ready", NOW + 8).await.expect("waits already");
    for wanted in ["second", "sb-1-ready"] {
        assert_eq!(due_ids(&store, NOW + 10).await, [wanted], "in its turn");
        finish(&store, Ended::Delivered, NOW + 10).await;
    }
    let one = store.webhook_delivery("team", "sb-1", "sb-1-ready").await.expect("reads").expect("is there");
    assert_eq!((one.state, one.attempts, one.body.as_deref()), (DeliveryState::Delivered, 1, Some("{\"event_id\":\"sb-1-ready\"}")));
    // Also what is posted again has to fit.
    let large = |n: usize| NewDelivery { event_id: format!("l{n}"), kind: Kind::Agent, body: "x".repeat(limits::WEBHOOK_PENDING_MAX_BYTES / 2) };
    store.webhook_take("sb-1", None, 0, NOW, vec![large(0)]).await.expect("takes");
    finish(&store, Ended::Delivered, NOW + 11).await;
    assert_eq!(store.webhook_take("sb-1", None, 0, NOW, vec![large(1), event("small", Kind::Paused)]).await.expect("takes").dropped, 0);
    assert!(matches!(store.webhook_redeliver("team", "sb-1", "l0", NOW).await, Err(StoreError::TooMany { .. })));
    assert!(matches!(store.webhook_redeliver("team", "sb-1", "none", NOW).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.webhook_redeliver("other", "sb-1", "second", NOW).await, Err(StoreError::NotFound { .. })), "another team's does not exist");
}

#[tokio::test]
async fn events_from_inside_are_taken_once() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = insert(&store, "sb-1").await;
    assert_eq!(store.webhook_cursor("sb-1", "rt-1").await.expect("reads"), Some((0, NOW)));
    let taken = store.webhook_take("sb-1", Some(("rt-1", 7)), 2, NOW, vec![event("p", Kind::ProcessStarted)]).await.expect("takes");
    assert_eq!(taken, Taken { enqueued: 1, dropped: 0 });
    assert_eq!(store.webhook_cursor("sb-1", "rt-1").await.expect("reads"), Some((7, NOW)));
    assert_eq!(store.webhook_cursor("sb-1", "rt-2").await.expect("reads"), Some((0, NOW)), "another runtime begins anew");
    assert_eq!(store.webhook_get("team", "sb-1").await.expect("reads").expect("is there").dropped, 2);
    assert_eq!(store.webhook_cursor("sb-9", "rt-1").await.expect("reads"), None);
    // A published event with the id of one that waits is the same one; of one that is done with it is another.
    let publish = |body: &str| vec![NewDelivery { event_id: "job".into(), kind: Kind::Agent, body: body.into() }];
    assert_eq!(store.webhook_take("sb-1", None, 0, NOW, publish("one")).await.expect("takes").enqueued, 1);
    assert_eq!(store.webhook_take("sb-1", None, 0, NOW, publish("two")).await.expect("takes").enqueued, 0);
    for _ in 0..3 {
        finish(&store, Ended::Delivered, NOW).await;
    }
    assert_eq!(store.webhook_delivery("team", "sb-1", "job").await.expect("reads").expect("is there").body.as_deref(), Some("one"));
    assert_eq!(store.webhook_take("sb-1", None, 0, NOW, publish("three")).await.expect("takes").enqueued, 1);
    assert_eq!(store.webhook_delivery("team", "sb-1", "job").await.expect("reads").expect("is there").body.as_deref(), Some("three"));
    // What is deleted says nothing more, so that its last event is the last.
    let deleted = SandboxRecord { desired: Desired::Deleted, ..record };
    store.sandbox_update(&deleted, deleted.version, &[noted(vec![event("deleted", Kind::Deleted)])]).await.expect("updates");
    assert_eq!(store.webhook_take("sb-1", None, 0, NOW, vec![event("late", Kind::ProcessExited)]).await.expect("takes"), Taken::default());
    assert_eq!(ids(&store, "sb-1", None).await[0], "deleted");
}

#[tokio::test]
async fn what_waits_is_bounded_and_the_lifecycle_stays() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    insert(&store, "sb-1").await;
    let many = |from: usize, count: usize| (from..from + count).map(|n| event(&format!("p{n}"), Kind::ProcessStarted)).collect::<Vec<_>>();
    store.webhook_take("sb-1", None, 0, NOW, vec![event("job", Kind::Agent)]).await.expect("takes");
    let taken = store.webhook_take("sb-1", None, 0, NOW, many(0, limits::WEBHOOK_PENDING_MAX + 10)).await.expect("takes");
    assert_eq!((taken.enqueued, taken.dropped), (limits::WEBHOOK_PENDING_MAX as u64 + 10, 12));
    let waiting = ids(&store, "sb-1", Some(DeliveryState::Pending)).await;
    assert_eq!(
        (waiting.len(), waiting.first().map(String::as_str)),
        (limits::WEBHOOK_PENDING_MAX, Some(format!("p{}", limits::WEBHOOK_PENDING_MAX + 9).as_str()))
    );
    assert!(waiting.contains(&"sb-1-ready".to_owned()) && waiting.contains(&"job".to_owned()) && !waiting.contains(&"p0".to_owned()));
    assert_eq!(store.webhook_get("team", "sb-1").await.expect("reads").expect("is there").dropped, 12);
    assert_eq!(store.webhook_waiting().await.expect("counts"), limits::WEBHOOK_PENDING_MAX as u64);
    // By size, too.
    insert(&store, "sb-2").await;
    let large = |n: usize| NewDelivery { event_id: format!("l{n}"), kind: Kind::Agent, body: "x".repeat(limits::WEBHOOK_PENDING_MAX_BYTES / 4) };
    let taken = store.webhook_take("sb-2", None, 0, NOW, (0..6).map(large).collect()).await.expect("takes");
    assert_eq!((taken.enqueued, taken.dropped), (6, 3), "the first event of its life takes some of it");
    assert_eq!(ids(&store, "sb-2", None).await, ["l5", "l4", "l3", "sb-2-ready"]);
    let mut paused = hooked("sb-2", "http://sb-2.test/");
    paused.updated_at_ms = NOW;
    let big = NewDelivery { event_id: "paused".into(), kind: Kind::Paused, body: "x".repeat(limits::WEBHOOK_PENDING_MAX_BYTES / 2) };
    store.sandbox_update(&paused, paused.version, &[noted(vec![big])]).await.expect("updates");
    assert_eq!(ids(&store, "sb-2", None).await, ["paused", "l5", "sb-2-ready"]);
}

#[tokio::test]
async fn what_is_done_with_is_kept_for_a_while() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = insert(&store, "sb-1").await;
    let count = limits::WEBHOOK_KEPT_MAX / 8 * 9 + 1;
    for n in 0..count {
        store.webhook_take("sb-1", None, 0, NOW, vec![event(&format!("p{n}"), Kind::ProcessStarted)]).await.expect("takes");
        finish(&store, Ended::Delivered, NOW).await;
    }
    finish(&store, Ended::Delivered, NOW).await;
    let kept = ids(&store, "sb-1", None).await;
    assert!((limits::WEBHOOK_KEPT_MAX..=limits::WEBHOOK_KEPT_MAX / 8 * 9).contains(&kept.len()), "{}", kept.len());
    assert_eq!((kept[0].clone(), kept.contains(&"p0".to_owned())), (format!("p{}", count - 1), false), "the oldest went");
    // The sandbox goes, what was told of it can be read for a while.
    store.sandbox_delete("sb-1", record.version).await.expect("deletes");
    assert_eq!(store.webhook_prune(NOW, 10).await.expect("removes"), 0);
    assert_eq!(ids(&store, "sb-1", None).await.len(), kept.len());
    assert_eq!(store.webhook_prune(NOW + 1, 10_000).await.expect("removes"), kept.len());
    assert_eq!(store.webhook_get("team", "sb-1").await.expect("reads"), None, "nothing is left");
}

#[tokio::test]
async fn a_team_has_only_so_much() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for n in 0..6 {
        insert(&store, &format!("sb-{n}")).await;
    }
    // Two are done with, four wait, of which three may.
    for due in due(&store, NOW).await.into_iter().take(2) {
        store.webhook_attempted(&due.sandbox_id, due.seq, &Attempt { at_ms: NOW, ..Attempt::default() }, Ended::Delivered).await.expect("is noted");
    }
    assert!(!store.webhook_prune_teams(4, usize::MAX >> 1, 10).await.expect("removes"));
    assert_eq!(store.webhook_waiting().await.expect("counts"), 4);
    assert!(store.webhook_prune_teams(3, usize::MAX >> 1, 1).await.expect("removes"), "as many as were to go");
    assert_eq!(due_ids(&store, NOW).await, ["sb-3-ready", "sb-4-ready", "sb-5-ready"]);
    let gone = store.webhook_get("team", "sb-2").await.expect("reads").expect("is there");
    assert_eq!((gone.dropped, ids(&store, "sb-0", None).await.len()), (1, 1));
    // By size.
    assert!(!store.webhook_prune_teams(100, 2 * "{\"event_id\":\"sb-5-ready\"}".len(), 10).await.expect("removes"));
    assert_eq!(due_ids(&store, NOW).await, ["sb-4-ready", "sb-5-ready"]);
    assert_eq!(store.webhook_next(0).await.expect("reads"), Some(NOW));
}

#[tokio::test]
async fn a_webhook_changes_and_goes() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let mut record = insert(&store, "sb-1").await;
    let head = due(&store, NOW).await.remove(0);
    store.webhook_attempted("sb-1", head.seq, &Attempt { at_ms: NOW, ..Attempt::default() }, Ended::Retry { at_ms: NOW + 99_000 }).await.expect("is noted");
    record.config.webhook = Some(Webhook { url: "https://new.test/".into(), secret: None, watch_dir: None });
    record.updated_at_ms = NOW + 1;
    record.version = store.sandbox_update(&record, record.version, &[]).await.expect("updates");
    let again = due(&store, NOW + 1).await;
    assert_eq!((again.len(), again[0].url.as_str(), again[0].receiver.as_str(), &again[0].secret), (1, "https://new.test/", "new.test:443", &None), "at once");
    assert_eq!(store.webhook_cursor("sb-1", "rt").await.expect("reads"), Some((0, NOW)), "it is the same webhook");
    store.webhook_take("sb-1", Some(("rt", 7)), 0, NOW, Vec::new()).await.expect("takes");
    record.config.webhook = None;
    record.version = store.sandbox_update(&record, record.version, &[noted(vec![event("untold", Kind::Paused)])]).await.expect("updates");
    assert_eq!(due(&store, i64::MAX).await, []);
    let gone = store.webhook_deliveries("team", "sb-1", None, None, 10).await.expect("lists");
    assert_eq!((gone.len(), gone[0].state, gone[0].last_error.as_deref()), (1, DeliveryState::Failed, Some("the webhook was removed")));
    assert_eq!(store.webhook_get("team", "sb-1").await.expect("reads").expect("is there").url, "");
    // Whoever still takes events of before does not bring it back how far that was.
    store.webhook_take("sb-1", Some(("rt", 8)), 0, NOW, vec![event("late", Kind::Agent)]).await.expect("takes");
    record.config.webhook = Some(Webhook { url: "https://third.test/".into(), secret: None, watch_dir: None });
    record.updated_at_ms = NOW + 50;
    store.sandbox_update(&record, record.version, &[]).await.expect("updates");
    assert_eq!(store.webhook_cursor("sb-1", "rt").await.expect("reads"), Some((0, NOW + 50)), "what came before it is not told");
}

#[tokio::test]
async fn a_database_of_before_gets_its_webhooks() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = insert(&store, "sb-1").await;
    store.sandbox_insert(&sandbox("sb-2", "team", NOW), &[]).await.expect("inserts");
    store.close().await.expect("closes");
    // The same rows in a database of the version before.
    let old = Fresh::new();
    let before = rusqlite::Connection::open(old.path()).expect("opens");
    before.execute_batch(include_str!("../../migrations/0001_first.sql")).expect("is made");
    before.execute_batch(include_str!("../../migrations/0002_state.sql")).expect("is made");
    before.execute("ATTACH ?1 AS newer", [fresh.path().to_str().expect("text")]).expect("opens both");
    for table in ["user", "team", "sandbox"] {
        let sql = "SELECT group_concat(name) FROM pragma_table_info(?1)";
        let columns: String = before.query_row(sql, [table], |row| row.get(0)).expect("reads");
        before.execute_batch(&format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")).expect("copies");
    }
    before.execute_batch("DETACH newer; PRAGMA user_version = 2;").expect("is of before");
    drop(before);
    let store = old.open();
    let webhook = store.webhook_get("team", "sb-1").await.expect("reads").expect("is there");
    assert_eq!((webhook.url.as_str(), &webhook.secret), ("http://sb-1.test/", &None));
    assert_eq!(store.webhook_get("team", "sb-2").await.expect("reads"), None);
    // As the start of a server does that seals what was kept plainly.
    store.sandbox_update(&record, record.version, &[noted(vec![event("paused", Kind::Paused)])]).await.expect("updates");
    let due = due(&store, i64::MAX).await;
    assert_eq!((due.len(), due[0].secret.as_deref(), due[0].receiver.as_str()), (1, Some("sealed"), "sb-1.test:80"));
}
