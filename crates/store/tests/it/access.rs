use sandbar_core::{limits, roles::Role};
use sandbar_store::{ApiKey, Install, LoginToken, Member, Rotation, SshKey, SshKeyHolder, StoreError, TokenKind};

use crate::{Fresh, sandboxes::sandbox, team, user};

pub fn key(id: &str, team: &str, user: &str) -> ApiKey {
    ApiKey {
        id: id.into(),
        team_id: team.into(),
        created_by: user.into(),
        name: "key".into(),
        scope: "team".into(),
        roles: vec![Role::Admin, Role::Viewer],
        is_active: true,
        expires_at_ms: 9000,
        created_at_ms: 1,
        updated_at_ms: 1,
        last_used_at_ms: None,
        usage_count: 0,
    }
}

fn token(sha256: &str, kind: TokenKind, family: &str, expires_at_ms: i64) -> LoginToken {
    LoginToken { sha256: sha256.into(), kind, family: family.into(), user_id: "user".into(), created_at_ms: 1, expires_at_ms }
}

#[tokio::test]
async fn a_database_is_installed_once() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let again = Install { user: user("u2", "b@x"), team: team("t2", "u2"), key: key("k2", "t2", "u2"), key_sha256: "h2".into() };
    assert!(!store.install(again).await.expect("asks"));
    assert_eq!(store.user_first_admin().await.expect("reads").map(|u| u.id), Some("user".into()));
    assert_eq!(store.user_get("u2").await.expect("reads"), None);
    assert_eq!(store.teams_of_user("user").await.expect("reads"), [(team("team", "user"), Role::Admin)]);
}

#[tokio::test]
async fn users() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    assert_eq!(store.user_find_by_email("ADMIN@LocalHost").await.expect("reads").map(|u| u.id), Some("user".into()));
    assert!(matches!(store.user_insert(&user("u2", "Admin@localhost"), &team("t2", "u2")).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.team_get("t2").await.expect("reads"), None, "all of it or nothing");
    let changed = store.user_update("user", Some("New"), None, 5).await.expect("updates");
    assert_eq!((changed.name.as_str(), changed.updated_at_ms), ("New", 5));
    store.login_insert(&[token("a", TokenKind::Access, "f", 100)], 1).await.expect("inserts");
    assert!(matches!(store.user_set_password("user", Some("wrong"), "h2", 6).await, Err(StoreError::Stale { .. })));
    store.user_set_password("user", Some("hash"), "h2", 6).await.expect("sets");
    assert_eq!(store.login_find("a", TokenKind::Access, 2).await.expect("reads"), None, "a new password ends all logins");
}

#[tokio::test]
async fn keys() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    assert_eq!(store.key_find_by_sha256("hash-of-key").await.expect("reads"), Some(key("key", "team", "user")));
    assert!(matches!(store.key_insert(&key("k2", "team", "user"), "hash-of-key").await, Err(StoreError::Exists { .. })));
    store.key_insert(&key("k2", "team", "user"), "h2").await.expect("inserts");
    assert_eq!(store.keys_list("team").await.expect("lists").len(), 2);
    assert_eq!(store.key_get("other", "k2").await.expect("reads"), None);
    assert!(matches!(store.key_delete("other", "k2").await, Err(StoreError::NotFound { .. })));
    for _ in 0..2 {
        store.key_deactivate("team", "k2", 5).await.expect("deactivates");
    }
    store.key_touch("k2", 7).await.expect("touches");
    let touched = store.key_get("team", "k2").await.expect("reads").expect("is there");
    assert_eq!((touched.is_active, touched.last_used_at_ms, touched.usage_count), (false, Some(7), 1));
    store.key_delete("team", "k2").await.expect("deletes");
    store.key_touch("k2", 8).await.expect("a key that is gone is no error");
}

