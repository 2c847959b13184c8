//! The manifest as a JSON Schema, for editors and other programs. It says what a schema can say; what is true of a manifest as a
//! whole (names that are there once, targets that exist) only [`super::parse`] does.

use serde_json::{Map, Value, json};

use super::{
    Access, ConcurrencyPolicy, Egress, Protocol, RestartPolicy, RuntimePolicy,
    read::{UPLOAD_KEY, unsupported_keys},
};
use crate::{
    app::shell,
    limits::{self as all, app_runs as runs, apps as limits},
    script,
};

/// Where it is served, which is its name, too.
pub const ID: &str = "/api/v1/apps/manifest-schema";

/// The schema, in draft 2020-12.
pub fn schema() -> Value {
    let mut properties = object([
        ("schemaVersion", json!({"const": 1, "default": 1})),
        ("name", described(name(r"^[a-z0-9][a-z0-9-]*[a-z0-9]$", limits::APP_NAME_MAX_CHARS), "The name of the app; that of the folder where it is absent.")),
        ("version", line(limits::APP_VERSION_MAX_CHARS)),
        ("useCase", line(limits::APP_USE_CASE_MAX_CHARS)),
        ("description", text(limits::APP_DESCRIPTION_MAX_CHARS)),
        ("runtime", json!({"$ref": "#/$defs/runtime"})),
        ("resources", json!({"$ref": "#/$defs/resources"})),
        (
            "setup",
            described(
                closed([("commands", list(command(), limits::APP_SETUP_COMMANDS_MAX)), ("inputs", list(path(), limits::APP_SETUP_INPUTS_MAX))], &[]),
                "Commands that run once, when the app is deployed. What they made is used again while the files that match inputs are the same.",
            ),
        ),
        ("validation", validation()),
        (
            "start",
            described(closed(block([("readiness", reference("readiness")), ("restart", reference("restart"))]), &[]), "The app's own long-running process."),
        ),
        ("actions", described(list(reference("action"), limits::APP_ACTIONS_MAX), "Commands that run and end.")),
        ("services", described(list(reference("service"), limits::APP_SERVICES_MAX), "Further long-running processes. They start when they are asked for.")),
        (
            "launch",
            closed(
                [
                    ("services", json!({"oneOf": [{"const": "all"}, list(text(limits::APP_COMMAND_NAME_MAX_CHARS), limits::APP_SERVICES_MAX)]})),
                    ("env", reference("env")),
                ],
                &[],
            ),
        ),
        ("schedules", list(reference("schedule"), limits::APP_SCHEDULES_MAX)),
        ("volumes", list(volume(), limits::APP_VOLUMES_MAX)),
        ("inputs", inputs()),
        ("artifacts", closed([("paths", list(path(), limits::APP_ARTIFACT_PATHS_MAX))], &[])),
        ("mcp", closed([("endpoints", list(endpoint(), limits::APP_MCP_ENDPOINTS_MAX))], &[])),
        ("network", closed([("egress", one_of(Egress::NAMES, "restricted"))], &[])),
        ("env", reference("env")),
    ]);
    // Editors show why they are refused.
    for (key, why) in unsupported_keys() {
        properties.insert(key.to_owned(), json!({"not": {}, "deprecated": true, "description": format!("{key} {why}.")}));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "sandbar.yaml",
        "description": "The manifest of an app of Sandbar.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "$defs": {
            "runtime": {
                "type": "object",
                "properties": {
                    "base": name("^[A-Za-z0-9._-]+$", all::NAME_MAX_CHARS),
                    "snapshot": name("^[A-Za-z0-9._-]+$", all::NAME_MAX_CHARS),
                    "image": image(),
                },
                "additionalProperties": false,
                "minProperties": 1,
                "maxProperties": 1,
            },
            "resources": closed([
                ("cpu", amount(limits::APP_CPU_MAX)),
                ("memoryGb", amount(limits::APP_MEMORY_MAX_GB)),
                ("diskGb", amount(limits::APP_DISK_MAX_GB)),
            ], &[]),
            "env": {
                "type": "object",
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": all::ENV_NAME_MAX_BYTES, "not": {"enum": shell::RESERVED}},
                "additionalProperties": {"type": ["string", "number", "boolean"]},
                "maxProperties": all::ENV_VARS_MAX,
            },
            "port": port(),
            "portNumber": {
                "type": "integer", "minimum": limits::APP_PORT_MIN, "maximum": limits::APP_PORT_MAX, "not": {"enum": limits::APP_PORTS_RESERVED},
            },
            "readiness": readiness(),
            "restart": restart(),
            "action": closed(block([("name", command_name()), ("concurrency", concurrency())]), &["name", "command"]),
            "service": closed(block([
                ("name", command_name()),
                ("readiness", reference("readiness")),
                ("autoStart", boolean(false)),
                ("dependsOn", list(text(limits::APP_COMMAND_NAME_MAX_CHARS), limits::APP_SERVICES_MAX)),
                ("restart", reference("restart")),
            ]), &["name", "command"]),
            "schedule": schedule(),
        },
    })
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn closed(fields: impl Into<Fields>, required: &[&str]) -> Value {
    let Fields(fields) = fields.into();
    let mut schema = json!({"type": "object", "properties": fields, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Properties, however they were gathered.
struct Fields(Map<String, Value>);

impl From<Map<String, Value>> for Fields {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields)
    }
}

impl<const N: usize> From<[(&str, Value); N]> for Fields {
    fn from(fields: [(&str, Value); N]) -> Self {
        Self(object(fields))
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn described(mut schema: Value, text: &str) -> Value {
    schema["description"] = json!(text);
    schema
}

fn text(max_chars: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": max_chars, "pattern": r"\S"})
}

fn line(max_chars: usize) -> Value {
    name(r"^\S(.*\S)?$", max_chars)
}

fn name(pattern: &str, max_chars: usize) -> Value {
    json!({"type": "string", "maxLength": max_chars, "pattern": pattern})
}

fn command_name() -> Value {
    json!({"type": "string", "maxLength": limits::APP_COMMAND_NAME_MAX_CHARS, "pattern": r"^[^\s/\\]([^/\\\n]*[^\s/\\])?$", "not": {"enum": [super::START, ".", ".."]}})
}

/// As those of actions, but for `start`, which is none of theirs, and longer.
fn schedule_name() -> Value {
    let mut name = command_name();
    name["maxLength"] = limits::APP_SCHEDULE_NAME_MAX_CHARS.into();
    name["not"] = json!({"enum": [".", ".."]});
    name
}

fn command() -> Value {
    text(limits::APP_COMMAND_MAX_CHARS)
}

fn path() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": limits::APP_PATH_MAX_CHARS, "pattern": r"^[^/\\]+(/[^/\\]+)*$", "not": {"pattern": r"(^|/)\.\.(/|$)"}})
}

fn url_path() -> Value {
    json!({"type": "string", "maxLength": all::URL_MAX_BYTES, "pattern": r"^/([!-.0-\[\]-~][!-\[\]-~]*)?$", "not": {"pattern": "#"}, "default": "/"})
}

fn list(items: Value, max: usize) -> Value {
    json!({"type": "array", "items": items, "maxItems": max})
}

fn integer(min: u32, max: u32) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

fn amount(max: u32) -> Value {
    json!({"type": "number", "exclusiveMinimum": 0, "maximum": max})
}

fn boolean(default: bool) -> Value {
    json!({"type": "boolean", "default": default})
}

fn one_of(names: &[&str], default: &str) -> Value {
    json!({"enum": names, "default": default})
}

fn sha256() -> Value {
    json!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
}

fn block<const N: usize>(more: [(&str, Value); N]) -> Map<String, Value> {
    let mut fields = object([
        ("command", command()),
        ("cwd", path()),
        ("timeoutSeconds", integer(1, limits::APP_COMMAND_TIMEOUT_MAX_S)),
        ("requiresStart", boolean(false)),
        ("ports", list(reference("port"), limits::APP_PORTS_MAX)),
        ("artifactPaths", list(path(), limits::APP_ARTIFACT_PATHS_MAX)),
        ("env", reference("env")),
    ]);
    fields.extend(object(more));
    fields
}

fn image() -> Value {
    let fields = [
        ("ref", text(all::NAME_MAX_CHARS * 2)),
        ("digest", json!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})),
        ("registrySecretRef", line(all::CREDENTIAL_NAME_MAX_CHARS)),
        ("platform", json!({"const": "linux/amd64"})),
        ("workspaceRoot", json!({"const": super::WORKSPACE})),
    ];
    closed(fields, &["ref"])
}

