//! `sandbar collection`.

use anyhow::Context;
use reqwest::Method;
use sandbar_core::limits;
use serde_json::{Map, Value, json};

use super::given::{self, WrongUse};
use crate::{
    cli::{CollectionArgs, CollectionCommand, Global, Output},
    client::{Client, segment},
    output::{self, cell, time},
};

const COLLECTIONS: &str = "/api/collections";

pub async fn run(global: &Global, command: CollectionCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        CollectionCommand::Create { slug, what } => {
            let mut body = body(what)?;
            body.insert("slug".into(), slug.into());
            body.entry("fields").or_insert_with(|| json!([]));
            show(global, &client.post(COLLECTIONS, &Value::Object(body)).await?);
        }
        CollectionCommand::Ls => {
            let list = client.get(COLLECTIONS).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let count = |list: &Value| list.as_array().map_or(0, Vec::len).to_string();
                    let row = |c: &Value| {
                        vec![cell(&c["slug"]), count(&c["fields"]), count(&c["permissions"]), cell(&c["items"]), cell(&c["itemBytes"]), time(&c["updatedAt"])]
                    };
                    let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
                    output::table(&["SLUG", "FIELDS", "RULES", "ITEMS", "BYTES", "UPDATED"], &rows);
                }
            }
        }
        CollectionCommand::Get { slug } => show(global, &client.get(&path(&slug)).await?),
        CollectionCommand::Update { slug, what } => {
            let body = body(what)?;
            if body.is_empty() {
                return Err(WrongUse::error("say what is to be changed: --file, --name, --description, --field, --allow or --owner-scoped"));
            }
            client.send(client.request(Method::PATCH, &path(&slug)).json(&body)).await?;
            show(global, &client.get(&path(&slug)).await?);
        }
        CollectionCommand::Rm { slugs, force } => {
            let force = if force { "?force=true" } else { "" };
            return super::delete_each(&client, global.output, slugs, |slug| format!("{}{force}", path(slug))).await;
        }
    }
    Ok(0)
}

fn path(slug: &str) -> String {
    format!("{COLLECTIONS}/{}", segment(slug))
}

fn body(what: CollectionArgs) -> anyhow::Result<Map<String, Value>> {
    let CollectionArgs { file, name, description, fields, allow, owner_scoped } = what;
    let mut body = match file {
        None => Map::new(),
        Some(file) => given::document(&file, limits::COLLECTION_BODY_MAX_BYTES)?,
    };
    for (key, text) in [("name", name), ("description", description)] {
        if let Some(text) = text {
            body.insert(key.into(), text.into());
        }
    }
    if !fields.is_empty() {
        body.insert("fields".into(), fields.iter().map(|text| field(text)).collect::<anyhow::Result<_>>()?);
    }
    if !allow.is_empty() {
        body.insert("permissions".into(), allow.iter().map(|text| rule(text)).collect::<anyhow::Result<_>>()?);
    }
    if owner_scoped {
        body.insert("ownerScoped".into(), true.into());
    }
    Ok(body)
}

/// `title:string:required`
fn field(text: &str) -> anyhow::Result<Value> {
    let mut parts = text.split(':');
    let (name, kind) = (parts.next().unwrap_or_default(), parts.next().with_context(|| WrongUse(format!("{text:?} is not NAME:TYPE, such as title:string")))?);
    let mut field = json!({ "name": name, "type": kind });
    for flag in parts {
        match flag {
            "required" | "unique" => field[flag] = true.into(),
            _ => return Err(WrongUse::error(format!("{text:?}: after the type there can be required and unique; a file can say more"))),
        }
    }
    Ok(field)
}

/// `public:read`, `service:mailer:read`
fn rule(text: &str) -> anyhow::Result<Value> {
    let (role, action) = text.rsplit_once(':').with_context(|| WrongUse(format!("{text:?} is not ROLE:ACTION, such as public:read")))?;
    Ok(json!({ "role": role, "action": action }))
}

fn show(global: &Global, collection: &Value) {
    match global.output {
        Output::Json => output::json(collection),
        Output::Table => {
            output::record(&[
                ("slug", cell(&collection["slug"])),
                ("name", cell(&collection["name"])),
                ("description", cell(&collection["description"])),
                ("items", cell(&collection["items"])),
                ("bytes", cell(&collection["itemBytes"])),
                ("owners", if collection["ownerScoped"] == true { "yes".into() } else { String::new() }),
                ("created", time(&collection["createdAt"])),
                ("updated", time(&collection["updatedAt"])),
            ]);
            for field in collection["fields"].as_array().into_iter().flatten() {
                let flags = ["required", "unique"].into_iter().filter(|flag| field[flag] == true).map(|flag| format!(" {flag}")).collect::<String>();
                output::record(&[("field", format!("{} {}{flags}", cell(&field["name"]), cell(&field["type"])))]);
            }
            for rule in collection["permissions"].as_array().into_iter().flatten() {
                let of = |key: &str, word: &str| if rule[key].is_null() { String::new() } else { format!(" {word} {}", cell(&rule[key])) };
                output::record(&[("rule ", format!("{} {}{}{}", cell(&rule["role"]), cell(&rule["action"]), of("filter", "where"), of("fields", "only")))]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_rules_are_read_from_flags() {
        assert_eq!(field("a:string:required:unique").unwrap(), json!({"name": "a", "type": "string", "required": true, "unique": true}));
        assert_eq!(rule("service:mailer:*").unwrap(), json!({"role": "service:mailer", "action": "*"}));
        for text in ["a", "a:string:indexed"] {
            assert!(field(text).is_err(), "{text}");
        }
        assert!(rule("public").is_err());
    }
}
