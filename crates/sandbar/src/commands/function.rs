//! `sandbar function`.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{sandbox, template};
use crate::{
    cli::{FunctionCommand, Global, LogsArgs, Output, SourceArgs},
    client::{Client, segment},
    output::{self, cell, time},
};

const PRODUCTION: &str = "production";
/// How long `--wait` waits, and how often it asks.
const WAIT: (Duration, Duration) = (Duration::from_secs(120), Duration::from_millis(200));

pub async fn run(global: &Global, command: FunctionCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let form = global.output;
    match command {
        FunctionCommand::Create { source, name, min_warm, wait } => create(&client, form, source, name, min_warm, wait).await?,
        FunctionCommand::Ls => list(&client, form).await?,
        FunctionCommand::Get { function } => get(&client, form, &function).await?,
        FunctionCommand::Publish { function, source, no_promote, wait } => return publish(&client, form, &function, source, !no_promote, wait).await,
        FunctionCommand::Promote { function, revision, alias, wait } => {
            set(&client, form, &function, &alias, &json!({ "revision_number": revision }), wait).await?;
        }
        FunctionCommand::Rollback { function, to, wait } => {
            let number = match to {
                Some(number) => number,
                None => before(&client, &function).await?,
            };
            set(&client, form, &function, PRODUCTION, &json!({ "revision_number": number }), wait).await?;
        }
        FunctionCommand::Split { function, weights, sticky } => {
            let weights: Vec<Value> = weights.iter().map(|(number, weight)| json!({ "revision_number": number, "weight": weight })).collect();
            set(&client, form, &function, PRODUCTION, &json!({ "weights": weights, "sticky": sticky }), false).await?;
        }
        FunctionCommand::Logs { function, tail, follow } => logs(&client, form, &function, tail, follow).await?,
        FunctionCommand::Runtime { function, restart } => runtime(&client, form, &function, restart).await?,
        FunctionCommand::Rm { functions, revision, alias } => {
            let rest = match (revision, alias) {
                (Some(number), _) => format!("/revisions/{number}"),
                (None, Some(alias)) => format!("/aliases/{}", segment(&alias)),
                (None, None) => String::new(),
            };
            // What is deleted here is gone for good, its address too: of a list with a slip in it nothing is.
            for function in &functions {
                client.get(&path(function, "")).await?;
            }
            return super::delete_each(&client, form, functions, |function| path(function, &rest)).await;
        }
    }
    Ok(0)
}

async fn create(client: &Client, form: Output, source: SourceArgs, name: Option<String>, min_warm: u32, wait: bool) -> anyhow::Result<()> {
    let mut body = json!({ "source": from(source)? });
    if let Some(name) = name {
        body["name"] = name.into();
    }
    if min_warm > 0 {
        body["autoscaling"] = json!({ "min_warm": min_warm, "max_active": min_warm.max(20), "target_concurrency": 80, "scale_down_after_seconds": 300 });
    }
    let made = client.post("/api/v1/functions", &body).await?;
    if wait {
        answers(client, &made["function"]["url"]).await?;
    }
    match form {
        Output::Json => output::json(&made),
        Output::Table => output::line(&cell(&made["function"]["url"])),
    }
    Ok(())
}

async fn list(client: &Client, form: Output) -> anyhow::Result<()> {
    let list = client.get("/api/v1/functions").await?;
    match form {
        Output::Json => output::json(&list),
        Output::Table => {
            let row = |f: &Value| vec![cell(&f["slug"]), cell(&f["name"]), cell(&f["enabled"]), cell(&f["url"]), time(&f["updated_at"])];
            let rows: Vec<_> = list["functions"].as_array().into_iter().flatten().map(row).collect();
            output::table(&["SLUG", "NAME", "ENABLED", "URL", "UPDATED"], &rows);
        }
    }
    Ok(())
}

async fn get(client: &Client, form: Output, function: &str) -> anyhow::Result<()> {
    let found = client.get(&path(function, "")).await?["function"].take();
    let revisions = client.get(&path(function, "/revisions")).await?["revisions"].take();
    let aliases = client.get(&path(function, "/aliases")).await?["aliases"].take();
    if form == Output::Json {
        output::json(&json!({ "function": found, "revisions": revisions, "aliases": aliases }));
        return Ok(());
    }
    output::record(&[
        ("id", cell(&found["id"])),
        ("slug", cell(&found["slug"])),
        ("name", cell(&found["name"])),
        ("url", cell(&found["url"])),
        ("enabled", cell(&found["enabled"])),
        ("autoscaling", cell(&found["autoscaling"])),
        ("created", time(&found["created_at"])),
        ("updated", time(&found["updated_at"])),
    ]);
    let row = |a: &Value| {
        let parts: Vec<String> = a["weights"].as_array().into_iter().flatten().map(|w| format!("{}={}", w["revision_number"], w["weight"])).collect();
        let split = if parts.len() > 1 { parts.join(" ") } else { cell(&a["revision_number"]) };
        vec![cell(&a["alias"]), split, cell(&a["url"]), time(&a["updated_at"])]
    };
    output::line("");
    output::table(&["ALIAS", "REVISION", "URL", "UPDATED"], &aliases.as_array().into_iter().flatten().map(row).collect::<Vec<_>>());
    let row = |r: &Value| {
        let source = match r["source_sandbox_id"].as_str() {
            Some(sandbox) => format!("{sandbox}/{}", cell(&r["source_service_id"])),
            None => cell(&r["source_type"]),
        };
        vec![cell(&r["revision_number"]), source, time(&r["proved_at"]), time(&r["created_at"])]
    };
    output::line("");
    output::table(&["REVISION", "SOURCE", "READY", "CREATED"], &revisions.as_array().into_iter().flatten().map(row).collect::<Vec<_>>());
    Ok(())
}

