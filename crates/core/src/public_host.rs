//! What the host of a request stands for.

/// Below the public domain; never a label of a sandbox or a function, which have a `--` or end with a hash.
const API_LABEL: &str = "api";

/// The host of a request, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicHost<'a> {
    /// No public host: the API's own name, an address, or a name of somebody else.
    Api,
    /// A port of a sandbox.
    Sandbox { id: &'a str, port: u16 },
    /// A published function, perhaps with an alias in front.
    Function { label: &'a str },
    /// Below the public domain, but nothing that could exist.
    Unknown,
}

/// Reads the value of `Host` or `:authority`, lower-cased by the caller, for a public domain.
pub fn read<'a>(host: &'a str, domain: &str) -> PublicHost<'a> {
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    let domain = domain.trim_end_matches('.');
    let Some(label) = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) else { return PublicHost::Api };
    if label == API_LABEL {
        return PublicHost::Api;
    }
    if label.is_empty() || label.len() > crate::limits::LABEL_MAX_CHARS || !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return PublicHost::Unknown;
    }
    match label.rsplit_once("--p") {
        Some((id, port)) if !id.is_empty() && is_port(port) => match port.parse() {
            Ok(port) => PublicHost::Sandbox { id, port },
            Err(_) => PublicHost::Unknown,
        },
        Some(_) | None => PublicHost::Function { label },
    }
}

/// Whether a host is the API's own name below a public domain. Lower-cased by the caller.
pub fn is_api_name(host: &str, domain: &str) -> bool {
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.strip_suffix(domain.trim_end_matches('.')).and_then(|rest| rest.strip_suffix('.')) == Some(API_LABEL)
}

/// Where a label is reached: `port` of this machine with TLS or without, when the public domain is one of this machine;
/// else the domain is somebody's own, and what stands in front of us there serves it by TLS.
pub fn url(label: &str, domain: &str, tls: bool, port: u16) -> String {
    let domain = domain.trim_end_matches('.');
    let local = domain == "localhost" || domain.ends_with(".localhost");
    match (local || tls, tls, port) {
        (false, ..) | (true, true, 443) => format!("https://{label}.{domain}"),
        (true, true, port) => format!("https://{label}.{domain}:{port}"),
        (true, false, 80) => format!("http://{label}.{domain}"),
        (true, false, port) => format!("http://{label}.{domain}:{port}"),
    }
}

/// The label of a sandbox's port.
pub fn sandbox_label(id: &str, port: u64) -> String {
    format!("{id}--p{port}")
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address in brackets ends with one.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_are_read() {
        use PublicHost::{Api, Function, Sandbox, Unknown};
        for (host, domain, want) in [
            ("localhost:8700", "localhost", Api),
            ("127.0.0.1:8700", "localhost", Api),
            ("[::1]:8700", "localhost", Api),
            ("api.localhost", "localhost", Api),
            ("notlocalhost", "localhost", Api),
            ("sb-abc--p3000.localhost:8700", "localhost", Sandbox { id: "sb-abc", port: 3000 }),
            ("sb-abc--p3000.localhost.", "localhost", Sandbox { id: "sb-abc", port: 3000 }),
            ("a--p1--p2.example.com", "example.com", Sandbox { id: "a--p1", port: 2 }),
            ("sb-abc--p0.localhost", "localhost", Function { label: "sb-abc--p0" }),
            ("sb-abc--p70000.localhost", "localhost", Unknown),
            ("sb-abc--p03.localhost", "localhost", Function { label: "sb-abc--p03" }),
            ("web-1a2b3c4d.localhost", "localhost", Function { label: "web-1a2b3c4d" }),
            ("staging--web-1a2b3c4d.localhost", "localhost", Function { label: "staging--web-1a2b3c4d" }),
            ("a.b.localhost", "localhost", Unknown),
            (".localhost", "localhost", Unknown),
            ("a_b.localhost", "localhost", Unknown),
            ("sb-abc--p3000.example.com", "localhost", Api),
        ] {
            assert_eq!(read(host, domain), want, "{host}");
        }
        for (host, want) in [
            ("api.example.com", true),
            ("api.example.com:443", true),
            ("api.example.com.", true),
            ("example.com", false),
            ("api.localhost", false),
            ("api.other.com", false),
            ("api.x.example.com", false),
            ("apiexample.com", false),
        ] {
            assert_eq!(is_api_name(host, "example.com"), want, "{host}");
        }
    }

    #[test]
    fn urls_say_where_a_label_is_served() {
        assert_eq!(url("a", "localhost", false, 8700), "http://a.localhost:8700");
        assert_eq!(url("a", "localhost", false, 80), "http://a.localhost");
        assert_eq!(url("a", "localhost", true, 8443), "https://a.localhost:8443");
        assert_eq!(url("a", "example.com.", false, 8700), "https://a.example.com");
        assert_eq!(url("a", "example.com", true, 443), "https://a.example.com");
        assert_eq!(url("a", "example.com", true, 8443), "https://a.example.com:8443");
    }

    proptest! {
        #[test]
        fn what_is_below_the_domain_is_never_the_api(label in "[a-z0-9.-]{1,80}", port in proptest::option::of(0u16..)) {
            let host = format!("{label}.example.com{}", port.map_or_else(String::new, |port| format!(":{port}")));
            prop_assert!(label == "api" || read(&host, "example.com") != PublicHost::Api);
        }
    }
}
