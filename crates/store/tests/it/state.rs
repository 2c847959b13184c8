//! Snapshots, volumes and who has them, what rows name of the disk, quotas and usage.

use sandbar_core::{
    lifecycle::{self, Observation},
    limits,
    metrics::Sample,
    quota::Dimension,
    sandbox::{Base, Layer, Mount, Observed, SandboxRecord, reason},
    volume::AccessMode,
};
use sandbar_store::{
    DeletedVolume, InvocationStatus, QuotaRecord, SnapshotRecord, Store, StoreError, TemplateRecord, UsageAdd, VolumeRecord, VolumeSnapshotRecord,
};

use crate::{Fresh, sandboxes::sandbox, team, user};

fn base(image: &str, layers: &[(&str, u32)]) -> Base {
    Base { image: image.into(), layers: layers.iter().map(|(root, slot)| Layer { root_id: (*root).into(), uid_slot: *slot }).collect() }
}

fn snapshot(id: &str, sandbox_id: &str, at_ms: i64) -> SnapshotRecord {
    SnapshotRecord {
        id: id.into(),
        team_id: "team".into(),
        user_id: "user".into(),
        sandbox_id: sandbox_id.into(),
        name: Some("näme".into()),
        description: None,
        base: base("host", &[(&format!("layer-{id}"), 9)]),
        expires_at_ms: None,
        created_at_ms: at_ms,
    }
}

pub fn volume(id: &str, mode: AccessMode) -> VolumeRecord {
    VolumeRecord {
        id: id.into(),
        team_id: "team".into(),
        user_id: "user".into(),
        name: Some("data".into()),
        access_mode: mode,
        tree_id: format!("tree-{id}"),
        size_limit_bytes: 1 << 30,
        uid: 1000,
        gid: 100,
        source_volume_id: None,
        owner: None,
        created_at_ms: 5,
        updated_at_ms: 5,
        version: 1,
    }
}

fn volume_snapshot(id: &str, volume_id: &str, at_ms: i64) -> VolumeSnapshotRecord {
    VolumeSnapshotRecord {
        id: id.into(),
        volume_id: volume_id.into(),
        name: None,
        description: Some("before".into()),
        tree_id: format!("tree-{id}"),
        size_bytes: 77,
        created_at_ms: at_ms,
    }
}

fn with_mount(id: &str, volume_id: &str, read_only: bool) -> SandboxRecord {
    let mut record = sandbox(id, "team", 1000);
    record.mounts = vec![Mount { volume_id: volume_id.into(), mount_point: "/v".into(), read_only }];
    record
}

async fn others(store: &Store) {
    store.user_insert(&user("other", "o@x"), &team("others", "other")).await.expect("another team");
}

