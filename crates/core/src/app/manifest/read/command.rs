//! The start command, actions and services.

use super::{
    super::{
        Action, Concurrency, Launch, LaunchServices, Port, Readiness, Restart, RestartPolicy, Service, Start,
        command::{Block, ConcurrencyPolicy},
        diagnostic::Code,
        yaml::Data,
    },
    checks::{Names, Said},
    parts, port,
    spot::{Fields, Out, Spot},
};
use crate::limits::apps as limits;

macro_rules! block_keys {
    ($($key:literal),*) => { &["command", "cwd", "timeoutSeconds", "requiresStart", "ports", "artifactPaths", "env", $($key),*] };
}

pub fn start(spot: &Spot<'_>, out: &mut Out, names: &mut Names) -> Start {
    let Some(fields) = spot.fields(out, block_keys!("readiness", "restart")) else { return Start::default() };
    let command = fields.get("command").and_then(|spot| command_text(&spot, out));
    // One that is wrong was meant to be there.
    names.has_start_command = fields.get("command").is_some();
    let (block, ports) = block(&fields, out);
    if let Some(spot) = fields.get("requiresStart").filter(|_| block.requires_start) {
        spot.wrong(out, Code::Conflict, "the start command cannot require itself");
    }
    names.start(ports);
    let readiness = readiness(&fields, out, &block.ports);
    Start { command, block, readiness, restart: restart(&fields, out, RestartPolicy::Never) }
}

pub fn action(spot: &Spot<'_>, out: &mut Out, names: &mut Names) -> Action {
    let Some(fields) = spot.fields(out, block_keys!("name", "concurrency")) else { return Action::default() };
    let (name, command, block, _) = named_block(&fields, out, names);
    if !name.is_empty() {
        names.actions.push(name.clone());
    }
    Action { name, command, block, concurrency: fields.get("concurrency").and_then(|spot| concurrency(&spot, out)) }
}

pub fn service(spot: &Spot<'_>, out: &mut Out, names: &mut Names) -> Service {
    let keys = block_keys!("name", "readiness", "autoStart", "dependsOn", "restart");
    let Some(fields) = spot.fields(out, keys) else { return Service::default() };
    let (name, command, block, ports) = named_block(&fields, out, names);
    let depends_on = said_names(&fields, "dependsOn", out);
    let service = Service {
        depends_on: depends_on.iter().map(|name| name.what.clone()).collect(),
        readiness: readiness(&fields, out, &block.ports),
        auto_start: fields.boolean("autoStart", out, false),
        restart: restart(&fields, out, RestartPolicy::OnFailure),
        name,
        command,
        block,
    };
    names.service(&service.name, ports, depends_on);
    service
}

pub fn launch(spot: &Spot<'_>, out: &mut Out, names: &mut Names) -> Launch {
    let Some(fields) = spot.fields(out, &["services", "env"]) else { return Launch::default() };
    let services = match fields.get("services") {
        Some(Spot { node, .. }) if matches!(&node.data, Data::Text(word) if word == "all") => LaunchServices::All,
        Some(spot) if matches!(spot.node.data, Data::Text(_)) => {
            spot.wrong(out, Code::InvalidValue, "must be a list of names of services, or all");
            LaunchServices::default()
        }
        _ => {
            let said = said_names(&fields, "services", out);
            let services = said.iter().map(|name| name.what.clone()).collect();
            names.launch(said);
            LaunchServices::Named(services)
        }
    };
    Launch { services, env: parts::env(&fields, out) }
}

/// Whether a text can be the name of an action, service or schedule.
pub fn is_command_name(name: &str) -> bool {
    name.trim() == name && !name.is_empty() && !matches!(name, "." | "..") && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'))
}

/// The name of what can be asked for by it: of an action, a service or a schedule.
pub fn command_name<'a>(spot: &Spot<'a>, out: &mut Out, max_chars: usize) -> Option<&'a str> {
    let text = spot.text(out, max_chars)?;
    if !is_command_name(text) {
        spot.wrong(out, Code::InvalidName, "must be one line without / and \\, without spaces at its ends, and not . or ..");
        return None;
    }
    Some(text)
}

pub fn command_text(spot: &Spot<'_>, out: &mut Out) -> Option<String> {
    spot.text(out, limits::APP_COMMAND_MAX_CHARS).map(str::to_owned)
}

fn named_block(fields: &Fields<'_>, out: &mut Out, names: &mut Names) -> (String, String, Block, Vec<Said<u16>>) {
    let mut name = "";
    if let Some(spot) = fields.require("name", out) {
        if let Some(text) = command_name(&spot, out, limits::APP_COMMAND_NAME_MAX_CHARS) {
            names.take(text, &spot);
        }
        // What refers to one that is wrong is right.
        name = spot.as_text();
    }
    let command = fields.require("command", out).and_then(|spot| command_text(&spot, out)).unwrap_or_default();
    let (block, ports) = block(fields, out);
    if let Some(spot) = fields.get("requiresStart").filter(|_| block.requires_start) {
        names.requires_start(&spot);
    }
    (name.to_owned(), command, block, ports)
}

