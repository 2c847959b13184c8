//! Apps: one build at a time, one version live, rows of sandboxes before and after them, and who is told what is not named any more.

use sandbar_core::{
    app::{Desired, SandboxKind, VersionState},
    limits::deploys as limits,
    sandbox::{Base, Layer},
    volume::AccessMode,
};
use sandbar_store::{AppRecord, AppSandboxRecord, AppVersionRecord, AppVolumeRecord, NewAppSetup, NewAppVersion, Store, StoreError, VolumeRecord};
use serde_json::json;

use super::Fresh;

fn new(name: &str, at_ms: i64) -> NewAppVersion {
    NewAppVersion {
        team_id: "team".into(),
        app_name: name.into(),
        app_id: format!("id-of-{name}"),
        manifest_sha256: "m".into(),
        source_sha256: "s".into(),
        source_bytes: 7,
        message: Some("why".into()),
        created_by: Some("user".into()),
        created_at_ms: at_ms,
        template_id: "default".into(),
        template: serde_json::from_value(json!({ "mainContainer": { "image": "host", "resources": {} } })).expect("a template"),
        manifest_text: "schemaVersion: 1".into(),
        manifest: r#"{"schemaVersion":1,"runtime":{"base":"default"}}"#.into(),
    }
}

fn base(layer: &str) -> Base {
    Base { image: "host".into(), layers: vec![Layer { root_id: layer.into(), uid_slot: 3 }] }
}

fn sandbox(id: &str, app: &AppRecord, version: i64, kind: SandboxKind) -> AppSandboxRecord {
    AppSandboxRecord { sandbox_id: id.into(), team_id: "team".into(), app_id: app.id.clone(), version, kind, run_id: None, removing: false, created_at_ms: 5 }
}

async fn begun(store: &Store, name: &str) -> (AppRecord, AppVersionRecord) {
    store.app_version_begin(new(name, 10)).await.expect("begins")
}

async fn ready(store: &Store, name: &str, layer: &str, activate: bool) -> AppRecord {
    let (app, version) = begun(store, name).await;
    store.app_version_ready(&app.id, version.number, base(layer), None, activate, 20).await.expect("is ready").0
}

#[tokio::test]
async fn a_version_is_built_and_is_live_unless_it_is_not_to_be() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let (app, version) = begun(&store, "web").await;
    assert_eq!((version.number, version.state, app.live_version, app.desired), (1, VersionState::Building, None, Desired::Offline));
    let refused = store.app_version_begin(new("web", 11)).await.expect_err("one at a time");
    assert!(matches!(&refused, StoreError::Unfit(text) if text.contains("version 1")), "{refused}");
    assert!(matches!(store.app_set_live(&app.id, 1, 12).await, Err(StoreError::Unfit(_))), "it is not ready");

    // The first is live in any case.
    let (app, pruned) = store.app_version_ready(&app.id, 1, base("l1"), None, false, 20).await.expect("is ready");
    assert_eq!((app.live_version, pruned.bases.len()), (Some(1), 0));
    assert!(matches!(store.app_version_ready(&app.id, 1, base("x"), None, true, 21).await, Err(StoreError::NotFound { .. })), "only once");
    assert_eq!(ready(&store, "web", "l2", false).await.live_version, Some(1));
    assert_eq!(ready(&store, "web", "l3", true).await.live_version, Some(3));
    assert_eq!(store.app_set_live(&app.id, 2, 30).await.expect("rolls back").live_version, Some(2));
    assert!(matches!(store.app_set_live(&app.id, 9, 30).await, Err(StoreError::NotFound { .. })));

    let named = store.named().await.expect("reads");
    assert!(["l1", "l2", "l3"].iter().all(|layer| named.roots.contains(*layer)) && named.slots.contains(&3));
    let versions = store.app_versions(&app.id).await.expect("lists");
    assert_eq!(versions.iter().map(|version| version.number).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!((versions[0].base.as_ref(), versions[0].source_bytes, versions[0].finished_at_ms), (Some(&base("l3")), 7, Some(20)));
    assert_eq!(store.app_find("team", "web").await.expect("reads").expect("is there").last_version, 3);
    assert_eq!(store.app_find("other", "web").await.expect("reads"), None);
}

