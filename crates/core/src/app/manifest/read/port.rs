//! Ports, and what is asked of them.

use super::{
    super::{
        diagnostic::Code,
        port::{Access, AuthPolicy, Port, Protocol},
    },
    spot::{Fields, Out, Spot},
};
use crate::limits::{URL_MAX_BYTES, apps as limits};

/// A port, and where its number stands.
pub fn port<'a>(spot: &Spot<'a>, out: &mut Out) -> Option<(Port, Spot<'a>)> {
    let fields = spot.fields(out, &["port", "protocol", "label", "access", "path", "authPolicy", "autoStart"])?;
    let number = fields.require("port", out);
    let port = number.as_ref().and_then(|spot| port_number(spot, out));
    let access = fields.one_of("access", out, Access::named, Access::NAMES).unwrap_or_default();
    let auth_policy = fields.get("authPolicy").and_then(|spot| auth_policy(&spot, out));
    if access == Access::Public && fields.get("authPolicy").is_some() {
        fields.conflict("authPolicy", out, "a public port asks for nothing; leave out access, or authPolicy");
    }
    let port = Port {
        port: port.unwrap_or_default(),
        protocol: fields.one_of("protocol", out, Protocol::named, Protocol::NAMES).unwrap_or_default(),
        label: fields.get("label").and_then(|spot| spot.line(out, limits::APP_PORT_LABEL_MAX_CHARS)).map(str::to_owned),
        access,
        path: path_or_root(&fields, out),
        auth_policy,
        auto_start: fields.boolean("autoStart", out, false),
    };
    number.filter(|_| port.port > 0).map(|number| (port, number))
}

/// A port that a process of an app may listen on.
pub fn port_number(spot: &Spot<'_>, out: &mut Out) -> Option<u16> {
    let number = spot.integer(out, u32::from(limits::APP_PORT_MIN), u32::from(limits::APP_PORT_MAX))?;
    let number = u16::try_from(number).ok()?;
    if limits::APP_PORTS_RESERVED.contains(&number) {
        let reserved = limits::APP_PORTS_RESERVED.map(|port| port.to_string()).join(", ");
        spot.wrong(out, Code::ReservedPort, format!("{number} is the platform's; reserved are {reserved}"));
    }
    Some(number)
}

/// The key `path`, which is `/` where nothing is said.
pub fn path_or_root(fields: &Fields<'_>, out: &mut Out) -> String {
    fields.get("path").and_then(|spot| url_path(&spot, out)).unwrap_or_else(|| "/".to_owned())
}

/// The path of a URL, maybe with a query.
pub fn url_path(spot: &Spot<'_>, out: &mut Out) -> Option<String> {
    let text = spot.text(out, URL_MAX_BYTES)?;
    if !text.starts_with('/') || text.starts_with("//") || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['#', '\\']) {
        spot.wrong(out, Code::InvalidValue, "must be a path that begins with one /, of ASCII without spaces, # and \\");
        return None;
    }
    Some(text.to_owned())
}

fn auth_policy(spot: &Spot<'_>, out: &mut Out) -> Option<AuthPolicy> {
    let kinds: &[&str] = &["bearer", "header"];
    let fields = spot.mapping(out)?;
    let kind = fields.require("type", out)?;
    let kind = kind.one_of(out, |text| kinds.iter().find(|kind| **kind == text), kinds)?;
    if *kind == "bearer" {
        let fields = spot.fields(out, &["type", "tokenSha256"])?;
        let token_sha256 = fields.require("tokenSha256", out).and_then(|spot| sha256(&spot, out))?;
        return Some(AuthPolicy::Bearer { token_sha256 });
    }
    let fields = spot.fields(out, &["type", "headerName", "valueSha256"])?;
    let header_name = fields.require("headerName", out).and_then(|spot| header_name(&spot, out));
    let value_sha256 = fields.require("valueSha256", out).and_then(|spot| sha256(&spot, out))?;
    Some(AuthPolicy::Header { header_name: header_name?, value_sha256 })
}

fn sha256(spot: &Spot<'_>, out: &mut Out) -> Option<String> {
    let text = spot.text(out, VALUE_MAX_CHARS)?;
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        spot.wrong(out, Code::InvalidValue, "must be a SHA-256 in 64 lower-case hex digits; the secret itself does not belong here");
        return None;
    }
    Some(text.to_owned())
}

/// What is longer is not told by what it should be.
const VALUE_MAX_CHARS: usize = 1000;
/// Headers that say something else to the gateway or to the app.
const HEADERS_TAKEN: [&str; 10] =
    ["authorization", "connection", "content-length", "cookie", "host", "origin", "te", "transfer-encoding", "upgrade", "x-forwarded-for"];

fn header_name(spot: &Spot<'_>, out: &mut Out) -> Option<String> {
    let text = spot.text(out, VALUE_MAX_CHARS)?;
    let name = text.to_ascii_lowercase();
    if name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        spot.wrong(out, Code::InvalidValue, "must be the name of a header, of at most 64 characters, such as x-preview-key");
        return None;
    }
    if HEADERS_TAKEN.contains(&name.as_str()) {
        spot.wrong(out, Code::ReservedName, "has a meaning of its own; choose another, such as x-preview-key");
        return None;
    }
    Some(name)
}
