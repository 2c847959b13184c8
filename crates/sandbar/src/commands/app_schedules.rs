//! `sandbar app schedules`.

use sandbar_core::limits::apps::MANIFEST_MAX_BYTES;
use serde_json::{Value, json};

use crate::{
    cli::{Global, Output, SchedulesCommand},
    client::{Client, segment},
    commands::{delete_each, given},
    output::{self, cell, time},
};

pub async fn run(global: &Global, client: &Client, command: SchedulesCommand) -> anyhow::Result<u8> {
    match command {
        SchedulesCommand::Ls { app } => {
            let list = client.get(&path(&app, "")).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let row = |one: &Value| {
                        vec![
                            cell(&one["name"]),
                            when(one),
                            what(one),
                            cell(&one["lifecycle_status"]),
                            time(&one["next_run_at"]),
                            time(&one["last_run_at"]),
                            cell(&one["last_run_status"]),
                            cell(&one["execution_count"]),
                            cell(&one["management_source"]),
                        ]
                    };
                    let rows: Vec<_> = list["schedules"].as_array().into_iter().flatten().map(row).collect();
                    output::table(&["NAME", "WHEN", "WHAT", "STATE", "NEXT", "LAST", "LAST RUN", "RUNS", "KEPT BY"], &rows);
                }
            }
            Ok(0)
        }
        SchedulesCommand::Get { app, schedule } => show(global, &client.get(&path(&app, &of(&schedule, ""))).await?["schedule"]),
        SchedulesCommand::Add { app, spec } => show(global, &client.post(&path(&app, ""), &read("the schedule", &spec)?).await?["schedule"]),
        SchedulesCommand::Set { app, schedule, changes } => {
            show(global, &client.patch(&path(&app, &of(&schedule, "")), &read("what is to be changed", &changes)?).await?["schedule"])
        }
        SchedulesCommand::Rm { app, schedules } => delete_each(client, global.output, schedules, |name| path(&app, &of(name, ""))).await,
        SchedulesCommand::Run { app, schedule, idempotency_key } => {
            let run = client.post(&path(&app, &of(&schedule, "/run")), &json!({ "idempotency_key": idempotency_key })).await?["run"].take();
            match global.output {
                Output::Json => output::json(&run),
                Output::Table => output::line(&cell(&run["id"])),
            }
            Ok(0)
        }
        SchedulesCommand::Stop { app, schedule } => show(global, &client.post(&path(&app, &of(&schedule, "/stop")), &json!({})).await?["schedule"]),
        SchedulesCommand::Resume { app, schedule } => show(global, &client.post(&path(&app, &of(&schedule, "/resume")), &json!({})).await?["schedule"]),
        SchedulesCommand::Ticks { app, schedule, limit } => {
            let list = client.get(&path(&app, &of(&schedule, &format!("/ticks?limit={limit}")))).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let row = |tick: &Value| {
                        let outcome = match tick["count"].as_u64() {
                            Some(count) if count > 1 => format!("{} ({count} times)", cell(&tick["outcome"])),
                            _ => cell(&tick["outcome"]),
                        };
                        vec![time(&tick["scheduled_at"]), outcome, cell(&tick["run_id"]), output::printable(&cell(&tick["reason"]))]
                    };
                    let rows: Vec<_> = list["ticks"].as_array().into_iter().flatten().map(row).collect();
                    output::table(&["TIME", "OUTCOME", "RUN", "WHY"], &rows);
                }
            }
            Ok(0)
        }
    }
}

fn show(global: &Global, schedule: &Value) -> anyhow::Result<u8> {
    if global.output == Output::Json {
        output::json(schedule);
        return Ok(0);
    }
    let spec = &schedule["spec"];
    let text = |key: &'static str, value: &Value| (key, output::printable(&cell(value)));
    output::record(&[
        text("id", &schedule["id"]),
        text("name", &schedule["name"]),
        ("when", when(schedule)),
        text("timezone", &spec["timezone"]),
        ("what", what(schedule)),
        text("where", &spec["runtimePolicy"]),
        text("state", &schedule["lifecycle_status"]),
        text("why", &schedule["lifecycle_reason"]),
        ("enabled", cell(&schedule["enabled"])),
        ("next", time(&schedule["next_run_at"])),
        ("runs", cell(&schedule["execution_count"])),
        text("last run", &schedule["last_run_id"]),
        text("kept by", &schedule["management_source"]),
        ("created", time(&schedule["created_at"])),
        ("changed", time(&schedule["updated_at"])),
    ]);
    Ok(0)
}

/// What stands in a manifest is no longer than one.
fn read(what: &str, text: &str) -> anyhow::Result<Value> {
    given::json(what, text, MANIFEST_MAX_BYTES)
}

fn when(schedule: &Value) -> String {
    ["cron", "rate", "once"].into_iter().find_map(|key| schedule["spec"][key].as_str()).unwrap_or_default().to_owned()
}

/// What it runs: the kind, and the name or the command.
fn what(schedule: &Value) -> String {
    let target = &schedule["spec"]["target"];
    let of = if target["name"].is_null() { &target["command"] } else { &target["name"] };
    format!("{} {}", cell(&target["kind"]), cell(of)).trim_end().to_owned()
}

fn path(app: &str, rest: &str) -> String {
    format!("/api/v1/apps/{}/schedules{rest}", segment(app))
}

fn of(schedule: &str, rest: &str) -> String {
    format!("/{}{rest}", segment(schedule))
}