#[tokio::test]
async fn builds_that_were_cut_short_have_failed() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let (app, version) = begun(&store, "web").await;
    assert_eq!(store.app_versions_interrupt("it ended", 50).await.expect("writes"), 1);
    let found = store.app_version(&app.id, version.number).await.expect("reads").expect("is there");
    assert_eq!((found.state, found.reason.as_deref(), found.finished_at_ms), (VersionState::Failed, Some("it ended"), Some(50)));
    assert!(matches!(store.app_version_ready(&app.id, 1, base("x"), None, true, 60).await, Err(StoreError::NotFound { .. })), "it does not come back");
    let (app, second) = begun(&store, "web").await;
    store.app_version_failed(&app.id, second.number, "why", 70).await.expect("writes");
    assert_eq!(store.app_version(&app.id, 2).await.expect("reads").expect("is there").reason.as_deref(), Some("why"));
    assert_eq!(store.app_versions_interrupt("again", 80).await.expect("writes"), 0);
}

#[tokio::test]
async fn the_oldest_versions_make_room_that_nobody_has() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let app = ready(&store, "web", "l1", true).await;
    ready(&store, "web", "l2", false).await;
    store.app_sandbox_insert(&sandbox("sb-1", &app, 2, SandboxKind::App)).await.expect("inserts");
    for number in 3..=limits::APP_VERSIONS_MAX {
        ready(&store, "web", &format!("l{number}"), false).await;
    }
    let (_, version) = begun(&store, "web").await;
    let (_, pruned) = store.app_version_ready(&app.id, version.number, base("new"), None, false, 20).await.expect("is ready");
    assert_eq!((pruned.numbers, pruned.bases), (vec![3], vec![base("l3")]), "1 is live and 2 is online");
}

#[tokio::test]
async fn what_a_setup_left_is_found_by_its_key_until_it_is_forgotten() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let setup = |key: &str, layer: &str| NewAppSetup { key: key.into(), base: base(layer) };
    let (app, version) = begun(&store, "web").await;
    store.app_version_ready(&app.id, version.number, base("v1"), Some(setup("k", "s1")), true, 20).await.expect("is ready");
    assert_eq!(store.app_setup_find("team", &app.id, "k", 30).await.expect("reads"), Some(base("s1")));
    assert_eq!(store.app_setup_find("team", &app.id, "other", 30).await.expect("reads"), None);
    assert!(store.named().await.expect("reads").roots.contains("s1"));
    let (_, version) = begun(&store, "web").await;
    let (_, pruned) = store.app_version_ready(&app.id, version.number, base("v2"), Some(setup("k", "s2")), true, 40).await.expect("is ready");
    assert_eq!(pruned.bases, [base("s1")], "another takes its place");
    assert_eq!(store.app_setups_expire(40).await.expect("writes"), []);
    assert_eq!(store.app_setups_expire(41).await.expect("writes"), [base("s2")]);
    // The one that was not used for the longest time makes room.
    for n in 0..=limits::APP_SETUPS_PER_TEAM_MAX {
        let (_, version) = begun(&store, "web").await;
        let at = 100 + n as i64;
        let ready = store.app_version_ready(&app.id, version.number, base("v"), Some(setup(&format!("k{n}"), &format!("s{n}"))), true, at).await;
        let gone: Vec<_> = ready.expect("is ready").1.bases.into_iter().filter(|base| base.layers[0].root_id.starts_with('s')).collect();
        assert_eq!(gone, if n == limits::APP_SETUPS_PER_TEAM_MAX { vec![base("s0")] } else { Vec::new() }, "{n}");
    }
}

#[tokio::test]
async fn rows_of_sandboxes_stay_until_the_sandboxes_are_gone() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let app = ready(&store, "web", "l1", true).await;
    assert!(matches!(store.app_sandbox_insert(&sandbox("sb-0", &app, 7, SandboxKind::Run)).await, Err(StoreError::NotFound { .. })), "no such version");
    store.app_sandbox_insert(&sandbox("sb-1", &app, 1, SandboxKind::App)).await.expect("inserts");
    let second = store.app_sandbox_insert(&sandbox("sb-2", &app, 1, SandboxKind::App)).await.expect_err("one is online");
    assert!(matches!(second, StoreError::Exists { .. }), "{second}");
    assert_eq!(store.app_sandbox_online(&app.id).await.expect("reads").expect("is online").sandbox_id, "sb-1");
    let ids = |rows: Vec<AppSandboxRecord>| rows.into_iter().map(|row| row.sandbox_id).collect::<Vec<_>>();
    // A sandbox of its own it has not (in this test), so something has to be done about it.
    assert_eq!(ids(store.app_sandboxes_astray().await.expect("reads")), ["sb-1"]);
    assert_eq!(store.app_sandboxes_settle(vec!["sb-1".into()]).await.expect("writes"), 0, "it is wanted");
    store.app_sandboxes_remove(vec!["sb-1".into(), "gone".into()]).await.expect("writes");
    assert_eq!(store.app_sandbox_online(&app.id).await.expect("reads"), None);
    store.app_sandbox_insert(&sandbox("sb-2", &app, 1, SandboxKind::App)).await.expect("the place is free");
    assert_eq!(store.app_sandboxes_settle(vec!["sb-1".into(), "sb-2".into()]).await.expect("writes"), 1);
    assert_eq!(ids(store.app_sandboxes_of(&app.id).await.expect("reads")), ["sb-2"]);
}

