//! `sandbar sandbox preview`.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{
    cli::{Output, PreviewArgs, PreviewCommand},
    client::{Client, sandbox_path, segment},
    output::{self, cell, time},
};

/// What opens a URL in a browser, on one system or another.
const OPENERS: [&str; 2] = ["xdg-open", "open"];

pub async fn run(client: &Client, form: Output, command: PreviewCommand) -> anyhow::Result<u8> {
    match command {
        PreviewCommand::Create(args) => {
            let made = create(client, &args).await?;
            shown(form, &made);
        }
        PreviewCommand::Open(args) => {
            let made = create(client, &args).await?;
            let url = made["url"].as_str().unwrap_or_default();
            if form == Output::Json || !open(url) {
                shown(form, &made);
            }
        }
        PreviewCommand::Ls { id } => {
            let list = client.get(&sandbox_path(&id, "/previews")).await?;
            match form {
                Output::Json => output::json(&list),
                Output::Table => {
                    let rows: Vec<Vec<String>> = list["previews"].as_array().into_iter().flatten().map(row).collect();
                    output::table(&["ID", "PORT", "OPENED", "EXPIRES", "RESUME", "TARGET"], &rows);
                }
            }
        }
        PreviewCommand::Rm { id, previews } => {
            return super::delete_each(client, form, previews, |preview| sandbox_path(&id, &format!("/previews/{}", segment(preview)))).await;
        }
    }
    Ok(0)
}

async fn create(client: &Client, args: &PreviewArgs) -> anyhow::Result<Value> {
    let protocol = if args.https { "https" } else { "http" };
    let body = json!({ "port": args.port, "protocol": protocol, "path": args.path, "ttl_seconds": args.ttl, "resume": args.resume });
    client.post(&sandbox_path(&args.id, "/previews"), &body).await
}

fn shown(form: Output, made: &Value) {
    match form {
        Output::Json => output::json(made),
        Output::Table => output::line(made["url"].as_str().unwrap_or_default()),
    }
}

/// Whether a browser was asked to show it. The URL comes from the server, so only what is one is given to a program.
fn open(url: &str) -> bool {
    let is_url = url.starts_with("http://") || url.starts_with("https://");
    is_url
        && OPENERS.iter().any(|opener| {
            let asked = Command::new(opener).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            asked.is_ok_and(|status| status.success())
        })
}

fn row(preview: &Value) -> Vec<String> {
    let resume = if preview["resume"] == true { "yes" } else { "no" };
    vec![
        cell(&preview["id"]),
        cell(&preview["port"]),
        time(&preview["opened_at"]),
        time(&preview["expires_at"]),
        resume.to_owned(),
        cell(&preview["target_url"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_url_is_given_to_a_program() {
        for text in ["", "--help", "file:///etc/passwd", "javascript:1", "ftp://x"] {
            assert!(!open(text), "{text}");
        }
    }

    #[test]
    fn a_row_shows_no_secret() {
        let preview =
            json!({ "id": "pv-a", "port": 3000, "url": "http://x/y", "target_url": "http://x/", "resume": true, "expires_at": "2026-01-01T00:00:00.5Z" });
        assert_eq!(row(&preview), ["pv-a", "3000", "", "2026-01-01T00:00:00Z", "yes", "http://x/"]);
    }
}
