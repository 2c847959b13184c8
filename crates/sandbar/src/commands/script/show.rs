//! A script as people read it.

use serde_json::Value;

use super::texts;
use crate::{
    cli::{Global, Output},
    output::{self, cell, time},
};

pub fn script(global: &Global, script: &Value) {
    match global.output {
        Output::Json => output::json(script),
        Output::Table => output::record(&[
            ("name", cell(&script["name"])),
            ("id", cell(&script["id"])),
            ("description", cell(&script["description"])),
            ("trigger", cell(&script["trigger"])),
            ("pattern", cell(&script["pattern"])),
            ("schedule", if script["trigger"] == "cron" { schedule(&script["schedule"]) } else { String::new() }),
            ("next run", time(&script["nextRunAt"])),
            ("active", cell(&script["active"])),
            ("access", cell(&script["access"])),
            ("runs as", cell(&script["runAs"])),
            ("may", list(&script["capabilities"], "everything", "nothing")),
            ("fetches", list(&script["fetchAllow"], "what the server allows", "nothing")),
            ("timeout", format!("{} ms, of the processor {} ms", cell(&script["timeoutMs"]), cell(&script["cpuMs"]))),
            ("memory", format!("{} MiB", cell(&script["memoryMb"]))),
            ("at once", cell(&script["concurrency"])),
            ("tries", format!("{} within {} s", cell(&script["retry"]["maxAttempts"]), cell(&script["retry"]["maxAgeSeconds"]))),
            ("deterministic", if script["deterministic"] == true { "yes".to_owned() } else { String::new() }),
            ("author", cell(&script["authorKind"])),
            ("language", cell(&script["language"])),
            ("version", cell(&script["version"])),
            ("hash", cell(&script["hash"])),
            ("aliases", aliases(&script["aliases"])),
            ("secrets", texts(&script["secrets"])),
            ("updated", time(&script["updatedAt"])),
        ]),
    }
}

/// Null is no bound, and an empty list is one.
fn list(value: &Value, all: &str, none: &str) -> String {
    match value.as_array() {
        None => all.to_owned(),
        Some(items) if items.is_empty() => none.to_owned(),
        Some(_) => texts(value),
    }
}

fn schedule(schedule: &Value) -> String {
    let mut parts = vec![
        cell(&schedule["timezone"]),
        format!("missed runs {}", cell(&schedule["missedRunPolicy"])),
        format!("while one runs {}", cell(&schedule["concurrencyPolicy"])),
    ];
    if !schedule["startingDeadlineSeconds"].is_null() {
        parts.push(format!("at most {} s late", cell(&schedule["startingDeadlineSeconds"])));
    }
    if schedule["jitterSeconds"].as_u64().is_some_and(|jitter| jitter > 0) {
        parts.push(format!("put off by up to {} s", cell(&schedule["jitterSeconds"])));
    }
    parts.join(", ")
}

/// `live=3 canary=3:90,4:10`
fn aliases(aliases: &Value) -> String {
    let one = |(name, parts): (&String, &Value)| {
        let parts: Vec<&Value> = parts.as_array().into_iter().flatten().collect();
        let points: Vec<String> = match parts.as_slice() {
            [part] => vec![cell(&part["version"])],
            parts => parts.iter().map(|part| format!("{}:{}", cell(&part["version"]), cell(&part["weight"]))).collect(),
        };
        format!("{name}={}", points.join(","))
    };
    aliases.as_object().into_iter().flatten().map(one).collect::<Vec<_>>().join(" ")
}
