//! `remote-http`: an executor runs the script, elsewhere, and asks us back for what it asks for.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, header};
use sandbar_core::{
    limits,
    script::{
        ScriptSpec,
        capability::{self, Need},
        provider,
    },
    text::{line, shorten},
};
use sandbar_node::error_text;
use sandbar_scripts::{
    Call, Failure, FailureCode, Host, Level, LogLine, Op, Outcome, Recording,
    call::LOG_CUT,
    remote::{RemoteUser, RunReply, RunRequest},
};
use sandbar_store::ScriptRecord;
use tokio_util::sync::CancellationToken;

use super::{Subject, grants::Claims};
use crate::app::{App, sandboxes::now_ms};

#[cfg(test)]
mod tests;

/// An executor ends what runs too long by itself. It has so much more time to say so.
const WALL_GRACE: Duration = Duration::from_millis(1000);
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Of what an executor says in place of an answer.
const ERROR_MAX_CHARS: usize = 200;
/// Of a failure's texts.
const TEXT_MAX_BYTES: usize = 64 << 10;

/// An executor that is configured.
pub(super) struct Executor {
    client: Client,
    url: String,
}

/// A run for an executor.
pub(crate) struct Remote<'a> {
    pub script: &'a ScriptRecord,
    pub version: u32,
    pub subject: &'a Subject,
    pub call: &'a Call,
    /// Answers what it asks for.
    pub host: Arc<dyn Host>,
    /// `http://HOST[:PORT]` of the request that it comes from, if one does.
    pub request_origin: Option<&'a str>,
}

/// Has an executor run a script. It ends at the call's deadline or when it is cancelled, at the latest.
pub(crate) async fn run(app: &App, remote: Remote<'_>, cancel: &CancellationToken) -> (Outcome, Recording) {
    let Remote { script, version, subject, call, host, request_origin } = remote;
    let Some(executor) = &app.reach.executor else {
        return (Outcome::failed(Failure::internal(provider::NO_EXECUTOR)), Recording::default());
    };
    let grace_ms = call.limits.wall.as_millis() as i64 + limits::SCRIPT_GRANT_GRACE_MS as i64;
    let mut claims = Claims {
        invocation: String::new(),
        team_id: script.team_id.clone(),
        script_id: script.id.clone(),
        version,
        subject: subject.clone(),
        ops: granted(&script.spec).into_iter().map(|op| op.as_str().to_owned()).collect(),
        expires_at_ms: 0,
    };
    let cancelled = || Failure { code: FailureCode::Cancelled, name: "AbortError".into(), message: "cancelled".into(), stack: None };
    let place = tokio::select! {
        () = cancel.cancelled() => Err(cancelled()),
        place = app.reach.live.place(&script.team_id) => place,
    };
    let place = match place {
        Ok(place) => place,
        Err(failure) => return (Outcome::failed(failure), Recording::default()),
    };
    // Who waited for a place has its time from here on.
    claims.expires_at_ms = now_ms() + grace_ms;
    let open = app.reach.live.open(claims, host, &call.limits, &call.seed, place);
    let request = RunRequest {
        code: call.code.clone(),
        data: call.data.clone(),
        user: RemoteUser { id: call.user.id.clone(), email: call.user.email.clone(), roles: call.user.roles.clone(), tenant_id: Some(script.team_id.clone()) },
        timeout_ms: Some(call.limits.wall.as_millis() as f64),
        main_origin: Some(app.main_origin(request_origin)),
        rpc_token: Some(open.grant.clone()),
        name: Some(call.name.clone()),
        cpu_ms: Some(call.limits.cpu.as_millis() as u64),
        memory_bytes: Some(call.limits.memory_bytes),
    };
    let reply = tokio::select! {
        () = cancel.cancelled() => Err(cancelled()),
        reply = tokio::time::timeout(call.limits.wall + WALL_GRACE, executor.run(&request)) => reply.unwrap_or_else(|_| Err(Failure::timeout(call.limits.wall))),
    };
    let recording = open.finish();
    let outcome = reply.map_or_else(Outcome::failed, |reply| outcome(reply, call, &recording));
    (outcome, recording)
}

/// The ops that a script's capabilities name. Which collections it may read is looked at again when it does.
fn granted(spec: &ScriptSpec) -> Vec<Op> {
    let capabilities = spec.capabilities.as_deref();
    let is_granted = |op: &Op| match op {
        Op::Fetch => capability::allows(capabilities, Need::Fetch),
        Op::DbList | Op::DbOne => capabilities.is_none_or(|list| list.iter().any(|capability| capability.starts_with("db:read"))),
        Op::EmailSend => capability::allows(capabilities, Need::Email),
        Op::SecretsGet => capability::allows(capabilities, Need::Secrets),
        Op::Sleep => false,
    };
    Op::ALL.into_iter().filter(is_granted).collect()
}

