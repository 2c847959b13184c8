//! Functions of a sandbox: handlers in files below [`FOLDER`], run by the agent once for each call.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use sandbar_api::{
    ErrorCode, ErrorDetail,
    sandbox_function::{FunctionInvokeResponse, FunctionLogText},
};
use sandbar_core::{
    limits,
    validate::functions::{Invoke, is_function_name},
};
use sandbar_node::{
    Runtime,
    client::{FunctionFrame, ProcdError},
};
use sandbar_procd_api::{
    self as agent, FileInfo, FileType, PROTOCOL_FUNCTIONS,
    function::{FailureKind, FunctionCall, FunctionCheck, FunctionEnd, FunctionFailure, FunctionLog, FunctionSource, FunctionStart},
};
use sandbar_store::{InvocationRecord, InvocationStatus, Store, StoreError};
use serde_json::json;

use crate::{
    app::{
        App,
        auth::Principal,
        contexts::unless_frozen,
        files::FileOwner,
        function_load::Calling,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// Where functions are inside.
pub const FOLDER: &str = "/workspace/functions";
const SUFFIX: &str = ".py";
/// A result that is kept also on a disk that is full.
const RESULT_WITHOUT_ROOM_BYTES: usize = 1024;
/// Waits before a result that could not be kept is tried again.
const FINISH_AGAIN: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];

/// A whole reply of a handler.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub start: FunctionStart,
    pub body: Bytes,
    pub logs: Vec<FunctionLog>,
}

/// A function's file.
#[derive(Debug, Clone)]
pub struct FunctionFile {
    pub name: String,
    pub info: FileInfo,
    pub source: Option<String>,
}

impl App {
    /// Calls a handler and waits for what it answers.
    pub(crate) async fn invoke_function(
        &self,
        who: &Principal,
        sandbox: &str,
        name: &str,
        (invoke, calling): (Invoke, Calling),
    ) -> Result<FunctionInvokeResponse, ApiError> {
        let path = path_of(name)?;
        BASE64.decode(&invoke.body_base64).map_err(|error| ApiError::bad_request(format!("body_base64: is not base64: {error}")))?;
        let runtime = self.access(who, sandbox).await?;
        let whole = call(&runtime, call_of(name, path, invoke), calling).await.map_err(Refused::told)?;
        Ok(response(whole))
    }

    /// What a call that is refused before it is made would have been refused for first: its sandbox, then its function.
    pub async fn missing_function(&self, who: &Principal, sandbox: &str, name: &str) -> Option<ApiError> {
        let path = match path_of(name) {
            Ok(path) => path,
            Err(error) => return Some(error),
        };
        match self.stat_file(who, &FileOwner::Sandbox(sandbox.to_owned()), &path).await {
            Ok(_) => None,
            Err(error) if error.status() == 404 && error.code() != ErrorCode::NotFound.as_str() => Some(not_found(name)),
            Err(error) => Some(error),
        }
    }

    /// Begins a call that nobody waits for. Its id is returned once it is sure to be known after a crash.
    pub(crate) async fn invoke_function_later(
        self: &Arc<Self>,
        who: &Principal,
        sandbox: &str,
        name: &str,
        asked: (Invoke, Calling),
    ) -> Result<String, ApiError> {
        let (sandbox, name) = (sandbox.to_owned(), name.to_owned());
        // A caller that goes away must not leave a call that is noted and never made.
        self.whole(who, "beginning a call", |app, who| async move { app.begin_function(who, sandbox, name, asked).await }).await
    }

