//! `sandbar ssh-key`.

use std::{io::Read, path::Path};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{
    cli::{Global, Output, SshKeyCommand},
    client::{Client, segment},
    output::{self, cell, time},
};

/// A file beyond this is no public key.
const FILE_BYTES_MAX: u64 = 64 << 10;

pub async fn run(global: &Global, command: SshKeyCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        SshKeyCommand::Add { file, name } => {
            let text = read(&file)?;
            let comment = text.trim().splitn(3, ' ').nth(2).map(str::trim).filter(|comment| !comment.is_empty());
            let fallback = || file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let name = name.or_else(|| comment.map(str::to_owned)).or_else(fallback).unwrap_or_else(|| "key".to_owned());
            let made = client.post("/users/me/ssh-keys", &json!({"name": name, "public_key": text.trim()})).await?;
            match global.output {
                Output::Json => output::json(&made),
                Output::Table => output::record(&[
                    ("id", cell(&made["id"])),
                    ("name", cell(&made["name"])),
                    ("kind", cell(&made["key_type"])),
                    ("fingerprint", cell(&made["fingerprint_sha256"])),
                ]),
            }
        }
        SshKeyCommand::Ls { all } => {
            let list = client.get(if all { "/users/me/ssh-keys?all=true" } else { "/users/me/ssh-keys" }).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let keys = list["ssh_keys"].as_array().cloned().unwrap_or_default();
                    output::table(&["ID", "NAME", "KIND", "FINGERPRINT", "CREATED", "USER"], &keys.iter().map(row).collect::<Vec<_>>());
                    let server = client.get("/metadata").await?;
                    match server["ssh"]["fingerprint_sha256"].as_str() {
                        Some(fingerprint) => output::line(&format!("\nThe server shows ED25519 {fingerprint}")),
                        None => output::line("\nThe server is not reached by SSH: see --ssh-listen."),
                    }
                }
            }
        }
        SshKeyCommand::Rm { id } => {
            let reply = client.delete(&format!("/users/me/ssh-keys/{}", segment(&id))).await?;
            match global.output {
                Output::Json => output::json(&json!({"id": id, "deleted": true, "reply": reply})),
                Output::Table => output::line(&id),
            }
        }
    }
    Ok(0)
}

fn row(key: &Value) -> Vec<String> {
    vec![cell(&key["id"]), cell(&key["name"]), cell(&key["key_type"]), cell(&key["fingerprint_sha256"]), time(&key["created_at"]), cell(&key["user_id"])]
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let from: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
    };
    from.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).with_context(|| format!("{} is no text", path.display()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        bail!("{} is too long for a public key", path.display());
    }
    if text.contains("PRIVATE KEY") {
        bail!("{} is a private key, which stays with you; give the public one, from the file that ends in .pub", path.display());
    }
    Ok(text)
}
