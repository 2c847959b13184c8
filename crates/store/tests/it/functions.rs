//! Functions: what is published in one commit, what is never given twice, and what goes with what.

use sandbar_core::{
    function::{AliasRecord, Autoscaling, FunctionRecord, InstanceRecord, InstanceState, RevisionMount, RevisionRecord, Source, Split},
    limits,
    sandbox::{Base, Layer},
    volume::AccessMode,
};
use sandbar_store::{FunctionEvent, Store, StoreError, VolumeRecord};
use serde_json::json;

use super::Fresh;

pub fn function(id: &str, slug: &str) -> FunctionRecord {
    FunctionRecord {
        id: id.into(),
        team_id: "team".into(),
        name: slug.to_uppercase(),
        slug: slug.into(),
        domain_label: format!("{slug}-0000"),
        enabled: true,
        autoscaling: Autoscaling::default(),
        created_by: Some("user".into()),
        created_at_ms: 10,
        updated_at_ms: 10,
        deleted_at_ms: None,
    }
}

pub fn revision(id: &str, function_id: &str) -> RevisionRecord {
    let mount = RevisionMount {
        volume_id: format!("vol-{id}"),
        tree_id: format!("tree-{id}"),
        mount_point: "/data".into(),
        read_only: false,
        source_volume_id: None,
        snapshot_id: None,
        access_mode: AccessMode::Rwo,
        size_limit_bytes: 1,
        uid: 0,
        gid: 0,
    };
    let text = json!({
        "id": id, "function_id": function_id, "team_id": "team", "number": 0,
        "source": Source::SandboxService { sandbox_id: "sb-1".into(), service_id: "api".into() },
        "template_id": "default", "template": { "mainContainer": { "image": "host", "resources": {} } }, "config": {},
        "base": Base { image: "host".into(), layers: vec![Layer { root_id: format!("layer-{id}"), uid_slot: 3 }] },
        "mounts": [mount], "service": { "id": "api", "port": 1, "ingress": { "public": true } },
        "created_by": "user", "created_at_ms": 20,
    });
    RevisionRecord::read(&text.to_string()).expect("a revision")
}

fn event(kind: &str, at_ms: i64) -> FunctionEvent {
    FunctionEvent { kind: kind.into(), message: "m".into(), at_ms, ..FunctionEvent::default() }
}

async fn created(store: &Store, id: &str, slug: &str) -> (RevisionRecord, AliasRecord) {
    store.function_create(&function(id, slug), &revision(&format!("{id}-r1"), id), event("function.created", 10)).await.expect("creates")
}

fn instance(sandbox_id: &str, revision_id: &str) -> InstanceRecord {
    InstanceRecord {
        sandbox_id: sandbox_id.into(),
        team_id: "team".into(),
        function_id: "f".into(),
        revision_id: revision_id.into(),
        state: InstanceState::Starting,
        created_at_ms: 5,
        ready_at_ms: None,
        startup_ms: None,
    }
}

fn owned(id: &str, owner: &str) -> VolumeRecord {
    VolumeRecord { owner: Some(owner.into()), ..super::state::volume(id, AccessMode::Rwo) }
}

#[tokio::test]
async fn a_function_is_there_whole_or_not_at_all() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let (first, alias) = created(&store, "f", "api").await;
    assert_eq!((first.number, &alias.split), (1, &Split::whole("f-r1", 1)));
    // The same slug, the same label, the same revision: refused with everything that came with it.
    for (other, revision_of) in [
        (function("g", "api"), revision("g-r1", "g")),
        (FunctionRecord { domain_label: "api-0000".into(), ..function("g", "other") }, revision("g-r1", "g")),
        (function("g", "other"), revision("f-r1", "g")),
    ] {
        let refused = store.function_create(&other, &revision_of, event("function.created", 1)).await;
        assert!(matches!(refused, Err(StoreError::Exists { .. })), "{refused:?}");
        assert_eq!(store.function_find("team", "g").await.expect("reads"), None);
    }
    assert!(store.function_name_taken("team", "api", "x").await.expect("reads") && store.function_name_taken("other", "x", "api-0000").await.expect("reads"));
    assert!(!store.function_name_taken("other", "api", "x").await.expect("reads"), "slugs are a team's own");
    drop(store);
    let store = fresh.open();
    let found = store.function_find("team", "api").await.expect("reads").expect("by slug");
    assert_eq!(Some(&found), store.function_find("team", "f").await.expect("reads").as_ref());
    assert_eq!(FunctionRecord { updated_at_ms: 10, ..found }, function("f", "api"));
    assert_eq!(store.function_find("others", "f").await.expect("reads"), None);
    let whole = store.function_by_label("api-0000").await.expect("reads").expect("is there");
    assert_eq!((whole.aliases.len(), whole.revisions.len(), whole.newest_from_source["sb-1"]), (1, 1, 1));
    assert_eq!(whole.revisions[0].revision, first);
    assert_eq!(store.function_whole("f").await.expect("reads"), Some(whole));
}

