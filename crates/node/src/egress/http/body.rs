//! Bodies that have to be read as a whole before they are passed on.
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Body as _;
use tokio::sync::OwnedSemaphorePermit;

use super::held::Held;
use super::refusal::Refusal;
use super::{Body, BoxError};

/// Reads a body of at most so many bytes, which was sent as it is, and the room that it takes.
pub(super) async fn collect(request: &mut Request<Body>, bytes_max: usize, held: &Held) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
    let encoding = request.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "an encoded body cannot be looked into; send it without content-encoding"));
    }
    let long = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body of more than {bytes_max} bytes is not looked into"));
    if request.body().size_hint().lower() > bytes_max as u64 {
        return Err(long());
    }
    let mut body = std::mem::replace(request.body_mut(), super::refusal::empty());
    let mut collected = BytesMut::new();
    let mut room = held.take(0)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body of the request broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > bytes_max {
            return Err(long());
        }
        room.merge(held.take(data.len())?);
        collected.extend_from_slice(&data);
    }
    Ok((collected.freeze(), room))
}

/// Makes this the body; the room is given back with it.
pub(super) fn set(request: &mut Request<Body>, body: Bytes, room: OwnedSemaphorePermit) {
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let body = Full::new(body).map_err(move |never| -> BoxError {
        let _room = &room;
        match never {}
    });
    *request.body_mut() = body.boxed_unsync();
}
