//! `sandbar script outbox`: mail of scripts that was not sent, because no SMTP server is set.

use serde_json::Value;

use crate::{
    cli::{Global, OutboxCommand, Output},
    client::{Client, segment},
    output::{self, cell, time},
};

pub async fn run(global: &Global, command: OutboxCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        OutboxCommand::Ls { limit } => {
            let list = client.get(&format!("/api/outbox?limit={limit}")).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => table(&list),
            }
        }
        OutboxCommand::Get { id } => {
            let mail = client.get(&format!("/api/outbox/{}", segment(&id))).await?;
            match global.output {
                Output::Json => output::json(&mail),
                // Line by line: what a script wrote must not steer the terminal.
                Output::Table => cell(&mail["raw"]).lines().for_each(|line| output::line(&output::printable(line))),
            }
        }
    }
    Ok(0)
}

fn table(list: &Value) {
    let row = |mail: &Value| {
        vec![cell(&mail["id"]), cell(&mail["to"]), cell(&mail["subject"]), cell(&mail["script"]), cell(&mail["bytes"]), time(&mail["createdAt"])]
    };
    let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(row).collect();
    output::table(&["ID", "TO", "SUBJECT", "SCRIPT", "BYTES", "CREATED"], &rows);
}
