//! What every backend of the store has to do. The only thing a backend brings is [`Fresh`]: a place to open a store in,
//! and to open it again.

mod access;
mod app_runs;
mod app_schedules;
mod apps;
mod credentials;
mod engine;
mod functions;
mod items;
mod previews;
mod sandboxes;
mod script_triggers;
mod scripts;
mod state;
mod webhooks;

use std::path::PathBuf;

use sandbar_store::{Install, Store, Team, User};

/// A place of its own for a store; gone at the end.
struct Fresh(PathBuf);

impl Fresh {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("sandbar-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).expect("a folder for the test");
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("test.db")
    }

    fn open(&self) -> Store {
        Store::open(&self.path()).expect("opens")
    }

    /// A store with a user and a team, whose ids are `user` and `team`.
    async fn installed(&self) -> Store {
        let store = self.open();
        let install = Install {
            user: user("user", "admin@localhost"),
            team: team("team", "user"),
            key: access::key("key", "team", "user"),
            key_sha256: "hash-of-key".into(),
        };
        assert!(store.install(install).await.expect("installs"));
        store
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn user(id: &str, email: &str) -> User {
    User {
        id: id.into(),
        email: email.into(),
        name: "Name".into(),
        avatar_url: None,
        password_hash: Some("hash".into()),
        is_admin: true,
        email_verified: true,
        created_at_ms: 1,
        updated_at_ms: 1,
    }
}

fn team(id: &str, owner: &str) -> Team {
    Team { id: id.into(), name: "Team".into(), slug: id.into(), owner_id: Some(owner.into()), home_region_id: None, created_at_ms: 1, updated_at_ms: 1 }
}
