use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};
use sandbar_core::{
    lifecycle::{self, Claim, Observation, Status},
    limits,
    sandbox::{Observed, SandboxRecord, reason},
};
use sandbar_store::{ListFilter, NewEvent, StoreError, TemplateRecord};
use serde_json::{Value, json};

use crate::{Fresh, team, user};

pub fn sandbox(id: &str, team: &str, now_ms: i64) -> SandboxRecord {
    let config = serde_json::from_value(json!({"ttl": 300, "hard_ttl": 3600, "env_vars": {"A": "ä"}, "later": {"kept": [1, 2]}})).expect("a config");
    let claim = Claim {
        id: id.into(),
        team_id: team.into(),
        user_id: "user".into(),
        template_id: "default".into(),
        template: TemplateSpec::default(),
        config,
        mounts: Vec::new(),
        base: None,
    };
    let mut record = lifecycle::claim(claim, now_ms);
    record.runtime_id = Some(format!("rt-{id}"));
    record.root_id = Some(format!("root-{id}"));
    record.pid = Some(4242);
    record.pid_start = Some(u64::from(u32::MAX) + 1);
    lifecycle::observe(&record, Observation::Started, now_ms).record
}

fn filter(team: &str) -> ListFilter {
    ListFilter { team_id: team.into(), limit: 50, ..ListFilter::default() }
}

#[tokio::test]
async fn what_is_stored_comes_back() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let mut record = sandbox("sb-1", "team", 1000);
    record.uid_slot = Some(7);
    record.reason = Some("why".into());
    store.sandbox_insert(&record, &[NewEvent::new(1000, "sandbox.ready", "claimed")]).await.expect("inserts");
    assert_eq!(store.sandbox_get(None, "sb-1").await.expect("reads"), Some(record.clone()));
    assert_eq!(store.sandbox_get(Some("team"), "sb-1").await.expect("reads"), Some(record.clone()));
    assert_eq!(store.sandbox_get(Some("other"), "sb-1").await.expect("reads"), None, "another team's does not exist");
    assert!(matches!(store.sandbox_insert(&record, &[]).await, Err(StoreError::Exists { .. })));
    let mut twin = sandbox("sb-2", "team", 1000);
    twin.uid_slot = Some(7);
    assert!(matches!(store.sandbox_insert(&twin, &[]).await, Err(StoreError::Exists { .. })), "a uid slot has one holder");
    drop(store);
    let store = fresh.open();
    assert_eq!(store.sandboxes_all().await.expect("reads"), [record], "after a restart");
}

