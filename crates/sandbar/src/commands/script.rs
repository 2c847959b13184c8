//! `sandbar script`.

use std::path::Path;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use sandbar_core::limits;
use serde_json::{Value, json};

use super::given::{self, WrongUse};
use crate::{
    cli::{Global, Output, ScriptAliasCommand, ScriptCommand, ScriptInvokeArgs, ScriptKeyCommand, ScriptSecretCommand},
    client::{Client, segment},
    output::{self, cell, time},
};

mod local;
mod put;
mod runs;
mod show;

pub use local::NoEngine;

const SCRIPTS: &str = "/api/functions";
/// Of code, data and secrets from files.
const FILE_MAX_BYTES: usize = limits::SCRIPT_INPUT_MAX_BYTES;

pub async fn run(global: &Global, command: ScriptCommand) -> anyhow::Result<u8> {
    if let ScriptCommand::Run(args) = command {
        return local::run(global.output, args).await;
    }
    let client = Client::from_global(global)?;
    match command {
        ScriptCommand::Put(args) => put::run(global, &client, *args).await?,
        ScriptCommand::Ls => {
            let list = client.get(SCRIPTS).await?;
            let row = |s: &Value| {
                vec![
                    cell(&s["name"]),
                    cell(&s["trigger"]),
                    cell(&s["pattern"]),
                    cell(&s["access"]),
                    cell(&s["active"]),
                    cell(&s["version"]),
                    time(&s["updatedAt"]),
                ]
            };
            rows(global, &list, &["NAME", "TRIGGER", "PATTERN", "ACCESS", "ACTIVE", "VERSION", "UPDATED"], row);
        }
        ScriptCommand::Get { script, code: true, version } => {
            let found = match version {
                Some(version) => client.get(&path(&script, &format!("/versions/{version}"))).await?,
                None => client.get(&path(&script, "")).await?,
            };
            output::text(found["code"].as_str().unwrap_or_default().trim_end_matches('\n'));
        }
        ScriptCommand::Get { script, .. } => show::script(global, &client.get(&path(&script, "")).await?),
        ScriptCommand::Rm { scripts } => return super::delete_each(&client, global.output, scripts, |name| path(name, "")).await,
        ScriptCommand::Run(_) => {}
        ScriptCommand::Invoke(args) => return invoke(global, &client, args).await,
        ScriptCommand::Logs { script, follow, limit } => return runs::logs(&client, &script, follow, limit).await,
        ScriptCommand::Runs { script, status, trigger, limit } => runs::list(global, &client, script, status, trigger, limit).await?,
        ScriptCommand::Show { run } => runs::show(global, &client, &run).await?,
        ScriptCommand::Replay { run, version } => return runs::replay(global, &client, &run, version).await,
        ScriptCommand::Versions { script } => {
            let list = client.get(&path(&script, "/versions")).await?;
            let row = |v: &Value| {
                let hash = cell(&v["hash"]).chars().take(12).collect();
                vec![cell(&v["version"]), hash, cell(&v["language"]), texts(&v["aliases"]), cell(&v["authorKind"]), time(&v["createdAt"])]
            };
            rows(global, &list, &["VERSION", "HASH", "LANGUAGE", "ALIASES", "AUTHOR", "CREATED"], row);
        }
        ScriptCommand::Rollback { script, version } => {
            let body = version.map_or(json!({}), |version| json!({ "version": version }));
            show::script(global, &client.post(&path(&script, "/rollback"), &body).await?);
        }
        ScriptCommand::Alias(command) => alias(global, &client, command).await?,
        ScriptCommand::Secret(command) => secret(global, &client, command).await?,
        ScriptCommand::Key(command) => key(global, &client, command).await?,
        ScriptCommand::Outbox(command) => return super::outbox::run(global, command).await,
        ScriptCommand::DeadLetters(command) => return super::dead_letters::run(global, command).await,
        ScriptCommand::Jobs { script, state, limit } => return super::dead_letters::jobs(global, script, state, limit).await,
        ScriptCommand::Ticks { script, limit } => return super::dead_letters::ticks(global, &script, limit).await,
    }
    Ok(0)
}

