//! Runs of one schedule beside one another, and beside those of a group.

use sandbar_core::app::{
    RunStatus,
    run::{AtOnce, Group, GroupPolicy, RunCause},
};
use sandbar_store::{AppRunFilter, NewAppRun};
use serde_json::json;

use super::{World, ms};

/// The schedule's runs that run, and those that wait, by the minute of their ticks.
async fn runs(world: &World) -> (Vec<i64>, Vec<i64>) {
    let minutes = async |status| {
        let filter = AppRunFilter { schedule_id: Some("s".into()), status: Some(status), limit: 100, ..AppRunFilter::default() };
        let found = world.store.app_runs_list("team", filter).await.expect("lists");
        let mut minutes: Vec<_> = found.iter().filter_map(|run| Some(run.tick_ms? / 60_000 % 60)).collect();
        minutes.sort_unstable();
        minutes
    };
    (minutes(RunStatus::Running).await, minutes(RunStatus::Queued).await)
}

#[tokio::test]
async fn what_happens_while_a_run_goes_on() {
    let table = [
        ("skip", (vec![1], vec![]), 1),
        ("queue", (vec![1], vec![2, 3]), 3),
        ("allow", (vec![1, 2, 3], vec![]), 3),
        // The ones before are to end, and none begins before they have.
        ("replace", (vec![1], vec![2, 3]), 3),
    ];
    for (policy, expected, fired) in table {
        let mut world = World::at("2026-06-01T12:00:30Z").await;
        world.runs_end = false;
        world.schedule(&json!({ "cron": "* * * * *", "concurrencyPolicy": policy })).await;
        for minute in 1..=3 {
            world.now_ms = ms(&format!("2026-06-01T12:0{minute}:00Z"));
            world.look().await;
            world.store.app_runs_claim(AtOnce::of(64), world.now_ms).await.expect("claims");
        }
        assert_eq!(runs(&world).await, expected, "{policy}");
        assert_eq!(world.find().await.execution_count, fired, "{policy}");
        let cancelled = world.store.app_runs_to_cancel().await.expect("reads").len() + world.store.app_runs_unwanted(10).await.expect("reads").len();
        assert_eq!(cancelled, if policy == "replace" { 2 } else { 0 }, "{policy}");
    }
}

#[tokio::test]
async fn a_group_of_the_action_and_the_policy_of_the_schedule_both_hold() {
    // Three at once of the action, and of the schedule one after the other.
    let mut world = World::at("2026-06-01T12:00:30Z").await;
    world.runs_end = false;
    let group = Group { name: "action:a".into(), max: 3, policy: GroupPolicy::Queue };
    world.group = Some(group.clone());
    world.schedule(&json!({ "cron": "* * * * *", "concurrencyPolicy": "queue" })).await;
    let by_hand = |id: &str| NewAppRun { id: id.into(), cause: RunCause::Api, ..world.order() };
    let (first, second) = (by_hand("x"), by_hand("y"));
    for minute in 1..=3 {
        world.now_ms = ms(&format!("2026-06-01T12:0{minute}:00Z"));
        world.look().await;
    }
    let claim = async |world: &World| -> Vec<String> {
        world
            .store
            .app_runs_claim(AtOnce::of(64), world.now_ms)
            .await
            .expect("claims")
            .into_iter()
            .map(|run| run.tick_ms.map_or(run.id, |ms| (ms / 60_000 % 60).to_string()))
            .collect()
    };
    assert_eq!(claim(&world).await, ["1"], "the others of the schedule wait, though the group has room");
    // Who is not of the schedule does not wait behind them.
    for run in [first, second] {
        world.store.app_run_insert(run).await.expect("inserts");
    }
    let begun = claim(&world).await;
    assert_eq!(begun, ["x", "y"]);
    assert!(claim(&world).await.is_empty());
    // The schedule's turn has come, and the group is full: one of both is not enough.
    let tick = |minute: i64| format!("s.{}", ms("2026-06-01T12:00:00Z") + minute * 60_000);
    world.end(&tick(1), RunStatus::Running).await;
    assert_eq!(claim(&world).await, ["2"]);
    world.store.app_run_insert(NewAppRun { id: "z".into(), cause: RunCause::Api, ..world.order() }).await.expect("inserts");
    assert!(claim(&world).await.is_empty(), "the group is full, and the schedule's next one has no turn");
    world.end("x", RunStatus::Running).await;
    assert_eq!(claim(&world).await, ["z"], "a free place in the group is for whoever may run");
    world.end(&tick(2), RunStatus::Running).await;
    assert_eq!(claim(&world).await, ["3"]);
}

#[tokio::test]
async fn the_group_of_an_action_may_skip_what_its_schedule_would_run() {
    let mut world = World::at("2026-06-01T12:00:30Z").await;
    world.runs_end = false;
    world.group = Some(Group { name: "action:a".into(), max: 1, policy: GroupPolicy::Skip });
    world.schedule(&json!({ "cron": "* * * * *", "concurrencyPolicy": "queue" })).await;
    for minute in 1..=2 {
        world.now_ms = ms(&format!("2026-06-01T12:0{minute}:00Z"));
        world.look().await;
        world.store.app_runs_claim(AtOnce::of(64), world.now_ms).await.expect("claims");
    }
    let unwanted = world.store.app_runs_unwanted(10).await.expect("reads");
    assert_eq!(unwanted.iter().map(|run| run.doc.known.skipped).collect::<Vec<_>>(), [true], "its run ends as skipped by its group");
}
