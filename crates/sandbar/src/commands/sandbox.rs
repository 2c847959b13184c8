//! `sandbar sandbox`.

use std::io::Read;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{copy, exec, network, preview, sandbox_function, service, ssh};
use crate::{
    cli::{CreateArgs, EventsArgs, Global, ListArgs, LogsArgs, Output, RunArgs, SandboxCommand},
    client::{Client, sandbox_path, segment},
    output::{self, cell, time},
};

/// The largest page the API gives.
const PAGE_MAX: u32 = 200;
/// Code and configuration read from a file or pipe.
const INPUT_BYTES_MAX: u64 = 16 << 20;

pub async fn run(global: &Global, command: SandboxCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let form = global.output;
    match command {
        SandboxCommand::Create(args) => create(&client, form, args).await?,
        SandboxCommand::Ls(args) => list(&client, form, &args).await?,
        SandboxCommand::Get { id } => get(&client, form, &id).await?,
        SandboxCommand::Exec(args) => return exec::command(&client, form, args).await,
        SandboxCommand::Shell(args) => return exec::shell(&client, args).await,
        SandboxCommand::Ssh(args) => return ssh::run(&client, args).await,
        SandboxCommand::Run(args) => return run_code(&client, form, args).await,
        SandboxCommand::Cp(args) => copy::run(&client, form, &args).await?,
        SandboxCommand::Logs(args) => logs(&client, form, &args).await?,
        SandboxCommand::Events(args) => events(&client, form, &args).await?,
        SandboxCommand::Net(args) => network::events(&client, form, &args).await?,
        SandboxCommand::Pause { id, hibernate: false } => change(&client, form, &id, "/pause", &json!({})).await?,
        // Only what is paused can hibernate.
        SandboxCommand::Pause { id, hibernate: true } => {
            client.post(&sandbox_path(&id, "/pause"), &json!({})).await?;
            change(&client, form, &id, "/hibernate", &json!({})).await?;
        }
        SandboxCommand::Fork { id } => {
            let made = client.post(&sandbox_path(&id, "/fork"), &json!({})).await?;
            match form {
                Output::Json => output::json(&made),
                Output::Table => println!("{}", made["sandbox"]["id"].as_str().unwrap_or_default()),
            }
        }
        SandboxCommand::Resume { id } => change(&client, form, &id, "/resume", &json!({})).await?,
        SandboxCommand::Refresh { id, duration } => {
            let body = duration.map_or_else(|| json!({}), |seconds| json!({"duration": seconds}));
            change(&client, form, &id, "/refresh", &body).await?;
        }
        SandboxCommand::Function(command) => return sandbox_function::run(&client, form, command).await,
        SandboxCommand::Service(command) => service::run(&client, form, command).await?,
        SandboxCommand::Preview(command) => return preview::run(&client, form, command).await,
        SandboxCommand::Rm { ids } => return super::delete_each(&client, form, ids, |id| sandbox_path(id, "")).await,
    }
    Ok(0)
}

async fn create(client: &Client, form: Output, args: CreateArgs) -> anyhow::Result<()> {
    let mut config: Map<String, Value> = match &args.config {
        Some(path) => serde_json::from_str(&read_text(&path.to_string_lossy())?).with_context(|| format!("{} holds no JSON object", path.display()))?,
        None => Map::new(),
    };
    if !args.env.is_empty() {
        let env = part(&mut config, "env_vars")?;
        for (name, value) in args.env {
            env.insert(name, value.into());
        }
    }
    let numbers = [("ttl", args.ttl), ("hard_ttl", args.hard_ttl)];
    for (key, seconds) in numbers.into_iter().filter_map(|(key, value)| value.map(|v| (key, v))) {
        config.insert(key.into(), seconds.into());
    }
    if args.no_auto_resume {
        config.insert("auto_resume".into(), false.into());
    }
    if args.block_network {
        config.insert("network".into(), json!({"mode": "block-all"}));
    }
    for (key, value) in [("memory", args.memory), ("cpu", args.cpu)] {
        if let Some(value) = value {
            part(&mut config, "resources")?.insert(key.into(), value.into());
        }
    }
    let mut body = json!({"template": args.template});
    if !config.is_empty() {
        body["config"] = config.into();
    }
    let made = client.post("/api/v1/sandboxes", &body).await?;
    match form {
        Output::Json => output::json(&made),
        // Only the id, so that ID=$(sandbar sandbox create) works.
        Output::Table => output::line(&output::printable(&cell(&made["sandbox_id"]))),
    }
    Ok(())
}

