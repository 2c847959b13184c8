//! `sandbar sandbox function`.

use std::{collections::BTreeMap, io::Read, path::Path};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::{
    cli::{FunctionInvokeArgs, Output, SandboxFunctionCommand},
    client::{Client, sandbox_path, segment},
    output::{self, cell, time},
};

/// A function's source, and the body of a call; the server says more exactly what is too much.
const INPUT_BYTES_MAX: u64 = 16 << 20;
/// A function's own status from here on is a failure of the command.
const FAILED: u64 = 400;

pub async fn run(client: &Client, form: Output, command: SandboxFunctionCommand) -> anyhow::Result<u8> {
    match command {
        SandboxFunctionCommand::Put { sandbox, name, file } => {
            let request = client.request(Method::PUT, &function_path(&sandbox, &name, "")).header(CONTENT_TYPE, "text/x-python");
            let made = client.data(request.body(read(&file)?)).await?;
            shown(form, &made, |made| output::line(&cell(&made["path"])));
        }
        SandboxFunctionCommand::Ls { sandbox } => {
            let list = client.get(&sandbox_path(&sandbox, "/functions")).await?;
            shown(form, &list, |list| {
                let rows: Vec<_> = items(&list["functions"]).map(|f| vec![cell(&f["name"]), cell(&f["size"]), time(&f["modified_at"])]).collect();
                output::table(&["NAME", "BYTES", "MODIFIED"], &rows);
            });
        }
        SandboxFunctionCommand::Get { sandbox, name } => {
            let function = client.get(&function_path(&sandbox, &name, "")).await?;
            shown(form, &function, |function| {
                output::write(function["source"].as_str().unwrap_or_default().as_bytes());
            });
        }
        SandboxFunctionCommand::Invoke(args) => return invoke(client, form, *args).await,
        SandboxFunctionCommand::Invocations { sandbox, name, invocation: None } => {
            let list = client.get(&function_path(&sandbox, &name, "/invocations")).await?;
            shown(form, &list, |list| {
                let row = |i: &Value| vec![cell(&i["invocation_id"]), cell(&i["status"]), time(&i["created_at"]), time(&i["finished_at"])];
                output::table(&["ID", "STATUS", "CREATED", "FINISHED"], &items(&list["invocations"]).map(row).collect::<Vec<_>>());
            });
        }
        SandboxFunctionCommand::Invocations { sandbox, name, invocation: Some(id) } => {
            let call = client.get(&function_path(&sandbox, &name, &format!("/invocations/{}", segment(&id)))).await?;
            if form == Output::Json {
                output::json(&call);
            } else if call["response"].is_object() {
                return answer(&call["response"]);
            } else if call["error"].is_object() {
                bail!("{} ({})", cell(&call["error"]["message"]), cell(&call["error"]["code"]));
            } else {
                output::line(&cell(&call["status"]));
            }
        }
        SandboxFunctionCommand::Rm { sandbox, names } => {
            return super::delete_each(client, form, names, |name| function_path(&sandbox, name, "")).await;
        }
    }
    Ok(0)
}

async fn invoke(client: &Client, form: Output, args: FunctionInvokeArgs) -> anyhow::Result<u8> {
    let FunctionInvokeArgs { sandbox, name, method, path, handler, headers, query, stdin, body, body_base64, timeout_ms, cold, later } = args;
    let body_base64 = match (stdin, body, body_base64) {
        (true, _, _) => BASE64.encode(read(Path::new("-"))?),
        (false, Some(body), _) => BASE64.encode(body),
        (false, None, encoded) => encoded.unwrap_or_default(),
    };
    let mut request = json!({
        "method": method, "path": path, "handler": handler, "headers": lists(headers), "query": lists(query), "body_base64": body_base64,
    });
    for (key, is_set) in [("cold", cold), ("async", later)] {
        if is_set {
            request[key] = true.into();
        }
    }
    if let Some(ms) = timeout_ms {
        request["timeout_ms"] = ms.into();
    }
    let reply = client.post(&function_path(&sandbox, &name, "/invoke"), &request).await?;
    if later {
        shown(form, &reply, |reply| output::line(&cell(&reply["invocation_id"])));
        return Ok(0);
    }
    if form == Output::Json {
        output::json(&reply);
        return Ok(u8::from(status(&reply) >= FAILED));
    }
    answer(&reply)
}

/// Prints the body, or the status when a failure has none.
fn answer(reply: &Value) -> anyhow::Result<u8> {
    let body = BASE64.decode(reply["body_base64"].as_str().unwrap_or_default()).context("the body of the function's answer is no base64")?;
    let failed = status(reply) >= FAILED;
    if body.is_empty() && failed {
        output::line(&format!("Function returned status {}", status(reply)));
    } else {
        output::write(&body);
    }
    Ok(u8::from(failed))
}

fn status(reply: &Value) -> u64 {
    reply["status"].as_u64().unwrap_or(0)
}

fn function_path(sandbox: &str, name: &str, rest: &str) -> String {
    sandbox_path(sandbox, &format!("/functions/{}{rest}", segment(name)))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn lists(pairs: Vec<(String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs {
        map.entry(name).or_default().push(value);
    }
    map
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut limited: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock().take(INPUT_BYTES_MAX + 1))
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Box::new(file.take(INPUT_BYTES_MAX + 1))
    };
    limited.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        bail!("{} has more than {INPUT_BYTES_MAX} bytes", path.display());
    }
    Ok(bytes)
}

fn shown(form: Output, value: &Value, table: impl FnOnce(&Value)) {
    match form {
        Output::Json => output::json(value),
        Output::Table => table(value),
    }
}