    async fn begin_function(
        self: Arc<Self>,
        who: Principal,
        sandbox: String,
        name: String,
        (invoke, mut calling): (Invoke, Calling),
    ) -> Result<String, ApiError> {
        let path = path_of(&name)?;
        BASE64.decode(&invoke.body_base64).map_err(|error| ApiError::bad_request(format!("body_base64: is not base64: {error}")))?;
        self.check_room()?;
        self.stat_file(&who, &FileOwner::Sandbox(sandbox.clone()), &path).await.map_err(|error| match error.status() {
            404 if error.code() != ErrorCode::NotFound.as_str() => not_found(&name),
            _ => error,
        })?;
        let id = format!("inv-{}", uuid::Uuid::new_v4().simple());
        self.store.invocation_insert(&id, &sandbox, &name, now_ms()).await.map_err(|e| store_failure("noting the call", &e))?;
        // It is counted as one that nobody waits for from here on.
        calling.leave();
        let (app, told) = (Arc::clone(&self), id.clone());
        self.sandboxes.tasks.spawn(async move {
            let result = app.invoke_function(&who, &sandbox, &name, (invoke, calling)).await;
            let (status, text) = match result {
                Ok(response) => (InvocationStatus::Succeeded, kept(&response)),
                Err(error) => (InvocationStatus::Failed, kept(&ErrorDetail::from(&error))),
            };
            let (status, text) = text.map_or_else(|too_large| (InvocationStatus::Failed, too_large), |text| (status, text));
            app.keep_result(&id, status, text).await;
        });
        Ok(told)
    }

    /// Keeps what came of a call, or in its place why it is not kept.
    async fn keep_result(&self, id: &str, mut status: InvocationStatus, mut text: String) {
        if text.len() > RESULT_WITHOUT_ROOM_BYTES
            && let Err(error) = self.check_room()
        {
            (status, text) = (InvocationStatus::Failed, serde_json::to_string(&ErrorDetail::from(&error)).unwrap_or_default());
        }
        for wait in FINISH_AGAIN.map(Some).into_iter().chain([None]) {
            let Err(error) = self.store.invocation_finish(id, status, text.clone(), now_ms()).await else { return };
            match wait {
                Some(wait) => {
                    tracing::warn!(invocation = id, %error, "the result of a call is not kept yet");
                    tokio::time::sleep(wait).await;
                }
                None => tracing::error!(invocation = id, %error, "the result of a call is lost"),
            }
        }
    }

    /// A call that nobody waited for.
    pub async fn invocation(&self, who: &Principal, sandbox: &str, name: &str, id: &str) -> Result<InvocationRecord, ApiError> {
        path_of(name)?;
        self.get(who, sandbox).await?;
        let found = self.store.invocation_get(sandbox, name, id).await.map_err(|e| store_failure("reading the invocation", &e))?;
        found.ok_or_else(|| ApiError::not_found("invocation", id))
    }

    /// The calls of a function that nobody waited for, newest first.
    pub async fn invocations(&self, who: &Principal, sandbox: &str, name: &str) -> Result<Vec<InvocationRecord>, ApiError> {
        path_of(name)?;
        self.get(who, sandbox).await?;
        self.store.invocations_list(sandbox, name).await.map_err(|e| store_failure("listing invocations", &e))
    }

    /// The functions of a sandbox, by name.
    pub async fn sandbox_functions(&self, who: &Principal, sandbox: &str) -> Result<Vec<FunctionFile>, ApiError> {
        let entries = match self.list_files(who, &FileOwner::Sandbox(sandbox.to_owned()), FOLDER).await {
            Err(error) if error.code() == agent_code(agent::ErrorCode::DirectoryNotFound) => Vec::new(),
            other => other?,
        };
        let mut functions: Vec<_> = entries
            .into_iter()
            .filter(|info| matches!(info.kind, FileType::File | FileType::Symlink))
            .filter_map(|info| {
                let name = info.name.strip_suffix(SUFFIX).filter(|name| is_function_name(name))?.to_owned();
                Some(FunctionFile { name, info, source: None })
            })
            .collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(functions)
    }

