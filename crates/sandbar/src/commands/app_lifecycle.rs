//! `sandbar app start` and whatever else is done with an app that runs.

use std::{
    io::IsTerminal,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::anyhow;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    cli::{AppLifecycleCommand, AppServiceCommand, Global, Output},
    client::{Client, segment},
    output::{self, cell, time},
};

/// Between two looks at a service that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a service that is waited for may end and be started again.
const RESTARTS_WAITED: u64 = 3;
/// Between two looks at a log that is followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

pub async fn run(global: &Global, client: &Client, command: AppLifecycleCommand) -> anyhow::Result<u8> {
    match command {
        AppLifecycleCommand::Start { app, services, all_services, keep, no_wait } => {
            let mut body = Map::new();
            if all_services {
                body.insert("services".to_owned(), "all".into());
            } else if !services.is_empty() {
                body.insert("services".to_owned(), services.into());
            }
            body.insert("keep".to_owned(), keep.into());
            body.insert("wait".to_owned(), (!no_wait).into());
            let status = client.post(&path(&app, "/start"), &Value::Object(body)).await?;
            show(global, &status);
            return Ok(u8::from(!no_wait && failed(&status)));
        }
        AppLifecycleCommand::Stop { app, delete_sandbox } => {
            let stopped = client.post(&path(&app, "/stop"), &json!({ "delete_sandbox": delete_sandbox })).await?;
            match global.output {
                Output::Json => output::json(&stopped),
                Output::Table => {
                    for process in stopped["stopped"].as_array().into_iter().flatten() {
                        output::line(&output::printable(&cell(&process["message"])));
                    }
                    match stopped["sandbox_id"].as_str() {
                        Some(id) => output::line(&format!("sandbox {id}: {}", cell(&stopped["sandbox"]))),
                        None => output::line("it had no sandbox"),
                    }
                    super::app::tell_ending(&app, &stopped["volumes_ending"]);
                }
            }
        }
        AppLifecycleCommand::Status { app } => {
            let status = client.get(&path(&app, "/status")).await?;
            show(global, &status);
            return Ok(u8::from(failed(&status)));
        }
        AppLifecycleCommand::Logs { app, service, follow: on } => {
            let source = service.as_deref().unwrap_or("start");
            if on { follow(global.output, client, &app, source).await? } else { logs(global.output, client, &app, source).await? }
        }
        AppLifecycleCommand::Open { app, port, path: to, mcp, ttl, print } => {
            let mut body = Map::new();
            body.extend(port.map(|port| ("port".to_owned(), port.into())));
            body.extend(to.map(|to| ("path".to_owned(), to.into())));
            body.extend(mcp.map(|name| ("mcp".to_owned(), name.into())));
            body.extend(ttl.map(|ttl| ("ttl_seconds".to_owned(), ttl.into())));
            let preview = client.post(&path(&app, "/previews"), &Value::Object(body)).await?;
            let url = cell(&preview["url"]);
            match global.output {
                Output::Json => output::json(&preview),
                Output::Table => output::line(&url),
            }
            if !print && global.output == Output::Table && std::io::stdout().is_terminal() && url.starts_with("http") {
                // Where there is none, the URL is printed, and that is all.
                let _ = Command::new("xdg-open").arg(&url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            }
        }
        AppLifecycleCommand::Service(command) => service(global, client, command).await?,
    }
    Ok(0)
}

async fn service(global: &Global, client: &Client, command: AppServiceCommand) -> anyhow::Result<()> {
    let of = |app: &str, service: &str, what: &str| path(app, &format!("/services/{}/{what}", segment(service)));
    match command {
        AppServiceCommand::Start { app, service, no_wait } => {
            let status = client.post(&of(&app, &service, "start"), &json!({})).await?;
            up(global, client, &app, &service, status, no_wait).await?;
        }
        AppServiceCommand::Restart { app, service, no_wait } => {
            let status = client.post(&of(&app, &service, "restart"), &json!({})).await?;
            up(global, client, &app, &service, status, no_wait).await?;
        }
        AppServiceCommand::Stop { app, service } => {
            let stopped = client.data(client.request(Method::POST, &of(&app, &service, "stop")).json(&json!({}))).await?;
            match global.output {
                Output::Json => output::json(&stopped),
                Output::Table if stopped["stopped"].is_null() => output::line("it did not run"),
                Output::Table => output::line(&output::printable(&cell(&stopped["stopped"]["message"]))),
            }
        }
    }
    Ok(())
}

/// Waits until a service that was started is ready, or is not to be, and shows the app then. That of a service is the error.
async fn up(global: &Global, client: &Client, app: &str, service: &str, mut status: Value, no_wait: bool) -> anyhow::Result<()> {
    let outcome = loop {
        if no_wait {
            break Ok(());
        }
        if let Some(outcome) = outcome(&status, service) {
            break outcome;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        status = client.get(&path(app, "/status")).await?;
    };
    show(global, &status);
    outcome.map_err(|why| anyhow!("service {service} of {app} {}", output::printable(&why)))
}

/// What came of the start of a service, if that can be told by now; else why it is not up.
fn outcome(status: &Value, service: &str) -> Option<Result<(), String>> {
    if status["desired"] != "online" {
        return Some(Err("is not up: the app was taken offline meanwhile".to_owned()));
    }
    let Some(process) = status["services"].as_array().into_iter().flatten().find(|process| process["name"] == service) else {
        return Some(Err("is not up: the app has no such service any more".to_owned()));
    };
    match process["state"].as_str().unwrap_or_default() {
        "ready" | "exited" => Some(Ok(())),
        "failed" => Some(Err(format!("failed: {}: {}", cell(&process["last_end"]["reason"]), cell(&process["last_end"]["message"])))),
        // It goes on being tried, maybe without an end. A service may need another that is not there at first.
        "starting" if !process["retry_at"].is_null() && process["restarts"].as_u64() >= Some(RESTARTS_WAITED) => {
            Some(Err(format!("does not stay up: {}", cell(&process["last_end"]["message"]))))
        }
        "unhealthy" => Some(Err("is unhealthy".to_owned())),
        // Somebody stopped it.
        "none" if process["waits_for"].is_null() => Some(Err("is not up: it was stopped meanwhile".to_owned())),
        _ => None,
    }
}

/// Prints what there is of a log, as JSON in one object.
async fn logs(form: Output, client: &Client, app: &str, source: &str) -> anyhow::Result<()> {
    let (mut since, mut all) = (String::new(), String::new());
    loop {
        let mut part = part(client, app, source, &since).await?;
        let text = part["output"].as_str().unwrap_or_default();
        match form {
            // Bounded as the log is.
            Output::Json => all.push_str(text),
            Output::Table => show_part(text),
        }
        let cursor = cell(&part["cursor"]);
        let is_more = !text.is_empty() && cursor != since;
        since = cursor;
        if !is_more {
            if form == Output::Json {
                part["output"] = all.into();
                output::json(&part);
            }
            return Ok(());
        }
    }
}

/// Goes on with what comes; as JSON an object in a line for each part.
async fn follow(form: Output, client: &Client, app: &str, source: &str) -> anyhow::Result<()> {
    let mut since = String::new();
    while !output::is_lost() {
        let part = part(client, app, source, &since).await?;
        let text = part["output"].as_str().unwrap_or_default();
        match form {
            Output::Json if text.is_empty() => {}
            Output::Json => output::line(&part.to_string()),
            Output::Table => show_part(text),
        }
        let cursor = cell(&part["cursor"]);
        if text.is_empty() || cursor == since {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
        since = cursor;
    }
    Ok(())
}

async fn part(client: &Client, app: &str, source: &str, since: &str) -> anyhow::Result<Value> {
    client.get(&path(app, &format!("/logs?source={}&since={}", segment(source), segment(since)))).await
}

fn show_part(text: &str) {
    text.lines().for_each(|line| output::line(&output::printable(line)));
}

/// Whether something of an app is not as it is to be.
fn failed(status: &Value) -> bool {
    status["state"] == "failed" || status["services"].as_array().into_iter().flatten().any(|service| service["state"] == "failed")
}

fn show(global: &Global, status: &Value) {
    if global.output == Output::Json {
        return output::json(status);
    }
    let sandbox = &status["sandbox"];
    output::record(&[
        ("app", cell(&status["app"])),
        ("state", cell(&status["state"])),
        ("wanted", cell(&status["desired"])),
        ("version", cell(&status["online_version"])),
        ("live version", cell(&status["live_version"])),
        ("sandbox", cell(&sandbox["id"])),
        ("sandbox is", cell(&sandbox["status"])),
    ]);
    if status["outdated"] == true {
        output::line("another version is live: start the app again to bring it online");
    }
    let processes: Vec<&Value> = status.get("start").into_iter().chain(status["services"].as_array().into_iter().flatten()).collect();
    if !processes.is_empty() {
        let rows: Vec<_> = processes
            .iter()
            .map(|p| vec![cell(&p["name"]), cell(&p["state"]), cell(&p["pid"]), cell(&p["restarts"]), time(&p["started_at"]), cell(&p["last_end"]["message"])])
            .collect();
        output::line("");
        output::table(&["PROCESS", "STATE", "PID", "RESTARTS", "STARTED", "LAST END"], &rows);
    }
    let ports = status["previews"].as_array().cloned().unwrap_or_default();
    if !ports.is_empty() {
        let rows: Vec<_> =
            ports.iter().map(|p| vec![cell(&p["port"]), cell(&p["process"]), cell(&p["label"]), access(p), cell(&p["state"]), place(p)]).collect();
        output::line("");
        output::table(&["PORT", "PROCESS", "LABEL", "ACCESS", "PREVIEW", "URL"], &rows);
    }
    let endpoints = status["mcp"].as_array().cloned().unwrap_or_default();
    if !endpoints.is_empty() {
        let rows: Vec<_> = endpoints.iter().map(|e| vec![cell(&e["name"]), cell(&e["process"]), access(e), cell(&e["state"]), place(e)]).collect();
        output::line("");
        output::table(&["MCP", "PROCESS", "ACCESS", "PREVIEW", "URL"], &rows);
    }
    if status["volumes"].as_array().is_some_and(|volumes| !volumes.is_empty()) {
        output::line("");
        super::app::volume_table(&status["volumes"]);
    }
    let unlisted: Vec<String> = status["unlisted"].as_array().into_iter().flatten().map(cell).collect();
    if !unlisted.is_empty() {
        output::line("");
        output::line(&format!("unlisted, and closed: somebody listens on {}, which the manifest does not declare", unlisted.join(", ")));
    }
    for process in processes.iter().filter(|process| process["state"] == "failed") {
        output::line("");
        output::line(&output::printable(&format!("{} printed last:", cell(&process["name"]))));
        for line in process["last_end"]["log_tail"].as_array().into_iter().flatten() {
            output::line(&output::printable(&format!("  {}", cell(line))));
        }
    }
}

/// Who is let in: a header's name is part of that.
fn access(of: &Value) -> String {
    let policy = &of["auth_policy"];
    match policy["type"].as_str() {
        None => cell(&of["access"]),
        Some("header") => format!("header {}", cell(&policy["header_name"])),
        Some(kind) => kind.to_owned(),
    }
}

/// Where a port or an endpoint is; its path alone while the app has no sandbox.
fn place(of: &Value) -> String {
    cell(if of["url"].is_null() { &of["path"] } else { &of["url"] })
}

fn path(app: &str, rest: &str) -> String {
    format!("/api/v1/apps/{}{rest}", segment(app))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_a_start_is_told_once_it_is_known() {
        let table = [
            (json!({ "state": "starting" }), None),
            (json!({ "state": "none", "waits_for": "db" }), None),
            (json!({ "state": "unhealthy" }), Some("is unhealthy")),
            (json!({ "state": "starting", "retry_at": "soon", "restarts": 2, "last_end": { "message": "it ended" } }), None),
            (json!({ "state": "starting", "retry_at": "soon", "restarts": 3, "last_end": { "message": "it ended" } }), Some("does not stay up: it ended")),
            (json!({ "state": "ready" }), Some("")),
            (json!({ "state": "exited" }), Some("")),
            (
                json!({ "state": "failed", "last_end": { "reason": "exit_code", "message": "it ended with exit code 3" } }),
                Some("failed: exit_code: it ended with exit code 3"),
            ),
            (json!({ "state": "none" }), Some("is not up: it was stopped meanwhile")),
        ];
        for (mut process, expected) in table {
            process["name"] = "web".into();
            let status = json!({ "desired": "online", "services": [{ "name": "other", "state": "failed" }, process] });
            let found = outcome(&status, "web").map(|outcome| outcome.err().unwrap_or_default());
            assert_eq!(found.as_deref(), expected, "{status}");
        }
        for status in [json!({ "desired": "offline", "services": [] }), json!({ "desired": "online", "services": [] })] {
            assert!(matches!(outcome(&status, "web"), Some(Err(_))), "{status}");
        }
    }
}
