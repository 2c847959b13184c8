//! `sandbar sandbox exec` and `shell`: a command context and its WebSocket, joined to our standard streams.

use std::io::{IsTerminal, Write};

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue};

use crate::{
    cli::{ExecArgs, Output, ShellArgs},
    client::{Client, Refusal, sandbox_path, segment},
    output::{self, cell},
    terminal,
};

/// Interrupts after which we leave, whatever the command does.
const INTERRUPTS_MAX: u32 = 3;
/// With `-o json`, what is kept of each stream.
const COLLECT_BYTES_MAX: usize = 16 << 20;
/// Exit code of a program that was interrupted.
pub const INTERRUPTED: u8 = 130;
/// Exit code of a program whose reader has gone.
const BROKEN_PIPE: u8 = 141;

pub async fn command(client: &Client, form: Output, args: ExecArgs) -> anyhow::Result<u8> {
    let env = args.env.into_iter().collect();
    let launch = Launch { command: args.command, env, cwd: args.cwd, tty: args.tty };
    launch.run(client, form, &args.id).await
}

/// A shell in a terminal; `sh` where the default shell is missing.
pub async fn shell(client: &Client, args: ShellArgs) -> anyhow::Result<u8> {
    let env: std::collections::BTreeMap<String, String> = args.env.into_iter().collect();
    let launch = |shell: &str| Launch { command: vec![shell.into()], env: env.clone(), cwd: args.cwd.clone(), tty: true };
    match launch(&args.shell).run(client, Output::Table, &args.id).await {
        Err(error) if args.shell == "bash" && error.downcast_ref::<Refusal>().is_some_and(|r| r.code == "create_failed") => {
            launch("sh").run(client, Output::Table, &args.id).await
        }
        result => result,
    }
}

/// An exit code of the API as one of ours: -1 and other oddities become 255.
pub fn exit_byte(code: i64) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

struct Launch {
    command: Vec<String>,
    env: std::collections::BTreeMap<String, String>,
    cwd: Option<String>,
    tty: bool,
}

/// How the command ended.
struct End {
    code: u8,
    reason: Option<String>,
    state: Value,
}

impl Launch {
    async fn run(mut self, client: &Client, form: Output, id: &str) -> anyhow::Result<u8> {
        if self.tty && form == Output::Json {
            bail!("a terminal and -o json do not go together");
        }
        let mut body = json!({"type": "cmd", "cmd": {"command": self.command}, "wait_until_done": false});
        if self.tty {
            let (rows, cols) = terminal::size();
            body["pty_size"] = json!({"rows": rows, "cols": cols});
            if let Ok(term) = std::env::var("TERM") {
                self.env.entry("TERM".into()).or_insert(term);
            }
        }
        if !self.env.is_empty() {
            body["env_vars"] = json!(self.env);
        }
        if let Some(cwd) = &self.cwd {
            body["cwd"] = json!(cwd);
        }
        let contexts = sandbox_path(id, "/contexts");
        let context = cell(&client.post(&contexts, &body).await?["id"]);
        let mut sink = if form == Output::Json { Sink::Collected(Collected::default()) } else { Sink::Ours };
        let end = attach(client, &format!("{contexts}/{}/ws", segment(&context)), self.tty, &mut sink).await?;
        if let Some(reason) = &end.reason {
            eprintln!("sandbar: {}", output::printable(reason));
        }
        if let Sink::Collected(kept) = sink {
            output::json(
                &json!({"context_id": context, "stdout": kept.stdout, "stderr": kept.stderr, "truncated": kept.truncated, "exit_code": end.code, "state": end.state, "reason": end.reason}),
            );
        }
        Ok(end.code)
    }
}

enum Sink {
    Ours,
    Collected(Collected),
}

#[derive(Default)]
struct Collected {
    stdout: String,
    stderr: String,
    truncated: bool,
}

impl Sink {
    /// Some output did not reach us.
    fn lost(&mut self, bytes: &Value) {
        match self {
            Self::Ours => eprintln!("sandbar: {bytes} bytes of output are missing here: they were not taken in time"),
            Self::Collected(kept) => kept.truncated = true,
        }
    }

