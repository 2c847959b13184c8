//! A file on its way in: bounded, not allowed to stall for ever, and still at hand when the agent refuses it early.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use sandbar_api::ErrorCode;
use tokio::time::{Instant, Sleep, sleep};

use crate::{error::ApiError, http::extract::too_large};

/// Within this time the next bytes must come.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// What is read and thrown away after an early refusal, so that the client gets to read it,
const DISCARD_MAX_BYTES: usize = 32 << 20;
/// and for how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(3);

/// Clones share one body.
#[derive(Clone)]
pub struct Upload(Arc<Mutex<State>>);

struct State {
    body: Body,
    idle: Pin<Box<Sleep>>,
    left_bytes: u64,
    max_bytes: u64,
    failure: Option<ApiError>,
}

impl Upload {
    pub fn new(body: Body, max_bytes: u64) -> Self {
        let idle = Box::pin(sleep(IDLE_MAX));
        Self(Arc::new(Mutex::new(State { body, idle, left_bytes: max_bytes, max_bytes, failure: None })))
    }

    /// What the client did wrong, if that is why it ended.
    pub fn failure(&self) -> Option<ApiError> {
        self.lock().failure.clone()
    }

    /// Reads on for a moment and throws it away.
    pub async fn discard(mut self) {
        let mut seen = 0;
        let drained = async {
            while let Some(Ok(frame)) = self.frame().await {
                seen += frame.data_ref().map_or(0, Bytes::len);
                if seen > DISCARD_MAX_BYTES {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, drained).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = ApiError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        let mut state = self.lock();
        let state = &mut *state;
        let Poll::Ready(frame) = Pin::new(&mut state.body).poll_frame(cx) else {
            ready!(state.idle.as_mut().poll(cx));
            let message = format!("no more of the file came within {} s", IDLE_MAX.as_secs());
            return Poll::Ready(Some(Err(state.fail(ApiError::new(ErrorCode::RequestTimeout, message)))));
        };
        state.idle.as_mut().reset(Instant::now() + IDLE_MAX);
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(state.fail(ApiError::bad_request(format!("the request body broke off: {error}")))))),
            Some(Ok(frame)) => frame,
        };
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        if length > state.left_bytes {
            let max = state.max_bytes;
            return Poll::Ready(Some(Err(state.fail(too_large(max)))));
        }
        state.left_bytes -= length;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}

impl State {
    fn fail(&mut self, error: ApiError) -> ApiError {
        self.failure.get_or_insert(error).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_too_large_is_known_as_such() {
        let upload = Upload::new(Body::from("12345"), 4);
        assert!(upload.clone().collect().await.is_err());
        assert_eq!(upload.failure().expect("failure").status(), 413);
        let upload = Upload::new(Body::from("1234"), 4);
        assert_eq!(upload.clone().collect().await.expect("fits").to_bytes(), "1234");
        assert!(upload.failure().is_none());
    }
}