    /// A function with its source.
    pub async fn sandbox_function(&self, who: &Principal, sandbox: &str, name: &str) -> Result<FunctionFile, ApiError> {
        let path = path_of(name)?;
        let owner = FileOwner::Sandbox(sandbox.to_owned());
        let told = |error: ApiError| if error.code() == agent_code(agent::ErrorCode::FileNotFound) { not_found(name) } else { error };
        let info = self.stat_file(who, &owner, &path).await.map_err(told)?;
        let body = self.read_file(who, &owner, &path, None).await.map_err(told)?.into_body();
        let max = limits::FUNCTION_CODE_MAX_BYTES * 4;
        let source =
            Limited::new(body, max).collect().await.map_err(|_| ApiError::conflict(format!("{path} cannot be shown: it has more than {max} bytes")))?;
        Ok(FunctionFile { name: name.to_owned(), info, source: Some(String::from_utf8_lossy(&source.to_bytes()).into_owned()) })
    }

    /// Replaces a function's source, or makes the function; returns whether it was made. What Python cannot compile is
    /// refused.
    pub async fn put_sandbox_function(&self, who: &Principal, sandbox: &str, name: &str, source: String) -> Result<(FunctionFile, bool), ApiError> {
        let path = path_of(name)?;
        if source.len() > limits::FUNCTION_CODE_MAX_BYTES {
            return Err(ApiError::new(
                ErrorCode::RequestTooLarge,
                format!("the source has {} bytes; {} are the limit", source.len(), limits::FUNCTION_CODE_MAX_BYTES),
            ));
        }
        let runtime = self.access(who, sandbox).await?;
        know_functions(&runtime).await?;
        let checked = unless_frozen(&runtime, runtime.client.check_function(&FunctionCheck { path: path.clone(), code: source.clone() })).await?;
        if let Some(message) = checked.message {
            let at = checked.line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let details = json!({ "line": checked.line, "column": checked.column, "message": message });
            return Err(ApiError::bad_request(format!("source: {at}{message}")).with_details(details));
        }
        let owner = FileOwner::Sandbox(sandbox.to_owned());
        let is_new = match self.stat_file(who, &owner, &path).await {
            Ok(_) => false,
            Err(error) if error.status() == 404 => true,
            Err(error) => return Err(error),
        };
        self.write_file(who, &owner, &path, None, Some(source.len() as u64), Body::from(source)).await?;
        let info = self.stat_file(who, &owner, &path).await?;
        Ok((FunctionFile { name: name.to_owned(), info, source: None }, is_new))
    }

    /// Removes a function's file.
    pub async fn delete_sandbox_function(&self, who: &Principal, sandbox: &str, name: &str) -> Result<(), ApiError> {
        let path = path_of(name)?;
        let owner = FileOwner::Sandbox(sandbox.to_owned());
        let told = |error: ApiError| if error.code() == agent_code(agent::ErrorCode::FileNotFound) { not_found(name) } else { error };
        let info = self.stat_file(who, &owner, &path).await.map_err(told)?;
        if info.kind == FileType::Dir {
            return Err(ApiError::conflict(format!("{path} is a folder and no function")));
        }
        self.remove_file(who, &owner, &path).await.map_err(told)
    }
}

/// Ends the calls that a server which was killed left behind.
pub(crate) async fn interrupt(store: &Store) -> Result<(), StoreError> {
    let error =
        ErrorDetail { code: ErrorCode::Unavailable.as_str().into(), message: "the call was interrupted by a restart of the server".into(), details: None };
    let count = store.invocations_interrupt(&serde_json::to_string(&error).unwrap_or_default(), now_ms()).await?;
    if count > 0 {
        tracing::info!(count, "calls of functions were interrupted by the restart");
    }
    Ok(())
}

/// Why a call has no reply.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Before or beside it.
    Api(ApiError),
    /// By the function, or on its account.
    Function { failure: FunctionFailure, logs: Vec<FunctionLog> },
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<ProcdError> for Refused {
    fn from(error: ProcdError) -> Self {
        Self::Api(error.into())
    }
}