    fn write(&mut self, source: &str, data: &str) -> std::io::Result<()> {
        match self {
            Self::Ours if source == "stderr" => {
                let mut err = std::io::stderr().lock();
                err.write_all(data.as_bytes())?;
                err.flush()
            }
            Self::Ours => {
                let mut out = std::io::stdout().lock();
                out.write_all(data.as_bytes())?;
                out.flush()
            }
            Self::Collected(kept) => {
                let text = if source == "stderr" { &mut kept.stderr } else { &mut kept.stdout };
                if text.len() + data.len() > COLLECT_BYTES_MAX {
                    kept.truncated = true;
                } else {
                    text.push_str(data);
                }
                Ok(())
            }
        }
    }
}

/// The hangup of our terminal; never when whoever started us has us ignore it, as `nohup` does.
struct Hangups(Option<Signal>);

impl Hangups {
    fn listen() -> std::io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Ok(Self(if ignores_hangup(&status) { None } else { Some(signal(SignalKind::hangup())?) }))
    }

    async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Whether a process with this `/proc/PID/status` ignores SIGHUP, which is signal 1.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Joins our streams, signals and window to the context until it is done.
async fn attach(client: &Client, path: &str, tty: bool, sink: &mut Sink) -> anyhow::Result<End> {
    let (mut to_server, mut from_server) = connect(client, path).await?.split();
    let _raw = if tty { terminal::RawMode::enter() } else { None };
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut hangups = Hangups::listen()?;
    let mut resizes = signal(SignalKind::window_change())?;
    let mut input = terminal::input();
    let (mut input_open, mut interrupted, mut carry) = (true, 0, Vec::new());
    loop {
        let message = tokio::select! {
            frame = from_server.next() => {
                let Some(frame) = frame else { bail!("the connection ended before the command did") };
                match on_frame(frame.context("the connection broke off before the command ended")?, sink) {
                    Ok(Step::Ended(end)) => return Ok(end),
                    Ok(Step::GoOn) => continue,
                    Ok(Step::Closed(reason)) => bail!("the server closed the connection before the command ended{reason}"),
                    Err(_) => {
                        // Nobody reads our output any more: tell the command as a terminal would. Not by the socket: it is
                        // full of output that we drop, and what we send last may be lost with it.
                        let context = path.trim_end_matches("/ws");
                        let _ = client.post(&format!("{context}/signal"), &json!({"signal": "HUP"})).await;
                        return Ok(End { code: BROKEN_PIPE, reason: None, state: Value::Null });
                    }
                }
            }
            chunk = input.recv(), if input_open => match chunk {
                Some(chunk) => {
                    carry.extend_from_slice(&chunk);
                    if !tty && !is_text(&carry) {
                        let _ = client.delete(path.trim_end_matches("/ws")).await;
                        bail!("standard input is not UTF-8 text, and exec carries only text, so the command was ended; copy binary files with `sandbar sandbox cp`");
                    }
                    match whole_characters(&mut carry) {
                        Some(data) => json!({"type": "input", "data": data}),
                        None => continue,
                    }
                }
                None => {
                    input_open = false;
                    // A terminal's end of file is a character.
                    let data = if tty && !std::io::stdin().is_terminal() { "\u{4}".to_owned() } else { String::from_utf8_lossy(&carry).into_owned() };
                    if tty { json!({"type": "input", "data": data}) } else { json!({"type": "input", "data": data, "eof": true}) }
                }
            },
            _ = interrupts.recv() => {
                interrupted += 1;
                if interrupted >= INTERRUPTS_MAX {
                    return Ok(End { code: INTERRUPTED, reason: Some("left the command running; it did not end on interrupt".into()), state: Value::Null });
                }
                json!({"type": "signal", "signal": "INT"})
            }
            _ = terminations.recv() => json!({"type": "signal", "signal": "TERM"}),
            () = hangups.recv() => json!({"type": "signal", "signal": "HUP"}),
            _ = resizes.recv(), if tty => {
                let (rows, cols) = terminal::size();
                json!({"type": "resize", "rows": rows, "cols": cols})
            }
        };
        if to_server.send(text(&message)).await.is_err() {
            // What the server still has to say, the end above all, comes by the other half.
            input_open = false;
        }
    }
}

enum Step {
    GoOn,
    Ended(End),
    Closed(String),
}

