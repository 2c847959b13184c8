//! A request to a service whose handler is inline code.

use std::{sync::Arc, time::Duration};

use axum::{extract::Request, response::Response};
use sandbar_core::service::{Route, Service};
use sandbar_node::Runtime;

use crate::app::SharedApp;

/// Calls the handler. `limit` is the route's timeout.
pub(super) async fn call(app: &SharedApp, runtime: &Arc<Runtime>, service: &Service, route: &Route, request: Request, limit: Option<Duration>) -> Response {
    app.call_service_function(runtime, service, route, request, limit).await
}
