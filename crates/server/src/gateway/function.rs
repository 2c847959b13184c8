//! A request to a function.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use sandbar_core::service::{has_dot_segments, matching};
use tokio::time::Instant;

use super::{
    Client,
    admit::{self, admit},
    forward::{Dress, Outgoing, Target, Trouble, nobody},
    front, unknown,
};
use crate::{
    app::{
        SharedApp,
        functions::serve::{FunctionHost, FunctionLookup},
    },
    error::ApiError,
};

/// An instance may end while a request is on its way to it.
const ATTEMPTS_MAX: u32 = 3;
/// How long a request waits for an instance, where its route names no timeout.
const PATIENCE: Duration = Duration::from_secs(30);
/// What keeps a client with the revision that it got first.
const COOKIE: &str = "sandbar-revision";

/// Answers it.
pub(super) async fn serve(app: &SharedApp, label: &str, request: Request, client: Client) -> Result<Response, ApiError> {
    if has_dot_segments(request.uri().path()) {
        return Err(ApiError::bad_request("the path has segments `.` or `..`; send the path that they lead to"));
    }
    let function = match app.function_by_label(label).await? {
        FunctionLookup::NotFound => return Err(unknown()),
        FunctionLookup::Disabled => return Err(ApiError::unavailable("function disabled")),
        FunctionLookup::NoRevision => return Err(ApiError::unavailable("function revision is not available")),
        FunctionLookup::Found(host) => host,
    };
    let (revision, cookie) = function.choose(sticky(&request), random());
    let service = &revision.service;
    let Some(matched) = matching([service.as_ref()], service.port, request.uri().path()) else { return Err(unknown()) };
    let route = matched.route;
    let host = front::host_of(&request).unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let cors = match admit(&app.gateway, &function.function.id, service, route, &parts, client) {
        Ok(cors) => cors,
        Err(answer) => return Ok(*answer),
    };
    let limit = (route.timeout_seconds > 0).then(|| Duration::from_secs(route.timeout_seconds));
    let deadline = limit.map(|limit| Instant::now() + limit);
    let request = Request::from_parts(parts, body);
    let mut outgoing = Outgoing::new(request, &matched.path, &host, client, route.credential_header())?;
    let mut dress = Some(Dress { host, cors: cors.clone(), deadline, lease: None });
    let mut avoid = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        let lease = match app.acquire(&function, &revision, &avoid, limit.unwrap_or(PATIENCE)).await {
            Ok(lease) => lease,
            Err(error) => return Ok(admit::with(error.into_response(), &cors)),
        };
        avoid = vec![lease.sandbox_id.clone()];
        let (runtime, service) = (lease.runtime.clone(), lease.service.clone());
        if let Some(dress) = &mut dress {
            dress.lease = Some(Box::new(lease));
        }
        match outgoing.send(&app.gateway, &Target { runtime: &runtime, service: &service, route }, &mut dress).await {
            Ok(response) => return Ok(with_cookie(response, &function, cookie)),
            Err((Trouble::Said(error), _)) => return Ok(admit::with(error.into_response(), &cors)),
            Err((Trouble::Unasked(request), upgrade)) => outgoing = Outgoing::with_request(*request, upgrade),
        }
    }
    Ok(admit::with(nobody(service).into_response(), &cors))
}

fn sticky(request: &Request) -> Option<&str> {
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn with_cookie(mut response: Response, _function: &FunctionHost, cookie: Option<String>) -> Response {
    if let Some(value) = cookie.and_then(|cookie| HeaderValue::from_str(&format!("{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Lax")).ok()) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// From 0 to 1.
fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}
