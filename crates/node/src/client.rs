//! The host's side of the procd protocol: one client for each runtime.
//!
//! The agent lives inside the sandbox and is not trusted: every reply is bounded, every line and frame too, and a
//! malformed one is an error of that call only. No call here has a deadline of its own, since a command may run for
//! days; callers that need one (probes, readiness) put a timeout around the call. Dropping a call's future closes
//! its connection, which the agent takes as "nobody waits any more"; the process inside goes on.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Body;
use sandbar_procd_api::{
    Assign, Context, ContextList, CreateContext, Enter, ErrorBody, ErrorCode, Event, ExecResult, FileInfo, FileList, Info, Input, Move, Newest, PtySize,
    Publishing, Signal, Stats, Taken, Trust, Trusted, WatchLine, Written,
    function::{FunctionCall, FunctionCheck, FunctionChecked},
    process::Start,
};
use serde::{Serialize, de::DeserializeOwned};

mod attach;
mod function;
mod lines;
mod pool;
mod process;

pub use attach::{AttachReader, AttachWriter, Attached, AttachedFrame};
pub use function::{FunctionFrame, FunctionReader, FunctionReply, FunctionSocket, FunctionWriter};
pub use lines::Lines;
pub use pool::AgentBody;
pub use process::{ProcessFrame, ProcessInput, ProcessOutput};

use pool::{BoxError, Pool, RequestBody};

/// The longest JSON reply that is read. An awaited context carries three captures of at most 1 MiB each, and a byte
/// may take six in JSON.
pub const REPLY_BYTES_MAX: usize = 32 << 20;

/// Why a call to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcdError {
    /// The agent answered with an error.
    #[error("the agent refused with {status}: {}", body.message)]
    Api { status: u16, body: ErrorBody },
    /// The agent cannot be reached, or went away before it answered.
    #[error("the agent is not reachable")]
    Gone(#[source] io::Error),
    /// The agent answered something that this protocol does not know.
    #[error("the agent broke the protocol: {0}")]
    Protocol(String),
}

impl ProcdError {
    /// Whether the agent answered with this code.
    pub fn is_code(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Api { body, .. } if body.code == code)
    }

    fn gone(cause: impl Into<BoxError>) -> Self {
        Self::Gone(io::Error::other(cause))
    }
}

/// Speaks to the procd behind one socket. Cheap to clone; clones share their idle connections.
#[derive(Clone)]
pub struct ProcdClient {
    pool: Arc<Pool>,
    /// The agent's protocol; 0 = not asked yet.
    protocol: Arc<AtomicU32>,
}

impl std::fmt::Debug for ProcdClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcdClient").field("socket", &self.pool.socket()).finish()
    }
}

