//! `sandbar template`.

use crate::{
    cli::{Global, Output, TemplateCommand},
    client::{Client, segment},
    output::{self, cell, time},
};

pub async fn run(global: &Global, command: TemplateCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        TemplateCommand::Ls => {
            let list = client.get("/api/v1/templates").await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let rows: Vec<Vec<String>> = list["templates"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(|t| {
                            let main = &t["spec"]["mainContainer"];
                            vec![
                                cell(&t["template_id"]),
                                cell(&t["scope"]),
                                cell(&main["image"]),
                                cell(&main["resources"]["memory"]),
                                cell(&t["status"]["idleCount"]),
                                time(&t["updated_at"]),
                            ]
                        })
                        .collect();
                    output::table(&["ID", "SCOPE", "IMAGE", "MEMORY", "IDLE", "UPDATED"], &rows);
                }
            }
        }
        TemplateCommand::Get { id } => {
            let template = client.get(&format!("/api/v1/templates/{}", segment(&id))).await?;
            match global.output {
                Output::Json => output::json(&template),
                Output::Table => {
                    let spec = &template["spec"];
                    let resources = &spec["mainContainer"]["resources"];
                    output::record(&[
                        ("id", cell(&template["template_id"])),
                        ("scope", cell(&template["scope"])),
                        ("name", cell(&spec["displayName"])),
                        ("description", cell(&spec["description"])),
                        ("image", cell(&spec["mainContainer"]["image"])),
                        ("memory", cell(&resources["memory"])),
                        ("cpu", cell(&resources["cpu"])),
                        ("disk", cell(&resources["ephemeralStorage"])),
                        ("pool", cell(&spec["pool"])),
                        ("env", cell(&spec["envVars"])),
                        ("created", time(&template["created_at"])),
                        ("updated", time(&template["updated_at"])),
                    ]);
                }
            }
        }
    }
    Ok(0)
}
