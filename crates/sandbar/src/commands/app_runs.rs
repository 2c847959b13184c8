//! `sandbar app run` and what is done with runs.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use reqwest::Method;
use sandbar_core::limits::apps::APP_INPUT_MAX_BYTES;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use super::given::{self, WrongUse};
use crate::{
    cli::{AppRunArgs, AppRunsCommand, Global, Output, RunsCommand},
    client::{Client, Refusal, segment},
    output::{self, cell, time},
};

mod files;

/// Between two looks at a log that is followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// Of a command in a list.
const COMMAND_SHOWN_CHARS: usize = 40;
/// How long a server that does not answer is waited for, and between two tries.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
/// What a run exits with here that was ended because its time was up, as `timeout` does; that was cancelled; that came to no exit code.
const TIMED_OUT: u8 = 124;
const CANCELLED: u8 = 130;
pub const NO_CODE: u8 = 125;

/// What keeps us from saying how a run ended, which goes on without us.
#[derive(Debug)]
pub struct GoesOn(String);

impl fmt::Display for GoesOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {0} goes on: `sandbar app runs logs {0} --follow` shows it", self.0)
    }
}

pub async fn run(global: &Global, client: &Client, command: AppRunsCommand) -> anyhow::Result<u8> {
    match command {
        AppRunsCommand::Run(args) => start(global, client, args).await,
        AppRunsCommand::Runs(command) => runs(global, client, command).await,
        AppRunsCommand::Schedules(command) => super::app_schedules::run(global, client, command).await,
        AppRunsCommand::Artifacts { run, dir } => artifacts(global, client, &run, dir.as_deref()).await,
        AppRunsCommand::Receipts(args) => super::app_receipts::run(global, client, args).await,
    }
}

async fn start(global: &Global, client: &Client, args: AppRunArgs) -> anyhow::Result<u8> {
    let mut body = Map::from_iter([("action".to_owned(), args.action.into())]);
    if let Some(text) = &args.input {
        body.insert("input".to_owned(), given::json("--input", text, APP_INPUT_MAX_BYTES)?);
    }
    if !args.files.is_empty() {
        body.insert("files".to_owned(), files::read(&args.files)?);
    }
    if args.fresh {
        body.insert("sandbox".to_owned(), "fresh".into());
    }
    body.extend(args.cleanup.map(|policy| ("cleanup".to_owned(), policy.into())));
    body.extend(args.timeout.map(|seconds| ("timeout_seconds".to_owned(), seconds.into())));
    let mut env = Map::new();
    for pair in &args.env {
        let (name, value) = pair.split_once('=').with_context(|| WrongUse(format!("--env {pair:?} is not of the form NAME=VALUE")))?;
        if env.insert(name.to_owned(), value.into()).is_some() {
            return Err(WrongUse::error(format!("--env names {name} twice")));
        }
    }
    if !env.is_empty() {
        body.insert("env".to_owned(), env.into());
    }
    let mut request = client.request(Method::POST, &format!("/api/v1/apps/{}/runs", segment(&args.app))).json(&body);
    if let Some(key) = &args.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let asked = client.data(request).await?["run"].take();
    let id = cell(&asked["id"]);
    if args.no_wait {
        match global.output {
            Output::Json => output::json(&asked),
            Output::Table => output::line(&id),
        }
        return Ok(0);
    }
    let mut watched = pin!(watch(global.output, client, &id));
    let run = tokio::select! {
        run = &mut watched => run,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("sandbar: cancelling run {id}");
            let cancelled = client.post(&path(&id, "/cancel"), &json!({})).await;
            tokio::select! {
                run = &mut watched => cancelled.and(run),
                _ = tokio::signal::ctrl_c() => bail!("run {id} may go on: `sandbar app runs get {id}` says"),
            }
        }
    };
    let run = run.context(GoesOn(id.clone()))?;
    match global.output {
        Output::Json => output::json(&run),
        Output::Table => tell_end(&run),
    }
    Ok(code_of(&run))
}

/// Shows what a run prints, unless JSON is wanted, and returns how it ended.
async fn watch(form: Output, client: &Client, id: &str) -> anyhow::Result<Value> {
    if form == Output::Table {
        follow(form, client, id).await?;
    }
    ended(client, id).await
}

/// A server that is started anew meanwhile is waited for: the run goes on without it.
async fn patiently(client: &Client, path: &str) -> anyhow::Result<Value> {
    let begun = Instant::now();
    loop {
        match client.get(path).await {
            Err(error) if !error.is::<Refusal>() && begun.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
            read => return read,
        }
    }
}

async fn ended(client: &Client, id: &str) -> anyhow::Result<Value> {
    loop {
        let run = patiently(client, &format!("{}?wait=60", path(id, ""))).await?["run"].take();
        if !matches!(run["status"].as_str(), Some("queued" | "running")) {
            return Ok(run);
        }
    }
}

