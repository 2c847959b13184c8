//! Commands of a build: run one after the other in a sandbox, with all that they print in the log.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    app::{redact::Redactor, shell},
    limits::deploys as limits,
};
use sandbar_node::{
    Runtime,
    client::{AttachedFrame, ProcdError},
};

use super::{log::Log, shell::context};

/// Why a build failed, in words for whoever deploys.
#[derive(Debug)]
pub(super) struct Failure(pub String);

/// The end of what a command printed.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let surplus = self.0.len().saturating_sub(limits::APP_REASON_MAX_BYTES);
        self.0.drain(..surplus);
    }

    fn lines(&self) -> String {
        // Where it was cut, a character may have been.
        let bytes: Vec<u8> = self.0.iter().copied().skip_while(|byte| byte & 0xc0 == 0x80).collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(limits::APP_REASON_LINES_MAX)..].join("\n")
    }
}

/// What commands get besides the sandbox's own environment, and what of it may not be seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra {
    pub env: BTreeMap<String, String>,
    pub redactor: Redactor,
}

/// Runs commands of one kind; the first that fails ends it. All of them have until `until`.
pub(super) async fn run(runtime: &Arc<Runtime>, what: &str, commands: &[String], extra: &Extra, until: Instant, log: &mut Log) -> Result<(), Failure> {
    let count = commands.len();
    for (index, command) in commands.iter().enumerate() {
        let step = if count == 1 { format!("{what} command") } else { format!("{what} command {} of {count}", index + 1) };
        log.line(&format!("==> {step}: {command}")).await;
        let began = Instant::now();
        let mut tail = Tail::default();
        let left = until.saturating_duration_since(began);
        let ran = tokio::time::timeout(left, one(runtime, command, extra, left, log, &mut tail)).await;
        let how = match ran {
            Ok(Ok(0)) => {
                log.line(&format!("==> done in {:.1} s", began.elapsed().as_secs_f64())).await;
                continue;
            }
            Ok(Ok(code)) => format!("failed with exit code {code}"),
            Ok(Err(text)) => text,
            Err(_) => format!("was ended: the build may take {} s", limits::APP_BUILD_MAX_S),
        };
        let printed = tail.lines();
        let shown: String = command.chars().take(200).collect();
        let text = if printed.is_empty() { format!("{step} {how}: {shown}") } else { format!("{step} {how}: {shown}\n{printed}") };
        return Err(Failure(text));
    }
    Ok(())
}

/// One command to its end; returns its exit code.
async fn one(runtime: &Arc<Runtime>, command: &str, extra: &Extra, left: Duration, log: &mut Log, tail: &mut Tail) -> Result<i32, String> {
    let refused = |error: ProcdError| match error {
        ProcdError::Api { body, .. } => format!("cannot be started ({}); commands need a /bin/sh", body.message),
        ProcdError::Gone(_) | ProcdError::Protocol(_) => "was cut short: the processes of the build's sandbox ended".to_owned(),
    };
    let context = runtime
        .client
        .create_context(&context(shell::argv_alone(command), shell::folder(None), extra.env.clone(), left.as_secs().max(1)))
        .await
        .map_err(refused)?;
    let attached = runtime.client.attach(&context.id).await.map_err(refused)?;
    let (mut output, mut input) = attached.split();
    // Who asks questions is told that nobody answers. One that has ended by now asks none.
    let _ = input.end_input().await;
    let mut redactor = extra.redactor.clone();
    while let Some(frame) = output.next().await.map_err(refused)? {
        match frame {
            AttachedFrame::Output { data, .. } => {
                let seen = redactor.push(data.as_bytes());
                log.write(&seen).await;
                tail.add(&seen);
            }
            AttachedFrame::Lost(lost) => {
                let seen = redactor.push(lost.line().as_bytes());
                log.write(&seen).await;
                tail.add(&seen);
            }
            AttachedFrame::Ready(_) => {}
            AttachedFrame::Done(done) => {
                let rest = redactor.finish();
                log.write(&rest).await;
                tail.add(&rest);
                // Nobody asks for it again.
                let _ = runtime.client.delete_context(&context.id).await;
                return Ok(done.exit_code);
            }
        }
    }
    Err("was cut short: the processes of the build's sandbox ended".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_cut_between_characters() {
        let mut tail = Tail::default();
        for at in 0..3 {
            // Of three bytes each, cut at each of them.
            tail.add("x".repeat(at).as_bytes());
            tail.add("\u{20ac}".repeat(limits::APP_REASON_MAX_BYTES).as_bytes());
            let lines = tail.lines();
            assert!(lines.len() > limits::APP_REASON_MAX_BYTES - 3 && !lines.contains('\u{fffd}'), "{at}");
        }
        let mut tail = Tail::default();
        // A character that comes in two pieces is one.
        "gr\u{fc}n\n".as_bytes().iter().for_each(|byte| tail.add(&[*byte]));
        assert_eq!(tail.lines(), "gr\u{fc}n");
    }
}
