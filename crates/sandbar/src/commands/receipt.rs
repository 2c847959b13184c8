//! `sandbar receipt`: what receipts are worth, without a server.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, bail};
use sandbar_core::app::receipt::{Demand, Document, PublicKey, Report, Signed, read, verify_chain};
use serde_json::json;

use crate::{
    cli::{Global, Output, ReceiptCommand, VerifyArgs},
    output,
};

/// Of a file of receipts: a hundred thousand of usual ones.
const FILE_MAX_BYTES: u64 = 2 << 30;
/// Of a file with a key.
const KEY_FILE_MAX_BYTES: u64 = 4096;

pub async fn run(global: &Global, command: ReceiptCommand) -> anyhow::Result<u8> {
    match command {
        ReceiptCommand::Verify(args) => tokio::task::block_in_place(|| verify(global.output, &args)),
    }
}

fn verify(form: Output, args: &VerifyArgs) -> anyhow::Result<u8> {
    let trusted = args.key.as_deref().map(public_key).transpose()?;
    let Document { mut receipts, checkpoints } = read(&read_bounded(&args.file, FILE_MAX_BYTES)?)?;
    // Servers list the newest first.
    if let [first, .., last] = &receipts[..]
        && first.receipt.chain == last.receipt.chain
        && first.receipt.sequence > last.receipt.sequence
    {
        receipts.reverse();
    }
    let demand = if args.chain { Demand::Chain } else { Demand::Each };
    let Report { problems, missing } = verify_chain(&receipts, &checkpoints, trusted.as_ref(), demand);
    if args.json || form == Output::Json {
        let wrong: Vec<_> =
            problems.iter().map(|problem| json!({"id": problem.id, "sequence": problem.sequence, "message": problem.problem.to_string()})).collect();
        output::json(&json!({
            "ok": problems.is_empty(), "trusted": trusted.is_some(), "receipts": receipts.len(), "missing": missing, "problems": wrong,
            "first": receipts.first().map(|signed| signed.receipt.sequence), "last": receipts.last().map(|signed| signed.receipt.sequence),
            "public_key": receipts.first().map(|signed| signed.public_key),
        }));
    } else {
        for problem in &problems {
            output::line(&output::printable(&problem.to_string()));
        }
        if problems.is_empty() {
            output::line(&output::printable(&verdict(&receipts, missing, trusted.is_some())));
        }
    }
    Ok(u8::from(!problems.is_empty()))
}

fn verdict(receipts: &[Signed], missing: u64, trusted: bool) -> String {
    let (Some(first), Some(last)) = (receipts.first(), receipts.last()) else { return String::new() };
    let which = match receipts.len() {
        1 => format!("receipt {} (number {}) is", first.receipt.id, first.receipt.sequence),
        count if missing == 0 => format!("{count} receipts, numbers {} to {} without a gap, are", first.receipt.sequence, last.receipt.sequence),
        count => format!(
            "{count} receipts, numbers {} to {} without {missing} that are not here (those of other apps; --chain demands all), are",
            first.receipt.sequence, last.receipt.sequence
        ),
    };
    let whose = if trusted {
        "with the key that you trust".to_owned()
    } else {
        format!("with the key {} that is in them; whether that is the server's, only --key tells", first.public_key)
    };
    format!("{which} as signed, {whose}")
}

/// A key, or where it is.
fn public_key(text: &str) -> anyhow::Result<PublicKey> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let path = Path::new(text);
    if !path.exists() {
        bail!("--key is neither a public key (64 hex digits) nor a file with one");
    }
    let shown = output::printable(text);
    read_bounded(path, KEY_FILE_MAX_BYTES)?.parse().with_context(|| format!("{shown} holds no public key"))
}

fn read_bounded(path: &Path, max_bytes: u64) -> anyhow::Result<String> {
    let shown = output::printable(&path.display().to_string());
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(max_bytes + 1).read_to_string(&mut text).context("standard input cannot be read")?;
    } else {
        let file = File::open(path).with_context(|| format!("{shown} cannot be read"))?;
        file.take(max_bytes + 1).read_to_string(&mut text).with_context(|| format!("{shown} cannot be read"))?;
    }
    if text.len() as u64 > max_bytes {
        bail!("{shown} has more than {max_bytes} bytes");
    }
    Ok(text)
}
