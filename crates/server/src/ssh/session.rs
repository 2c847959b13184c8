//! A session: what the client asks for becomes a process inside, whose streams are the channel's.

use std::collections::BTreeMap;

use bytes::Bytes;
use sandbar_node::{
    Runtime,
    client::{ProcessFrame, ProcessInput, ProcessOutput},
};
use sandbar_procd_api::{
    PtySize, Signal,
    process::{Exit, Start},
};
use sandbar_ssh::{Channel, Event, Open, Outcome, Request, Stream};

use super::client::{Client, why_silent};

/// The agent as it stands inside, which also speaks SFTP.
pub(super) const AGENT: &[u8] = b"/procd/bin/procd";
/// Variables that a client may set, besides `LC_*`.
const VARIABLES: [&str; 6] = ["LANG", "LANGUAGE", "TERM", "COLORTERM", "TZ", "GIT_PROTOCOL"];
const VARIABLES_MAX: usize = 64;
const VARIABLE_BYTES_MAX: usize = 4 << 10;
const TERM_BYTES_MAX: usize = 64;
/// A terminal of a size that nobody said.
const SIZE_DEFAULT: PtySize = PtySize { rows: 24, cols: 80 };
/// As OpenSSH's client ends when something else than the command went wrong.
const FAILED: u32 = 255;

/// Names of signals (RFC 4254, section 6.10) and their numbers.
const SIGNALS: [(&str, i32); 13] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("KILL", 9),
    ("PIPE", 13),
    ("QUIT", 3),
    ("SEGV", 11),
    ("TERM", 15),
    ("USR1", 10),
    ("USR2", 12),
];

/// What is to be started.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    arguments: Vec<Vec<u8>>,
    start: Start,
}

pub(super) async fn serve(client: &Client, open: Open) {
    let Some(channel) = open.accept() else { return };
    let Some(asked) = asked(&channel).await else { return };
    let pty = asked.start.pty_size.is_some();
    let runs = async {
        let runtime = client.runtime().await?;
        let (input, output) = client.start(&runtime, &asked.arguments, &asked.start).await?;
        Ok::<_, crate::error::ApiError>((runtime, input, output))
    };
    let mut resized = None;
    let started = tokio::select! {
        started = runs => started,
        () = hear_meanwhile(&channel, &mut resized) => return,
    };
    let ended = match started {
        Ok((runtime, input, output)) => {
            if let Some(size) = resized.filter(|_| pty) {
                input.resize(size);
            }
            follow(&channel, &runtime, input, output, pty).await
        }
        Err(error) => Err(error.message().to_owned()),
    };
    let outcome = match ended {
        Ok(Some(outcome)) => outcome,
        // The client has gone.
        Ok(None) => return,
        Err(text) => {
            tracing::debug!(sandbox = client.sandbox(), text, "an SSH session ended before its process");
            if say(&channel, &text, pty).await.is_err() {
                return;
            }
            Outcome::Status(FAILED)
        }
    };
    channel.exit(outcome);
    channel.end();
}

/// Hears the client while nothing runs that it could ask something of: of that only a terminal's size is kept. Returns when
/// it goes.
async fn hear_meanwhile(channel: &Channel, resized: &mut Option<PtySize>) {
    while let Some(Event::Request { request, wants_reply }) = channel.event().await {
        let is_size = if let Request::Resize { cols, rows } = request {
            *resized = Some(size(cols, rows));
            true
        } else {
            false
        };
        if wants_reply {
            channel.answer(is_size);
        }
    }
}

/// A word of ours, among what the program says.
async fn say(channel: &Channel, text: &str, pty: bool) -> Result<(), ()> {
    let (begin, end) = if pty { ("\r\n", "\r\n") } else { ("", "\n") };
    let line = Bytes::from(format!("{begin}sandbar: {text}{end}"));
    let mut resized = None;
    tokio::select! {
        written = channel.write(Stream::Err, line) => written.map_err(drop),
        () = hear_meanwhile(channel, &mut resized) => Err(()),
    }
}

/// Hears the client until it says what to run; `None` when it goes.
async fn asked(channel: &Channel) -> Option<Asked> {
    let mut start = Start::default();
    loop {
        let Event::Request { request, wants_reply } = channel.event().await?;
        let (yes, arguments) = match request {
            Request::Pty(pty) => {
                if !pty.term.is_empty() && pty.term.len() <= TERM_BYTES_MAX && pty.term.bytes().all(|b| b.is_ascii_graphic()) {
                    start.env_vars.insert("TERM".to_owned(), pty.term);
                }
                start.pty_size = Some(size(pty.cols, pty.rows));
                (true, None)
            }
            Request::Resize { cols, rows } => {
                start.pty_size = start.pty_size.map(|_| size(cols, rows));
                (true, None)
            }
            Request::Env { name, value } => (set(&mut start.env_vars, name, value), None),
            Request::Shell => {
                start.programs = vec!["bash".to_owned(), "sh".to_owned()];
                (true, Some(vec![b"sh".to_vec(), b"-l".to_vec()]))
            }
            Request::Exec(command) if !command.contains(&0) => (true, Some(vec![b"/bin/sh".to_vec(), b"-lc".to_vec(), command])),
            Request::Subsystem(name) if name == "sftp" => {
                start.pty_size = None;
                (true, Some(vec![AGENT.to_vec(), b"sftp-server".to_vec()]))
            }
            // Nothing of the client's is reached from inside: a sandbox would have its owner's keys and screen.
            Request::Exec(_) | Request::Subsystem(_) | Request::Signal(_) | Request::Agent | Request::X11 | Request::Other(_) => (false, None),
        };
        // Before there is any output.
        if wants_reply {
            channel.answer(yes);
        }
        if let Some(arguments) = arguments {
            return Some(Asked { arguments, start });
        }
    }
}

