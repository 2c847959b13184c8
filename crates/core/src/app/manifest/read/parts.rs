//! The parts of a manifest that run nothing themselves.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    super::{
        BASE_DEFAULT, EnvInput, Image, Inputs, Mcp, McpEndpoint, Probe, Resources, Runtime, Setup, Validation, Volume, WORKSPACE,
        diagnostic::Code,
        yaml::{Data, below},
    },
    checks::Names,
    command::command_text,
    port::{path_or_root, port_number},
    spot::{Fields, Out, Spot, meant},
    upload,
};
use crate::{
    app::{amount::Amount, artifact, inputs::InputSchema, shell},
    image::{ImageName, is_digest},
    limits::{self as all, apps as limits},
    volume::check_mount_point,
};

/// Characters of the name of an image.
const IMAGE_MAX_CHARS: usize = all::NAME_MAX_CHARS * 2;

pub fn runtime(spot: &Spot<'_>, out: &mut Out) -> Runtime {
    let keys = ["base", "snapshot", "image"];
    let refused = [("dockerfile", Code::UnsupportedKey, "Dockerfiles are not built here: name an image, and do the rest in setup.commands")];
    let Some(fields) = spot.fields_refusing(out, &keys, &refused) else { return Runtime::default() };
    let said: Vec<&str> = keys.into_iter().filter(|key| fields.get(key).is_some()).collect();
    match said[..] {
        [] if fields.get("dockerfile").is_some() => {}
        [] => fields.wrong(out, Code::Missing, "needs one of base, snapshot or image"),
        [_] => {}
        [_, ref more @ ..] => {
            for key in more {
                fields.conflict(key, out, "only one of base, snapshot and image can be said");
            }
        }
    }
    let mut id = |key: &str| {
        let spot = fields.get(key)?;
        let text = spot.text(out, all::NAME_MAX_CHARS)?;
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            spot.wrong(out, Code::InvalidName, "must have nothing but letters, digits, hyphens, dots and underscores");
        }
        Some(text.to_owned())
    };
    // All of them are looked at, also where only one can be.
    let (snapshot, base) = (id("snapshot"), id("base"));
    match (snapshot, fields.get("image").and_then(|spot| image(&spot, out))) {
        (Some(snapshot), _) => Runtime::Snapshot(snapshot),
        (None, Some(image)) => Runtime::Image(image),
        (None, None) => Runtime::Base(base.unwrap_or_else(|| BASE_DEFAULT.to_owned())),
    }
}

fn image(spot: &Spot<'_>, out: &mut Out) -> Option<Image> {
    let fields = spot.fields(out, &["ref", "digest", "registrySecretRef", "platform", "workspaceRoot"])?;
    let reference = fields.require("ref", out);
    let name = reference.as_ref().and_then(|spot| match spot.text(out, IMAGE_MAX_CHARS)?.parse::<ImageName>() {
        // With the registry and the tag that it did not say.
        Ok(name) if name.to_string().chars().count() > IMAGE_MAX_CHARS => {
            spot.wrong(out, Code::OutOfRange, format!("is longer than {IMAGE_MAX_CHARS} characters with its registry and tag"));
            None
        }
        Ok(name) => Some(name),
        Err(error) => {
            spot.wrong(out, Code::InvalidValue, error.to_string());
            None
        }
    });
    let digest = fields.get("digest").and_then(|spot| {
        let text = spot.text(out, all::NAME_MAX_CHARS)?;
        let said = name.as_ref().and_then(|name| name.digest.as_deref());
        if !is_digest(text) {
            spot.wrong(out, Code::InvalidValue, "must be sha256: and 64 lower-case hex digits");
        } else if said.is_some_and(|said| said != text) {
            spot.wrong(out, Code::Conflict, "is another than the one in ref");
        }
        Some(text.to_owned())
    });
    let fixed = |key: &str, only: &str, why: &str, out: &mut Out| {
        if let Some(spot) = fields.get(key)
            && spot.text(out, all::NAME_MAX_CHARS).is_some_and(|text| text != only)
        {
            spot.wrong(out, Code::InvalidValue, format!("must be {only}{why}"));
        }
    };
    fixed("platform", "linux/amd64", "", out);
    fixed("workspaceRoot", WORKSPACE, ", where the source lies in every sandbox", out);
    let registry_secret_ref = fields.get("registrySecretRef").and_then(|spot| spot.line(out, all::CREDENTIAL_NAME_MAX_CHARS)).map(str::to_owned);
    Some(Image { reference: name?.to_string(), digest, registry_secret_ref })
}

