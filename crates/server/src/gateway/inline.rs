//! A request to a service whose handler is inline code.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use sandbar_core::service::{Route, Service};
use sandbar_node::Runtime;

use crate::{app::SharedApp, error::ApiError};

/// Calls the handler. `limit` is the route's timeout.
pub(super) async fn call(
    _app: &SharedApp,
    _runtime: &Arc<Runtime>,
    _service: &Service,
    _route: &Route,
    _request: Request,
    _limit: Option<Duration>,
) -> Response {
    ApiError::unavailable("functions").into_response()
}
