//! Which secret goes where, and how.
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::fields::{domains, host_port, label, texts, tls_mode};
use super::protocols::{compile_match, tcp_ports};
use super::{Errors, Refs};
use crate::egress::credential::{FRAMING_HEADERS, Speaks};
use crate::egress::wire::{self, ProjectionSpec};
use crate::egress::{App, Binding, CredentialRule, PortRange, Projection, Protocol, Replacement, SshProxy, Template, TlsMode, UpstreamProxy};

/// Bindings of one policy.
const BINDINGS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 128;
/// Headers or placeholders of one binding.
const PARTS_MAX: usize = 32;
const PLACEHOLDER_BYTES_MIN: usize = 4;
const PLACEHOLDER_BYTES_MAX: usize = 256;
/// The shortest and the longest time that a secret may be kept by the proxy.
const TTL_S_MAX: u64 = 86_400;

pub(super) type Bindings = BTreeMap<String, Arc<Binding>>;

pub(super) fn bindings(list: &[wire::CredentialBinding], errors: &mut Errors) -> Bindings {
    let mut found = BTreeMap::new();
    if list.len() > BINDINGS_MAX {
        errors.add("credentialBindings", format!("more than {BINDINGS_MAX} bindings"));
        return found;
    }
    for (at, binding) in list.iter().enumerate() {
        let path = format!("credentialBindings[{at}]");
        for (field, text) in [("ref", &binding.name), ("sourceRef", &binding.source_ref)] {
            if text.is_empty() || text.len() > NAME_BYTES_MAX {
                errors.add(&format!("{path}.{field}"), format!("must have 1 to {NAME_BYTES_MAX} bytes"));
            }
        }
        if let Some(policy) = &binding.cache_policy
            && !policy.ttl.is_empty()
            && seconds(&policy.ttl).is_none_or(|ttl| ttl > TTL_S_MAX)
        {
            errors.add(&format!("{path}.cachePolicy.ttl"), "must be a duration of at most 24h, such as 90s or 5m".to_owned());
        }
        let Some(projection) = projection(&binding.projection, &format!("{path}.projection"), errors) else { continue };
        let compiled = Binding { name: binding.name.clone(), source: binding.source_ref.clone(), projection };
        if found.insert(binding.name.clone(), Arc::new(compiled)).is_some() {
            errors.add(&format!("{path}.ref"), format!("`{}` is the name of an earlier binding", binding.name));
        }
    }
    found
}

/// Seconds of a duration as Go writes it, such as `1h30m`, `5m` or `250ms`.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let amount: u64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        rest = &rest[letters..];
        total_ms = total_ms.checked_add(amount.checked_mul(unit_ms)?)?;
    }
    (!text.is_empty()).then_some(total_ms.div_ceil(1000))
}

fn projection(spec: &ProjectionSpec, path: &str, errors: &mut Errors) -> Option<Projection> {
    let given = [
        ("http_headers", "httpHeaders", spec.http_headers.is_some()),
        ("placeholder_substitution", "placeholderSubstitution", spec.placeholder_substitution.is_some()),
        ("tls_client_certificate", "tlsClientCertificate", spec.tls_client_certificate.is_some()),
        ("username_password", "usernamePassword", spec.username_password.is_some()),
        ("ssh_proxy", "sshProxy", spec.ssh_proxy.is_some()),
    ];
    for (kind, field, is_given) in given {
        if is_given && kind != spec.kind {
            errors.add(&format!("{path}.{field}"), format!("does not belong to a projection of type {}", spec.kind.escape_debug()));
        }
    }
    match (spec.kind.as_str(), &spec.http_headers, &spec.placeholder_substitution, &spec.ssh_proxy) {
        ("http_headers", Some(http), ..) => Some(Projection::HttpHeaders(headers(http, &format!("{path}.httpHeaders.headers"), errors))),
        ("placeholder_substitution", _, Some(placeholders), _) => {
            Some(Projection::Placeholders(replacements(placeholders, &format!("{path}.placeholderSubstitution.replacements"), errors)))
        }
        ("tls_client_certificate", ..) => Some(Projection::ClientCertificate),
        ("username_password", ..) => Some(Projection::UsernamePassword),
        ("ssh_proxy", _, _, Some(ssh)) => Some(Projection::SshProxy(ssh_proxy(ssh, &format!("{path}.sshProxy"), errors))),
        (kind @ ("http_headers" | "placeholder_substitution" | "ssh_proxy"), ..) => {
            let field = given.iter().find(|(of, ..)| *of == kind).map_or("", |(_, field, _)| field);
            errors.add(&format!("{path}.{field}"), "is required".to_owned());
            None
        }
        (other, ..) => {
            let known: Vec<&str> = given.iter().map(|(kind, ..)| *kind).collect();
            errors.add(&format!("{path}.type"), format!("`{}` is none of {}", other.escape_debug(), known.join(", ")));
            None
        }
    }
}