fn block(fields: &Fields<'_>, out: &mut Out) -> (Block, Vec<Said<u16>>) {
    let mut ports: Vec<Port> = Vec::new();
    let mut said = Vec::new();
    for spot in fields.get("ports").map(|spot| spot.list(out, limits::APP_PORTS_MAX)).unwrap_or_default() {
        let Some((port, number)) = port::port(&spot, out) else { continue };
        if ports.iter().any(|before| before.port == port.port) {
            number.wrong(out, Code::DuplicatePort, format!("{} is declared twice", port.port));
        } else {
            said.push(Said::new(port.port, &number));
        }
        ports.push(port);
    }
    let block = Block {
        cwd: fields.get("cwd").and_then(|spot| parts::path(&spot, out)).filter(|path| !path.is_empty()),
        timeout_seconds: fields.integer("timeoutSeconds", out, 1, limits::APP_COMMAND_TIMEOUT_MAX_S),
        requires_start: fields.boolean("requiresStart", out, false),
        ports,
        artifact_paths: parts::patterns(fields, "artifactPaths", out),
        env: parts::env(fields, out),
    };
    (block, said)
}

fn said_names(fields: &Fields<'_>, key: &str, out: &mut Out) -> Vec<Said<String>> {
    let items = fields.get(key).map(|spot| spot.list(out, limits::APP_SERVICES_MAX)).unwrap_or_default();
    items.iter().filter_map(|spot| Some(Said::new(spot.text(out, limits::APP_COMMAND_NAME_MAX_CHARS)?.to_owned(), spot))).collect()
}

fn readiness(fields: &Fields<'_>, out: &mut Out, ports: &[Port]) -> Option<Readiness> {
    let spot = fields.get("readiness")?;
    let fields = spot.fields(out, &["path", "port", "command", "timeoutSeconds", "intervalMs"])?;
    let default = Readiness::default();
    for key in ["path", "port"] {
        if fields.get("command").is_some() && fields.get(key).is_some() {
            fields.conflict(key, out, "readiness is asked of a command, or of a port and path, not of both");
        }
    }
    if let Some(path) = fields.get("path")
        && fields.get("port").is_none()
        && ports.is_empty()
    {
        path.wrong(out, Code::Missing, "there is no port to ask: say readiness.port, or declare ports");
    }
    Some(Readiness {
        path: fields.get("path").and_then(|spot| port::url_path(&spot, out)),
        port: fields.integer("port", out, 1, u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok()),
        command: fields.get("command").and_then(|spot| command_text(&spot, out)),
        timeout_seconds: fields.integer("timeoutSeconds", out, 1, limits::APP_READINESS_TIMEOUT_MAX_S).unwrap_or(default.timeout_seconds),
        interval_ms: fields
            .integer("intervalMs", out, limits::APP_READINESS_INTERVAL_MIN_MS, limits::APP_READINESS_INTERVAL_MAX_MS)
            .unwrap_or(default.interval_ms),
    })
}

fn restart(fields: &Fields<'_>, out: &mut Out, default: RestartPolicy) -> Restart {
    let mut restart = Restart::of(default);
    let Some(spot) = fields.get("restart") else { return restart };
    if !matches!(spot.node.data, Data::Text(_) | Data::Map(_)) {
        let words = RestartPolicy::NAMES.join(", ");
        spot.wrong(out, Code::InvalidType, format!("must be one of {words}, or a mapping with such a policy, not {}", spot.node.kind()));
        return restart;
    }
    if matches!(spot.node.data, Data::Text(_)) {
        restart.policy = spot.one_of(out, RestartPolicy::named, RestartPolicy::NAMES).unwrap_or(default);
        return restart;
    }
    let Some(fields) = spot.fields(out, &["policy", "backoffMs", "backoffMaxMs", "maxRestarts"]) else { return restart };
    restart.policy = fields.one_of("policy", out, RestartPolicy::named, RestartPolicy::NAMES).unwrap_or(default);
    let mut milliseconds = |key| fields.integer(key, out, limits::APP_RESTART_BACKOFF_MIN_MS, limits::APP_RESTART_BACKOFF_MAX_MS);
    let (first, most) = (milliseconds("backoffMs"), milliseconds("backoffMaxMs"));
    // Where one of them is not said, it does not contradict the other.
    restart.backoff_ms = first.unwrap_or(restart.backoff_ms.min(most.unwrap_or(u32::MAX)));
    restart.backoff_max_ms = most.unwrap_or(restart.backoff_max_ms.max(restart.backoff_ms));
    if restart.backoff_ms > restart.backoff_max_ms
        && let Some(spot) = fields.get("backoffMaxMs")
    {
        spot.wrong(out, Code::OutOfRange, format!("must not be less than backoffMs, which is {}", restart.backoff_ms));
    }
    restart.max_restarts = fields.integer("maxRestarts", out, 1, limits::APP_RESTARTS_MAX);
    restart
}

fn concurrency(spot: &Spot<'_>, out: &mut Out) -> Option<Concurrency> {
    if matches!(spot.node.data, Data::Int(..)) {
        let max = spot.integer(out, 1, limits::APP_CONCURRENCY_MAX)?;
        return Some(Concurrency { group: None, max, policy: ConcurrencyPolicy::default() });
    }
    if !matches!(spot.node.data, Data::Map(_)) {
        spot.wrong(out, Code::InvalidType, format!("must be a whole number or a mapping, not {}", spot.node.kind()));
        return None;
    }
    let fields = spot.fields(out, &["group", "max", "policy"])?;
    let group = fields.get("group").and_then(|spot| spot.line(out, limits::APP_COMMAND_NAME_MAX_CHARS)).map(str::to_owned);
    let max = fields.integer("max", out, 1, limits::APP_CONCURRENCY_MAX).unwrap_or(1);
    if group.is_some() && max > 1 {
        fields.conflict("max", out, "actions of a group run one at a time");
    }
    Some(Concurrency { group, max, policy: fields.one_of("policy", out, ConcurrencyPolicy::named, ConcurrencyPolicy::NAMES).unwrap_or_default() })
}