pub fn resources(spot: &Spot<'_>, out: &mut Out) -> Resources {
    let Some(fields) = spot.fields(out, &["cpu", "memoryGb", "diskGb"]) else { return Resources::default() };
    let mut amount = |key, max| fields.get(key).and_then(|spot| spot.amount(out, max));
    Resources {
        cpu: amount("cpu", limits::APP_CPU_MAX),
        memory_gb: amount("memoryGb", limits::APP_MEMORY_MAX_GB),
        disk_gb: amount("diskGb", limits::APP_DISK_MAX_GB),
    }
}

pub fn setup(spot: &Spot<'_>, out: &mut Out) -> Setup {
    let Some(fields) = spot.fields(out, &["commands", "inputs"]) else { return Setup::default() };
    Setup {
        commands: commands(&fields, out),
        inputs: fields.get("inputs").map(|spot| spot.list(out, limits::APP_SETUP_INPUTS_MAX).iter().filter_map(|spot| pattern(spot, out)).collect()),
    }
}

pub fn validation(spot: &Spot<'_>, out: &mut Out) -> Validation {
    let Some(fields) = spot.fields(out, &["commands", "probes"]) else { return Validation::default() };
    if let Some(spot) = fields.require("commands", out)
        && matches!(&spot.node.data, Data::List(items) if items.is_empty())
    {
        spot.wrong(out, Code::OutOfRange, "must have at least one entry");
    }
    let probes = fields.each("probes", out, limits::APP_PROBES_MAX, |spot, out| {
        let fields = spot.fields(out, &["name", "port", "path", "expectedStatus"])?;
        Some(Probe {
            name: fields.get("name").and_then(|spot| spot.line(out, limits::APP_COMMAND_NAME_MAX_CHARS)).map(str::to_owned),
            port: fields.require("port", out).and_then(|spot| port_number(&spot, out)).unwrap_or_default(),
            path: path_or_root(&fields, out),
            expected_status: fields.integer("expectedStatus", out, 100, 599).and_then(|status| u16::try_from(status).ok()).unwrap_or(200),
        })
    });
    Validation { commands: commands(&fields, out), probes: probes.into_iter().flatten().collect() }
}

fn commands(fields: &Fields<'_>, out: &mut Out) -> Vec<String> {
    fields.each("commands", out, limits::APP_SETUP_COMMANDS_MAX, command_text_of).into_iter().flatten().collect()
}

fn command_text_of(spot: &Spot<'_>, out: &mut Out) -> Option<String> {
    command_text(spot, out)
}

pub fn volumes(fields: &Fields<'_>, out: &mut Out) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for spot in fields.get("volumes").map(|spot| spot.list(out, limits::APP_VOLUMES_MAX)).unwrap_or_default() {
        let Some(fields) = spot.fields(out, &["name", "mountPath", "storageGb", "deleteOnSandboxDelete"]) else { continue };
        let mut volume = Volume {
            storage_gb: fields.get("storageGb").and_then(|spot| storage(&spot, out)),
            delete_on_sandbox_delete: fields.boolean("deleteOnSandboxDelete", out, false),
            ..Volume::default()
        };
        if let Some(spot) = fields.require("name", out)
            && let Some(name) = spot.text(out, limits::APP_VOLUME_NAME_MAX_CHARS)
        {
            if !is_variable(name, true) {
                spot.wrong(out, Code::InvalidName, "must begin with a letter or underscore, and have nothing but letters, digits, underscores and hyphens");
            } else if volumes.iter().any(|before| before.name == name) {
                spot.wrong(out, Code::DuplicateName, format!("{name:?} is the name of another volume"));
            }
            volume.name = name.to_owned();
        }
        if let Some(spot) = fields.require("mountPath", out)
            && let Some(path) = spot.text(out, limits::APP_PATH_MAX_CHARS)
        {
            let inside = |one: &str, other: &str| one == other || one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
            if let Err(message) = check_mount_point(path) {
                spot.wrong(out, Code::UnsafePath, message);
            } else if path.contains('\\') {
                spot.wrong(out, Code::UnsafePath, "must not hold a backslash");
            } else if path == WORKSPACE {
                spot.wrong(out, Code::UnsafePath, "is where the source lies; choose a folder below it, or elsewhere");
            } else if let Some(other) =
                volumes.iter().find(|other| !other.mount_path.is_empty() && (inside(path, &other.mount_path) || inside(&other.mount_path, path)))
            {
                spot.wrong(out, Code::Conflict, format!("overlaps with the volume {:?}", other.name));
            } else {
                volume.mount_path = path.to_owned();
            }
        }
        volumes.push(volume);
    }
    volumes
}

