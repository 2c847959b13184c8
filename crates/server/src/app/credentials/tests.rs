use std::path::PathBuf;

use super::*;
use crate::app::auth::Auth;

const TOKEN: &str = "s0_default_of_the_test";

/// A store in a folder of its own, and what gives the secrets in it.
struct Fresh {
    dir: PathBuf,
    team_id: String,
    credentials: Arc<Credentials>,
}

impl Fresh {
    async fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("sandbar-credentials-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a folder for the test");
        let store = Store::open(&dir.join("test.db")).expect("opens");
        let auth = Auth::start(&store, Some(TOKEN), false).await.expect("starts");
        let team_id = auth.verify(TOKEN, None).await.expect("the bootstrap token is good").team_id;
        let seal = Seal::open(&dir).expect("makes a key");
        Self { credentials: Credentials::new(store, Arc::new(seal)), dir, team_id }
    }

    fn row(&self, made_at_ms: i64, version: i64, password: &str) -> CredentialRecord {
        let sealed = self.credentials.seal(&self.team_id, "name", &login(password)).expect("seals");
        CredentialRecord {
            team_id: self.team_id.clone(),
            name: "name".to_owned(),
            kind: Kind::UsernamePassword,
            sealed,
            version,
            created_at_ms: made_at_ms,
            updated_at_ms: made_at_ms,
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn login(password: &str) -> Material {
    Material::UsernamePassword { username: "u".to_owned(), password: password.to_owned() }
}

fn held(source: &Arc<Source>) -> Option<String> {
    let all = Sources::from_iter([("name".to_owned(), Arc::clone(source))]).materials();
    all.get("name").and_then(|material| material.value("password")).map(str::to_owned)
}

/// A claim holds a source while it is deleted and made again, in whatever order the three hear of each other.
#[tokio::test]
async fn who_holds_a_source_has_the_one_that_is_made_after_it() {
    let fresh = Fresh::new().await;
    let credentials = &fresh.credentials;
    let (former, next) = (fresh.row(1000, 5, "former"), fresh.row(2000, 1, "next"));
    for is_late in [false, true] {
        let claim = credentials.hold(&fresh.team_id, "name");
        credentials.publish(&former, Some(login("former")));
        if !is_late {
            credentials.withdraw(&former);
            assert_eq!(held(&claim), None);
        }
        credentials.publish(&next, Some(login("next")));
        if is_late {
            credentials.withdraw(&former);
        }
        claim.put(version_of(&former), Some(login("former")));
        assert_eq!(held(&claim).as_deref(), Some("next"), "late: {is_late}");
        assert!(Arc::ptr_eq(&claim, &credentials.hold(&fresh.team_id, "name")), "the next one shares it");
        credentials.publish(&fresh.row(2000, 2, "rotated"), Some(login("rotated")));
        assert_eq!(held(&claim).as_deref(), Some("rotated"));
    }
}

#[tokio::test]
async fn what_could_not_be_read_is_read_later() {
    let fresh = Fresh::new().await;
    let credentials = &fresh.credentials;
    credentials.store.credential_insert(&fresh.row(1000, 1, "there")).await.expect("inserts");
    let runtime = credentials.hold(&fresh.team_id, "name");
    credentials.missed().insert((fresh.team_id.clone(), "name".to_owned()), Arc::downgrade(&runtime));
    credentials.missed().insert((fresh.team_id.clone(), "gone".to_owned()), Weak::new());
    credentials.read_missed().await.expect("reads");
    assert_eq!(held(&runtime).as_deref(), Some("there"));
    assert!(credentials.missed().is_empty());
}