fn set(variables: &mut BTreeMap<String, String>, name: String, value: String) -> bool {
    let allowed = VARIABLES.contains(&name.as_str()) || name.starts_with("LC_");
    let fits = name.len() <= TERM_BYTES_MAX && value.len() <= VARIABLE_BYTES_MAX && variables.len() < VARIABLES_MAX;
    let set = allowed && fits && !name.contains(['=', '\0']) && !value.contains('\0');
    if set {
        variables.insert(name, value);
    }
    set
}

fn size(cols: u32, rows: u32) -> PtySize {
    let side = |wanted: u32, default: u16| u16::try_from(wanted).ok().filter(|side| *side > 0).unwrap_or(default);
    PtySize { rows: side(rows, SIZE_DEFAULT.rows), cols: side(cols, SIZE_DEFAULT.cols) }
}

/// Carries the streams until the process has ended, or says why that is not known; nothing when the client goes.
async fn follow(channel: &Channel, runtime: &Runtime, input: ProcessInput, mut output: ProcessOutput, pty: bool) -> Result<Option<Outcome>, String> {
    let out = async {
        loop {
            let (stream, data) = match output.next().await {
                Ok(ProcessFrame::Stdout(data)) => (Stream::Out, data),
                Ok(ProcessFrame::Stderr(data)) => (Stream::Err, data),
                Ok(ProcessFrame::Exit(exit)) => return Ok(Some(exit)),
                Err(error) => {
                    tracing::debug!(%error, "a process is not heard of any more");
                    return Err(why_silent(runtime).await);
                }
            };
            if channel.write(stream, data).await.is_err() {
                return Ok(None);
            }
        }
    };
    let carry = async {
        while let Some(data) = channel.read().await {
            input.write(data).await;
        }
        input.end();
        std::future::pending::<()>().await;
    };
    let hear = async {
        while let Some(event) = channel.event().await {
            let Event::Request { request, wants_reply } = event;
            let yes = match request {
                Request::Resize { cols, rows } => {
                    input.resize(size(cols, rows));
                    true
                }
                Request::Signal(name) => match SIGNALS.iter().find(|(known, _)| *known == name) {
                    Some((_, number)) => {
                        input.signal(&Signal { signal: number.to_string() });
                        true
                    }
                    None => false,
                },
                _ => false,
            };
            if wants_reply {
                channel.answer(yes);
            }
        }
        std::future::pending::<()>().await;
    };
    let exit = tokio::select! {
        exit = out => exit,
        () = carry => Ok(None),
        () = hear => Ok(None),
        () = channel.closed() => Ok(None),
        () = runtime.frozen() => Err("the sandbox was paused"),
    };
    match exit {
        Ok(Some(exit)) => {
            if exit.out_of_memory {
                let _ = say(channel, "the sandbox reached its memory limit and the kernel killed the process", pty).await;
            }
            Ok(Some(outcome(exit)))
        }
        Ok(None) => Ok(None),
        Err(text) => Err(text.to_owned()),
    }
}

fn outcome(exit: Exit) -> Outcome {
    let named = exit.signal.and_then(|number| SIGNALS.iter().find(|(_, known)| *known == number));
    match named {
        Some((name, _)) => Outcome::Signal((*name).to_owned()),
        None => Outcome::Status(u32::try_from(exit.code).unwrap_or(FAILED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_a_client_may_set() {
        let mut variables = BTreeMap::new();
        let mut set = |name: &str, value: &str| set(&mut variables, name.to_owned(), value.to_owned());
        assert!(set("LANG", "C.UTF-8") && set("LC_ALL", "C") && set("GIT_PROTOCOL", "version=2"));
        assert!(!set("LD_PRELOAD", "x") && !set("PATH", "/") && !set("LC_=X", "x") && !set("LANG", "a\0b") && !set("LANG", &"x".repeat(5000)));
        for n in 0..100 {
            set(&format!("LC_{n}"), "x");
        }
        assert_eq!(variables.len(), VARIABLES_MAX);
    }

    #[test]
    fn ends() {
        let end = |code, signal| outcome(Exit { code, signal, out_of_memory: false });
        assert_eq!(end(3, None), Outcome::Status(3));
        assert_eq!(end(143, Some(15)), Outcome::Signal("TERM".into()));
        assert_eq!(end(128 + 31, Some(31)), Outcome::Status(159));
        assert_eq!(size(0, 70_000), PtySize { rows: 24, cols: 80 });
        assert_eq!(size(100, 40), PtySize { rows: 40, cols: 100 });
    }
}