fn template(text: &str, path: &str, errors: &mut Errors) -> Option<Template> {
    Template::parse(text).inspect_err(|error| errors.add(path, error.to_string())).ok()
}

fn headers(spec: &wire::HttpHeaders, path: &str, errors: &mut Errors) -> Vec<(String, Template)> {
    if spec.headers.is_empty() || spec.headers.len() > PARTS_MAX {
        errors.add(path, format!("must have 1 to {PARTS_MAX} entries"));
        return Vec::new();
    }
    let mut found: Vec<(String, Template)> = Vec::new();
    for (at, header) in spec.headers.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let name = header.name.to_ascii_lowercase();
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !is_name || FRAMING_HEADERS.contains(&name.as_str()) {
            errors.add(&format!("{path}.name"), format!("`{}` is no header that can be set", header.name.escape_debug()));
        } else if found.iter().any(|(other, _)| *other == name) {
            errors.add(&format!("{path}.name"), format!("`{name}` is set by an earlier entry"));
        } else if let Some(template) = template(&header.value_template, &format!("{path}.valueTemplate"), errors) {
            found.push((name, template));
        }
    }
    found
}

fn replacements(spec: &wire::PlaceholderSubstitution, path: &str, errors: &mut Errors) -> Vec<Replacement> {
    if spec.replacements.is_empty() || spec.replacements.len() > PARTS_MAX {
        errors.add(path, format!("must have 1 to {PARTS_MAX} entries"));
        return Vec::new();
    }
    let mut found: Vec<Replacement> = Vec::new();
    for (at, replacement) in spec.replacements.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let placeholder = &replacement.placeholder;
        let fits = (PLACEHOLDER_BYTES_MIN..=PLACEHOLDER_BYTES_MAX).contains(&placeholder.len()) && placeholder.bytes().all(|b| (0x21..0x7f).contains(&b));
        if !fits {
            errors.add(&format!("{path}.placeholder"), format!("must have {PLACEHOLDER_BYTES_MIN} to {PLACEHOLDER_BYTES_MAX} visible ASCII characters"));
            continue;
        }
        if found.iter().any(|other| other.placeholder.contains(placeholder) || placeholder.contains(&other.placeholder)) {
            errors.add(&format!("{path}.placeholder"), "is a part of another one, or has one in it".to_owned());
        }
        if let Some(other) = replacement.locations.iter().find(|location| !["header", "query", "body"].contains(&location.as_str())) {
            errors.add(&format!("{path}.locations"), format!("`{}` is none of header, query, body", other.escape_debug()));
        }
        if replacement.locations.is_empty() {
            errors.add(&format!("{path}.locations"), "needs at least one of header, query, body".to_owned());
        }
        let has = |location: &str| replacement.locations.iter().any(|entry| entry == location);
        if let Some(template) = template(&replacement.value_template, &format!("{path}.valueTemplate"), errors) {
            let (in_headers, in_query, in_body) = (has("header"), has("query"), has("body"));
            found.push(Replacement { placeholder: placeholder.clone(), template, in_headers, in_query, in_body });
        }
    }
    found
}

