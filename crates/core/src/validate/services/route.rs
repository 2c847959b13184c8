//! One public route: prefix, methods, authentication, CORS, rate, timeout.

use super::{Checker, shown};
use crate::{limits, service::unclear};

/// Returns the route's id when it is good.
pub(super) fn check(r: &mut Checker<'_>) -> Option<String> {
    r.only(&["id", "path_prefix", "methods", "rewrite_prefix", "auth", "cors", "rate_limit", "timeout_seconds", "resume"]);
    let id = r.id();
    r.flag("resume");
    if r.object.get("path_prefix").is_none_or(|p| p.is_null() || p.as_str() == Some("")) {
        r.set("path_prefix", "/");
    }
    if let Some(why) = r.url_path("path_prefix").and_then(|prefix| unclear(&prefix)) {
        r.refuse("path_prefix", format!("can be that of no request, which is refused: {why}"));
    }
    r.url_path("rewrite_prefix");
    methods(r, "methods");
    r.object("auth", auth);
    r.object("cors", cors);
    r.object("rate_limit", |limit| {
        limit.only(&["rps", "burst", "per_client"]);
        for field in ["rps", "burst"] {
            positive(limit, field);
        }
        if limit.object.get("per_client").is_some_and(|v| !v.is_null()) {
            limit.flag("per_client");
        }
    });
    r.integer("timeout_seconds", 0, limits::ROUTE_TIMEOUT_MAX_S);
    id
}

/// Upper-cases and de-duplicates; an empty list means every method and is left out.
fn methods(r: &mut Checker<'_>, field: &str) {
    let Some(given) = r.texts(field, limits::METHODS_PER_ROUTE_MAX, limits::NAME_MAX_CHARS) else { return };
    let mut methods: Vec<String> = Vec::with_capacity(given.len());
    for method in given {
        let method = method.trim().to_ascii_uppercase();
        if method != "*" && !is_token(&method) {
            r.refuse(field, format!("{:?} is no HTTP method", shown(&method)));
        } else if !methods.contains(&method) {
            methods.push(method);
        }
    }
    if methods.is_empty() {
        r.object.remove(field);
    } else {
        r.set(field, methods);
    }
}

/// Checks the fields of the mode and removes those of the others.
fn auth(a: &mut Checker<'_>) {
    a.only(&["mode", "bearer_token_sha256", "header_name", "header_value_sha256"]);
    let mode = a.text("mode", limits::NAME_MAX_CHARS).unwrap_or_else(|| "none".to_owned()).to_ascii_lowercase();
    let (keep, needed): (&[&str], &[&str]) = match mode.as_str() {
        "none" => (&[], &[]),
        "bearer" => (&["bearer_token_sha256"], &["bearer_token_sha256"]),
        "header" => (&["header_name", "header_value_sha256"], &["header_name", "header_value_sha256"]),
        _ => {
            a.refuse("mode", "must be none, bearer or header");
            return;
        }
    };
    a.set("mode", mode);
    for field in ["bearer_token_sha256", "header_name", "header_value_sha256"] {
        if !keep.contains(&field) {
            a.object.remove(field);
        }
    }
    for field in needed {
        let Some(text) = a.text(field, limits::NAME_MAX_CHARS) else {
            a.refuse(field, "is required in this mode");
            continue;
        };
        let text = text.trim();
        if *field == "header_name" {
            if is_token(text) {
                a.set(field, canonical(text));
            } else {
                a.refuse(field, "is no name of an HTTP header");
            }
        } else if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            a.set(field, text.to_ascii_lowercase());
        } else {
            a.refuse(field, "must be the 64 hex digits of a SHA-256");
        }
    }
}

fn cors(c: &mut Checker<'_>) {
    c.only(&["allowed_origins", "allowed_methods", "allowed_headers", "expose_headers", "allow_credentials", "max_age_seconds"]);
    for (field, kind) in [
        ("allowed_origins", CorsValue::Origin),
        ("allowed_methods", CorsValue::Method),
        ("allowed_headers", CorsValue::Header),
        ("expose_headers", CorsValue::Header),
    ] {
        let Some(given) = c.texts(field, limits::CORS_VALUES_MAX, limits::URL_MAX_BYTES) else { continue };
        let mut values: Vec<String> = Vec::with_capacity(given.len());
        for value in given {
            let value = value.trim();
            match kind.normalise(value) {
                Some(value) if values.iter().any(|known| known.eq_ignore_ascii_case(&value)) => {}
                Some(value) => values.push(value),
                None => c.refuse(field, format!("{:?} is no {}", shown(value), kind.noun())),
            }
        }
        c.set(field, values);
    }
    if c.object.get("allow_credentials").is_some_and(|v| !v.is_null()) {
        c.flag("allow_credentials");
    }
    c.integer("max_age_seconds", 0, i64::from(i32::MAX));
}

#[derive(Clone, Copy)]
enum CorsValue {
    Origin,
    Method,
    Header,
}

impl CorsValue {
    fn noun(self) -> &'static str {
        match self {
            Self::Origin => "origin such as https://example.com",
            Self::Method => "HTTP method",
            Self::Header => "name of an HTTP header",
        }
    }

    fn normalise(self, value: &str) -> Option<String> {
        if value == "*" {
            return Some(value.to_owned());
        }
        match self {
            Self::Origin => origin(value),
            Self::Method => is_token(value).then(|| value.to_ascii_uppercase()),
            Self::Header => is_token(value).then(|| canonical(value)),
        }
    }
}

/// `http(s)://host[:port]` and nothing after it. Lower-cased, as browsers send it.
fn origin(value: &str) -> Option<String> {
    let lower = value.to_ascii_lowercase();
    let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"))?;
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map(|(host, after)| (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("x")) }))?,
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let host_ok = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok());
    (host_ok && port_ok).then_some(lower)
}

fn positive(limit: &mut Checker<'_>, field: &str) {
    match limit.take_present(field) {
        None => limit.refuse(field, "is required"),
        Some(value) => match value.as_f64() {
            Some(number) if number > 0.0 && number <= limits::ROUTE_RATE_MAX => limit.set(field, value),
            Some(_) | None => {
                let message = format!("must be a number above 0 and at most {}", limits::ROUTE_RATE_MAX);
                limit.refuse(field, message);
            }
        },
    }
}

/// A token of HTTP (RFC 9110): methods and header names are ones.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// `x-api-key` to `X-Api-Key`.
fn canonical(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let c = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            upper = c == '-';
            c
        })
        .collect()
}
