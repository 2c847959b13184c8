//! Previews: opened once, renewed while they are good, gone with what they belong to.

use sandbar_core::{
    limits,
    preview::{PreviewRecord, Protocol},
    roles::Role,
};
use sandbar_store::{ApiKey, Member, StoreError};

use crate::{Fresh, sandboxes::sandbox, team, user};

fn preview(id: &str, sandbox_id: &str, expires_at_ms: i64) -> PreviewRecord {
    PreviewRecord {
        id: id.into(),
        sandbox_id: sandbox_id.into(),
        team_id: "team".into(),
        user_id: "user".into(),
        key_id: None,
        port: 5173,
        protocol: Protocol::Https,
        path: "/a?b=1".into(),
        wakes: true,
        runtime_generation: 7,
        bootstrap_sha256: Some(format!("bootstrap-{id}")),
        session_sha256: None,
        created_at_ms: 100,
        opened_at_ms: None,
        expires_at_ms,
    }
}

#[tokio::test]
async fn a_preview_opens_once_and_lives_as_long_as_it_is_renewed() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.sandbox_insert(&sandbox("sb-a", "team", 1), &[]).await.expect("inserts");
    let made = preview("pv-a", "sb-a", 1000);
    store.preview_insert(&made).await.expect("inserts");
    assert_eq!(store.preview_get("pv-a").await.expect("reads"), Some(made.clone()));
    assert!(store.preview_is_at("sb-a", 5173, 999).await.expect("reads") && !store.preview_is_at("sb-a", 5173, 1000).await.expect("reads"));
    assert!(!store.preview_is_at("sb-a", 80, 0).await.expect("reads"));
    for (at, secret, now) in [
        (("sb-a", 80), "bootstrap-pv-a", 200),
        (("sb-b", 5173), "bootstrap-pv-a", 200),
        (("sb-a", 5173), "other", 200),
        (("sb-a", 5173), "bootstrap-pv-a", 1000),
    ] {
        assert_eq!(store.preview_open(at, "pv-a", secret, "x", now).await.expect("runs"), None, "{at:?} {secret} {now}");
    }
    // Of all who come at once, one opens it.
    let tries: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.preview_open(("sb-a", 5173), "pv-a", "bootstrap-pv-a", &format!("session-{n}"), 200).await.expect("runs") })
        })
        .collect();
    let mut opened = Vec::new();
    for one in tries {
        opened.extend(one.await.expect("ends"));
    }
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0], PreviewRecord { bootstrap_sha256: None, session_sha256: opened[0].session_sha256.clone(), opened_at_ms: Some(200), ..made.clone() });
    let renewed = store.preview_renew("pv-a", 5000, 999).await.expect("renews");
    assert_eq!((renewed.expires_at_ms, &renewed.session_sha256), (5000, &opened[0].session_sha256));
    assert!(matches!(store.preview_renew("pv-a", 9000, 5000).await, Err(StoreError::NotFound { .. })));
    store.close().await.expect("closes");
    let store = fresh.open();
    assert_eq!(store.previews_list("sb-a", "team", "user", 4999).await.expect("lists"), [renewed]);
    for other in [("sb-a", "team", "user", 5000), ("sb-a", "team", "other", 0), ("sb-a", "x", "user", 0), ("sb-b", "team", "user", 0)] {
        assert_eq!(store.previews_list(other.0, other.1, other.2, other.3).await.expect("lists"), [], "{other:?}");
    }
    store.preview_delete("pv-a").await.expect("deletes");
    assert!(matches!(store.preview_delete("pv-a").await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn previews_are_bounded_and_go_with_what_they_belong_to() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    assert!(matches!(store.preview_insert(&preview("pv-x", "sb-a", 1000)).await, Err(StoreError::NotFound { what: "sandbox", .. })));
    let record = sandbox("sb-a", "team", 1);
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    for n in 0..limits::PREVIEWS_PER_SANDBOX_MAX {
        store.preview_insert(&preview(&format!("pv-{n}"), "sb-a", 1000 + n as i64)).await.expect("inserts");
    }
    assert!(matches!(store.preview_insert(&preview("pv-x", "sb-a", 9000)).await, Err(StoreError::TooMany { .. })));
    // Those that have expired are in nobody's way.
    store.preview_insert(&PreviewRecord { created_at_ms: 1000, ..preview("pv-x", "sb-a", 9000) }).await.expect("inserts");
    assert_eq!(store.previews_prune(1004, 3).await.expect("prunes"), 3);
    assert_eq!(store.previews_prune(1004, 3).await.expect("prunes"), 1);
    assert_eq!(store.previews_prune(1004, 3).await.expect("prunes"), 0);
    // Who leaves the team has none there any more; others keep theirs.
    store.user_insert(&user("second", "b@localhost"), &team("team-2", "second")).await.expect("inserts");
    let member = Member { id: "m2".into(), team_id: "team".into(), user_id: "second".into(), role: Role::Developer, joined_at_ms: 1 };
    store.member_insert(&member).await.expect("inserts");
    store.preview_insert(&PreviewRecord { created_at_ms: 1100, user_id: "second".into(), ..preview("pv-2", "sb-a", 9000) }).await.expect("inserts");
    store.member_delete("team", "second").await.expect("deletes");
    assert_eq!(store.preview_get("pv-2").await.expect("reads"), None);
    assert!(store.preview_get("pv-x").await.expect("reads").is_some());
    store.sandbox_delete("sb-a", record.version).await.expect("deletes");
    assert_eq!(store.preview_get("pv-x").await.expect("reads"), None);
}

#[tokio::test]
async fn previews_end_with_the_key_that_made_them() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.sandbox_insert(&sandbox("sb-a", "team", 1), &[]).await.expect("inserts");
    store.user_insert(&user("second", "b@localhost"), &team("team-2", "second")).await.expect("inserts");
    let member = Member { id: "m2".into(), team_id: "team".into(), user_id: "second".into(), role: Role::Developer, joined_at_ms: 1 };
    store.member_insert(&member).await.expect("inserts");
    for id in ["deleted", "deactivated", "kept", "viewer"] {
        let key = ApiKey {
            id: id.into(),
            team_id: "team".into(),
            created_by: if id == "viewer" { "second".into() } else { "user".into() },
            name: id.into(),
            scope: "team".into(),
            roles: vec![Role::Developer],
            is_active: true,
            expires_at_ms: 5000,
            created_at_ms: 1,
            updated_at_ms: 1,
            last_used_at_ms: None,
            usage_count: 0,
        };
        store.key_insert(&key, id).await.expect("inserts");
        let by_key = PreviewRecord { key_id: Some(id.into()), user_id: key.created_by, ..preview(&format!("pv-{id}"), "sb-a", 9000) };
        let made = store.preview_insert(&by_key).await.expect("inserts");
        assert_eq!(made, PreviewRecord { expires_at_ms: 5000, ..by_key }, "no longer than the key");
        assert_eq!(store.preview_renew(&made.id, 8000, 200).await.expect("renews").expires_at_ms, 5000);
    }
    store.preview_insert(&preview("pv-login", "sb-a", 9000)).await.expect("inserts");
    assert_eq!(store.preview_renew("pv-login", 8000, 200).await.expect("renews").expires_at_ms, 8000);

    store.key_delete("team", "deleted").await.expect("deletes");
    store.key_deactivate("team", "deactivated", 300).await.expect("deactivates");
    store.member_set_role("team", "second", Role::Viewer).await.expect("changes");
    for (id, is_there) in [("deleted", false), ("deactivated", false), ("viewer", false), ("kept", true), ("login", true)] {
        assert_eq!(store.preview_get(&format!("pv-{id}")).await.expect("reads").is_some(), is_there, "{id}");
    }
    // Nor is one made by who may not any more, or by a key that went meanwhile.
    for user_id in ["second", "nobody"] {
        let late = PreviewRecord { user_id: user_id.into(), ..preview("pv-late", "sb-a", 9000) };
        assert!(matches!(store.preview_insert(&late).await, Err(StoreError::NotFound { what: "member", .. })), "{user_id}");
    }
    for id in ["deleted", "deactivated"] {
        let late = PreviewRecord { key_id: Some(id.into()), ..preview("pv-late", "sb-a", 9000) };
        assert!(matches!(store.preview_insert(&late).await, Err(StoreError::NotFound { what: "key", .. })), "{id}");
    }
}
