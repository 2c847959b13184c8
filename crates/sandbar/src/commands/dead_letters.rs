//! Runs that scripts are owed: `sandbar script jobs`, `dead-letters` and `ticks`.

use std::collections::{BTreeMap, BTreeSet};

use sandbar_core::limits::LIST_LIMIT_MAX;
use serde_json::{Value, json};

use crate::{
    cli::{DeadLettersCommand, Global, Output},
    client::{Client, Refusal, segment},
    output::{self, cell, time},
};

const LETTERS: &str = "/api/dead-letters";

pub async fn run(global: &Global, command: DeadLettersCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        DeadLettersCommand::Ls { script, limit } => {
            let function = script.map(|script| format!("&function={}", segment(&script))).unwrap_or_default();
            let list = client.get(&format!("{LETTERS}?limit={limit}{function}")).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let names = names(&client, &list).await;
                    let row = |l: &Value| {
                        let id = cell(&l["functionId"]);
                        vec![
                            cell(&l["id"]),
                            names.get(&id).cloned().unwrap_or(id),
                            cell(&l["kind"]),
                            cell(&l["version"]),
                            cell(&l["attempts"]),
                            time(&l["finishedAt"]),
                            cell(&l["lastRunId"]),
                            cell(&l["lastError"]),
                        ]
                    };
                    let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
                    output::table(&["ID", "SCRIPT", "KIND", "VERSION", "TRIES", "GIVEN UP", "LAST RUN", "ERROR"], &rows);
                }
            }
            Ok(0)
        }
        DeadLettersCommand::Redrive { ids, script, .. } if ids.is_empty() => {
            let body = script.map_or_else(|| json!({}), |script| json!({ "function": script }));
            let done = client.post(&format!("{LETTERS}/redrive"), &body).await?;
            match global.output {
                Output::Json => output::json(&done),
                Output::Table => output::line(&format!("{} are tried again", cell(&done["redriven"]))),
            }
            Ok(0)
        }
        DeadLettersCommand::Redrive { ids, .. } => redrive(&client, global.output, ids).await,
        DeadLettersCommand::Rm { ids, script, .. } if ids.is_empty() => forget_all(&client, global.output, script).await,
        DeadLettersCommand::Rm { ids, .. } => super::delete_each(&client, global.output, ids, |id| format!("{LETTERS}/{}", segment(id))).await,
    }
}

/// What is or was owed, and what became of it.
pub async fn jobs(global: &Global, script: Option<String>, state: Option<String>, limit: u32) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let filters = [("function", script), ("state", state)];
    let query: String = filters.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", segment(&value?)))).collect();
    let list = client.get(&format!("/api/jobs?limit={limit}{query}")).await?;
    match global.output {
        Output::Json => output::json(&list),
        Output::Table => {
            let names = names(&client, &list).await;
            let row = |j: &Value| {
                let id = cell(&j["functionId"]);
                vec![
                    names.get(&id).cloned().unwrap_or(id),
                    cell(&j["kind"]),
                    cell(&j["state"]),
                    cell(&j["attempts"]),
                    time(&j["runAt"]),
                    cell(&j["lastRunId"]),
                    time(&j["createdAt"]),
                    cell(&j["lastError"]),
                ]
            };
            let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
            output::table(&["SCRIPT", "KIND", "STATE", "TRIES", "NEXT TRY", "LAST RUN", "CREATED", "ERROR"], &rows);
        }
    }
    Ok(0)
}

/// Names of the scripts that a list is about. Of one that is gone, or that cannot be asked for, its id has to do.
async fn names(client: &Client, list: &Value) -> BTreeMap<String, String> {
    let ids: BTreeSet<String> = list.as_array().into_iter().flatten().map(|letter| cell(&letter["functionId"])).collect();
    let mut names = BTreeMap::new();
    for id in ids {
        if let Ok(script) = client.get(&format!("/api/functions/{}", segment(&id))).await {
            names.insert(id, cell(&script["name"]));
        }
    }
    names
}

/// Forgets those that there are, page by page. One that is gone meanwhile, since somebody tried it again, is none of them.
async fn forget_all(client: &Client, form: Output, script: Option<String>) -> anyhow::Result<u8> {
    let function = script.map(|script| format!("&function={}", segment(&script))).unwrap_or_default();
    let mut forgotten = 0;
    loop {
        let list = client.get(&format!("{LETTERS}?limit={LIST_LIMIT_MAX}{function}")).await?;
        let ids: Vec<String> = list.as_array().into_iter().flatten().map(|letter| cell(&letter["id"])).collect();
        if ids.is_empty() {
            break;
        }
        for id in ids {
            match client.delete(&format!("{LETTERS}/{}", segment(&id))).await {
                Ok(_) => forgotten += 1,
                Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == 404) => {}
                Err(error) => return Err(error.context(format!("{forgotten} were forgotten"))),
            }
        }
    }
    match form {
        Output::Json => output::json(&json!({ "deleted": forgotten })),
        Output::Table => output::line(&format!("{forgotten} are forgotten")),
    }
    Ok(0)
}

/// Each for itself: one that is not there keeps no other.
async fn redrive(client: &Client, form: Output, ids: Vec<String>) -> anyhow::Result<u8> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for id in ids {
        match client.post(&format!("{LETTERS}/{}/redrive", segment(&id)), &json!({})).await {
            Ok(_) => {
                if form == Output::Table {
                    output::line(&output::printable(&id));
                }
                done.push(id);
            }
            Err(error) => {
                eprintln!("sandbar: {}", output::shown(&format!("{id}: {error:#}")));
                failed.push(json!({ "id": id, "error": format!("{error:#}") }));
            }
        }
    }
    if form == Output::Json {
        output::json(&json!({ "redriven": done, "failed": failed }));
    }
    Ok(u8::from(!failed.is_empty()))
}

/// What became of the ticks of a script's schedule.
pub async fn ticks(global: &Global, script: &str, limit: u32) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let list = client.get(&format!("/api/functions/{}/ticks?limit={limit}", segment(script))).await?;
    match global.output {
        Output::Json => output::json(&list),
        Output::Table => {
            let row = |t: &Value| {
                let tick = if t["count"] == 1 { time(&t["tick"]) } else { format!("{} and {} before", time(&t["tick"]), t["count"].as_u64().unwrap_or(1) - 1) };
                vec![tick, cell(&t["outcome"]), cell(&t["reason"]), cell(&t["jobId"])]
            };
            let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
            output::table(&["TICK", "OUTCOME", "REASON", "JOB"], &rows);
        }
    }
    Ok(0)
}