impl Refused {
    /// In the words of whoever owns the sandbox.
    pub(crate) fn told(self) -> ApiError {
        match self {
            Self::Api(error) => error,
            Self::Function { failure, logs } => {
                let error = failed(&failure, &failure.message);
                if logs.is_empty() { error } else { error.with_details(json!({ "logs": texts(logs) })) }
            }
        }
    }

    /// In words that anybody may read.
    pub(crate) fn told_in_public(self) -> ApiError {
        match self {
            Self::Api(error) => error,
            Self::Function { failure, .. } => match failure.kind {
                FailureKind::NoRuntime => ApiError::unavailable("function runtime unavailable"),
                FailureKind::Unavailable => ApiError::unavailable("the function cannot be started now").retry_after(1),
                FailureKind::NotFound
                | FailureKind::Busy
                | FailureKind::TimedOut
                | FailureKind::Failed
                | FailureKind::TooLarge
                | FailureKind::BadResponse
                | FailureKind::BadHandler
                | FailureKind::Unknown => failed(&failure, "the function failed; the log of its sandbox says why"),
            },
        }
    }
}

/// `words` are for a failure of the handler itself; the others are ours.
fn failed(failure: &FunctionFailure, words: &str) -> ApiError {
    let message = failure.message.as_str();
    match failure.kind {
        FailureKind::NotFound => ApiError::new(ErrorCode::NotFound, "function not found"),
        FailureKind::NoRuntime => ApiError::unavailable(format!("function runtime unavailable: {message}")),
        FailureKind::Unavailable => ApiError::unavailable(message).retry_after(1),
        FailureKind::Busy => ApiError::new(ErrorCode::FunctionConcurrencyExceeded, message).retry_after(1),
        FailureKind::TimedOut => ApiError::with_status(504, ErrorCode::Unavailable, "function invocation timed out"),
        FailureKind::Failed => ApiError::new(ErrorCode::FunctionFailed, words),
        FailureKind::TooLarge => ApiError::with_status(502, ErrorCode::Unavailable, message),
        FailureKind::BadResponse | FailureKind::Unknown => ApiError::with_status(502, ErrorCode::Unavailable, words),
        FailureKind::BadHandler => ApiError::bad_request(message),
    }
}

/// Whether the agent inside knows functions at all.
pub(crate) async fn know_functions(runtime: &Runtime) -> Result<(), ApiError> {
    if unless_frozen(runtime, runtime.client.protocol()).await? < PROTOCOL_FUNCTIONS {
        return Err(ApiError::unavailable("the sandbox's agent is older than functions; pause the sandbox and resume it"));
    }
    Ok(())
}

/// Makes a call and reads its whole reply, also of a body that comes in its own time.
async fn call(runtime: &Runtime, call: FunctionCall, mut calling: Calling) -> Result<Whole, Refused> {
    know_functions(runtime).await?;
    unless_frozen(runtime, async {
        let mut reply = runtime.client.call_function(&call).await?;
        drop(call);
        calling.sent();
        let (mut start, mut body) = (None, BytesMut::new());
        let end = loop {
            match reply.next().await? {
                Some(FunctionFrame::Start(told)) => start = Some(told),
                Some(FunctionFrame::Chunk(chunk)) => body.extend_from_slice(&chunk),
                Some(FunctionFrame::End(end)) => break end,
                Some(FunctionFrame::Text(_) | FunctionFrame::Binary(_) | FunctionFrame::Close(_)) => {}
                None => return Err(ProcdError::Gone(std::io::Error::other("the reply broke off"))),
            }
            if body.len() > limits::FUNCTION_REPLY_MAX_BYTES {
                return Ok(Err(too_large()));
            }
        };
        Ok(whole(start, body.freeze(), end))
    })
    .await?
}

