//! From text to a manifest, with everything that is wrong.

use serde_json::Value;

use super::{
    Artifacts, BASE_DEFAULT, Manifest, Network, Runtime,
    diagnostic::{Code, Diagnostic},
    yaml::{self, At, Data, Node},
};
use crate::{app::canonical, limits::apps as limits};

mod checks;
mod command;
mod parts;
mod port;
mod schedule;
mod spot;
mod upload;

pub use crate::app::uploads::KEY as UPLOAD_KEY;
pub use command::is_command_name;

use checks::Names;
use spot::{Fields, Out, Spot};

/// A manifest that is right, and what is kept of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub manifest: Manifest,
    /// The manifest as JSON, with all defaults that it has.
    pub normalised: Value,
    /// SHA-256 of that JSON (see [`canonical`]), in lower-case hex: manifests that say the same have the same.
    pub hash: String,
}

const KEYS: &[&str] = &[
    "schemaVersion",
    "name",
    "version",
    "useCase",
    "description",
    "runtime",
    "resources",
    "setup",
    "validation",
    "start",
    "actions",
    "services",
    "launch",
    "schedules",
    "volumes",
    "inputs",
    "artifacts",
    "mcp",
    "network",
    "env",
];
const REFUSED: &[(&str, Code, &str)] = &[
    ("databases", Code::RemovedKey, "was removed: run the database as a service, with a volume for its files"),
    ("integrations", Code::UnsupportedKey, "has no meaning here: give the app credentials, which its network policy uses, or env"),
    ("permissions", Code::UnsupportedKey, "has no meaning here: what an app may do is decided by network, and by the role of who deploys it"),
    ("ports", Code::UnknownKey, "stands under start, an action or a service"),
];

/// Reads a manifest out of a file or a request.
pub fn parse_bytes(bytes: &[u8]) -> Result<Parsed, Vec<Diagnostic>> {
    // The size first: what is too large is not looked through.
    let bytes = &bytes[..bytes.len().min(limits::MANIFEST_MAX_BYTES + 1)];
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(_) if bytes.len() > limits::MANIFEST_MAX_BYTES => {
            let message = format!("has more than {} bytes; so many are allowed", limits::MANIFEST_MAX_BYTES);
            Err(vec![Diagnostic { path: "$".to_owned(), code: Code::TooLarge, message, line: 1, column: 1 }])
        }
        Err(error) => {
            let right = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let (line, column) = (right.matches('\n').count() + 1, right.rsplit('\n').next().unwrap_or_default().chars().count() + 1);
            let message = "is no text in UTF-8 from here on".to_owned();
            Err(vec![Diagnostic { path: "$".to_owned(), code: Code::InvalidYaml, message, line: number(line), column: number(column) }])
        }
    }
}

/// Reads a manifest. What is wrong with it comes in the order of its places, at most [`limits::MANIFEST_DIAGNOSTICS_MAX`] things.
pub fn parse(text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let (root, duplicates) = yaml::load(text).map_err(|diagnostic| vec![diagnostic])?;
    let mut out = Out::new(duplicates);
    let manifest = read(&root, &mut out);
    out.finish()?;
    let normalised = serde_json::to_value(&manifest).map_err(|error| {
        // Its keys are texts and its numbers finite, so there is nothing that JSON does not have.
        vec![Diagnostic { path: "$".to_owned(), code: Code::InvalidValue, message: error.to_string(), line: 1, column: 1 }]
    })?;
    let hash = canonical::sha256(&normalised);
    Ok(Parsed { manifest, normalised, hash })
}

/// Where something stands in the text of a manifest that has the path of a diagnostic, line and column: itself, else what is around it.
pub fn locate(text: &str, path: &str) -> (u32, u32) {
    let Ok((root, _)) = yaml::load(text) else { return (1, 1) };
    let place: Vec<String> = path.split(['.', '[']).skip(1).map(|token| token.trim_end_matches(']').to_owned()).collect();
    let At { line, column } = Spot { path: "$".to_owned(), node: &root }.below(&place).node.at;
    (line, column)
}

/// Keys that mean something elsewhere, and why they are refused.
pub(super) fn unsupported_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    REFUSED.iter().filter(|(_, code, _)| *code != Code::UnknownKey).map(|(key, _, why)| (*key, *why))
}

