//! Warm processes and their probes.

use sandbar_api::template::{Probe, TemplateSpec, WarmProcess};

use super::{Violation, env_vars};
use crate::limits;

/// What services call a warm process: its name, else its alias, else its place.
pub fn name(process: &WarmProcess, index: usize) -> String {
    process.name.clone().or_else(|| process.alias.clone()).unwrap_or_else(|| format!("warm-{}", index + 1))
}

/// Checks the warm processes of a template.
pub(super) fn check(spec: &TemplateSpec) -> Vec<Violation> {
    let mut out = Vec::new();
    let processes = spec.warm_processes.as_deref().unwrap_or_default();
    if processes.len() > limits::WARM_PROCESSES_MAX {
        out.push(Violation::new("spec.warmProcesses", format!("there are {}; {} is the limit", processes.len(), limits::WARM_PROCESSES_MAX)));
    }
    let mut names: Vec<String> = Vec::new();
    for (index, process) in processes.iter().enumerate() {
        let at = |field: &str| format!("spec.warmProcesses[{index}].{field}");
        match (process.kind.as_str(), &process.command, &process.alias) {
            ("cmd", Some(command), _) if command.first().is_some_and(|program| !program.is_empty()) => {
                if command.len() > limits::COMMAND_ARGS_MAX || command.iter().map(String::len).sum::<usize>() > limits::COMMAND_MAX_BYTES {
                    out.push(Violation::new(
                        at("command"),
                        format!("may have {} words of {} bytes together", limits::COMMAND_ARGS_MAX, limits::COMMAND_MAX_BYTES),
                    ));
                }
            }
            ("cmd", _, _) => out.push(Violation::new(at("command"), "is required for a cmd")),
            ("repl", _, Some(alias)) if !alias.is_empty() => {}
            ("repl", _, _) => out.push(Violation::new(at("alias"), "is required for a repl, for example \"python\"")),
            _ => out.push(Violation::new(at("type"), "must be cmd or repl")),
        }
        let name = name(process, index);
        out.extend(super::name(&name, &at("name")));
        if names.contains(&name) {
            out.push(Violation::new(at("name"), format!("{name:?} is the name of another warm process")));
        }
        names.push(name);
        if process.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/') || cwd.len() > limits::PATH_MAX_BYTES) {
            out.push(Violation::new(at("cwd"), "must be an absolute path"));
        }
        if let Some(vars) = &process.env_vars {
            out.extend(env_vars(vars, &at("envVars")).err().unwrap_or_default());
        }
        let probes = process.probes.clone().unwrap_or_default();
        for (name, probe) in [("startup", &probes.startup), ("readiness", &probes.readiness), ("liveness", &probes.liveness)] {
            out.extend(probe.iter().flat_map(|probe| check_probe(probe, &at(&format!("probes.{name}")))));
        }
    }
    out
}

fn check_probe(probe: &Probe, path: &str) -> Vec<Violation> {
    let mut out = Vec::new();
    let handlers = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some()];
    if handlers.iter().filter(|given| **given).count() != 1 {
        out.push(Violation::new(path, "must have exactly one of exec, httpGet and tcpSocket"));
    }
    if probe.exec.as_ref().is_some_and(|exec| exec.command.first().is_none_or(String::is_empty)) {
        out.push(Violation::new(format!("{path}.exec.command"), "is required"));
    }
    if let Some(http) = &probe.http_get {
        let path_is_good = http.path.as_ref().is_none_or(|given| given.starts_with('/') && given.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
        if !path_is_good {
            out.push(Violation::new(format!("{path}.httpGet.path"), "must begin with / and hold visible ASCII characters only"));
        }
        let visible = |text: &str| !text.bytes().any(|byte| byte < 0x20 || byte == 0x7f);
        if http
            .http_headers
            .iter()
            .flatten()
            .any(|header| header.name.is_empty() || header.name.contains([':', ' ']) || !visible(&header.name) || !visible(&header.value))
        {
            out.push(Violation::new(format!("{path}.httpGet.httpHeaders"), "must have names without colon and space, and no control characters"));
        }
    }
    if [probe.http_get.as_ref().map(|http| http.port), probe.tcp_socket.as_ref().map(|tcp| tcp.port)].contains(&Some(0)) {
        out.push(Violation::new(format!("{path}.port"), "must be from 1 to 65535"));
    }
    let ranges = [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("periodSeconds", probe.period_seconds, 1),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("failureThreshold", probe.failure_threshold, 1),
        ("successThreshold", probe.success_threshold, 1),
    ];
    for (name, value, min) in ranges {
        if value.is_some_and(|value| !(min..=limits::PROBE_VALUE_MAX).contains(&value)) {
            out.push(Violation::new(format!("{path}.{name}"), format!("must be from {min} to {}", limits::PROBE_VALUE_MAX)));
        }
    }
    out
}
