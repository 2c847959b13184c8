//! Rows about functions: the first request to an instance that has to be made, requests to one that is there, publishing, and
//! the change of a revision.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::{
    floors::Floors,
    gateway::{Asked, serve, upload},
    guests::Guests,
    stats::{Row, Samples, Target},
};
use crate::client::segment;

/// An alias of its own is served by instances of the revision, never by the sandbox that it was published from.
const ALIAS: &str = "bench";

/// All of them. What is made is deleted again.
pub async fn functions(guests: &Guests, floors: &Floors, n: usize, requests: usize) -> anyhow::Result<Vec<Row>> {
    let id = guests.claim().await?;
    upload(guests, &id).await?;
    serve(guests, &id).await?.up().await?;
    let mut made = Vec::new();
    let measured = measure(guests, floors, &id, n, requests, &mut made).await;
    for function in &made {
        guests.client.delete(&format!("/api/v1/functions/{}", segment(function))).await?;
    }
    guests.delete(&id).await?;
    measured
}

async fn measure(guests: &Guests, floors: &Floors, id: &str, n: usize, requests: usize, made: &mut Vec<String>) -> anyhow::Result<Vec<Row>> {
    let client = &guests.client;
    let source = json!({"type": "sandbox_service", "sandbox_id": id, "service_id": "bench"});
    let (mut publish, mut cold, mut promote) = (Samples::default(), Samples::default(), Samples::default());
    let mut last: Option<(String, Asked)> = None;
    for round in 0..n {
        let begun = Instant::now();
        let name = format!("bench-{}-{round}", std::process::id());
        let created = client.post("/api/v1/functions", &json!({"name": name, "source": source})).await?;
        publish.push(begun.elapsed());
        let text = |value: &Value| value.as_str().map(str::to_owned).context("the function lacks its id or host");
        let function = text(&created["function"]["id"])?;
        made.push(function.clone());
        let asked = Asked::of(guests, created["function"]["url"].as_str().context("the function has no url")?)?;
        client.put(&alias(&function, ALIAS), &json!({"revision_number": 1})).await?;
        let own = Asked { host: format!("{ALIAS}--{}", asked.host), ..asked };
        let begun = Instant::now();
        own.times(1).await?;
        cold.push(begun.elapsed());
        last = Some((function, own));
    }
    let (function, own) = last.context("no function was made")?;
    let warm = own.times(requests).await?;
    client.post(&format!("/api/v1/functions/{}/revisions", segment(&function)), &json!({"source": source})).await?;
    // Both were proved by now.
    client.put(&alias(&function, "production"), &json!({"revision_number": 1})).await?;
    for round in 0..n {
        let begun = Instant::now();
        client.put(&alias(&function, "production"), &json!({"revision_number": 2 - round % 2})).await?;
        promote.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(vec![
        Row::times("function: publish a running sandbox's service", &publish, Some((floors.fdatasync_ms, "fdatasync")), Target::None),
        Row::times("function: first request, instance made for it", &cold, floors.namespaces_ms.map(|ms| (ms, "namespaces")), Target::None),
        Row::times("function: request to an instance", &warm, Some((floors.ping_ms, "ping")), Target::None),
        Row::times("function: promote a proved revision", &promote, Some((floors.fdatasync_ms, "fdatasync")), Target::None),
    ])
}

fn alias(function: &str, alias: &str) -> String {
    format!("/api/v1/functions/{}/aliases/{alias}", segment(function))
}