fn storage(spot: &Spot<'_>, out: &mut Out) -> Option<Amount> {
    let least = Amount::of_micros(limits::APP_VOLUME_MIN_GB_MILLIS * 1000);
    let amount = spot.amount(out, limits::APP_VOLUME_MAX_GB)?;
    if amount < least {
        spot.wrong(out, Code::OutOfRange, format!("must be at least {least}"));
        return None;
    }
    Some(amount)
}

pub fn inputs(spot: &Spot<'_>, out: &mut Out, volumes: &[Volume]) -> (Inputs, Option<InputSchema>) {
    let Some(fields) = spot.fields(out, &["schema", "env"]) else { return Default::default() };
    let mut env: Vec<EnvInput> = Vec::new();
    for spot in fields.get("env").map(|spot| spot.list(out, limits::APP_INPUT_ENV_MAX)).unwrap_or_default() {
        let Some(fields) = spot.fields(out, &["name", "required", "secret", "description"]) else { continue };
        let mut input = EnvInput {
            name: String::new(),
            required: fields.boolean("required", out, false),
            secret: fields.boolean("secret", out, true),
            description: fields.get("description").and_then(|spot| spot.text(out, limits::APP_DESCRIPTION_MAX_CHARS)).map(str::to_owned),
        };
        if let Some(spot) = fields.require("name", out)
            && let Some(name) = spot.text(out, all::ENV_NAME_MAX_BYTES)
        {
            if !is_variable(name, false) {
                spot.wrong(out, Code::InvalidName, VARIABLE);
            } else if shell::is_reserved(name) {
                spot.wrong(out, Code::ReservedName, RESERVED);
            } else if env.iter().any(|before| before.name == name) {
                spot.wrong(out, Code::DuplicateName, format!("{name:?} is asked for twice"));
            }
            input.name = name.to_owned();
        }
        env.push(input);
    }
    let schema = fields.get("schema").and_then(|spot| schema(&spot, out, volumes));
    let (schema, compiled) = schema.unzip();
    (Inputs { schema, env }, compiled)
}

fn schema(spot: &Spot<'_>, out: &mut Out, volumes: &[Volume]) -> Option<(Value, InputSchema)> {
    spot.mapping(out)?;
    let Some(schema) = spot.node.to_json() else {
        spot.wrong(out, Code::InvalidSchema, "holds a number that JSON does not have, such as .inf or .nan");
        return None;
    };
    upload::check(spot, out, volumes);
    match InputSchema::compile(&schema) {
        Ok(compiled) => Some((schema, compiled)),
        Err(problems) => {
            for problem in problems {
                spot.below(&problem.place).wrong(out, Code::InvalidSchema, problem.message);
            }
            None
        }
    }
}