/// Prints a log from its begin until the run has ended. As JSON an object in a line for each piece that came, and for the end.
async fn follow(form: Output, client: &Client, id: &str) -> anyhow::Result<()> {
    let mut since = 0;
    loop {
        let piece = patiently(client, &path(id, &format!("/logs?since={since}"))).await?;
        let cursor = piece["cursor"].as_u64().unwrap_or(since);
        let (is_more, ended) = (cursor > since, piece["completed"] == true);
        match form {
            Output::Table => show_piece(&piece),
            Output::Json if is_more || ended => output::line(&piece.to_string()),
            Output::Json => {}
        }
        since = cursor;
        if ended || output::is_lost() {
            return Ok(());
        }
        if !is_more {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

/// Prints what there is of a log, as JSON in one object.
async fn logs(form: Output, client: &Client, id: &str) -> anyhow::Result<()> {
    let (mut since, mut text) = (0, String::new());
    loop {
        let mut piece = patiently(client, &path(id, &format!("/logs?since={since}"))).await?;
        match form {
            Output::Table => show_piece(&piece),
            // Bounded as the log is.
            Output::Json => text.push_str(piece["output"].as_str().unwrap_or_default()),
        }
        let cursor = piece["cursor"].as_u64().unwrap_or(since);
        let is_more = cursor > since && piece["completed"] != true;
        since = cursor;
        if !is_more {
            if form == Output::Json {
                piece["output"] = text.into();
                output::json(&piece);
            }
            return Ok(());
        }
    }
}

/// Lines and tabs as they are; what could draw on a terminal is shown and not obeyed.
fn show_piece(piece: &Value) {
    let text = piece["output"].as_str().unwrap_or_default();
    let shown = text.split_inclusive('\n').map(|line| match line.strip_suffix('\n') {
        Some(line) => output::printable(line) + "\n",
        None => output::printable(line),
    });
    output::write(shown.collect::<String>().as_bytes());
}

fn tell_end(run: &Value) {
    let id = cell(&run["id"]);
    match run["status"].as_str() {
        Some("succeeded") => {}
        status => eprintln!("sandbar: run {id} {}: {}", status.unwrap_or_default(), output::printable(&cell(&run["message"]).replace('\n', "; "))),
    }
    for artifact in run["artifacts"].as_array().into_iter().flatten() {
        let (path, error) = (output::printable(&cell(&artifact["path"])), output::printable(&cell(&artifact["error"])));
        match artifact["status"].as_str() {
            Some("captured") => eprintln!("sandbar: artifact {} {path}", artifact["number"]),
            Some("missing") => eprintln!("sandbar: artifact {path} is missing"),
            _ => eprintln!("sandbar: artifact {path} was not captured: {error}"),
        }
    }
}

fn code_of(run: &Value) -> u8 {
    match run["status"].as_str() {
        Some("succeeded") => 0,
        Some("timed_out") => TIMED_OUT,
        Some("cancelled") => CANCELLED,
        _ => run["exit_code"].as_u64().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(NO_CODE),
    }
}

async fn runs(global: &Global, client: &Client, command: RunsCommand) -> anyhow::Result<u8> {
    match command {
        RunsCommand::Ls { app, action, status, limit } => {
            let mut query = format!("/api/v1/apps/{}/runs?limit={limit}", segment(&app));
            for (name, value) in [("action", action), ("status", status)] {
                query.extend(value.map(|value| format!("&{name}={}", segment(&value))));
            }
            let list = client.get(&query).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let row = |run: &Value| {
                        let why = [&run["phase"], &run["failure_reason"]].into_iter().map(cell).find(|text| !text.is_empty()).unwrap_or_default();
                        vec![
                            cell(&run["id"]),
                            cell(&run["kind"]),
                            what(run),
                            cell(&run["schedule"]),
                            cell(&run["version"]),
                            cell(&run["status"]),
                            why,
                            cell(&run["exit_code"]),
                            time(&run["created_at"]),
                        ]
                    };
                    let rows: Vec<_> = list["runs"].as_array().into_iter().flatten().map(row).collect();
                    output::table(&["RUN", "KIND", "WHAT", "SCHEDULE", "VERSION", "STATUS", "WHY", "EXIT", "CREATED"], &rows);
                }
            }
        }
        RunsCommand::Get { run } => show(global, client.get(&path(&run, "")).await?["run"].take()),
        RunsCommand::Logs { run, follow: true } => follow(global.output, client, &run).await?,
        RunsCommand::Logs { run, follow: false } => logs(global.output, client, &run).await?,
        RunsCommand::Cancel { run } => show(global, client.post(&path(&run, "/cancel"), &json!({})).await?["run"].take()),
    }
    Ok(0)
}

/// What a run runs: a name, or the begin of a command that has none.
fn what(run: &Value) -> String {
    if run["kind"] != "command" {
        return cell(&run["action"]);
    }
    let command = cell(&run["command"]);
    let line = command.lines().next().unwrap_or_default();
    let begin: String = line.chars().take(COMMAND_SHOWN_CHARS).collect();
    if begin.len() < command.len() { format!("{begin}...") } else { begin }
}

fn show(global: &Global, run: Value) {
    if global.output == Output::Json {
        return output::json(&run);
    }
    let field = |name: &'static str| (name, output::printable(&cell(&run[name])));
    let mut fields: Vec<_> = [
        "id",
        "app",
        "version",
        "kind",
        "action",
        "cause",
        "schedule",
        "status",
        "phase",
        "failure_reason",
        "message",
        "exit_code",
        "command",
        "sandbox",
        "sandbox_id",
        "cleanup",
        "receipt_id",
    ]
    .map(field)
    .into();
    fields.extend(["created_at", "started_at", "finished_at"].map(|name| (name, time(&run[name]))));
    output::record(&fields);
    if run["artifacts"].as_array().is_some_and(|all| !all.is_empty()) {
        output::line("");
        list_artifacts(&run["artifacts"]);
    }
}

fn list_artifacts(artifacts: &Value) {
    let row = |artifact: &Value| {
        let of = |name: &str| output::printable(&cell(&artifact[name]));
        vec![
            of("number"),
            of("status"),
            output::size_cell(&artifact["size_bytes"]),
            of("path"),
            if artifact["error"].is_null() { of("sha256") } else { of("error") },
        ]
    };
    let rows: Vec<_> = artifacts.as_array().into_iter().flatten().map(row).collect();
    output::table(&["NUMBER", "STATUS", "SIZE", "PATH", "SHA256"], &rows);
}

async fn artifacts(global: &Global, client: &Client, run: &str, dir: Option<&Path>) -> anyhow::Result<u8> {
    let list = client.get(&path(run, "/artifacts")).await?["artifacts"].take();
    let Some(dir) = dir else {
        match global.output {
            Output::Json => output::json(&list),
            Output::Table => list_artifacts(&list),
        }
        return Ok(0);
    };
    let mut fetched = Vec::new();
    for artifact in list.as_array().into_iter().flatten().filter(|artifact| artifact["status"] == "captured") {
        let target = below(dir, artifact["path"].as_str().unwrap_or_default())?;
        fetch(client, &path(run, &format!("/artifacts/{}", artifact["number"])), &target).await?;
        match global.output {
            Output::Json => fetched.push(json!({ "number": artifact["number"], "path": artifact["path"], "file": target })),
            Output::Table => output::line(&output::printable(&target.display().to_string())),
        }
    }
    if global.output == Output::Json {
        output::json(&fetched.into());
    }
    Ok(0)
}

/// A place below a folder: the server's word is not taken for where a file goes.
fn below(dir: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let relative = Path::new(path);
    if path.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("the server named an artifact {path:?}, which is no path below a folder");
    }
    Ok(dir.join(relative))
}

