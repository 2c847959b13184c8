//! Bodies that last: each ends when whoever asked for it may not read it any more.
//!
//! Around all routes, so that no answer that goes on has to think of it: who asked is noted where that is found out, which is the
//! extractor of a `Principal`.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use serde_json::json;

use crate::{
    app::{SharedApp, auth::Principal, standing::Standing},
    error::ApiError,
};

/// An answer of at most this size, which is there already, is sent as it is.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Where it is noted who asks.
#[derive(Clone, Default)]
pub(crate) struct Asker(Arc<OnceLock<Principal>>);

impl Asker {
    pub fn note(&self, who: &Principal) {
        let _ = self.0.set(who.clone());
    }
}

/// How an answer says why it ends. One that has no such way breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// As the last of its server-sent events.
    Event,
    /// As the last of its lines of JSON.
    Line,
}

impl Farewell {
    fn text(self, error: &ApiError) -> Bytes {
        match self {
            Self::Event => super::follow::event("error", None, &json!({ "code": error.code(), "message": error.message() })).into(),
            Self::Line => format!("{}\n", json!({ "type": "error", "error": error.message() })).into(),
        }
    }
}

/// The middleware.
pub(super) async fn hold(State(app): State<SharedApp>, mut request: Request, next: Next) -> Response {
    let asker = Asker::default();
    request.extensions_mut().insert(asker.clone());
    let response = next.run(request).await;
    let Some(who) = asker.0.get() else { return response };
    if response.body().size_hint().exact().is_some_and(|bytes| bytes <= WHOLE_BYTES_MAX) {
        return response;
    }
    let farewell = response.extensions().get::<Farewell>().copied();
    // Whatever it was of what they might that allowed it.
    let standing = Standing::new(&app, who, who.permissions);
    response.map(|body| Body::new(Held { body, state: waiting(standing), farewell }))
}

struct Held {
    body: Body,
    state: Turn,
    farewell: Option<Farewell>,
}

enum Turn {
    Waiting(BoxFuture<'static, Standing>),
    /// Nothing is passed on meanwhile.
    Asking(BoxFuture<'static, (Standing, Result<(), ApiError>)>),
    Over,
}

fn waiting(mut standing: Standing) -> Turn {
    Turn::Waiting(Box::pin(async move {
        standing.changed().await;
        standing
    }))
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                Turn::Waiting(changed) => match changed.as_mut().poll(context) {
                    Poll::Ready(standing) => {
                        this.state = Turn::Asking(Box::pin(async move {
                            let answer = standing.ask().await;
                            (standing, answer)
                        }));
                    }
                    Poll::Pending => return Pin::new(&mut this.body).poll_frame(context).map_err(Into::into),
                },
                Turn::Asking(asking) => {
                    let (standing, answer) = ready!(asking.as_mut().poll(context));
                    let Err(error) = answer else {
                        this.state = waiting(standing);
                        continue;
                    };
                    this.state = Turn::Over;
                    // What makes it is not to go on.
                    this.body = Body::empty();
                    return Poll::Ready(Some(match this.farewell {
                        Some(farewell) => Ok(Frame::data(farewell.text(&error))),
                        None => Err(error.message().to_owned().into()),
                    }));
                }
                Turn::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, Turn::Over) || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