pub fn mcp(spot: &Spot<'_>, out: &mut Out, names: &Names) -> Mcp {
    let Some(fields) = spot.fields(out, &["endpoints"]) else { return Mcp::default() };
    let endpoints = fields.each("endpoints", out, limits::APP_MCP_ENDPOINTS_MAX, |spot, out| {
        let fields = spot.fields(out, &["name", "port", "path", "service"])?;
        let service = fields.get("service").and_then(|spot| {
            let name = spot.text(out, limits::APP_COMMAND_NAME_MAX_CHARS)?;
            if !names.has_service(name) {
                spot.wrong(out, Code::UnknownService, format!("there is no service {name:?}{}", meant(name, names.service_names())));
                return None;
            }
            Some(name.to_owned())
        });
        let number = fields.require("port", out);
        let port = number.as_ref().and_then(|number| port_number(number, out));
        if let (Some(number), Some(port)) = (&number, port)
            && fields.get("service").is_some() == service.is_some()
            && !names.ports_of(service.as_deref()).contains(&port)
        {
            let owner = service.as_deref().map_or_else(|| "the start command".to_owned(), |service| format!("the service {service:?}"));
            number.wrong(out, Code::UndeclaredPort, format!("{port} is not among the ports of {owner}"));
        }
        let path = if fields.get("path").is_some() { path_or_root(&fields, out) } else { "/mcp".to_owned() };
        Some(McpEndpoint {
            name: fields.get("name").and_then(|spot| spot.line(out, limits::APP_COMMAND_NAME_MAX_CHARS)).map(str::to_owned),
            port: port.unwrap_or_default(),
            path,
            service,
        })
    });
    Mcp { endpoints: endpoints.into_iter().flatten().collect() }
}

const VARIABLE: &str = "must begin with a letter or underscore, and have nothing but letters, digits and underscores";
const RESERVED: &str = "is set by the server for every command";

/// The key `env`: names and values. Numbers and booleans are the text that stands there.
pub fn env(fields: &Fields<'_>, out: &mut Out) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(spot) = fields.get("env") else { return env };
    let Data::Map(_) = &spot.node.data else {
        spot.is_no(out, "a mapping of names and values");
        return env;
    };
    let Some(fields) = spot.mapping(out) else { return env };
    for (key, spot) in fields.entries() {
        if !is_variable(&key.text, false) || key.text.len() > all::ENV_NAME_MAX_BYTES {
            out.push(below(&fields.path, &key.text), key.at, Code::InvalidName, VARIABLE);
        } else if shell::is_reserved(&key.text) {
            out.push(below(&fields.path, &key.text), key.at, Code::ReservedName, RESERVED);
        }
        let value = match &spot.node.data {
            Data::Text(text) | Data::Int(_, text) | Data::Float(_, text) => text.clone(),
            Data::Bool(value) => value.to_string(),
            Data::Null | Data::List(_) | Data::Map(_) => {
                spot.is_no(out, "a text");
                continue;
            }
        };
        if value.len() > all::ENV_VALUE_MAX_BYTES {
            spot.wrong(out, Code::OutOfRange, format!("has {} bytes; at most {} are allowed", value.len(), all::ENV_VALUE_MAX_BYTES));
        } else if value.contains('\0') {
            spot.wrong(out, Code::InvalidValue, "must not hold a zero byte");
        }
        env.insert(key.text.clone(), value);
    }
    if env.len() > all::ENV_VARS_MAX {
        spot.wrong(out, Code::OutOfRange, format!("has {} variables; at most {} are allowed", env.len(), all::ENV_VARS_MAX));
    }
    env
}

fn is_variable(name: &str, hyphens: bool) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || (hyphens && byte == b'-'))
}

/// A list of patterns of paths below the workspace.
pub fn patterns(fields: &Fields<'_>, key: &str, out: &mut Out) -> Vec<String> {
    fields.each(key, out, limits::APP_ARTIFACT_PATHS_MAX, pattern).into_iter().flatten().collect()
}

fn pattern(spot: &Spot<'_>, out: &mut Out) -> Option<String> {
    let clean = path(spot, out)?;
    match artifact::Pattern::parse(if clean.is_empty() { "." } else { &clean }) {
        Ok(_) => Some(clean),
        Err(message) => {
            spot.wrong(out, Code::InvalidPattern, message);
            None
        }
    }
}

/// A path below the workspace; empty for the workspace itself.
pub fn path(spot: &Spot<'_>, out: &mut Out) -> Option<String> {
    let text = spot.text(out, limits::APP_PATH_MAX_CHARS)?;
    match artifact::clean_path(text) {
        Ok(path) => Some(path),
        Err(message) => {
            spot.wrong(out, Code::UnsafePath, message);
            None
        }
    }
}
