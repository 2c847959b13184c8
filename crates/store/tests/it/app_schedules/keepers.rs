//! Who keeps a schedule, and what becomes of it when that is changed.

use sandbar_core::{
    app::{
        RunStatus,
        manifest::Schedule,
        schedule::{Keeper, Lifecycle},
    },
    limits::app_schedules as limits,
};
use sandbar_store::{AppScheduleRecord, NewAppRun, StoreError, fresh_schedule, resumed_schedule, retimed_schedule};
use serde_json::{Value, json};

use super::{World, deployed, ms, spec, try_deploy};

const NOW: &str = "2026-06-01T12:10:00Z";
const LATER: &str = "2026-06-01T12:40:00Z";

fn named(name: &str, more: &Value) -> Value {
    let mut whole = json!({ "name": name, "enabled": true, "target": { "kind": "action", "name": "a" }, "runtimePolicy": "run_and_delete" });
    whole.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    whole
}

async fn all(world: &World) -> Vec<AppScheduleRecord> {
    world.store.app_schedules_list(&world.app.id).await.expect("lists")
}

async fn one(world: &World, name: &str) -> AppScheduleRecord {
    all(world).await.into_iter().find(|schedule| schedule.name == name).expect("is there")
}

#[tokio::test]
async fn a_deploy_makes_schedules_what_the_manifest_says() {
    let world = World::at(NOW).await;
    let hourly = json!({ "cron": "0 * * * *" });
    world.schedule(&hourly).await;
    deployed(&world.store, ms(NOW), &json!([named("a", &hourly), named("b", &json!({ "rate": "1 hour" }))])).await;
    let (a, b) = (one(&world, "a").await, one(&world, "b").await);
    assert_eq!((a.keeper, b.keeper, one(&world, "s").await.keeper), (Keeper::Manifest, Keeper::Manifest, Keeper::Api));

    // The same stays; another time begins now; the one that is not named goes; the one of a client is none of the manifest's business.
    deployed(&world.store, ms(LATER), &json!([named("a", &hourly), named("b", &json!({ "rate": "2 hours" })), named("c", &hourly)])).await;
    assert_eq!(one(&world, "a").await, a);
    assert_eq!(one(&world, "b").await.next_tick_ms, Some(ms("2026-06-01T14:40:00Z")));
    deployed(&world.store, ms(LATER), &json!([named("b", &json!({ "rate": "2 hours" }))])).await;
    let left: Vec<_> = all(&world).await.iter().map(|schedule| (schedule.name.clone(), schedule.keeper)).collect();
    assert_eq!(left, [("b".to_owned(), Keeper::Manifest), ("s".to_owned(), Keeper::Api)]);
    let gone = world.store.app_schedule_get(&a.id).await.expect("reads").expect("is kept for what it ran");
    assert_eq!((gone.lifecycle, gone.due_at_ms), (Lifecycle::Deleted, None));
}

#[tokio::test]
async fn a_manifest_that_names_what_a_client_keeps_is_not_made_live() {
    let world = World::at(NOW).await;
    let hourly = json!({ "cron": "0 * * * *" });
    let s = world.schedule(&hourly).await;
    let live = world.store.app_get(&world.app.id).await.expect("reads").expect("is there").live_version;
    let wanted = json!([named("a", &hourly), named("s", &hourly)]);
    let Err(StoreError::Unfit(why)) = try_deploy(&world.store, ms(NOW), &wanted).await else { panic!("the name was taken") };
    assert!(why.starts_with("$.schedules[1].name: ") && why.contains("delete that one first"), "{why}");
    assert_eq!(all(&world).await, std::slice::from_ref(&s), "nothing of it is written");
    assert_eq!(world.store.app_get(&world.app.id).await.expect("reads").expect("is there").live_version, live);
    let number = live.expect("a version") + 1;
    world.store.app_version_failed(&world.app.id, number, &why, ms(NOW)).await.expect("writes");
    world.store.app_schedule_update(AppScheduleRecord { lifecycle: Lifecycle::Deleted, ..s }).await.expect("deletes");
    deployed(&world.store, ms(NOW), &wanted).await;
    assert_eq!(one(&world, "s").await.keeper, Keeper::Manifest);
}

