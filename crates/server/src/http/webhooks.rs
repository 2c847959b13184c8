//! What was posted to a sandbox's webhook, and what is to be.

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::Envelope,
    webhook::{WebhookDeliveriesResponse, WebhookDelivery},
};
use sandbar_core::{limits, roles::Permission};
use sandbar_store::{DeliveryRecord, DeliveryState};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    params::Params,
    reply::{self, Result},
    time::rfc3339,
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

/// `/api/v1/sandboxes/{id}/webhook`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(redeliver)).routes(routes!(test))
}

/// The events of a sandbox's webhook, newest first. They can be read for a week, also when the sandbox is gone.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/webhook/deliveries", tag = "webhooks", params(
    ("id" = String, Path), ("status" = Option<String>, Query, description = "pending, delivered or failed"),
    ("before" = Option<i64>, Query, description = "next_before of the page before"), ("limit" = Option<u32>, Query, description = "1 to 200, default 50"),
), responses((status = 200, body = Envelope<WebhookDeliveriesResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<WebhookDeliveriesResponse> {
    who.require(Permission::SandboxRead)?;
    let limit = params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT);
    let before = params.integer("before", 0..=i64::MAX)?;
    let state = match params.text("status").map(DeliveryState::named) {
        Some(None) => return Err(ApiError::bad_request("status: must be pending, delivered or failed")),
        known => known.flatten(),
    };
    let found = app.webhook_deliveries(&who, &id, state, before, limit).await?;
    let next_before = found.deliveries.last().filter(|_| found.deliveries.len() == limit as usize).map(|last| last.seq);
    let deliveries = found.deliveries.into_iter().map(rendered).collect();
    reply::ok(WebhookDeliveriesResponse { sandbox_id: id, deliveries, dropped: found.dropped, next_before })
}

/// One event, with what is posted of it.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/webhook/deliveries/{event_id}", tag = "webhooks", params(
    ("id" = String, Path), ("event_id" = String, Path),
), responses((status = 200, body = Envelope<WebhookDelivery>), (status = 404, body = ErrorEnvelope)))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((id, event_id)): Path<(String, String)>) -> Result<WebhookDelivery> {
    who.require(Permission::SandboxRead)?;
    reply::ok(rendered(app.webhook_delivery(&who, &id, &event_id).await?))
}

/// Post an event once more, the same to the byte, after those that wait.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/webhook/deliveries/{event_id}/redeliver", tag = "webhooks", params(
    ("id" = String, Path), ("event_id" = String, Path),
), responses(
    (status = 202, body = Envelope<WebhookDelivery>), (status = 404, body = ErrorEnvelope), (status = 409, description = "the webhook was removed", body = ErrorEnvelope),
))]
async fn redeliver(State(app): State<SharedApp>, who: Principal, Path((id, event_id)): Path<(String, String)>) -> Result<WebhookDelivery> {
    who.require(Permission::SandboxWrite)?;
    reply::with_status(StatusCode::ACCEPTED, rendered(app.webhook_redeliver(&who, &id, &event_id).await?))
}

/// Post a `webhook.test` event now and say what came of it.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/webhook/test", tag = "webhooks", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<WebhookDelivery>), (status = 404, body = ErrorEnvelope), (status = 409, description = "it has no webhook", body = ErrorEnvelope),
))]
async fn test(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<WebhookDelivery> {
    who.require(Permission::SandboxWrite)?;
    reply::ok(rendered(app.whole(&who, "testing a webhook", |app, who| async move { app.webhook_test(&who, &id).await }).await?))
}

fn rendered(delivery: DeliveryRecord) -> WebhookDelivery {
    WebhookDelivery {
        event_id: delivery.event_id,
        event_type: delivery.event_type,
        status: delivery.state.as_str().to_owned(),
        created_at: rfc3339(delivery.created_at_ms),
        attempts: delivery.attempts,
        last_attempt_at: delivery.last_attempt_at_ms.map(rfc3339),
        last_status: delivery.last_status,
        last_error: delivery.last_error,
        last_answer: delivery.last_answer,
        next_attempt_at: delivery.next_attempt_at_ms.map(rfc3339),
        done_at: delivery.done_at_ms.map(rfc3339),
        body: delivery.body,
    }
}
