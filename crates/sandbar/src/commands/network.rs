//! `sandbar sandbox net`.

use std::collections::VecDeque;
use std::io::IsTerminal;

use anyhow::Context;
use futures_util::StreamExt;
use reqwest::Method;
use sandbar_core::limits::NETWORK_EVENTS_PAGE_MAX;
use serde_json::Value;

use crate::{
    cli::{NetArgs, Output},
    client::{Client, sandbox_path},
    output::{self, cell, time},
};

const HEADER: [&str; 8] = ["SEQ", "AT", "DECISION", "TO", "PROTO", "SENT", "RECEIVED", "RULE"];
/// A followed table does not know what comes; these are as wide as most are.
const WIDTHS: [usize; 8] = [16, 20, 8, 40, 8, 9, 9, 0];

pub(super) async fn events(client: &Client, form: Output, args: &NetArgs) -> anyhow::Result<()> {
    let mut query: Vec<_> = args.decision.iter().map(|decision| ("decision", decision.clone())).collect();
    query.extend(args.since.iter().map(|since| ("since", since.clone())));
    if args.follow {
        query.extend([("after", args.after.to_string()), ("follow", "true".into())]);
        let request = client.request(Method::GET, &sandbox_path(&args.id, "/network/events")).query(&query);
        return follow(client.send(request).await?, form).await;
    }
    let (data, left_out) = newest(client, args, &query).await?;
    if form == Output::Json {
        output::json(&data);
        return Ok(());
    }
    let rows: Vec<_> = data["events"].as_array().into_iter().flatten().map(row).collect();
    let text = output::layout(&HEADER, &rows);
    for (at, line) in text.lines().enumerate() {
        let denied = at.checked_sub(1).and_then(|at| rows.get(at)).is_some_and(|row| is_denied(&row[2]));
        output::line(&painted(line, denied));
    }
    if data["running"] == false {
        eprintln!("{} has no runtime: what it did before is not kept", args.id);
    }
    if left_out > 0 {
        eprintln!("{left_out} earlier ones are left out; --limit {} shows them, too", left_out + rows.len());
    }
    tell_missed(&data["missed"]);
    Ok(())
}

/// The newest flows as one page, and how many before them are left out. A sandbox keeps as many as fit into few pages.
async fn newest(client: &Client, args: &NetArgs, query: &[(&str, String)]) -> anyhow::Result<(Value, usize)> {
    let mut events: VecDeque<Value> = VecDeque::new();
    let (mut after, mut missed, mut left_out) = (args.after.to_string(), None, 0);
    loop {
        let page = [("after", after), ("limit", NETWORK_EVENTS_PAGE_MAX.to_string())];
        let request = client.request(Method::GET, &sandbox_path(&args.id, "/network/events"));
        let mut data = client.data(request.query(query).query(&page)).await?;
        let Value::Array(found) = data["events"].take() else { anyhow::bail!("the server answered without events") };
        let is_last = found.len() < NETWORK_EVENTS_PAGE_MAX as usize;
        events.extend(found);
        let too_many = events.len().saturating_sub(args.limit as usize);
        events.drain(..too_many);
        left_out += too_many;
        // Of the first page: what was forgotten since then is none of what was asked for.
        let missed = missed.get_or_insert_with(|| data["missed"].clone());
        if is_last {
            data["missed"] = missed.take();
            data["events"] = Value::Array(events.into());
            return Ok((data, left_out));
        }
        after = data["next_after"].to_string();
    }
}

async fn follow(response: reqwest::Response, form: Output) -> anyhow::Result<()> {
    if form == Output::Table {
        output::line(&columns(HEADER.map(str::to_owned).as_slice()));
    }
    let mut stream = response.bytes_stream();
    let mut pending = Vec::new();
    while let Some(chunk) = stream.next().await {
        pending.extend_from_slice(&chunk.context("the events broke off")?);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let rest = pending.split_off(end + 1);
            let line: Value = serde_json::from_slice(&pending).context("the server sent a line that is no JSON")?;
            pending = rest;
            if output::is_lost() {
                return Ok(());
            }
            if form == Output::Json {
                output::line(&line.to_string());
                continue;
            }
            match line["type"].as_str() {
                Some("event") => {
                    let row = row(&line["data"]);
                    output::line(&painted(&columns(&row), is_denied(&row[2])));
                }
                Some("missed") => tell_missed(&line["count"]),
                Some("error") => anyhow::bail!("{}", output::printable(&cell(&line["error"]))),
                _ => {}
            }
        }
    }
    Ok(())
}

fn tell_missed(count: &Value) {
    if count.as_i64().is_some_and(|count| count > 0) {
        eprintln!("{count} more came than are kept, and are missing");
    }
}

fn row(event: &Value) -> Vec<String> {
    let addr = cell(&event["addr"]);
    let addr = if addr.contains(':') { format!("[{addr}]") } else { addr };
    let to = match event["host"].as_str() {
        Some(host) => format!("{host} ({addr}:{})", event["port"]),
        None => format!("{addr}:{}", event["port"]),
    };
    let proto = [&event["protocol"], &event["app"]].into_iter().map(cell).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    // Whoever looks for what was refused finds it by its case, too.
    let decision = match (event["decision"].as_str(), event["state"].as_str()) {
        (Some("deny"), _) => "DENY".to_owned(),
        (_, Some(state)) => state.to_owned(),
        (_, None) => String::new(),
    };
    let mut why = cell(&event["rule"]);
    if let Some(reason) = event["reason"].as_str() {
        why.push_str(&format!(": {reason}"));
    }
    if let Some(times) = event["times"].as_i64().filter(|times| *times > 1) {
        why.push_str(&format!(" ({times} times)"));
    }
    vec![cell(&event["seq"]), time(&event["at"]), decision, to, proto, cell(&event["bytes_sent"]), cell(&event["bytes_received"]), why]
}

fn is_denied(decision: &str) -> bool {
    decision == "DENY"
}

/// A line of a table that grows.
fn columns(row: &[String]) -> String {
    let cells: Vec<_> = row.iter().zip(WIDTHS).map(|(cell, width)| format!("{:width$}", output::printable(cell))).collect();
    cells.join("  ").trim_end().to_owned()
}

/// Red for people, plain for programs.
fn painted(line: &str, denied: bool) -> String {
    if denied && std::io::stdout().is_terminal() { format!("\x1b[31m{line}\x1b[0m") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_say_whom_and_why() {
        let denied = json!({ "seq": 7, "at": "2026-01-02T03:04:05.6Z", "host": "a.test", "addr": "2001:db8::1", "port": 443, "protocol": "udp", "app": "tls",
            "decision": "deny", "times": 3, "rule": "mode block-all", "bytes_sent": 0, "bytes_received": 0, "state": "closed" });
        assert_eq!(row(&denied), ["7", "2026-01-02T03:04:05Z", "DENY", "a.test ([2001:db8::1]:443)", "udp/tls", "0", "0", "mode block-all (3 times)"]);
        let failed = json!({ "seq": 8, "at": "2026-01-02T03:04:05Z", "addr": "9.9.9.9", "port": 80, "protocol": "tcp",
            "decision": "allow", "rule": "mode allow-all", "bytes_sent": 1, "bytes_received": 2, "state": "failed", "reason": "Connection refused" });
        assert_eq!(row(&failed)[2..4], ["failed", "9.9.9.9:80"]);
        assert_eq!(row(&failed)[7], "mode allow-all: Connection refused");
        assert!(columns(&row(&failed)).starts_with("8                 2026-01-02T03:04:05Z  failed    9.9.9.9:80"));
    }
}
