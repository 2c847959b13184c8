//! Processes over upgraded connections, as the host speaks to them.
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use sandbar_procd_api::process;
use serde_json::{Value, json};

use super::super::Agent;

/// One of them.
struct Process {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Process {
    fn start(agent: &Agent, arguments: &[&[u8]], start: &Value) -> Self {
        let mut stream = agent.connect();
        stream.write_all(b"GET /v1/processes HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: sandbar-process\r\n\r\n").unwrap();
        for argument in arguments {
            stream.write_all(&process::encode(process::Kind::Argument, argument)).unwrap();
        }
        stream.write_all(&process::encode(process::Kind::Start, &serde_json::to_vec(start).unwrap())).unwrap();
        let mut process = Self { stream, buffer: Vec::new() };
        let head = loop {
            if let Some(end) = process.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break process.buffer.drain(..end + 4).collect::<Vec<_>>();
            }
            assert!(process.read(), "a head");
        };
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        process
    }

    fn read(&mut self) -> bool {
        let mut piece = [0; 65536];
        let length = match self.stream.read(&mut piece) {
            // The other side has gone without reading all that was said.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            read => read.unwrap(),
        };
        self.buffer.extend_from_slice(&piece[..length]);
        length > 0
    }

    fn next(&mut self) -> Option<(process::Kind, Vec<u8>)> {
        loop {
            match process::decode(&self.buffer) {
                process::Decoded::Frame { kind, bytes } => {
                    let frame: Vec<u8> = self.buffer.drain(..bytes).collect();
                    return Some((kind.unwrap(), frame[process::HEADER_BYTES..].to_vec()));
                }
                process::Decoded::Incomplete if self.read() => {}
                process::Decoded::Incomplete | process::Decoded::Invalid => return None,
            }
        }
    }

    fn send(&mut self, kind: process::Kind, payload: &[u8]) {
        self.stream.write_all(&process::encode(kind, payload)).unwrap();
    }

    /// All that it says, taken at once: both streams and the end.
    fn finish(mut self) -> (Vec<u8>, Vec<u8>, Value) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some((kind, payload)) = self.next() {
            match kind {
                process::Kind::Stdout => out.extend_from_slice(&payload),
                process::Kind::Stderr => err.extend_from_slice(&payload),
                process::Kind::Exit | process::Kind::Failed => return (out, err, serde_json::from_slice(&payload).unwrap()),
                _ => continue,
            }
            if matches!(kind, process::Kind::Stdout | process::Kind::Stderr) {
                // It may have said its last word meanwhile, and ended the connection.
                let _ = self.stream.write_all(&process::taken(payload.len()));
            }
        }
        panic!("it ended without a word: {}", String::from_utf8_lossy(&out));
    }
}

