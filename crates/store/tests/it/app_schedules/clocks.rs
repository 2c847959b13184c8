//! Clocks that are set, clocks on walls that are moved, and a server that was away.

use sandbar_core::app::schedule::Lifecycle;
use serde_json::json;

use super::{World, ms};

const BERLIN: &str = "Europe/Berlin";
const YORK: &str = "America/New_York";

#[tokio::test]
async fn where_clocks_on_walls_are_moved() {
    // Berlin, 29 March 2026: from 02:00 to 03:00, and 25 October from 03:00 back to 02:00. New York, 8 March: from 02:00 to 03:00, and
    // 1 November from 02:00 back to 01:00.
    let cron = |pattern: &str, zone: &str| json!({ "cron": pattern, "timezone": zone });
    let table = [
        // A time that the clock leaves out is the first moment after it; one that comes twice is one.
        (cron("30 2 * * *", BERLIN), BERLIN, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", vec!["03-29T03:00:00+02:00", "03-30T02:30:00+02:00"]),
        (cron("30 2 * * *", BERLIN), BERLIN, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z", vec!["10-25T02:30:00+02:00", "10-26T02:30:00+01:00"]),
        (cron("30 2 * * *", YORK), YORK, "2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z", vec!["03-08T03:00:00-04:00", "03-09T02:30:00-04:00"]),
        (cron("30 2 * * *", YORK), YORK, "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z", vec!["11-01T02:30:00-05:00", "11-02T02:30:00-05:00"]),
        (cron("30 1 * * *", YORK), YORK, "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z", vec!["11-01T01:30:00-04:00", "11-02T01:30:00-05:00"]),
        // Hours and quarters are those that pass.
        (
            cron("0 * * * *", BERLIN),
            BERLIN,
            "2026-03-28T23:30:00Z",
            "2026-03-29T02:30:00Z",
            vec!["03-29T01:00:00+01:00", "03-29T03:00:00+02:00", "03-29T04:00:00+02:00"],
        ),
        (
            cron("@hourly", BERLIN),
            BERLIN,
            "2026-10-24T23:30:00Z",
            "2026-10-25T02:30:00Z",
            vec!["10-25T02:00:00+02:00", "10-25T02:00:00+01:00", "10-25T03:00:00+01:00"],
        ),
        (
            cron("0 * * * *", YORK),
            YORK,
            "2026-03-08T05:30:00Z",
            "2026-03-08T08:30:00Z",
            vec!["03-08T01:00:00-05:00", "03-08T03:00:00-04:00", "03-08T04:00:00-04:00"],
        ),
        (
            cron("0 * * * *", YORK),
            YORK,
            "2026-11-01T04:30:00Z",
            "2026-11-01T07:30:00Z",
            vec!["11-01T01:00:00-04:00", "11-01T01:00:00-05:00", "11-01T02:00:00-05:00"],
        ),
        (
            cron("*/15 * * * *", BERLIN),
            BERLIN,
            "2026-03-29T00:40:00Z",
            "2026-03-29T01:20:00Z",
            vec!["03-29T01:45:00+01:00", "03-29T03:00:00+02:00", "03-29T03:15:00+02:00"],
        ),
        (
            cron("*/15 * * * *", BERLIN),
            BERLIN,
            "2026-10-25T00:25:00Z",
            "2026-10-25T01:20:00Z",
            vec!["10-25T02:30:00+02:00", "10-25T02:45:00+02:00", "10-25T02:00:00+01:00", "10-25T02:15:00+01:00"],
        ),
        (cron("*/15 * * * *", YORK), YORK, "2026-03-08T06:40:00Z", "2026-03-08T07:05:00Z", vec!["03-08T01:45:00-05:00", "03-08T03:00:00-04:00"]),
        (cron("*/15 * * * *", YORK), YORK, "2026-11-01T05:40:00Z", "2026-11-01T06:05:00Z", vec!["11-01T01:45:00-04:00", "11-01T01:00:00-05:00"]),
        // A rate and a moment know no wall.
        (json!({ "rate": "30 minutes" }), BERLIN, "2026-03-29T00:40:00Z", "2026-03-29T01:50:00Z", vec!["03-29T03:10:00+02:00", "03-29T03:40:00+02:00"]),
        (json!({ "rate": "30 minutes" }), BERLIN, "2026-10-25T00:25:00Z", "2026-10-25T01:30:00Z", vec!["10-25T02:55:00+02:00", "10-25T02:25:00+01:00"]),
        (json!({ "rate": "1 hour" }), YORK, "2026-03-08T06:10:00Z", "2026-03-08T08:20:00Z", vec!["03-08T03:10:00-04:00", "03-08T04:10:00-04:00"]),
        (json!({ "rate": "1 hour" }), YORK, "2026-11-01T04:10:00Z", "2026-11-01T06:20:00Z", vec!["11-01T01:10:00-04:00", "11-01T01:10:00-05:00"]),
        (json!({ "once": "2026-03-29T02:30:00+01:00" }), BERLIN, "2026-03-29T00:40:00Z", "2026-03-29T02:00:00Z", vec!["03-29T03:30:00+02:00"]),
        (json!({ "once": "2026-10-25T02:30:00+01:00" }), BERLIN, "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z", vec!["10-25T02:30:00+01:00"]),
        (json!({ "once": "2026-11-01T01:30:00-04:00" }), YORK, "2026-11-01T04:00:00Z", "2026-11-01T09:00:00Z", vec!["11-01T01:30:00-04:00"]),
        (json!({ "once": "2026-03-08T02:30:00-05:00" }), YORK, "2026-03-08T04:00:00Z", "2026-03-08T09:00:00Z", vec!["03-08T03:30:00-04:00"]),
    ];
    for (given, zone, from, until, expected) in table {
        let mut world = World::at(from).await;
        world.schedule(&given).await;
        world.run_until(until).await;
        let expected: Vec<_> = expected.iter().map(|tick| format!("+{tick}")).collect();
        assert_eq!(world.ticks(zone).await, expected, "{given} in {zone} from {from}");
        assert_eq!(world.find().await.execution_count, expected.len() as u64, "{given}");
    }
}

/// A server that runs until noon, whose clock is then set, and that goes on until a moment by that clock.
#[tokio::test]
async fn where_the_clock_is_set() {
    let hourly = json!({ "cron": "0 * * * *" });
    let quarters = json!({ "rate": "15 minutes" });
    let table = [
        // Forward by an hour: what lies between was missed.
        (
            "cron forward",
            &hourly,
            "2026-06-01T10:30:00Z",
            "2026-06-01T11:30:00Z",
            "2026-06-01T12:30:00Z",
            "2026-06-01T13:30:00Z",
            vec!["+06-01T11:00:00+00:00", "+06-01T12:00:00+00:00 late 1800 s", "+06-01T13:00:00+00:00"],
        ),
        // Of several the last stands for all.
        (
            "rate forward",
            &quarters,
            "2026-06-01T11:25:00Z",
            "2026-06-01T11:45:00Z",
            "2026-06-01T12:45:00Z",
            "2026-06-01T13:00:00Z",
            vec!["+06-01T11:40:00+00:00", "-06-01T12:25:00+00:00 3", "+06-01T12:40:00+00:00 late 300 s", "+06-01T12:55:00+00:00"],
        ),
        // Back by an hour: nothing fires twice, and nothing waits longer than that.
        (
            "cron back",
            &hourly,
            "2026-06-01T10:30:00Z",
            "2026-06-01T12:10:00Z",
            "2026-06-01T11:10:00Z",
            "2026-06-01T14:10:00Z",
            vec!["+06-01T11:00:00+00:00", "+06-01T12:00:00+00:00", "+06-01T13:00:00+00:00", "+06-01T14:00:00+00:00"],
        ),
        (
            "rate back",
            &quarters,
            "2026-06-01T11:25:00Z",
            "2026-06-01T12:00:00Z",
            "2026-06-01T11:30:00Z",
            "2026-06-01T12:15:00Z",
            vec!["+06-01T11:40:00+00:00", "+06-01T11:55:00+00:00", "+06-01T12:10:00+00:00"],
        ),
        // Back by a day, before it was made: cron goes by the calendar, and a rate counts from then.
        (
            "cron back a day",
            &hourly,
            "2026-06-02T10:30:00Z",
            "2026-06-02T12:10:00Z",
            "2026-06-01T12:10:00Z",
            "2026-06-01T14:10:00Z",
            vec!["+06-01T13:00:00+00:00", "+06-01T14:00:00+00:00", "+06-02T11:00:00+00:00", "+06-02T12:00:00+00:00"],
        ),
        (
            "rate back a day",
            &quarters,
            "2026-06-02T11:25:00Z",
            "2026-06-02T11:45:00Z",
            "2026-06-01T11:50:00Z",
            "2026-06-01T12:25:00Z",
            vec!["+06-01T12:05:00+00:00", "+06-01T12:20:00+00:00", "+06-02T11:40:00+00:00"],
        ),
    ];
    for (name, given, made, until, set, end, expected) in table {
        let mut world = World::at(made).await;
        world.schedule(given).await;
        world.run_until(until).await;
        world.set_clock(set).await;
        world.run_until(end).await;
        assert_eq!(world.ticks("UTC").await, expected, "{name}");
        let runs = expected.iter().filter(|tick| tick.starts_with('+')).count();
        assert_eq!(world.find().await.execution_count, runs as u64, "{name}");
    }
}

#[tokio::test]
async fn one_moment_comes_once_however_the_clock_is_set() {
    let once = json!({ "once": "2026-06-01T12:00:00Z" });
    // Forward beyond it: it is late. Back again: it was.
    let mut world = World::at("2026-06-01T11:30:00Z").await;
    world.schedule(&once).await;
    world.set_clock("2026-06-01T12:30:00Z").await;
    world.run_until("2026-06-01T12:31:00Z").await;
    world.set_clock("2026-06-01T11:31:00Z").await;
    world.run_until("2026-06-01T13:00:00Z").await;
    assert_eq!(world.ticks("UTC").await, ["+06-01T12:00:00+00:00 late 1800 s"]);
    assert_eq!(world.find().await.lifecycle, Lifecycle::Completed);
    // Back before it: it comes when it is time.
    let mut world = World::at("2026-06-01T11:30:00Z").await;
    world.schedule(&once).await;
    for to in ["2026-06-01T10:30:00Z", "2026-05-31T11:30:00Z"] {
        world.set_clock(to).await;
        world.look().await;
        assert_eq!(world.find().await.next_tick_ms, Some(ms("2026-06-01T12:00:00Z")), "{to}");
    }
    world.run_until("2026-06-01T12:00:00Z").await;
    assert_eq!(world.ticks("UTC").await, ["+06-01T12:00:00+00:00"]);
}

#[tokio::test]
async fn an_end_that_had_passed_by_a_wrong_clock_is_none() {
    let mut world = World::at("2026-06-01T11:30:00Z").await;
    world.schedule(&json!({ "cron": "0 * * * *", "endAt": "2026-06-01T14:30:00Z" })).await;
    world.run_until("2026-06-01T12:10:00Z").await;
    world.set_clock("2026-06-02T12:10:00Z").await;
    world.look().await;
    let over = world.find().await;
    assert_eq!((over.lifecycle, over.next_tick_ms), (Lifecycle::Expired, None));
    assert!(over.lifecycle_reason.expect("why").contains("endAt has passed"));
    world.set_clock("2026-06-01T12:11:00Z").await;
    let again = world.find().await;
    assert_eq!((again.lifecycle, again.lifecycle_reason, again.next_tick_ms), (Lifecycle::Active, None, Some(ms("2026-06-01T13:00:00Z"))));
    world.run_until("2026-06-01T16:00:00Z").await;
    // What the wrong clock had made up for is not run again.
    assert_eq!(world.ticks("UTC").await, ["+06-01T12:00:00+00:00", "-06-01T13:00:00+00:00 1", "+06-01T14:00:00+00:00 late 79800 s"]);
    assert_eq!(world.find().await.lifecycle, Lifecycle::Expired);
}

#[tokio::test]
async fn what_came_while_the_server_was_away() {
    let hourly = |more: serde_json::Value| {
        let mut given = json!({ "cron": "0 * * * *", "concurrencyPolicy": "allow" });
        given.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        given
    };
    // Away from 12:10 to 17:20: five ticks were missed.
    let table = [
        (hourly(json!({ "missedRunPolicy": "skip" })), vec!["-06-01T17:00:00+00:00 5"], "it was missed"),
        (hourly(json!({ "missedRunPolicy": "run_once" })), vec!["-06-01T16:00:00+00:00 4", "+06-01T17:00:00+00:00 late 1200 s"], "a later one stands for it"),
        (
            hourly(json!({ "missedRunPolicy": "run_all", "missedRunsMax": 2 })),
            vec!["-06-01T15:00:00+00:00 3", "+06-01T16:00:00+00:00 late 4800 s", "+06-01T17:00:00+00:00 late 1200 s"],
            "missedRunsMax",
        ),
        (
            hourly(json!({ "missedRunPolicy": "run_all", "startingDeadlineSeconds": 3600 })),
            vec!["-06-01T16:00:00+00:00 4", "+06-01T17:00:00+00:00 late 1200 s"],
            "startingDeadlineSeconds",
        ),
        (
            hourly(json!({ "missedRunPolicy": "run_all", "maxRuns": 2 })),
            vec!["+06-01T13:00:00+00:00 late 15600 s", "+06-01T14:00:00+00:00 late 12000 s", "-06-01T15:00:00+00:00 1"],
            "maxRuns was reached",
        ),
        (
            hourly(json!({ "missedRunPolicy": "run_once", "endAt": "2026-06-01T14:30:00Z" })),
            vec!["-06-01T13:00:00+00:00 1", "+06-01T14:00:00+00:00 late 12000 s"],
            "a later one stands for it",
        ),
    ];
    for (given, expected, why) in table {
        let mut world = World::at("2026-06-01T12:10:00Z").await;
        world.schedule(&given).await;
        world.now_ms = ms("2026-06-01T17:20:00Z");
        world.look().await;
        let ticks = world.ticks("UTC").await;
        assert_eq!(ticks[..expected.len()], expected, "{given}");
        assert!(world.reasons().await[0].contains(why), "{given}: {:?}", world.reasons().await);
        // A server that looks again finds nothing more to do.
        world.look().await;
        assert_eq!(world.ticks("UTC").await, ticks, "{given}");
    }
}

#[tokio::test]
async fn a_schedule_has_an_end() {
    let mut world = World::at("2026-06-01T12:10:00Z").await;
    world.schedule(&json!({ "cron": "0 * * * *", "maxRuns": 2 })).await;
    world.run_until("2026-06-01T18:00:00Z").await;
    assert_eq!(world.ticks("UTC").await, ["+06-01T13:00:00+00:00", "+06-01T14:00:00+00:00"]);
    let over = world.find().await;
    assert_eq!((over.lifecycle, over.execution_count, over.due_at_ms), (Lifecycle::MaxRunsReached, 2, None));
    let mut world = World::at("2026-06-01T12:10:00Z").await;
    world.schedule(&json!({ "rate": "1 hour", "startAt": "2026-06-01T13:20:00Z", "endAt": "2026-06-01T14:30:00Z" })).await;
    world.run_until("2026-06-01T18:00:00Z").await;
    assert_eq!(world.ticks("UTC").await, ["+06-01T13:20:00+00:00", "+06-01T14:20:00+00:00"]);
    assert_eq!(world.find().await.lifecycle, Lifecycle::Expired);
}