/// The object `name` of a configuration, made when it is absent or null.
fn part<'a>(config: &'a mut Map<String, Value>, name: &str) -> anyhow::Result<&'a mut Map<String, Value>> {
    let part = config.entry(name).or_insert_with(|| json!({}));
    if part.is_null() {
        *part = json!({});
    }
    part.as_object_mut().with_context(|| format!("{name} of the configuration is no JSON object"))
}

async fn list(client: &Client, form: Output, args: &ListArgs) -> anyhow::Result<()> {
    let wanted = args.limit.unwrap_or(u32::MAX);
    if wanted == 0 {
        bail!("--limit must be at least 1");
    }
    let mut rows: Vec<Value> = Vec::new();
    let (mut more, mut count) = (true, Value::Null);
    while more && rows.len() < wanted as usize {
        let limit = wanted.saturating_sub(rows.len() as u32).min(PAGE_MAX);
        let mut query: Vec<(&str, String)> = vec![("limit", limit.to_string()), ("offset", (u64::from(args.offset) + rows.len() as u64).to_string())];
        query.extend(args.status.iter().map(|v| ("status", v.clone())));
        query.extend(args.template.iter().map(|v| ("template_id", v.clone())));
        query.extend(args.paused.iter().map(|v| ("paused", v.to_string())));
        let page = client.data(client.request(Method::GET, "/api/v1/sandboxes").query(&query)).await?;
        let part = page["sandboxes"].as_array().cloned().unwrap_or_default();
        more = page["has_more"].as_bool().unwrap_or(false) && !part.is_empty();
        count = page["count"].clone();
        rows.extend(part);
    }
    match form {
        Output::Json => output::json(&json!({"sandboxes": rows, "count": count, "has_more": more})),
        Output::Table if args.quiet => rows.iter().for_each(|row| output::line(&output::printable(&cell(&row["id"])))),
        Output::Table => {
            let lines: Vec<Vec<String>> = rows
                .iter()
                .map(|s| vec![cell(&s["id"]), status(s), cell(&s["template_id"]), time(&s["created_at"]), time(&s["expires_at"]), time(&s["hard_expires_at"])])
                .collect();
            output::table(&["ID", "STATUS", "TEMPLATE", "CREATED", "EXPIRES", "HARD EXPIRES"], &lines);
        }
    }
    Ok(())
}

fn status(sandbox: &Value) -> String {
    if sandbox["lifecycle_state"] == "cleaned" { "cleaned".into() } else { cell(&sandbox["status"]) }
}

async fn get(client: &Client, form: Output, id: &str) -> anyhow::Result<()> {
    let s = client.get(&sandbox_path(id, "")).await?;
    match form {
        Output::Json => output::json(&s),
        Output::Table => {
            let power = &s["power_state"];
            let power_text = if power.is_object() {
                format!("{} (wanted {}, {})", cell(&power["observed"]), cell(&power["desired"]), cell(&power["phase"]))
            } else {
                String::new()
            };
            output::record(&[
                ("id", cell(&s["id"])),
                ("status", status(&s)),
                ("reason", cell(&s["status_reason"])),
                ("template", cell(&s["template_id"])),
                ("team", cell(&s["team_id"])),
                ("user", cell(&s["user_id"])),
                ("power", power_text),
                ("runtime", cell(&s["runtime_id"])),
                ("runtime generation", cell(&s["runtime_generation"])),
                ("auto resume", cell(&s["auto_resume"])),
                ("resources", cell(&s["resources"])),
                ("claimed", time(&s["claimed_at"])),
                ("updated", time(&s["updated_at"])),
                ("expires", time(&s["expires_at"])),
                ("hard expires", time(&s["hard_expires_at"])),
            ]);
        }
    }
    Ok(())
}

async fn change(client: &Client, form: Output, id: &str, verb: &str, body: &Value) -> anyhow::Result<()> {
    let reply = client.post(&sandbox_path(id, verb), body).await?;
    match form {
        Output::Json => output::json(&reply),
        Output::Table if verb == "/refresh" => {
            output::record(&[("id", id.into()), ("expires", time(&reply["expires_at"])), ("hard expires", time(&reply["hard_expires_at"]))])
        }
        Output::Table => output::line(id),
    }
    Ok(())
}

