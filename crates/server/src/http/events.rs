//! What happened to a sandbox: plainly, and in the shape of the observability API.

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    log::{ObservabilityEvent, ObservabilityEventsResponse, SandboxEvent, SandboxEventsResponse},
    reply::Envelope,
};
use sandbar_core::{limits, roles::Permission};
use sandbar_store::EventRecord;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    params::Params,
    render::HERE,
    reply::{self, Result},
    time::rfc3339,
};
use crate::app::{SharedApp, auth::Principal};

/// `/api/v1/sandboxes/{id}/events` and `/observability/events`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(observe))
}

/// The events of a sandbox, oldest first: claim, pause, resume, ends with their reasons.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/events", tag = "sandboxes", params(
    ("id" = String, Path), ("after" = Option<i64>, Query, description = "only events after this seq"), ("limit" = Option<u32>, Query, description = "1 to 1000, default 200"),
), responses((status = 200, body = Envelope<SandboxEventsResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<SandboxEventsResponse> {
    who.require(Permission::SandboxRead)?;
    let (after, limit) = page(&params, "after")?;
    let events = app.events(&who, &id, after, limit).await?;
    let next_after = more(&events, limit);
    reply::ok(SandboxEventsResponse { events: events.into_iter().map(plain).collect(), next_after })
}

/// The events of a sandbox as the observability API has them. They are not signed.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/observability/events", tag = "observability", params(
    ("id" = String, Path), ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, description = "1 to 1000, default 200"),
    ("start_time" = Option<String>, Query), ("end_time" = Option<String>, Query),
), responses((status = 200, body = Envelope<ObservabilityEventsResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn observe(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<ObservabilityEventsResponse> {
    who.require(Permission::SandboxRead)?;
    let (after, limit) = page(&params, "cursor")?;
    let (start, end) = (params.time_ms("start_time")?.unwrap_or(i64::MIN), params.time_ms("end_time")?.unwrap_or(i64::MAX));
    let events = app.events(&who, &id, after, limit).await?;
    let watermark = events.last().map(|event| event.seq.to_string());
    let next_cursor = more(&events, limit).map(|seq| seq.to_string());
    let within = events.into_iter().filter(|event| (start..=end).contains(&event.at_ms));
    reply::ok(ObservabilityEventsResponse { events: within.map(|event| observed(event, &id, &who.team_id)).collect(), next_cursor, watermark })
}

fn page(params: &Params, after: &str) -> std::result::Result<(i64, u32), crate::error::ApiError> {
    let limit = params.integer("limit", 1..=limits::LOG_PAGE_MAX)?.unwrap_or(limits::LOG_PAGE_DEFAULT);
    Ok((params.integer(after, 0..=i64::MAX)?.unwrap_or_default(), limit))
}

fn more(events: &[EventRecord], limit: u32) -> Option<i64> {
    events.last().filter(|_| events.len() == limit as usize).map(|event| event.seq)
}

fn plain(event: EventRecord) -> SandboxEvent {
    SandboxEvent {
        seq: event.seq,
        at: rfc3339(event.at_ms),
        kind: event.kind,
        reason_code: event.data.get("reason_code").and_then(Value::as_str).map(str::to_owned),
        message: event.message,
        details: Some(event.data).filter(|data| !data.is_null()),
    }
}

fn observed(event: EventRecord, sandbox_id: &str, team_id: &str) -> ObservabilityEvent {
    let payload = json!({ "sandbox_id": sandbox_id, "seq": event.seq, "type": event.kind, "message": event.message, "data": event.data });
    let hash = Sha256::digest(payload.to_string());
    let mut attributes = match event.data {
        Value::Object(fields) => fields,
        Value::Null => serde_json::Map::new(),
        other => serde_json::Map::from_iter([("data".to_owned(), other)]),
    };
    attributes.insert("message".to_owned(), event.message.into());
    let at = rfc3339(event.at_ms);
    ObservabilityEvent {
        event_id: event_id(sandbox_id, event.seq),
        schema_version: 2,
        team_id: team_id.to_owned(),
        sandbox_id: sandbox_id.to_owned(),
        region_id: HERE.to_owned(),
        cluster_id: HERE.to_owned(),
        occurred_at: at.clone(),
        ingested_at: at,
        source: "manager".to_owned(),
        event_type: if event.kind.starts_with("process.") { "process" } else { "lifecycle" }.to_owned(),
        phase: "effect".to_owned(),
        outcome: if event.kind.ends_with("failed") { "failed" } else { "succeeded" }.to_owned(),
        actor: json!({ "kind": "service" }),
        action: event.kind,
        resource: json!({ "type": "sandbox", "id": sandbox_id }),
        operation_id: format!("{sandbox_id}-{}", event.seq),
        producer: json!({ "service": "sandbar", "sequence": event.seq }),
        integrity: json!({ "algorithm": "ed25519-sha256-v1", "payload_hash": hex::encode(hash), "signature": "", "signing_key_id": "", "signature_status": "unavailable" }),
        attributes,
    }
}

/// The same event always has the same id.
fn event_id(sandbox_id: &str, seq: i64) -> String {
    let digest = Sha256::digest(format!("sandbar event {sandbox_id} {seq}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