fn ssh_proxy(spec: &wire::SshProxySpec, path: &str, errors: &mut Errors) -> SshProxy {
    let name = &spec.upstream_username;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        errors.add(&format!("{path}.upstreamUsername"), format!("must be a user's name of 1 to {NAME_BYTES_MAX} bytes"));
    }
    if spec.sandbox_public_keys.is_empty() {
        errors.add(&format!("{path}.sandboxPublicKeys"), "needs at least one key".to_owned());
    }
    if spec.known_hosts.is_empty() {
        let message = "needs at least one line of known_hosts: without, the key could be used at somebody else's server";
        errors.add(&format!("{path}.knownHosts"), message.to_owned());
    }
    SshProxy {
        sandbox_public_keys: texts(&spec.sandbox_public_keys, &format!("{path}.sandboxPublicKeys"), errors),
        upstream_username: name.clone(),
        known_hosts: texts(&spec.known_hosts, &format!("{path}.knownHosts"), errors),
    }
}

pub(super) fn rules(list: &[wire::CredentialRule], bindings: &Bindings, refs: Refs, errors: &mut Errors) -> Vec<CredentialRule> {
    let mut names = HashSet::new();
    let mut compile =
        |(at, rule): (usize, &wire::CredentialRule)| credential_rule(rule, &format!("egress.credentialRules[{at}]"), &mut names, bindings, refs, errors);
    list.iter().enumerate().filter_map(&mut compile).collect()
}

fn credential_rule(
    rule: &wire::CredentialRule,
    path: &str,
    names: &mut HashSet<String>,
    bindings: &Bindings,
    refs: Refs,
    errors: &mut Errors,
) -> Option<CredentialRule> {
    let label = label(&rule.name, path, names, errors);
    let tls = tls_mode(&rule.tls_mode, path, errors);
    let domains = domains(&rule.domains, &format!("{path}.domains"), errors);
    if rule.domains.is_empty() {
        errors.add(&format!("{path}.domains"), "needs at least one: a credential is for somebody".to_owned());
    }
    let mut ports = tcp_ports(&rule.ports, &format!("{path}.ports"), errors);
    let only = rule.http_match.as_ref().map(|http_match| compile_match(http_match, &format!("{path}.httpMatch"), errors));
    let fail_open = one_of(&rule.failure_policy, ["fail-closed", "fail-open"], &format!("{path}.failurePolicy"), errors) == 1;
    let enabled = one_of(&rule.rollout, ["enabled", "disabled"], &format!("{path}.rollout"), errors) == 0;
    let Some(binding) = bindings.get(&rule.credential_ref) else {
        if refs == Refs::Here || rule.credential_ref.is_empty() {
            errors.add(&format!("{path}.credentialRef"), format!("`{}` is the ref of no binding", rule.credential_ref.escape_debug()));
        }
        return None;
    };
    let speaks = speaks(rule, tls, &binding.projection, path, errors)?;
    if only.is_some() && !matches!(binding.projection, Projection::HttpHeaders(_) | Projection::Placeholders(_)) {
        let message = format!("cannot be known when a credential of type {} is used", binding.projection.as_str());
        errors.add(&format!("{path}.httpMatch"), message);
    }
    // Who shares an address with others has some of its ports, and a login cannot tell whom it speaks to.
    if ports.is_empty()
        && let Some(port) = speaks.login.and_then(usual_port)
    {
        ports.push(PortRange { proto: Some(Protocol::Tcp), first: port, last: port });
    }
    Some(CredentialRule { label, domains, ports, only, speaks, enabled, fail_open, binding: Arc::clone(binding) })
}

/// Where a protocol is spoken when nobody says otherwise.
fn usual_port(app: App) -> Option<u16> {
    match app {
        App::Ssh => Some(22),
        App::Socks5 => Some(1080),
        App::Mqtt => Some(1883),
        App::Redis => Some(6379),
        App::Http | App::Tls | App::Amqp | App::Dns | App::Mongodb => None,
    }
}

