//! `sandbar app`.

mod deploy;
mod init;
mod pack;
mod validate;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::given::WrongUse;
use crate::{
    cli::{AppCommand, AppVersionsCommand, Global, Output},
    client::{Client, segment},
    output::{self, cell, time},
};

pub async fn run(global: &Global, command: AppCommand) -> anyhow::Result<u8> {
    match command {
        AppCommand::Lifecycle(command) => super::app_lifecycle::run(global, &Client::from_global(global)?, command).await,
        AppCommand::Runs(command) => super::app_runs::run(global, &Client::from_global(global)?, command).await,
        AppCommand::Init(args) => init::run(global.output, &args),
        AppCommand::Validate(args) => validate::run(global.output, &args),
        AppCommand::Schema => {
            output::json(&sandbar_core::app::manifest::schema());
            Ok(0)
        }
        AppCommand::Deploy(args) => deploy::run(global, args).await,
        AppCommand::Ls => list(global).await,
        AppCommand::Get { name } => {
            let app = Client::from_global(global)?.get(&path(&name, "")).await?;
            show(global, &app);
            Ok(0)
        }
        AppCommand::Rm { names, volumes } => delete(global, names, volumes).await,
        AppCommand::Volumes { name } => volumes(global, &name).await,
        AppCommand::Manifest { name, number } => manifest(global, &name, number).await,
        AppCommand::Versions { command: Some(AppVersionsCommand::Cancel { name, number }), .. } => cancel_build(global, &name, number).await,
        AppCommand::Versions { name, command: None } => versions(global, &name.unwrap_or_default()).await,
        AppCommand::Env { name, set, unset } => env(global, &name, set, unset).await,
        AppCommand::Rollback { name, number } => rollback(global, &name, number).await,
    }
}

/// `/api/v1/apps/{name}` and what follows.
fn path(name: &str, rest: &str) -> String {
    format!("/api/v1/apps/{}{rest}", segment(name))
}

async fn list(global: &Global) -> anyhow::Result<u8> {
    let list = Client::from_global(global)?.get("/api/v1/apps").await?;
    match global.output {
        Output::Json => output::json(&list),
        Output::Table => {
            let row = |app: &Value| {
                let outdated = if app["outdated"] == true { format!("{} (outdated)", cell(&app["online_version"])) } else { cell(&app["online_version"]) };
                vec![
                    cell(&app["name"]),
                    cell(&app["desired"]),
                    cell(&app["state"]),
                    cell(&app["live_version"]),
                    outdated,
                    cell(&app["sandbox_id"]),
                    time(&app["updated_at"]),
                ]
            };
            let rows: Vec<_> = list["apps"].as_array().into_iter().flatten().map(row).collect();
            output::table(&["NAME", "WANTED", "STATE", "LIVE", "ONLINE", "SANDBOX", "CHANGED"], &rows);
        }
    }
    Ok(0)
}

fn show(global: &Global, app: &Value) {
    match global.output {
        Output::Json => output::json(app),
        Output::Table => output::record(&[
            ("name", cell(&app["name"])),
            ("description", cell(&app["description"])),
            ("wanted", cell(&app["desired"])),
            ("state", cell(&app["state"])),
            ("live version", cell(&app["live_version"])),
            ("newest version", cell(&app["last_version"])),
            ("online version", cell(&app["online_version"])),
            ("sandbox", cell(&app["sandbox_id"])),
            ("created", time(&app["created_at"])),
            ("changed", time(&app["updated_at"])),
        ]),
    }
}

async fn versions(global: &Global, name: &str) -> anyhow::Result<u8> {
    let list = Client::from_global(global)?.get(&path(name, "/versions")).await?;
    match global.output {
        Output::Json => output::json(&list),
        Output::Table => {
            let row = |version: &Value| {
                let state = if version["live"] == true { "live".to_owned() } else { cell(&version["state"]) };
                // Why it failed, in a line; all of it is in the JSON.
                let reason = version["reason"].as_str().and_then(|reason| reason.lines().next()).map(output::printable);
                vec![cell(&version["version"]), state, time(&version["created_at"]), cell(&version["message"]), reason.unwrap_or_default()]
            };
            let rows: Vec<_> = list["versions"].as_array().into_iter().flatten().map(row).collect();
            output::table(&["VERSION", "STATE", "DEPLOYED", "MESSAGE", "REASON"], &rows);
        }
    }
    Ok(0)
}