#[tokio::test]
async fn snapshots_outlive_their_sandbox_and_belong_to_a_team() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    others(&store).await;
    let record = sandbox("sb-1", "team", 1000);
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    // Stored out of order and two at one moment: a list is by time, then by id.
    for (id, at) in [("c", 30), ("b", 20), ("a", 20)] {
        store.snapshot_insert(&snapshot(id, "sb-1", at)).await.expect("inserts");
    }
    assert!(matches!(store.snapshot_insert(&snapshot("a", "sb-1", 1)).await, Err(StoreError::Exists { .. })));
    store.snapshot_insert(&snapshot("z", "sb-2", 1)).await.expect("of another sandbox");
    store.sandbox_delete("sb-1", record.version).await.expect("deletes");
    drop(store);
    let store = fresh.open();
    let listed = store.snapshots_list("team", "sb-1").await.expect("lists");
    assert_eq!(listed, [snapshot("a", "sb-1", 20), snapshot("b", "sb-1", 20), snapshot("c", "sb-1", 30)]);
    assert_eq!(store.snapshot_get("team", "b").await.expect("reads"), Some(snapshot("b", "sb-1", 20)));
    assert_eq!(store.snapshot_get("others", "b").await.expect("reads"), None, "another team's does not exist");
    assert_eq!(store.snapshots_list("others", "sb-1").await.expect("lists"), []);
    assert!(matches!(store.snapshot_delete("others", "b").await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.snapshot_delete("team", "b").await.expect("deletes"), snapshot("b", "sb-1", 20).base, "says what it named");
    assert!(matches!(store.snapshot_delete("team", "b").await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn snapshots_expire_and_are_bounded() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    assert_eq!(store.next_snapshot_expiry().await.expect("reads"), None);
    for (id, expires) in [("a", Some(50)), ("b", Some(60)), ("c", None)] {
        store.snapshot_insert(&SnapshotRecord { expires_at_ms: expires, ..snapshot(id, "sb-1", 1) }).await.expect("inserts");
    }
    assert_eq!(store.next_snapshot_expiry().await.expect("reads"), Some(50));
    assert_eq!(store.snapshots_expire(49).await.expect("expires"), []);
    assert_eq!(store.snapshots_expire(50).await.expect("expires"), [snapshot("a", "sb-1", 1).base]);
    assert_eq!(store.next_snapshot_expiry().await.expect("reads"), Some(60));
    assert_eq!(store.snapshots_expire(i64::MAX).await.expect("expires"), [snapshot("b", "sb-1", 1).base], "one without an end stays");
    for n in 1..limits::SNAPSHOTS_PER_SANDBOX_MAX {
        store.snapshot_insert(&snapshot(&format!("n{n}"), "sb-1", 1)).await.expect("inserts");
    }
    let refused = store.snapshot_insert(&snapshot("more", "sb-1", 1)).await;
    assert!(matches!(refused, Err(StoreError::TooMany { max: limits::SNAPSHOTS_PER_SANDBOX_MAX, .. })), "{refused:?}");
    let asked = store.snapshot_check("team", "sb-1").await;
    assert!(matches!(asked, Err(StoreError::TooMany { max: limits::SNAPSHOTS_PER_SANDBOX_MAX, .. })), "and says so beforehand: {asked:?}");
    store.snapshot_check("team", "sb-2").await.expect("fits");
    store.snapshot_insert(&snapshot("elsewhere", "sb-2", 1)).await.expect("the limit is one sandbox's");
}

#[tokio::test]
async fn a_team_with_snapshots_or_volumes_is_not_deleted() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.snapshot_insert(&snapshot("s", "sb-gone", 1)).await.expect("inserts");
    store.volume_insert(&volume("vol-1", AccessMode::Rwo)).await.expect("inserts");
    limit(&store, Dimension::Volumes, 5).await;
    match store.team_delete("team").await {
        Err(StoreError::InUse { by, .. }) => assert_eq!(by, [("snapshots", 1), ("volumes", 1)]),
        other => panic!("{other:?}"),
    }
    store.snapshot_delete("team", "s").await.expect("deletes");
    store.volume_delete("team", "vol-1", false).await.expect("deletes");
    store.team_delete("team").await.expect("its quotas go with it");
    assert_eq!(store.quotas_all().await.expect("reads"), []);
}

#[tokio::test]
async fn volumes_come_back_and_belong_to_a_team() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    others(&store).await;
    let first = volume("vol-b", AccessMode::Rwx);
    store.volume_insert(&first).await.expect("inserts");
    store.volume_insert(&volume("vol-a", AccessMode::Rwo)).await.expect("inserts");
    assert!(matches!(store.volume_insert(&first).await, Err(StoreError::Exists { .. })));
    assert!(store.volume_insert(&VolumeRecord { id: "vol-c".into(), ..first.clone() }).await.is_err(), "a tree is one volume's");
    drop(store);
    let store = fresh.open();
    assert_eq!(store.volume_get("team", "vol-b").await.expect("reads"), Some(first.clone()));
    assert_eq!(store.volume_get("others", "vol-b").await.expect("reads"), None);
    let ids: Vec<String> = store.volumes_list("team").await.expect("lists").into_iter().map(|volume| volume.id).collect();
    assert_eq!(ids, ["vol-a", "vol-b"]);
    assert_eq!(store.volumes_list("others").await.expect("lists"), []);
    assert!(matches!(store.volume_delete("others", "vol-b", true).await, Err(StoreError::NotFound { .. })), "not even by force");
}

