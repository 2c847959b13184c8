//! `sandbar app deploy`: a folder becomes a version, and its build is shown.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use reqwest::{Body, Method};
use sandbar_core::app::manifest::{is_app_name, name_of_folder, parse_bytes};
use serde_json::{Value, json};

use super::{pack, path, validate};
use crate::{
    cli::{DeployArgs, Global, Output},
    client::{Client, Refusal, segment},
    commands::given::WrongUse,
    output::{self, cell},
};

const PIECE_BYTES: usize = 256 << 10;
/// Between two looks at a log that had nothing new.
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub async fn run(global: &Global, args: DeployArgs) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let dir = args.dir.clone();
    if !dir.is_dir() {
        bail!("{} is no folder", dir.display());
    }
    let file = validate::find(&dir)?;
    let parsed = match parse_bytes(&validate::read(&file)?) {
        Ok(parsed) => parsed,
        // As `validate` shows it; the server would say the same.
        Err(diagnostics) => {
            const NOT_SENT: &str = "the manifest is wrong, so nothing was sent";
            if global.output == Output::Json {
                let details = Some(json!({"ok": false, "file": file, "diagnostics": diagnostics}));
                return Err(Refusal { status: 422, code: "unprocessable".into(), message: NOT_SENT.into(), details, request_id: None }.into());
            }
            for diagnostic in &diagnostics {
                eprintln!("{}", output::printable(&format!("{}:{diagnostic}", file.display())));
            }
            bail!(NOT_SENT);
        }
    };
    let name = match args.name.clone().or_else(|| parsed.manifest.name.clone()) {
        Some(name) => name,
        None => name_of(&dir).with_context(|| format!("the manifest has no name, and none can be made of {}; give --name", dir.display()))?,
    };
    if !is_app_name(&name) {
        return Err(WrongUse::error(format!(
            "{name:?} is no name of an app: it has two or more lower-case letters, digits and hyphens, without a hyphen at its ends"
        )));
    }
    let packed = tokio::task::spawn_blocking(move || pack::pack(&dir)).await??;
    if global.output == Output::Table {
        let (bytes, length) = (output::size(packed.bytes), output::size(packed.length));
        let files = if packed.entries == 1 { "1 file".to_owned() } else { format!("{} files", packed.entries) };
        eprintln!("sending {files}, {bytes} ({length} packed) as {name}");
    }
    let version = send(&client, &name, &args, packed).await?;
    let number = cell(&version["version"]);
    follow(&client, &name, &number, global.output).await?;
    let version = client.get(&path(&name, &format!("/versions/{number}"))).await?;
    let failed = version["state"] != "ready";
    if global.output == Output::Json {
        output::json(&version);
    }
    if failed {
        bail!(
            "version {number} of {name} failed; {}",
            output::printable(version["reason"].as_str().and_then(|reason| reason.lines().next()).unwrap_or("its log says why"))
        );
    }
    if args.restart {
        restart(&client, &name).await?;
    }
    if global.output == Output::Table {
        say(&client, &name, &version, args.restart).await?;
    }
    Ok(0)
}

/// What the folder is called, wherever one stands.
fn name_of(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    name_of_folder(dir.file_name()?.to_str()?)
}

async fn send(client: &Client, name: &str, args: &DeployArgs, packed: pack::Packed) -> anyhow::Result<Value> {
    let mut query = vec![format!("activate={}", !args.no_activate)];
    if let Some(message) = &args.message {
        query.push(format!("message={}", segment(message)));
    }
    let bar = output::progress(Some(packed.length), "sending");
    let request = client
        .request(Method::POST, &path(name, &format!("/versions?{}", query.join("&"))))
        .header("content-type", "application/x-tar")
        .header("content-length", packed.length)
        .body(body(packed.file, bar.clone()));
    let sent = client.data(request).await;
    bar.finish_and_clear();
    sent
}

fn body(file: std::fs::File, bar: ProgressBar) -> Body {
    let file = tokio::fs::File::from_std(file);
    Body::wrap_stream(futures_util::stream::try_unfold((file, bar), |(mut file, bar)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let read = tokio::io::AsyncReadExt::read(&mut file, &mut piece).await?;
        piece.truncate(read);
        bar.inc(read as u64);
        Ok::<_, std::io::Error>(if read == 0 { None } else { Some((piece, (file, bar))) })
    }))
}

/// Shows the build's log until its end.
async fn follow(client: &Client, name: &str, number: &str, form: Output) -> anyhow::Result<()> {
    let mut since = 0;
    loop {
        let piece = client.get(&path(name, &format!("/versions/{number}/logs?since={since}"))).await?;
        let text = piece["output"].as_str().unwrap_or_default();
        if form == Output::Table && !text.is_empty() {
            // What a build prints is its own; control characters but line ends and tabs are shown and not obeyed.
            let shown: String =
                text.replace('\r', "").chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }).collect();
            eprint!("{shown}");
        }
        if piece["completed"] == true {
            return Ok(());
        }
        since = piece["cursor"].as_u64().unwrap_or(since);
        if text.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Stops what is online, and starts the version that is live.
async fn restart(client: &Client, name: &str) -> anyhow::Result<()> {
    client.post(&path(name, "/stop"), &json!({})).await.context("the version is ready, but what was online could not be stopped")?;
    client.post(&path(name, "/start"), &json!({ "wait": true })).await.context("the version is ready, but it could not be started")?;
    Ok(())
}

/// What there is now, and what to do next.
async fn say(client: &Client, name: &str, version: &Value, restarted: bool) -> anyhow::Result<()> {
    let number = cell(&version["version"]);
    if version["live"] != true {
        output::line(&format!("version {number} of {name} is ready; `sandbar app rollback {name} {number}` makes it the live one"));
        return Ok(());
    }
    output::line(&format!("version {number} of {name} is ready and live"));
    let manifest = &version["manifest"];
    let app = client.get(&path(name, "")).await?;
    if restarted {
        output::line("it is online");
    } else if app["outdated"] == true {
        output::line(&format!("version {} is still online; `sandbar app start {name}` brings version {number} online", cell(&app["online_version"])));
    } else if app["desired"] == "online" {
        output::line(&format!("what is online is the same as version {number}"));
    } else if manifest["start"]["command"].is_string() {
        output::line(&format!("`sandbar app start {name}` starts it"));
    } else if let Some(action) = manifest["actions"][0]["name"].as_str() {
        output::line(&format!("`sandbar app run {name} {action}` runs an action of it"));
    }
    Ok(())
}
