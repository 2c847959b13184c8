//! Events for scripts: publish one's own, and see which there were and who was told.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use sandbar_core::limits;
use sandbar_store::ScriptEvent;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    params::Params,
    scripts::wire::{self, Data, Failed, Page, Result},
    time::rfc3339,
};
use crate::{
    app::{
        SharedApp,
        auth::Principal,
        script_events::{Cause, Publish},
    },
    error::ApiError,
};

/// Bytes of a body around its data.
const AROUND_MAX_BYTES: usize = 8 << 10;
/// Bytes of a key of idempotency.
const KEY_MAX_BYTES: usize = 255;

/// `/api/events`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(publish, list))
}

/// What is to be published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// One segment or more with colons between them, such as `shop:orders`.
    channel: String,
    /// One segment, such as `paid`.
    event: String,
    /// Whatever scripts are to be told.
    #[serde(default = "null")]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Box<RawValue>,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Published {
    id: String,
    /// Scripts that are told.
    matched: u32,
}

/// An event that was.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    id: String,
    channel: String,
    event: String,
    #[schema(value_type = serde_json::Value)]
    data: Box<RawValue>,
    /// How many scripts it came through.
    depth: u32,
    /// Scripts that were told.
    matched: u32,
    /// Why there are not more.
    note: Option<String>,
    /// The run that caused it.
    cause_run_id: Option<String>,
    created_at: String,
}

/// Publish an event: every active script of the team with the trigger `event` and a pattern that matches is run once for it, also
/// when the server is killed meanwhile. With the same `Idempotency-Key` it is the same event.
#[utoipa::path(post, path = "/api/events", tag = "scripts", operation_id = "publish_script_event", request_body = PublishRequest, responses(
    (status = 202, body = Data<Published>), (status = 400, body = Failed), (status = 403, description = "also for the channels items and system", body = Failed),
    (status = 409, description = "the Idempotency-Key was used for another event", body = Failed), (status = 413, body = Failed),
    (status = 429, description = "too many runs of the team wait", body = Failed),
))]
async fn publish(
    State(app): State<SharedApp>,
    who: Principal,
    headers: HeaderMap,
    Json(request): Json<PublishRequest, { limits::SCRIPT_EVENT_DATA_MAX_BYTES + AROUND_MAX_BYTES }>,
) -> Result<Data<Published>> {
    let idempotency_key = headers.get("idempotency-key").and_then(|value| value.to_str().ok()).map(str::to_owned);
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_MAX_BYTES) {
        return Err(ApiError::bad_request(format!("Idempotency-Key: has 1 to {KEY_MAX_BYTES} bytes")));
    }
    let cause = Cause::of(&headers, &app.scripts.under_way);
    let PublishRequest { channel, event, data } = request;
    let (id, matched) = app.publish_script_event(&who, Publish { channel, event, data, idempotency_key, cause }).await?;
    wire::with_status(StatusCode::ACCEPTED, Data { data: Published { id, matched } })
}

/// The team's events, the newest first; they are kept for a week.
#[utoipa::path(get, path = "/api/events", tag = "scripts", operation_id = "list_script_events", params(
    ("cursor" = Option<String>, Query, description = "nextCursor of the page before"), ("limit" = Option<u32>, Query, description = "1 to 200, default 50"),
), responses((status = 200, body = Page<EventView>), (status = 400, body = Failed), (status = 403, body = Failed)))]
async fn list(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<Page<EventView>> {
    let (limit, before) = (limit(&params)?, cursor(&params)?);
    let events = app.script_events(&who, before, limit).await?;
    let next = events.last().filter(|_| events.len() == limit as usize).map(|last| next_cursor(last.event.created_at_ms, &last.event.id));
    wire::page(events.into_iter().map(rendered).collect::<std::result::Result<_, _>>()?, next)
}

fn rendered(event: ScriptEvent) -> std::result::Result<EventView, ApiError> {
    let ScriptEvent { event, jobs, note } = event;
    // The event is the last segment.
    let (channel, name) = event.target.rsplit_once(':').unwrap_or((&event.target, ""));
    Ok(EventView {
        channel: channel.to_owned(),
        event: name.to_owned(),
        data: RawValue::from_string(event.data).map_err(|error| ApiError::internal("rendering an event", &error))?,
        id: event.id,
        depth: event.depth,
        matched: jobs,
        note,
        cause_run_id: event.cause_run_id,
        created_at: rfc3339(event.created_at_ms),
    })
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// Rows of a page.
pub(super) fn limit(params: &Params) -> std::result::Result<u32, ApiError> {
    Ok(params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT))
}

/// Where the page before ended.
pub(super) fn cursor(params: &Params) -> std::result::Result<Option<(i64, String)>, ApiError> {
    let Some(text) = params.text("cursor") else { return Ok(None) };
    let parts = text.split_once('.').and_then(|(at, id)| Some((at.parse().ok()?, id.to_owned())));
    parts.map(Some).ok_or_else(|| ApiError::bad_request("cursor: is none that a page ended with"))
}

pub(super) fn next_cursor(at_ms: i64, id: &str) -> String {
    format!("{at_ms}.{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_as_it_was_written() {
        let request: PublishRequest = super::super::extract::parse(br#"{"channel":"a","event":"b","data":{"n": 12345678901234567890123}}"#).unwrap();
        assert_eq!(request.data.get(), r#"{"n": 12345678901234567890123}"#);
        let request: PublishRequest = super::super::extract::parse(br#"{"channel":"a","event":"b"}"#).unwrap();
        assert_eq!(request.data.get(), "null");
        assert!(super::super::extract::parse::<PublishRequest>(br#"{"channel":"a","event":"b","dat":1}"#).is_err());
        assert!(super::super::extract::parse::<PublishRequest>(br#"{"event":"b"}"#).is_err());
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let of = |query: &str| cursor(&Params::parse(query));
        assert_eq!(of(&format!("cursor={}", next_cursor(12, "a.b"))).unwrap(), Some((12, "a.b".to_owned())));
        assert_eq!(of("").unwrap(), None);
        assert!(of("cursor=x").is_err() && of("cursor=x.y").is_err());
    }
}