#[tokio::test]
async fn numbers_go_up_and_are_never_given_twice() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    created(&store, "f", "api").await;
    let publish = async |id: &str| store.revision_create(&revision(id, "f"), event("function.published", 30)).await;
    assert_eq!(publish("r2").await.expect("publishes").number, 2);
    assert_eq!(publish("r3").await.expect("publishes").number, 3);
    let (gone, released) = store.revision_delete("f", 3, event("function.revision_deleted", 40)).await.expect("deletes");
    assert_eq!((gone.id.as_str(), released.trees, released.bases[0].layers[0].root_id.as_str()), ("r3", vec!["tree-r3".to_owned()], "layer-r3"));
    assert_eq!(publish("r4").await.expect("publishes").number, 4);
    let numbers: Vec<i64> = store.revisions_list("f").await.expect("lists").iter().map(|row| row.revision.number).collect();
    assert_eq!(numbers, [4, 2, 1]);
    assert!(matches!(store.revision_delete("f", 1, event("x", 1)).await, Err(StoreError::InUse { .. })), "production points to it");
    assert!(matches!(store.revision_delete("f", 9, event("x", 1)).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.revision_find("f", 2).await.expect("reads").expect("is there").proved_at_ms, None);
    store.revision_proved("r2", 50).await.expect("notes");
    store.revision_proved("r2", 60).await.expect("notes");
    assert_eq!(store.revision_find("f", 2).await.expect("reads").expect("is there").proved_at_ms, Some(50), "the first time counts");
    for n in 3..limits::REVISIONS_PER_FUNCTION_MAX {
        publish(&format!("n{n}")).await.expect("publishes");
    }
    assert!(matches!(publish("more").await, Err(StoreError::TooMany { .. })));
}

#[tokio::test]
async fn aliases_point_only_to_what_is_there() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    created(&store, "f", "api").await;
    store.revision_create(&revision("r2", "f"), event("function.published", 30)).await.expect("publishes");
    let put = async |alias: &str, weights: &[(i64, u32)]| store.alias_put("f", alias, weights.to_vec(), true, None, event("alias.set", 40)).await;
    assert!(matches!(put("production", &[(1, 1), (9, 1)]).await, Err(StoreError::NotFound { what: "revision", .. })));
    let set = put("production", &[(1, 90), (2, 10)]).await.expect("sets");
    assert_eq!(set.split.targets.iter().map(|target| (target.revision_id.as_str(), target.weight)).collect::<Vec<_>>(), [("f-r1", 90), ("r2", 10)]);
    assert_eq!(store.productions("team").await.expect("reads")["f"], set.split);
    assert!(matches!(store.revision_delete("f", 2, event("x", 1)).await, Err(StoreError::InUse { .. })));
    put("staging", &[(2, 1)]).await.expect("sets");
    let names: Vec<String> = store.aliases_list("f").await.expect("lists").into_iter().map(|alias| alias.alias).collect();
    assert_eq!(names, ["production", "staging"]);
    store.alias_delete("f", "staging", event("alias.deleted", 50)).await.expect("deletes");
    assert!(matches!(store.alias_delete("f", "staging", event("x", 1)).await, Err(StoreError::NotFound { .. })));
    for n in 1..limits::ALIASES_PER_FUNCTION_MAX {
        put(&format!("a{n}"), &[(1, 1)]).await.expect("sets");
    }
    assert!(matches!(put("more", &[(1, 1)]).await, Err(StoreError::TooMany { .. })));
    put("a1", &[(2, 1)]).await.expect("one that is there can be moved all the same");
    assert!(matches!(store.alias_put("g", "x", vec![(1, 1)], false, None, event("x", 1)).await, Err(StoreError::NotFound { what: "function", .. })));
}