#[tokio::test]
async fn the_newest_run_of_a_schedule_is_told() {
    let mut world = World::at("2026-06-01T11:50:00Z").await;
    world.schedule(&json!({ "cron": "0 * * * *", "concurrencyPolicy": "allow" })).await;
    let last = async |world: &World| {
        let all = world.store.app_schedules_last_runs(&world.app.id).await.expect("reads");
        all.get("s").map(|last| (last.run_id.clone(), last.status, last.created_at_ms))
    };
    assert_eq!(last(&world).await, None);
    world.run_until("2026-06-01T13:00:00Z").await;
    let at = ms("2026-06-01T13:00:00Z");
    assert_eq!(last(&world).await, Some((format!("s.{at}"), RunStatus::Succeeded, at)));
    // One of now is one of them.
    let now = NewAppRun { id: "now".into(), schedule_id: Some("s".into()), created_at_ms: at + 5, ..world.order() };
    world.store.app_run_insert(now).await.expect("inserts");
    world.store.app_run_insert(NewAppRun { id: "other".into(), created_at_ms: at + 9, ..world.order() }).await.expect("inserts");
    assert_eq!(last(&world).await, Some(("now".into(), RunStatus::Queued, at + 5)));
    assert_eq!(world.find().await.execution_count, 2);
}

#[tokio::test]
async fn what_was_stopped_stays_so_until_it_is_resumed() {
    let world = World::at(NOW).await;
    deployed(&world.store, ms(NOW), &json!([named("a", &json!({ "cron": "0 * * * *" }))])).await;
    let a = one(&world, "a").await;
    let reason = Some("it was stopped by a request".to_owned());
    let stopped = AppScheduleRecord { lifecycle: Lifecycle::Stopped, lifecycle_reason: reason.clone(), ..a };
    world.store.app_schedule_update(stopped).await.expect("stops");
    for changed in [
        json!({ "cron": "0 * * * *", "jitterSeconds": 5 }),
        json!({ "cron": "30 * * * *" }),
        json!({ "cron": "30 * * * *", "enabled": false }),
        json!({ "cron": "30 * * * *", "enabled": true }),
    ] {
        deployed(&world.store, ms(LATER), &json!([named("a", &changed)])).await;
        let a = one(&world, "a").await;
        assert_eq!((a.lifecycle, &a.lifecycle_reason, a.next_tick_ms, a.due_at_ms), (Lifecycle::Stopped, &reason, None, None), "{changed}");
    }
    // A clock that is set back wakes none either.
    world.store.app_schedules_rewind(ms(NOW)).await.expect("rewinds");
    let a = one(&world, "a").await;
    assert_eq!(a.lifecycle, Lifecycle::Stopped);
    let resumed = resumed_schedule(a, ms(LATER)).expect("resumes");
    let resumed = world.store.app_schedule_update(resumed).await.expect("writes");
    assert_eq!((resumed.lifecycle, resumed.lifecycle_reason, resumed.next_tick_ms), (Lifecycle::Active, None, Some(ms("2026-06-01T13:30:00Z"))));
}