fn validation() -> Value {
    let mut commands = list(command(), limits::APP_SETUP_COMMANDS_MAX);
    commands["minItems"] = json!(1);
    let mut status = integer(100, 599);
    status["default"] = json!(200);
    let probe = [("name", line(limits::APP_COMMAND_NAME_MAX_CHARS)), ("port", reference("portNumber")), ("path", url_path()), ("expectedStatus", status)];
    closed([("commands", commands), ("probes", list(closed(probe, &["port"]), limits::APP_PROBES_MAX))], &["commands"])
}

fn port() -> Value {
    let kind = |name: &str| json!({"const": name});
    let bearer = closed([("type", kind("bearer")), ("tokenSha256", sha256())], &["type", "tokenSha256"]);
    let header_name = json!({"type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"});
    let header = closed([("type", kind("header")), ("headerName", header_name), ("valueSha256", sha256())], &["type", "headerName", "valueSha256"]);
    let fields = [
        ("port", reference("portNumber")),
        ("protocol", one_of(Protocol::NAMES, "http")),
        ("label", line(limits::APP_PORT_LABEL_MAX_CHARS)),
        ("access", one_of(Access::NAMES, "private")),
        ("path", url_path()),
        ("authPolicy", json!({"oneOf": [bearer, header]})),
        ("autoStart", described(boolean(false), "Whether a request wakes the sandbox.")),
    ];
    let mut schema = closed(fields, &["port"]);
    schema["not"] = json!({"required": ["access", "authPolicy"], "properties": {"access": {"const": "public"}}});
    schema
}

