//! An executor: runs scripts for a server that is elsewhere, and asks that one back for what they ask for.
//!
//! It has no users, no data and no secrets of its own. What runs here is as walled in as at home; what a call may ask for, its server
//! decides each time that it is asked.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use sandbar_core::{limits, script::provider::base_url};
use sandbar_scripts::{
    Call, Failure, Host, LogLine, Outcome, User, Workers,
    call::Limits,
    remote::{RemoteUser, RpcAuth, RunReply, RunRequest},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::http::extract;

mod bridge;
#[cfg(test)]
mod tests;

use bridge::{Bridge, NoBridge};

/// Where it listens when nothing is said.
pub const PORT_DEFAULT: u16 = 8790;
/// Calls that come in or wait for a place; more are sent away.
const WAITING_MAX: usize = 64;
/// And they are sent away after so long.
const WAITING_MAX_FOR: Duration = Duration::from_secs(2);
/// Of a tenant's name, by which processes are told apart.
const TENANT_MAX_CHARS: usize = 128;

/// What an executor may do.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Servers that may be asked back, as `http://HOST[:PORT]`; none: any that a call names.
    pub main_origins: Vec<String>,
    /// Calls at once.
    pub concurrency: usize,
}

/// Runs calls.
pub trait Engine: Send + Sync + 'static {
    /// It ends at the call's deadline or when it is cancelled, at the latest. Calls of one tenant may share a process.
    fn run<'a>(&'a self, tenant: &'a str, call: Call, host: Arc<dyn Host>, cancel: CancellationToken) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;
}

impl Engine for Workers {
    fn run<'a>(&'a self, tenant: &'a str, call: Call, host: Arc<dyn Host>, cancel: CancellationToken) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move { Self::run(self, tenant, call, &*host, &cancel).await.outcome })
    }
}

struct Executor {
    config: ExecutorConfig,
    engine: Arc<dyn Engine>,
    client: reqwest::Client,
    places: Arc<Semaphore>,
    waiting: Semaphore,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    #[error("the client cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("cannot listen")]
    Listen(#[from] std::io::Error),
    #[error("{0}")]
    Origin(String),
    #[error("{0} is not this machine's own: say with --main-origin which servers may be asked back from here, or * for any")]
    Open(SocketAddr),
}

/// Serves until it is stopped.
///
/// # Errors
/// The settings would let strangers have anything asked from here, or cannot be read.
pub async fn serve(listener: TcpListener, config: ExecutorConfig, engine: Arc<dyn Engine>, stop: CancellationToken) -> Result<(), ExecutorError> {
    let app = router(config, engine, listener.local_addr()?)?;
    axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await?;
    Ok(())
}

fn router(mut config: ExecutorConfig, engine: Arc<dyn Engine>, listen: SocketAddr) -> Result<Router, ExecutorError> {
    if config.main_origins.is_empty() && !listen.ip().is_loopback() {
        return Err(ExecutorError::Open(listen));
    }
    let any = config.main_origins.iter().any(|origin| origin == "*");
    config.main_origins =
        if any { Vec::new() } else { config.main_origins.iter().map(|origin| base_url(origin).map_err(ExecutorError::Origin)).collect::<Result<_, _>>()? };
    let executor = Executor {
        places: Arc::new(Semaphore::new(config.concurrency.max(1))),
        waiting: Semaphore::new(WAITING_MAX),
        client: bridge::client()?,
        config,
        engine,
    };
    Ok(Router::new().route("/health", get(async || "ok")).route("/run", post(run)).with_state(Arc::new(executor)))
}

async fn run(State(executor): State<Arc<Executor>>, request: Request<Body>) -> Response {
    let refused = |status: StatusCode, text: String| (status, Json(RunReply { error: Some(text), ..RunReply::default() })).into_response();
    // Who waits for a place is counted before a byte of the body is taken.
    let Ok(waiting) = executor.waiting.try_acquire() else {
        return busy(refused(StatusCode::TOO_MANY_REQUESTS, "the executor has too much to do".to_owned()));
    };
    let body = match extract::read(request.into_body(), limits::SCRIPT_REMOTE_CALL_MAX_BYTES).await {
        Ok(body) => body,
        Err(error) => return refused(StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST), error.message().to_owned()),
    };
    let request: RunRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refused(StatusCode::BAD_REQUEST, format!("the body is not {{code, data, user, timeoutMs, mainOrigin, rpcToken}}: {error}")),
    };
    drop(body);
    let host = match executor.host(&request) {
        Ok(host) => host,
        Err(text) => return refused(StatusCode::BAD_REQUEST, text),
    };
    let Ok(Ok(_place)) = tokio::time::timeout(WAITING_MAX_FOR, Arc::clone(&executor.places).acquire_owned()).await else {
        return busy(refused(StatusCode::SERVICE_UNAVAILABLE, "the executor has too much to do".to_owned()));
    };
    drop(waiting);
    let tenant: String = request.user.tenant_id.as_deref().unwrap_or_default().chars().take(TENANT_MAX_CHARS).collect();
    let call = match call(request) {
        Ok(call) => call,
        Err(failure) => return Json(reply(Outcome::failed(failure))).into_response(),
    };
    // The engine is told when the server hangs up, and not just forgotten.
    let cancel = CancellationToken::new();
    let cancelled = cancel.clone().drop_guard();
    let running = tokio::spawn({
        let engine = Arc::clone(&executor.engine);
        async move { engine.run(&tenant, call, host, cancel).await }
    });
    let outcome = running.await;
    drop(cancelled.disarm());
    let outcome = outcome.unwrap_or_else(|_| Outcome::failed(Failure::internal("the executor failed")));
    Json(reply(outcome)).into_response()
}