/// A name for an app of a folder's; none where nothing of the folder's can stand in one.
pub fn name_of_folder(folder: &str) -> Option<String> {
    let mut name = String::new();
    for c in folder.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(limits::APP_NAME_MAX_CHARS);
    let name = name.trim_matches('-');
    is_app_name(name).then(|| name.to_owned())
}

/// `^[a-z0-9][a-z0-9-]*[a-z0-9]$`.
pub fn is_app_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    (2..=limits::APP_NAME_MAX_CHARS).contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

fn read(root: &Node, out: &mut Out) -> Manifest {
    let mut manifest = Manifest {
        schema_version: 1,
        name: None,
        version: None,
        use_case: None,
        description: None,
        runtime: Runtime::Base(BASE_DEFAULT.to_owned()),
        resources: Default::default(),
        setup: Default::default(),
        validation: None,
        start: None,
        actions: Vec::new(),
        services: Vec::new(),
        launch: Default::default(),
        schedules: Vec::new(),
        volumes: Vec::new(),
        inputs: Default::default(),
        artifacts: Default::default(),
        mcp: Default::default(),
        network: Network::default(),
        env: Default::default(),
    };
    let root = Spot { path: "$".to_owned(), node: root };
    let Some(fields) = root.fields_refusing(out, KEYS, REFUSED) else { return manifest };
    head(&fields, out, &mut manifest);
    if let Some(spot) = fields.get("runtime") {
        manifest.runtime = parts::runtime(&spot, out);
    }
    manifest.resources = fields.get("resources").map(|spot| parts::resources(&spot, out)).unwrap_or_default();
    manifest.setup = fields.get("setup").map(|spot| parts::setup(&spot, out)).unwrap_or_default();
    manifest.validation = fields.get("validation").map(|spot| parts::validation(&spot, out));
    manifest.env = parts::env(&fields, out);

    let mut names = Names::default();
    manifest.start = fields.get("start").map(|spot| command::start(&spot, out, &mut names));
    manifest.actions = fields.each("actions", out, limits::APP_ACTIONS_MAX, |spot, out| command::action(spot, out, &mut names));
    manifest.services = fields.each("services", out, limits::APP_SERVICES_MAX, |spot, out| command::service(spot, out, &mut names));
    manifest.launch = fields.get("launch").map(|spot| command::launch(&spot, out, &mut names)).unwrap_or_default();
    names.check(out);

    manifest.volumes = parts::volumes(&fields, out);
    let (inputs, schema) = fields.get("inputs").map(|spot| parts::inputs(&spot, out, &manifest.volumes)).unwrap_or_default();
    manifest.inputs = inputs;
    manifest.artifacts = Artifacts {
        paths: fields.get("artifacts").and_then(|spot| spot.fields(out, &["paths"])).map(|fields| parts::patterns(&fields, "paths", out)).unwrap_or_default(),
    };
    manifest.mcp = fields.get("mcp").map(|spot| parts::mcp(&spot, out, &names)).unwrap_or_default();
    if let Some(fields) = fields.get("network").and_then(|spot| spot.fields(out, &["egress"])) {
        manifest.network.egress = fields.one_of("egress", out, super::Egress::named, super::Egress::NAMES).unwrap_or_default();
    }
    manifest.schedules = schedule::schedules(&fields, out, &names, schema.as_ref());
    manifest
}

fn head(fields: &Fields<'_>, out: &mut Out, manifest: &mut Manifest) {
    match fields.get("schemaVersion") {
        None => {}
        Some(spot) => match spot.node.data {
            Data::Int(1, _) => {}
            Data::Int(..) => spot.wrong(out, Code::InvalidValue, "must be 1"),
            _ => drop(spot.integer(out, 1, 1)),
        },
    }
    if let Some(spot) = fields.get("name")
        && let Some(name) = spot.text(out, limits::APP_NAME_MAX_CHARS)
    {
        if !is_app_name(name) {
            spot.wrong(out, Code::InvalidName, "must be two or more lower-case letters, digits and hyphens, without a hyphen at its ends");
        }
        manifest.name = Some(name.to_owned());
    }
    let mut line = |key: &str, max| fields.get(key).and_then(|spot| spot.line(out, max)).map(str::to_owned);
    manifest.version = line("version", limits::APP_VERSION_MAX_CHARS);
    manifest.use_case = line("useCase", limits::APP_USE_CASE_MAX_CHARS);
    manifest.description = fields.get("description").and_then(|spot| spot.text(out, limits::APP_DESCRIPTION_MAX_CHARS)).map(str::to_owned);
}
