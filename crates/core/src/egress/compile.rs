//! From the policy as written to the policy as judged.
use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::wire::{EgressPolicy, NetworkPolicy, PortRule, ProtocolRule, TrafficRule};
use super::{Action, Domain, Mode, Policy, PortRange, Prefix, Protocol, Rule};

/// Rules of one policy.
const RULES_MAX: usize = 256;
/// CIDRs of one policy: each may become a route in the sandbox.
const CIDRS_MAX: usize = 2048;
/// Domains of one list.
const DOMAINS_MAX: usize = 1024;
/// Ports of one list.
const PORTS_MAX: usize = 256;
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

const APP_PROTOCOLS: &[&str] = &["http", "tls", "ssh", "socks5", "mqtt", "redis", "amqp", "dns", "mongodb", "udp"];

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct PolicyError {
    /// Such as `egress.trafficRules[0].cidrs[1]`; empty for the policy itself.
    pub path: String,
    pub message: String,
}

/// Compiles a policy as it came in JSON. Null is the default policy.
pub fn compile_value(policy: &Value) -> Result<Policy, Vec<PolicyError>> {
    if policy.is_null() {
        return Ok(Policy::allow_all());
    }
    if let Some(path) = find_array_for_object(policy) {
        return Err(vec![PolicyError { path, message: "must be an object".to_owned() }]);
    }
    let policy: NetworkPolicy = serde_path_to_error::deserialize(policy).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".").unwrap_or_default();
        vec![PolicyError { path, message: error.inner().to_string() }]
    })?;
    compile(&policy)
}

/// serde takes an array for a struct, field by field. A user who sends one means something else.
fn find_array_for_object(policy: &Value) -> Option<String> {
    if policy.is_array() {
        return Some(String::new());
    }
    let egress = policy.get("egress")?;
    if egress.is_array() {
        return Some("egress".to_owned());
    }
    let lists = ["trafficRules", "protocolRules", "allowedPorts", "deniedPorts"];
    let find = |owner: &Value, path: &str, list: &str| {
        let at = owner.get(list)?.as_array()?.iter().position(Value::is_array)?;
        Some(format!("{path}.{list}[{at}]"))
    };
    for list in lists {
        if let Some(found) = find(egress, "egress", list) {
            return Some(found);
        }
        for (at, rule) in egress.get(list).and_then(Value::as_array).into_iter().flatten().enumerate() {
            if let Some(found) = find(rule, &format!("egress.{list}[{at}]"), "ports") {
                return Some(found);
            }
        }
    }
    egress.get("proxy").is_some_and(Value::is_array).then(|| "egress.proxy".to_owned())
}

/// Compiles a policy, or says all that is wrong with it.
pub fn compile(policy: &NetworkPolicy) -> Result<Policy, Vec<PolicyError>> {
    let mut errors = Errors::default();
    let mode = match policy.mode.as_str() {
        "" | "allow-all" => Mode::AllowAll,
        "block-all" => Mode::BlockAll,
        other => {
            errors.add("mode", format!("`{other}` is neither allow-all nor block-all"));
            Mode::BlockAll
        }
    };
    let egress = &policy.egress;
    let mut rules = Vec::new();
    if let Some(proxy) = &egress.proxy {
        if proxy.kind != "socks5" {
            errors.add("egress.proxy.type", format!("`{}` is not socks5", proxy.kind));
        }
        let port = proxy.address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            errors.add("egress.proxy.address", "must be host:port".to_owned());
        }
        rules.push(partial_deny("egress.proxy (not carried yet)", vec![], vec![]));
    }
    if egress.traffic_rules.len() + egress.protocol_rules.len() > RULES_MAX {
        errors.add("egress", format!("more than {RULES_MAX} rules"));
        return Err(errors.0);
    }
    let mut names = HashSet::new();
    for (at, rule) in egress.protocol_rules.iter().enumerate() {
        rules.push(protocol_rule(rule, &format!("egress.protocolRules[{at}]"), &mut names, &mut errors));
    }
    let mut names = HashSet::new();
    for (at, rule) in egress.traffic_rules.iter().enumerate() {
        rules.push(traffic_rule(rule, &format!("egress.trafficRules[{at}]"), &mut names, &mut errors));
    }
    if !egress.traffic_rules.is_empty() && has_lists(egress) {
        let message = "cannot be combined with the allowed and denied lists (deprecated); write these as rules too";
        errors.add("egress.trafficRules", message.to_owned());
    }
    list_rules(egress, &mut rules, &mut errors);
    if rules.iter().map(|rule| rule.cidrs.len()).sum::<usize>() > CIDRS_MAX {
        errors.add("egress", format!("more than {CIDRS_MAX} CIDRs"));
    }
    if errors.0.is_empty() { Ok(Policy { mode, rules }) } else { Err(errors.0) }
}