impl ProcdClient {
    /// A client for the agent that listens on `socket`. Nothing is connected yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { pool: Arc::new(Pool::new(socket)), protocol: Arc::default() }
    }

    /// The protocol that the agent speaks; it is asked once.
    pub async fn protocol(&self) -> Result<u32, ProcdError> {
        let known = self.protocol.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(known);
        }
        let told = self.info().await?.protocol;
        self.protocol.store(told, Ordering::Relaxed);
        Ok(told)
    }

    /// Calls a handler. For agents that speak [`sandbar_procd_api::PROTOCOL_FUNCTIONS`]. Dropping what is returned ends the
    /// call and its processes.
    pub async fn call_function(&self, call: &FunctionCall) -> Result<FunctionReply, ProcdError> {
        let body = serde_json::to_vec(call).map_err(|e| ProcdError::Protocol(format!("request: {e}")))?;
        let request = build(Method::POST, "/v1/functions/call").header(header::CONTENT_TYPE, "application/json").body(full(body)).map_err(malformed)?;
        let response = self.pool.send(request).await?;
        if response.status().is_success() { Ok(FunctionReply::new(response.into_body())) } else { Err(refusal(response).await) }
    }

    /// Calls a handler with a WebSocket. As [`ProcdClient::call_function`].
    pub async fn function_socket(&self, call: &FunctionCall) -> Result<FunctionSocket, ProcdError> {
        let request = build(Method::GET, "/v1/functions/socket")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, sandbar_procd_api::function::UPGRADE)
            .body(empty())
            .map_err(malformed)?;
        let response = self.pool.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal_or_surprise(response).await);
        }
        FunctionSocket::upgrade(response, call).await
    }

    /// Whether Python would compile a text. As [`ProcdClient::call_function`].
    pub async fn check_function(&self, check: &FunctionCheck) -> Result<FunctionChecked, ProcdError> {
        self.post("/v1/functions/check", check).await
    }

    /// Who the agent is, and which protocol it speaks.
    pub async fn info(&self) -> Result<Info, ProcdError> {
        self.get("/v1/info").await
    }

    /// Gives a pooled runtime its owner.
    pub async fn assign(&self, assign: &Assign) -> Result<(), ProcdError> {
        self.post("/v1/assign", assign).await.map(Ack::done)
    }

    /// Makes a folder the root of all that the agent does from now on.
    pub async fn enter(&self, path: &str) -> Result<(), ProcdError> {
        self.post("/v1/root", &Enter { path: path.to_owned() }).await.map(Ack::done)
    }

    /// Says whom programs inside trust. For agents that speak [`sandbar_procd_api::PROTOCOL_TRUST`].
    pub async fn trust(&self, trust: &Trust) -> Result<Trusted, ProcdError> {
        self.post("/v1/trust", trust).await
    }

    /// Starts a context; with `wait_until_done` the reply comes when it has ended.
    pub async fn create_context(&self, create: &CreateContext) -> Result<Context, ProcdError> {
        self.post("/v1/contexts", create).await
    }

    pub async fn list_contexts(&self) -> Result<Vec<Context>, ProcdError> {
        self.get::<ContextList>("/v1/contexts").await.map(|list| list.contexts)
    }

    pub async fn get_context(&self, id: &str) -> Result<Context, ProcdError> {
        self.get(&context_path(id, "")).await
    }

    pub async fn delete_context(&self, id: &str) -> Result<(), ProcdError> {
        self.unary(Method::DELETE, &context_path(id, ""), None).await.map(Ack::done)
    }

    /// Ends the process if it runs and starts it again under the same id.
    pub async fn restart_context(&self, id: &str) -> Result<Context, ProcdError> {
        self.unary(Method::POST, &context_path(id, "/restart"), None).await
    }

    /// Hands code to a REPL and waits for its end.
    pub async fn exec(&self, id: &str, input: &Input) -> Result<ExecResult, ProcdError> {
        self.post(&context_path(id, "/exec"), input).await
    }

    /// Writes to a context's standard input exactly what is given.
    pub async fn input(&self, id: &str, input: &Input) -> Result<(), ProcdError> {
        self.post(&context_path(id, "/input"), input).await.map(Ack::done)
    }

    pub async fn resize(&self, id: &str, size: PtySize) -> Result<(), ProcdError> {
        self.post(&context_path(id, "/resize"), &size).await.map(Ack::done)
    }

    pub async fn signal(&self, id: &str, signal: &Signal) -> Result<(), ProcdError> {
        self.post(&context_path(id, "/signal"), signal).await.map(Ack::done)
    }

    pub async fn context_stats(&self, id: &str) -> Result<Stats, ProcdError> {
        self.get(&context_path(id, "/stats")).await
    }

    /// Resource use of all processes of the sandbox.
    pub async fn stats(&self) -> Result<Stats, ProcdError> {
        self.get("/v1/stats").await
    }

    /// Attaches to a context: its output so far, then as it comes, and its input.
    pub async fn attach(&self, id: &str) -> Result<Attached, ProcdError> {
        let request = build(Method::GET, &context_path(id, "/attach"))
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "sandbar-attach")
            .body(empty())
            .map_err(malformed)?;
        let response = self.pool.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal_or_surprise(response).await);
        }
        Attached::upgrade(response).await
    }

    /// Starts a process whose streams are the caller's; arguments are bytes without NUL, the program first. For agents that speak
    /// [`sandbar_procd_api::PROTOCOL_PROCESS`].
    pub async fn start_process(&self, arguments: &[Vec<u8>], start: &Start) -> Result<(ProcessInput, ProcessOutput), ProcdError> {
        let request = build(Method::GET, "/v1/processes")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, sandbar_procd_api::process::UPGRADE)
            .body(empty())
            .map_err(malformed)?;
        let response = self.pool.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal_or_surprise(response).await);
        }
        process::start(response, arguments, start).await
    }

    /// The bytes of a file, as they are read. `range` is the caller's `Range` header; the reply's status and
    /// `Content-Length`, `Content-Range` say what came of it.
    pub async fn read_file(&self, path: &str, range: Option<HeaderValue>) -> Result<Response<AgentBody>, ProcdError> {
        let mut request = build(Method::GET, &file_path("", &[("path", path)]));
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let response = self.pool.send(request.body(empty()).map_err(malformed)?).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// The bytes of a file below a folder, reached without following any link. For agents that speak
    /// [`sandbar_procd_api::PROTOCOL_BENEATH`].
    pub async fn read_beneath(&self, folder: &str, path: &str) -> Result<Response<AgentBody>, ProcdError> {
        let request = build(Method::GET, &file_path("", &[("path", path), ("beneath", folder)]));
        let response = self.pool.send(request.body(empty()).map_err(malformed)?).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// Replaces a file atomically by what `body` gives. `mode` is octal text, `length` the size when it is known.
    pub async fn write_file<B>(&self, path: &str, mode: Option<&str>, length: Option<u64>, body: B) -> Result<Written, ProcdError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut query = vec![("path", path)];
        query.extend(mode.map(|mode| ("mode", mode)));
        let mut request = build(Method::POST, &file_path("", &query)).header(header::CONTENT_TYPE, "application/octet-stream");
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let request = request.body(body.map_err(Into::into).boxed_unsync()).map_err(malformed)?;
        read_json(self.pool.send(request).await?).await
    }

    pub async fn mkdir(&self, path: &str, recursive: bool) -> Result<(), ProcdError> {
        let mut query = vec![("path", path), ("mkdir", "true")];
        if recursive {
            query.push(("recursive", "true"));
        }
        self.unary(Method::POST, &file_path("", &query), None).await.map(Ack::done)
    }

    /// Removes a file, or a folder with all that it holds.
    pub async fn remove(&self, path: &str) -> Result<(), ProcdError> {
        self.unary(Method::DELETE, &file_path("", &[("path", path)]), None).await.map(Ack::done)
    }

    pub async fn move_(&self, request: &Move) -> Result<(), ProcdError> {
        self.post("/v1/files/move", request).await.map(Ack::done)
    }

    pub async fn stat(&self, path: &str) -> Result<FileInfo, ProcdError> {
        self.get(&file_path("/stat", &[("path", path)])).await
    }

    pub async fn list(&self, path: &str) -> Result<Vec<FileInfo>, ProcdError> {
        self.get::<FileList>(&file_path("/list", &[("path", path)])).await.map(|list| list.entries)
    }

    /// Changes below a folder; the first line is `Subscribed` or an error.
    pub async fn watch(&self, path: &str, recursive: bool) -> Result<Lines<WatchLine>, ProcdError> {
        let recursive = if recursive { "true" } else { "false" };
        self.lines(&file_path("/watch", &[("path", path), ("recursive", recursive)])).await
    }

    /// What happens inside, from the event after `after` on.
    pub async fn events(&self, after: u64) -> Result<Lines<Event>, ProcdError> {
        self.lines(&format!("/v1/events?after={after}")).await
    }

    /// Published events up to this number are kept here now. An agent that knows nothing of them needs not be told.
    pub async fn events_taken(&self, seq: u64) -> Result<(), ProcdError> {
        unless_unknown(self.post("/v1/events/taken", &Taken { seq }).await.map(Ack::done))
    }

    /// Lets programs inside publish events, or not, and returns the number of the newest event. An agent that knows nothing
    /// of it lets none.
    pub async fn set_publishing(&self, enabled: bool) -> Result<u64, ProcdError> {
        let body = serde_json::to_vec(&Publishing { enabled }).map_err(|e| ProcdError::Protocol(format!("request: {e}")))?;
        unless_unknown(self.unary(Method::PUT, "/v1/publishing", Some(body)).await.map(|newest: Newest| newest.seq))
    }

    /// Closes what is idle on both sides, so that a freeze leaves no half-used connection behind.
    pub async fn reset_connections(&self) -> Result<(), ProcdError> {
        self.unary(Method::POST, "/v1/connections/reset", None).await.map(Ack::done)?;
        self.pool.clear();
        Ok(())
    }

    /// Forgets idle connections without asking the agent, for one that is frozen or dead.
    pub fn forget_connections(&self) {
        self.pool.clear();
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ProcdError> {
        self.unary(Method::GET, path, None).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ProcdError> {
        let body = serde_json::to_vec(body).map_err(|e| ProcdError::Protocol(format!("request: {e}")))?;
        self.unary(Method::POST, path, Some(body)).await
    }

    async fn unary<T: DeserializeOwned>(&self, method: Method, path: &str, json: Option<Vec<u8>>) -> Result<T, ProcdError> {
        let request = build(method, path);
        let request = match json {
            Some(json) => request.header(header::CONTENT_TYPE, "application/json").body(full(json)),
            None => request.body(empty()),
        };
        read_json(self.pool.send(request.map_err(malformed)?).await?).await
    }

    async fn lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, ProcdError> {
        let request = build(Method::GET, path).body(empty()).map_err(malformed)?;
        let response = self.pool.send(request).await?;
        if response.status().is_success() { Ok(Lines::new(response.into_body())) } else { Err(refusal(response).await) }
    }
}

/// The empty object that acknowledges.
#[derive(serde::Deserialize)]
struct Ack {}

impl Ack {
    fn done(self) {}
}

/// The done thing, or the news that an older agent does not know how.
fn unless_unknown<T: Default>(result: Result<T, ProcdError>) -> Result<T, ProcdError> {
    match result {
        Err(error) if error.is_code(ErrorCode::NotFound) => Ok(T::default()),
        other => other,
    }
}

fn build(method: Method, path: &str) -> http::request::Builder {
    // The agent has no name of its own; HTTP/1.1 wants one.
    Request::builder().method(method).uri(path).header(header::HOST, "procd")
}

fn malformed(error: http::Error) -> ProcdError {
    ProcdError::Protocol(format!("request: {error}"))
}

fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(bytes: Vec<u8>) -> RequestBody {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

async fn read_json<T: DeserializeOwned>(response: Response<AgentBody>) -> Result<T, ProcdError> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let bytes = read_all(response.into_body()).await?;
    serde_json::from_slice(&bytes).map_err(|e| ProcdError::Protocol(format!("reply: {e}")))
}

async fn read_all(body: AgentBody) -> Result<Bytes, ProcdError> {
    match Limited::new(body, REPLY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ProcdError::Protocol(format!("reply of more than {REPLY_BYTES_MAX} bytes"))),
        Err(error) => Err(ProcdError::gone(error)),
    }
}

/// The error that a reply with a failing status carries.
async fn refusal(response: Response<AgentBody>) -> ProcdError {
    let status = response.status().as_u16();
    match read_all(response.into_body()).await {
        Ok(bytes) => ProcdError::Api { status, body: error_body(status, &bytes) },
        Err(error) => error,
    }
}

async fn refusal_or_surprise(response: Response<AgentBody>) -> ProcdError {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return refusal(response).await;
    }
    ProcdError::Protocol(format!("expected an upgrade, got {status}"))
}

