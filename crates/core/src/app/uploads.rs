//! Files among the inputs of runs: properties of the schema with `x-openpond-upload`.
//!
//! A file is put where the manifest says before the command begins, and the property's value is its path in the sandbox.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{manifest::Volume, volume::target_place};
use crate::{limits::app_runs as limits, validate::Violation};

/// The key of a property that is given as a file.
pub const KEY: &str = "x-openpond-upload";

/// What a manifest says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The property; one within another after that and a dot.
    pub name: String,
    /// Of the file, or of the folder for several. Relative to the workspace and clean, or in a volume.
    pub target: String,
    /// `.csv`, `text/csv`, `image/*`. All, when empty.
    pub accept: Vec<String>,
    pub multiple: bool,
}

/// A file as somebody gives it.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The name of its [`Upload`].
    pub input: &'a str,
    /// What it is called where it comes from.
    pub filename: &'a str,
    /// What its sender says that it is.
    pub content_type: Option<&'a str>,
}

/// A file that a run was given. Its bytes are kept beside the row until the run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// The property of the input that it is.
    pub input: String,
    /// In the sandbox, absolute.
    pub path: String,
    pub size_bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// The files that a schema asks for, in its order.
pub fn uploads(schema: &Value) -> Vec<Upload> {
    let mut found = Vec::new();
    collect(schema, &mut Vec::new(), &mut found);
    found
}

fn collect(schema: &Value, place: &mut Vec<String>, found: &mut Vec<Upload>) {
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        place.push(name.clone());
        if let Some(Value::Object(said)) = property.get(KEY) {
            found.extend(read(place.join("."), said));
        }
        collect(property, place, found);
        place.pop();
    }
}

/// None for what the reading of a manifest refuses.
fn read(name: String, said: &Map<String, Value>) -> Option<Upload> {
    let target = super::artifact::clean_path(said.get("targetPath")?.as_str()?).ok()?;
    let accept = said.get("accept").and_then(Value::as_array).into_iter().flatten().filter_map(|entry| Some(entry.as_str()?.to_owned())).collect();
    Some(Upload { name, target, accept, multiple: said.get("multiple").and_then(Value::as_bool).unwrap_or(false) })
}