#[tokio::test]
async fn a_moment_that_has_passed_is_kept_by_a_deploy_as_expired() {
    let world = World::at(NOW).await;
    let past = json!({ "once": "2026-06-01T09:00:00Z" });
    deployed(&world.store, ms(NOW), &json!([named("past", &past), named("over", &json!({ "cron": "0 * * * *", "endAt": "2026-06-01T12:00:00Z" }))])).await;
    for (name, why) in [("past", "once: has passed"), ("over", "endAt: has passed")] {
        let found = one(&world, name).await;
        assert_eq!((found.lifecycle, found.due_at_ms), (Lifecycle::Expired, None), "{name}");
        assert!(found.lifecycle_reason.as_deref().expect("why").contains(why), "{found:?}");
    }
    // One that fired is completed, and no other command brings its moment back.
    let mut world = World::at("2026-06-01T08:00:00Z").await;
    world.schedule(&past).await;
    world.run_until("2026-06-01T09:00:00Z").await;
    let fired = world.find().await;
    assert_eq!((fired.lifecycle, fired.execution_count), (Lifecycle::Completed, 1));
    let other: Schedule = spec(&json!({ "once": "2026-06-01T09:00:00Z", "target": { "kind": "command", "command": "true" } }));
    assert_eq!(retimed_schedule(fired.clone(), other, ms(NOW)).expect("changes").lifecycle, Lifecycle::Completed);
    let again = retimed_schedule(fired, spec(&json!({ "once": "2026-06-01T15:00:00Z" })), ms(NOW)).expect("changes");
    assert_eq!((again.lifecycle, again.next_tick_ms), (Lifecycle::Active, Some(ms("2026-06-01T15:00:00Z"))));
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let world = World::at(NOW).await;
    let hourly = json!({ "cron": "0 * * * *" });
    let s = world.schedule(&hourly).await;
    let other = fresh_schedule("t".into(), "team", &world.app.id, Keeper::Api, spec(&named("t", &hourly)), ms(NOW)).expect("is one");
    world.store.app_schedule_insert(other.clone()).await.expect("inserts");
    let again = AppScheduleRecord { id: "u".into(), ..other };
    assert!(matches!(world.store.app_schedule_insert(again).await, Err(StoreError::Exists { .. })));
    let renamed = AppScheduleRecord { name: "t".into(), ..s.clone() };
    assert!(matches!(world.store.app_schedule_update(renamed).await, Err(StoreError::Exists { .. })), "another has the name");
    let renamed = world.store.app_schedule_update(AppScheduleRecord { name: "v".into(), ..s.clone() }).await.expect("is free");
    assert!(matches!(world.store.app_schedule_update(s).await, Err(StoreError::Stale { .. })), "it was changed meanwhile");
    assert_eq!(renamed.name, "v");
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_stops_no_other() {
    let world = World::at("2026-06-01T11:50:00Z").await;
    let hourly = json!({ "cron": "0 * * * *" });
    world.schedule(&hourly).await;
    let other = fresh_schedule("t".into(), "team", &world.app.id, Keeper::Api, spec(&named("t", &hourly)), world.now_ms).expect("is one");
    world.store.app_schedule_insert(AppScheduleRecord { spec: None, ..other.clone() }).await.expect_err("there is nothing to store");
    world.store.app_schedule_insert(other).await.expect("inserts");
    {
        let db = rusqlite::Connection::open(world.fresh.path()).expect("opens");
        db.execute("UPDATE app_schedule SET spec = '{\"name\":' WHERE id = 't'", []).expect("writes");
    }
    let (due, _) = world.store.app_schedules_due(ms(NOW), 10).await.expect("reads");
    assert_eq!(due.len(), 2);
    for schedule in due {
        let id = schedule.id.clone();
        match world.store.app_schedule_step(schedule, Ok(world.order()), ms(NOW)).await {
            Ok(stepped) => assert_eq!((id.as_str(), stepped.fired), ("s", 1)),
            Err(StoreError::Unfit(reason)) => {
                assert_eq!(id, "t");
                world.store.app_schedule_failed(&id, &reason, ms(NOW)).await.expect("ends");
            }
            Err(error) => panic!("{error}"),
        }
    }
    let t = one(&world, "t").await;
    assert_eq!((t.lifecycle, t.spec.clone(), t.due_at_ms), (Lifecycle::Failed, None, None));
    assert!(t.lifecycle_reason.as_deref().expect("why").contains("cannot be read"), "{t:?}");
    assert_eq!(world.store.app_schedules_due(ms(NOW), 10).await.expect("reads").0, [], "it is not looked at again");
    assert!(resumed_schedule(t.clone(), ms(NOW)).is_err());
    // It can be taken away, and then a manifest may have its name.
    world.store.app_schedule_update(AppScheduleRecord { lifecycle: Lifecycle::Deleted, ..t }).await.expect("deletes");
    deployed(&world.store, ms(NOW), &json!([named("t", &hourly)])).await;
    assert_eq!(one(&world, "t").await.lifecycle, Lifecycle::Active);
}

#[tokio::test]
async fn so_many_schedules_and_ticks_are_kept() {
    let mut world = World::at("2026-06-01T00:00:00Z").await;
    let hourly = json!({ "cron": "0 * * * *" });
    world.schedule(&hourly).await;
    world.run_until("2026-06-01T03:00:00Z").await;
    for n in 1..limits::APP_SCHEDULES_PER_APP_MAX {
        let more = fresh_schedule(format!("s{n}"), "team", &world.app.id, Keeper::Api, spec(&named(&format!("s{n}"), &hourly)), world.now_ms).expect("is one");
        world.store.app_schedule_insert(more).await.expect("inserts");
    }
    let more = fresh_schedule("more".into(), "team", &world.app.id, Keeper::Api, spec(&named("more", &hourly)), world.now_ms).expect("is one");
    assert!(matches!(world.store.app_schedule_insert(more).await, Err(StoreError::TooMany { .. })));
    assert_eq!(world.ticks("UTC").await.len(), 3);
    assert_eq!(world.store.app_schedules_prune(100).await.expect("prunes"), 0);
    {
        // As if it had come for long.
        let db = rusqlite::Connection::open(world.fresh.path()).expect("opens");
        let sql = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
            INSERT INTO app_tick (schedule_id, tick_ms, outcome, first_tick_ms, count, decided_at_ms) SELECT 's', n, 'skipped', n, 1, n FROM n";
        db.execute(sql, [limits::APP_TICKS_KEPT_MAX]).expect("writes");
    }
    assert_eq!(world.store.app_schedules_prune(2).await.expect("prunes"), 2, "in steps");
    assert_eq!(world.store.app_schedules_prune(100).await.expect("prunes"), 1);
    assert_eq!(world.store.app_schedules_prune(100).await.expect("prunes"), 0);
    assert_eq!(world.ticks("UTC").await.last().expect("is kept"), "+06-01T03:00:00+00:00");
}
