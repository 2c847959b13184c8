//! Apps as they run: start, stop, status, services and what they printed.

use std::time::Duration;

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use sandbar_api::{
    app_lifecycle::{
        AppAuthPolicyStatus, AppLogResponse, AppMcpStatus, AppPortStatus, AppPreviewRequest, AppProcessEnd, AppProcessStatus, AppSandboxStatus,
        AppServiceStopResponse, AppServices, AppStartRequest, AppStatusResponse, AppStopRequest, AppStopResponse, AppStoppedResponse,
    },
    error::ErrorEnvelope,
    preview::PreviewResponse,
    reply::Envelope,
};
use sandbar_core::{
    app::{
        AppState, PreviewState,
        launch::Stopping,
        manifest::{AuthPolicy, LaunchServices},
        supervise::Ending,
    },
    lifecycle::status,
    limits::app_launch as limits,
    roles::Permission,
};
use tokio::time::Instant;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{
        SharedApp,
        apps::{
            online::{Start, StopSummary},
            output::{Looked, Part},
            status::{AppStatus, EntryStatus, McpStatus, PortStatus},
            supervise::Stopped,
        },
        auth::Principal,
    },
    error::ApiError,
    http::{
        extract::OptionalJson,
        follow::{Follow, Reader, Told, event, events, is_asked, last_event_id},
        params::Params,
        previews,
        reply::{self, Result},
        time::rfc3339,
    },
};

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(app_status))
        .routes(routes!(logs))
        .routes(routes!(start_service))
        .routes(routes!(stop_service))
        .routes(routes!(restart_service))
        .routes(routes!(preview))
}

/// Bring an app online: its sandbox is made or woken, its start command is started, and services as the manifest and the request say.
/// Who asks while that is under way joins it.
#[utoipa::path(post, path = "/api/v1/apps/{name}/start", tag = "apps", params(("name" = String, Path)), request_body = AppStartRequest, responses(
    (status = 200, description = "also when it failed meanwhile: state and start.last_end say so", body = Envelope<AppStatusResponse>),
    (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, description = "no version is ready", body = ErrorEnvelope),
    (status = 503, description = "its sandbox cannot be started now", body = ErrorEnvelope),
))]
async fn start(
    State(app): State<SharedApp>,
    who: Principal,
    Path(name): Path<String>,
    OptionalJson(request): OptionalJson<AppStartRequest>,
) -> Result<AppStatusResponse> {
    who.require(Permission::FunctionWrite)?;
    let services = request.services.map(services_named).transpose()?;
    let supervised = app.start_app(&who, &name, Start { services, keep: request.keep.unwrap_or(false) }).await?;
    if request.wait.unwrap_or(false) {
        // What came of it stands in the status.
        let _ = supervised.ready(Duration::from_secs(limits::WAIT_MAX_S)).await;
    }
    reply::ok(rendered(app.app_status(&who, &name).await?))
}

/// Take an app offline: runs in its sandbox are cancelled, then services are ended, then the start command, each with SIGTERM and after 10 s
/// with SIGKILL. Then its sandbox is paused, or deleted.
#[utoipa::path(post, path = "/api/v1/apps/{name}/stop", tag = "apps", params(("name" = String, Path)), request_body = AppStopRequest, responses(
    (status = 200, body = Envelope<AppStopResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn stop(
    State(app): State<SharedApp>,
    who: Principal,
    Path(name): Path<String>,
    OptionalJson(request): OptionalJson<AppStopRequest>,
) -> Result<AppStopResponse> {
    who.require(Permission::FunctionWrite)?;
    let sandbox = if request.delete_sandbox.unwrap_or(false) { Stopping::Delete } else { Stopping::Pause };
    let StopSummary { stopped, sandbox_id, sandbox, volumes_ending, took } = app.stop_app(&who, &name, sandbox).await?;
    let became = match (&sandbox_id, sandbox) {
        (None, _) => "none",
        (Some(_), Stopping::Pause) => "paused",
        (Some(_), Stopping::Delete) => "deleted",
    };
    reply::ok(AppStopResponse {
        app: name,
        sandbox_id,
        sandbox: became.to_owned(),
        stopped: stopped.into_iter().filter_map(ended).collect(),
        volumes_ending: super::named_volumes(volumes_ending),
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    })
}

/// How an app is. Does not wake its sandbox.
#[utoipa::path(get, path = "/api/v1/apps/{name}/status", tag = "apps", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<AppStatusResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn app_status(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<AppStatusResponse> {
    who.require(Permission::FunctionRead)?;
    reply::ok(rendered(app.app_status(&who, &name).await?))
}