fn busy(mut response: Response) -> Response {
    response.headers_mut().insert(axum::http::header::RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
    response
}

impl Executor {
    /// Whom a call's ops go to.
    fn host(&self, request: &RunRequest) -> Result<Arc<dyn Host>, String> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (Some(origin), Some(token)) = (said(&request.main_origin), said(&request.rpc_token)) else { return Ok(Arc::new(NoBridge)) };
        let origin = base_url(&origin).map_err(|error| format!("mainOrigin: {error}"))?;
        if !self.config.main_origins.is_empty() && !self.config.main_origins.contains(&origin) {
            return Err(format!("mainOrigin {origin:?} is not among those that this executor asks"));
        }
        let RemoteUser { id, email, roles, tenant_id } = request.user.clone();
        let auth = RpcAuth { user_id: id, email, roles, tenant_id };
        Ok(Arc::new(Bridge::new(self.client.clone(), &origin, token, auth)))
    }
}

/// A call within what an executor gives.
fn call(request: RunRequest) -> Result<Call, Failure> {
    let wall_ms = request.timeout_ms.filter(|ms| ms.is_finite()).unwrap_or(f64::from(limits::SCRIPT_TIMEOUT_DEFAULT_MS));
    let wall_ms = wall_ms.clamp(f64::from(limits::SCRIPT_TIMEOUT_MIN_MS), f64::from(limits::SCRIPT_TIMEOUT_MAX_MS)) as u64;
    let megabytes = |mb: u32| u64::from(mb) << 20;
    let memory_bytes = request.memory_bytes.unwrap_or(megabytes(limits::SCRIPT_MEMORY_DEFAULT_MB));
    let cpu = Duration::from_millis(request.cpu_ms.unwrap_or(wall_ms).min(wall_ms));
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| Failure::internal("the machine gives no random numbers"))?;
    let RemoteUser { id, email, roles, .. } = request.user;
    Ok(Call {
        code: request.code,
        name: request.name.map_or_else(|| "function".to_owned(), |name| name.chars().take(limits::SCRIPT_NAME_MAX_CHARS).collect()),
        data: request.data,
        user: User { id, email, roles },
        limits: Limits::of(
            Duration::from_millis(wall_ms),
            Some(cpu),
            memory_bytes.clamp(megabytes(limits::SCRIPT_MEMORY_MIN_MB), megabytes(limits::SCRIPT_MEMORY_MAX_MB)),
        ),
        seed,
        clock: None,
    })
}

fn reply(outcome: Outcome) -> RunReply {
    let Outcome { result, logs, usage, clock: _ } = outcome;
    let texts = logs.iter().map(|LogLine { text, .. }| serde_json::Value::from(text.as_str())).collect();
    let reply = RunReply { logs: texts, log_lines: Some(logs), usage: Some(usage), ..RunReply::default() };
    match result {
        Ok(value) => RunReply { ok: true, value, ..reply },
        Err(failure) => RunReply { error: Some(failure.message), error_name: Some(failure.name), stack: failure.stack, code: Some(failure.code), ..reply },
    }
}