#[tokio::test]
async fn ssh_keys() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.user_insert(&user("u2", "b@x"), &team("t2", "u2")).await.expect("inserts");
    let key = |id: &str, team: &str, user: &str, fingerprint: &str| SshKey {
        id: id.into(),
        team_id: team.into(),
        user_id: user.into(),
        api_key_id: None,
        name: "laptop".into(),
        public_key: "ssh-ed25519 AAAA".into(),
        key_type: "ssh-ed25519".into(),
        fingerprint: fingerprint.into(),
        comment: Some("me@here".into()),
        created_at_ms: 1,
        updated_at_ms: 1,
    };
    store.ssh_key_insert(&key("a", "team", "user", "f")).await.expect("inserts");
    assert!(matches!(store.ssh_key_insert(&key("b", "team", "user", "f")).await, Err(StoreError::Exists { .. })));
    store.ssh_key_insert(&key("b", "t2", "u2", "f")).await.expect("the same key for another team");
    assert_eq!(store.ssh_keys_list("team", "user").await.expect("lists"), [key("a", "team", "user", "f")]);
    let holder = SshKeyHolder { id: "a".into(), user_id: "user".into(), role: Role::Admin };
    assert_eq!(store.ssh_key_holders("team", "f", 1).await.expect("reads"), [holder]);
    assert_eq!(store.ssh_key_holders("", "f", 1).await.expect("reads"), []);
    let member = Member { id: "m".into(), team_id: "team".into(), user_id: "u2".into(), role: Role::Viewer, joined_at_ms: 9 };
    store.member_insert(&member).await.expect("adds");
    store.ssh_key_insert(&key("c", "team", "u2", "f")).await.expect("inserts");
    assert_eq!(store.ssh_key_holders("team", "f", 1).await.expect("reads").len(), 2);
    store.member_delete("team", "u2").await.expect("removes");
    assert_eq!(store.ssh_keys_list("team", "u2").await.expect("lists"), [], "with the member go their keys");
    assert_eq!(store.ssh_keys_list("t2", "u2").await.expect("lists").len(), 1, "those for another team stay");
    assert!(matches!(store.ssh_key_delete("team", Some("u2"), "a").await, Err(StoreError::NotFound { .. })));
    store.ssh_key_delete("team", Some("user"), "a").await.expect("deletes");
    assert_eq!(store.ssh_key_holders("team", "f", 1).await.expect("reads"), []);
    assert_eq!(store.ssh_keys_of_team("t2").await.expect("lists").len(), 1);
    assert!(matches!(store.ssh_key_delete("team", None, "b").await, Err(StoreError::NotFound { .. })), "of another team");
    for n in 0..limits::SSH_KEYS_PER_USER_MAX {
        store.ssh_key_insert(&key(&format!("k-{n}"), "team", "user", &format!("f-{n}"))).await.expect("inserts");
    }
    assert!(matches!(store.ssh_key_insert(&key("more", "team", "user", "g")).await, Err(StoreError::TooMany { .. })));
    store.team_delete("t2").await.expect("deletes");
    assert_eq!(store.ssh_key_holders("t2", "f", 1).await.expect("reads"), [], "with the team go its keys");
}

#[tokio::test]
async fn an_ssh_key_ends_with_the_key_that_added_it() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let ssh_key = |id: &str, created_at_ms| SshKey {
        id: id.into(),
        team_id: "team".into(),
        user_id: "user".into(),
        api_key_id: Some(format!("by-{id}")),
        name: "laptop".into(),
        public_key: "ssh-ed25519 AAAA".into(),
        key_type: "ssh-ed25519".into(),
        fingerprint: "f".into(),
        comment: None,
        created_at_ms,
        updated_at_ms: 1,
    };
    let is_known = async |now_ms| !store.ssh_key_holders("team", "f", now_ms).await.expect("reads").is_empty();
    for id in ["by-a", "by-b"] {
        store.key_insert(&key(id, "team", "user"), id).await.expect("inserts");
    }
    store.ssh_key_insert(&ssh_key("a", 1)).await.expect("inserts");
    assert!(is_known(8999).await && !is_known(9000).await, "the key expires");
    assert!(matches!(store.ssh_key_insert(&ssh_key("b", 8999)).await, Err(StoreError::Exists { .. })));
    store.key_deactivate("team", "by-a", 2).await.expect("deactivates");
    assert!(!is_known(3).await, "the key was deactivated");
    store.ssh_key_insert(&ssh_key("b", 3)).await.expect("the other is in nobody's way");
    assert!(is_known(3).await);
    store.key_delete("team", "by-b").await.expect("deletes");
    assert!(!is_known(3).await && store.ssh_keys_of_team("team").await.expect("lists").is_empty(), "the key is gone");
}

