//! Between the public shapes of contexts and the agent's.

use sandbar_api::context::{
    ContextKind, ContextOutput, ContextResponse, ContextStatsResponse, CreateContextRequest, PtySizeRequest, ReplConfig, ReplRequest, ResourceUsage,
};
use sandbar_core::{limits, validate};
use sandbar_procd_api as agent;

use crate::{app::sandboxes::violations, error::ApiError, http::time::rfc3339_seconds};

/// What is used for the side of a terminal that was not named.
const PTY_DEFAULT: agent::PtySize = agent::PtySize { rows: 24, cols: 80 };

/// Checks a request and turns it into the agent's.
pub fn create(request: CreateContextRequest) -> Result<agent::CreateContext, ApiError> {
    let (kind, repl, cmd) = match request.kind {
        ContextKind::Cmd => {
            if request.repl.is_some() {
                return Err(ApiError::bad_request("repl: a context of type cmd has none"));
            }
            let command = request.cmd.unwrap_or_default().command;
            check_command(&command)?;
            (agent::ContextType::Cmd, None, Some(agent::Cmd { command }))
        }
        ContextKind::Repl => {
            if request.cmd.is_some() {
                return Err(ApiError::bad_request("cmd: a context of type repl has none"));
            }
            (agent::ContextType::Repl, Some(repl(request.repl.unwrap_or_default())?), None)
        }
    };
    if request.cwd.as_ref().is_some_and(|cwd| cwd.contains('\0') || cwd.len() > limits::PATH_MAX_BYTES) {
        return Err(ApiError::bad_request("cwd: is no path"));
    }
    let env_vars = validate::env_vars(&request.env_vars.unwrap_or_default(), "env_vars").map_err(violations)?;
    Ok(agent::CreateContext {
        kind,
        repl,
        cmd,
        wait_until_done: request.wait_until_done.unwrap_or_default(),
        cwd: request.cwd.filter(|cwd| !cwd.is_empty()),
        env_vars,
        pty_size: request.pty_size.and_then(pty_size),
        idle_timeout_sec: request.idle_timeout_sec.unwrap_or_default().into(),
        ttl_sec: request.ttl_sec.unwrap_or_default().into(),
        untold: false,
        followed: kind == agent::ContextType::Cmd && !request.wait_until_done.unwrap_or_default(),
        kept: None,
    })
}

pub fn context(context: agent::Context) -> ContextResponse {
    let finished = !context.running;
    ContextResponse {
        id: context.id,
        kind: kind(context.kind),
        alias: context.alias,
        command: context.command,
        cwd: context.cwd,
        env_vars: context.env_vars,
        running: context.running,
        paused: context.paused,
        pid: context.pid,
        created_at: rfc3339_seconds(context.created_ms),
        output: output(context.output, context.state, finished),
    }
}

/// `output_raw` is always there: clients require it.
pub fn exec_result(result: agent::ExecResult) -> ContextOutput {
    let finished = result.output.exit_code.is_some();
    let mut output = output(result.output, result.state, finished);
    output.output_raw.get_or_insert_default();
    output
}

pub fn stats(context: agent::Context, stats: &agent::Stats) -> ContextStatsResponse {
    ContextStatsResponse {
        context_id: context.id,
        kind: kind(context.kind),
        alias: context.alias,
        running: context.running,
        paused: context.paused,
        usage: ResourceUsage {
            cpu_percent: stats.cpu_percent,
            memory_rss: stats.memory_rss,
            memory_vms: stats.memory_vms,
            open_files: stats.open_files,
            thread_count: stats.thread_count,
            io_read_bytes: stats.io_read_bytes,
            io_write_bytes: stats.io_write_bytes,
        },
    }
}

/// The word for a state.
pub fn state_name(state: agent::ContextState) -> &'static str {
    match state {
        agent::ContextState::Created => "created",
        agent::ContextState::Starting => "starting",
        agent::ContextState::Running => "running",
        agent::ContextState::Paused => "paused",
        agent::ContextState::Stopped => "stopped",
        agent::ContextState::Killed => "killed",
        agent::ContextState::Crashed => "crashed",
    }
}

fn output(output: agent::Output, state: agent::ContextState, finished: bool) -> ContextOutput {
    // The streams come together or not at all.
    let streams = output.stdout.is_some() || output.stderr.is_some();
    let stream = |text: Option<String>| if streams { Some(text.unwrap_or_default()) } else { None };
    ContextOutput {
        output_raw: output.output_raw,
        stdout: stream(output.stdout),
        stderr: stream(output.stderr),
        exit_code: output.exit_code.filter(|_| finished),
        state: finished.then(|| state_name(state).to_owned()),
        reason: output.reason,
        truncated: output.truncated,
    }
}

fn kind(kind: agent::ContextType) -> ContextKind {
    match kind {
        agent::ContextType::Repl => ContextKind::Repl,
        agent::ContextType::Cmd => ContextKind::Cmd,
    }
}

fn check_command(command: &[String]) -> Result<(), ApiError> {
    if command.first().is_none_or(String::is_empty) {
        return Err(ApiError::bad_request("cmd.command: a context of type cmd needs a program"));
    }
    for (i, argument) in command.iter().enumerate() {
        if argument.contains('\0') {
            return Err(ApiError::bad_request(format!("cmd.command[{i}]: holds a NUL character")));
        }
        if argument.len() > limits::ARGUMENT_MAX_BYTES {
            return Err(ApiError::bad_request(format!(
                "cmd.command[{i}]: an argument may have at most {} bytes; write a file instead",
                limits::ARGUMENT_MAX_BYTES
            )));
        }
    }
    if command.iter().map(String::len).sum::<usize>() > limits::ARGUMENTS_TOTAL_MAX_BYTES {
        return Err(ApiError::bad_request(format!("cmd.command: all arguments together may have at most {} bytes", limits::ARGUMENTS_TOTAL_MAX_BYTES)));
    }
    Ok(())
}

