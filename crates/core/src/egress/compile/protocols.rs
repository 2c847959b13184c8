//! Rules about what is asked for within a protocol.
use std::collections::HashSet;

use super::Errors;
use super::fields::{domains, label, methods, paths, ports, texts, tls_mode};
use crate::egress::mcp::Tools;
use crate::egress::request::{HttpLimits, HttpMatch, ValueMatch};
use crate::egress::wire::{self, HttpPolicy, McpPolicy};
use crate::egress::{PortRange, ProtocolRule, ProtocolWhat};

pub(super) fn compile(rules: &[wire::ProtocolRule], errors: &mut Errors) -> Vec<ProtocolRule> {
    let mut names = HashSet::new();
    rules.iter().enumerate().map(|(at, rule)| protocol_rule(rule, &format!("egress.protocolRules[{at}]"), &mut names, errors)).collect()
}

fn protocol_rule(rule: &wire::ProtocolRule, path: &str, names: &mut HashSet<String>, errors: &mut Errors) -> ProtocolRule {
    let label = label(&rule.name, path, names, errors);
    let what = match (rule.protocol.as_str(), &rule.http, &rule.mcp) {
        ("http", Some(http), None) => ProtocolWhat::Http(http_limits(http, &format!("{path}.http"), errors)),
        ("mcp", None, Some(mcp)) => ProtocolWhat::Mcp(tools(mcp, &format!("{path}.mcp"), errors)),
        (protocol @ ("http" | "mcp"), ..) => {
            errors.add(path, format!("of protocol {protocol} needs the field {protocol}, and that one alone"));
            ProtocolWhat::Http(HttpLimits::default())
        }
        (other, ..) => {
            errors.add(&format!("{path}.protocol"), format!("`{}` is neither http nor mcp", other.escape_debug()));
            ProtocolWhat::Http(HttpLimits::default())
        }
    };
    ProtocolRule {
        label,
        domains: domains(&rule.domains, &format!("{path}.domains"), errors),
        ports: tcp_ports(&rule.ports, &format!("{path}.ports"), errors),
        tls: tls_mode(&rule.tls_mode, path, errors),
        only: rule.http_match.as_ref().map(|http_match| compile_match(http_match, &format!("{path}.httpMatch"), errors)),
        what,
    }
}

/// Ports of rules that only mean TCP.
pub(super) fn tcp_ports(list: &[wire::PortRule], path: &str, errors: &mut Errors) -> Vec<PortRange> {
    for (at, rule) in list.iter().enumerate() {
        if rule.protocol.eq_ignore_ascii_case("udp") {
            errors.add(&format!("{path}[{at}].protocol"), "must be tcp here".to_owned());
        }
    }
    ports(list, path, errors)
}

fn http_limits(policy: &HttpPolicy, path: &str, errors: &mut Errors) -> HttpLimits {
    let limits = HttpLimits {
        methods_allowed: methods(&policy.methods.allowed, &format!("{path}.methods.allowed"), errors),
        methods_denied: methods(&policy.methods.denied, &format!("{path}.methods.denied"), errors),
        paths_allowed: paths(&policy.paths.allowed, &format!("{path}.paths.allowed"), errors),
        paths_denied: paths(&policy.paths.denied, &format!("{path}.paths.denied"), errors),
        prefixes_allowed: paths(&policy.paths.allowed_prefixes, &format!("{path}.paths.allowedPrefixes"), errors),
        prefixes_denied: paths(&policy.paths.denied_prefixes, &format!("{path}.paths.deniedPrefixes"), errors),
    };
    if limits == HttpLimits::default() {
        errors.add(path, "needs methods or paths that are allowed or denied".to_owned());
    }
    limits
}

fn tools(policy: &McpPolicy, path: &str, errors: &mut Errors) -> Tools {
    let tools = Tools {
        allowed: texts(&policy.tools.allowed, &format!("{path}.tools.allowed"), errors),
        denied: texts(&policy.tools.denied, &format!("{path}.tools.denied"), errors),
    };
    if tools == Tools::default() {
        errors.add(path, "needs tools that are allowed or denied".to_owned());
    }
    tools
}

pub(super) fn compile_match(http_match: &wire::HttpMatch, path: &str, errors: &mut Errors) -> HttpMatch {
    let mut values = |list: &[wire::ValueMatch], field: &str| -> Vec<ValueMatch> {
        let mut compile = |(at, value): (usize, &wire::ValueMatch)| {
            let path = format!("{path}.{field}[{at}]");
            let present = value.present.unwrap_or(true);
            if value.name.is_empty() || value.name.len() > 256 {
                errors.add(&format!("{path}.name"), "must have 1 to 256 bytes".to_owned());
            }
            if !present && !value.values.is_empty() {
                errors.add(&format!("{path}.values"), "cannot be given for what must not be there (present: false)".to_owned());
            }
            ValueMatch { name: value.name.clone(), values: texts(&value.values, &format!("{path}.values"), errors), present }
        };
        list.iter().take(VALUES_MAX).enumerate().map(&mut compile).collect()
    };
    let (query, headers) = (values(&http_match.query, "query"), values(&http_match.headers, "headers"));
    if http_match.query.len() > VALUES_MAX || http_match.headers.len() > VALUES_MAX {
        errors.add(path, format!("more than {VALUES_MAX} values"));
    }
    HttpMatch {
        methods: methods(&http_match.methods, &format!("{path}.methods"), errors),
        paths: paths(&http_match.paths, &format!("{path}.paths"), errors),
        prefixes: paths(&http_match.path_prefixes, &format!("{path}.pathPrefixes"), errors),
        query,
        headers,
    }
}

/// Conditions about headers, or about parameters of the query.
const VALUES_MAX: usize = 64;
