//! `sandbar app schedules`.

use serde_json::{Value, json};

use crate::{
    cli::{Global, Output, SchedulesCommand},
    client::{Client, segment},
    commands::{app_runs::input, delete_each},
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
                        let when = ["cron", "rate", "once"].into_iter().find_map(|key| one["spec"][key].as_str()).unwrap_or_default();
                        vec![
                            cell(&one["name"]),
                            when.to_owned(),
                            cell(&one["lifecycle_status"]),
                            time(&one["next_run_at"]),
                            time(&one["last_run_at"]),
                            cell(&one["last_run_status"]),
                            cell(&one["execution_count"]),
                            cell(&one["management_source"]),
                        ]
                    };
                    let rows: Vec<_> = list["schedules"].as_array().into_iter().flatten().map(row).collect();
                    output::table(&["NAME", "WHEN", "STATE", "NEXT", "LAST", "LAST RUN", "RUNS", "KEPT BY"], &rows);
                }
            }
            Ok(0)
        }
        SchedulesCommand::Get { app, schedule } => show(&client.get(&path(&app, &of(&schedule, ""))).await?["schedule"]),
        SchedulesCommand::Add { app, spec } => show(&client.post(&path(&app, ""), &input(&spec)?).await?["schedule"]),
        SchedulesCommand::Set { app, schedule, changes } => show(&client.patch(&path(&app, &of(&schedule, "")), &input(&changes)?).await?["schedule"]),
        SchedulesCommand::Rm { app, schedules } => delete_each(client, global.output, schedules, |name| path(&app, &of(name, ""))).await,
        SchedulesCommand::Run { app, schedule, idempotency_key } => {
            let run = client.post(&path(&app, &of(&schedule, "/run")), &json!({ "idempotency_key": idempotency_key })).await?["run"].take();
            match global.output {
                Output::Json => output::json(&run),
                Output::Table => output::line(&cell(&run["id"])),
            }
            Ok(0)
        }
        SchedulesCommand::Stop { app, schedule } => show(&client.post(&path(&app, &of(&schedule, "/stop")), &json!({})).await?["schedule"]),
        SchedulesCommand::Resume { app, schedule } => show(&client.post(&path(&app, &of(&schedule, "/resume")), &json!({})).await?["schedule"]),
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

fn show(schedule: &Value) -> anyhow::Result<u8> {
    output::json(schedule);
    Ok(0)
}

fn path(app: &str, rest: &str) -> String {
    format!("/api/v1/apps/{}/schedules{rest}", segment(app))
}

fn of(schedule: &str, rest: &str) -> String {
    format!("/{}{rest}", segment(schedule))
}