pub(crate) fn too_large() -> Refused {
    let message = format!("function response is too large: its body has more than {} bytes", limits::FUNCTION_REPLY_MAX_BYTES);
    Refused::Function { failure: FunctionFailure { kind: FailureKind::TooLarge, message }, logs: Vec::new() }
}

pub(crate) fn bad_response(message: impl Into<String>) -> Refused {
    Refused::Function { failure: FunctionFailure { kind: FailureKind::BadResponse, message: message.into() }, logs: Vec::new() }
}

/// What the frames of a call come to.
pub(crate) fn whole(start: Option<FunctionStart>, body: Bytes, end: FunctionEnd) -> Result<Whole, Refused> {
    let FunctionEnd { failure, logs } = end;
    match (failure, start) {
        (Some(failure), _) => Err(Refused::Function { failure, logs }),
        (None, Some(start)) if (100..=599).contains(&start.status) => Ok(Whole { start, body, logs }),
        (None, _) => Err(bad_response("the function gave no reply")),
    }
}

fn path_of(name: &str) -> Result<String, ApiError> {
    if !is_function_name(name) {
        let shown = crate::http::params::shown(name);
        let max = limits::FUNCTION_NAME_MAX_CHARS;
        return Err(ApiError::bad_request(format!("name: {shown} is not the name of a function: 1 to {max} letters, digits, \"_\" and \"-\"")));
    }
    Ok(format!("{FOLDER}/{name}{SUFFIX}"))
}

fn not_found(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("function not found: there is no {FOLDER}/{name}{SUFFIX}"))
}

fn agent_code(code: agent::ErrorCode) -> String {
    serde_json::to_value(code).ok().and_then(|code| code.as_str().map(str::to_owned)).unwrap_or_default()
}

fn call_of(name: &str, path: String, invoke: Invoke) -> FunctionCall {
    let Invoke { method, path: asked, query, headers, body_base64, handler, timeout_ms, cold } = invoke;
    FunctionCall {
        source: FunctionSource::Path(path),
        handler: handler.clone(),
        env_vars: BTreeMap::new(),
        cold,
        timeout_ms,
        stream_timeout_ms: timeout_ms,
        label: format!("function:{name}"),
        limit: None,
        request: json!({
            "method": method, "path": asked, "query": query, "raw_query": raw_query(&query), "headers": headers, "body_base64": body_base64,
            "handler": handler, "timeout_ms": timeout_ms,
        }),
    }
}

fn raw_query(query: &BTreeMap<String, Vec<String>>) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, values) in query {
        for value in values {
            text.append_pair(name, value);
        }
    }
    text.finish()
}

fn response(whole: Whole) -> FunctionInvokeResponse {
    let Whole { start, body, logs } = whole;
    FunctionInvokeResponse { status: start.status, headers: start.headers, body_base64: BASE64.encode(body), logs: texts(logs) }
}

fn texts(logs: Vec<FunctionLog>) -> Vec<FunctionLogText> {
    let name = |stream| match stream {
        agent::Stream::Stdout | agent::Stream::Pty => "stdout",
        agent::Stream::Stderr => "stderr",
    };
    logs.into_iter().map(|log| FunctionLogText { stream: name(log.stream).to_owned(), text: log.text }).collect()
}

/// A result as it is stored; `Err` is the error that stands in place of one that is too large.
fn kept<T: serde::Serialize>(result: &T) -> Result<String, String> {
    let text = serde_json::to_string(result).unwrap_or_default();
    if text.len() <= limits::INVOCATION_RESULT_MAX_BYTES {
        return Ok(text);
    }
    let message = format!("the result has {} bytes; {} are the limit of a result that is kept", text.len(), limits::INVOCATION_RESULT_MAX_BYTES);
    let error = ErrorDetail { code: ErrorCode::Unavailable.as_str().into(), message, details: None };
    Err(serde_json::to_string(&error).unwrap_or_default())
}
