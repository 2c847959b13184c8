//! From the policy as written to the policy as judged.
use std::collections::HashSet;

use serde_json::Value;

use super::wire::{EgressPolicy, NetworkPolicy, TrafficRule};
use super::{Action, App, AppMatch, Domains, Mode, Policy, PortRange, Prefix, Rule};

mod credentials;
mod fields;
mod protocols;

use fields::{cidrs, domains, label, ports};

/// Rules of one policy.
const RULES_MAX: usize = 256;
/// CIDRs of one policy: each may become a route in the sandbox.
const CIDRS_MAX: usize = 2048;
/// What is wrong with one policy, that is told of.
const ERRORS_MAX: usize = 32;

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
    compile(&read(policy)?)
}

/// What is wrong with a policy that is one only on top of another, whose credential bindings it may use.
pub fn check_part(policy: &Value) -> Vec<PolicyError> {
    if policy.is_null() {
        return Vec::new();
    }
    let read = read(policy).and_then(|policy| compile_with(&policy, Refs::MayBeElsewhere));
    read.err().unwrap_or_default()
}

fn read(policy: &Value) -> Result<NetworkPolicy, Vec<PolicyError>> {
    if let Some(path) = find_array_for_object(policy, "") {
        return Err(vec![PolicyError { path, message: "must be an object".to_owned() }]);
    }
    serde_path_to_error::deserialize(policy).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".").unwrap_or_default();
        vec![PolicyError { path, message: error.inner().to_string() }]
    })
}

/// Where the bindings are that rules refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refs {
    Here,
    MayBeElsewhere,
}

/// Fields that are objects.
const OBJECTS: &[&str] = &[
    "egress",
    "proxy",
    "httpMatch",
    "http",
    "mcp",
    "tools",
    "projection",
    "cachePolicy",
    "httpHeaders",
    "placeholderSubstitution",
    "tlsClientCertificate",
    "usernamePassword",
    "sshProxy",
];

/// serde takes an array for a struct, field by field. A user who sends one means something else.
fn find_array_for_object(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Array(_) if path.is_empty() => Some(String::new()),
        // No list holds lists.
        Value::Array(entries) => entries.iter().enumerate().find_map(|(at, entry)| {
            let path = format!("{path}[{at}]");
            if entry.is_array() { Some(path) } else { find_array_for_object(entry, &path) }
        }),
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let is_object = OBJECTS.contains(&name.as_str()) || path.ends_with(".http");
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if is_object && field.is_array() { Some(path) } else { find_array_for_object(field, &path) }
        }),
        _ => None,
    }
}

/// Compiles a policy, or says all that is wrong with it.
pub fn compile(policy: &NetworkPolicy) -> Result<Policy, Vec<PolicyError>> {
    compile_with(policy, Refs::Here)
}

fn compile_with(policy: &NetworkPolicy, refs: Refs) -> Result<Policy, Vec<PolicyError>> {
    let mut errors = Errors::default();
    let mode = match policy.mode.as_str() {
        "" | "allow-all" => Mode::AllowAll,
        "block-all" => Mode::BlockAll,
        other => {
            errors.add("mode", format!("`{}` is neither allow-all nor block-all", other.escape_debug()));
            Mode::BlockAll
        }
    };
    let egress = &policy.egress;
    if egress.traffic_rules.len() + egress.protocol_rules.len() + egress.credential_rules.len() > RULES_MAX {
        errors.add("egress", format!("more than {RULES_MAX} rules"));
        return Err(errors.0);
    }
    let mut rules = Vec::new();
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
    let protocols = protocols::compile(&egress.protocol_rules, &mut errors);
    let bindings = credentials::bindings(&policy.credential_bindings, &mut errors);
    let credentials = credentials::rules(&egress.credential_rules, &bindings, refs, &mut errors);
    let proxy = egress.proxy.as_ref().and_then(|proxy| credentials::proxy(proxy, &bindings, refs, &mut errors));
    if errors.0.is_empty() { Ok(Policy { mode, rules, protocols, credentials, proxy, audit: egress.audit }) } else { Err(errors.0) }
}

#[derive(Default)]
struct Errors(Vec<PolicyError>);

impl Errors {
    fn add(&mut self, path: &str, message: String) {
        if self.0.len() < ERRORS_MAX {
            self.0.push(PolicyError { path: path.to_owned(), message });
        }
    }
}

fn has_lists(egress: &EgressPolicy) -> bool {
    [&egress.allowed_cidrs, &egress.allowed_domains, &egress.denied_cidrs, &egress.denied_domains].iter().any(|list| !list.is_empty())
        || !egress.allowed_ports.is_empty()
        || !egress.denied_ports.is_empty()
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
            errors.add(&format!("{path}.action"), format!("`{}` is neither allow nor deny", other.escape_debug()));
            Action::Deny
        }
    };
    let label = label(&rule.name, path, names, errors);
    let mut apps = Vec::new();
    for (at, name) in rule.app_protocols.iter().enumerate() {
        match app_match(name) {
            Some(app) if !apps.contains(&app) => apps.push(app),
            Some(_) => {}
            None => {
                let known: Vec<&str> = App::ALL.iter().map(|app| app.as_str()).collect();
                let message = format!("`{}` is none of {}, udp", name.escape_debug(), known.join(", "));
                errors.add(&format!("{path}.appProtocols[{at}]"), message);
            }
        }
    }
    let domains = domains(&rule.domains, &format!("{path}.domains"), errors);
    let cidrs = cidrs(&rule.cidrs, &format!("{path}.cidrs"), errors);
    let ports = ports(&rule.ports, &format!("{path}.ports"), errors);
    if rule.domains.is_empty() && rule.cidrs.is_empty() && rule.ports.is_empty() && rule.app_protocols.is_empty() {
        errors.add(path, "needs at least one of domains, cidrs, ports, appProtocols".to_owned());
    }
    Rule { label, action, cidrs, ports, domains, apps }
}

fn app_match(name: &str) -> Option<AppMatch> {
    if name == "udp" {
        return Some(AppMatch::Udp);
    }
    App::ALL.into_iter().find(|app| app.as_str() == name).map(AppMatch::App)
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
    let mut add = |label: &str, action, cidrs: Vec<Prefix>, ports: Vec<PortRange>, domains: Domains| {
        rules.push(Rule { label: label.into(), action, cidrs, ports, domains, apps: vec![] });
    };
    if !denied_cidrs.is_empty() {
        add("egress.deniedCidrs", Action::Deny, denied_cidrs, vec![], Domains::default());
    }
    if !denied_ports.is_empty() {
        add("egress.deniedPorts", Action::Deny, vec![], denied_ports, Domains::default());
    }
    if !denied_domains.is_empty() {
        add("egress.deniedDomains", Action::Deny, vec![], vec![], denied_domains);
    }
    let any_address = allowed_cidrs.is_empty() && allowed_domains.is_empty();
    if !allowed_cidrs.is_empty() {
        add("egress.allowedCidrs", Action::Allow, allowed_cidrs, allowed_ports.clone(), Domains::default());
    }
    if !allowed_domains.is_empty() {
        add("egress.allowedDomains", Action::Allow, vec![], allowed_ports.clone(), allowed_domains);
    }
    if any_address && !allowed_ports.is_empty() {
        add("egress.allowedPorts", Action::Allow, vec![], allowed_ports, Domains::default());
    }
}
