use std::collections::HashMap;

use sandbar_api::template::TemplateSpec;
use sandbar_core::{
    credential::{Binding, Kind},
    limits,
    sandbox::{Desired, SandboxRecord},
};
use sandbar_store::{CredentialRecord, FunctionEvent, Store, StoreError, TemplateRecord};
use serde_json::{Value, json};

use crate::{Fresh, functions, sandboxes::sandbox, team};

fn source(team: &str, name: &str, kind: Kind) -> CredentialRecord {
    CredentialRecord { team_id: team.into(), name: name.into(), kind, sealed: format!("sealed {name}"), version: 1, created_at_ms: 5, updated_at_ms: 5 }
}

fn binds(source: &str, projection: &str) -> Value {
    json!({ "mode": "allow-all", "credentialBindings": [{ "ref": "b", "sourceRef": source, "projection": { "type": projection } }] })
}

fn binding_sandbox(id: &str, source: &str) -> SandboxRecord {
    let mut record = sandbox(id, "team", 1000);
    record.config.network = Some(binds(source, "http_headers"));
    record
}

fn template(id: &str, network: Option<Value>) -> TemplateRecord {
    TemplateRecord {
        id: id.into(),
        team_id: Some("team".into()),
        user_id: None,
        spec: TemplateSpec { network, ..TemplateSpec::default() },
        base: None,
        creation: None,
        created_at_ms: 1,
        updated_at_ms: 1,
        version: 1,
    }
}

async fn bound_by(store: &Store, name: &str) -> Vec<String> {
    match store.credential_delete("team", name).await {
        Err(StoreError::Bound { by, .. }) => by,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sources_are_a_teams_own() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.team_insert(&team("other", "user")).await.expect("another team");
    let first = source("team", "github", Kind::Headers);
    store.credential_insert(&first).await.expect("inserts");
    assert!(matches!(store.credential_insert(&first).await, Err(StoreError::Exists { .. })));
    store.credential_insert(&source("other", "github", Kind::SshPrivateKey)).await.expect("another team's");
    store.credential_insert(&source("team", "a", Kind::UsernamePassword)).await.expect("inserts");
    let names: Vec<_> = store.credentials_list("team").await.expect("lists").into_iter().map(|source| source.name).collect();
    assert_eq!(names, ["a", "github"]);
    let rotated = store.credential_rotate("team", "github", Kind::Headers, "other".into(), 9).await.expect("rotates");
    assert_eq!(rotated, CredentialRecord { sealed: "other".into(), version: 2, updated_at_ms: 9, ..first });
    assert_eq!(store.credential_get("team", "github").await.expect("reads"), Some(rotated));
    assert_eq!(store.credential_get("other", "github").await.expect("reads").map(|source| source.version), Some(1));
    let of_another_kind = store.credential_rotate("team", "github", Kind::SshPrivateKey, "x".into(), 9).await;
    assert!(matches!(of_another_kind, Err(StoreError::Stale { .. })));
    assert!(matches!(store.credential_rotate("team", "none", Kind::Headers, "x".into(), 9).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.credential_delete("team", "none").await, Err(StoreError::NotFound { .. })));
    store.credential_delete("team", "github").await.expect("deletes");
    assert_eq!(store.credential_get("team", "github").await.expect("reads"), None);
    store.team_delete("other").await.expect("deletes");
    assert_eq!(store.credentials_list("other").await.expect("lists"), [], "a team's secrets go with it");
}

#[tokio::test]
async fn there_is_a_limit() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for n in 0..limits::CREDENTIALS_PER_TEAM_MAX {
        store.credential_insert(&source("team", &format!("s{n}"), Kind::Headers)).await.expect("inserts");
    }
    assert!(matches!(store.credential_insert(&source("team", "more", Kind::Headers)).await, Err(StoreError::TooMany { .. })));
}

