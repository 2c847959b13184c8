//! `sandbar template`.

use std::path::Path;

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};

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
                        ("idle", cell(&template["status"]["idleCount"])),
                        ("active", cell(&template["status"]["activeCount"])),
                        ("created", time(&template["created_at"])),
                        ("updated", time(&template["updated_at"])),
                    ]);
                    let said = |c: &Value| [("not ready", format!("{}: {}", cell(&c["reason"]), cell(&c["message"])))];
                    for condition in template["status"]["conditions"].as_array().into_iter().flatten().filter(|c| c["status"] == "False") {
                        output::record(&said(condition));
                    }
                }
            }
        }
        TemplateCommand::Create { file } => {
            let made = client.post("/api/v1/templates", &read(&file)?).await?;
            named(global, &made);
        }
        TemplateCommand::Update { id, file } => {
            let request = client.request(Method::PUT, &format!("/api/v1/templates/{}", segment(&id))).json(&read(&file)?);
            named(global, &client.data(request).await?);
        }
        TemplateCommand::FromSandbox { id, sandbox } => {
            let made = client.post("/api/v1/templates/from-sandbox", &json!({ "template_id": id, "sandbox_id": sandbox })).await?;
            named(global, &made);
        }
        TemplateCommand::Rm { id } => {
            let done = client.delete(&format!("/api/v1/templates/{}", segment(&id))).await?;
            if global.output == Output::Json {
                output::json(&done);
            }
        }
    }
    Ok(0)
}

/// A YAML file, which a JSON file is too.
pub(super) fn read(file: &Path) -> anyhow::Result<Value> {
    let text = if file == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    // Its error says line and column.
    serde_norway::from_str(&text).with_context(|| format!("{} is no YAML or JSON", file.display()))
}

fn named(global: &Global, template: &Value) {
    match global.output {
        Output::Json => output::json(template),
        Output::Table => println!("{}", template["template_id"].as_str().unwrap_or_default()),
    }
}
