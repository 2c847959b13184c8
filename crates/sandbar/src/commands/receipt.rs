//! `sandbar receipt`: what receipts are worth, without a server.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, bail};
use sandbar_core::app::receipt::{Demand, PublicKey, Reader, Report, Verifier};
use serde_json::json;

use crate::{
    cli::{Global, Output, ReceiptCommand, VerifyArgs},
    output,
};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// Of a file with a key.
const KEY_FILE_MAX_BYTES: u64 = 4096;

pub async fn run(global: &Global, command: ReceiptCommand) -> anyhow::Result<u8> {
    match command {
        ReceiptCommand::Verify(args) => tokio::task::block_in_place(|| verify(global.output, &args)),
    }
}

fn verify(form: Output, args: &VerifyArgs) -> anyhow::Result<u8> {
    let trusted = args.key.as_deref().map(public_key).transpose()?;
    let demand = if args.chain { Demand::Chain } else { Demand::Each };
    let report = report(&args.file, trusted, demand)?;
    if args.json || form == Output::Json {
        let wrong: Vec<_> =
            report.problems.iter().map(|problem| json!({"id": problem.id, "sequence": problem.sequence, "message": problem.problem.to_string()})).collect();
        let (first, last) = report.ends.as_ref().map(|(first, last)| (first.sequence, last.sequence)).unzip();
        output::json(&json!({
            "ok": report.is_right(), "trusted": trusted.is_some(), "receipts": report.receipts, "missing": report.missing, "problems": wrong,
            "more_problems": report.more_problems, "first": first, "last": last, "public_key": report.ends.as_ref().map(|(first, _)| first.public_key),
        }));
    } else {
        for problem in &report.problems {
            output::line(&output::printable(&problem.to_string()));
        }
        if report.more_problems > 0 {
            output::line(&format!("and {} problems more", report.more_problems));
        }
        if report.is_right() {
            output::line(&output::printable(&verdict(&report, trusted.is_some())));
        }
    }
    Ok(u8::from(!report.is_right()))
}

/// Reads a file as it comes: of the whole of it no more than a few receipts are in memory.
fn report(path: &Path, trusted: Option<PublicKey>, demand: Demand) -> anyhow::Result<Report> {
    let (mut file, what) = open(path)?;
    let (mut reader, mut verifier) = (Reader::default(), Verifier::new(trusted, demand));
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("{what} cannot be read")),
        };
        reader.feed(&piece[..length], &mut |item| verifier.push(item))?;
    }
    reader.end()?;
    Ok(verifier.end())
}

fn verdict(report: &Report, trusted: bool) -> String {
    let Some((first, last)) = &report.ends else { return String::new() };
    let which = match report.receipts {
        1 => format!("receipt {} (number {}) is", first.id, first.sequence),
        count if report.missing == 0 => format!("{count} receipts, numbers {} to {} without a gap, are", first.sequence, last.sequence),
        count => format!(
            "{count} receipts, numbers {} to {} without {} that are not here (those of other apps; --chain demands all), are",
            first.sequence, last.sequence, report.missing
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

/// A file or standard input, and what it is called.
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read>, String)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), "standard input".to_owned()));
    }
    let what = output::printable(&path.display().to_string());
    let file = File::open(path).with_context(|| format!("{what} cannot be read"))?;
    Ok((Box::new(file), what))
}

fn read_bounded(path: &Path, max_bytes: u64) -> anyhow::Result<String> {
    let (file, what) = open(path)?;
    let mut text = String::new();
    file.take(max_bytes + 1).read_to_string(&mut text).with_context(|| format!("{what} cannot be read"))?;
    if text.len() as u64 > max_bytes {
        bail!("{what} has more than {max_bytes} bytes");
    }
    Ok(text)
}