/// What the start command or a service printed, both streams, line by line. Does not wake the sandbox. With `Accept: text/event-stream` it
/// is followed: each event has a part, and its id is the cursor, from which a client goes on that comes again.
#[utoipa::path(get, path = "/api/v1/apps/{name}/logs", tag = "apps", params(
    ("name" = String, Path), ("source" = Option<String>, Query, description = "start, the default, or the name of a service"),
    ("since" = Option<String>, Query, description = "the cursor of the answer before; 0, the default, is the beginning"),
), responses((status = 200, body = Envelope<AppLogResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn logs(
    State(app): State<SharedApp>,
    who: Principal,
    Path(name): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> std::result::Result<Response, ApiError> {
    who.require(Permission::FunctionRead)?;
    let source = params.text("source").unwrap_or(sandbar_core::app::manifest::START).to_owned();
    let since = last_event_id(&headers).or(params.text("since")).filter(|since| !since.is_empty()).map(str::to_owned);
    if !is_asked(&headers) {
        return Ok(reply::ok(part_of(app.app_output(&who, &name, &source, since.as_deref()).await?))?.into_response());
    }
    let mut followed = Followed { app: SharedApp::clone(&app), name, source, cursor: since, looked: Looked::default(), next: None, completed: None };
    // Refused before anything is sent.
    followed.next = followed.look(&who).await?;
    Ok(events(app, Reader::new(who, Permission::FunctionRead), followed))
}

/// Start a service of an app that is online, with what it depends on.
#[utoipa::path(post, path = "/api/v1/apps/{name}/services/{service}/start", tag = "apps", params(("name" = String, Path), ("service" = String, Path)), responses(
    (status = 200, body = Envelope<AppStatusResponse>), (status = 404, body = ErrorEnvelope), (status = 409, description = "the app is not online", body = ErrorEnvelope),
))]
async fn start_service(State(app): State<SharedApp>, who: Principal, Path((name, service)): Path<(String, String)>) -> Result<AppStatusResponse> {
    who.require(Permission::FunctionWrite)?;
    app.start_app_service(&who, &name, &service).await?;
    reply::ok(rendered(app.app_status(&who, &name).await?))
}

/// End a service of an app that is online, with SIGTERM and after 10 s with SIGKILL. It stays so until somebody starts it.
#[utoipa::path(post, path = "/api/v1/apps/{name}/services/{service}/stop", tag = "apps", params(("name" = String, Path), ("service" = String, Path)), responses(
    (status = 200, body = Envelope<AppServiceStopResponse>), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn stop_service(State(app): State<SharedApp>, who: Principal, Path((name, service)): Path<(String, String)>) -> Result<AppServiceStopResponse> {
    who.require(Permission::FunctionWrite)?;
    let stopped = app.whole(&who, "stopping a service", |app, who| async move { app.stop_app_service(&who, &name, &service).await }).await?;
    reply::ok(AppServiceStopResponse { stopped: ended(stopped) })
}

/// End a service of an app that is online, and start it again.
#[utoipa::path(post, path = "/api/v1/apps/{name}/services/{service}/restart", tag = "apps", params(("name" = String, Path), ("service" = String, Path)), responses(
    (status = 200, body = Envelope<AppStatusResponse>), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn restart_service(State(app): State<SharedApp>, who: Principal, Path((name, service)): Path<(String, String)>) -> Result<AppStatusResponse> {
    who.require(Permission::FunctionWrite)?;
    let of = name.clone();
    app.whole(&who, "restarting a service", |app, who| async move { app.restart_app_service(&who, &of, &service).await }).await?;
    reply::ok(rendered(app.app_status(&who, &name).await?))
}

/// Make a private preview of a port of an app that is online. Its URL works once, for whoever opens it first; the port is closed
/// until its process is ready.
#[utoipa::path(post, path = "/api/v1/apps/{name}/previews", tag = "apps", operation_id = "create_app_preview", params(("name" = String, Path)), request_body = AppPreviewRequest, responses(
    (status = 201, body = Envelope<PreviewResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 409, description = "the app is not online", body = ErrorEnvelope),
))]
async fn preview(
    State(app): State<SharedApp>,
    who: Principal,
    Path(name): Path<String>,
    OptionalJson(request): OptionalJson<AppPreviewRequest>,
) -> previews::Result<PreviewResponse> {
    who.require(Permission::SandboxWrite)?;
    let made = app.preview_app(&who, &name, request).await?;
    previews::private(reply::created(PreviewResponse { url: made.url, ..previews::rendered(&app, &made.record) }))
}

/// A log that somebody follows.
struct Followed {
    app: SharedApp,
    name: String,
    source: String,
    cursor: Option<String>,
    looked: Looked,
    /// Read already.
    next: Option<Part>,
    completed: Option<bool>,
}

impl Followed {
    /// What came since the last look; none where nothing can have come.
    async fn look(&mut self, who: &Principal) -> std::result::Result<Option<Part>, ApiError> {
        self.app.app_output_since(who, &self.name, &self.source, self.cursor.as_deref(), &mut self.looked).await
    }
}