impl Executor {
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        // The operator's own machine, so nothing is looked at but that it stays the one.
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).connect_timeout(CONNECT_MAX).build()?;
        Ok(Self { client, url: format!("{url}/run") })
    }

    async fn run(&self, request: &RunRequest) -> Result<RunReply, Failure> {
        let unreached =
            |error: reqwest::Error| Failure::internal(format!("executor fetch failed: {}", line(&error_text(&error.without_url()), ERROR_MAX_CHARS)));
        let json = serde_json::to_vec(request).map_err(|error| Failure::internal(error.to_string()))?;
        let sent = self.client.post(&self.url).header(header::CONTENT_TYPE, "application/json").body(json).send().await;
        let mut response = sent.map_err(unreached)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreached)? {
            if body.len() + piece.len() > limits::SCRIPT_REMOTE_ANSWER_MAX_BYTES {
                return Err(Failure::internal(format!("executor answered with more than {} bytes", limits::SCRIPT_REMOTE_ANSWER_MAX_BYTES)));
            }
            body.extend_from_slice(&piece);
        }
        if !status.is_success() {
            return Err(Failure::internal(format!("executor http {}: {}", status.as_u16(), line(&String::from_utf8_lossy(&body), ERROR_MAX_CHARS))));
        }
        serde_json::from_slice(&body).map_err(|_| Failure::internal("executor returned non-JSON body"))
    }
}

/// What an executor says as we say it, within what the call may have.
fn outcome(reply: RunReply, call: &Call, recording: &Recording) -> Outcome {
    let logs = logs(&reply, call);
    let usage = reply.usage.unwrap_or_default();
    let result = if reply.ok {
        match reply.value {
            Some(value) if value.get().len() > call.limits.output_bytes => {
                let message = format!("the result is larger than {} bytes", call.limits.output_bytes);
                Err(Failure { code: FailureCode::PayloadTooLarge, name: "RangeError".into(), message, stack: None })
            }
            value => Ok(value),
        }
    } else {
        let mut message = reply.error.unwrap_or_else(|| "the executor gave no reason".to_owned());
        shorten(&mut message, TEXT_MAX_BYTES);
        let code = reply.code.unwrap_or_else(|| code_of(&message, recording));
        let mut name = reply.error_name.unwrap_or_else(|| if code == FailureCode::Timeout { "TimeoutError".into() } else { "Error".into() });
        shorten(&mut name, 256);
        let stack = reply.stack.map(|mut stack| {
            shorten(&mut stack, TEXT_MAX_BYTES);
            stack
        });
        Err(Failure { code, name, message, stack })
    };
    Outcome { result, logs, usage, clock: None }
}

/// What others give as a sentence alone.
fn code_of(message: &str, recording: &Recording) -> FailureCode {
    let denied = recording
        .ops
        .iter()
        .filter_map(|record| record.answer.as_ref()?.error.as_ref())
        .any(|error| error.code == FailureCode::Denied && error.message == message);
    if denied {
        FailureCode::Denied
    } else if message.contains("timed out after ") {
        FailureCode::Timeout
    } else {
        FailureCode::UserError
    }
}

fn logs(reply: &RunReply, call: &Call) -> Vec<LogLine> {
    let at_ms = now_ms();
    let given: Vec<LogLine> = match &reply.log_lines {
        Some(lines) => lines.clone(),
        None => {
            let line = |value: &serde_json::Value| LogLine { level: Level::Log, at_ms, text: value.as_str().map_or_else(|| value.to_string(), str::to_owned) };
            reply.logs.iter().map(line).collect()
        }
    };
    let (mut kept, mut bytes_left) = (Vec::new(), call.limits.log_bytes);
    let many = given.len();
    // Ours has said already that there were more, in a line of its own.
    for mut line in given.into_iter().take(call.limits.log_lines + 1) {
        if bytes_left == 0 {
            break;
        }
        let is_whole = line.text.len() <= bytes_left;
        shorten(&mut line.text, bytes_left);
        bytes_left = if is_whole { bytes_left - line.text.len() } else { 0 };
        // Ours has said so already, in a line that is longer by that.
        if !is_whole && !line.text.ends_with(LOG_CUT) {
            line.text.push_str(LOG_CUT);
        }
        kept.push(line);
    }
    if kept.len() < many && !kept.last().is_some_and(|line| line.text.ends_with(LOG_CUT)) {
        kept.push(LogLine { level: Level::Warn, at_ms, text: "[log truncated]".to_owned() });
    }
    kept
}