async fn fetch(client: &Client, from: &str, target: &Path) -> anyhow::Result<()> {
    let written = || format!("{} cannot be written", target.display());
    let mut response = client.send(client.request(Method::GET, from)).await?;
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).with_context(written)?;
    }
    let mut file = tokio::fs::File::create(target).await.with_context(written)?;
    while let Some(bytes) = response.chunk().await? {
        file.write_all(&bytes).await.with_context(written)?;
    }
    file.flush().await.with_context(written)
}

fn path(run: &str, rest: &str) -> String {
    format!("/api/v1/app-runs/{}{rest}", segment(run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_where_it_has_one() {
        for (run, code) in [
            (json!({ "status": "succeeded", "exit_code": 0 }), 0),
            (json!({ "status": "failed", "exit_code": 3 }), 3),
            (json!({ "status": "failed", "exit_code": null }), NO_CODE),
            (json!({ "status": "timed_out", "exit_code": 143 }), TIMED_OUT),
            (json!({ "status": "cancelled", "exit_code": null }), CANCELLED),
        ] {
            assert_eq!(code_of(&run), code, "{run}");
        }
    }

    #[test]
    fn no_artifact_leaves_its_folder() {
        assert_eq!(below(Path::new("out"), "a/b.txt").unwrap(), Path::new("out/a/b.txt"));
        for path in ["", "/etc/passwd", "../x", "a/../../x", "."] {
            assert!(below(Path::new("out"), path).is_err(), "{path}");
        }
    }
}