/// Exits with 1 when it was published and not promoted.
async fn publish(client: &Client, form: Output, function: &str, source: SourceArgs, promote: bool, wait: bool) -> anyhow::Result<u8> {
    let made = client.post(&path(function, "/revisions"), &json!({ "source": from(source)?, "promote": promote })).await?;
    let refused = made["promotion_error"]["message"].as_str();
    if wait && refused.is_none() && promote {
        let found = client.get(&path(function, "")).await?;
        answers(client, &found["function"]["url"]).await?;
    }
    match form {
        Output::Json => output::json(&made),
        Output::Table => output::line(&cell(&made["revision"]["revision_number"])),
    }
    if let Some(text) = refused {
        eprintln!("sandbar: {}", output::printable(text));
        return Ok(1);
    }
    Ok(0)
}

async fn set(client: &Client, form: Output, function: &str, alias: &str, body: &Value, wait: bool) -> anyhow::Result<()> {
    let set = client.put(&path(function, &format!("/aliases/{}", segment(alias))), body).await?;
    if wait {
        answers(client, &set["alias"]["url"]).await?;
    }
    match form {
        Output::Json => output::json(&set),
        Output::Table => output::line(&cell(&set["alias"]["url"])),
    }
    Ok(())
}

/// The newest revision before the one that production points to.
async fn before(client: &Client, function: &str) -> anyhow::Result<i64> {
    let production = client.get(&path(function, "/aliases/production")).await?;
    let present = production["alias"]["revision_number"].as_i64().unwrap_or_default();
    let revisions = client.get(&path(function, "/revisions")).await?;
    let numbers = revisions["revisions"].as_array().into_iter().flatten().filter_map(|revision| revision["revision_number"].as_i64());
    numbers.filter(|number| *number < present).max().with_context(|| format!("there is no revision before {present}"))
}

async fn logs(client: &Client, form: Output, function: &str, tail: Option<u32>, follow: bool) -> anyhow::Result<()> {
    let runtime = client.get(&path(function, "/runtime")).await?["runtime"].take();
    let own = runtime["runtime_sandbox_id"].as_str().map(str::to_owned);
    let serving = if runtime["serving"] == "source" {
        let revision = client.get(&path(function, &format!("/revisions/{}", runtime["revision_number"]))).await?;
        revision["revision"]["source_sandbox_id"].as_str().map(str::to_owned)
    } else {
        own
    };
    let Some(id) = serving else {
        let reason = runtime["last_error"].as_str().map(|text| format!(": {}", output::printable(text))).unwrap_or_default();
        bail!("nothing serves {function:?} now{reason}");
    };
    sandbox::logs(client, form, &LogsArgs { id, tail, follow, previous: false, timestamps: false, since: None }).await
}

async fn runtime(client: &Client, form: Output, function: &str, restart: bool) -> anyhow::Result<()> {
    let found = match restart {
        true => client.post(&path(function, "/runtime/restart"), &json!({})).await?,
        false => client.get(&path(function, "/runtime")).await?,
    };
    if form == Output::Json {
        output::json(&found);
        return Ok(());
    }
    let runtime = &found["runtime"];
    output::record(&[
        ("revision", cell(&runtime["revision_number"])),
        ("serving", cell(&runtime["serving"])),
        ("state", cell(&runtime["state"])),
        ("phase", cell(&runtime["phase"])),
        ("error", cell(&runtime["last_error"])),
        ("error at", time(&runtime["last_error_at"])),
    ]);
    let row = |i: &Value| {
        vec![
            cell(&i["sandbox_id"]),
            cell(&i["revision_number"]),
            cell(&i["state"]),
            cell(&i["in_flight"]),
            cell(&i["startup_duration_ms"]),
            time(&i["last_used_at"]),
        ]
    };
    let rows: Vec<_> = runtime["instances"].as_array().into_iter().flatten().map(row).collect();
    if !rows.is_empty() {
        output::line("");
        output::table(&["INSTANCE", "REVISION", "STATE", "REQUESTS", "START MS", "USED"], &rows);
    }
    let row = |e: &Value| vec![time(&e["created_at"]), cell(&e["reason"]), cell(&e["runtime_sandbox_id"]), cell(&e["message"])];
    let rows: Vec<_> = runtime["recent_events"].as_array().into_iter().flatten().map(row).collect();
    if !rows.is_empty() {
        output::line("");
        output::table(&["TIME", "EVENT", "INSTANCE", "MESSAGE"], &rows);
    }
    Ok(())
}

/// Waits until somebody serves a public address: whatever is answered, but that nobody is there.
async fn answers(client: &Client, url: &Value) -> anyhow::Result<()> {
    let url = url.as_str().context("the alias has no host, its name is too long")?;
    let end = Instant::now() + WAIT.0;
    loop {
        let asked = client.public_status(url, "/").await;
        match asked {
            Ok(status) if status != 502 && status != 503 => return Ok(()),
            Ok(status) if Instant::now() > end => bail!("{url} still answers {status} after {} s; `sandbar function runtime` says why", WAIT.0.as_secs()),
            Err(error) if Instant::now() > end => return Err(error),
            Ok(_) | Err(_) => tokio::time::sleep(WAIT.1).await,
        }
    }
}

fn from(source: SourceArgs) -> anyhow::Result<Value> {
    Ok(match source {
        SourceArgs { spec: Some(file), .. } => json!({ "type": "revision_spec", "revision_spec": template::read(&file)? }),
        SourceArgs { sandbox, service, spec: None } => json!({ "sandbox_id": sandbox, "service_id": service }),
    })
}

fn path(function: &str, rest: &str) -> String {
    format!("/api/v1/functions/{}{rest}", segment(function))
}
