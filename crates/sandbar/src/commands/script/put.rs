//! `sandbar script put`: a script is made of a file, of a record of its fields, and of flags, which win over the record.

use std::path::Path;

use reqwest::{Method, StatusCode};
use sandbar_core::{limits, script::draft::READ_ONLY};
use serde_json::{Map, Value};

use super::{SCRIPTS, language_of, path, show};
use crate::{
    cli::{Global, PutArgs},
    client::{Client, Refusal},
    commands::given::{self, WrongUse},
};

/// Of code in a file; the server says what is allowed of it.
const CODE_MAX_BYTES: usize = limits::SCRIPT_BODY_MAX_BYTES;

pub async fn run(global: &Global, client: &Client, args: PutArgs) -> anyhow::Result<()> {
    let (name, mut body) = record(args)?;
    let changed = client.data(client.request(Method::PATCH, &path(&name, "")).json(&body)).await;
    match changed {
        Ok(_) => {}
        Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == StatusCode::NOT_FOUND.as_u16()) => {
            body.insert("name".to_owned(), name.as_str().into());
            client.post(SCRIPTS, &Value::Object(body)).await?;
        }
        Err(error) => return Err(error),
    }
    show::script(global, &client.get(&path(&name, "")).await?);
    Ok(())
}

/// The script's name, and its fields as the wire has them, without the name.
fn record(args: PutArgs) -> anyhow::Result<(String, Map<String, Value>)> {
    let is_stdin = |file: &Path| file.as_os_str() == "-";
    if args.file.as_deref().is_some_and(is_stdin) && args.config.as_deref().is_some_and(is_stdin) {
        return Err(WrongUse::error("code and --config cannot both come from standard input"));
    }
    let mut body = match &args.config {
        Some(file) => given::document(file, CODE_MAX_BYTES)?,
        None => Map::new(),
    };
    let stem = args.file.as_deref().filter(|file| !is_stdin(file)).and_then(Path::file_stem).and_then(|stem| stem.to_str()).map(str::to_owned);
    let named = match body.remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(other) => return Err(WrongUse::error(format!("the name in --config is {other}, and has to be a text"))),
    };
    let Some(name) = args.name.clone().or(named).or(stem) else { return Err(WrongUse::error("name the script by --name")) };
    if let Some(file) = &args.file {
        body.insert("code".to_owned(), given::text_of(file, CODE_MAX_BYTES)?.into());
        // What the record says is said on purpose; the end of a file's name is a hint.
        body.entry("language").or_insert_with(|| language_of(file).into());
    } else if !body.contains_key("code") {
        return Err(WrongUse::error("give a FILE with the code, or --config with a record that has `code`"));
    }
    // What the server says of a script stands in a record that was read, and is not for us to set.
    body.retain(|field, _| !READ_ONLY.contains(&field.as_str()));
    fields(args, &mut body)?;
    Ok((name, body))
}

/// What flags say, in place of what stands there.
fn fields(args: PutArgs, body: &mut Map<String, Value>) -> anyhow::Result<()> {
    let PutArgs { config: _, file: _, name: _, trigger, pattern, description, language, access, run_as, active, inactive, trusted, author_kind, .. } = &args;
    let text = |value: &Option<String>| value.as_deref().map(Value::from);
    let capabilities = match args.no_capabilities {
        true => Some(Value::Array(Vec::new())),
        false => (!args.capabilities.is_empty()).then(|| args.capabilities.clone().into()),
    };
    let fetch_allow = match args.no_fetch {
        true => Some(Value::Array(Vec::new())),
        false => (!args.fetch_allow.is_empty()).then(|| args.fetch_allow.iter().map(|host| host.trim()).filter(|host| !host.is_empty()).collect()),
    };
    // One that is there stays as active as it is.
    let active = (*active || *inactive).then(|| (*active).into());
    let author = text(author_kind).or_else(|| trusted.then(|| "operator".into()));
    if author.is_some() {
        body.remove("trusted");
    }
    for (field, value) in [
        ("trigger", text(trigger)),
        ("pattern", text(pattern)),
        ("description", text(description)),
        ("language", text(language)),
        ("access", text(access)),
        ("runAs", text(run_as)),
        ("active", active),
        ("authorKind", author),
        ("capabilities", capabilities),
        ("fetchAllow", fetch_allow),
        ("timeoutMs", args.timeout.map(Value::from)),
        ("cpuMs", args.cpu.map(Value::from)),
        ("memoryMb", args.memory.map(Value::from)),
        ("concurrency", args.concurrency.map(Value::from)),
        ("deterministic", args.deterministic.map(Value::from)),
    ] {
        if let Some(value) = value {
            body.insert(field.to_owned(), value);
        }
    }
    let retry = [("maxAttempts", args.max_attempts.map(Value::from)), ("maxAgeSeconds", args.max_age.map(Value::from))];
    within(body, "retry", retry)?;
    let schedule = [
        ("timezone", text(&args.timezone)),
        ("missedRunPolicy", text(&args.missed_run_policy)),
        ("missedRunsMax", args.missed_runs_max.map(Value::from)),
        ("startingDeadlineSeconds", args.starting_deadline.map(Value::from)),
        ("concurrencyPolicy", text(&args.concurrency_policy)),
        ("jitterSeconds", args.jitter.map(Value::from)),
    ];
    within(body, "schedule", schedule)
}

