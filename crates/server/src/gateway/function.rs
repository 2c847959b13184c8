//! A request to a published function: the same policy as for a sandbox's port, and somebody who serves the revision.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    service::{RuntimeKind, matching, unclear},
};
use tokio::time::{Instant, timeout};

use super::{
    Client,
    admit::{self, admit},
    forward::{Dress, Outgoing, Target, Trouble, broken, nobody, paused},
    front, inline, unknown, wait,
};
use crate::{
    app::{SharedApp, functions::serve::FunctionLookup},
    error::ApiError,
};

/// A place to serve a request is waited for so long, where the route names no timeout.
const PLACE_WITHIN: Duration = Duration::from_secs(30);
/// Places may go away while a request is on its way to them.
const ATTEMPTS_MAX: u32 = 4;
/// Keeps a client with the revision that it began with, where the alias asks for that.
const STICKY_COOKIE: &str = "sandbar-revision";

/// Answers it.
pub(super) async fn serve(app: &SharedApp, label: &str, request: Request, client: Client) -> Result<Response, ApiError> {
    if let Some(why) = unclear(request.uri().path()) {
        return Err(ApiError::bad_request(why));
    }
    let function = match app.function_by_label(label).await? {
        FunctionLookup::Found(function) => function,
        FunctionLookup::NotFound => return Err(unknown()),
        FunctionLookup::Disabled => return Err(ApiError::unavailable("function disabled")),
        FunctionLookup::NoRevision => return Err(ApiError::unavailable("function revision is not available")),
    };
    let sent = cookie(request.headers(), STICKY_COOKIE);
    let (revision, sticky) = function.choose(sent.as_deref(), random());
    let service = &revision.service;
    let Some(matched) = matching([service.as_ref()], service.port, request.uri().path()) else { return Err(unknown()) };
    let route = matched.route;
    let host = front::host_of(&request).unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let mut dressing = match admit(&app.gateway, &function.function.id, service, route, &parts, client) {
        Ok(cors) => cors,
        Err(answer) => return Ok(*answer),
    };
    if let Some(number) = sticky.filter(|number| Some(number) != sent.as_ref()) {
        let secure = if client.tls { "; Secure" } else { "" };
        dressing.push(("set-cookie", format!("{STICKY_COOKIE}={number}; Path=/; HttpOnly; SameSite=Lax{secure}")));
    }
    if body.size_hint().lower() > limits::FUNCTION_BODY_MAX_BYTES {
        return Ok(admit::with(too_large().into_response(), &dressing));
    }
    let over = Arc::new(AtomicBool::new(false));
    let body = Body::new(Bounded { body, left: limits::FUNCTION_BODY_MAX_BYTES, over: Arc::clone(&over) });
    let browser = wait::is_browser(&parts);
    let begun = Instant::now();
    let limit = (route.timeout_seconds > 0).then(|| Duration::from_secs(route.timeout_seconds));
    let mut outgoing = Outgoing::new(Request::from_parts(parts, body), &matched.path, &host, client, route.credential_header())?;
    let mut avoid = Vec::new();
    let mut broke = false;
    for _ in 0..ATTEMPTS_MAX {
        let within = limit.unwrap_or(PLACE_WITHIN).saturating_sub(begun.elapsed());
        let patience = if browser { within.min(wait::PATIENCE) } else { within };
        let lease = match timeout(patience, app.acquire(&function, &revision, &avoid, within)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => return Ok(admit::with(error.into_response(), &dressing)),
            Err(_) if browser => return Ok(wait::page()),
            Err(_) => return Ok(admit::with(ApiError::unavailable("function sandbox is waking up").retry_after(1).into_response(), &dressing)),
        };
        let (runtime, sandbox_id) = (Arc::clone(&lease.runtime), lease.sandbox_id.clone());
        if let RuntimeKind::Function { .. } = service.kind() {
            let answer = inline::call(app, &runtime, (service, route), outgoing.into_request(), limit, &host, Some(Box::new(lease))).await;
            return Ok(admit::with(answer, &dressing));
        }
        let target = Target { runtime: &runtime, service, route, preview: None, is_apps: false };
        let deadline = limit.map(|limit| begun + limit);
        let mut dress = Some(Dress { host: host.clone(), headers: dressing.clone(), deadline, lease: Some(Box::new(lease)), until: None });
        match outgoing.send(&app.gateway, &target, &mut dress).await {
            Ok(response) => return Ok(response),
            Err(_) if over.load(Ordering::Relaxed) => return Ok(admit::with(too_large().into_response(), &dressing)),
            Err((Trouble::Said(error), _)) => return Ok(admit::with(error.into_response(), &dressing)),
            Err((Trouble::Broke(request), upgrade)) if !broke => {
                broke = true;
                outgoing = Outgoing::with_request(*request, upgrade);
            }
            Err((Trouble::Broke(_), _)) => return Ok(admit::with(broken().into_response(), &dressing)),
            Err((Trouble::Paused(None), _)) => return Ok(admit::with(paused().into_response(), &dressing)),
            Err((Trouble::Unasked(request) | Trouble::Paused(Some(request)), upgrade)) => {
                outgoing = Outgoing::with_request(*request, upgrade);
                avoid.push(sandbox_id);
            }
        }
    }
    Ok(admit::with(nobody(service).into_response(), &dressing))
}

fn too_large() -> ApiError {
    let message = format!("the body is larger than {} MiB", limits::FUNCTION_BODY_MAX_BYTES >> 20);
    ApiError::with_status(413, ErrorCode::BadRequest, message)
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| HeaderValue::to_str(value).ok()).flat_map(|value| value.split(';'));
    cookies.find_map(|cookie| cookie.trim().strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// From 0 to 1.
fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}

/// The body of a request, cut with an error where it goes on too long.
struct Bounded {
    body: Body,
    left: u64,
    over: Arc<AtomicBool>,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let length = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Poll::Ready(frame)
            }
            None => {
                self.over.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(axum::Error::new("the body is too large"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