/// Where each file goes, or all that is wrong with them.
pub fn place(uploads: &[Upload], volumes: &[Volume], given: &[Given<'_>]) -> Result<Vec<String>, Vec<Violation>> {
    let (mut paths, mut wrong, mut taken, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new(), BTreeSet::new());
    for file in given {
        let refuse = |text: String| Violation::new(format!("files.{}", brief(file.input)), text);
        let Some(upload) = uploads.iter().find(|upload| upload.name == file.input) else {
            let names: Vec<_> = uploads.iter().map(|upload| upload.name.as_str()).collect();
            let has = if names.is_empty() { "the app takes no files".to_owned() } else { format!("the app takes files as {}", names.join(", ")) };
            wrong.push(refuse(format!("is no file input: {has}")));
            continue;
        };
        if !upload.multiple && !seen.insert(file.input) {
            wrong.push(refuse("takes one file".to_owned()));
            continue;
        }
        if let Err(text) = upload.accepts(file) {
            wrong.push(refuse(text));
            continue;
        }
        let path = match upload.path(volumes, file.filename) {
            Ok(path) => path,
            Err(text) => {
                wrong.push(refuse(text));
                continue;
            }
        };
        if !taken.insert(path.clone()) {
            wrong.push(refuse(format!("two files would be {}", brief(&path))));
        }
        paths.push(path);
    }
    if wrong.is_empty() { Ok(paths) } else { Err(wrong) }
}

/// Writes the paths of files into the input where their properties are. A path that somebody else says is none of a file that was sent.
pub fn fill(input: &mut Value, uploads: &[Upload], files: &[RunFile]) -> Result<(), Vec<Violation>> {
    let mut wrong = Vec::new();
    for upload in uploads {
        let mut paths = files.iter().filter(|file| file.input == upload.name).map(|file| Value::String(file.path.clone())).peekable();
        if paths.peek().is_none() {
            if is_given(input, &upload.name) {
                wrong.push(Violation::new(format!("input.{}", upload.name), "is a file: send it with `files`, not as a value"));
            }
            continue;
        }
        let value = if upload.multiple { Value::Array(paths.collect()) } else { paths.next().unwrap_or_default() };
        if let Err(text) = put(input, &upload.name, value) {
            wrong.push(Violation::new(format!("input.{}", upload.name), text));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

fn is_given(input: &Value, name: &str) -> bool {
    name.split('.').try_fold(input, |at, name| at.get(name)).is_some()
}

fn put(input: &mut Value, name: &str, value: Value) -> Result<(), &'static str> {
    let mut names = name.split('.').peekable();
    let mut at = input;
    while let Some(name) = names.next() {
        let Value::Object(fields) = at else { return Err("lies in what is no object") };
        if names.peek().is_none() {
            return match fields.get(name) {
                None => {
                    fields.insert(name.to_owned(), value);
                    Ok(())
                }
                Some(_) => Err("is given as a file, and as a value, too"),
            };
        }
        at = fields.entry(name).or_insert_with(|| Value::Object(Map::new()));
    }
    Err("has no name")
}

impl Upload {
    /// Whether a file is of a kind that is taken: one entry that fits is enough.
    fn accepts(&self, file: &Given<'_>) -> Result<(), String> {
        let name = file.filename.to_ascii_lowercase();
        let kind = file.content_type.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        let fits = |entry: &String| {
            let entry = entry.to_ascii_lowercase();
            match (entry.split_once('/'), &kind) {
                (None, _) => name.len() > entry.len() && name.ends_with(&entry),
                (Some((_, _)), None) => false,
                (Some((main, "*")), Some(kind)) => kind.split_once('/').is_some_and(|(of, _)| main == "*" || of == main),
                (Some(_), Some(kind)) => *kind == entry,
            }
        };
        if self.accept.is_empty() || self.accept.iter().any(fits) {
            return Ok(());
        }
        let is = match &kind {
            Some(kind) => format!("{} of type {}", brief(file.filename), brief(kind)),
            None => format!("{} without a type", brief(file.filename)),
        };
        Err(format!("{is} is none of {}", self.accept.join(", ")))
    }

    /// The path in the sandbox of a file of this name.
    fn path(&self, volumes: &[Volume], filename: &str) -> Result<String, String> {
        let mut base = target_place(&self.target, volumes).ok_or_else(|| format!("is to go to {}, which is in no volume of the app", self.target))?;
        if self.multiple {
            check_name(filename)?;
            base.push('/');
            base.push_str(filename);
        }
        Ok(base)
    }
}

/// A name that stays in its folder.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\\']) && !name.chars().any(char::is_control);
    if is_plain && name.len() <= limits::RUN_FILE_NAME_MAX_BYTES {
        return Ok(());
    }
    Err(format!("{} is no name for a file: at most {} bytes, without slashes", brief(name), limits::RUN_FILE_NAME_MAX_BYTES))
}

/// As an error repeats it.
fn brief(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({ "type": "object", "properties": {
            "month": { "type": "string" },
            "table": { "type": "string", KEY: { "targetPath": "in/table.csv", "accept": [".csv", "text/csv"] } },
            "photos": { "type": "array", KEY: { "targetPath": "volumes/data/photos", "accept": ["image/*"], "multiple": true } },
            "more": { "type": "object", "properties": { "notes": { "type": "string", KEY: { "targetPath": "./notes" } } } },
        } })
    }

    fn volumes() -> Vec<Volume> {
        vec![Volume { name: "data".into(), mount_path: "/data".into(), ..Volume::default() }]
    }

    fn given<'a>(input: &'a str, filename: &'a str, content_type: Option<&'a str>) -> Given<'a> {
        Given { input, filename, content_type }
    }

    #[test]
    fn files_go_where_the_manifest_says() {
        let uploads = uploads(&schema());
        assert_eq!(uploads.iter().map(|upload| upload.name.as_str()).collect::<Vec<_>>(), ["more.notes", "photos", "table"]);
        let files = [
            given("table", "OCTOBER.CSV", None),
            given("table", "x", Some("Text/CSV; charset=utf-8")),
            given("photos", "a.png", Some("image/png")),
            given("photos", "b c.jpg", Some("image/jpeg")),
            given("more.notes", "../whatever", None),
        ];
        let paths = place(&uploads, &volumes(), &[files[0], files[2], files[3], files[4]]).unwrap();
        assert_eq!(paths, ["/workspace/in/table.csv", "/data/photos/a.png", "/data/photos/b c.jpg", "/workspace/notes"]);
        assert_eq!(place(&uploads, &volumes(), &[files[1]]).unwrap(), ["/workspace/in/table.csv"], "one that fits is enough");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told() {
        let uploads = uploads(&schema());
        let cases = [
            (vec![given("nothing", "a", None)], "files.nothing: is no file input: the app takes files as more.notes, photos, table"),
            (vec![given("month", "a", None)], "files.month: is no file input"),
            (vec![given("table", "a.csv", None), given("table", "b.csv", None)], "files.table: takes one file"),
            (vec![given("table", "a.txt", None)], "files.table: a.txt without a type is none of .csv, text/csv"),
            (vec![given("table", ".csv", None)], "is none of"),
            (vec![given("photos", "a.png", None)], "a.png without a type is none of image/*"),
            (vec![given("photos", "a.png", Some("imagery/png"))], "a.png of type imagery/png is none of image/*"),
            (vec![given("photos", "../a.png", Some("image/png"))], "is no name for a file"),
            (vec![given("photos", "..", Some("image/png"))], "is no name for a file"),
            (vec![given("photos", "a\n", Some("image/png"))], "is no name for a file"),
            (vec![given("photos", "a", Some("image/png")), given("photos", "a", Some("image/gif"))], "two files would be /data/photos/a"),
        ];
        for (files, says) in cases {
            let wrong = place(&uploads, &volumes(), &files).unwrap_err();
            let text = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert!(text.contains(says), "{text:?} does not say {says:?}");
        }
        assert!(place(&uploads, &[], &[given("photos", "a", Some("image/png"))]).is_err(), "there is no such volume");
        assert_eq!(place(&[], &[], &[given("a", "a", None)]).unwrap_err()[0].to_string(), "files.a: is no file input: the app takes no files");
    }

    #[test]
    fn an_input_has_the_paths_of_its_files() {
        let uploads = uploads(&schema());
        let file = |input: &str, path: &str| RunFile { input: input.into(), path: path.into(), size_bytes: 1, sha256: String::new() };
        let files = [file("table", "/workspace/in/table.csv"), file("photos", "/data/photos/a"), file("photos", "/data/photos/b"), file("more.notes", "/n")];
        let mut input = json!({ "month": "may" });
        fill(&mut input, &uploads, &files).unwrap();
        assert_eq!(
            input,
            json!({ "month": "may", "table": "/workspace/in/table.csv", "photos": ["/data/photos/a", "/data/photos/b"], "more": { "notes": "/n" } })
        );
        for (mut input, says) in [(json!({ "table": "x" }), "input.table: is given as a file"), (json!({ "more": 1 }), "input.more.notes: lies in")] {
            let wrong = fill(&mut input, &uploads, &files).unwrap_err();
            assert!(wrong[0].to_string().starts_with(says), "{wrong:?}");
        }
    }
}