/// The exit code is 1 when the script failed.
async fn invoke(global: &Global, client: &Client, args: ScriptInvokeArgs) -> anyhow::Result<u8> {
    let query: Vec<String> = [
        args.is_async.then(|| "mode=async".to_owned()),
        args.alias.map(|alias| format!("alias={}", segment(&alias))),
        args.version.map(|version| format!("version={version}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let target = format!("{}?{}", path(&args.script, "/invoke"), query.join("&"));
    let mut request =
        client.request(Method::POST, &target).header("content-type", "application/json").body(given::json_text("--data", &args.data, FILE_MAX_BYTES)?);
    if let Some(key) = args.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let response = request.send().await.with_context(|| format!("the connection to {} failed", client.base()))?;
    let status = response.status();
    let body: Value = response.json().await.context("the server sent no JSON; is it a Sandbar server?")?;
    if let Some(error) = body.get("error").filter(|error| error.is_object()) {
        bail!("{} ({}, HTTP {})", cell(&error["message"]), cell(&error["code"]), status.as_u16());
    }
    if status == StatusCode::ACCEPTED {
        match global.output {
            Output::Json => output::json(&body),
            Output::Table => output::line(&cell(&body["invocationId"])),
        }
        return Ok(0);
    }
    Ok(print_result(global.output, &body))
}

/// What a script came to: its logs on standard error, its value on standard output.
fn print_result(form: Output, result: &Value) -> u8 {
    match form {
        Output::Json => output::json(result),
        Output::Table => {
            for line in result["logs"].as_array().into_iter().flatten() {
                eprintln!("{}", output::shown(&cell(line)));
            }
            if result["ok"] == true {
                match &result["value"] {
                    Value::Null if result.get("value").is_none() => {}
                    Value::String(text) => output::text(text),
                    value => output::text(&value.to_string()),
                }
            } else {
                // Who is no member is told no name.
                let name = result["errorName"].as_str().map(|name| format!("{name}: ")).unwrap_or_default();
                eprintln!("sandbar: {}", output::shown(&format!("{name}{} ({})", cell(&result["error"]), cell(&result["code"]))));
                for line in result["stack"].as_str().unwrap_or_default().lines() {
                    eprintln!("  {}", output::printable(line.trim()));
                }
            }
        }
    }
    u8::from(result["ok"] != true)
}

async fn alias(global: &Global, client: &Client, command: ScriptAliasCommand) -> anyhow::Result<()> {
    match command {
        ScriptAliasCommand::Set { script, alias, versions } => {
            let parts = versions.iter().map(|text| part(text)).collect::<anyhow::Result<Vec<_>>>()?;
            let body = match parts.as_slice() {
                [(version, _)] => json!({ "version": version }),
                parts => json!({ "split": parts.iter().map(|(version, weight)| json!({ "version": version, "weight": weight })).collect::<Vec<_>>() }),
            };
            let set = client.put(&path(&script, &format!("/aliases/{}", segment(&alias))), &body).await?;
            match global.output {
                Output::Json => output::json(&set),
                Output::Table => output::record(&[("alias", cell(&set["alias"])), ("version", cell(&set["version"]))]),
            }
        }
        ScriptAliasCommand::Rm { script, alias } => drop(client.delete(&path(&script, &format!("/aliases/{}", segment(&alias)))).await?),
    }
    Ok(())
}

/// VERSION, or VERSION=WEIGHT.
fn part(text: &str) -> anyhow::Result<(u32, u32)> {
    let (version, weight) = text.split_once('=').unwrap_or((text, "1"));
    let number = |text: &str| text.parse().with_context(|| WrongUse(format!("{text:?} is no number; a part is VERSION or VERSION=WEIGHT")));
    Ok((number(version)?, number(weight)?))
}

async fn secret(global: &Global, client: &Client, command: ScriptSecretCommand) -> anyhow::Result<()> {
    let of = |script: &str, name: &str| path(script, &format!("/secrets/{}", segment(name)));
    match command {
        ScriptSecretCommand::Ls { script } => {
            let list = client.get(&path(&script, "/secrets")).await?;
            rows(global, &list, &["NAME", "VERSION", "UPDATED"], |s| vec![cell(&s["name"]), cell(&s["version"]), time(&s["updatedAt"])]);
        }
        ScriptSecretCommand::Set { script, name, from } => {
            let value = match from.strip_prefix("env:") {
                Some(variable) => std::env::var(variable).with_context(|| WrongUse(format!("the variable {variable} is not set")))?,
                None => given::text_of(Path::new(&from), FILE_MAX_BYTES)?.trim_end_matches(['\r', '\n']).to_owned(),
            };
            client.put(&of(&script, &name), &json!({ "value": value })).await?;
        }
        ScriptSecretCommand::Rm { script, name } => drop(client.delete(&of(&script, &name)).await?),
    }
    Ok(())
}

async fn key(global: &Global, client: &Client, command: ScriptKeyCommand) -> anyhow::Result<()> {
    match command {
        ScriptKeyCommand::Ls { script } => {
            let list = client.get(&path(&script, "/keys")).await?;
            rows(global, &list, &["ID", "NAME", "CREATED"], |k| vec![cell(&k["id"]), cell(&k["name"]), time(&k["createdAt"])]);
        }
        ScriptKeyCommand::Create { script, name } => {
            let made = client.post(&path(&script, "/keys"), &json!({ "name": name })).await?;
            match global.output {
                Output::Json => output::json(&made),
                Output::Table => output::line(&cell(&made["key"])),
            }
        }
        ScriptKeyCommand::Rm { script, key } => drop(client.delete(&path(&script, &format!("/keys/{}", segment(&key)))).await?),
    }
    Ok(())
}

fn rows(global: &Global, list: &Value, header: &[&str], row: impl Fn(&Value) -> Vec<String>) {
    match global.output {
        Output::Json => output::json(list),
        Output::Table => output::table(header, &list.as_array().into_iter().flatten().map(row).collect::<Vec<_>>()),
    }
}

fn path(script: &str, rest: &str) -> String {
    format!("{SCRIPTS}/{}{rest}", segment(script))
}

fn texts(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(cell).collect::<Vec<_>>().join(" ")
}

fn language_of(file: &Path) -> &'static str {
    match file.extension().and_then(|end| end.to_str()) {
        Some("ts" | "mts") => "typescript",
        _ => "javascript",
    }
}
