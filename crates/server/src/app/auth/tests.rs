use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use super::*;

const TOKEN: &str = "s0_default_of_the_test";
/// Where all come from.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A store in a folder of its own, and what checks tokens over it.
struct Fresh {
    dir: PathBuf,
    store: Store,
    auth: Auth,
}

impl Fresh {
    async fn new(registration: bool) -> Self {
        let dir = std::env::temp_dir().join(format!("sandbar-auth-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a folder for the test");
        let store = Store::open(&dir.join("test.db")).expect("opens");
        let auth = Auth::start(&store, Some(TOKEN), registration).await.expect("starts");
        Self { dir, store, auth }
    }

    async fn admin(&self) -> Principal {
        self.auth.verify(TOKEN, None).await.expect("the bootstrap token is good")
    }

    async fn person(&self, email: &str) -> (Login, Principal) {
        let login = self.auth.register(email, "password one", None, HERE).await.expect("registers");
        let who = self.auth.verify(&login.access_token, None).await.expect("is logged in");
        (login, who)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn new_key(roles: &[&str]) -> NewKey {
    NewKey { name: "key".into(), scope: None, roles: Some(roles.iter().map(ToString::to_string).collect()), expires_in: None }
}

fn status<T>(result: Result<T, ApiError>) -> u16 {
    result.err().map_or(200, |error| error.status())
}

#[tokio::test]
async fn the_bootstrap_token_is_an_admin_key_and_a_later_one_too() {
    let fresh = Fresh::new(false).await;
    let admin = fresh.admin().await;
    assert!(admin.permissions.has(Permission::TeamAdmin) && admin.key_id.is_some());
    assert!(uuid::Uuid::parse_str(&admin.team_id).is_ok() && uuid::Uuid::parse_str(&admin.user_id).is_ok());
    assert_eq!(status(fresh.auth.verify("another", None).await), 401);
    for _ in 0..2 {
        let again = Auth::start(&fresh.store, Some("another"), false).await.expect("starts");
        for token in [TOKEN, "another"] {
            assert_eq!(again.verify(token, None).await.expect("both are good").team_id, admin.team_id);
        }
    }
    assert_eq!(fresh.auth.list_keys(&admin).await.expect("lists").len(), 2);
    Auth::start(&fresh.store, None, false).await.expect("starts without one");
}

#[tokio::test]
async fn keys_work_until_they_are_revoked() {
    let fresh = Fresh::new(false).await;
    let admin = fresh.admin().await;
    let (key, text) = fresh.auth.create_key(&admin, new_key(&["viewer", "viewer"])).await.expect("makes a key");
    assert!(text.starts_with("s0_default_") && text.len() == "s0_default_".len() + 48, "{text}");
    let viewer = fresh.auth.verify(&text, None).await.expect("is good");
    assert_eq!((viewer.require(Permission::SandboxRead).is_ok(), status(viewer.require(Permission::SandboxWrite))), (true, 403));
    assert_eq!(status(fresh.auth.create_key(&viewer, new_key(&["viewer"])).await), 403, "a key of no admin makes no keys");
    assert_eq!(status(fresh.auth.verify(&text, Some("another team")).await), 404);
    fresh.auth.deactivate_key(&admin, &key.id).await.expect("deactivates");
    assert_eq!(status(fresh.auth.verify(&text, None).await), 401, "at once, though it was remembered");
    let (key, text) = fresh.auth.create_key(&admin, new_key(&["developer"])).await.expect("makes a key");
    assert!(fresh.auth.verify(&text, None).await.is_ok());
    fresh.auth.delete_key(&admin, &key.id).await.expect("deletes");
    assert_eq!(status(fresh.auth.verify(&text, None).await), 401);
    assert_eq!(status(fresh.auth.delete_key(&admin, &key.id).await), 404);
    assert_eq!(status(fresh.auth.create_key(&admin, NewKey { name: " ".into(), ..new_key(&["owner"]) }).await), 400);
    let (_, text) = fresh.auth.create_key(&admin, NewKey { expires_in: Some("1s".into()), ..new_key(&[]) }).await.expect("makes a key");
    assert!(fresh.auth.verify(&text, None).await.is_ok());
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(status(fresh.auth.verify(&text, None).await), 401, "expired, though it is remembered");
}

#[tokio::test]
async fn what_lasts_is_asked_about_again_and_told_of_revocations() {
    let fresh = Fresh::new(true).await;
    let (login, who) = fresh.person("ann@example.com").await;
    let mut changes = fresh.auth.changes();
    assert!(!changes.has_changed().expect("lives"));
    let next = fresh.auth.refresh_login(&login.refresh_token).await.expect("refreshes");
    assert!(!changes.has_changed().expect("lives"), "it goes on");
    assert_eq!(status(fresh.auth.verify(&login.access_token, None).await), 401);
    let again = fresh.auth.verify_again(&who).await.expect("the login goes on");
    assert_eq!((again.permissions, again.team_id), (who.permissions, who.team_id.clone()));
    changes.mark_unchanged();
    let renewed = fresh.auth.verify(&next.access_token, None).await.expect("is good");
    fresh.auth.logout(&renewed).await.expect("logs out");
    assert!(changes.has_changed().expect("lives"));
    assert_eq!(status(fresh.auth.verify_again(&who).await), 401, "by whichever of its tokens");

    let admin = fresh.admin().await;
    let (key, text) = fresh.auth.create_key(&admin, new_key(&["viewer"])).await.expect("makes a key");
    let holder = fresh.auth.verify(&text, None).await.expect("is good");
    changes.mark_unchanged();
    fresh.auth.deactivate_key(&admin, &key.id).await.expect("deactivates");
    assert!(changes.has_changed().expect("lives"));
    assert_eq!(status(fresh.auth.verify_again(&holder).await), 401);
}

#[tokio::test]
async fn people_log_in_refresh_and_out() {
    let fresh = Fresh::new(true).await;
    let (first, who) = fresh.person("ann@example.com").await;
    assert_eq!(status(fresh.auth.register("ANN@example.com", "password one", None, HERE).await), 409);
    for (email, password) in [("no mail", "password one"), ("b@x", "short"), ("", "password one")] {
        assert_eq!(status(fresh.auth.register(email, password, None, HERE).await), 400, "{email} {password}");
    }
    assert_eq!(status(fresh.auth.login("ann@example.com", "wrong", HERE).await), 401);
    assert_eq!(status(fresh.auth.login("nobody@example.com", "wrong", HERE).await), 401);
    let second = fresh.auth.login("Ann@Example.com", "password one", HERE).await.expect("logs in");
    let next = fresh.auth.refresh_login(&second.refresh_token).await.expect("refreshes");
    assert_eq!(status(fresh.auth.verify(&second.access_token, None).await), 401);
    assert!(fresh.auth.verify(&next.access_token, None).await.is_ok());
    assert_eq!(status(fresh.auth.refresh_login(&second.refresh_token).await), 401);
    assert_eq!(status(fresh.auth.verify(&next.access_token, None).await), 401, "a refresh token used twice ends its login");
    assert!(fresh.auth.verify(&first.access_token, None).await.is_ok(), "and no other");
    assert_eq!(status(fresh.auth.change_password(&who, "wrong", "password two", HERE).await), 400);
    fresh.auth.change_password(&who, "password one", "password two", HERE).await.expect("changes");
    assert_eq!(status(fresh.auth.verify(&first.access_token, None).await), 401);
    let third = fresh.auth.login("ann@example.com", "password two", HERE).await.expect("logs in");
    let who = fresh.auth.verify(&third.access_token, None).await.expect("is good");
    fresh.auth.logout(&who).await.expect("logs out");
    assert_eq!(status(fresh.auth.verify(&third.access_token, None).await), 401);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_registration_can_be_closed() {
    let fresh = Fresh::new(false).await;
    assert_eq!(status(fresh.auth.register("a@x", "password one", None, HERE).await), 403);
    for _ in 0..limits::LOGIN_ATTEMPTS_MAX {
        assert_eq!(status(fresh.auth.login("admin@localhost", "guess", HERE).await), 401);
    }
    assert_eq!(status(fresh.auth.login("admin@localhost", "guess", HERE).await), 429);
    assert_eq!(status(fresh.auth.login("admin@localhost", "guess", [192, 0, 2, 2].into()).await), 401, "from elsewhere it is not locked");
}

#[tokio::test]
async fn a_team_is_closed_to_others() {
    let fresh = Fresh::new(true).await;
    let (_, ann) = fresh.person("ann@example.com").await;
    let (bob_login, bob) = fresh.person("bob@example.com").await;
    let auth = &fresh.auth;
    assert_eq!(status(auth.get_team(&bob, &ann.team_id).await), 404);
    assert_eq!(status(auth.list_members(&bob, &ann.team_id, None).await), 404);
    assert_eq!(status(auth.update_team(&bob, &ann.team_id, TeamChange::default()).await), 404);
    assert_eq!(status(auth.add_member(&bob, &ann.team_id, "bob@example.com", "admin").await), 404);
    assert_eq!(status(auth.verify(&bob_login.access_token, Some(&ann.team_id)).await), 404);
    let (key, _) = auth.create_key(&ann, new_key(&["admin"])).await.expect("makes a key");
    assert_eq!(status(auth.delete_key(&bob, &key.id).await), 404);

    auth.add_member(&ann, &ann.team_id, "Bob@example.com", "developer").await.expect("adds");
    let bob_here = auth.verify(&bob_login.access_token, Some(&ann.team_id)).await.expect("is a member at once");
    assert_eq!(bob_here.roles, [Role::Developer]);
    assert_eq!(status(auth.set_role(&bob_here, &ann.team_id, &bob.user_id, "admin").await), 403);
    assert_eq!(status(auth.create_key(&bob_here, new_key(&["admin"])).await), 403);
    assert_eq!(status(auth.delete_key(&bob_here, &key.id).await), 403);
    let (_, text) = auth.create_key(&bob_here, new_key(&["developer"])).await.expect("makes a key");
    assert!(auth.verify(&text, None).await.expect("is good").permissions.has(Permission::SandboxWrite));
    assert_eq!(auth.list_keys(&bob_here).await.expect("lists").len(), 1, "one's own");

    auth.set_role(&ann, &ann.team_id, &bob.user_id, "viewer").await.expect("sets");
    assert!(!auth.verify(&text, None).await.expect("is good").permissions.has(Permission::SandboxWrite), "a key gives no more than its maker has");
    assert_eq!(status(auth.set_role(&ann, &ann.team_id, &ann.user_id, "viewer").await), 400, "the owner stays an admin");
    assert_eq!(status(auth.remove_member(&ann, &ann.team_id, &ann.user_id).await), 400);
    auth.remove_member(&bob_here, &ann.team_id, &bob.user_id).await.expect("leaves");
    assert_eq!(status(auth.verify(&text, None).await), 401);
    assert_eq!(status(auth.verify(&bob_login.access_token, Some(&ann.team_id)).await), 404);
}

#[tokio::test]
async fn teams_are_made_and_handed_over() {
    let fresh = Fresh::new(true).await;
    let (login, ann) = fresh.person("ann@example.com").await;
    let (_, bob) = fresh.person("bob@example.com").await;
    let auth = &fresh.auth;
    let team = auth.create_team(&ann, " My  Team! ", None, None).await.expect("makes a team");
    assert!(team.slug.starts_with("my-team-") && team.name == "My  Team!", "{team:?}");
    assert_eq!(status(auth.create_team(&ann, "x", Some(&team.slug), None).await), 409);
    assert_eq!(status(auth.create_team(&ann, "", Some("a_b"), None).await), 400);
    assert_eq!(auth.list_teams(&ann).await.expect("lists").len(), 2);
    let there = auth.verify(&login.access_token, Some(&team.id)).await.expect("acts for the new team");
    let admin = fresh.admin().await;
    assert_eq!((status(auth.create_team(&admin, "x", None, None).await), auth.list_teams(&admin).await.expect("lists").len()), (403, 1));
    assert_eq!(status(auth.transfer_team(&there, &team.id, &bob.user_id).await), 404, "not to a stranger");
    auth.add_member(&there, &team.id, "bob@example.com", "viewer").await.expect("adds");
    auth.transfer_team(&there, &team.id, &bob.user_id).await.expect("hands over");
    assert_eq!(status(auth.delete_team(&there, &team.id).await), 403);
    auth.delete_team(&bob, &team.id).await.expect("deletes");
    assert_eq!(status(auth.get_team(&ann, &team.id).await), 404);
}

#[test]
fn bearer_headers() {
    let read = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(text).expect("a header"));
        bearer(&headers).map(str::to_owned).map_err(|error| error.status())
    };
    assert_eq!(read("Bearer abc"), Ok("abc".into()));
    assert_eq!(read("bearer  abc "), Ok("abc".into()));
    for text in ["", "Bearer", "Bearer ", "Basic abc", "abc", &format!("Bearer {}", "x".repeat(limits::TOKEN_MAX_BYTES + 1))] {
        assert_eq!(read(text), Err(401), "{text}");
    }
    assert_eq!(bearer(&HeaderMap::new()).map_err(|error| error.status()), Err(401));
}

#[tokio::test]
async fn a_refusal_says_how_to_ask() {
    let response = Rejection(unauthorized("no")).into_response();
    assert_eq!(response.headers().get(header::WWW_AUTHENTICATE), Some(&HeaderValue::from_static("Bearer")));
    assert!(Rejection(lacks(Permission::TeamAdmin)).into_response().headers().get(header::WWW_AUTHENTICATE).is_none());
}

#[tokio::test]
async fn who_is_in_no_team_can_make_one() {
    let fresh = Fresh::new(true).await;
    let (login, who) = fresh.person("lone@example.com").await;
    fresh.auth.delete_team(&who, &who.team_id).await.expect("deletes the only team");
    let who = fresh.auth.verify(&login.access_token, None).await.expect("is still somebody");
    assert_eq!((who.team_id.as_str(), who.permissions.iter().count()), ("", 0));
    assert!(fresh.auth.user(&who).await.is_ok() && fresh.auth.list_keys(&who).await.expect("lists").is_empty());
    assert_eq!(status(fresh.auth.create_key(&who, new_key(&["viewer"])).await), 403);
    let team = fresh.auth.create_team(&who, "Again", None, None).await.expect("makes a team");
    assert_eq!(fresh.auth.verify(&login.access_token, None).await.expect("is good").team_id, team.id);
}