fn repl(request: ReplRequest) -> Result<agent::Repl, ApiError> {
    let alias = request.alias.unwrap_or_default();
    let config = request.repl_config.map(repl_config).transpose()?;
    if let Some(config) = &config
        && !alias.is_empty()
        && alias != config.name
    {
        return Err(ApiError::bad_request("repl.alias: must equal repl.repl_config.name"));
    }
    Ok(agent::Repl { alias, input: request.input, repl_config: config })
}

fn repl_config(config: ReplConfig) -> Result<agent::ReplConfig, ApiError> {
    if config.name.is_empty() {
        return Err(ApiError::bad_request("repl.repl_config.name: must not be empty"));
    }
    if config.candidates.is_empty() {
        return Err(ApiError::bad_request("repl.repl_config.candidates: needs at least one program"));
    }
    if let Some(i) = config.candidates.iter().position(|candidate| candidate.name.is_empty()) {
        return Err(ApiError::bad_request(format!("repl.repl_config.candidates[{i}].name: must not be empty")));
    }
    let candidate = |candidate: sandbar_api::context::ReplCandidate| agent::ReplCandidate { name: candidate.name, args: candidate.args.unwrap_or_default() };
    let variable =
        |variable: sandbar_api::context::ReplEnvVar| agent::ReplEnvVar { name: variable.name, value: variable.value, value_from: variable.value_from };
    Ok(agent::ReplConfig {
        name: config.name,
        display_name: config.display_name,
        description: config.description,
        candidates: config.candidates.into_iter().map(candidate).collect(),
        env: config.env.unwrap_or_default().into_iter().map(variable).collect(),
        default_term: config.default_term,
        prompt: config.prompt.map(|prompt| agent::ReplPrompt { custom_prompt: prompt.custom_prompt }),
        ready: config.ready.map(|ready| agent::ReplReady {
            mode: ready.mode.map(|mode| mode.as_str().to_owned()),
            token: ready.token,
            startup_delay_ms: ready.startup_delay_ms.map(Into::into),
        }),
    })
}

/// No terminal when neither side is named.
fn pty_size(size: PtySizeRequest) -> Option<agent::PtySize> {
    let (rows, cols) = (size.rows.filter(|n| *n > 0), size.cols.filter(|n| *n > 0));
    (rows.is_some() || cols.is_some()).then(|| agent::PtySize { rows: rows.unwrap_or(PTY_DEFAULT.rows), cols: cols.unwrap_or(PTY_DEFAULT.cols) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::extract::parse;

    fn create_json(json: &str) -> Result<agent::CreateContext, ApiError> {
        parse::<CreateContextRequest>(json.as_bytes()).and_then(create)
    }

    #[test]
    fn requests_are_checked_before_a_sandbox_is_woken() {
        for json in [
            r#"{"type":"cmd"}"#,
            r#"{"type":"cmd","cmd":{"command":[]}}"#,
            r#"{"type":"cmd","cmd":{"command":[""]}}"#,
            r#"{"type":"cmd","cmd":{"command":["a\u0000b"]}}"#,
            r#"{"type":"cmd","cmd":{"command":["a"]},"repl":{}}"#,
            r#"{"type":"repl","cmd":{"command":["a"]}}"#,
            r#"{"type":"repl","repl":{"alias":"a","repl_config":{"name":"b","candidates":[{"name":"x"}]}}}"#,
            r#"{"type":"repl","repl":{"repl_config":{"name":"b","candidates":[]}}}"#,
            r#"{"type":"repl","repl":{"repl_config":{"name":"b","candidates":[{"name":"x"}],"ready":{"mode":"magic"}}}}"#,
            r#"{"type":"repl","idle_timeout_sec":-1}"#,
        ] {
            assert_eq!(create_json(json).expect_err(json).status(), 400, "{json}");
        }
        let minimal = create_json(r#"{"type":"repl"}"#).expect("a python REPL");
        assert_eq!(minimal.repl.expect("repl").alias, "");
        let terminal = create_json(r#"{"type":"cmd","cmd":{"command":["a"]},"pty_size":{"rows":3},"env_vars":null,"cwd":""}"#).expect("valid");
        assert_eq!(terminal.pty_size, Some(agent::PtySize { rows: 3, cols: 80 }));
        assert_eq!(terminal.cwd, None);
        assert_eq!(create_json(r#"{"type":"repl","pty_size":{}}"#).expect("valid").pty_size, None);
    }

    #[test]
    fn streams_come_together_and_the_end_only_after_the_end() {
        let text = |text: &str| Some(text.to_owned());
        let running = agent::Output { output_raw: text("a"), stdout: text("a"), ..agent::Output::default() };
        let rendered = output(running, agent::ContextState::Running, false);
        assert_eq!((rendered.stdout.as_deref(), rendered.stderr.as_deref()), (Some("a"), Some("")));
        assert_eq!((rendered.exit_code, rendered.state), (None, None));
        let silent = agent::ExecResult { state: agent::ContextState::Running, output: agent::Output::default() };
        let rendered = serde_json::to_value(exec_result(silent)).expect("json");
        assert_eq!(rendered, serde_json::json!({ "output_raw": "" }));
        let ended = agent::Output { exit_code: Some(7), ..agent::Output::default() };
        let rendered = output(ended, agent::ContextState::Crashed, true);
        assert_eq!((rendered.exit_code, rendered.state.as_deref(), rendered.stdout), (Some(7), Some("crashed"), None));
    }
}
