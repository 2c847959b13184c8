//! The server is killed with SIGKILL at random moments while events are published and schedules fire each second. At the end
//! every event that was acknowledged has run to success, once, and every second of each schedule is accounted for.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use super::{all, data, eventually, function, jobs};
use crate::it::{
    harness::{Rng, Server},
    http::Api,
};

const WORKERS: usize = 3;
const DONE_WITHIN: Duration = Duration::from_secs(120);

/// A client: the events that were acknowledged, by key.
struct Client {
    api: Api,
    number: usize,
    sent: u64,
    acknowledged: BTreeMap<String, String>,
    in_doubt: Option<String>,
}

impl Client {
    /// Publishes until the server is gone. What was in doubt is published again first: its key makes it the same event.
    fn work(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let key = self.in_doubt.take().unwrap_or_else(|| {
                self.sent += 1;
                format!("{}-{}", self.number, self.sent)
            });
            let body = json!({ "channel": "load", "event": "made", "data": { "key": key } }).to_string();
            match self.api.try_send("POST", "/api/events", &[("idempotency-key", &key)], body.as_bytes()) {
                Ok(reply) if reply.status == 202 => {
                    let published = data(&reply, 202);
                    assert_eq!(published["matched"], 1);
                    self.acknowledged.insert(key, published["id"].as_str().unwrap().to_owned());
                }
                Ok(reply) => panic!("{}", reply.text()),
                Err(_) => {
                    self.in_doubt = Some(key);
                    return;
                }
            }
        }
    }
}

#[test]
fn kills_under_load_lose_no_event_and_no_tick() {
    let kills: usize = std::env::var("SANDBAR_SCRIPT_KILLS").map_or(12, |text| text.parse().expect("a number"));
    let (mut rng, seed) = Rng::seeded();
    eprintln!("repeat with SANDBAR_TEST_SEED={seed}");
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    // Some runs take a while, so that kills come in their middle.
    function(&api, "sink", "event", "load:*", "await new Promise(r => setTimeout(r, Math.random() * 30)); return ctx.data.data.key", json!({}));
    let all_runs = json!({ "schedule": { "missedRunPolicy": "run_all", "missedRunsMax": 100, "concurrencyPolicy": "queue" } });
    function(&api, "tick", "cron", "* * * * * *", "return ctx.data.scheduledAt", json!({}));
    function(&api, "each", "cron", "* * * * * *", "return ctx.data.scheduledAt", all_runs);
    let mut clients: Vec<Client> =
        (0..WORKERS).map(|number| Client { api: server.api(), number, sent: 0, acknowledged: BTreeMap::new(), in_doubt: None }).collect();
    for _ in 0..kills {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in &mut clients {
                let stop = &stop;
                scope.spawn(move || client.work(stop));
            }
            // The moment is what is random here; nothing is waited for.
            std::thread::sleep(Duration::from_millis(20 + rng.below(1500) as u64));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
        server.up();
    }
    let acknowledged: HashSet<String> = clients.iter().flat_map(|client| client.acknowledged.values().cloned()).collect();
    eventually("the end of all runs of events", DONE_WITHIN, || {
        let open: usize = ["pending", "running"].iter().map(|state| jobs(&api, "sink", state).len()).sum();
        if open == 0 { Ok(()) } else { Err(format!("{open} runs are owed")) }
    });
    for name in ["tick", "each"] {
        let id = data(&api.get(&format!("/api/functions/{name}")), 200)["id"].as_str().unwrap().to_owned();
        eventually(&format!("the end of the runs of {name}"), DONE_WITHIN, || {
            let open: usize = ["pending", "running"].iter().map(|state| jobs(&api, name, state).len()).sum();
            // It goes on each second: the moment between two is asked for.
            if open == 0 && api.json("PATCH", &format!("/api/functions/{id}"), &json!({ "active": false })).status == 200 {
                Ok(())
            } else {
                Err(format!("{open} runs"))
            }
        });
    }

    // Events: each acknowledged one has one job, which succeeded, and one run that succeeded.
    let done = jobs(&api, "sink", "succeeded");
    let sources: HashSet<String> = done.iter().map(|job| job["source"].as_str().unwrap().to_owned()).collect();
    assert_eq!(sources.len(), done.len(), "one job for each event");
    assert!(acknowledged.is_subset(&sources), "lost: {:?}", acknowledged.difference(&sources).collect::<Vec<_>>());
    assert!(["dead", "dropped"].iter().all(|state| jobs(&api, "sink", state).is_empty()));
    let runs = all(&api, "/api/functions/sink/runs?status=succeeded");
    let jobs_of_runs: HashSet<&str> = runs.iter().map(|run| run["jobId"].as_str().unwrap()).collect();
    assert_eq!((runs.len(), jobs_of_runs.len()), (done.len(), done.len()), "each ran to success once");
    assert!(all(&api, "/api/functions/sink/runs?status=running").is_empty());
    let interrupted = all(&api, "/api/functions/sink/runs?status=failed");
    assert!(interrupted.iter().all(|run| run["code"] == "internal"), "{interrupted:?}");

    let (fired, skipped) = (account_for(&api, "tick"), account_for(&api, "each"));
    eprintln!(
        "{kills} kills, {} events acknowledged, {} interrupted runs; tick: {fired:?}, each: {skipped:?} fired and skipped",
        acknowledged.len(),
        interrupted.len()
    );
    assert!(acknowledged.len() > kills, "there was hardly any load");
}

/// Every second from the first tick to the last is in one entry; each that fired has one job, which ended. How many fired and
/// were skipped.
fn account_for(api: &Api, name: &str) -> (u64, u64) {
    let ms = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let mut ticks = all(api, &format!("/api/functions/{name}/ticks"));
    ticks.reverse();
    let done: HashSet<String> =
        ["succeeded", "dropped"].iter().flat_map(|state| jobs(api, name, state)).map(|job| job["id"].as_str().unwrap().to_owned()).collect();
    let (mut fired, mut skipped, mut expected) = (0, 0, ms(&ticks[0]["firstTick"]));
    for tick in &ticks {
        let count = tick["count"].as_u64().unwrap();
        assert_eq!(ms(&tick["firstTick"]), expected, "{name}: {tick}");
        assert_eq!(ms(&tick["tick"]), expected + 1000 * (count as i64 - 1), "{name}: {tick}");
        expected += 1000 * count as i64;
        if tick["outcome"] == "fired" {
            fired += 1;
            assert!(done.contains(tick["jobId"].as_str().unwrap()), "{name}: {tick}");
        } else {
            skipped += count;
            assert!(tick["reason"].is_string(), "{name}: {tick}");
        }
    }
    assert_eq!(fired as usize, all(api, &format!("/api/jobs?function={name}")).len(), "{name}: one job for each tick that fired");
    (fired, skipped)
}
