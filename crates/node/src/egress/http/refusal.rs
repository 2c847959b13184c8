//! Answers of the proxy's own.
use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};

use super::Body;
use crate::egress::dial::DialError;

/// What a client is told instead of its server's answer. Never a secret, and of errors no more than their kind.
#[derive(Debug, Clone)]
pub(in super::super) struct Refusal {
    status: StatusCode,
    content_type: &'static str,
    text: String,
}

impl Refusal {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Self { status, content_type: "text/plain; charset=utf-8", text }
    }

    pub fn unreached(error: &DialError) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, format!("the server is not reached: {error}"))
    }

    pub fn json(status: StatusCode, text: String) -> Self {
        Self { status, content_type: "application/json", text }
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Full::new(Bytes::from(self.text)).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