/// Sets fields of an object in the record, which is made when it is not there.
fn within<const N: usize>(body: &mut Map<String, Value>, field: &str, values: [(&str, Option<Value>); N]) -> anyhow::Result<()> {
    for (key, value) in values {
        let Some(value) = value else { continue };
        match body.entry(field).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(object) => drop(object.insert(key.to_owned(), value)),
            other => return Err(WrongUse::error(format!("{field} in --config is {other}, and has to be an object"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        put: PutArgs,
    }

    /// What a command line comes to, with a record and a file of code.
    fn of(config: &str, flags: &[&str]) -> anyhow::Result<(String, Value)> {
        let dir = std::env::temp_dir().join(format!("sandbar-cli-put-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::create_dir_all(&dir)?;
        let (code, record_file) = (dir.join("digest.ts"), dir.join("digest.yaml"));
        std::fs::write(&code, "return 1")?;
        std::fs::write(&record_file, config)?;
        let place = |flag: &&str| match *flag {
            "CODE" => code.display().to_string(),
            "RECORD" => record_file.display().to_string(),
            other => other.to_owned(),
        };
        let line = std::iter::once("put".to_owned()).chain(flags.iter().map(place));
        let (name, body) = record(Line::try_parse_from(line)?.put)?;
        Ok((name, Value::Object(body)))
    }

    #[test]
    fn flags_are_fields_of_the_wire() {
        let line = "CODE --trigger cron --pattern @daily --description d --access key --run-as system --timeout 100 --cpu 50 --memory 32 --concurrency 2 \
            --capability fetch --capability email --fetch-allow a.example,b.example:8443 --fetch-allow c.example --max-attempts 5 --max-age 60 --timezone UTC \
            --missed-run-policy run_all --missed-runs-max 3 --starting-deadline 9 --concurrency-policy queue --jitter 4 --deterministic --trusted --inactive";
        let (name, body) = of("", &line.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(name, "digest");
        let wanted = json!({
            "code": "return 1", "language": "typescript", "trigger": "cron", "pattern": "@daily", "description": "d", "access": "key", "runAs": "system",
            "timeoutMs": 100, "cpuMs": 50, "memoryMb": 32, "concurrency": 2, "capabilities": ["fetch", "email"],
            "fetchAllow": ["a.example", "b.example:8443", "c.example"], "retry": {"maxAttempts": 5, "maxAgeSeconds": 60},
            "schedule": {"timezone": "UTC", "missedRunPolicy": "run_all", "missedRunsMax": 3, "startingDeadlineSeconds": 9, "concurrencyPolicy": "queue", "jitterSeconds": 4},
            "deterministic": true, "authorKind": "operator", "active": false,
        });
        assert_eq!(body, wanted);
        let Value::Object(fields) = body else { panic!("an object") };
        let mut draft = sandbar_core::script::Draft::new();
        assert_eq!(draft.take(&fields, &sandbar_core::script::Draft::new()), [], "and the server takes them all");
    }

    #[test]
    fn flags_win_over_the_record() {
        let yaml = "name: digest2\ncode: return 2\nlanguage: javascript\ntrusted: true\ntimeoutMs: 100\ncapabilities: [fetch]\nfetchAllow: [a.example]\nschedule: {timezone: UTC, jitterSeconds: 1}\n";
        let (name, body) = of(yaml, &["--config", "RECORD"]).unwrap();
        let record = json!({"code": "return 2", "language": "javascript", "trusted": true, "timeoutMs": 100, "capabilities": ["fetch"], "fetchAllow": ["a.example"],
            "schedule": {"timezone": "UTC", "jitterSeconds": 1}});
        assert_eq!((name.as_str(), body), ("digest2", record));
        let flags = [
            "CODE",
            "--config",
            "RECORD",
            "--name",
            "other",
            "--timeout",
            "200",
            "--no-capabilities",
            "--no-fetch",
            "--jitter",
            "2",
            "--author-kind",
            "tenant",
        ];
        let (name, body) = of(yaml, &flags).unwrap();
        let record = json!({"code": "return 1", "language": "javascript", "timeoutMs": 200, "capabilities": [], "fetchAllow": [], "authorKind": "tenant",
            "schedule": {"timezone": "UTC", "jitterSeconds": 2}});
        assert_eq!((name.as_str(), body), ("other", record));
        // What `get` prints can be given back.
        let got = r#"{"id": "x", "version": 3, "name": "a", "code": "return 1", "capabilities": null, "nextRunAt": null, "secrets": []}"#;
        assert_eq!(of(got, &["--config", "RECORD"]).unwrap(), ("a".to_owned(), json!({"code": "return 1", "capabilities": null})));
    }

    #[test]
    fn what_is_missing_is_said() {
        for (config, flags, says) in [
            ("trigger: http\n", &["--config", "RECORD", "--name", "a"][..], "give a FILE with the code"),
            ("code: return 1\n", &["--config", "RECORD"], "name the script by --name"),
            ("- code\n", &["--config", "RECORD"], "has to be an object"),
            ("code: [\n", &["--config", "RECORD"], "is no YAML or JSON"),
            ("retry: 3\n", &["CODE", "--config", "RECORD", "--max-age", "5"], "retry in --config is 3"),
            ("name: 3\n", &["CODE", "--config", "RECORD"], "name in --config is 3"),
            ("", &["-", "--config", "-"], "cannot both come from standard input"),
            ("", &["CODE", "--no-fetch", "--fetch-allow", "x"], "cannot be used with"),
            ("", &["--name", "a"], "required"),
        ] {
            let error = format!("{:#}", of(config, flags).unwrap_err());
            assert!(error.contains(says), "{error} says {says}");
        }
    }
}
