//! Files that `sandbar app run` sends along.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use sandbar_core::limits::app_runs as limits;
use serde_json::{Value, json};

use crate::{commands::given::WrongUse, output};

/// What files are whose names end so.
const TYPES: &[(&str, &str)] = &[
    ("csv", "text/csv"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("md", "text/markdown"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webp", "image/webp"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zip", "application/zip"),
];

/// A file as it was named.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    input: &'a str,
    path: PathBuf,
    content_type: Option<String>,
}

/// The files of a request.
pub(super) fn read(named: &[String]) -> anyhow::Result<Value> {
    let mut left = limits::RUN_FILES_MAX_BYTES;
    let mut files = Vec::with_capacity(named.len());
    for text in named {
        let Named { input, path, content_type } = parse(text)?;
        let bytes = content(&path, left)?;
        left -= bytes.len();
        let name = path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name in UTF-8", path.display()))?;
        files.push(json!({ "input": input, "name": name, "content_type": content_type, "content_base64": BASE64_STANDARD.encode(bytes) }));
    }
    Ok(Value::Array(files))
}

fn parse(text: &str) -> anyhow::Result<Named<'_>> {
    let Some((input, rest)) = text.split_once('=').filter(|(input, rest)| !input.is_empty() && !rest.is_empty()) else {
        return Err(WrongUse::error(format!("--file {text:?} is not of the form NAME=PATH")));
    };
    let (path, said) = match rest.rsplit_once(";type=") {
        Some((path, said)) => (path, Some(said.to_owned())),
        None => (rest, None),
    };
    Ok(Named { input, content_type: said.or_else(|| type_of(Path::new(path))), path: path.into() })
}

fn type_of(path: &Path) -> Option<String> {
    let end = path.extension()?.to_str()?.to_ascii_lowercase();
    TYPES.iter().find(|(known, _)| *known == end).map(|(_, kind)| (*kind).to_owned())
}

/// All of a file, unless that is too much.
fn content(path: &Path, left: usize) -> anyhow::Result<Vec<u8>> {
    let unread = || format!("{} cannot be read", path.display());
    let mut bytes = Vec::new();
    File::open(path).with_context(unread)?.take(left as u64 + 1).read_to_end(&mut bytes).with_context(unread)?;
    if bytes.len() > left {
        bail!("{} is too much: the files of a run may have {} together", path.display(), output::size(limits::RUN_FILES_MAX_BYTES as u64));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_with_what_it_is() {
        let named = |input, path: &str, kind: Option<&str>| Named { input, path: path.into(), content_type: kind.map(str::to_owned) };
        assert_eq!(parse("guests=a/b.CSV").unwrap(), named("guests", "a/b.CSV", Some("text/csv")));
        assert_eq!(parse("a.b=c=d").unwrap(), named("a.b", "c=d", None));
        assert_eq!(parse("a=b.csv;type=text/plain").unwrap(), named("a", "b.csv", Some("text/plain")));
        for wrong in ["", "a", "=b", "a="] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn more_than_may_be_is_not_read() {
        let file = std::env::temp_dir().join(format!("sandbar-files-{}", std::process::id()));
        std::fs::write(&file, [0; 9]).unwrap();
        assert_eq!(content(&file, 9).unwrap().len(), 9);
        assert!(content(&file, 8).unwrap_err().to_string().contains("MiB together"));
        std::fs::remove_file(&file).unwrap();
        assert!(content(&file, 8).is_err());
    }
}