/// Deletes all that it can and says at the end what it could not.
async fn run_code(client: &Client, form: Output, args: RunArgs) -> anyhow::Result<u8> {
    let code = match args.code.as_deref() {
        Some(code) if code != "-" => code.to_owned(),
        _ => read_text("-")?,
    };
    if code.trim().is_empty() {
        bail!("there is no code to run");
    }
    let contexts = sandbox_path(&args.id, "/contexts");
    let context = match &args.context {
        Some(context) => context.clone(),
        None => {
            let made = client.post(&contexts, &json!({"type": "repl", "repl": {"alias": args.language}})).await?;
            cell(&made["id"])
        }
    };
    let path = format!("{contexts}/{}", segment(&context));
    let ours = args.context.is_none() && !args.keep;
    let (exec_path, body) = (format!("{path}/exec"), json!({"data": code}));
    let result = tokio::select! {
        result = client.post(&exec_path, &body) => Some(result),
        _ = tokio::signal::ctrl_c() => None,
    };
    if ours {
        let _ = client.delete(&path).await;
    }
    let Some(result) = result else {
        // A REPL that stays is interrupted as by Ctrl-C at its prompt.
        if !ours {
            client.post(&format!("{path}/signal"), &json!({"signal": "INT"})).await?;
        }
        return Ok(exec::INTERRUPTED);
    };
    let mut result = result?;
    match form {
        Output::Json => {
            result["context_id"] = context.into();
            output::json(&result);
        }
        Output::Table => {
            let text = cell(&result["output_raw"]);
            output::write(text.as_bytes());
            if !text.is_empty() && !text.ends_with('\n') {
                output::write(b"\n");
            }
            if args.keep && args.context.is_none() {
                eprintln!("context {context}");
            }
        }
    }
    if form == Output::Table && result["truncated"] == true {
        eprintln!("sandbar: the output was longer and is cut; write it to a file in the sandbox and fetch it with `sandbar sandbox cp`");
    }
    // A REPL that ended while it ran the code has an exit code; one that waits for more has none.
    Ok(result["exit_code"].as_i64().map_or(0, exec::exit_byte))
}

pub(super) async fn logs(client: &Client, form: Output, args: &LogsArgs) -> anyhow::Result<()> {
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(args.tail.map(|n| ("tail_lines", n.to_string())));
    query.extend(args.since.map(|n| ("since_seconds", n.to_string())));
    for (name, on) in [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)] {
        if on {
            query.push((name, "true".into()));
        }
    }
    let response = client.send(client.request(Method::GET, &sandbox_path(&args.id, "/logs")).query(&query)).await?;
    if form == Output::Json && !args.follow {
        let text = response.text().await.context("the logs broke off")?;
        output::json(&json!({"sandbox_id": args.id, "logs": text}));
        return Ok(());
    }
    let mut stream = response.bytes_stream();
    let mut line = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.context("the logs broke off")?;
        if form == Output::Table {
            output::write(&chunk);
        }
        if output::is_lost() {
            return Ok(());
        }
        if form == Output::Table {
            continue;
        }
        // Followed as JSON: one object a line.
        line.extend_from_slice(&chunk);
        while let Some(end) = line.iter().position(|b| *b == b'\n') {
            let rest = line.split_off(end + 1);
            output::line(&json!({"line": String::from_utf8_lossy(&line[..end])}).to_string());
            line = rest;
        }
    }
    Ok(())
}

async fn events(client: &Client, form: Output, args: &EventsArgs) -> anyhow::Result<()> {
    let query = [("after", args.after.to_string()), ("limit", args.limit.to_string())];
    let page = client.data(client.request(Method::GET, &sandbox_path(&args.id, "/events")).query(&query)).await?;
    match form {
        Output::Json => output::json(&page),
        Output::Table => {
            let rows: Vec<Vec<String>> = page["events"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|e| vec![cell(&e["seq"]), time(&e["at"]), cell(&e["type"]), cell(&e["reason_code"]), cell(&e["message"])])
                .collect();
            output::table(&["SEQ", "TIME", "EVENT", "REASON", "DETAIL"], &rows);
        }
    }
    Ok(())
}

fn read_text(path: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == "-" {
        std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text))
    };
    read.with_context(|| if path == "-" { "cannot read standard input".to_owned() } else { format!("cannot read {path}") })?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        bail!("{path} is larger than {INPUT_BYTES_MAX} bytes");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_configuration_is_made_or_refused() {
        let mut config = Map::from_iter([("a".to_owned(), Value::Null), ("b".to_owned(), json!("text"))]);
        for name in ["a", "new"] {
            part(&mut config, name).expect("an object").insert("k".into(), 1.into());
            assert_eq!(config[name], json!({"k": 1}));
        }
        assert!(part(&mut config, "b").is_err());
    }
}
