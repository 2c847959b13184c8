//! `sandbar webhook`.

use serde_json::{Value, json};

use crate::{
    cli::{Global, Output, WebhookCommand},
    client::{Client, sandbox_path, segment},
    output::{self, cell, time},
};

pub async fn run(global: &Global, command: WebhookCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let form = global.output;
    match command {
        WebhookCommand::Deliveries { sandbox, status, limit } => {
            let status = status.map(|status| format!("&status={}", status.as_str())).unwrap_or_default();
            let list = client.get(&sandbox_path(&sandbox, &format!("/webhook/deliveries?limit={limit}{status}"))).await?;
            match form {
                Output::Json => output::json(&list),
                Output::Table => table(&list),
            }
        }
        WebhookCommand::Get { sandbox, event } => show(form, &client.get(&path(&sandbox, &event, "")).await?),
        WebhookCommand::Redeliver { sandbox, events } => return redeliver(&client, form, &sandbox, events).await,
        WebhookCommand::Test { sandbox } => {
            let done = client.post(&sandbox_path(&sandbox, "/webhook/test"), &json!({})).await?;
            show(form, &done);
            return Ok(u8::from(done["status"] != "delivered"));
        }
    }
    Ok(0)
}

/// Each for itself: one that is not there keeps no other.
async fn redeliver(client: &Client, form: Output, sandbox: &str, events: Vec<String>) -> anyhow::Result<u8> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for event in events {
        match client.post(&path(sandbox, &event, "/redeliver"), &json!({})).await {
            Ok(delivery) => {
                if form == Output::Table {
                    output::line(&output::printable(&event));
                }
                done.push(delivery);
            }
            Err(error) => {
                eprintln!("sandbar: {event}: {error:#}");
                failed.push(json!({ "event_id": event, "error": format!("{error:#}") }));
            }
        }
    }
    if form == Output::Json {
        output::json(&json!({ "redelivered": done, "failed": failed }));
    }
    Ok(u8::from(!failed.is_empty()))
}

fn table(list: &Value) {
    let row = |d: &Value| {
        let outcome = if d["last_error"].is_null() { &d["last_status"] } else { &d["last_error"] };
        vec![cell(&d["event_id"]), cell(&d["event_type"]), cell(&d["status"]), cell(&d["attempts"]), cell(outcome), time(&d["created_at"])]
    };
    let rows: Vec<Vec<String>> = list["deliveries"].as_array().into_iter().flatten().map(row).collect();
    output::table(&["EVENT", "TYPE", "STATUS", "TRIES", "ANSWER", "CREATED"], &rows);
    if let Some(dropped @ 1..) = list["dropped"].as_u64() {
        eprintln!("{dropped} events were dropped, since too many waited or came at once");
    }
}

fn show(form: Output, delivery: &Value) {
    if form == Output::Json {
        return output::json(delivery);
    }
    output::record(&[
        ("event", cell(&delivery["event_id"])),
        ("type", cell(&delivery["event_type"])),
        ("status", cell(&delivery["status"])),
        ("tries", cell(&delivery["attempts"])),
        ("last status", cell(&delivery["last_status"])),
        ("last error", cell(&delivery["last_error"])),
        ("last answer", cell(&delivery["last_answer"])),
        ("next try", time(&delivery["next_attempt_at"])),
        ("created", time(&delivery["created_at"])),
        ("done", time(&delivery["done_at"])),
        ("body", cell(&delivery["body"])),
    ]);
}

fn path(sandbox: &str, event: &str, rest: &str) -> String {
    sandbox_path(sandbox, &format!("/webhook/deliveries/{}{rest}", segment(event)))
}