#[tokio::test]
async fn an_app_goes_with_all_that_is_its_own() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let (app, version) = begun(&store, "web").await;
    let setup = NewAppSetup { key: "k".into(), base: base("s1") };
    store.app_version_ready(&app.id, version.number, base("l1"), Some(setup), true, 20).await.expect("is ready");
    let other = ready(&store, "other", "l2", true).await;
    store.app_sandbox_insert(&sandbox("sb-1", &app, 1, SandboxKind::App)).await.expect("inserts");
    store.app_env_put(&app.id, vec![("A".into(), Some("sealed".into())), ("B".into(), Some("sealed".into()))], 30).await.expect("writes");
    store.app_env_put(&app.id, vec![("B".into(), None)], 31).await.expect("writes");
    assert_eq!(store.app_env(&app.id).await.expect("reads").into_iter().map(|env| env.name).collect::<Vec<_>>(), ["A"]);
    for n in 0..20 {
        store.app_env_put(&app.id, vec![("A".into(), Some(format!("sealed {n}")))], 32).await.expect("writes");
    }
    let former = store.app_env_former(&app.id).await.expect("reads");
    let of = |name: &str| former.iter().filter(|(of, _)| of == name).map(|(_, sealed)| sealed.clone()).collect::<Vec<_>>();
    assert_eq!(of("B"), ["sealed"]);
    assert_eq!(of("A"), (11..19).rev().map(|n| format!("sealed {n}")).collect::<Vec<_>>(), "the last ones");
    begun(&store, "web").await;

    let deleted = store.app_delete(&app.id, false, 7).await.expect("deletes");
    assert_eq!((deleted.bases, deleted.sandboxes), (vec![base("l1"), base("s1")], vec!["sb-1".to_owned()]));
    assert!(matches!(store.app_delete(&app.id, false, 7).await, Err(StoreError::NotFound { .. })));
    assert!(store.app_versions(&app.id).await.expect("reads").is_empty() && store.app_env(&app.id).await.expect("reads").is_empty());
    assert!(store.app_env_former(&app.id).await.expect("reads").is_empty());
    assert!(store.app_sandbox_get("sb-1").await.expect("reads").expect("until it is gone").removing);
    assert!(matches!(store.app_version_ready(&app.id, 2, base("x"), None, true, 40).await, Err(StoreError::NotFound { .. })), "its build comes to nothing");
    assert!(matches!(store.app_env_put(&app.id, Vec::new(), 50).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.apps_list("team").await.expect("lists"), [other]);
}

#[tokio::test]
async fn what_is_wanted_of_an_app_is_not_written_over_by_who_saw_it_before() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let app = ready(&store, "web", "l1", true).await;
    let online = store.app_want(&app.id, app.generation, Desired::Online, &json!({ "services": ["worker"] }), 30).await.expect("writes");
    assert_eq!((online.desired, &online.launch["services"][0]), (Desired::Online, &json!("worker")));
    assert!(matches!(store.app_want(&app.id, app.generation, Desired::Offline, &json!({}), 31).await, Err(StoreError::Stale { .. })));
    assert!(matches!(store.app_want("none", 1, Desired::Offline, &json!({}), 31).await, Err(StoreError::NotFound { .. })));
    store.app_seen(&app.id, &json!({ "state": "ready" })).await.expect("writes");
    let found = store.app_get(&app.id).await.expect("reads").expect("is there");
    assert_eq!((found.seen["state"].as_str(), found.generation), (Some("ready"), online.generation));
    assert_eq!(store.apps_online().await.expect("lists"), [found]);
}

fn app_volume(app: &AppRecord, name: &str, with_sandbox: bool, id: &str) -> AppVolumeRecord {
    let volume = VolumeRecord {
        id: id.into(),
        team_id: app.team_id.clone(),
        user_id: "user".into(),
        name: Some(format!("{}/{name}", app.name)),
        access_mode: AccessMode::Rwx,
        tree_id: format!("tree-{id}"),
        size_limit_bytes: 1 << 30,
        uid: 0,
        gid: 0,
        source_volume_id: None,
        owner: None,
        created_at_ms: 5,
        updated_at_ms: 5,
        version: 1,
    };
    AppVolumeRecord { volume, app_name: app.name.clone(), name: name.into(), with_sandbox, removing: false }
}

