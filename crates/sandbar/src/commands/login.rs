//! `sandbar login`.

use anyhow::bail;
use serde_json::json;

use crate::{
    cli::{Global, Output},
    client::Client,
    credentials::{self, Credentials},
    output, terminal,
};

/// Checks the key against the server and stores both.
pub async fn run(global: &Global) -> anyhow::Result<u8> {
    let stored = credentials::load().ok().flatten();
    let default = stored.map_or_else(|| "http://127.0.0.1:8700".into(), |s| s.url);
    let url = match given(&global.url, "SANDBAR_URL") {
        Some(url) => url,
        None => {
            let answer = terminal::ask(&format!("Server [{default}]"), false)?;
            if answer.is_empty() { default } else { answer }
        }
    };
    let token = match given(&global.token, "SANDBAR_TOKEN") {
        Some(token) => token,
        None => terminal::ask("API key", true)?,
    };
    if token.is_empty() {
        bail!("no API key was given");
    }
    let url = url.trim_end_matches('/').to_owned();
    let me = Client::new(&url, &token)?.get("/users/me").await?;
    let path = credentials::store(&Credentials { url: url.clone(), token })?;
    match global.output {
        Output::Json => output::json(&json!({"url": url, "user": me, "stored": path})),
        Output::Table => output::line(&format!("Logged in to {url} as {}; stored in {}", output::printable(&output::cell(&me["email"])), path.display())),
    }
    Ok(0)
}

fn given(flag: &Option<String>, variable: &str) -> Option<String> {
    flag.clone().or_else(|| std::env::var(variable).ok()).filter(|text| !text.is_empty())
}