#[derive(Default)]
struct Errors(Vec<PolicyError>);

impl Errors {
    fn add(&mut self, path: &str, message: String) {
        self.0.push(PolicyError { path: path.to_owned(), message });
    }
}

fn has_lists(egress: &EgressPolicy) -> bool {
    [&egress.allowed_cidrs, &egress.allowed_domains, &egress.denied_cidrs, &egress.denied_domains].iter().any(|list| !list.is_empty())
        || !egress.allowed_ports.is_empty()
        || !egress.denied_ports.is_empty()
}

/// A deny whose finer conditions are not judged, so that it matches wherever they might.
fn partial_deny(label: &str, domains: Vec<Domain>, ports: Vec<PortRange>) -> Rule {
    Rule { label: label.into(), action: Action::Deny, cidrs: vec![], ports, domains, partial: true }
}

fn traffic_rule(rule: &TrafficRule, path: &str, names: &mut HashSet<String>, errors: &mut Errors) -> Rule {
    let action = match rule.action.as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        "" => {
            errors.add(&format!("{path}.action"), "is required: allow or deny".to_owned());
            Action::Deny
        }
        other => {
            errors.add(&format!("{path}.action"), format!("`{other}` is neither allow nor deny"));
            Action::Deny
        }
    };
    let label = label(&rule.name, path, names, errors);
    for (at, protocol) in rule.app_protocols.iter().enumerate() {
        if !APP_PROTOCOLS.contains(&protocol.as_str()) {
            let message = format!("`{protocol}` is none of {}", APP_PROTOCOLS.join(", "));
            errors.add(&format!("{path}.appProtocols[{at}]"), message);
        }
    }
    let domains = domains(&rule.domains, &format!("{path}.domains"), errors);
    let cidrs = cidrs(&rule.cidrs, &format!("{path}.cidrs"), errors);
    let ports = ports(&rule.ports, &format!("{path}.ports"), errors);
    if rule.domains.is_empty() && rule.cidrs.is_empty() && rule.ports.is_empty() && rule.app_protocols.is_empty() {
        errors.add(path, "needs at least one of domains, cidrs, ports, appProtocols".to_owned());
    }
    let partial = !rule.domains.is_empty() || !rule.app_protocols.is_empty();
    Rule { label, action, cidrs, ports, domains, partial }
}

fn protocol_rule(rule: &ProtocolRule, path: &str, names: &mut HashSet<String>, errors: &mut Errors) -> Rule {
    if !["http", "mcp"].contains(&rule.protocol.as_str()) {
        errors.add(&format!("{path}.protocol"), format!("`{}` is neither http nor mcp", rule.protocol));
    }
    let label = label(&rule.name, path, names, errors);
    let domains = domains(&rule.domains, &format!("{path}.domains"), errors);
    let ports = ports(&rule.ports, &format!("{path}.ports"), errors);
    partial_deny(&format!("{label} (not judged yet)"), domains, ports)
}

