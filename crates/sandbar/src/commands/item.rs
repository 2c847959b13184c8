//! `sandbar item`.

use reqwest::Method;
use sandbar_core::limits;
use serde_json::{Value, json};

use super::given;
use crate::{
    cli::{Global, ItemCommand, Output},
    client::{Client, segment},
    output::{self, cell},
};

/// Columns of a table: more do not fit on a screen.
const COLUMNS_MAX: usize = 6;
/// Characters of a cell.
const CELL_MAX_CHARS: usize = 40;

pub async fn run(global: &Global, command: ItemCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        ItemCommand::Ls { collection, filter, sort, limit, offset, total } => {
            let mut query = json!({ "limit": limit, "offset": offset, "sort": sort });
            if let Some(filter) = filter {
                query["filter"] = fields("--filter", &filter)?;
            }
            if total {
                query["meta"] = "total".into();
            }
            let request = client.request(Method::POST, &format!("{}/query", path(&collection))).json(&query);
            let found: Value = client.send(request).await?.json().await?;
            match global.output {
                Output::Json if total => output::json(&found),
                Output::Json => output::json(&found["data"]),
                Output::Table => {
                    table(&found["data"]);
                    if total {
                        eprintln!("{} in all", found["meta"]["total"]);
                    }
                }
            }
        }
        ItemCommand::Get { collection, id } => show(global, &client.get(&item(&collection, &id)).await?),
        ItemCommand::Create { collection, data } => {
            let made = client.post(&path(&collection), &fields("--data", &data)?).await?;
            match (global.output, &made) {
                (Output::Table, Value::Array(rows)) => rows.iter().for_each(|row| output::line(&cell(&row["id"]))),
                _ => show(global, &made),
            }
        }
        ItemCommand::Update { collection, id, data } => {
            let request = client.request(Method::PATCH, &item(&collection, &id)).json(&fields("--data", &data)?);
            show(global, &client.data(request).await?);
        }
        ItemCommand::Rm { collection, ids } => return super::delete_each(&client, global.output, ids, |id| item(&collection, id)).await,
    }
    Ok(0)
}

fn path(collection: &str) -> String {
    format!("/api/items/{}", segment(collection))
}

fn item(collection: &str, id: &str) -> String {
    format!("{}/{}", path(collection), segment(id))
}

fn fields(flag: &str, text: &str) -> anyhow::Result<Value> {
    given::json(flag, text, limits::ITEMS_BODY_MAX_BYTES)
}

fn show(global: &Global, row: &Value) {
    match (global.output, row) {
        (Output::Table, Value::Object(fields)) => {
            let fields: Vec<(&str, String)> = fields.iter().map(|(name, value)| (name.as_str(), cell(value))).collect();
            output::record(&fields);
        }
        _ => output::json(row),
    }
}

/// The id, and the first fields that any of the rows has.
fn table(rows: &Value) {
    let rows: Vec<_> = rows.as_array().into_iter().flatten().collect();
    let mut names = vec!["id"];
    for name in rows.iter().filter_map(|row| row.as_object()).flat_map(|row| row.keys()) {
        if names.len() < COLUMNS_MAX && !["createdAt", "updatedAt"].contains(&name.as_str()) && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.push("createdAt");
    let short = |value: &Value| {
        let text = cell(value);
        match text.char_indices().nth(CELL_MAX_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    let cells: Vec<Vec<String>> = rows.iter().map(|row| names.iter().map(|name| short(&row[*name])).collect()).collect();
    output::table(&names, &cells);
}