#[tokio::test]
async fn a_deleted_function_leaves_its_name_and_nothing_else() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    created(&store, "f", "api").await;
    store.revision_create(&revision("r2", "f"), event("function.published", 30)).await.expect("publishes");
    let named = store.named().await.expect("reads");
    assert!(named.trees.contains("tree-r2") && named.roots.contains("layer-f-r1") && named.images.contains("host") && named.slots.contains(&3));
    assert!(matches!(store.team_delete("team").await, Err(StoreError::InUse { .. })));
    let (deleted, mut released) = store.function_delete("f", 99).await.expect("deletes");
    released.trees.sort();
    assert_eq!((deleted.deleted_at_ms, released.trees, released.bases.len()), (Some(99), vec!["tree-f-r1".to_owned(), "tree-r2".to_owned()], 2));
    assert_eq!(store.named().await.expect("reads"), Default::default());
    assert!(store.functions_list("team").await.expect("lists").is_empty() && store.function_by_label("api-0000").await.expect("reads").is_none());
    assert!(matches!(store.function_delete("f", 100).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.function_update("f", None, Some(true), None, event("x", 1)).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.revision_create(&revision("r3", "f"), event("x", 1)).await, Err(StoreError::NotFound { .. })));
    let again = store.function_create(&function("g", "api"), &revision("g1", "g"), event("x", 1)).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })), "its name stays taken: {again:?}");
    store.function_event("f", event("late", 1)).await.expect("nothing to note it on");
    store.team_delete("team").await.expect("what is deleted keeps no team");
}

#[tokio::test]
async fn updates_and_events() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    created(&store, "f", "api").await;
    created(&store, "g", "web").await;
    let warm = Autoscaling { min_warm: 2, ..Autoscaling::default() };
    assert!(store.functions_warm().await.expect("reads").is_empty());
    let updated = store.function_update("f", Some("New".into()), None, Some(warm), event("function.updated", 70)).await.expect("updates");
    assert_eq!((updated.name.as_str(), updated.slug.as_str(), updated.enabled, updated.autoscaling, updated.updated_at_ms), ("New", "api", true, warm, 70));
    assert_eq!(store.functions_warm().await.expect("reads"), ["f"]);
    let listed: Vec<String> = store.functions_list("team").await.expect("lists").into_iter().map(|function| function.id).collect();
    assert_eq!(listed, ["f", "g"], "the last changed first");
    store.function_update("f", None, Some(false), None, event("function.updated", 80)).await.expect("updates");
    assert!(store.functions_warm().await.expect("reads").is_empty(), "not while it is switched off");
    for at in 0..limits::FUNCTION_EVENTS_MAX {
        store.function_event("f", FunctionEvent { phase: Some("ready".into()), startup_ms: Some(at), ..event("instance.ready", at) }).await.expect("notes");
    }
    let events = store.function_events("f").await.expect("lists");
    assert_eq!(events.len() as i64, limits::FUNCTION_EVENTS_MAX);
    assert_eq!((events[0].startup_ms, events[0].seq > events[1].seq, events[0].phase.as_deref()), (Some(limits::FUNCTION_EVENTS_MAX - 1), true, Some("ready")));
}

#[tokio::test]
async fn an_instance_goes_after_its_sandbox_and_its_volumes_with_it() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    created(&store, "f", "api").await;
    let gone = store.instance_insert(&instance("sb-2", "none"), vec![owned("vol-x", "sb-2")]).await;
    assert!(matches!(gone, Err(StoreError::NotFound { what: "revision", .. })));
    assert!(store.named().await.expect("reads").trees.contains("tree-f-r1"));
    store.instance_insert(&instance("sb-2", "f-r1"), vec![owned("vol-2", "sb-2")]).await.expect("inserts");
    store.instance_insert(&instance("sb-3", "f-r1"), vec![owned("vol-3", "sb-3")]).await.expect("inserts");
    assert!(store.volumes_list("team").await.expect("lists").is_empty(), "nobody else's");
    assert_eq!(store.team_use("team").await.expect("reads").volumes, 0);
    assert_eq!(store.instances_settle().await.expect("settles"), Vec::<String>::new(), "what is being made stays");
    store.instance_ready("sb-2", 9, 4).await.expect("is ready");
    assert!(matches!(store.instance_ready("sb-2", 9, 4).await, Err(StoreError::NotFound { .. })), "once");
    let record = super::sandboxes::sandbox("sb-2", "team", 1);
    store.sandbox_insert(&record, &[]).await.expect("its sandbox");
    store.instances_set(vec!["sb-2".into(), "sb-3".into()], InstanceState::Removing).await.expect("moves on");
    store.instances_set(vec!["sb-2".into()], InstanceState::Ready).await.expect("changes nothing");
    let states: Vec<InstanceState> = store.instances_of("f").await.expect("lists").iter().map(|row| row.state).collect();
    assert_eq!(states, [InstanceState::Removing; 2], "none comes back");
    assert_eq!(store.instances_settle().await.expect("settles"), ["tree-vol-3"], "one whose sandbox is there waits for it");
    assert_eq!(store.instances_all().await.expect("lists").len(), 1);
    store.sandbox_delete("sb-2", record.version).await.expect("goes");
    assert_eq!(store.instances_settle().await.expect("settles"), ["tree-vol-2"]);
    assert!(store.instances_all().await.expect("lists").is_empty());
}
