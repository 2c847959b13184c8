//! The door: each request's host decides whether it is for the API or for the gateway. The API answers on no public host,
//! and the gateway's own listener never leads to the API but by its own name below the public domain.

use std::net::IpAddr;

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
    response::{IntoResponse, Response},
};
use hyper::body::Incoming;
use sandbar_api::ErrorCode;
use sandbar_core::{
    egress::Prefix,
    public_host::{self, PublicHost},
};
use tower_service::Service as _;

use super::Client;
use crate::{app::SharedApp, error::ApiError};

/// What a listener leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The API, and public hosts.
    Both,
    /// Public hosts; the API only by its own name.
    Public,
}

/// The service behind a listener; a clone for each connection.
#[derive(Clone)]
pub(crate) struct Front {
    pub app: SharedApp,
    pub router: Router,
    pub side: Side,
}

impl Front {
    /// Answers a request of a peer.
    pub async fn answer(mut self, request: hyper::Request<Incoming>, peer: IpAddr, tls: bool) -> Response {
        let request = request.map(Body::new);
        if let Some(error) = unsound(request.headers()) {
            return error.into_response();
        }
        let Some(host) = host_of(&request).map(str::to_ascii_lowercase) else {
            return ApiError::bad_request("a request names its host once").into_response();
        };
        let public = public_host::read(&host, &self.app.config.public_domain);
        let by_name = public_host::is_api_name(&host, &self.app.config.public_domain);
        let trusted = &self.app.config.trusted_proxies;
        let addr = client_addr(request.headers(), peer, trusted);
        let tls = tls || (is_trusted(peer, trusted) && request.headers().get("x-forwarded-proto").is_some_and(|proto| proto == "https"));
        let client = Client { addr, tls };
        match (public, self.side) {
            (PublicHost::Api, Side::Both) => self.ask_api(request, client).await,
            (PublicHost::Api, Side::Public) if by_name => self.ask_api(request, client).await,
            (PublicHost::Api, Side::Public) => ApiError::new(ErrorCode::NotFound, "not found").into_response(),
            (host, _) => super::serve(&self.app, host, request, client).await,
        }
    }

    /// Whether an address stands for more than one client.
    pub fn speaks_for_many(&self, peer: IpAddr) -> bool {
        peer.to_canonical().is_loopback() || is_trusted(peer, &self.app.config.trusted_proxies)
    }

    async fn ask_api(&mut self, mut request: Request, client: Client) -> Response {
        request.extensions_mut().insert(client);
        match self.router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Who asks the API.
impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get().copied().ok_or_else(|| ApiError::internal("reading who asks", &"the request came through no door"))
    }
}

/// The host that a request is for: its target's, else its only `Host`.
pub(super) fn host_of(request: &Request) -> Option<&str> {
    let named = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    named.filter(|host| !host.is_empty() && !host.contains('@'))
}

/// Heads that two servers could read differently: whoever is in front of us, or behind, must not see another request.
fn unsound(headers: &HeaderMap) -> Option<ApiError> {
    let count = |name| headers.get_all(name).iter().count();
    if count(header::HOST) > 1 {
        return Some(ApiError::bad_request("there is more than one Host"));
    }
    let lengths = count(header::CONTENT_LENGTH);
    if lengths > 1 || (lengths == 1 && headers.contains_key(header::TRANSFER_ENCODING)) {
        return Some(ApiError::bad_request("the length of the body is given twice"));
    }
    if count(header::TRANSFER_ENCODING) > 1 || headers.get(header::TRANSFER_ENCODING).is_some_and(|te| !te.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Some(ApiError::bad_request("the only Transfer-Encoding is chunked"));
    }
    None
}

fn is_trusted(addr: IpAddr, trusted: &[Prefix]) -> bool {
    trusted.iter().any(|prefix| prefix.contains(addr))
}

/// The address of who asks: the peer's, or what a proxy that is trusted says, up to the first that is not.
fn client_addr(headers: &HeaderMap, peer: IpAddr, trusted: &[Prefix]) -> IpAddr {
    let mut client = peer.to_canonical();
    let named = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect::<Vec<_>>();
    for hop in named.iter().rev() {
        if !is_trusted(client, trusted) {
            break;
        }
        let Ok(addr) = hop.trim().parse::<IpAddr>() else { break };
        client = addr.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_trusted_proxies_say_who_asks() {
        let trusted: Vec<Prefix> = vec!["10.0.0.0/8".parse().expect("a prefix")];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_static("6.6.6.6, 7.7.7.7"));
        headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.2"));
        let from = |peer: &str, trusted: &[Prefix]| client_addr(&headers, peer.parse().expect("an address"), trusted).to_string();
        assert_eq!(from("9.9.9.9", &trusted), "9.9.9.9");
        assert_eq!(from("10.0.0.1", &trusted), "7.7.7.7");
        assert_eq!(from("::ffff:10.0.0.1", &trusted), "7.7.7.7");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn heads_that_can_be_read_in_two_ways_are_refused() {
        for (pairs, sound) in [
            (&[("content-length", "5")][..], true),
            (&[("transfer-encoding", "chunked")], true),
            (&[("content-length", "5"), ("transfer-encoding", "chunked")], false),
            (&[("content-length", "5"), ("content-length", "5")], false),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "identity")], false),
            (&[("host", "a"), ("host", "b")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(unsound(&headers).is_none(), sound, "{pairs:?}");
        }
    }
}
