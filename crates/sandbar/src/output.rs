//! What commands print: aligned tables for people, JSON for programs.
//!
//! All of it goes through [`write`] and [`tell`], also what `println!` and `eprintln!` are in this crate. A reader that has gone ends
//! what is printed and nothing else: a command does what it was asked to, and says by its exit code how that went.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    path::Path,
    sync::OnceLock,
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

/// The first failure of standard output.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Writes on standard output.
pub fn write(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        let _ = LOST.set(error);
    }
}

/// Writes on standard error. Where that fails, there is nobody to tell.
pub fn tell(bytes: &[u8]) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(bytes).and_then(|()| err.flush());
}

/// Whether nobody reads standard output any more: what goes on until it is ended has nothing to do then.
pub fn is_lost() -> bool {
    LOST.get().is_some()
}

/// # Errors
/// Not all was written that should have been, and not because its reader has gone.
pub fn check() -> anyhow::Result<()> {
    match LOST.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => anyhow::bail!("standard output cannot be written: {error}"),
        _ => Ok(()),
    }
}

/// Prints JSON and a line end.
pub fn json(value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    line(&text);
}

/// Prints a line on standard output.
pub fn line(text: &str) {
    write(format!("{text}\n").as_bytes());
}

/// Prints rows in columns two spaces apart.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    line(&layout(header, rows));
}

/// Prints names and values, one a line; empty values are left out.
pub fn record(fields: &[(&str, String)]) {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        line(&format!("{name:width$}  {}", printable(value)));
    }
}

/// The text of a table.
pub fn layout(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut all: Vec<Vec<String>> = vec![header.iter().map(ToString::to_string).collect()];
    all.extend(rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()));
    let widths: Vec<usize> = (0..header.len()).map(|i| all.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    all.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count()))).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Text of the server for a terminal: control characters, which could draw on it, are shown and not obeyed.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The same of text that may have several lines.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Prints a text that is not ours as it is for a program, and as [`shown`] on a terminal.
pub fn text(text: &str) {
    if io::stdout().is_terminal() { line(&shown(text)) } else { line(text) }
}

/// A JSON value as a cell; nothing for null.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) if items.iter().all(|i| !i.is_array() && !i.is_object()) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A time of the wire as a cell: seconds are enough, and the first and the last year mean never.
pub fn time(value: &Value) -> String {
    let text = cell(value);
    if text.starts_with("0001-") || text.starts_with("9999-") {
        return String::new();
    }
    match text.split_once('.') {
        Some((whole, rest)) if rest.ends_with('Z') => format!("{whole}Z"),
        _ => text,
    }
}

/// A number of bytes for people: `512 B`, `1.50 GiB`.
pub fn size(bytes: u64) -> String {
    sandbar_core::quantity::readable_bytes(bytes)
}

/// The same as a cell; nothing where it is not known.
pub fn size_cell(bytes: &Value) -> String {
    bytes.as_u64().map(size).unwrap_or_default()
}

/// A bar for bytes when someone is watching, else nothing.
pub fn progress(total_bytes: Option<u64>, name: &str) -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = |template: &str| indicatif::ProgressStyle::with_template(template).unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    let bar = match total_bytes {
        Some(total) => indicatif::ProgressBar::new(total).with_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")),
        None => indicatif::ProgressBar::new_spinner().with_style(style("{msg} {spinner} {bytes} {binary_bytes_per_sec}")),
    };
    bar.with_message(name.to_owned())
}

/// Writes what comes to a file that appears under its name when it is whole. A device or pipe is written into.
pub async fn write_whole(file: &Path, mut pieces: impl Stream<Item = reqwest::Result<Bytes>> + Unpin) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", file.display());
    if tokio::fs::metadata(file).await.is_ok_and(|metadata| !metadata.is_file()) {
        let mut out = tokio::fs::OpenOptions::new().write(true).open(file).await.with_context(failed)?;
        while let Some(piece) = pieces.next().await {
            out.write_all(&piece.context("the connection broke off")?).await.with_context(failed)?;
        }
        return out.flush().await.with_context(failed);
    }
    let mut name = file.file_name().with_context(failed)?.to_owned();
    name.push(format!(".{:08x}.part", getrandom::u32().context("no random bytes")?));
    let half = file.with_file_name(name);
    let written = async {
        // Never over something, nor through a link.
        let mut out = tokio::fs::OpenOptions::new().write(true).create_new(true).open(&half).await?;
        while let Some(piece) = pieces.next().await {
            out.write_all(&piece?).await?;
        }
        out.flush().await?;
        tokio::fs::rename(&half, file).await?;
        anyhow::Ok(())
    };
    let written = written.await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&half).await;
    }
    written.with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_controls_are_shown() {
        let text = layout(&["ID", "STATUS"], &[vec!["sb-1".into(), "running".into()], vec!["ü".into(), "a\x1b[2J".into()]]);
        assert_eq!(text, "ID    STATUS\nsb-1  running\nü     a\u{fffd}[2J");
    }

    #[test]
    fn times_lose_their_fraction_and_the_zero_time_is_never() {
        assert_eq!(time(&"2026-05-01T10:00:00.123456Z".into()), "2026-05-01T10:00:00Z");
        assert_eq!(time(&"0001-01-01T00:00:00Z".into()), "");
        assert_eq!(time(&Value::Null), "");
    }
}
