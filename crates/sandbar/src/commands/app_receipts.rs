//! `sandbar app receipts`: what was signed of runs.

use serde_json::Value;

use crate::{
    cli::{Global, Output, ReceiptsArgs, ReceiptsCommand},
    client::{Client, segment},
    output::{self, cell},
};

pub async fn run(global: &Global, client: &Client, args: ReceiptsArgs) -> anyhow::Result<u8> {
    match args.command {
        Some(ReceiptsCommand::Get { id }) => get(global, client, &id).await,
        None => list(global, client, args.app.as_deref(), args.after).await,
    }
}

async fn list(global: &Global, client: &Client, app: Option<&str>, after: u64) -> anyhow::Result<u8> {
    let app = app.map(|app| format!("&app={}", segment(app))).unwrap_or_default();
    let (mut after, mut gone) = (Some(after), None);
    let (mut list, mut rows) = (List::default(), Vec::new());
    // A page is printed before the next one is asked for: all of them are more than one would have in memory.
    while let Some(seq) = after.filter(|_| !output::is_lost()) {
        let mut page = client.get(&format!("/api/v1/receipts?limit=200&after_seq={seq}{app}")).await?;
        // What stands for those that are gone belongs before those that are not.
        let checkpoint = page["checkpoint"].take();
        if gone.is_none() && !checkpoint.is_null() {
            gone = Some(checkpoint["checkpoint"]["sequence"].clone());
            if global.output == Output::Json {
                list.item(&checkpoint);
            }
        }
        gone.get_or_insert(Value::Null);
        after = page["next_after_seq"].as_u64();
        let Value::Array(receipts) = page["receipts"].take() else { continue };
        match global.output {
            Output::Json => receipts.iter().for_each(|signed| list.item(signed)),
            Output::Table => rows.extend(receipts.iter().filter(|signed| signed["receipt"].is_object()).map(row)),
        }
    }
    match global.output {
        Output::Json => list.end(),
        Output::Table => {
            output::table(&["NUMBER", "ID", "APP", "VERSION", "KIND", "NAME", "STATUS", "EXIT", "RUN", "COST"], &rows);
            if let Some(gone) = gone.filter(|gone| !gone.is_null()) {
                eprintln!("sandbar: those up to number {gone} are not kept any longer");
            }
        }
    }
    Ok(0)
}

fn row(signed: &Value) -> Vec<String> {
    let receipt = &signed["receipt"];
    let of = |name: &str| output::printable(&cell(&receipt[name]));
    vec![of("sequence"), of("id"), of("app_name"), of("app_version"), of("kind"), of("name"), of("status"), of("exit_code"), of("run_id"), cost(receipt)]
}

/// A list as JSON that is printed as it comes.
#[derive(Default)]
struct List {
    /// Printed when it is known whether another one follows.
    last: Option<String>,
}

impl List {
    fn item(&mut self, value: &Value) {
        let text = serde_json::to_string_pretty(value).unwrap_or_default().replace('\n', "\n  ");
        match self.last.replace(text) {
            Some(last) => output::line(&format!("  {last},")),
            None => output::line("["),
        }
    }

    fn end(self) {
        match self.last {
            Some(last) => output::line(&format!("  {last}\n]")),
            None => output::line("[]"),
        }
    }
}

async fn get(global: &Global, client: &Client, id: &str) -> anyhow::Result<u8> {
    let signed = match client.get(&format!("/api/v1/receipts/{}", segment(id))).await {
        Ok(mut found) => found["receipt"].take(),
        // It may be that of a run; when it is not, the first answer is the one that was asked for.
        Err(error) => match client.get(&format!("/api/v1/app-runs/{}/receipt", segment(id))).await {
            Ok(mut found) => found["receipt"].take(),
            Err(_) => return Err(error),
        },
    };
    match global.output {
        Output::Json => output::json(&signed),
        Output::Table => show(&signed),
    }
    Ok(0)
}

