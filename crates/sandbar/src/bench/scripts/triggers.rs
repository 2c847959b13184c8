//! How soon runs begin that nobody asks for by name: those of events, and those of a schedule's ticks.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    bench::stats::{Row, Samples, Target},
    client::{Client, segment},
};

const CODE: &str = "return null;";
/// Between events that are not to meet each other.
const PACE: Duration = Duration::from_millis(20);
/// Events of the burst that are on their way to the server at one time.
const PARALLEL: usize = 64;
/// Runs that have not begun by then are missed.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(250);
const PAGE: usize = 200;

/// One event after the other, then many at once.
pub async fn events(client: &Client, fdatasync_ms: f64, n: usize, burst: usize) -> anyhow::Result<Vec<Row>> {
    let alone = Script::create(client, "bench-event", "event", "bench:alone:*").await?;
    for _ in 0..n {
        publish(client, "bench:alone").await?;
        tokio::time::sleep(PACE).await;
    }
    let one_by_one = alone.latencies(&published(client, "bench:alone", n).await?).await?;
    let together = Script::create(client, "bench-burst", "event", "bench:burst:*").await?;
    let begun = Instant::now();
    stream::iter((0..burst).map(|_| publish(client, "bench:burst"))).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    let took = begun.elapsed();
    let at_once = together.latencies(&published(client, "bench:burst", burst).await?).await?;
    // The event and its job are written down before, and the job is taken by a write.
    let floor = Some((fdatasync_ms, "fdatasync"));
    Ok(vec![
        Row::times("script: event to start of its run", &one_by_one, floor, Target::None).note("as the server noted both, in whole milliseconds"),
        Row::times("script: event to start, all at once", &at_once, None, Target::None)
            .note(format!("{burst} published in {:.0} ms", took.as_secs_f64() * 1000.0)),
    ])
}

/// How late the runs of a schedule of seconds begin.
pub async fn schedule(client: &Client, for_time: Duration) -> anyhow::Result<Vec<Row>> {
    let script = Script::create(client, "bench-schedule", "cron", "* * * * * *").await?;
    tokio::time::sleep(for_time).await;
    client.data(client.request(Method::PATCH, &script.path("")).json(&json!({"active": false}))).await?;
    let ticks = list(client, &script.path("/ticks")).await?;
    let mut fired = BTreeMap::new();
    for tick in ticks.iter().filter(|tick| tick["outcome"] == "fired") {
        fired.insert(text(tick, "jobId")?, moment_ms(tick, "tick")?);
    }
    let samples = script.latencies(&fired).await?;
    let skipped = ticks.len() - fired.len();
    let note = format!("at most {:.0} ms; {skipped} of {} ticks did not fire", samples.percentile(1.0), ticks.len());
    Ok(vec![Row::times("script: lateness of a tick each second", &samples, None, Target::None).note(note)])
}

struct Script<'a> {
    client: &'a Client,
    id: String,
}

impl<'a> Script<'a> {
    async fn create(client: &'a Client, name: &str, trigger: &str, pattern: &str) -> anyhow::Result<Self> {
        let mut script = json!({"name": name, "trigger": trigger, "pattern": pattern, "code": CODE});
        if trigger == "cron" {
            script["schedule"] = json!({"concurrencyPolicy": "allow"});
        }
        let created = client.post("/api/functions", &script).await?;
        Ok(Self { client, id: text(&created, "id")? })
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/functions/{}{rest}", segment(&self.id))
    }

    /// From the moments that jobs were due to the start of their runs. Waits until all have begun.
    async fn latencies(&self, due_ms: &BTreeMap<String, i64>) -> anyhow::Result<Samples> {
        let begun = Instant::now();
        loop {
            let mut samples = BTreeMap::new();
            for run in list(self.client, &self.path("/runs")).await? {
                let (Ok(started_ms), Some(job)) = (moment_ms(&run, "startedAt"), run["jobId"].as_str()) else { continue };
                // The job of an event is called EVENT.SCRIPT.
                let due = due_ms.get(job).or_else(|| due_ms.get(job.split_once('.')?.0));
                samples.extend(due.map(|due| (job.to_owned(), started_ms - due)));
            }
            if samples.len() == due_ms.len() {
                return Ok(samples.into_values().map(|ms| Duration::from_millis(ms.max(0).unsigned_abs())).collect());
            }
            ensure!(begun.elapsed() < BEGUN_WITHIN, "{} of {} runs have begun within {} s", samples.len(), due_ms.len(), BEGUN_WITHIN.as_secs());
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn publish(client: &Client, channel: &str) -> anyhow::Result<()> {
    client.post("/api/events", &json!({"channel": channel, "event": "happened"})).await.map(drop)
}

/// The events of a channel, and when each was written down.
async fn published(client: &Client, channel: &str, n: usize) -> anyhow::Result<BTreeMap<String, i64>> {
    let mut found = BTreeMap::new();
    for event in list(client, "/api/events").await?.iter().filter(|event| event["channel"] == channel) {
        found.insert(text(event, "id")?, moment_ms(event, "createdAt")?);
    }
    ensure!(found.len() == n, "{} of {n} events were written down", found.len());
    Ok(found)
}

/// All that there is of a list.
async fn list(client: &Client, path: &str) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut request = client.request(Method::GET, path).query(&[("limit", PAGE)]);
        if let Some(cursor) = &cursor {
            request = request.query(&[("cursor", cursor)]);
        }
        let mut page: Value = client.send(request).await?.json().await?;
        let Value::Array(entries) = page["data"].take() else { bail!("{path} is no list") };
        all.extend(entries);
        match page["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(all),
        }
    }
}

fn text(value: &Value, field: &str) -> anyhow::Result<String> {
    value[field].as_str().map(str::to_owned).with_context(|| format!("no {field} in {value}"))
}

fn moment_ms(value: &Value, field: &str) -> anyhow::Result<i64> {
    let text = text(value, field)?;
    let moment: jiff::Timestamp = text.parse().with_context(|| format!("{field} is no moment"))?;
    Ok(moment.as_millisecond())
}
