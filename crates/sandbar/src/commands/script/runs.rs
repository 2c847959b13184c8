//! Runs of scripts.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};

use super::{path, print_result, rows};
use crate::{
    cli::{Global, Output},
    client::{Client, segment},
    output::{self, cell, time},
};

const RUNS: &str = "/api/runs";
/// Between two looks for new runs.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// Runs that were printed and are remembered while following.
const SEEN_MAX: usize = 10_000;

pub async fn list(global: &Global, client: &Client, script: Option<String>, status: Option<String>, trigger: Option<String>, limit: u32) -> anyhow::Result<()> {
    let filters = [("function", script), ("status", status), ("trigger", trigger)];
    let query: String = filters.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", segment(&value?)))).collect();
    let list = client.get(&format!("{RUNS}?limit={limit}{query}")).await?;
    let row = |r: &Value| {
        vec![
            cell(&r["id"]),
            cell(&r["function"]),
            cell(&r["version"]),
            cell(&r["trigger"]),
            cell(&r["status"]),
            cell(&r["code"]),
            cell(&r["durationMs"]),
            time(&r["createdAt"]),
        ]
    };
    rows(global, &list, &["ID", "SCRIPT", "VERSION", "TRIGGER", "STATUS", "CODE", "MS", "CREATED"], row);
    Ok(())
}

pub async fn show(global: &Global, client: &Client, run: &str) -> anyhow::Result<()> {
    let run = client.get(&format!("{RUNS}/{}", segment(run))).await?;
    match global.output {
        Output::Json => output::json(&run),
        Output::Table => {
            output::record(&[
                ("id", cell(&run["id"])),
                ("script", cell(&run["function"])),
                ("version", cell(&run["version"])),
                ("trigger", cell(&run["trigger"])),
                ("status", cell(&run["status"])),
                ("code", cell(&run["code"])),
                ("error", cell(&run["error"])),
                ("provider", cell(&run["provider"])),
                ("created", time(&run["createdAt"])),
                ("took", format!("{} ms", cell(&run["durationMs"]))),
                ("processor", format!("{} ms", cell(&run["cpuMs"]))),
                ("memory", format!("{} bytes", cell(&run["peakMemoryBytes"]))),
                ("input", run["input"].to_string()),
                ("output", run.get("output").map(Value::to_string).unwrap_or_default()),
            ]);
            for line in run["logs"].as_array().into_iter().flatten() {
                print_line(line);
            }
            for op in run["ops"].as_array().into_iter().flatten() {
                output::line(&output::printable(&format!("{} {} ({} ms)", cell(&op["op"]), op["args"], cell(&op["tookMs"]))));
            }
        }
    }
    Ok(())
}

/// Exits with 1 when it came to something else.
pub async fn replay(global: &Global, client: &Client, run: &str, version: Option<u32>) -> anyhow::Result<u8> {
    let body = version.map_or(json!({}), |version| json!({ "version": version }));
    let replayed = client.post(&format!("{RUNS}/{}/replay", segment(run)), &body).await?;
    match global.output {
        Output::Json => output::json(&replayed),
        Output::Table => {
            print_result(Output::Table, &replayed["result"]);
            for difference in replayed["differences"].as_array().into_iter().flatten() {
                eprintln!("differs: {}", output::printable(&cell(difference)));
            }
        }
    }
    Ok(u8::from(replayed["same"] != true))
}

pub async fn logs(client: &Client, script: &str, follow: bool, limit: u32) -> anyhow::Result<u8> {
    let mut seen: HashSet<String> = HashSet::new();
    loop {
        let list = client.get(&path(script, &format!("/runs?logs=true&limit={limit}"))).await?;
        for run in list.as_array().into_iter().flatten().rev() {
            let id = cell(&run["id"]);
            // What has not ended has not logged yet.
            if run["finishedAt"].is_null() || !seen.insert(id) {
                continue;
            }
            for line in run["logs"].as_array().into_iter().flatten() {
                print_line(line);
            }
            if run["ok"] != true {
                output::line(&output::printable(&format!("{} {:5} {} ({})", cell(&run["finishedAt"]), "error", cell(&run["error"]), cell(&run["code"]))));
            }
        }
        if !follow || output::is_lost() {
            return Ok(0);
        }
        if seen.len() > SEEN_MAX {
            let still: HashSet<String> = list.as_array().into_iter().flatten().map(|run| cell(&run["id"])).collect();
            seen.retain(|id| still.contains(id));
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn print_line(line: &Value) {
    output::line(&output::printable(&format!("{} {:5} {}", cell(&line["at"]), cell(&line["level"]), cell(&line["text"]))));
}