#[tokio::test]
async fn a_volume_snapshot_goes_with_its_volume() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    others(&store).await;
    assert!(matches!(store.volume_snapshot_insert(&volume_snapshot("s", "vol-1", 1)).await, Err(StoreError::NotFound { what: "volume", .. })));
    for id in ["vol-1", "vol-2"] {
        store.volume_insert(&volume(id, AccessMode::Rwo)).await.expect("inserts");
    }
    for (id, of) in [("s2", "vol-1"), ("s1", "vol-1"), ("s3", "vol-2")] {
        store.volume_snapshot_insert(&volume_snapshot(id, of, 7)).await.expect("inserts");
    }
    assert_eq!(store.volume_snapshots_list("vol-1").await.expect("lists"), [volume_snapshot("s1", "vol-1", 7), volume_snapshot("s2", "vol-1", 7)]);
    assert_eq!(store.volume_snapshot_get("team", "s3").await.expect("reads"), Some(volume_snapshot("s3", "vol-2", 7)));
    assert_eq!(store.volume_snapshot_get("others", "s3").await.expect("reads"), None);
    assert_eq!(store.volume_snapshot_delete("vol-2", "s1").await.expect("deletes"), None, "only by its own volume");
    assert_eq!(store.volume_snapshot_delete("vol-1", "s1").await.expect("deletes").as_deref(), Some("tree-s1"));
    assert_eq!(store.volume_snapshot_delete("vol-1", "s1").await.expect("deletes"), None, "twice is not an error");
    let mut trees = store.volume_delete("team", "vol-1", false).await.expect("deletes").trees;
    trees.sort();
    assert_eq!(trees, ["tree-s2", "tree-vol-1"], "says which trees nobody names any more");
    assert_eq!(store.volume_snapshot_get("team", "s2").await.expect("reads"), None);
    assert!(store.volume_get("team", "vol-2").await.expect("reads").is_some());
}

#[tokio::test]
async fn an_rwo_volume_has_one_sandbox_until_that_is_cleaned_or_deleted() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.volume_insert(&volume("vol-1", AccessMode::Rwo)).await.expect("inserts");
    let first = with_mount("sb-1", "vol-1", false);
    store.sandbox_insert(&first, &[]).await.expect("inserts");
    assert_eq!(store.sandbox_get(None, "sb-1").await.expect("reads"), Some(first.clone()), "with its mounts");
    let mounted = |result: Result<(), StoreError>| match result {
        Err(StoreError::Mounted { volume, by }) => assert_eq!((volume.as_str(), by.as_str()), ("vol-1", "sb-1")),
        other => panic!("{other:?}"),
    };
    mounted(store.sandbox_insert(&with_mount("sb-2", "vol-1", false), &[]).await);
    mounted(store.sandbox_insert(&with_mount("sb-2", "vol-1", true), &[]).await);
    assert_eq!(store.sandbox_get(None, "sb-2").await.expect("reads"), None, "what was refused left nothing");
    // A paused one still has it.
    let paused = lifecycle::pause(&first, reason::USER_REQUEST, "asked", 2000).expect("pauses").record;
    let version = store.sandbox_update(&paused, first.version, &[]).await.expect("updates");
    mounted(store.sandbox_insert(&with_mount("sb-2", "vol-1", false), &[]).await);
    mounted(store.volume_delete("team", "vol-1", false).await.map(|_| ()));
    mounted(store.volume_replace_tree("vol-1", 1, "tree-new", 9).await.map(|_| ()));
    // A cleaned one keeps nobody from it, but the volume is not deleted below it without force.
    let cleaned = SandboxRecord { observed: Observed::Cleaned, ..paused.clone() };
    let version = store.sandbox_update(&cleaned, version, &[]).await.expect("updates");
    let second = with_mount("sb-2", "vol-1", false);
    store.sandbox_insert(&second, &[]).await.expect("another may have it now");
    assert!(matches!(store.sandbox_update(&first, version, &[]).await, Err(StoreError::Mounted { .. })), "the first cannot have it back");
    let holders = store.volume_holders("vol-1").await.expect("reads");
    assert_eq!(holders.iter().map(|h| (h.sandbox_id.as_str(), h.holds)).collect::<Vec<_>>(), [("sb-1", false), ("sb-2", true)]);
    store.sandbox_delete("sb-2", second.version).await.expect("deletes");
    store.sandbox_update(&first, version, &[]).await.expect("the first has it again");
}