fn readiness() -> Value {
    let mut path = url_path();
    if let Some(fields) = path.as_object_mut() {
        fields.remove("default");
    }
    let (mut timeout, mut interval) =
        (integer(1, limits::APP_READINESS_TIMEOUT_MAX_S), integer(limits::APP_READINESS_INTERVAL_MIN_MS, limits::APP_READINESS_INTERVAL_MAX_MS));
    timeout["default"] = json!(limits::APP_READINESS_TIMEOUT_DEFAULT_S);
    interval["default"] = json!(limits::APP_READINESS_INTERVAL_DEFAULT_MS);
    let fields = [("path", path), ("port", integer(1, u32::from(u16::MAX))), ("command", command()), ("timeoutSeconds", timeout), ("intervalMs", interval)];
    let mut schema = closed(fields, &[]);
    schema["not"] = json!({"required": ["command"], "anyOf": [{"required": ["path"]}, {"required": ["port"]}]});
    schema
}

fn restart() -> Value {
    let milliseconds = || integer(limits::APP_RESTART_BACKOFF_MIN_MS, limits::APP_RESTART_BACKOFF_MAX_MS);
    let policy = json!({"enum": RestartPolicy::NAMES});
    let fields =
        [("policy", policy.clone()), ("backoffMs", milliseconds()), ("backoffMaxMs", milliseconds()), ("maxRestarts", integer(1, limits::APP_RESTARTS_MAX))];
    json!({"oneOf": [policy, closed(fields, &[])]})
}

fn concurrency() -> Value {
    let max = integer(1, limits::APP_CONCURRENCY_MAX);
    let fields = [("group", line(limits::APP_COMMAND_NAME_MAX_CHARS)), ("max", max.clone()), ("policy", one_of(ConcurrencyPolicy::NAMES, "queue"))];
    let mut whole = closed(fields, &[]);
    whole["not"] = json!({"required": ["group", "max"], "properties": {"max": {"minimum": 2}}});
    json!({"oneOf": [max, whole]})
}

fn volume() -> Value {
    let fields = [
        ("name", name("^[A-Za-z_][A-Za-z0-9_-]*$", limits::APP_VOLUME_NAME_MAX_CHARS)),
        ("mountPath", json!({"type": "string", "maxLength": limits::APP_PATH_MAX_CHARS, "pattern": r"^(/[^/\\]+)+$", "not": {"enum": [super::WORKSPACE]}})),
        ("storageGb", json!({"type": "number", "minimum": limits::APP_VOLUME_MIN_GB_MILLIS as f64 / 1000.0, "maximum": limits::APP_VOLUME_MAX_GB})),
        ("deleteOnSandboxDelete", boolean(false)),
    ];
    closed(fields, &["name", "mountPath"])
}

fn inputs() -> Value {
    let mut variable_name = name("^[A-Za-z_][A-Za-z0-9_]*$", all::ENV_NAME_MAX_BYTES);
    variable_name["not"] = json!({"enum": shell::RESERVED});
    let variable = closed(
        [("name", variable_name), ("required", boolean(false)), ("secret", boolean(true)), ("description", text(limits::APP_DESCRIPTION_MAX_CHARS))],
        &["name"],
    );
    let schema = json!({
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"const": "object"}},
        "description": format!("A JSON Schema of the input of runs. Properties with {UPLOAD_KEY} are files."),
    });
    closed([("schema", schema), ("env", list(variable, limits::APP_INPUT_ENV_MAX))], &[])
}

