//! What of a head goes on, and what does not.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};

use sandbar_core::{preview::rewrite, service::Route};

use super::Client;

/// Of one connection only (RFC 9110, 7.6.1).
static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What callers say of where they come from or really ask for. Only we know; beside these, all that begins with
/// `x-forwarded-`.
const CLAIMS: [&str; 12] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "fastly-client-ip",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
    "x-scheme",
    "front-end-https",
];

/// A claim, or a name that gateways to programs (CGI, WSGI) cannot tell from another: both signs become one there.
fn is_claim(name: &str) -> bool {
    CLAIMS.contains(&name) || name.starts_with("x-forwarded-") || name.contains('_')
}

/// Makes the head of a request that of ours to the service.
pub(super) fn request(headers: &mut HeaderMap, host: &str, client: Client, credential: Option<&str>) {
    let upgrade = upgrade_of(headers);
    let wants_trailers =
        headers.get_all(header::TE).iter().any(|te| te.to_str().is_ok_and(|te| te.split(',').any(|te| te.trim().eq_ignore_ascii_case("trailers"))));
    strip_hop_by_hop(headers);
    headers.remove(header::TE);
    // The answer to it was given when the body was asked for.
    headers.remove(header::EXPECT);
    headers.remove(HeaderName::from_static("http2-settings"));
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in &claims {
        headers.remove(name);
    }
    if let Some(credential) = credential {
        headers.remove(credential);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
        headers.insert(header::HOST, host);
    }
    if let Ok(addr) = HeaderValue::from_str(&client.addr.to_string()) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), addr.clone());
        headers.insert(HeaderName::from_static("x-real-ip"), addr);
    }
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static(if client.tls { "https" } else { "http" }));
    // A client of HTTP/2 may send its cookies one by one; HTTP/1.1 knows one header of them.
    join_cookies(headers);
    // What opens a preview is nobody's business inside, whichever way the request takes.
    let others = headers.get(header::COOKIE).map(|cookies| rewrite::cookies_without_ours(cookies.as_bytes()));
    if let Some(others) = others {
        match others.and_then(|others| HeaderValue::from_bytes(&others).ok()) {
            Some(others) => drop(headers.insert(header::COOKIE, others)),
            None => drop(headers.remove(header::COOKIE)),
        }
    }
}

/// Of an answer to a page of another origin.
static CORS: [HeaderName; 5] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// Makes the head of a service's answer that of ours.
pub(super) fn response(headers: &mut HeaderMap, host: &str, is_upgrade: bool, route: &Route) {
    if route.cors.is_some() {
        // The route's word, and not the service's.
        for name in &CORS {
            headers.remove(name);
        }
    }
    let upgrade = upgrade_of(headers).filter(|_| is_upgrade);
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    if let Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) {
        for cookie in cookies.iter_mut() {
            if let Some(narrowed) = narrowed(cookie.as_bytes(), host) {
                *cookie = HeaderValue::from_bytes(&narrowed).unwrap_or(HeaderValue::from_static(""));
            }
        }
    }
}

/// Leads to the public host who is led to the port on the service's own machine.
pub(super) fn public_location(headers: &mut HeaderMap, port: u16) {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).and_then(|value| rewrite::public_location(value, port));
    if let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
        headers.insert(header::LOCATION, location);
    }
}

/// The protocol that a head wants to change to.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"))));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// A cookie without a `Domain` that reaches beyond its own host: neighbours below the same domain are strangers.
fn narrowed(cookie: &[u8], host: &str) -> Option<Vec<u8>> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).as_bytes();
    let too_wide = |attribute: &[u8]| {
        let Some(at) = attribute.iter().position(|byte| *byte == b'=') else { return false };
        let value = attribute[at + 1..].trim_ascii();
        attribute[..at].trim_ascii().eq_ignore_ascii_case(b"domain") && !value.strip_prefix(b".").unwrap_or(value).eq_ignore_ascii_case(name)
    };
    // The first part is the cookie itself.
    let parts: Vec<&[u8]> = cookie.split(|byte| *byte == b';').collect();
    parts.iter().skip(1).any(|part| too_wide(part)).then(|| {
        let kept: Vec<&[u8]> = parts.iter().enumerate().filter(|(at, part)| *at == 0 || !too_wide(part)).map(|(_, part)| *part).collect();
        kept.join(&b';')
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn callers_do_not_say_where_they_come_from_and_keep_their_hops_to_themselves() {
        let mut headers = map(&[
            ("host", "spoofed"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("proxy-authorization", "secret"),
            ("x-forwarded-for", "1.2.3.4"),
            ("X-Real-IP", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("cf-connecting-ip", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded-prefix", "/x"),
            ("x-original-url", "/admin"),
            ("authorization", "Bearer token"),
            ("cookie", "a=1"),
            ("cookie", "b=2; __Host-sandbox0-preview=pv-a.b"),
            ("x-kept", "yes"),
        ]);
        request(&mut headers, "web.localhost:8700", Client { addr: Ipv4Addr::new(9, 9, 9, 9).into(), tls: true }, Some("authorization"));
        let get = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().expect("text")).collect::<Vec<_>>();
        for (name, want) in [
            ("host", vec!["web.localhost:8700"]),
            ("x-forwarded-host", vec!["web.localhost:8700"]),
            ("x-forwarded-for", vec!["9.9.9.9"]),
            ("x-real-ip", vec!["9.9.9.9"]),
            ("x-forwarded-proto", vec!["https"]),
            ("te", vec!["trailers"]),
            ("cookie", vec!["a=1; b=2"]),
            ("x-kept", vec!["yes"]),
            ("connection", vec![]),
            ("x-mine", vec![]),
            ("keep-alive", vec![]),
            ("proxy-authorization", vec![]),
            ("forwarded", vec![]),
            ("cf-connecting-ip", vec![]),
            ("x_forwarded_for", vec![]),
            ("x-forwarded-prefix", vec![]),
            ("x-original-url", vec![]),
            ("authorization", vec![]),
        ] {
            assert_eq!(get(name), want, "{name}");
        }
    }

    #[test]
    fn an_upgrade_is_kept_and_a_lone_header_is_none() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        request(&mut headers, "h", Client { addr: Ipv4Addr::LOCALHOST.into(), tls: false }, None);
        assert_eq!(headers[header::UPGRADE], "websocket");
        assert_eq!(headers[header::CONNECTION], "upgrade");
        let mut headers = map(&[("upgrade", "h2c")]);
        request(&mut headers, "h", Client { addr: Ipv4Addr::LOCALHOST.into(), tls: false }, None);
        assert!(!headers.contains_key(header::UPGRADE));
    }

    #[test]
    fn cookies_do_not_reach_beyond_their_host() {
        let route: Route = serde_json::from_value(serde_json::json!({ "id": "r" })).expect("a route");
        let mut headers = map(&[
            ("set-cookie", "a=1; Path=/"),
            ("set-cookie", "b=2; Domain=.localhost; HttpOnly"),
            ("set-cookie", "c=3; domain=web.localhost"),
            ("set-cookie", "domain=4"),
        ]);
        headers.append(header::SET_COOKIE, HeaderValue::from_bytes(b"e=\xc3\xa9; DOMAIN = .localhost").expect("a value"));
        response(&mut headers, "web.localhost:8700", false, &route);
        let cookies: Vec<String> = headers.get_all(header::SET_COOKIE).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
        assert_eq!(cookies, ["a=1; Path=/", "b=2; HttpOnly", "c=3; domain=web.localhost", "domain=4", "e=\u{e9}"]);
    }
}
