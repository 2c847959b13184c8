//! `sandbar volume`.

use std::path::Path;

use anyhow::{Context, bail};
use reqwest::{Body, Method};
use serde_json::{Value, json};

use crate::{
    cli::{Global, Output, VolumeCommand},
    client::{Client, segment},
    output::{self, cell, time},
};

pub async fn run(global: &Global, command: VolumeCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let show = |value: &Value, line: &dyn Fn(&Value)| match global.output {
        Output::Json => output::json(value),
        Output::Table => line(value),
    };
    let id_of = |value: &Value| println!("{}", value["id"].as_str().unwrap_or_default());
    match command {
        VolumeCommand::Ls => {
            let list = client.get(&path("", "")).await?;
            show(&list, &|list| {
                let row = |v: &Value| {
                    let holders = v["mounted_by"].as_array().map_or(0, Vec::len).to_string();
                    vec![cell(&v["id"]), cell(&v["name"]), cell(&v["access_mode"]), limit(v), holders, time(&v["created_at"])]
                };
                let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
                output::table(&["ID", "NAME", "MODE", "LIMIT", "SANDBOXES", "CREATED"], &rows);
            });
        }
        VolumeCommand::Create { name, mode, size, from_snapshot } => {
            let mut body = json!({});
            for (key, value) in [("name", name), ("access_mode", mode), ("size_limit", size), ("snapshot_id", from_snapshot)] {
                if let Some(value) = value {
                    body[key] = value.into();
                }
            }
            show(&client.post(&path("", ""), &body).await?, &id_of);
        }
        VolumeCommand::Get { id } => {
            let volume = client.get(&path(&id, "")).await?;
            show(&volume, &|v| {
                output::record(&[
                    ("id", cell(&v["id"])),
                    ("name", cell(&v["name"])),
                    ("mode", cell(&v["access_mode"])),
                    ("limit", limit(v)),
                    ("source", cell(&v["source_volume_id"])),
                    ("sandboxes", cell(&v["mounted_by"])),
                    ("created", time(&v["created_at"])),
                ]);
            });
        }
        VolumeCommand::Rm { id, force } => {
            let done = client.delete(&path(&id, if force { "?force=true" } else { "" })).await?;
            if global.output == Output::Json {
                output::json(&done);
            }
        }
        VolumeCommand::Fork { id, name } => {
            let body = name.map_or_else(|| json!({}), |name| json!({ "name": name }));
            show(&client.post(&path(&id, "/fork"), &body).await?, &id_of);
        }
        VolumeCommand::Snapshot { id, name } => {
            let body = name.map_or_else(|| json!({}), |name| json!({ "name": name }));
            show(&client.post(&path(&id, "/snapshots"), &body).await?, &id_of);
        }
        VolumeCommand::Snapshots { id } => {
            let list = client.get(&path(&id, "/snapshots")).await?;
            show(&list, &|list| {
                let rows: Vec<_> = list
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|s| vec![cell(&s["id"]), cell(&s["name"]), output::size_cell(&s["size_bytes"]), time(&s["created_at"])])
                    .collect();
                output::table(&["ID", "NAME", "SIZE", "CREATED"], &rows);
            });
        }
        VolumeCommand::Restore { id, snapshot } => {
            client.post(&path(&id, &format!("/snapshots/{}/restore", segment(&snapshot))), &json!({})).await?;
        }
        VolumeCommand::Import { id, archive, path: below } => {
            let file = tokio::fs::File::open(&archive).await.with_context(|| format!("cannot open {}", archive.display()))?;
            let length = file.metadata().await?.len();
            let stream = futures_util::stream::try_unfold(file, |mut file| async move {
                let mut piece = vec![0; 256 << 10];
                let read = tokio::io::AsyncReadExt::read(&mut file, &mut piece).await?;
                piece.truncate(read);
                Ok::<_, std::io::Error>(if read == 0 { None } else { Some((piece, file)) })
            });
            let rest = format!("/files/archive?path={}", segment(&below));
            let request = client.request(Method::PUT, &path(&id, &rest)).header("content-length", length).body(Body::wrap_stream(stream));
            let done = client.data(request).await?;
            show(&done, &|done| println!("{} files, {}", done["files"], output::size_cell(&done["bytes"])));
        }
        VolumeCommand::Export { id, archive } => export(&client, &id, &archive).await?,
    }
    Ok(0)
}

/// As everything else is told that has a size. A text that is none is shown as it is.
fn limit(volume: &Value) -> String {
    let text = cell(&volume["size_limit"]);
    sandbar_core::quantity::parse_bytes(&text).map(output::size).unwrap_or(text)
}

async fn export(client: &Client, id: &str, archive: &Path) -> anyhow::Result<()> {
    let format = match archive.extension().and_then(|ending| ending.to_str()) {
        Some("tar") => "tar",
        Some("zip") => "zip",
        _ => bail!("{}: the name must end in .tar or .zip", archive.display()),
    };
    let response = client.send(client.request(Method::GET, &path(id, &format!("/files/archive?format={format}")))).await?;
    output::write_whole(archive, response.bytes_stream()).await
}

fn path(id: &str, rest: &str) -> String {
    if id.is_empty() { "/api/v1/sandboxvolumes".to_owned() } else { format!("/api/v1/sandboxvolumes/{}{rest}", segment(id)) }
}
