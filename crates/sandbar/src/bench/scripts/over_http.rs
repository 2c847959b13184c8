//! Calls over HTTP: each is authorized, runs in a fresh instance, and is on the disk as a run before it is answered.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{CLIENTS, COLLECTION, Load, ROWS, Work, memory::Memory, timed};
use crate::{
    bench::{
        rows::Counts,
        stats::{Row, Samples, Target},
    },
    client::Client,
    local_server::LocalServer,
};

/// What one call may take, with all that is around it.
const CALL_MS_MAX: f64 = 1.0;
const WARM_UP: usize = 20;

pub async fn calls(server: &LocalServer, fdatasync_ms: f64, counts: &Counts) -> anyhow::Result<Vec<Row>> {
    let invoke = Invoke::publish(&server.client).await?;
    let (mut pings, mut times) = (Samples::default(), Work::ALL.map(|_| Samples::default()));
    for work in Work::ALL {
        for _ in 0..WARM_UP {
            invoke.call(work).await?;
        }
    }
    for _ in 0..counts.requests {
        pings.push(timed(|| invoke.ping()).await?);
        for (work, samples) in Work::ALL.into_iter().zip(&mut times) {
            samples.push(timed(|| invoke.call(work)).await?);
        }
    }
    // A run is kept, and that waits for the disk.
    let floor = Some((pings.median() + fdatasync_ms, "ping + fdatasync"));
    let [trivial, ops] = &times;
    let mut rows = vec![
        Row::times("script: HTTP ping", &pings, None, Target::None),
        Row::times("script: trivial, over HTTP", trivial, floor, Target::AtMost(CALL_MS_MAX)),
        Row::times("script: 3 ops, over HTTP", ops, floor, Target::None),
    ];
    rows.extend(together(server, &invoke, counts.sustained).await?);
    Ok(rows)
}

/// Many clients at a time.
async fn together(server: &LocalServer, invoke: &Invoke, for_time: Duration) -> anyhow::Result<Vec<Row>> {
    let each = invoke.clone();
    let ping = move || {
        let invoke = each.clone();
        async move { invoke.ping().await }
    };
    let pings = Load::of(CLIENTS, for_time, ping).await?;
    let mut rows = Vec::new();
    for (work, name) in Work::ALL.into_iter().zip(["script: trivial, over HTTP, 64 clients", "script: 3 ops, over HTTP, 64 clients"]) {
        let each = invoke.clone();
        let call = move || {
            let invoke = each.clone();
            async move { invoke.call(work).await }
        };
        rows.push(Load::of(CLIENTS, for_time, call).await?.row(name, Some((pings.per_second, "pings"))));
    }
    let pid = server.pid().context("the server has no process")?;
    let memory = Memory::of_engines_of(pid)?;
    rows.push(memory.row("script: engines of the server, memory"));
    Ok(rows)
}

/// Scripts that were made, and what they are told.
#[derive(Clone)]
struct Invoke {
    client: Client,
    data: String,
}

impl Invoke {
    async fn publish(client: &Client) -> anyhow::Result<Self> {
        let fields = json!([{"name": "title", "type": "text"}]);
        client.post("/api/collections", &json!({"slug": COLLECTION, "name": "Bench", "fields": fields})).await?;
        let mut item = Value::Null;
        for _ in 0..ROWS {
            item = client.post(&format!("/api/items/{COLLECTION}"), &json!({"title": "hello"})).await?;
        }
        let id = item["id"].as_str().context("the item has no id")?;
        for work in Work::ALL {
            // As many at once as there are clients: no row is about waiting for a turn.
            let script = json!({"name": name(work), "trigger": "http", "code": work.code(), "concurrency": CLIENTS});
            client.post("/api/functions", &script).await?;
        }
        Ok(Self { client: client.clone(), data: json!({"n": 41, "id": id}).to_string() })
    }

    async fn call(&self, work: Work) -> anyhow::Result<()> {
        let path = format!("/api/functions/{}/invoke", name(work));
        let request = self.client.request(Method::POST, &path).header("content-type", "application/json").body(self.data.clone());
        let reply: Value = self.client.send(request).await?.json().await?;
        ensure!(reply["ok"] == true && reply["value"] == work.result(), "the script answered {reply}");
        Ok(())
    }

    async fn ping(&self) -> anyhow::Result<()> {
        self.client.send(self.client.request(Method::GET, "/healthz")).await?.bytes().await?;
        Ok(())
    }
}

fn name(work: Work) -> &'static str {
    match work {
        Work::Trivial => "bench-trivial",
        Work::Ops => "bench-ops",
    }
}
