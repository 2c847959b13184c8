//! `sandbar sandbox service`.

use anyhow::bail;
use reqwest::Method;
use serde_json::{Value, json};

use super::template;
use crate::{
    cli::{Output, ServiceCommand},
    client::{Client, sandbox_path},
    output::{self, cell},
};

/// What the server adds to a service that it shows. It is no part of the service.
const SHOWN_ONLY: [&str; 3] = ["publishable", "publish_blockers", "public_url"];

pub async fn run(client: &Client, form: Output, command: ServiceCommand) -> anyhow::Result<()> {
    let shown = match command {
        ServiceCommand::Get { id } => client.get(&sandbox_path(&id, "/services")).await?,
        ServiceCommand::Update { id, services_file } => {
            let services = services_of(template::read(&services_file)?)?;
            replace(client, &id, services).await?
        }
        ServiceCommand::Clear { id } => replace(client, &id, Vec::new()).await?,
        ServiceCommand::Delete { id, service } => {
            let services = services_of(client.get(&sandbox_path(&id, "/services")).await?)?;
            let rest = without(services, &service)?;
            replace(client, &id, rest).await?
        }
    };
    match form {
        Output::Json => output::json(&shown),
        Output::Table => {
            let rows: Vec<Vec<String>> = shown["services"].as_array().into_iter().flatten().map(row).collect();
            output::table(&["ID", "PORT", "RUNTIME", "PUBLIC URL", "PUBLISHABLE"], &rows);
        }
    }
    Ok(())
}

async fn replace(client: &Client, id: &str, services: Vec<Value>) -> anyhow::Result<Value> {
    client.data(client.request(Method::PUT, &sandbox_path(id, "/services")).json(&json!({ "services": services }))).await
}

fn row(service: &Value) -> Vec<String> {
    let publishable = match &service["publish_blockers"] {
        Value::Array(blockers) if !blockers.is_empty() => cell(&service["publish_blockers"]),
        _ if service["publishable"] == true => "yes".to_owned(),
        _ => "no".to_owned(),
    };
    vec![cell(&service["id"]), cell(&service["port"]), cell(&service["runtime"]["type"]), cell(&service["public_url"]), publishable]
}

/// The services of a file or of a reply, as they are written.
fn services_of(mut document: Value) -> anyhow::Result<Vec<Value>> {
    let list = match document.get_mut("services") {
        Some(list) => list.take(),
        None => document,
    };
    let Value::Array(mut services) = list else { bail!("services are a list, or an object with a list \"services\"") };
    for service in services.iter_mut().filter_map(Value::as_object_mut) {
        for key in SHOWN_ONLY {
            service.remove(key);
        }
    }
    Ok(services)
}

fn without(mut services: Vec<Value>, id: &str) -> anyhow::Result<Vec<Value>> {
    let before = services.len();
    // Ids are kept in lower case.
    services.retain(|service| !service["id"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(id)));
    if services.len() == before {
        let known: Vec<String> = services.iter().map(|service| cell(&service["id"])).collect();
        let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", known.join(", ")) };
        bail!("the sandbox has no service {id:?}; {known}");
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_get_prints_is_what_update_takes() {
        let printed = json!({ "sandbox_id": "s", "exposure_domain": "d", "services": [
            { "id": "web", "port": 80, "ingress": { "public": true }, "public_url": "http://x", "publishable": false, "publish_blockers": ["manual_runtime"] },
        ] });
        let plain = vec![json!({ "id": "web", "port": 80, "ingress": { "public": true } })];
        assert_eq!(services_of(printed).unwrap(), plain);
        assert_eq!(services_of(json!(plain)).unwrap(), plain);
        for wrong in [json!({}), json!("x"), json!({ "services": {} }), Value::Null] {
            assert!(services_of(wrong).is_err());
        }
    }

    #[test]
    fn one_that_is_not_there_is_named_with_those_that_are() {
        let services = vec![json!({ "id": "a" }), json!({ "id": "b" })];
        assert_eq!(without(services.clone(), "A").unwrap(), [json!({ "id": "b" })]);
        let error = without(services, "c").unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("a, b"), "{error}");
    }
}