async fn delete(global: &Global, names: Vec<String>, volumes: bool) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let (mut done, mut failed, mut left, mut ending) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match client.delete(&path(&name, if volumes { "?volumes=true" } else { "" })).await {
            Ok(deleted) => {
                let of_app = deleted["volumes_left"].as_array().cloned().unwrap_or_default();
                if global.output == Output::Table {
                    output::line(&output::printable(&name));
                    for volume in &of_app {
                        let (volume, id) = (cell(&volume["name"]), cell(&volume["id"]));
                        eprintln!("sandbar: volume {volume} ({id}) is left: an app {name} has it again, and `sandbar volume rm {id}` deletes it");
                    }
                }
                if global.output == Output::Table {
                    tell_ending(&name, &deleted["volumes_ending"]);
                }
                left.extend(of_app);
                ending.extend(deleted["volumes_ending"].as_array().cloned().unwrap_or_default());
                done.push(name);
            }
            Err(error) => {
                eprintln!("sandbar: {}", output::shown(&format!("{name}: {error:#}")));
                failed.push(json!({"id": name, "error": format!("{error:#}")}));
            }
        }
    }
    if global.output == Output::Json {
        output::json(&json!({"deleted": done, "failed": failed, "volumes_left": left, "volumes_ending": ending}));
    }
    Ok(u8::from(!failed.is_empty()))
}

/// Says which volumes of an app are not gone yet.
pub(super) fn tell_ending(app: &str, ending: &Value) {
    for volume in ending.as_array().into_iter().flatten() {
        let (name, id) = (cell(&volume["name"]), cell(&volume["id"]));
        let text = format!("volume {name} ({id}) is deleted as soon as nothing uses it any more; an app {app} has a new one from now on");
        eprintln!("sandbar: {}", output::printable(&text));
    }
}

async fn volumes(global: &Global, name: &str) -> anyhow::Result<u8> {
    let list = Client::from_global(global)?.get(&path(name, "/volumes")).await?;
    match global.output {
        Output::Json => output::json(&list),
        Output::Table => volume_table(&list["volumes"]),
    }
    Ok(0)
}

/// A table of volumes as the server tells them.
pub(super) fn volume_table(volumes: &Value) {
    // A status does not measure what they hold.
    let is_measured = volumes.as_array().into_iter().flatten().any(|volume| !volume["used_bytes"].is_null());
    let row = |volume: &Value| {
        let at = volume["mount_path"].as_str().map_or_else(|| "not declared any more".to_owned(), output::printable);
        let goes = if volume["delete_on_sandbox_delete"] == true { "its sandbox" } else { "nothing" };
        let mounted = if volume["mounted"] == true { "yes" } else { "" };
        let mut row = vec![cell(&volume["name"]), cell(&volume["id"]), at];
        row.extend(is_measured.then(|| output::size_cell(&volume["used_bytes"])));
        row.extend([output::size_cell(&volume["size_limit_bytes"]), mounted.to_owned(), goes.to_owned()]);
        row
    };
    let rows: Vec<_> = volumes.as_array().into_iter().flatten().map(row).collect();
    let mut head = vec!["VOLUME", "ID", "PATH"];
    head.extend(is_measured.then_some("USED"));
    head.extend(["LIMIT", "MOUNTED", "GOES WITH"]);
    output::table(&head, &rows);
}

async fn manifest(global: &Global, name: &str, number: Option<i64>) -> anyhow::Result<u8> {
    let query = number.map(|number| format!("?version={number}")).unwrap_or_default();
    let found = Client::from_global(global)?.get(&path(name, &format!("/manifest{query}"))).await?;
    match global.output {
        Output::Json => output::json(&found),
        Output::Table => {
            for line in found["text"].as_str().unwrap_or_default().lines() {
                output::line(&output::printable(line));
            }
        }
    }
    Ok(0)
}

