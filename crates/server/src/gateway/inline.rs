//! A request to a service whose handler is inline code.

use std::{sync::Arc, time::Duration};

use axum::{extract::Request, http::StatusCode, response::Response};
use sandbar_core::service::{Route, Service};
use sandbar_node::Runtime;

use super::headers;
use crate::app::{SharedApp, service_functions::Lease};

/// Calls the handler. `limit` is the route's timeout, `host` what the caller asked for, `lease` what is kept
/// until the answer is over.
pub(super) async fn call(
    app: &SharedApp,
    runtime: &Arc<Runtime>,
    (service, route): (&Service, &Route),
    request: Request,
    limit: Option<Duration>,
    host: &str,
    lease: Option<Lease>,
) -> Response {
    let mut response = app.call_service_function(runtime, service, route, request, limit, lease).await;
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::response(response.headers_mut(), host, is_upgrade, route);
    response
}