#[tokio::test]
async fn only_what_is_there_and_fits_is_bound() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.credential_insert(&source("team", "key", Kind::SshPrivateKey)).await.expect("inserts");
    for name in ["none", "key"] {
        let refused =
            [store.sandbox_insert(&binding_sandbox("sb-1", name), &[]).await, store.template_insert(&template("t", Some(binds(name, "http_headers")))).await];
        assert!(refused.iter().all(|refused| matches!(refused, Err(StoreError::Binding(_)))), "{refused:?}");
    }
    let mut plain = sandbox("sb-1", "team", 1000);
    store.sandbox_insert(&plain, &[]).await.expect("inserts");
    store.template_insert(&template("t", None)).await.expect("inserts");
    plain.config.network = Some(binds("none", "http_headers"));
    assert!(matches!(store.sandbox_update(&plain, 1, &[]).await, Err(StoreError::Binding(_))));
    assert!(matches!(store.template_update(&template("t", Some(binds("none", "http_headers"))), 1).await, Err(StoreError::Binding(_))));
    plain.config.network = Some(binds("key", "ssh_proxy"));
    store.sandbox_update(&plain, 1, &[]).await.expect("what fits");
    let binding = |source: &str| Binding { reference: "b".into(), source: source.into(), projection: "ssh_proxy".into() };
    let found = store.credentials_bound("team", &[binding("key"), binding("key")]).await.expect("reads");
    assert_eq!(found, [source("team", "key", Kind::SshPrivateKey)]);
    assert!(matches!(store.credentials_bound("team", &[binding("none")]).await, Err(StoreError::Binding(_))));
}

#[tokio::test]
async fn what_is_bound_stays() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for name in ["one", "two"] {
        store.credential_insert(&source("team", name, Kind::Headers)).await.expect("inserts");
    }
    // By a sandbox, as long as it is not deleted.
    let mut record = binding_sandbox("sb-1", "one");
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    assert_eq!(bound_by(&store, "one").await, ["sandbox sb-1"]);
    record.config.network = Some(binds("two", "http_headers"));
    record.version = store.sandbox_update(&record, record.version, &[]).await.expect("updates");
    assert_eq!(bound_by(&store, "two").await, ["sandbox sb-1"]);
    store.credential_delete("team", "one").await.expect("nobody binds it any more");
    record.desired = Desired::Deleted;
    record.version = store.sandbox_update(&record, record.version, &[]).await.expect("updates");
    // What is left of it can be written although its source is gone.
    store.credential_delete("team", "two").await.expect("a deleted sandbox binds nothing");
    store.sandbox_update(&record, record.version, &[]).await.expect("updates");

    // By a template, and by a revision that goes with its function.
    store.credential_insert(&source("team", "one", Kind::Headers)).await.expect("inserts");
    store.template_insert(&template("t", Some(binds("one", "http_headers")))).await.expect("inserts");
    let (function, mut revision) = (functions::function("fn-1", "hooks"), functions::revision("rev-1", "fn-1"));
    revision.template.network = Some(binds("one", "http_headers"));
    store.function_create(&function, &revision, FunctionEvent::default()).await.expect("creates");
    let by = bound_by(&store, "one").await;
    assert_eq!(by, ["template t", "revision 1 of function hooks"]);
    store.template_update(&template("t", None), 1).await.expect("updates");
    assert_eq!(bound_by(&store, "one").await.len(), 1);
    revision.id = "rev-2".into();
    revision.config.network = Some(binds("none", "http_headers"));
    assert!(matches!(store.revision_create(&revision, FunctionEvent::default()).await, Err(StoreError::Binding(_))));
    store.function_delete("fn-1", 9).await.expect("deletes");
    store.credential_delete("team", "one").await.expect("deletes");

    // Of many, some are named.
    store.credential_insert(&source("team", "one", Kind::Headers)).await.expect("inserts");
    for n in 0..9 {
        store.sandbox_insert_on(&binding_sandbox(&format!("sb-a{n}"), "one"), &[], HashMap::new()).await.expect("inserts");
    }
    let said = store.credential_delete("team", "one").await.expect_err("is bound").to_string();
    assert!(said.contains("sandbox sb-a0") && said.ends_with("and 4 others"), "{said}");
}
