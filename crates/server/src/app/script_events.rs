//! Events that clients publish, and events that were.

use http::HeaderMap;
use sandbar_api::ErrorCode;
use sandbar_core::{limits, roles::Permission, script::pattern};
use sandbar_store::{NewScriptEvent, ScriptEvent, StoreError};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    App,
    auth::Principal,
    sandboxes::{now_ms, store_failure},
    scripts::{
        Subject,
        invoke::{KEY_REUSED, check_depth},
        under_way::UnderWay,
    },
};
use crate::error::ApiError;

/// Channels whose events only the server publishes.
const RESERVED: [&str; 2] = ["items", "system"];

/// Requests of scripts say by these how many scripts they came through, and which run they are of; no script sends another one.
/// Whoever else says it only ends a loop of its own team sooner.
pub const DEPTH_HEADER: &str = "x-sandbar-script-depth";
pub const RUN_HEADER: &str = "x-sandbar-script-run";

/// What made a request that changes something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// How many scripts it came through.
    pub depth: u32,
    /// The run whose request it is.
    pub run_id: Option<String>,
}

impl Cause {
    /// As the request says it itself, or by its trace that it is of a run that goes on.
    pub(crate) fn of(headers: &HeaderMap, runs: &UnderWay) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let run_id = text(RUN_HEADER).filter(|id| id.len() <= limits::NAME_MAX_CHARS).map(str::to_owned);
        let said = Self { depth: text(DEPTH_HEADER).and_then(|depth| depth.parse().ok()).unwrap_or_default(), run_id };
        match text("traceparent").and_then(|trace| runs.of_trace(trace)) {
            Some((run, depth)) if depth >= said.depth => Self { depth: depth.saturating_add(1), run_id: Some(run.to_string()) },
            _ => said,
        }
    }
}

/// What a client wants published.
#[derive(Debug)]
pub struct Publish {
    pub channel: String,
    pub event: String,
    pub data: Box<RawValue>,
    /// The same one twice is one event.
    pub idempotency_key: Option<String>,
    pub cause: Cause,
}

impl App {
    /// Publishes an event of a client: its id, and how many functions were told.
    pub async fn publish_script_event(&self, who: &Principal, publish: Publish) -> Result<(String, u32), ApiError> {
        who.require(Permission::FunctionWrite)?;
        pattern::validate_target(&publish.channel, &publish.event).map_err(ApiError::bad_request)?;
        if let Some(reserved) = publish.channel.split(':').next().filter(|first| RESERVED.contains(first)) {
            return Err(ApiError::new(ErrorCode::Forbidden, format!("events of the channel {reserved:?} are published by the server alone")));
        }
        let (len, max) = (publish.data.get().len(), limits::SCRIPT_EVENT_DATA_MAX_BYTES);
        if len > max {
            return Err(ApiError::new(ErrorCode::PayloadTooLarge, format!("data: an event has at most {max} bytes, and this one has {len}")));
        }
        check_depth("data", &publish.data)?;
        self.check_room()?;
        let event = NewScriptEvent {
            id: id_of(&who.team_id, publish.idempotency_key.as_deref()),
            team_id: who.team_id.clone(),
            target: format!("{}:{}", publish.channel, publish.event),
            data: publish.data.get().to_owned(),
            depth: publish.cause.depth,
            cause_run_id: publish.cause.run_id,
            subject: serde_json::to_string(&Subject::default()).unwrap_or_else(|_| "{}".to_owned()),
            created_at_ms: now_ms(),
        };
        let told = self.store.script_event_publish(&event).await.map_err(|error| match error {
            StoreError::TooMany { .. } => store_failure("publishing an event", &error).retry_after(1),
            StoreError::Exists { .. } => ApiError::conflict("another event was published with this Idempotency-Key").with_code(KEY_REUSED),
            other => store_failure("publishing an event", &other),
        })?;
        self.script_jobs_added();
        Ok((event.id, told))
    }

    /// Events of the team, the newest first.
    pub async fn script_events(&self, who: &Principal, before: Option<(i64, String)>, limit: u32) -> Result<Vec<ScriptEvent>, ApiError> {
        who.require(Permission::TeamAdmin)?;
        self.store.script_events_list(&who.team_id, before, limit).await.map_err(|e| store_failure("listing events", &e))
    }
}

/// A new one, or the one that a team's key stands for.
fn id_of(team_id: &str, key: Option<&str>) -> String {
    let Some(key) = key else { return Uuid::new_v4().to_string() };
    let digest = Sha256::new().chain_update(team_id).chain_update([0]).chain_update(key).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}
