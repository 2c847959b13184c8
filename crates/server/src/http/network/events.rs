//! What a sandbox reached and what was refused, flow by flow.

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use sandbar_api::{
    error::ErrorEnvelope,
    log::WatchLine,
    network::{NetworkEvent, NetworkEventsResponse},
    reply::Envelope,
};
use sandbar_core::{limits, roles::Permission};
use sandbar_node::egress::{Decision, Position};
use tokio::sync::watch;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{SharedApp, auth::Principal, flows::Flows},
    error::ApiError,
    http::{
        follow::Reader,
        params::{Params, shown},
        reply,
        standing::Farewell,
        time::rfc3339,
    },
};

/// A followed stream says this often that it lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether the sandbox has another runtime by now, or is gone.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// What happens within so short a time is told at once.
const GATHER_FOR: Duration = Duration::from_millis(50);

/// `/api/v1/sandboxes/{id}/network/events`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The flows of a sandbox, oldest first: what was tried, what decided, how much went where. With `follow=true` a stream
/// of JSON lines: `event`, when a flow begins and again when it ends; `missed`; `heartbeat`. The last 2048 flows of the
/// present runtime are kept, and all that are open; what is refused again within ten seconds is one of them, which counts its
/// `times`. `next_after` is the `after` of the next page. Does not wake the sandbox.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/network/events", tag = "network", params(
    ("id" = String, Path), ("after" = Option<i64>, Query, description = "only flows after this seq"),
    ("since" = Option<String>, Query, description = "RFC 3339; only flows since then"), ("decision" = Option<String>, Query, description = "allow or deny"),
    ("limit" = Option<u32>, Query, description = "1 to 2048, default 200; not with follow"), ("follow" = Option<bool>, Query),
), responses((status = 200, body = Envelope<NetworkEventsResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<Response, ApiError> {
    who.require(Permission::SandboxRead)?;
    let filter = Filter::of(&params)?;
    let limit = params.integer("limit", 1..=limits::NETWORK_EVENTS_PAGE_MAX)?;
    let flows = app.flows(&who, &id).await?;
    if params.boolean("follow")?.unwrap_or_default() {
        if limit.is_some() {
            return Err(ApiError::bad_request("limit: a followed stream has none"));
        }
        let now = tokio::time::Instant::now();
        let reader = Reader::new(who, Permission::SandboxRead);
        let mut following = Following { app, reader, id, filter, reading: None, heartbeat_at: now, ended: false, missed: 0 };
        following.attach(flows);
        let lines = stream::try_unfold(following, follow);
        return Ok((Extension(Farewell::Line), [(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response());
    }
    let limit = limit.unwrap_or(limits::NETWORK_EVENTS_PAGE_DEFAULT) as usize;
    let (found, missed) = match &flows {
        Some(flows) => flows.log.after(filter.after, limit, |flow| filter.admits(flow)),
        None => (Vec::new(), 0),
    };
    let events: Vec<_> = found.into_iter().map(rendered).collect();
    let next_after = events.last().map_or(number(filter.after), |event| event.seq);
    Ok(reply::ok(NetworkEventsResponse { events, next_after, missed: number(missed), running: flows.is_some() })?.into_response())
}

/// Which flows are asked for.
struct Filter {
    after: u64,
    since_ms: i64,
    decision: Option<&'static str>,
}

impl Filter {
    fn of(params: &Params) -> Result<Self, ApiError> {
        let decision = match params.text("decision") {
            None => None,
            Some("allow") => Some("allow"),
            Some("deny") => Some("deny"),
            Some(other) => return Err(ApiError::bad_request(format!("decision: {} is not allow or deny", shown(other)))),
        };
        let after = params.integer("after", 0..=i64::MAX)?.unwrap_or_default().unsigned_abs();
        Ok(Self { after, since_ms: params.time_ms("since")?.unwrap_or(i64::MIN), decision })
    }

    fn admits(&self, flow: &Decision) -> bool {
        flow.at_ms >= self.since_ms && self.decision.is_none_or(|decision| decision == flow.decision)
    }
}

/// The flows of a sandbox, followed from runtime to runtime.
struct Following {
    app: SharedApp,
    reader: Reader,
    id: String,
    filter: Filter,
    reading: Option<Reading>,
    heartbeat_at: tokio::time::Instant,
    ended: bool,
    /// To be told with the next lines.
    missed: u64,
}

struct Reading {
    flows: Flows,
    position: Position,
    changes: watch::Receiver<()>,
}

impl Following {
    fn attach(&mut self, flows: Option<Flows>) {
        self.reading = flows.map(|flows| {
            let mut changes = flows.log.changes();
            // What is there already is looked at.
            changes.mark_changed();
            let (position, missed) = flows.log.position(self.filter.after);
            self.missed += missed;
            Reading { flows, position, changes }
        });
    }

    /// Lines to write, after a pause when there are none; None when the sandbox is gone.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        let changed = async {
            match &mut self.reading {
                Some(reading) => reading.changes.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        if !tokio::time::timeout(CHECK_EVERY, changed).await.unwrap_or_default() {
            match self.app.flows(&self.reader.who, &self.id).await {
                Ok(flows) if flows.as_ref().map(|flows| &flows.runtime_id) != self.reading.as_ref().map(|reading| &reading.flows.runtime_id) => {
                    let last = self.look();
                    self.attach(flows);
                    return Ok(Some(last));
                }
                Ok(_) => return Ok(Some(Vec::new())),
                Err(error) if error.status() == 404 => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(GATHER_FOR).await;
        Ok(Some(self.look()))
    }

    fn look(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let happened = self.reading.as_mut().map(|reading| reading.flows.log.look(&mut reading.position)).unwrap_or_default();
        let missed = std::mem::take(&mut self.missed) + happened.missed;
        if missed > 0 {
            push_line(&mut out, &WatchLine::Missed::<()> { count: number(missed) });
        }
        for flow in happened.flows.into_iter().filter(|flow| self.filter.admits(flow)) {
            let data = rendered(flow);
            let cursor = data.seq.to_string();
            push_line(&mut out, &WatchLine::Event { data, cursor });
        }
        out
    }
}

async fn follow(mut following: Following) -> Result<Option<(bytes::Bytes, Following)>, ApiError> {
    if following.ended {
        return Ok(None);
    }
    loop {
        let now = tokio::time::Instant::now();
        let told = match following.reader.verify(&following.app).await {
            Ok(_) if now >= following.heartbeat_at => Ok(Some(line(&WatchLine::Heartbeat::<()> { time: rfc3339(crate::http::time::now_ms()) }))),
            Ok(_) => following.next().await,
            Err(error) => Err(error),
        };
        let out = match told {
            Ok(Some(lines)) => lines,
            Ok(None) => return Ok(None),
            Err(error) => {
                following.ended = true;
                line(&WatchLine::Error::<()> { error: error.message().to_owned() })
            }
        };
        if !out.is_empty() {
            following.heartbeat_at = now + HEARTBEAT_EVERY;
            return Ok(Some((out.into(), following)));
        }
    }
}

fn line(line: &impl serde::Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    push_line(&mut out, line);
    out
}

fn push_line(out: &mut Vec<u8>, line: &impl serde::Serialize) {
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}

fn rendered(flow: Decision) -> NetworkEvent {
    NetworkEvent {
        seq: number(flow.seq),
        at: rfc3339(flow.at_ms),
        times: number(flow.times),
        host: flow.host,
        addr: flow.addr.to_string(),
        port: flow.port,
        protocol: flow.proto.to_owned(),
        app: flow.app.map(str::to_owned),
        decision: flow.decision.to_owned(),
        rule: flow.rule,
        bytes_sent: number(flow.sent_bytes),
        bytes_received: number(flow.received_bytes),
        state: flow.state.as_str().to_owned(),
        reason: flow.reason,
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
