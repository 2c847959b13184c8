//! `sandbar event`.

use reqwest::Method;
use sandbar_core::limits::SCRIPT_EVENT_DATA_MAX_BYTES;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::given;
use crate::{
    cli::{EventCommand, Global, Output},
    client::Client,
    output::{self, cell, time},
};

const EVENTS: &str = "/api/events";

#[derive(Serialize)]
struct Published<'a> {
    channel: &'a str,
    event: &'a str,
    data: &'a RawValue,
}

pub async fn run(global: &Global, command: EventCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        EventCommand::Publish { channel, event, data, idempotency_key } => {
            // As it was written: numbers of any length are kept.
            let data = RawValue::from_string(given::json_text("--data", &data, SCRIPT_EVENT_DATA_MAX_BYTES)?)?;
            let body = Published { channel: &channel, event: &event, data: &data };
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