impl Follow for Followed {
    /// A log whose process is over is followed on: it may be started again.
    async fn next(&mut self, who: &Principal, until: Instant) -> std::result::Result<Told, ApiError> {
        loop {
            let part = match self.next.take() {
                Some(part) => Some(part),
                None => self.look(who).await?,
            };
            if let Some(part) = part {
                let is_news = !part.output.is_empty() || self.completed.is_some_and(|completed| completed != part.completed);
                self.completed = Some(part.completed);
                if !part.cursor.is_empty() {
                    self.cursor = Some(part.cursor.clone());
                }
                if is_news {
                    let id = part.cursor.clone();
                    return Ok(Told::Event(event("log", Some(&id), &part_of(part))));
                }
            }
            if Instant::now() >= until {
                return Ok(Told::Nothing);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn services_named(services: AppServices) -> std::result::Result<LaunchServices, ApiError> {
    match services {
        AppServices::Names(names) => Ok(LaunchServices::Named(names)),
        AppServices::Word(word) if word == "all" => Ok(LaunchServices::All),
        AppServices::Word(_) => Err(ApiError::bad_request("services: is a list of names, or \"all\"")),
    }
}

fn part_of(part: Part) -> AppLogResponse {
    AppLogResponse { output: part.output, cursor: part.cursor, completed: part.completed }
}

fn ended(stopped: Stopped) -> Option<AppStoppedResponse> {
    let Stopped { name, ending } = stopped;
    let ending = ending?;
    Some(AppStoppedResponse { name, exit_code: ending.exit_code, reason: ending.why.as_str().to_owned(), message: ending.text })
}

pub(super) fn rendered(status_now: AppStatus) -> AppStatusResponse {
    AppStatusResponse {
        app: status_now.whole.app.name.clone(),
        desired: status_now.whole.app.desired.as_str().to_owned(),
        state: state(status_now.state()).to_owned(),
        live_version: status_now.whole.app.live_version,
        online_version: status_now.whole.online.as_ref().map(|row| row.version),
        outdated: status_now.whole.outdated,
        sandbox: status_now.sandbox.as_ref().map(|record| AppSandboxStatus {
            id: record.id.clone(),
            status: status(record).as_str().to_owned(),
            awake: status_now.awake,
        }),
        start: status_now.start().map(process),
        services: status_now.services().map(process).collect(),
        previews: status_now.ports.iter().map(port).collect(),
        volumes: status_now.volumes.into_iter().map(super::rendered_volume).collect(),
        unlisted: status_now.unlisted,
        mcp: status_now.mcp.iter().map(mcp).collect(),
    }
}

fn process(entry: &EntryStatus) -> AppProcessStatus {
    AppProcessStatus {
        name: entry.name.clone(),
        state: state(entry.state).to_owned(),
        pid: entry.pid,
        started_at: entry.started_at_ms.map(rfc3339),
        ready_at: entry.ready_at_ms.map(rfc3339),
        restarts: entry.restarts,
        retry_at: entry.retry_at_ms.map(rfc3339),
        waits_for: entry.waits_for.clone(),
        last_end: entry.last.as_ref().map(end),
    }
}

fn end(ending: &Ending) -> AppProcessEnd {
    AppProcessEnd {
        reason: ending.why.as_str().to_owned(),
        message: ending.text.clone(),
        exit_code: ending.exit_code,
        at: rfc3339(ending.at_ms),
        log_tail: ending.log_tail.clone(),
    }
}

fn port(port: &PortStatus) -> AppPortStatus {
    AppPortStatus {
        port: port.port,
        process: port.of.clone(),
        label: port.label.clone(),
        path: port.path.clone(),
        access: port.access.as_str().to_owned(),
        auth_policy: auth_policy(port),
        state: preview_state(port.state).to_owned(),
        url: port.url(&port.path),
    }
}

fn mcp(endpoint: &McpStatus) -> AppMcpStatus {
    let McpStatus { name, path, port } = endpoint;
    AppMcpStatus {
        name: name.clone(),
        port: port.port,
        path: path.clone(),
        process: port.of.clone(),
        access: port.access.as_str().to_owned(),
        auth_policy: auth_policy(port),
        state: preview_state(port.state).to_owned(),
        url: port.url(path),
    }
}

fn auth_policy(port: &PortStatus) -> Option<AppAuthPolicyStatus> {
    let (kind, header_name) = match port.auth_policy.as_ref()? {
        AuthPolicy::Bearer { .. } => ("bearer", None),
        AuthPolicy::Header { header_name, .. } => ("header", Some(header_name.clone())),
    };
    Some(AppAuthPolicyStatus { kind: kind.to_owned(), header_name })
}

fn preview_state(state: PreviewState) -> &'static str {
    match state {
        PreviewState::Closed => "closed",
        PreviewState::Opening => "opening",
        PreviewState::Ready => "ready",
    }
}

pub(super) fn state(state: AppState) -> &'static str {
    match state {
        AppState::None => "none",
        AppState::Starting => "starting",
        AppState::Ready => "ready",
        AppState::Unhealthy => "unhealthy",
        AppState::Exited => "exited",
        AppState::Failed => "failed",
    }
}
