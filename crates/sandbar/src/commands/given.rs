//! What the command line is given as JSON, as a file or on standard input: read with a bound, and refused as wrong use.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::Value;

/// The command was used wrongly, as when clap refuses a flag: the exit code is 2.
#[derive(Debug)]
pub struct WrongUse(pub String);

impl WrongUse {
    pub fn error(text: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self(text.into()))
    }
}

impl fmt::Display for WrongUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}

/// The text of JSON that a flag has as it is, from `@FILE`, or from standard input (`-`).
pub fn json_text(flag: &str, given: &str, bytes_max: usize) -> anyhow::Result<String> {
    let text = match given.strip_prefix('@') {
        Some(file) => text_of(Path::new(file), bytes_max).context(WrongUse(flag.to_owned()))?,
        None if given == "-" => text_of(Path::new("-"), bytes_max).context(WrongUse(flag.to_owned()))?,
        None if given.len() > bytes_max => return Err(too_large(flag, bytes_max)),
        None => given.to_owned(),
    };
    serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| WrongUse::error(format!("{flag} is no JSON: {error}{}", hint(given))))?;
    Ok(text)
}

/// The same as a value.
pub fn json(flag: &str, given: &str, bytes_max: usize) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&json_text(flag, given, bytes_max)?)?)
}

/// A YAML or JSON file, or standard input (`-`), that holds an object.
pub fn document(file: &Path, bytes_max: usize) -> anyhow::Result<serde_json::Map<String, Value>> {
    let text = text_of(file, bytes_max)?;
    // Its error says line and column.
    let value = serde_norway::from_str(&text).map_err(|error| WrongUse::error(format!("{} is no YAML or JSON: {error}", name_of(file))))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(WrongUse::error(format!("{} has to be an object: fields with their values", name_of(file)))),
    }
}

/// A file, or standard input (`-`).
pub fn text_of(file: &Path, bytes_max: usize) -> anyhow::Result<String> {
    let (mut bytes, most, name) = (Vec::new(), bytes_max as u64 + 1, name_of(file));
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| WrongUse::error(format!("{name} cannot be read: {error}")))?;
    if bytes.len() > bytes_max {
        return Err(too_large(&name, bytes_max));
    }
    String::from_utf8(bytes).map_err(|_| WrongUse::error(format!("{name} is no UTF-8 text")))
}

fn too_large(what: &str, bytes_max: usize) -> anyhow::Error {
    WrongUse::error(format!("{what} is larger than {bytes_max} bytes"))
}

fn name_of(file: &Path) -> String {
    if file.as_os_str() == "-" { "standard input".to_owned() } else { file.display().to_string() }
}

/// What was probably meant.
fn hint(given: &str) -> String {
    match PathBuf::from(given).is_file() {
        true => format!("; for the file of this name write @{given}"),
        false => "; write JSON, @FILE, or - for standard input".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_comes_from_the_argument_or_a_file() {
        let file = std::env::temp_dir().join(format!("sandbar-cli-given-{}.json", std::process::id()));
        let name = file.display().to_string();
        std::fs::write(&file, r#"{"a": 1}"#).expect("writes");
        assert_eq!(json("--data", &format!("@{name}"), 8).unwrap(), json!({"a": 1}));
        assert_eq!(json("--data", "[1]", 8).unwrap(), json!([1]));
        assert_eq!(json_text("--data", "123456789012345678901234567890", 99).unwrap(), "123456789012345678901234567890", "as it was written");
        for (given, says) in [
            ("{", "--data is no JSON: EOF while parsing an object at line 1 column 1; write JSON, @FILE, or - for standard input"),
            (name.as_str(), "write @"),
            ("@/nonexistent/file", "/nonexistent/file cannot be read"),
            ("[1, 2, 3, 4]", "--data is larger than 8 bytes"),
        ] {
            let error = json("--data", given, if given == "[1, 2, 3, 4]" { 8 } else { 4096 }).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{error:#}");
            assert!(error.downcast_ref::<WrongUse>().is_some(), "{given} is wrong use");
        }
        assert!(format!("{:#}", json("--data", &format!("@{name}"), 7).unwrap_err()).contains("larger than 7 bytes"));
        assert_eq!(Value::Object(document(&file, 99).unwrap()), json!({"a": 1}));
        std::fs::write(&file, "a: 1\nb: [x]\n").expect("writes");
        assert_eq!(Value::Object(document(&file, 99).unwrap()), json!({"a": 1, "b": ["x"]}));
        std::fs::write(&file, "- a\n").expect("writes");
        assert!(document(&file, 99).unwrap_err().to_string().contains("has to be an object"));
        let _ = std::fs::remove_file(file);
    }
}