fn endpoint() -> Value {
    let mut path = url_path();
    path["default"] = json!("/mcp");
    let name = || line(limits::APP_COMMAND_NAME_MAX_CHARS);
    closed([("name", name()), ("port", reference("portNumber")), ("path", path), ("service", text(limits::APP_COMMAND_NAME_MAX_CHARS))], &["port"])
}

fn schedule() -> Value {
    let moment = || json!({"type": "string", "format": "date-time"});
    let expression = || text(all::SCRIPT_CRON_MAX_BYTES);
    let action = || text(limits::APP_COMMAND_NAME_MAX_CHARS);
    let nullable = |mut schema: Value| {
        schema["type"] = json!(["integer", "null"]);
        schema
    };
    let names = |names: &[&str]| json!({"enum": names});
    let default = script::Schedule::default();
    let kind = |name: &str| json!({"const": name});
    let named = |kind_name: &str, other: &str| {
        let mut schema = closed([("kind", kind(kind_name)), ("name", action()), (other, action())], &["kind"]);
        schema["oneOf"] = json!([{"required": ["name"]}, {"required": [other]}]);
        schema
    };
    let target = json!({"oneOf": [
        closed([("kind", kind("start"))], &["kind"]),
        named("action", "actionName"),
        named("service", "serviceName"),
        closed([("kind", kind("command")), ("command", command())], &["kind", "command"]),
    ]});
    let fields = [
        ("name", schedule_name()),
        ("cron", described(expression(), "Minute, hour, day, month and weekday; or with seconds before them.")),
        ("rate", described(expression(), "Such as 5 minutes.")),
        ("once", moment()),
        ("scheduleExpression", expression()),
        ("scheduleType", names(&["cron", "rate", "once"])),
        ("timezone", json!({"type": "string", "minLength": 1, "maxLength": 64, "default": default.timezone})),
        ("enabled", boolean(true)),
        ("startAt", moment()),
        ("endAt", moment()),
        ("maxRuns", nullable(integer(1, limits::APP_SCHEDULE_RUNS_MAX))),
        ("runtimePolicy", one_of(RuntimePolicy::NAMES, RuntimePolicy::default().as_str())),
        ("action", action()),
        ("actionName", action()),
        ("command", command()),
        ("target", target),
        ("requiresStart", json!({"type": "boolean"})),
        ("budget", closed([("maxUsd", amount(limits::APP_BUDGET_MAX_USD))], &["maxUsd"])),
        ("resources", reference("resources")),
        ("quotas", closed([("maxDurationSeconds", integer(1, limits::APP_COMMAND_TIMEOUT_MAX_S)), ("maxSpendUsd", amount(limits::APP_BUDGET_MAX_USD))], &[])),
        (
            "retentionPolicy",
            described(closed([("keepLast", integer(1, runs::RUN_STOPPED_KEPT_MAX))], &["keepLast"]), "How many sandboxes run_and_stop keeps of it."),
        ),
        ("env", reference("env")),
        ("input", json!({"type": "object"})),
        ("missedRunPolicy", one_of(&script::MissedRunPolicy::ALL.map(script::MissedRunPolicy::as_str), default.missed_run_policy.as_str())),
        ("missedRunsMax", integer(1, all::SCRIPT_MISSED_RUNS_MAX)),
        ("startingDeadlineSeconds", nullable(integer(1, all::SCRIPT_STARTING_DEADLINE_MAX_S))),
        ("concurrencyPolicy", one_of(&script::ConcurrencyPolicy::ALL.map(script::ConcurrencyPolicy::as_str), default.concurrency_policy.as_str())),
        ("jitterSeconds", integer(0, all::SCRIPT_JITTER_MAX_S)),
    ];
    let mut schema = closed(fields, &["name"]);
    let one = |keys: &[&str]| json!({"oneOf": keys.iter().map(|key| json!({"required": [key]})).collect::<Vec<_>>()});
    schema["allOf"] = json!([one(&["cron", "rate", "once", "scheduleExpression"]), one(&["action", "actionName", "command", "target"])]);
    schema["dependentRequired"] = json!({"scheduleExpression": ["scheduleType"], "scheduleType": ["scheduleExpression"]});
    schema
}