fn on_frame(frame: Message, sink: &mut Sink) -> std::io::Result<Step> {
    let body = match &frame {
        Message::Text(body) => body.as_bytes(),
        Message::Binary(body) => body.as_ref(),
        Message::Close(close) => return Ok(Step::Closed(close.as_ref().map(|c| format!(" ({} {})", c.code, c.reason)).unwrap_or_default())),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(Step::GoOn),
    };
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Ok(Step::GoOn) };
    match value["type"].as_str() {
        Some("output") if value["lost_bytes"].is_u64() => {
            sink.lost(&value["lost_bytes"]);
            Ok(Step::GoOn)
        }
        Some("output") => {
            sink.write(value["source"].as_str().unwrap_or("stdout"), value["data"].as_str().unwrap_or_default())?;
            Ok(Step::GoOn)
        }
        // A `done` with a request id and no exit code only says that a REPL is ready again.
        Some("done") if value["exit_code"].is_i64() || value["state"].is_string() || value["request_id"].is_null() => {
            let code = value["exit_code"].as_i64().map_or(1, exit_byte);
            Ok(Step::Ended(End { code, reason: value["reason"].as_str().filter(|r| !r.is_empty()).map(str::to_owned), state: value["state"].clone() }))
        }
        _ => Ok(Step::GoOn),
    }
}

fn text(value: &Value) -> Message {
    Message::text(value.to_string())
}

/// Whether these are whole characters, or would be with the bytes that follow.
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Takes the whole characters out of `carry` and leaves a cut one; `None` when there is nothing whole yet.
fn whole_characters(carry: &mut Vec<u8>) -> Option<String> {
    let cut = match std::str::from_utf8(carry) {
        Ok(_) => carry.len(),
        // `error_len` is absent exactly when the text ends within a character.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => carry.len(),
    };
    let rest = carry.split_off(cut);
    let data = String::from_utf8_lossy(carry).into_owned();
    *carry = rest;
    if data.is_empty() { None } else { Some(data) }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(client: &Client, path: &str) -> anyhow::Result<Socket> {
    // "http..." becomes "ws...": the letters after it are the same.
    let url = format!("ws{}{path}", client.base().trim_start_matches("http"));
    let mut request = url.into_client_request().context("the server's address fits no WebSocket")?;
    request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {}", client.token()))?);
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let error = serde_json::from_slice::<Value>(body).map(|mut v| v["error"].take()).unwrap_or_default();
            let request_id = response.headers().get("x-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
            let message = error["message"].as_str().unwrap_or("the server refused to attach to the command").to_owned();
            Err(Refusal { status: response.status().as_u16(), code: error["code"].as_str().unwrap_or("error").into(), message, details: None, request_id }
                .into())
        }
        Err(error) => Err(error).context("cannot attach to the command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_character_waits_for_its_rest() {
        let mut carry = "a\u{e9}".as_bytes()[..2].to_vec();
        assert_eq!(whole_characters(&mut carry).as_deref(), Some("a"));
        carry.push(0xa9);
        assert_eq!(whole_characters(&mut carry).as_deref(), Some("\u{e9}"));
        carry = vec![0xff, b'b'];
        assert_eq!(whole_characters(&mut carry).as_deref(), Some("\u{fffd}b"));
        assert_eq!(whole_characters(&mut carry), None);
    }

    #[test]
    fn a_cut_character_is_text_and_a_wrong_one_is_not() {
        assert!(is_text(b"") && is_text("\u{e9}".as_bytes()) && is_text(&"a\u{e9}".as_bytes()[..2]));
        assert!(!is_text(b"a\xffb"));
    }

    #[test]
    fn a_hangup_that_is_ignored_stays_so() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n") && !ignores_hangup(""));
    }

    #[test]
    fn what_is_missing_is_told_and_not_taken_for_output() {
        let mut sink = Sink::Collected(Collected::default());
        on_frame(text(&json!({"type": "output", "source": "stderr", "data": "7 bytes", "lost_bytes": 7})), &mut sink).unwrap();
        let Sink::Collected(kept) = sink else { unreachable!() };
        assert_eq!((kept.stdout.as_str(), kept.stderr.as_str(), kept.truncated), ("", "", true));
    }

    #[test]
    fn only_a_terminal_done_ends_the_command() {
        let mut sink = Sink::Collected(Collected::default());
        let mut step = |value: Value| on_frame(text(&value), &mut sink).unwrap();
        assert!(matches!(step(json!({"type": "done", "request_id": "r"})), Step::GoOn));
        assert!(matches!(step(json!({"type": "output", "source": "stdout", "data": "x"})), Step::GoOn));
        assert!(matches!(step(json!({"type": "done", "exit_code": 7, "state": "crashed"})), Step::Ended(End { code: 7, .. })));
        assert!(matches!(step(json!({"type": "done"})), Step::Ended(End { code: 1, .. })));
        assert!(matches!(step(json!({"type": "done", "exit_code": -1})), Step::Ended(End { code: 255, .. })));
    }
}