#[tokio::test]
async fn many_may_have_rox_and_rwx_volumes() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for (id, mode, read_only) in [("vol-x", AccessMode::Rox, true), ("vol-w", AccessMode::Rwx, false)] {
        store.volume_insert(&volume(id, mode)).await.expect("inserts");
        for n in 0..3 {
            store.sandbox_insert(&with_mount(&format!("sb-{id}-{n}"), id, read_only), &[]).await.expect("as many as like");
        }
        let holders = store.volume_holders(id).await.expect("reads");
        assert_eq!(holders.len(), 3);
        assert!(holders.iter().all(|holder| holder.holds && holder.read_only == read_only));
        assert!(matches!(store.volume_delete("team", id, false).await, Err(StoreError::Mounted { .. })));
    }
    let missing = store.sandbox_insert(&with_mount("sb-9", "vol-9", false), &[]).await;
    assert!(matches!(missing, Err(StoreError::NotFound { what: "volume", .. })), "{missing:?}");
    others(&store).await;
    let mut foreign = with_mount("sb-9", "vol-w", false);
    foreign.team_id = "others".into();
    assert!(matches!(store.sandbox_insert(&foreign, &[]).await, Err(StoreError::NotFound { what: "volume", .. })), "another team's does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_want_an_rwo_volume_one_has_it() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.volume_insert(&volume("vol-1", AccessMode::Rwo)).await.expect("inserts");
    let claims: Vec<_> = (0..16)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.sandbox_insert(&with_mount(&format!("sb-{n}"), "vol-1", false), &[]).await })
        })
        .collect();
    let mut won = 0;
    for claim in claims {
        match claim.await.expect("no panic") {
            Ok(()) => won += 1,
            Err(StoreError::Mounted { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn force_takes_a_volume_from_those_who_have_it() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.volume_insert(&volume("vol-1", AccessMode::Rwx)).await.expect("inserts");
    let record = with_mount("sb-1", "vol-1", false);
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    let deleted = store.volume_delete("team", "vol-1", true).await.expect("deletes");
    assert_eq!(deleted, DeletedVolume { trees: vec!["tree-vol-1".into()], holders: vec!["sb-1".into()] });
    assert_eq!(store.volume_holders("vol-1").await.expect("reads"), []);
    // Its row still says so until its actor has heard of it; writing that row is no error.
    let version = store.sandbox_update(&record, record.version, &[]).await.expect("updates");
    store.sandbox_update(&SandboxRecord { mounts: Vec::new(), ..record.clone() }, version, &[]).await.expect("updates");
    assert!(matches!(store.volume_delete("team", "vol-1", true).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn the_files_of_a_volume_are_replaced_once() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.volume_insert(&volume("vol-1", AccessMode::Rwo)).await.expect("inserts");
    let (one, two) = tokio::join!(store.volume_replace_tree("vol-1", 1, "tree-2", 9), store.volume_replace_tree("vol-1", 1, "tree-3", 9));
    assert_eq!(one.expect("the first wins"), "tree-vol-1", "says which tree nobody names any more");
    assert!(matches!(two, Err(StoreError::Stale { .. })), "{two:?}");
    let stored = store.volume_get("team", "vol-1").await.expect("reads").expect("is there");
    assert_eq!((stored.tree_id.as_str(), stored.version, stored.updated_at_ms), ("tree-2", 2, 9));
}

/// Between the look at a volume and the row of who was launched on its files, the volume may have got others.
#[tokio::test]
async fn nobody_keeps_files_that_a_volume_does_not_have_any_more() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.volume_insert(&volume("vol-1", AccessMode::Rwx)).await.expect("inserts");
    let on = |tree: &str| std::collections::HashMap::from([("vol-1".to_owned(), tree.to_owned())]);
    let first = with_mount("sb-1", "vol-1", false);
    store.volume_replace_tree("vol-1", 1, "tree-2", 9).await.expect("restores");
    let refused = store.sandbox_insert_on(&first, &[], on("tree-vol-1")).await;
    assert!(matches!(refused, Err(StoreError::Stale { what: "volume", .. })), "{refused:?}");
    store.sandbox_insert_on(&first, &[], on("tree-2")).await.expect("inserts");
    let cleaned = SandboxRecord { observed: Observed::Cleaned, ..first.clone() };
    let version = store.sandbox_update(&cleaned, first.version, &[]).await.expect("updates");
    store.volume_replace_tree("vol-1", 2, "tree-3", 9).await.expect("restores");
    let refused = store.sandbox_update_on(&first, version, &[], on("tree-2")).await;
    assert!(matches!(refused, Err(StoreError::Stale { what: "volume", .. })), "{refused:?}");
    store.sandbox_update_on(&first, version, &[], on("tree-3")).await.expect("updates");
}

#[tokio::test]
async fn everything_that_rows_name_is_named() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let mut record = sandbox("sb-1", "team", 1000);
    record.base = Some(base("sha256:1", &[("l-1", 3), ("l-2", 4)]));
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    store.sandbox_insert(&SandboxRecord { root_id: None, ..sandbox("sb-2", "team", 1000) }, &[]).await.expect("inserts");
    store.snapshot_insert(&snapshot("s", "sb-gone", 1)).await.expect("inserts");
    let template = TemplateRecord {
        id: "own".into(),
        team_id: Some("team".into()),
        user_id: None,
        spec: Default::default(),
        base: Some(base("sha256:2", &[("l-2", 4), ("l-3", 5)])),
        creation: None,
        created_at_ms: 1,
        updated_at_ms: 1,
        version: 1,
    };
    store.template_insert(&template).await.expect("inserts");
    store.volume_insert(&volume("vol-1", AccessMode::Rwo)).await.expect("inserts");
    store.volume_snapshot_insert(&volume_snapshot("vs", "vol-1", 1)).await.expect("inserts");
    let named = store.named().await.expect("reads");
    let sorted = |set: &std::collections::HashSet<String>| {
        let mut all: Vec<String> = set.iter().cloned().collect();
        all.sort();
        all
    };
    assert_eq!(sorted(&named.roots), ["l-1", "l-2", "l-3", "layer-s", "root-sb-1"]);
    assert_eq!(sorted(&named.images), ["host", "sha256:1", "sha256:2"]);
    assert_eq!(sorted(&named.trees), ["tree-vol-1", "tree-vs"]);
    let mut slots: Vec<u32> = named.slots.into_iter().collect();
    slots.sort_unstable();
    assert_eq!(slots, [3, 4, 5, 9]);
    assert_eq!(store.template_delete("team", "own").await.expect("deletes"), template.base, "says what it named");
    store.sandbox_delete("sb-1", record.version).await.expect("deletes");
    let named = store.named().await.expect("reads");
    assert_eq!((sorted(&named.roots), sorted(&named.images)), (vec!["layer-s".to_owned()], vec!["host".to_owned()]));
}

async fn limit(store: &Store, dimension: Dimension, limit: u64) {
    let quota = QuotaRecord { team_id: "team".into(), dimension, limit, interval_ms: None, burst: None };
    store.quota_put(&quota, 1).await.expect("sets");
}

fn exceeded(result: Result<(), StoreError>) -> (Dimension, u64, u64, u64) {
    match result {
        Err(StoreError::Quota(e)) => (e.dimension, e.limit, e.used, e.asked),
        other => panic!("not refused for a quota: {other:?}"),
    }
}

#[tokio::test]
async fn quotas_are_held_in_the_write_that_would_break_them() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    others(&store).await;
    let one = sandbox("sb-1", "team", 1000);
    store.sandbox_insert(&one, &[]).await.expect("without a quota all fits");
    let used = store.team_use("team").await.expect("reads");
    assert_eq!((used.active_sandboxes, used.paused_sandboxes, used.memory_bytes), (1, 0, limits::MEMORY_DEFAULT_BYTES));
    assert_eq!((used.cpu_millis, used.disk_bytes), (limits::CPU_DEFAULT_MILLIS, limits::DISK_DEFAULT_BYTES));

    let two = sandbox("sb-2", "team", 1000);
    for (dimension, per_sandbox) in [
        (Dimension::ActiveSandboxes, 1),
        (Dimension::MemoryBytes, limits::MEMORY_DEFAULT_BYTES),
        (Dimension::CpuMillis, limits::CPU_DEFAULT_MILLIS),
        (Dimension::DiskBytes, limits::DISK_DEFAULT_BYTES),
    ] {
        limit(&store, dimension, 2 * per_sandbox - 1).await;
        assert_eq!(exceeded(store.sandbox_insert(&two, &[]).await), (dimension, 2 * per_sandbox - 1, per_sandbox, per_sandbox));
        store.quota_delete("team", dimension).await.expect("lifts");
        store.quota_delete("team", dimension).await.expect("lifting twice is no error");
    }
    limit(&store, Dimension::ActiveSandboxes, 1).await;
    store.sandbox_insert(&sandbox("sb-x", "others", 1), &[]).await.expect("a quota is one team's");
    // Paused ones are counted as paused and not as active; their disk counts all the same.
    let paused = lifecycle::observe(&lifecycle::pause(&one, reason::USER_REQUEST, "asked", 2000).expect("pauses").record, Observation::Frozen, 2000).record;
    store.sandbox_update(&paused, one.version, &[]).await.expect("updates");
    let used = store.team_use("team").await.expect("reads");
    assert_eq!((used.active_sandboxes, used.paused_sandboxes, used.memory_bytes, used.disk_bytes), (0, 1, 0, limits::DISK_DEFAULT_BYTES));
    store.sandbox_insert(&two, &[]).await.expect("there is room again");

    // Nor can one that is paused run again beyond it; whatever runs can be paused, changed and shrunk.
    let version = store.sandbox_get(None, "sb-1").await.expect("reads").expect("is there").version;
    let awake = SandboxRecord { version, ..one.clone() };
    assert_eq!(exceeded(store.sandbox_update(&awake, version, &[]).await.map(drop)), (Dimension::ActiveSandboxes, 1, 1, 1));
    limit(&store, Dimension::ActiveSandboxes, 0).await;
    let changed = SandboxRecord { reason: Some("changed".into()), ..two.clone() };
    let seen = store.sandbox_update(&changed, two.version, &[]).await.expect("what runs goes on, however low the quota is set");
    // Nor can it get more memory than there is left.
    limit(&store, Dimension::MemoryBytes, limits::MEMORY_DEFAULT_BYTES + (1 << 20)).await;
    let larger = |memory: &str| {
        let config = serde_json::from_value(serde_json::json!({ "resources": { "memory": memory } })).expect("a config");
        SandboxRecord { config, ..two.clone() }
    };
    assert_eq!(exceeded(store.sandbox_update(&larger("2Gi"), seen, &[]).await.map(drop)), (Dimension::MemoryBytes, (1 << 30) + (1 << 20), 1 << 30, 1 << 30));
    store.sandbox_update(&larger("1025Mi"), seen, &[]).await.expect("fits");
    limit(&store, Dimension::ActiveSandboxes, 1).await;
    store.quota_delete("team", Dimension::MemoryBytes).await.expect("lifts");

    limit(&store, Dimension::Volumes, 1).await;
    store.volume_insert(&volume("vol-1", AccessMode::Rwo)).await.expect("fits");
    assert_eq!(exceeded(store.volume_insert(&volume("vol-2", AccessMode::Rwo)).await), (Dimension::Volumes, 1, 1, 1));
    limit(&store, Dimension::Snapshots, 0).await;
    assert_eq!(exceeded(store.snapshot_insert(&snapshot("s", "sb-1", 1)).await), (Dimension::Snapshots, 0, 0, 1));
    drop(store);
    let store = fresh.open();
    let mut kept: Vec<_> = store.quotas_all().await.expect("reads").into_iter().map(|quota| (quota.dimension, quota.limit)).collect();
    kept.sort();
    assert_eq!(kept, [(Dimension::ActiveSandboxes, 1), (Dimension::Volumes, 1), (Dimension::Snapshots, 0)], "after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_no_more_than_the_quota_are_stored() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    limit(&store, Dimension::ActiveSandboxes, 3).await;
    let claims: Vec<_> = (0..16)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.sandbox_insert(&sandbox(&format!("sb-{n}"), "team", 1), &[]).await.is_ok() })
        })
        .collect();
    let mut stored = 0;
    for claim in claims {
        stored += usize::from(claim.await.expect("no panic"));
    }
    assert_eq!(stored, 3);
}

