//! `sandbar login`.

use anyhow::bail;
use serde_json::json;

use crate::{
    cli::{Global, Output},
    client::{Client, TOKEN_VARIABLES, URL_VARIABLES, first},
    credentials::{self, Credentials},
    output, terminal,
};

/// Checks the key against the server and stores both.
pub async fn run(global: &Global) -> anyhow::Result<u8> {
    let stored = credentials::load().ok().flatten();
    let default = stored.map_or_else(|| "http://127.0.0.1:8700".into(), |s| s.url);
    let url = match first(&global.url, &URL_VARIABLES) {
        Some(url) => url,
        None => {
            let answer = terminal::ask(&format!("Server [{default}]"), false)?;
            if answer.is_empty() { default } else { answer }
        }
    };
    let token = match first(&global.token, &TOKEN_VARIABLES) {
        Some(token) => token,
        None => terminal::ask("API key", true)?,
    };
    if token.is_empty() {
        bail!("no API key was given: type it when asked, or give --token or SANDBAR_TOKEN");
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
