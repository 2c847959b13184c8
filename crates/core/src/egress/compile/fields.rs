//! Fields that many rules have.
use std::collections::HashSet;
use std::sync::Arc;

use super::{CIDRS_MAX, Errors};
use crate::egress::wire::PortRule;
use crate::egress::{Domain, Domains, PortRange, Prefix, Protocol, TlsMode};

/// Domains of one list.
const DOMAINS_MAX: usize = 1024;
/// Ports of one list.
const PORTS_MAX: usize = 256;
/// Of a rule's name, which is shown with each decision.
const NAME_BYTES_MAX: usize = 128;
/// Entries of a list of texts, such as paths.
const TEXTS_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 2048;

pub(super) fn label(name: &str, path: &str, names: &mut HashSet<String>, errors: &mut Errors) -> Arc<str> {
    if name.is_empty() {
        return path.into();
    }
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        errors.add(&format!("{path}.name"), format!("must be a line of at most {NAME_BYTES_MAX} bytes"));
        return path.into();
    }
    if !names.insert(name.to_owned()) {
        errors.add(&format!("{path}.name"), format!("`{name}` is the name of an earlier rule"));
    }
    format!("{path} `{name}`").into()
}

pub(super) fn cidrs(list: &[String], path: &str, errors: &mut Errors) -> Vec<Prefix> {
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

pub(super) fn ports(list: &[PortRule], path: &str, errors: &mut Errors) -> Vec<PortRange> {
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

pub(super) fn domains(list: &[String], path: &str, errors: &mut Errors) -> Domains {
    if list.len() > DOMAINS_MAX {
        errors.add(path, format!("more than {DOMAINS_MAX} entries"));
        return Domains::default();
    }
    let mut found = Vec::with_capacity(list.len());
    for (at, text) in list.iter().enumerate() {
        match Domain::parse(text) {
            Some(domain) => found.push(domain),
            None if !text.is_ascii() => {
                let message = format!("`{text}` must be written as it goes over the wire, in its xn-- form");
                errors.add(&format!("{path}[{at}]"), message);
            }
            None => errors.add(&format!("{path}[{at}]"), format!("`{text}` is no domain such as example.com or *.example.com")),
        }
    }
    found.into_iter().collect()
}

/// A list of texts that are not empty.
pub(super) fn texts(list: &[String], path: &str, errors: &mut Errors) -> Vec<String> {
    if list.len() > TEXTS_MAX {
        errors.add(path, format!("more than {TEXTS_MAX} entries"));
        return Vec::new();
    }
    for (at, text) in list.iter().enumerate() {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            errors.add(&format!("{path}[{at}]"), format!("must have 1 to {TEXT_BYTES_MAX} bytes"));
        }
    }
    list.to_vec()
}

/// Methods of HTTP, which are told apart by case on the wire; here they are meant in capitals.
pub(super) fn methods(list: &[String], path: &str, errors: &mut Errors) -> Vec<String> {
    let is_method = |text: &String| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if let Some(at) = list.iter().position(|text| !is_method(text)) {
        errors.add(&format!("{path}[{at}]"), format!("`{}` is no method of HTTP", list[at].escape_debug()));
    }
    texts(list, path, errors).iter().map(|text| text.to_ascii_uppercase()).collect()
}

/// Paths, in the form in which those of requests are compared.
pub(super) fn paths(list: &[String], path: &str, errors: &mut Errors) -> Vec<String> {
    let plain = |(at, text): (usize, &String)| {
        let plain = crate::service::plain_path(text);
        if plain.is_none() {
            errors.add(&format!("{path}[{at}]"), format!("`{}` must begin with / and have no dot segments", text.escape_debug()));
        }
        plain
    };
    let plain = list.iter().take(TEXTS_MAX).enumerate().filter_map(plain).collect();
    texts(list, path, errors);
    plain
}

pub(super) fn tls_mode(text: &str, path: &str, errors: &mut Errors) -> TlsMode {
    match text {
        "" => TlsMode::Unsaid,
        "passthrough" => TlsMode::Passthrough,
        "terminate-reoriginate" => TlsMode::Terminate,
        other => {
            errors.add(&format!("{path}.tlsMode"), format!("`{}` is neither passthrough nor terminate-reoriginate", other.escape_debug()));
            TlsMode::Unsaid
        }
    }
}

/// `host:port`, the host a name or an address.
pub(super) fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = crate::egress::host_of_authority(text)?;
    let port = port.filter(|port| *port > 0)?;
    Some((host.unwrap_or_else(|addr| addr.to_string()), port))
}