fn add(at_ms: i64, subject: &str, kind: &'static str, value: i64) -> UsageAdd {
    UsageAdd { team_id: "team".into(), window_start_ms: at_ms, subject_type: "sandbox", subject_id: subject.into(), window_type: kind, value }
}

#[tokio::test]
async fn usage_adds_up_pages_and_outlives_sandboxes() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for value in [5, 7] {
        store.usage_add(vec![add(0, "sb-1", "sandbox.cpu_time", value), add(0, "sb-1", "sandbox.egress", 1)], Vec::new(), value).await.expect("adds");
    }
    store.usage_add(vec![add(0, "sb-0", "sandbox.cpu_time", 1), add(3_600_000, "sb-1", "sandbox.cpu_time", 2)], Vec::new(), 9).await.expect("adds");
    drop(store);
    let store = fresh.open();
    let all = store.usage_list("team", None, None, 100).await.expect("lists");
    let seen: Vec<_> = all.iter().map(|sum| (sum.window_start_ms, sum.subject_id.as_str(), sum.window_type.as_str(), sum.value)).collect();
    let want =
        [(0, "sb-0", "sandbox.cpu_time", 1), (0, "sb-1", "sandbox.cpu_time", 12), (0, "sb-1", "sandbox.egress", 2), (3_600_000, "sb-1", "sandbox.cpu_time", 2)];
    assert_eq!(seen, want);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.usage_list("team", after, None, 1).await.expect("lists");
        let Some(last) = page.last() else { break };
        after = Some((last.window_start_ms, last.subject_type.clone(), last.subject_id.clone(), last.window_type.clone()));
        paged.extend(page);
    }
    assert_eq!(paged, all, "one by one: nothing twice, nothing left out");
    let egress = store.usage_list("team", None, Some("sandbox.egress".into()), 100).await.expect("lists");
    assert_eq!(egress.len(), 1);
    assert_eq!(store.usage_list("others", None, None, 100).await.expect("lists"), []);
}