fn ids(volumes: &[AppVolumeRecord]) -> Vec<&str> {
    volumes.iter().map(|volume| volume.volume.id.as_str()).collect()
}

#[tokio::test]
async fn volumes_outlive_their_app_unless_they_are_to_go_with_it() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let (app, other) = (ready(&store, "web", "l1", true).await, ready(&store, "other", "l2", true).await);
    let data = app_volume(&app, "data", false, "vol-1");
    assert_eq!(store.app_volume_insert(&data).await.expect("inserts"), data);
    let raced = store.app_volume_insert(&app_volume(&app, "data", false, "vol-x")).await.expect("finds");
    assert_eq!(raced.volume.id, "vol-1", "whoever is second has that of the first");
    store.app_volume_insert(&app_volume(&app, "cache", true, "vol-2")).await.expect("inserts");
    let same_name = store.app_volume_insert(&app_volume(&other, "data", false, "vol-3")).await.expect("inserts");
    assert_eq!(same_name.volume.id, "vol-3", "another app's is another one");
    store.app_volume_set("vol-1", 2 << 30, false, 9).await.expect("writes");
    let found = store.app_volume_find("team", "web", "data").await.expect("reads").expect("is there");
    assert_eq!((found.volume.size_limit_bytes, found.volume.updated_at_ms), (2 << 30, 9));
    assert_eq!(store.app_volume_of("vol-3").await.expect("reads").expect("is one's").app_name, "other");
    assert_eq!(store.app_volume_of("vol-0").await.expect("reads"), None);

    // The sandbox of the app is deleted: one goes with it, and the next sandbox has another.
    store.app_volumes_end("team", "web").await.expect("writes");
    assert_eq!(ids(&store.app_volumes("team", "web").await.expect("lists")), ["vol-1"]);
    assert_eq!(store.app_volumes_removable().await.expect("lists"), [("team".to_owned(), "vol-2".to_owned())]);
    store.app_volume_insert(&app_volume(&app, "cache", true, "vol-4")).await.expect("inserts");
    store.volume_delete("team", "vol-2", false).await.expect("deletes");
    assert_eq!(store.app_volumes_removable().await.expect("lists"), []);

    let deleted = store.app_delete(&app.id, false, 7).await.expect("deletes");
    assert_eq!((ids(&deleted.volumes_ended), ids(&deleted.volumes_left)), (vec!["vol-4"], vec!["vol-1"]));
    assert!(matches!(store.app_volume_insert(&app_volume(&app, "late", false, "vol-6")).await, Err(StoreError::NotFound { what: "app", .. })));
    // An app of that name has it again.
    let again = ready(&store, "web", "l3", true).await;
    assert_eq!(store.app_volume_insert(&app_volume(&again, "data", false, "vol-5")).await.expect("finds").volume.id, "vol-1");
    let deleted = store.app_delete(&again.id, true, 7).await.expect("deletes");
    assert_eq!((ids(&deleted.volumes_ended), ids(&deleted.volumes_left)), (vec!["vol-1"], vec![]));
    assert_eq!(ids(&store.app_volumes("team", "other").await.expect("lists")), ["vol-3"]);
}

#[tokio::test]
async fn a_volume_of_a_build_goes_with_its_sandbox() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let app = ready(&store, "web", "l1", true).await;
    let scratch = |id: &str, sandbox: &str| VolumeRecord { owner: Some(sandbox.into()), ..app_volume(&app, "x", false, id).volume };
    assert!(matches!(store.app_scratch_insert(&scratch("vol-0", "sb-0")).await, Err(StoreError::NotFound { .. })), "its row comes first");
    store.app_sandbox_insert(&sandbox("sb-1", &app, 1, SandboxKind::Build)).await.expect("inserts");
    store.app_scratch_insert(&scratch("vol-1", "sb-1")).await.expect("inserts");
    assert_eq!(store.instances_settle().await.expect("settles"), Vec::<String>::new(), "the sandbox is being made");
    assert_eq!(store.volumes_list("team").await.expect("lists"), [], "it is none of the team's");
    store.app_sandboxes_remove(vec!["sb-1".into()]).await.expect("writes");
    assert!(store.app_scratch_insert(&scratch("vol-2", "sb-1")).await.is_err(), "not for one that is to go");
    assert_eq!(store.app_sandboxes_settle(vec!["sb-1".into()]).await.expect("settles"), 1);
    assert_eq!(store.instances_settle().await.expect("settles"), ["tree-vol-1"]);
}
