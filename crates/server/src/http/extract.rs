//! Request bodies as types. Whatever is wrong with one is the client's 400 (or 413, 408), never ours.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use sandbar_api::ErrorCode;
use sandbar_core::limits;
use serde::de::DeserializeOwned;

use super::json::{self, JsonError};
use crate::error::ApiError;

/// A JSON body of at most `MAX` bytes. Its `Content-Type` is not asked for.
#[derive(Debug)]
pub struct Json<T, const MAX: usize = { limits::JSON_BODY_MAX_BYTES }>(pub T);

/// A JSON body that may be empty, which is the default.
#[derive(Debug)]
pub struct OptionalJson<T>(pub T);

impl<S, T, const MAX: usize> FromRequest<S> for Json<T, MAX>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body(), MAX).await?;
        if is_blank(&bytes) {
            return Err(ApiError::bad_request("the request needs a JSON body"));
        }
        parse(&bytes).map(Self)
    }
}

impl<S, T> FromRequest<S> for OptionalJson<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Default,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = read(request.into_body(), limits::JSON_BODY_MAX_BYTES).await?;
        if is_blank(&bytes) {
            return Ok(Self(T::default()));
        }
        // `null` is what some clients send for "nothing".
        parse::<Option<T>>(&bytes).map(|value| Self(value.unwrap_or_default()))
    }
}

/// Parses a JSON object; the error names the path of the field that is wrong.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // A type with named fields would also be read from a list of them.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::bad_request("the request body must be a JSON object"));
    }
    json::read(bytes).map_err(|error| wrong("the request body", &error))
}

/// 400 for JSON that cannot be read; `what` is where it stood.
pub fn wrong(what: &str, error: &JsonError) -> ApiError {
    match error {
        JsonError::Whole(said) => ApiError::bad_request(format!("{what} {said}")),
        JsonError::Field { field, message } => {
            ApiError::bad_request(error.to_string()).with_details(serde_json::json!({ "violations": [{ "field": field, "message": message }] }))
        }
    }
}

/// Whether a body says nothing.
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

/// How much of a body that is too large is read and thrown away, so that the client, still sending, gets the answer
/// instead of a broken connection.
const DISCARD_MAX_BYTES: usize = 32 << 20;

/// Reads a body of at most `max` bytes.
pub async fn read(body: Body, max: usize) -> Result<Bytes, ApiError> {
    read_counted(body, max, |_| Ok(())).await
}

/// As [`read`]; `count` is told of each piece before it is kept, and may refuse it.
pub async fn read_counted(mut body: Body, max: usize, mut count: impl FnMut(usize) -> Result<(), ApiError>) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().lower();
    let mut bytes = BytesMut::new();
    let mut seen = 0;
    loop {
        let frame = tokio::time::timeout(Duration::from_secs(limits::BODY_IDLE_MAX_S), body.frame()).await;
        let frame = match frame {
            Err(_) => {
                let message = format!("no more of the request body came within {} s", limits::BODY_IDLE_MAX_S);
                return Err(ApiError::new(ErrorCode::RequestTimeout, message));
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(ApiError::bad_request(format!("the request body broke off: {error}"))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= max {
            count(data.len())?;
            bytes.extend_from_slice(&data);
        } else if seen > max + DISCARD_MAX_BYTES || announced > (max + DISCARD_MAX_BYTES) as u64 {
            break;
        }
    }
    if seen > max { Err(too_large(max as u64)) } else { Ok(bytes.freeze()) }
}

/// 413 with the limit.
pub fn too_large(max: u64) -> ApiError {
    ApiError::new(ErrorCode::PayloadTooLarge, format!("the request body may have at most {max} bytes"))
}

#[cfg(test)]
mod tests {
    use sandbar_api::{
        context::CreateContextRequest,
        sandbox::{ClaimRequest, ExecutionStateRequest},
    };

    use super::*;

    fn error_of<T: DeserializeOwned>(json: &str) -> String {
        match parse::<T>(json.as_bytes()) {
            Ok(_) => panic!("{json} was accepted"),
            Err(error) => {
                assert_eq!(error.status(), 400);
                error.message().to_owned()
            }
        }
    }

    #[test]
    fn errors_name_the_path_of_the_field() {
        for (json, path) in [
            (r#"{"template":1}"#, "template: "),
            (r#"{"template":"t","config":{"ttl":1000000000000}}"#, "config.ttl: "),
            (r#"{"template":"t","config":{"ttl":"5m"}}"#, "config.ttl: "),
            (r#"{"template":"t","config":{"ttl":1.5}}"#, "config.ttl: "),
            (r#"{"template":"t","config":{"env_vars":{"A":1}}}"#, "config.env_vars.A: "),
            (r#"{"template":"t","config":{"resources":{"memory":5}}}"#, "config.resources.memory: "),
        ] {
            let message = error_of::<ClaimRequest>(json);
            assert!(message.starts_with(path), "{message}");
        }
        for (json, path) in [
            (r#"{"type":"banana"}"#, "type: "),
            (r#"{"cmd":{}}"#, "type: is required"),
            (r#"{"type":"repl","repl":{"repl_config":{"name":"x"}}}"#, "repl.repl_config.candidates: is required"),
            (r#"{"type":"cmd","ttl_sec":-1}"#, "ttl_sec: "),
            (r#"{"type":"cmd","cmd":{"command":["a",1]}}"#, "cmd.command[1]: "),
            (r#"{"type":"cmd","pty_size":{"rows":70000}}"#, "pty_size.rows: "),
        ] {
            let message = error_of::<CreateContextRequest>(json);
            assert!(message.starts_with(path), "{message}");
        }
    }

    #[test]
    fn broken_json_is_refused_in_words() {
        for json in ["{", "{}x", "nul", "\"", "[1,]", "{\"a\":1}{}", "\u{0}", "[]"] {
            assert!(!error_of::<ClaimRequest>(json).is_empty(), "{json}");
        }
        assert!(error_of::<ClaimRequest>(&"{\"config\":".repeat(100_000)).contains("nested too deep"));
    }

    async fn extract<T: DeserializeOwned + Default + Send>(body: &'static str) -> Result<T, ApiError> {
        OptionalJson::<T>::from_request(Request::new(Body::from(body)), &()).await.map(|value| value.0)
    }

    #[tokio::test]
    async fn an_empty_body_is_the_default_where_it_may_be() {
        for body in ["", " \n", "null", "{}"] {
            assert_eq!(extract::<ExecutionStateRequest>(body).await.expect(body).memory, None);
        }
        assert_eq!(extract::<ExecutionStateRequest>(r#"{"memory":true}"#).await.expect("set").memory, Some(true));
        assert!(extract::<ExecutionStateRequest>("[]").await.is_err());
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_413() {
        let result = Json::<serde_json::Value, 4>::from_request(Request::new(Body::from("12345")), &()).await;
        assert_eq!(result.expect_err("too large").status(), 413);
        let result = Json::<serde_json::Value, 4>::from_request(Request::new(Body::from("1234")), &()).await;
        assert_eq!(result.expect("fits").0, 1234);
    }
}