#[tokio::test]
async fn samples_belong_to_sandboxes_that_exist_and_thin_out() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let record = sandbox("sb-1", "team", 1000);
    store.sandbox_insert(&record, &[]).await.expect("inserts");
    let sample = |at_ms| Sample {
        at_ms,
        runtime_id: "rt".into(),
        cpu_usec: 1,
        cpu_limit_millis: 0,
        memory_bytes: 2,
        working_set_bytes: 2,
        memory_limit_bytes: 3,
        processes: 1,
        disk_bytes: 0,
        inodes: 0,
        sent_bytes: 0,
        received_bytes: 0,
        network_errors: 0,
    };
    let day = 86_400_000;
    let at = [0, 10, day, day + 10, day + 20, day + 100, day + 105, 2 * day];
    let mut samples: Vec<(String, Sample)> = at.iter().map(|at| ("sb-1".to_owned(), sample(*at))).collect();
    samples.push(("sb-gone".into(), sample(1)));
    store.usage_add(Vec::new(), samples, 1).await.expect("adds");
    assert_eq!(store.samples("sb-gone", 0, i64::MAX, 100).await.expect("reads"), []);
    assert_eq!(store.newest_sample("sb-1").await.expect("reads"), Some(sample(2 * day)));
    assert_eq!(store.samples("sb-1", 10, day + 10, 100).await.expect("reads").len(), 2, "the end is not in the range");
    // Those of the first day go; of the second day the first of each hundred milliseconds stays.
    store.samples_prune(day, 2 * day, 100).await.expect("prunes");
    let left: Vec<i64> = store.samples("sb-1", 0, i64::MAX, 100).await.expect("reads").into_iter().map(|sample| sample.at_ms).collect();
    assert_eq!(left, [day, day + 100, 2 * day]);
    store.sandbox_delete("sb-1", record.version).await.expect("deletes");
    assert_eq!(store.newest_sample("sb-1").await.expect("reads"), None, "samples go with their sandbox");
}

