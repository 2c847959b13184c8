//! `sandbar key`.

use serde_json::{Value, json};

use crate::{
    cli::{Global, KeyCommand, Output},
    client::{Client, segment},
    output::{self, cell, time},
};

pub async fn run(global: &Global, command: KeyCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        KeyCommand::Create { name, role, expires_in } => {
            let mut body = json!({"name": name});
            if !role.is_empty() {
                body["roles"] = json!(role);
            }
            if let Some(expires_in) = expires_in {
                body["expires_in"] = json!(expires_in);
            }
            let made = client.post("/api-keys", &body).await?;
            match global.output {
                Output::Json => output::json(&made),
                Output::Table => {
                    let info = if made["api_key"].is_object() { &made["api_key"] } else { &made };
                    output::record(&[
                        ("key", cell(&made["key"])),
                        ("id", cell(&info["id"])),
                        ("name", cell(&info["name"])),
                        ("roles", cell(&info["roles"])),
                        ("expires", time(&info["expires_at"])),
                    ]);
                    eprintln!("Keep the key: it is not shown again.");
                }
            }
        }
        KeyCommand::Ls => {
            let list = client.get("/api-keys").await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let keys = list["api_keys"].as_array().or_else(|| list.as_array()).cloned().unwrap_or_default();
                    output::table(&["ID", "NAME", "ROLES", "ACTIVE", "EXPIRES", "CREATED"], &keys.iter().map(row).collect::<Vec<_>>());
                }
            }
        }
        KeyCommand::Rm { id } => {
            let reply = client.delete(&format!("/api-keys/{}", segment(&id))).await?;
            match global.output {
                Output::Json => output::json(&json!({"id": id, "deleted": true, "reply": reply})),
                Output::Table => output::line(&id),
            }
        }
    }
    Ok(0)
}

fn row(key: &Value) -> Vec<String> {
    let active = key.get("is_active").or_else(|| key.get("active")).map(cell).unwrap_or_default();
    vec![cell(&key["id"]), cell(&key["name"]), cell(&key["roles"]), active, time(&key["expires_at"]), time(&key["created_at"])]
}
