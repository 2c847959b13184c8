//! `sandbar app validate`: what the server says of a manifest, without one.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use sandbar_core::{
    app::manifest::{FILE_NAMES, Parsed, parse_bytes},
    limits::apps::MANIFEST_MAX_BYTES,
};
use serde_json::json;

use crate::{
    cli::{Output, ValidateArgs},
    output,
};

pub fn run(form: Output, args: &ValidateArgs) -> anyhow::Result<u8> {
    let file = find(&args.path)?;
    let result = parse_bytes(&read(&file)?);
    let json_wanted = args.json || form == Output::Json;
    match &result {
        Ok(parsed) if json_wanted => output::json(&json!({"ok": true, "diagnostics": [], "file": file, "hash": parsed.hash})),
        Err(diagnostics) if json_wanted => output::json(&json!({"ok": false, "diagnostics": diagnostics, "file": file})),
        Ok(parsed) => output::line(&format!("{}: {}", shown(&file), summary(parsed))),
        Err(diagnostics) => {
            for diagnostic in diagnostics {
                output::line(&output::printable(&format!("{}:{diagnostic}", file.display())));
            }
        }
    }
    Ok(u8::from(result.is_err()))
}

/// The manifest that a path means: itself, or the one in the folder.
pub fn find(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = FILE_NAMES.into_iter().map(|name| path.join(name)).find(|file| file.is_file());
    let Some(found) = found else { bail!("there is no {} in {}; `sandbar app init` writes one", FILE_NAMES[0], shown(path)) };
    // `./sandbar.yaml` is `sandbar.yaml`.
    Ok(found.strip_prefix(".").map(Path::to_owned).unwrap_or(found))
}

/// Not more of it than is needed to tell that it is too large.
pub fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let max = MANIFEST_MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().take(max).read_to_end(&mut bytes).context("standard input cannot be read")?;
    } else {
        let opened = File::open(file).with_context(|| format!("{} cannot be read", shown(file)))?;
        opened.take(max).read_to_end(&mut bytes).with_context(|| format!("{} cannot be read", shown(file)))?;
    }
    Ok(bytes)
}

fn shown(path: &Path) -> String {
    output::printable(&path.display().to_string())
}

fn summary(parsed: &Parsed) -> String {
    let manifest = &parsed.manifest;
    let count = |count: usize, one: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{count} {one}s")),
    };
    let start = manifest.start_command().map(|_| "a start command".to_owned());
    let counts = [("action", manifest.actions.len()), ("service", manifest.services.len()), ("schedule", manifest.schedules.len())];
    let parts: Vec<String> = start.into_iter().chain(counts.into_iter().filter_map(|(one, number)| count(number, one))).collect();
    if parts.is_empty() { "is right; nothing runs in it yet".to_owned() } else { format!("is right; it has {}", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use sandbar_core::app::manifest::parse;

    use super::*;

    #[test]
    fn what_is_in_a_manifest_is_counted() {
        let text = "start: {command: x}\nactions: [{name: a, command: x}, {name: b, command: x}]\n";
        assert_eq!(summary(&parse(text).unwrap()), "is right; it has a start command, 2 actions");
        assert_eq!(summary(&parse("{}").unwrap()), "is right; nothing runs in it yet");
    }

    #[test]
    fn a_folder_means_the_manifest_in_it() {
        let dir = std::env::temp_dir().join(format!("sandbar-app-find-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(find(&dir).unwrap_err().to_string().contains("sandbar app init"));
        std::fs::write(dir.join("openpond.yaml"), "{}").unwrap();
        assert_eq!(find(&dir).unwrap(), dir.join("openpond.yaml"));
        std::fs::write(dir.join("sandbar.yaml"), "{}").unwrap();
        assert_eq!(find(&dir).unwrap(), dir.join("sandbar.yaml"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