#[tokio::test]
async fn refresh_tokens_work_once() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let pair = |access: &str, refresh: &str| vec![token(access, TokenKind::Access, "f", 100), token(refresh, TokenKind::Refresh, "f", 1000)];
    store.login_insert(&pair("a1", "r1"), 1).await.expect("inserts");
    assert_eq!(store.login_find("r1", TokenKind::Access, 2).await.expect("reads"), None, "a refresh token opens nothing");
    assert!(store.login_find("a1", TokenKind::Access, 99).await.expect("reads").is_some());
    assert_eq!(store.login_find("a1", TokenKind::Access, 100).await.expect("reads"), None, "expired");
    assert_eq!(store.login_rotate("a1", pair("x", "y"), 2).await.expect("asks"), Rotation::Unknown);
    assert_eq!(store.login_rotate("r1", pair("a2", "r2"), 2).await.expect("rotates"), Rotation::Done { user_id: "user".into(), family: "f".into() });
    assert_eq!(store.login_find("a1", TokenKind::Access, 3).await.expect("reads"), None);
    assert!(store.login_find("a2", TokenKind::Access, 3).await.expect("reads").is_some());
    assert!(store.login_lives("f", 999).await.expect("reads") && !store.login_lives("f", 1000).await.expect("reads"));
    assert_eq!(store.login_rotate("r1", pair("a3", "r3"), 3).await.expect("asks"), Rotation::Reused { family: "f".into() });
    assert_eq!(store.login_find("a2", TokenKind::Access, 4).await.expect("reads"), None, "a stolen login is ended");
    assert!(!store.login_lives("f", 4).await.expect("reads") && !store.login_lives("g", 4).await.expect("reads"));
    assert_eq!(store.login_rotate("r2", pair("a4", "r4"), 4).await.expect("asks"), Rotation::Unknown);
}

#[tokio::test]
async fn teams_and_members() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.user_insert(&user("u2", "b@x"), &team("t2", "u2")).await.expect("inserts");
    let member = Member { id: "m".into(), team_id: "team".into(), user_id: "u2".into(), role: Role::Viewer, joined_at_ms: 9 };
    assert_eq!(store.member_insert(&member).await.expect("adds").email, "b@x");
    assert!(matches!(store.member_insert(&Member { id: "m2".into(), ..member.clone() }).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.members_list("team", None).await.expect("lists").len(), 2);
    assert_eq!(store.members_list("team", Some("B@")).await.expect("lists").len(), 1);
    assert_eq!(store.teams_of_user("u2").await.expect("lists").len(), 2);
    store.member_set_role("team", "u2", Role::Builder).await.expect("sets");
    assert_eq!(store.member_find("team", "u2").await.expect("reads").map(|m| m.role), Some(Role::Builder));
    for refused in [store.member_set_role("team", "user", Role::Viewer).await, store.member_delete("team", "user").await] {
        assert!(matches!(refused, Err(StoreError::InUse { .. })), "the owner stays an admin");
    }
    store.key_insert(&key("k2", "team", "u2"), "h2").await.expect("inserts");
    store.member_delete("team", "u2").await.expect("removes");
    assert_eq!(store.key_find_by_sha256("h2").await.expect("reads"), None, "with the member go their keys");
    assert!(matches!(store.team_set_owner("team", "u2", 5).await, Err(StoreError::NotFound { .. })));
    store.member_insert(&member).await.expect("adds");
    assert_eq!(store.team_set_owner("team", "u2", 5).await.expect("hands over").owner_id.as_deref(), Some("u2"));
    assert_eq!(store.team_update("team", Some("New"), None, None, 6).await.expect("updates").name, "New");
    assert!(matches!(store.team_update("team", None, Some("t2"), None, 6).await, Err(StoreError::Exists { .. })));
    store.sandbox_insert(&sandbox("sb-1", "team", 1), &[]).await.expect("inserts");
    assert!(matches!(store.team_delete("team").await, Err(StoreError::InUse { by, .. }) if by == [("sandboxes", 1)]));
    store.sandbox_delete("sb-1", 1).await.expect("deletes");
    store.team_delete("team").await.expect("deletes");
    assert_eq!(store.key_find_by_sha256("hash-of-key").await.expect("reads"), None, "with the team go its keys");
    for n in 1..limits::TEAMS_PER_USER_MAX {
        store.team_insert(&team(&format!("t-{n}"), "u2")).await.expect("inserts");
    }
    assert!(matches!(store.team_insert(&team("one-more", "u2")).await, Err(StoreError::TooMany { .. })));
}