#[test]
fn a_connected_process_has_its_bytes_and_its_end() {
    let agent = Agent::start();
    let (out, err, end) = Process::start(&agent, &[b"sh", b"-c", b"printf 'o\\377'; printf e >&2; echo $K $0; exit 7", b"\xff"], &json!({})).finish();
    assert_eq!((out.as_slice(), err.as_slice(), &end["code"]), (&b"o\xffsandbox \xff\n"[..], &b"e"[..], &json!(7)));
    let (_, _, end) = Process::start(&agent, &[b"sh", b"-c", b"kill -TERM $$"], &json!({})).finish();
    assert_eq!((&end["code"], &end["signal"]), (&json!(143), &json!(15)));
    let (_, _, refused) = Process::start(&agent, &[b"no-such-program"], &json!({})).finish();
    assert_eq!(refused["code"], "create_failed");
    let (out, _, _) = Process::start(&agent, &[b"x", b"-c", b"echo $0 ran"], &json!({"programs": ["no-such-shell", "sh"]})).finish();
    assert_eq!(out, b"sh ran\n");
    // A terminal: one stream, and the end with its program.
    let mut terminal =
        Process::start(&agent, &[b"sh", b"-c", b"stty size; read x; stty size; sleep 1000 & exit 3"], &json!({"pty_size": {"rows": 11, "cols": 22}}));
    let mut seen = Vec::new();
    while !seen.ends_with(b"11 22\r\n") {
        if let (process::Kind::Stdout, payload) = terminal.next().expect("it talks") {
            seen.extend_from_slice(&payload);
        }
    }
    terminal.send(process::Kind::Resize, br#"{"rows":33,"cols":44}"#);
    terminal.send(process::Kind::Stdin, b"\n");
    let (out, _, end) = terminal.finish();
    assert!(out.ends_with(b"33 44\r\n"), "{}", String::from_utf8_lossy(&out));
    assert_eq!(end["code"], 3);
}

#[test]
fn a_connected_process_waits_for_its_host_and_hears_it_all_the_same() {
    let agent = Agent::start();
    // What is not taken is not read: the process stands still, and a signal reaches it.
    let mut flood = Process::start(&agent, &[b"sh", b"-c", b"trap 'echo trapped >&2; exit 5' USR1; yes & wait"], &json!({}));
    let mut got = 0;
    flood.stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut piece = [0; 65536];
    while let Ok(length) = flood.stream.read(&mut piece) {
        got += length;
    }
    assert!((process::WINDOW_BYTES..process::WINDOW_BYTES + 4096).contains(&got), "{got}");
    flood.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // More than a window of input that nobody reads ends the connection, and the process with it.
    let mut deaf = Process::start(&agent, &[b"sleep", b"4714"], &json!({}));
    for _ in 0..12 {
        let _ = deaf.stream.write_all(&process::encode(process::Kind::Stdin, &[0; process::DATA_BYTES_MAX]));
    }
    while deaf.next().is_some() {}
    let gone = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while agent.sh(&format!("pgrep -f '{what}'"))["exit_code"] == 0 {
            assert!(Instant::now() < deadline, "{what} runs");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    gone("sleep [4]714");
    // Who hangs up takes the whole group along, also what ignores the first word.
    let mut stubborn = Process::start(&agent, &[b"sh", b"-c", b"trap '' HUP; echo up; sleep 4715; sleep 4715"], &json!({}));
    while !matches!(stubborn.next(), Some((process::Kind::Stdout, _))) {}
    drop(stubborn);
    gone("sleep [4]715");
    drop(flood);
}

/// Whoever serves only a folder has that for its root, whatever links lie in it. Needs root, as all that makes sandboxes does.
#[test]
fn an_agent_in_a_folder_is_led_out_of_it_by_no_link() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root; nothing is entered");
        return;
    }
    let agent = Agent::start();
    let folder = agent.path("served");
    std::fs::create_dir_all(format!("{folder}/own")).unwrap();
    std::fs::write(format!("{folder}/own/file"), "inner").unwrap();
    for (target, link) in [("/", "root"), ("/proc/self", "self"), ("../../../../..", "up"), ("/own/file", "abs")] {
        std::os::unix::fs::symlink(target, format!("{folder}/{link}")).unwrap();
    }
    // One that runs already has the same root.
    assert_eq!(agent.call("GET", &format!("/v1/files/stat?path={folder}"), Value::Null).0, 200);
    assert_eq!(agent.call("POST", "/v1/root", json!({"path": format!("{folder}/root")})).0 / 100, 5, "a link is no folder");
    agent.ok("POST", "/v1/root", json!({"path": folder}));
    for path in ["/own/file", "/abs", "/root/own/file", "/up/own/file", "/../own/file"] {
        assert_eq!(agent.raw("GET", &format!("/v1/files?path={path}"), "", b"").2, b"inner", "{path}");
    }
    for path in ["/root/etc/passwd", "/up/etc/passwd", "/self/mountinfo", "/self/root/etc/passwd", &folder] {
        assert_eq!(agent.call("GET", &format!("/v1/files?path={path}"), Value::Null).0, 404, "{path}");
    }
    assert_eq!(agent.raw("POST", "/v1/files?path=/root/tmp/new", "", b"x").0, 200);
    assert_eq!(agent.call("POST", "/v1/files?path=/up/made&mkdir=true", Value::Null).0, 201);
    assert!(std::fs::exists(format!("{folder}/tmp/new")).unwrap() && std::fs::exists(format!("{folder}/made")).unwrap());
    assert_eq!(agent.call("DELETE", "/v1/files?path=/up", Value::Null).0, 200);
    assert!(std::fs::exists(format!("{folder}/own/file")).unwrap(), "a link is removed, not what it names");
}