/// The deprecated lists: what is denied goes first; the allowed addresses (or names) and the allowed ports must both
/// fit where both are given.
fn list_rules(egress: &EgressPolicy, rules: &mut Vec<Rule>, errors: &mut Errors) {
    let allowed_cidrs = cidrs(&egress.allowed_cidrs, "egress.allowedCidrs", errors);
    let denied_cidrs = cidrs(&egress.denied_cidrs, "egress.deniedCidrs", errors);
    let allowed_domains = domains(&egress.allowed_domains, "egress.allowedDomains", errors);
    let denied_domains = domains(&egress.denied_domains, "egress.deniedDomains", errors);
    let allowed_ports = ports(&egress.allowed_ports, "egress.allowedPorts", errors);
    let denied_ports = ports(&egress.denied_ports, "egress.deniedPorts", errors);
    let mut add = |label: &str, action, cidrs: Vec<Prefix>, ports: Vec<PortRange>, domains: Vec<Domain>| {
        let partial = !domains.is_empty();
        rules.push(Rule { label: label.into(), action, cidrs, ports, domains, partial });
    };
    if !denied_cidrs.is_empty() {
        add("egress.deniedCidrs", Action::Deny, denied_cidrs, vec![], vec![]);
    }
    if !denied_ports.is_empty() {
        add("egress.deniedPorts", Action::Deny, vec![], denied_ports, vec![]);
    }
    if !denied_domains.is_empty() {
        add("egress.deniedDomains", Action::Deny, vec![], vec![], denied_domains);
    }
    let any_address = allowed_cidrs.is_empty() && allowed_domains.is_empty();
    if !allowed_cidrs.is_empty() {
        add("egress.allowedCidrs", Action::Allow, allowed_cidrs, allowed_ports.clone(), vec![]);
    }
    if !allowed_domains.is_empty() {
        add("egress.allowedDomains", Action::Allow, vec![], allowed_ports.clone(), allowed_domains);
    }
    if any_address && !allowed_ports.is_empty() {
        add("egress.allowedPorts", Action::Allow, vec![], allowed_ports, vec![]);
    }
}

fn label(name: &str, path: &str, names: &mut HashSet<String>, errors: &mut Errors) -> Arc<str> {
    if name.is_empty() {
        return path.into();
    }
    if !names.insert(name.to_owned()) {
        errors.add(&format!("{path}.name"), format!("`{name}` is the name of an earlier rule"));
    }
    format!("{path} `{name}`").into()
}

fn cidrs(list: &[String], path: &str, errors: &mut Errors) -> Vec<Prefix> {
    if list.len() > CIDRS_MAX {
        errors.add(path, format!("more than {CIDRS_MAX} entries"));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(list.len());
    for (at, text) in list.iter().enumerate() {
        match text.parse::<Prefix>() {
            Ok(prefix) => found.push(prefix),
            Err(error) => errors.add(&format!("{path}[{at}]"), error.to_string()),
        }
    }
    found
}

fn ports(list: &[PortRule], path: &str, errors: &mut Errors) -> Vec<PortRange> {
    if list.len() > PORTS_MAX {
        errors.add(path, format!("more than {PORTS_MAX} entries"));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(list.len());
    for (at, rule) in list.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let proto = match rule.protocol.to_ascii_lowercase().as_str() {
            "" => None,
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            other => {
                errors.add(&format!("{path}.protocol"), format!("`{other}` is neither tcp nor udp"));
                continue;
            }
        };
        let Some(first) = port(rule.port) else {
            errors.add(&format!("{path}.port"), format!("{} is not 1 to 65535", rule.port));
            continue;
        };
        // Go clients send 0 for an absent number.
        let end = rule.end_port.filter(|end| *end != 0).unwrap_or(rule.port);
        match port(end) {
            Some(last) if last >= first => found.push(PortRange { proto, first, last }),
            Some(_) => errors.add(&format!("{path}.endPort"), format!("{end} is below port {first}")),
            None => errors.add(&format!("{path}.endPort"), format!("{end} is not 1 to 65535")),
        }
    }
    found
}

fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

fn domains(list: &[String], path: &str, errors: &mut Errors) -> Vec<Domain> {
    if list.len() > DOMAINS_MAX {
        errors.add(path, format!("more than {DOMAINS_MAX} entries"));
        return Vec::new();
    }
    let mut found = Vec::with_capacity(list.len());
    for (at, text) in list.iter().enumerate() {
        let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
        let (name, tree) = name.strip_prefix("*.").map_or((name.as_str(), false), |name| (name, true));
        if !is_domain(name) {
            let message = format!("`{text}` is no domain such as example.com or *.example.com");
            errors.add(&format!("{path}[{at}]"), message);
        } else if tree {
            found.push(Domain::Tree(name.to_owned()));
        } else {
            found.push(Domain::Exact(name.to_owned()));
        }
    }
    found
}

fn is_domain(name: &str) -> bool {
    name.len() <= DOMAIN_BYTES_MAX
        && name
            .split('.')
            .all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
}