/// Which of two words was said; nothing means the first.
fn one_of(text: &str, words: [&str; 2], path: &str, errors: &mut Errors) -> usize {
    if text.is_empty() {
        return 0;
    }
    words.iter().position(|word| *word == text).unwrap_or_else(|| {
        errors.add(path, format!("`{}` is neither {} nor {}", text.escape_debug(), words[0], words[1]));
        0
    })
}

/// The protocols that a rule's credential is used in, which have to fit its projection and its TLS mode.
fn speaks(rule: &wire::CredentialRule, tls: TlsMode, projection: &Projection, path: &str, errors: &mut Errors) -> Option<Speaks> {
    let terminate = tls == TlsMode::Terminate;
    let in_requests = matches!(projection, Projection::HttpHeaders(_) | Projection::Placeholders(_));
    let login = |app| Speaks { login: Some(app), ..Speaks::default() };
    let (speaks, wanted) = match (rule.protocol.as_str(), projection) {
        ("http", _) if in_requests => (Speaks { http: true, ..Speaks::default() }, true),
        // Whoever wants TLS looked into wants TLS: nothing goes out in the clear unasked.
        ("", _) if in_requests => (Speaks { http: !terminate, https: terminate, ..Speaks::default() }, true),
        ("https", _) if in_requests => (Speaks { https: true, ..Speaks::default() }, terminate),
        // gRPC is HTTP/2, with or without TLS.
        ("grpc", _) if in_requests => (Speaks { http: !terminate, https: terminate, ..Speaks::default() }, true),
        ("https", Projection::ClientCertificate) => (Speaks { https: true, ..Speaks::default() }, terminate),
        ("" | "tls", Projection::ClientCertificate) => (Speaks { tls: true, ..Speaks::default() }, terminate),
        ("socks5", Projection::UsernamePassword) => (login(App::Socks5), true),
        ("mqtt", Projection::UsernamePassword) => (login(App::Mqtt), true),
        ("redis", Projection::UsernamePassword) => (login(App::Redis), true),
        ("" | "ssh", Projection::SshProxy(_)) => (login(App::Ssh), true),
        (protocol, _) => {
            let known = ["", "http", "https", "grpc", "tls", "ssh", "socks5", "mqtt", "redis"];
            let message = if !known.contains(&protocol) {
                format!("`{}` is none of {}", protocol.escape_debug(), known[1..].join(", "))
            } else if protocol.is_empty() {
                "is required: one of socks5, mqtt, redis".to_owned()
            } else {
                format!("{protocol} has no place for a credential of type {}", projection.as_str())
            };
            errors.add(&format!("{path}.protocol"), message);
            return None;
        }
    };
    if !wanted {
        errors.add(&format!("{path}.tlsMode"), "must be terminate-reoriginate: nothing can be put into TLS that is not ended here".to_owned());
    }
    Some(speaks)
}

pub(super) fn proxy(proxy: &wire::ProxyPolicy, bindings: &Bindings, refs: Refs, errors: &mut Errors) -> Option<UpstreamProxy> {
    if proxy.kind != "socks5" {
        errors.add("egress.proxy.type", format!("`{}` is not socks5", proxy.kind.escape_debug()));
    }
    let credential = (!proxy.credential_ref.is_empty()).then(|| bindings.get(&proxy.credential_ref));
    match credential {
        Some(None) if refs == Refs::MayBeElsewhere => {}
        Some(None) => errors.add("egress.proxy.credentialRef", format!("`{}` is the ref of no binding", proxy.credential_ref.escape_debug())),
        Some(Some(binding)) if binding.projection != Projection::UsernamePassword => {
            errors.add("egress.proxy.credentialRef", format!("needs a credential of type username_password, not {}", binding.projection.as_str()));
        }
        Some(Some(_)) | None => {}
    }
    let Some((host, port)) = host_port(&proxy.address) else {
        errors.add("egress.proxy.address", "must be host:port".to_owned());
        return None;
    };
    Some(UpstreamProxy { host, port, credential: credential.flatten().cloned() })
}
