//! `sandbar snapshot`.

use serde_json::{Value, json};

use crate::{
    cli::{Global, Output, SnapshotCommand},
    client::{Client, sandbox_path, segment},
    output::{self, cell, time},
};

pub async fn run(global: &Global, command: SnapshotCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        SnapshotCommand::Create { sandbox, name, description, expires_at } => {
            let mut body = json!({});
            for (key, value) in [("name", name), ("description", description), ("expires_at", expires_at)] {
                if let Some(value) = value {
                    body[key] = value.into();
                }
            }
            let made = client.post(&sandbox_path(&sandbox, "/snapshots"), &body).await?;
            shown(global, &made, |made| println!("{}", made["id"].as_str().unwrap_or_default()));
        }
        SnapshotCommand::Ls { sandbox } => {
            let path = sandbox.map_or_else(|| "/api/v1/sandbox-rootfs-snapshots".to_owned(), |sandbox| sandbox_path(&sandbox, "/snapshots"));
            let list = client.get(&path).await?;
            shown(global, &list, |list| {
                let rows: Vec<Vec<String>> = list["snapshots"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|s| vec![cell(&s["id"]), cell(&s["sandbox_id"]), cell(&s["name"]), time(&s["created_at"]), time(&s["expires_at"])])
                    .collect();
                output::table(&["ID", "SANDBOX", "NAME", "CREATED", "EXPIRES"], &rows);
            });
        }
        SnapshotCommand::Rm { id } => {
            client.delete(&format!("/api/v1/sandbox-rootfs-snapshots/{}", segment(&id))).await?;
        }
        SnapshotCommand::Restore { sandbox, id } => {
            let done = client.post(&sandbox_path(&sandbox, "/rootfs/restore"), &json!({ "snapshot_id": id })).await?;
            shown(global, &done, |_| println!("{sandbox} has the files of {id}; it is paused"));
        }
    }
    Ok(0)
}

fn shown(global: &Global, value: &Value, table: impl FnOnce(&Value)) {
    match global.output {
        Output::Json => output::json(value),
        Output::Table => table(value),
    }
}
