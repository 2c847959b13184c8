//! `sandbar event`.

use std::io::Read;

use anyhow::Context;
use reqwest::Method;
use sandbar_core::limits::SCRIPT_EVENT_DATA_MAX_BYTES;
use serde_json::{Value, json};

use crate::{
    cli::{EventCommand, Global, Output},
    client::Client,
    output::{self, cell, time},
};

const EVENTS: &str = "/api/events";

pub async fn run(global: &Global, command: EventCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        EventCommand::Publish { channel, event, data, idempotency_key } => {
            let body = json!({ "channel": channel, "event": event, "data": read_data(&data)? });
            let mut request = client.request(Method::POST, EVENTS).json(&body);
            if let Some(key) = idempotency_key {
                request = request.header("idempotency-key", key);
            }
            let published = client.data(request).await?;
            match global.output {
                Output::Json => output::json(&published),
                Output::Table => output::record(&[("event", cell(&published["id"])), ("scripts told", cell(&published["matched"]))]),
            }
        }
        EventCommand::Ls { limit } => {
            let list = client.get(&format!("{EVENTS}?limit={limit}")).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let row = |e: &Value| {
                        let target = format!("{}:{}", cell(&e["channel"]), cell(&e["event"]));
                        vec![cell(&e["id"]), target, cell(&e["matched"]), cell(&e["depth"]), time(&e["createdAt"]), cell(&e["note"])]
                    };
                    let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
                    output::table(&["EVENT", "TARGET", "TOLD", "DEPTH", "CREATED", "NOTE"], &rows);
                }
            }
        }
    }
    Ok(0)
}

/// JSON, or where it is.
fn read_data(data: &str) -> anyhow::Result<Value> {
    let max = SCRIPT_EVENT_DATA_MAX_BYTES as u64 + 1;
    let mut text = String::new();
    match data.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| format!("{path} cannot be read"))?;
            file.take(max).read_to_string(&mut text).with_context(|| format!("{path} cannot be read"))?;
        }
        None if data == "-" => {
            std::io::stdin().lock().take(max).read_to_string(&mut text).context("standard input cannot be read")?;
        }
        None => data.clone_into(&mut text),
    }
    serde_json::from_str(&text).context("--data is no JSON")
}