#[tokio::test]
async fn updates_are_guarded() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = sandbox("sb-1", "team", 1000);
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    let paused = lifecycle::pause(&record, reason::USER_REQUEST, "asked", 2000).expect("pauses").record;
    let refreshed = lifecycle::refresh(&record, None, 2000).expect("refreshes").record;
    let (one, two) = tokio::join!(store.sandbox_update(&paused, record.version, &[]), store.sandbox_update(&refreshed, record.version, &[]));
    assert_eq!(one.expect("the first wins"), record.version + 1);
    assert!(matches!(two, Err(StoreError::Stale { .. })), "{two:?}");
    let stored = store.sandbox_get(None, "sb-1").await.expect("reads").expect("is there");
    assert_eq!(stored, SandboxRecord { version: record.version + 1, ..paused });
    assert!(matches!(store.sandbox_update(&sandbox("sb-9", "team", 1), 1, &[]).await, Err(StoreError::NotFound { .. })));
    let stolen = SandboxRecord { team_id: "other".into(), ..stored.clone() };
    assert!(store.sandbox_update(&stolen, stored.version, &[]).await.is_err(), "a sandbox keeps its team");
    assert!(matches!(store.sandbox_delete("sb-1", record.version).await, Err(StoreError::Stale { .. })));
    store.sandbox_delete("sb-1", stored.version).await.expect("deletes");
    assert!(matches!(store.sandbox_delete("sb-1", stored.version).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_that_saw_the_same_one_wins() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let mut record = sandbox("sb-1", "team", 1000);
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    for round in 0..20 {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let (store, record) = (store.clone(), record.clone());
                tokio::spawn(async move { store.sandbox_update(&record, record.version, &[]).await })
            })
            .collect();
        let mut won = 0;
        for writer in writers {
            match writer.await.expect("no panic") {
                Ok(version) => {
                    won += 1;
                    record.version = version;
                }
                Err(StoreError::Stale { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
}

#[tokio::test]
async fn lists_filter_and_page() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.user_insert(&user("other", "o@x"), &team("others", "other")).await.expect("another team");
    store.sandbox_insert(&sandbox("sb-x", "others", 1), &[]).await.expect("inserts");
    for n in 0..10 {
        let mut record = sandbox(&format!("sb-{n}"), "team", 1000 + n / 2);
        if n % 2 == 0 {
            record.observed = Observed::Hibernated;
        }
        if n == 9 {
            record.template_id = "own".into();
        }
        store.sandbox_insert(&record, &[]).await.expect("inserts");
    }
    let ids = |rows: &[SandboxRecord]| rows.iter().map(|r| r.id.clone()).collect::<Vec<_>>();
    let (rows, total) = store.sandbox_list(filter("team")).await.expect("lists");
    assert_eq!((ids(&rows), total), (["sb-8", "sb-9", "sb-6", "sb-7", "sb-4", "sb-5", "sb-2", "sb-3", "sb-0", "sb-1"].map(str::to_owned).to_vec(), 10));
    let (page, total) = store.sandbox_list(ListFilter { limit: 3, offset: 2, ..filter("team") }).await.expect("lists");
    assert_eq!((ids(&page), total), (vec!["sb-6".to_owned(), "sb-7".into(), "sb-4".into()], 10));
    for (narrow, expected) in [
        (ListFilter { statuses: Some(vec![Status::Running]), ..filter("team") }, 5),
        (ListFilter { statuses: Some(vec![Status::Running, Status::Paused]), ..filter("team") }, 10),
        (ListFilter { statuses: Some(vec![]), ..filter("team") }, 0),
        (ListFilter { paused: Some(true), ..filter("team") }, 5),
        (ListFilter { paused: Some(false), template_id: Some("own".into()), ..filter("team") }, 1),
        (ListFilter { template_id: Some("' OR 1=1 --".into()), ..filter("team") }, 0),
        (filter("others"), 1),
        (filter("nobody"), 0),
        (ListFilter { offset: 99, ..filter("team") }, 10),
    ] {
        let (_, total) = store.sandbox_list(narrow.clone()).await.expect("lists");
        assert_eq!(total, expected, "{narrow:?}");
    }
    let by_template = store.sandbox_counts_by_template("team").await.expect("counts");
    assert_eq!(by_template, [("default".to_owned(), 4), ("own".into(), 1)].into(), "those that run, of this team");
}

#[tokio::test]
async fn deadlines_are_found() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    assert_eq!(store.next_deadline().await.expect("reads"), None);
    for n in 1..=3i64 {
        store.sandbox_insert(&sandbox(&format!("sb-{n}"), "team", n * 1000), &[]).await.expect("inserts");
    }
    let mut off = sandbox("sb-off", "team", 0);
    (off.expires_at_ms, off.hard_expires_at_ms) = (None, None);
    store.sandbox_insert(&off, &[]).await.expect("inserts");
    assert_eq!(store.next_deadline().await.expect("reads"), Some(301_000));
    assert_eq!(store.due(302_000, 10).await.expect("reads"), ["sb-1", "sb-2"]);
    assert_eq!(store.due(i64::MAX, 1).await.expect("reads"), ["sb-1"]);
    let record = store.sandbox_get(None, "sb-1").await.expect("reads").expect("is there");
    let paused = lifecycle::on_deadline(&record, 302_000).expect("is due").record;
    store.sandbox_update(&paused, record.version, &[]).await.expect("updates");
    assert_eq!(store.due(302_000, 10).await.expect("reads"), ["sb-2"], "what was handled is not due again");
}

#[tokio::test]
async fn events_are_kept_to_a_number() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = sandbox("sb-1", "team", 1000);
    store
        .sandbox_insert(&record, &[NewEvent { at_ms: 5, kind: "a".into(), message: "m".into(), data: json!({"k": 1}), deliveries: Vec::new() }])
        .await
        .expect("inserts");
    let many: Vec<_> = (0..limits::EVENTS_PER_SANDBOX_MAX + 5).map(|n| NewEvent::new(n, "b", "")).collect();
    store.sandbox_update(&record, 1, &many).await.expect("updates");
    store.event_append("sb-1", &[NewEvent::new(9, "c", "last")]).await.expect("appends");
    let all = store.events_list("sb-1", 0, u32::MAX).await.expect("lists");
    assert_eq!(all.len() as i64, limits::EVENTS_PER_SANDBOX_MAX);
    assert_eq!(
        (all[0].seq, all.last().map(|e| (e.seq, e.kind.clone(), e.data.clone()))),
        (8, Some((limits::EVENTS_PER_SANDBOX_MAX + 7, "c".into(), Value::Null)))
    );
    assert!(all.windows(2).all(|w| w[1].seq == w[0].seq + 1));
    let page = store.events_list("sb-1", all[3].seq, 2).await.expect("lists");
    assert_eq!(page.iter().map(|e| e.seq).collect::<Vec<_>>(), [all[4].seq, all[5].seq]);
    assert!(matches!(store.event_append("sb-2", &[NewEvent::new(9, "c", "")]).await, Err(StoreError::NotFound { .. })));
    // An update that is stale leaves no event behind.
    assert!(store.sandbox_update(&record, 1, &[NewEvent::new(10, "never", "")]).await.is_err());
    assert!(!store.events_list("sb-1", 0, u32::MAX).await.expect("lists").iter().any(|e| e.kind == "never"));
    store.sandbox_delete("sb-1", 2).await.expect("deletes");
    assert_eq!(store.events_list("sb-1", 0, 10).await.expect("lists"), []);
}

#[tokio::test]
async fn templates() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let spec = |text: &str| TemplateSpec { description: Some(text.into()), ..TemplateSpec::default() };
    for _ in 0..2 {
        store.template_put_built_in("default", &spec("built in"), 1).await.expect("puts");
    }
    let own = |id: &str, text: &str| TemplateRecord {
        id: id.into(),
        team_id: Some("team".into()),
        user_id: None,
        spec: spec(text),
        created_at_ms: 2,
        updated_at_ms: 2,
        base: None,
        creation: None,
        version: 1,
    };
    store.template_insert(&own("mine", "first")).await.expect("inserts");
    assert!(matches!(store.template_insert(&own("mine", "again")).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.template_get("team", "default").await.expect("reads").map(|t| (t.team_id, t.version)), Some((None, 1)));
    assert_eq!(store.template_get("others", "mine").await.expect("reads"), None);
    let ids: Vec<_> = store.templates_list("team").await.expect("lists").into_iter().map(|t| t.id).collect();
    assert_eq!(ids, ["default", "mine"]);
    store.template_insert(&own("default", "mine now")).await.expect("a team can have its own");
    assert_eq!(store.template_get("team", "default").await.expect("reads").and_then(|t| t.spec.description), Some("mine now".into()));
    assert_eq!(store.templates_list("team").await.expect("lists").len(), 2);
    let next = store.template_update(&own("mine", "second"), 1).await.expect("updates");
    assert_eq!(next.version, 2);
    assert!(matches!(store.template_update(&own("mine", "third"), 1).await, Err(StoreError::Stale { .. })));
    store.template_delete("team", "default").await.expect("deletes");
    assert!(matches!(store.template_delete("team", "default").await, Err(StoreError::NotFound { .. })), "what is built in stays");
    assert_eq!(store.templates_all().await.expect("reads").len(), 2);
    for n in 1..limits::TEMPLATES_PER_TEAM_MAX {
        store.template_insert(&own(&format!("t{n}"), "")).await.expect("inserts");
    }
    assert!(matches!(store.template_insert(&own("more", "")).await, Err(StoreError::TooMany { .. })));
}

#[test]
fn configs_keep_what_we_do_not_know() {
    let config: SandboxConfig = sandbox("a", "t", 1).config;
    assert_eq!(config.extra.get("later"), Some(&json!({"kept": [1, 2]})));
}