fn show(signed: &Value) {
    let (receipt, usage) = (&signed["receipt"], &signed["receipt"]["usage"]);
    let of = |name: &'static str, value: &Value| (name, output::printable(&cell(value)));
    let mut fields: Vec<(&str, String)> = ["id", "sequence", "app_name", "app_version", "kind", "name", "run_id", "status", "exit_code", "reason", "command"]
        .map(|name| of(name, &receipt[name]))
        .into();
    let caused = &receipt["caused_by"];
    fields.extend(["cause", "user_id", "key_id", "schedule_id"].map(|name| of(name, &caused[name])));
    fields.extend(["sandbox_id", "manifest_sha256", "source_sha256", "input_sha256"].map(|name| of(name, &receipt[name])));
    fields.extend(["created_at", "started_at", "commanded_at", "finished_at"].map(|name| (name, moment(&receipt[format!("{name}_ms")]))));
    for (name, source) in [
        ("duration_ms", ""),
        ("collecting_ms", ""),
        ("cpu_us", "cpu"),
        ("memory_peak_bytes", "memory"),
        ("disk_bytes", "disk"),
        ("network_sent_bytes", "network"),
        ("network_received_bytes", "network"),
    ] {
        let whose = cell(&usage["sources"][source]);
        let figure = if usage[name].is_null() { "unknown".to_owned() } else { cell(&usage[name]) };
        fields.push((name, if whose.is_empty() { figure } else { format!("{figure} ({whose})") }));
    }
    fields.push(("cost", cost(receipt)));
    fields.extend([of("previous_sha256", &receipt["previous_sha256"]), of("sha256", &signed["sha256"]), of("key_id", &receipt["key_id"])]);
    output::record(&fields);
    let rows = |list: &Value, names: &[&str]| -> Vec<Vec<String>> {
        list.as_array().into_iter().flatten().map(|item| names.iter().map(|name| output::printable(&cell(&item[*name]))).collect()).collect()
    };
    for (list, head, names) in [
        (&receipt["artifacts"], ["BYTES", "PATH", "SHA256"], ["size_bytes", "path", "sha256"]),
        (&receipt["denied"], ["COUNT", "DESTINATION", "RULE"], ["count", "destination", "rule"]),
    ] {
        let rows = rows(list, &names);
        if !rows.is_empty() {
            output::line("");
            output::table(&head, &rows);
        }
    }
    let items = receipt["price"]["line_items"].as_array().map_or(&[][..], Vec::as_slice);
    if !items.is_empty() {
        let row = |item: &Value| {
            let micros = |name: &str| money(&item[name]);
            vec![
                output::printable(&cell(&item["label"])),
                micros("quantity_micros"),
                output::printable(&cell(&item["unit"])),
                micros("unit_price_micros"),
                micros("amount_micros"),
            ]
        };
        output::line("");
        output::table(&["ITEM", "QUANTITY", "UNIT", "UNIT PRICE", "AMOUNT"], &items.iter().map(row).collect::<Vec<_>>());
    }
}

/// A moment of a receipt.
fn moment(ms: &Value) -> String {
    ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|at| at.to_string()).unwrap_or_default()
}

/// What a run cost, as far as that is known.
fn cost(receipt: &Value) -> String {
    let price = &receipt["price"];
    if price.is_null() {
        return String::new();
    }
    let more = if price["unknown"].as_array().is_some_and(|unknown| !unknown.is_empty()) { " or more" } else { "" };
    format!("{} {}{more}", money(&price["total_micros"]), output::printable(&cell(&price["currency"])))
}

/// Millionths as a number with a fraction.
fn money(micros: &Value) -> String {
    micros.as_u64().map(|micros| sandbar_core::app::amount::Amount::of_micros(micros).to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn money_is_told_as_far_as_it_is_known() {
        let receipt = |price: Value| json!({ "price": price });
        for (price, text) in [
            (Value::Null, ""),
            (json!({ "currency": "USD", "total_micros": 1_500_000, "unknown": [] }), "1.5 USD"),
            (json!({ "currency": "USD", "total_micros": 10, "unknown": ["memory"] }), "0.00001 USD or more"),
        ] {
            assert_eq!(cost(&receipt(price)), text);
        }
    }
}