async fn cancel_build(global: &Global, name: &str, number: Option<i64>) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let number = match number {
        Some(number) => number,
        None => {
            let list = client.get(&path(name, "/versions")).await?;
            let building = list["versions"].as_array().into_iter().flatten().find(|version| version["state"] == "building");
            building.and_then(|version| version["version"].as_i64()).with_context(|| format!("no version of app {name:?} is being built"))?
        }
    };
    let version = client.post(&path(name, &format!("/versions/{number}/cancel")), &json!({})).await?;
    match global.output {
        Output::Json => output::json(&version),
        Output::Table if version["state"] == "building" => output::line(&format!("the build of version {number} of {name} is about to end")),
        Output::Table => {
            let reason = version["reason"].as_str().unwrap_or_default();
            output::line(&output::printable(&format!(
                "version {number} of {name} is {}{}{reason}",
                cell(&version["state"]),
                if reason.is_empty() { "" } else { ": " }
            )));
        }
    }
    Ok(0)
}

async fn env(global: &Global, name: &str, set: Vec<String>, unset: Vec<String>) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let mut named: Vec<(String, Value)> = Vec::new();
    for given in set {
        let (name, value) = match given.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                // Why not is of no help: it is not there, or no text.
                let value =
                    std::env::var(&given).map_err(|_| WrongUse::error(format!("{given} is no variable of this command's environment; give {given}=VALUE")))?;
                (given, value)
            }
        };
        named.push((name, value.into()));
    }
    named.extend(unset.into_iter().map(|name| (name, Value::Null)));
    let mut values = serde_json::Map::new();
    for (name, value) in named {
        if values.insert(name.clone(), value).is_some() {
            return Err(WrongUse::error(format!("{name} is named twice")));
        }
    }
    let path = path(name, "/env");
    let list = if values.is_empty() { client.get(&path).await? } else { client.put(&path, &values.into()).await? };
    match global.output {
        Output::Json => output::json(&list),
        Output::Table => {
            let row = |env: &Value| {
                let state = match (env["given"] == true, env["asked"] == true, env["required"] == true) {
                    (true, true, _) => "given",
                    (true, false, _) => "given, not asked for",
                    (false, _, true) => "missing",
                    (false, _, false) => "not given",
                };
                vec![cell(&env["name"]), state.to_owned(), time(&env["updated_at"]), cell(&env["description"])]
            };
            let rows: Vec<_> = list["env"].as_array().into_iter().flatten().map(row).collect();
            output::table(&["NAME", "STATE", "CHANGED", "WHAT FOR"], &rows);
        }
    }
    Ok(0)
}

async fn rollback(global: &Global, name: &str, version: Option<i64>) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let version = match version {
        Some(version) => version,
        None => {
            let list = client.get(&path(name, "/versions")).await?;
            let versions: Vec<&Value> = list["versions"].as_array().into_iter().flatten().collect();
            let number = |version: &Value| version["version"].as_i64();
            let live = versions.iter().find(|version| version["live"] == true).and_then(|version| number(version));
            let Some(live) = live else { bail!("app {name:?} has no live version") };
            let before =
                versions.iter().filter(|version| version["state"] == "ready").filter_map(|version| number(version)).filter(|number| *number < live).max();
            before.with_context(|| format!("app {name:?} has no version that is ready before {live}"))?
        }
    };
    let app = client.post(&path(name, "/rollback"), &json!({ "version": version })).await?;
    match global.output {
        Output::Json => output::json(&app),
        Output::Table => {
            output::line(&format!("version {version} of {name} is live"));
            if app["outdated"] == true {
                output::line(&format!("version {} is still online; `sandbar app start {name}` brings version {version} online", cell(&app["online_version"])));
            }
        }
    }
    Ok(0)
}
