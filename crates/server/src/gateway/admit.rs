//! Who is let in: what a route's policy says of a request, before anything is woken for it.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use sandbar_api::ErrorCode;
use sandbar_core::service::{CorsAnswer, CorsAsked, Credential, Route, Service};

use super::{
    Client, Gateway,
    limiter::{Key, Limited},
};
use crate::error::ApiError;

/// Headers for the answer to a request that was let in.
pub(super) type Headers = Vec<(&'static str, String)>;

/// Lets a request in or answers it. `scope` is the sandbox or function whose requests count together.
pub(super) fn admit(gateway: &Gateway, scope: &str, service: &Service, route: &Route, parts: &Parts, client: Client) -> Result<Headers, Box<Response>> {
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let asked = CorsAsked { method: parts.method.as_str(), origin: text(header::ORIGIN), wanted: text(header::ACCESS_CONTROL_REQUEST_METHOD) };
    let cors = match route.cors(asked) {
        CorsAnswer::Pass(headers) => headers,
        CorsAnswer::Preflight(headers) => return Err(Box::new(with(StatusCode::NO_CONTENT.into_response(), &headers))),
        CorsAnswer::OriginRefused => return refuse(403, ErrorCode::Forbidden, "origin is not allowed", &[]),
        CorsAnswer::MethodRefused => return refuse(405, ErrorCode::Forbidden, "method is not allowed for this origin", &[]),
    };
    if !route.allows(parts.method.as_str()) {
        let mut refused = answer(405, ErrorCode::Forbidden, "method is not allowed", &cors);
        if let Ok(allow) = HeaderValue::from_str(&route.methods.join(", ")) {
            refused.headers_mut().insert(header::ALLOW, allow);
        }
        return Err(Box::new(refused));
    }
    if let Err(denied) = route.authorize(&Shown(parts)) {
        let mut refused = answer(401, ErrorCode::Unauthorized, &denied.to_string(), &cors);
        if route.credential_header() == Some("authorization") {
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        return Err(Box::new(refused));
    }
    if let Some(limit) = route.rate_limit {
        let client = limit.per_client.then(|| client.network());
        let key = Key { service_id: service.id.clone(), route_id: route.id.clone(), client };
        match gateway.limiter.take(scope, key, limit) {
            Ok(()) => {}
            Err(Limited::For(wait)) => {
                let seconds = wait.as_secs_f64().ceil().clamp(1.0, 86_400.0) as u32;
                let refused = ApiError::with_status(429, ErrorCode::Unavailable, "rate limit exceeded").retry_after(seconds);
                return Err(Box::new(with(refused.into_response(), &cors)));
            }
            Err(Limited::Overrun) => return refuse(503, ErrorCode::Unavailable, "rate limits cannot be kept at present", &cors),
        }
    }
    Ok(cors)
}

/// Puts headers on an answer, in place of those that the service may have set itself, or beside them where there can be
/// several.
pub(super) fn with(mut response: Response, headers: &[(&'static str, String)]) -> Response {
    for (name, value) in headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::from_str(value)) else { continue };
        if name == header::VARY || name == header::SET_COOKIE {
            response.headers_mut().append(name, value);
        } else {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn answer(status: u16, code: ErrorCode, message: &str, headers: &[(&'static str, String)]) -> Response<Body> {
    with(ApiError::with_status(status, code, message).into_response(), headers)
}

fn refuse<T>(status: u16, code: ErrorCode, message: &str, headers: &[(&'static str, String)]) -> Result<T, Box<Response>> {
    Err(Box::new(answer(status, code, message, headers)))
}

struct Shown<'a>(&'a Parts);

impl Credential for Shown<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.0.headers.get_all(name).iter();
        // Two of them could be read differently by others.
        values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
    }
}