/// An agent of another age may know codes that we do not: its message is kept, its status decides.
fn error_body(status: u16, bytes: &[u8]) -> ErrorBody {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(bytes) {
        return body;
    }
    let code = match status {
        400 => ErrorCode::InvalidRequest,
        403 => ErrorCode::PermissionDenied,
        404 => ErrorCode::NotFound,
        405 => ErrorCode::MethodNotAllowed,
        409 => ErrorCode::ProcessNotRunning,
        413 => ErrorCode::RequestTooLarge,
        416 => ErrorCode::RangeNotSatisfiable,
        429 => ErrorCode::TooManyContexts,
        507 => ErrorCode::DiskFull,
        _ => ErrorCode::OperationFailed,
    };
    let message = serde_json::from_slice::<Message>(bytes).map_or_else(|_| format!("the agent answered {status}"), |m| m.message);
    ErrorBody { code, message }
}

fn context_path(id: &str, action: &str) -> String {
    let mut path = String::from("/v1/contexts/");
    push_encoded(&mut path, id);
    path.push_str(action);
    path
}

fn file_path(action: &str, query: &[(&str, &str)]) -> String {
    let mut path = format!("/v1/files{action}");
    for (i, (name, value)) in query.iter().enumerate() {
        path.push(if i == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        push_encoded(&mut path, value);
    }
    path
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn push_encoded(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests;