#[tokio::test]
async fn calls_that_nobody_waits_for_are_few_and_end_with_their_sandbox() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for id in ["sb-1", "sb-2"] {
        store.sandbox_insert(&sandbox(id, "team", 1), &[]).await.expect("inserts");
    }
    let begin = async |id: &str, at_ms: i64| store.invocation_insert(id, "sb-1", "f", at_ms).await;
    let finish = async |id: &str, status, at_ms: i64| store.invocation_finish(id, status, format!("{{\"of\":\"{id}\"}}"), at_ms).await.expect("finishes");
    begin("a", 10).await.expect("begins");
    assert!(matches!(store.invocation_insert("b", "sb-none", "f", 10).await, Err(StoreError::NotFound { .. })));
    let running = store.invocation_get("sb-1", "f", "a").await.expect("reads").expect("is there");
    assert_eq!((running.status, running.finished_at_ms, running.result), (InvocationStatus::Running, None, None));
    finish("a", InvocationStatus::Succeeded, 20).await;
    // What ended once stays as it is.
    finish("a", InvocationStatus::Failed, 30).await;
    let done = store.invocation_get("sb-1", "f", "a").await.expect("reads").expect("is there");
    assert_eq!((done.status, done.finished_at_ms, done.result.as_deref()), (InvocationStatus::Succeeded, Some(20), Some("{\"of\":\"a\"}")));
    for (sandbox_id, function) in [("sb-2", "f"), ("sb-1", "g")] {
        assert_eq!(store.invocation_get(sandbox_id, function, "a").await.expect("reads"), None, "{sandbox_id} {function}");
    }
    // The newest are kept, and those that run whatever their age.
    begin("long", 11).await.expect("begins");
    for n in 0..limits::INVOCATIONS_PER_SANDBOX_MAX as i64 + 5 {
        let id = format!("n{n:03}");
        begin(&id, 100 + n).await.expect("begins");
        finish(&id, InvocationStatus::Failed, 100 + n).await;
    }
    let listed = store.invocations_list("sb-1", "f").await.expect("lists");
    assert!(listed.len() <= limits::INVOCATIONS_PER_SANDBOX_MAX + 1, "{}", listed.len());
    assert_eq!((listed[0].id.as_str(), listed.last().map(|last| last.id.as_str()), &listed[0].result), ("n104", Some("long"), &None));
    // A day later the rest goes.
    begin("later", limits::INVOCATION_KEPT_MS + 1000).await.expect("begins");
    let kept: Vec<String> = store.invocations_list("sb-1", "f").await.expect("lists").into_iter().map(|call| call.id).collect();
    assert_eq!(kept, ["later", "long"]);
    for n in 2..limits::INVOCATIONS_RUNNING_MAX {
        begin(&format!("r{n}"), 2000).await.expect("begins");
    }
    assert!(matches!(begin("one-more", 2000).await, Err(StoreError::TooMany { .. })));
    store.invocation_insert("other", "sb-2", "f", 5).await.expect("another sandbox has its own limit");
    // A team's results have a bound of bytes, and each has its time.
    assert_eq!(store.invocations_prune(0, 1 << 20, 10).await.expect("prunes"), 0);
    store.invocation_insert("old", "sb-2", "f", 1).await.expect("begins");
    store.invocation_finish("old", InvocationStatus::Failed, "12345".into(), 2).await.expect("finishes");
    store.invocation_finish("later", InvocationStatus::Failed, "12345".into(), 2).await.expect("finishes");
    assert_eq!(store.invocations_prune(0, 9, 10).await.expect("prunes"), 1);
    assert_eq!(store.invocation_get("sb-2", "f", "old").await.expect("reads"), None, "the oldest goes first");
    assert!(store.invocation_get("sb-1", "f", "later").await.expect("reads").is_some());
    store.invocation_insert("large", "sb-2", "f", 1).await.expect("begins");
    store.invocation_finish("large", InvocationStatus::Succeeded, "x".repeat(1 << 20), 2).await.expect("finishes");
    assert!(store.invocation_get("sb-1", "f", "later").await.expect("reads").is_some(), "there is room for both");
    assert_eq!(store.invocations_prune(0, 9, 10).await.expect("prunes"), 1);
    assert_eq!(store.invocations_prune(i64::MAX, 1 << 20, 10).await.expect("prunes"), 1, "those that run stay");
    // What a server that was killed left behind.
    drop(store);
    let store = fresh.open();
    assert_eq!(store.invocations_interrupt("{}", 3000).await.expect("interrupts"), limits::INVOCATIONS_RUNNING_MAX);
    let other = store.invocation_get("sb-2", "f", "other").await.expect("reads").expect("is there");
    assert_eq!((other.status, other.finished_at_ms), (InvocationStatus::Failed, Some(3000)));
    let record = store.sandbox_get(None, "sb-1").await.expect("reads").expect("is there");
    store.sandbox_delete("sb-1", record.version).await.expect("deletes");
    assert_eq!(store.invocations_list("sb-1", "f").await.expect("lists"), []);
}
