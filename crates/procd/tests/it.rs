//! The real binary outside of a sandbox, over its socket.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sandbar_procd_api::frame::{self, Decoded, Kind};
use serde_json::{Value, json};

mod it {
    mod connected;
    mod functions;
    mod kept;
}

static NEXT: AtomicU32 = AtomicU32::new(0);

struct Agent {
    child: Child,
    dir: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Agent {
    fn start() -> Self {
        let name = format!("procd-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sandbar-procd")).arg("--socket").arg(dir.join("s")).stdin(Stdio::null()).spawn().unwrap();
        let agent = Self { child, dir };
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(agent.dir.join("s")).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let cwd = agent.path("ws");
        agent.ok("POST", "/v1/assign", json!({"sandbox_id": "sb-it", "env": {"K": "sandbox", "ONLY": "sb"}, "cwd": cwd}));
        agent
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.join("s")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = self.connect();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // An answer may come before all of the body is taken.
        let _ = stream.write_all(body);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        let status = head[9..12].parse().unwrap();
        let mut body = all.split_off(end);
        if head.contains("transfer-encoding: chunked") {
            body = unchunk(&body);
        }
        (status, head, body)
    }

    fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let (status, _, body) = self.raw(method, path, "", &body);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, reply) = self.call(method, path, body);
        assert!(status < 300, "{method} {path}: {status} {reply}");
        reply
    }

    fn cmd(&self, command: &[&str]) -> Value {
        self.ok("POST", "/v1/contexts", json!({"type": "cmd", "cmd": {"command": command}, "wait_until_done": true}))
    }

    fn sh(&self, script: &str) -> Value {
        self.cmd(&["sh", "-c", script])
    }

    fn begin(&self, command: &[&str]) -> String {
        let context = self.ok("POST", "/v1/contexts", json!({"type": "cmd", "cmd": {"command": command}}));
        context["id"].as_str().unwrap().to_owned()
    }

    fn repl(&self, alias: &str) -> String {
        let context = self.ok("POST", "/v1/contexts", json!({"type": "repl", "repl": {"alias": alias}}));
        context["id"].as_str().unwrap().to_owned()
    }

    fn exec(&self, id: &str, code: &str) -> Value {
        self.ok("POST", &format!("/v1/contexts/{id}/exec"), json!({"data": code}))
    }

    fn output(&self, id: &str, code: &str) -> String {
        self.exec(id, code)["output_raw"].as_str().unwrap().to_owned()
    }

    fn ended(&self, id: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let context = self.ok("GET", &format!("/v1/contexts/{id}"), Value::Null);
            if context["running"] == false {
                return context;
            }
            assert!(Instant::now() < deadline, "{id} does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn attach(&self, id: &str) -> Attached {
        let mut stream = self.connect();
        let head = format!("GET /v1/contexts/{id}/attach HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: sandbar-attach\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Attached { stream, buffer: Vec::new() }
    }
}

struct Attached {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Attached {
    fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        loop {
            if let Decoded::Frame { kind, payload, consumed } = frame::decode(&self.buffer) {
                let frame = (kind.unwrap(), payload.to_vec());
                self.buffer.drain(..consumed);
                return Some(frame);
            }
            let mut more = [0; 65536];
            match self.stream.read(&mut more).unwrap() {
                0 => return None,
                n => self.buffer.extend_from_slice(&more[..n]),
            }
        }
    }

    /// All output until a frame of this kind, and that frame.
    fn until(&mut self, wanted: Kind) -> (String, Value) {
        let mut text = String::new();
        while let Some((kind, payload)) = self.next() {
            if kind == wanted {
                return (text, serde_json::from_slice(&payload).unwrap());
            }
            text.push_str(std::str::from_utf8(&payload).expect("whole characters"));
        }
        panic!("the connection ended before {wanted:?}: {text}");
    }

    fn send(&mut self, kind: Kind, value: Value) {
        self.stream.write_all(&frame::encode(kind, &serde_json::to_vec(&value).unwrap())).unwrap();
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        body = &body[end + 2..];
        if size == 0 || body.len() < size {
            break;
        }
        out.extend_from_slice(&body[..size]);
        body = &body[size + 2..];
    }
    out
}

fn installed(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|d| std::path::Path::new(d).join(program).exists())
}

#[test]
fn commands_and_their_ends() {
    let agent = Agent::start();
    for _ in 0..100 {
        let done = agent.cmd(&["echo", "hello world"]);
        assert_eq!((&done["stdout"], &done["exit_code"], &done["state"]), (&json!("hello world\n"), &json!(0), &json!("stopped")));
    }
    let done = agent.sh("echo out; echo err >&2; exit 7");
    assert_eq!((&done["stdout"], &done["stderr"], &done["exit_code"]), (&json!("out\n"), &json!("err\n"), &json!(7)));
    assert_eq!(done["state"], "crashed");
    let done = agent.sh("kill -9 $$");
    assert_eq!((&done["exit_code"], &done["state"], &done["reason"]), (&json!(137), &json!("killed"), &json!("signal: SIGKILL")));
    let done = agent.sh(r"printf '\377\376A\000B'");
    assert_eq!(done["stdout"], "\u{fffd}\u{fffd}A\0B");
    let done = agent.sh(r"printf 'h\303'; sleep 0.1; printf '\251llo'");
    assert_eq!(done["stdout"], "héllo");
    let done = agent.sh("echo $K-$ONLY-$SANDBAR_SANDBOX_ID; pwd; ls /proc/self/fd | wc -l");
    assert_eq!(done["stdout"], format!("sandbox-sb-sb-it\n{}\n4\n", agent.path("ws")));
    for (spec, code, status) in [
        (json!({"type": "cmd"}), "invalid_request", 400),
        (json!({"type": "cmd", "cmd": {"command": []}}), "invalid_request", 400),
        (json!({"type": "banana"}), "invalid_request", 400),
        (json!({"type": "cmd", "cmd": {"command": ["no-such-program"]}}), "create_failed", 500),
        (json!({"type": "cmd", "cmd": {"command": ["true"]}, "cwd": "/no/such"}), "create_failed", 500),
        (json!({"type": "repl", "repl": {"alias": "no-such-lang"}}), "invalid_request", 400),
    ] {
        let (got, error) = agent.call("POST", "/v1/contexts", spec.clone());
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{spec}");
    }
}

#[test]
fn a_grandchild_that_holds_the_output_holds_up_nobody() {
    let agent = Agent::start();
    let start = Instant::now();
    let done = agent.sh("(sleep 1; echo late) & echo now");
    assert!(start.elapsed() < Duration::from_millis(900));
    assert_eq!(done["stdout"], "now\n");
    std::thread::sleep(Duration::from_millis(1300));
    let later = agent.ok("GET", &format!("/v1/contexts/{}", done["id"].as_str().unwrap()), Value::Null);
    assert_eq!(later["stdout"], "now\nlate\n");
}

#[test]
fn much_output_is_capped_and_readers_lose_nothing() {
    let agent = Agent::start();
    let done = agent.sh("yes 0123456789abcde | head -c 20000000");
    let text = done["stdout"].as_str().unwrap();
    assert!(text.starts_with("[sandbar: ") && text.len() <= 4 << 20 && done["truncated"] == true);
    // A reader that is slow, but reads: the process waits for it.
    let id = agent.begin(&["sh", "-c", "sleep 0.3; yes 0123456789abcde | head -c 20000000; exit 5"]);
    let mut reader = agent.attach(&id);
    std::thread::sleep(Duration::from_secs(2));
    let (text, done) = reader.until(Kind::Done);
    assert_eq!((text.len(), &done["exit_code"]), (20_000_000, &json!(5)));
    // Afterwards there is a replay of what is kept.
    let mut late = agent.attach(&id);
    let (kind, lost) = late.next().unwrap();
    let lost: Value = serde_json::from_slice(&lost).unwrap();
    let (text, done) = late.until(Kind::Done);
    assert_eq!((kind, &lost["stream"], &done["state"]), (Kind::Lost, &json!("stdout"), &json!("crashed")));
    assert_eq!(lost["bytes"].as_u64().unwrap() as usize + text.len(), 20_000_000);
}

#[test]
fn a_command_waits_for_the_reader_that_it_was_started_for() {
    let agent = Agent::start();
    let begin = |script: &str| {
        let create = json!({"type": "cmd", "cmd": {"command": ["sh", "-c", script]}, "followed": true});
        agent.ok("POST", "/v1/contexts", create)["id"].as_str().unwrap().to_owned()
    };
    // Together more than is kept of all, and each more than is kept of one.
    let ids: Vec<String> = (0..12).map(|_| begin("yes 0123456789abcde | head -c 12000000")).collect();
    let small = begin("echo kept");
    agent.ended(&small);
    std::thread::sleep(Duration::from_secs(1));
    for id in &ids {
        let (text, done) = agent.attach(id).until(Kind::Done);
        assert_eq!((text.len(), &done["exit_code"]), (12_000_000, &json!(0)));
    }
    assert_eq!(agent.attach(&small).until(Kind::Done).0, "kept\n");
    // What is little, and in many pieces.
    let id = begin("i=0; while [ $i -lt 100000 ]; do printf a; printf b >&2; i=$((i+1)); done");
    assert_eq!(agent.attach(&id).until(Kind::Done).0.len(), 200_000);
    // Nobody comes: it goes on by itself.
    let id = begin("yes 0123456789abcde | head -c 12000000; echo end");
    let deadline = Instant::now() + Duration::from_secs(60);
    while agent.ok("GET", &format!("/v1/contexts/{id}"), Value::Null)["running"] == true {
        assert!(Instant::now() < deadline, "it waits for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut late = agent.attach(&id);
    assert_eq!(late.next().unwrap().0, Kind::Lost);
    assert!(late.until(Kind::Done).0.ends_with("end\n"));
}

#[test]
fn input_signals_restart_and_delete() {
    let agent = Agent::start();
    let id = agent.begin(&["sh", "-c", "read l; echo got:$l"]);
    let mut reader = agent.attach(&id);
    reader.send(Kind::Input, json!({"data": "ping\n"}));
    assert_eq!(reader.until(Kind::Done).0, "got:ping\n");
    assert_eq!(agent.call("POST", &format!("/v1/contexts/{id}/input"), json!({"data": "x"})).0, 410);

    let id = agent.begin(&["sleep", "40"]);
    assert_eq!(agent.call("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "SEGV"})).0, 400);
    agent.ok("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "sigterm"}));
    assert_eq!(agent.ended(&id)["reason"], "signal: SIGTERM");
    let again = agent.ok("POST", &format!("/v1/contexts/{id}/restart"), Value::Null);
    assert_eq!((&again["id"], &again["running"]), (&json!(id), &json!(true)));
    let pid = again["pid"].as_u64().unwrap();
    agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(agent.call("GET", &format!("/v1/contexts/{id}"), Value::Null).0, 404);

    let spec = json!({"type": "cmd", "cmd": {"command": ["sleep", "40"]}, "ttl_sec": 1});
    let id = agent.ok("POST", "/v1/contexts", spec)["id"].as_str().unwrap().to_owned();
    assert!(agent.ended(&id)["reason"].as_str().unwrap().starts_with("ttl:"));

    let spec = json!({"type": "cmd", "cmd": {"command": ["sh", "-c", "stty size; echo $TERM; test -t 0"]},
        "wait_until_done": true, "pty_size": {"rows": 7, "cols": 33}});
    let done = agent.ok("POST", "/v1/contexts", spec);
    assert_eq!((&done["output_raw"], &done["exit_code"]), (&json!("7 33\r\nxterm-256color\r\n"), &json!(0)));
    assert!(done.get("stdout").is_none());
}

#[test]
fn a_process_that_reads_nothing_fills_its_queue() {
    let agent = Agent::start();
    let id = agent.begin(&["sleep", "40"]);
    let data = "x".repeat(64 << 10);
    let statuses: Vec<u16> = (0..80).map(|_| agent.call("POST", &format!("/v1/contexts/{id}/input"), json!({"data": data})).0).collect();
    assert_eq!((statuses[0], statuses[79]), (200, 409));
    let body = format!(r#"{{"data": "{}"}}"#, "x".repeat(17 << 20));
    let (status, _, error) = agent.raw("POST", &format!("/v1/contexts/{id}/input"), "", body.as_bytes());
    assert!(status == 413 && String::from_utf8_lossy(&error).contains("request_too_large"));
}

#[test]
fn python() {
    if !installed("python3") {
        return;
    }
    let agent = Agent::start();
    let id = agent.repl("python");
    for (code, output) in [
        ("x = 20", ""),
        ("import math\ny = x + 1", ""),
        ("print('v=%d' % (x + y))", "v=41\n"),
        ("for i in range(2):\n    print(i)\nx", "0\n1\n20\n"),
        ("_ + 1", "21\n"),
        ("def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n", ""),
        ("fib(30)", "832040\n"),
        ("print('_S0_> ')", "_S0_> \n"),
        ("import asyncio\nawait asyncio.sleep(0.01, 'awaited')", "'awaited'\n"),
        ("import inspect\ndef g(a):\n    return a\n\nprint(inspect.getsource(g), __name__)", "def g(a):\n    return a\n __main__\n"),
        ("import pickle\nclass P: pass\nisinstance(pickle.loads(pickle.dumps(P())), P)", "True\n"),
        ("import os, sys\nos.write(1, b'raw\\n'); sys.stdout.write('no end')", "raw\nno end6\n"),
        ("if os.fork() == 0: print('child', flush=True)\nelse: os.wait(); None", "child\n"),
        ("import subprocess\nprint(subprocess.run('ls /proc/self/fd | wc -l', shell=True, capture_output=True, text=True).stdout)", "4\n\n"),
        ("'é\\0'.encode()", "b'\\xc3\\xa9\\x00'\n"),
    ] {
        assert_eq!(agent.output(&id, code), output, "{code}");
    }
    let error = agent.output(&id, "def h():\n    1 / 0\nh()");
    assert!(error.starts_with("Traceback") && error.contains("    1 / 0\n") && !error.contains("sandbar"), "{error}");
    assert!(agent.output(&id, "def f(:").contains("SyntaxError"));
    assert!(agent.output(&id, "for i in range(3):").contains("IndentationError"));
    let big = format!("s = '{}'\nlen(s)", "é".repeat(1_000_000));
    assert_eq!(agent.output(&id, &big), "1000000\n");
    assert_eq!(agent.call("POST", &format!("/v1/contexts/{id}/exec"), json!({"data": ""})).0, 400);
    let end = agent.exec(&id, "print('bye'); exit(3)");
    assert_eq!((&end["output_raw"], &end["exit_code"], &end["state"]), (&json!("bye\n"), &json!(3), &json!("crashed")));
    assert_eq!(agent.call("POST", &format!("/v1/contexts/{id}/exec"), json!({"data": "1"})).0, 410);
    agent.ok("POST", &format!("/v1/contexts/{id}/restart"), Value::Null);
    assert_eq!(agent.output(&id, "print('x' in globals())"), "False\n");
}

#[test]
fn python_input_leftovers_and_interrupts() {
    if !installed("python3") {
        return;
    }
    let agent = Agent::start();
    let id = agent.repl("python");
    let mut reader = agent.attach(&id);
    reader.send(Kind::Input, json!({"data": "n = input('name? ')\nimport time; time.sleep(0.3)\n", "request_id": "a"}));
    while reader.next().is_some_and(|(_, payload)| payload != b"name? ") {}
    reader.send(Kind::Input, json!({"data": "Bob\nprint(n, 6 * 7)\n", "request_id": "b"}));
    let (text, ready) = reader.until(Kind::Ready);
    assert_eq!((text.as_str(), &ready["request_id"]), ("Bob 42\n", &json!("a")));
    assert_eq!(reader.until(Kind::Ready).1["request_id"], "b");

    std::thread::scope(|scope| {
        let running = scope.spawn(|| agent.output(&id, "print('on', flush=True)\nwhile True: pass"));
        while reader.next().is_some_and(|(_, payload)| !payload.starts_with(b"on")) {}
        agent.ok("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "INT"}));
        assert!(running.join().unwrap().contains("KeyboardInterrupt"));
    });
    agent.ok("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "INT"}));
    assert_eq!(agent.output(&id, "n"), "'Bob'\n");
    agent.ok("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "KILL"}));
    assert_eq!(reader.until(Kind::Done).1["state"], "killed");
}

#[test]
fn shells_and_node() {
    let agent = Agent::start();
    for alias in ["bash", "sh"].into_iter().filter(|a| installed(a)) {
        let id = agent.repl(alias);
        for (code, output) in [
            ("V=kept; cd /tmp", ""),
            ("echo $V-$PWD", "kept-/tmp\n"),
            ("f() { echo f$1; }; false", ""),
            ("echo $?; f 2", "1\nf2\n"),
            ("echo 'a\nb'", "a\nb\n"),
            ("ls /proc/self/fd | wc -l", "4\n"),
            ("read a b <<E\nx y\nE\necho $b", "y\n"),
        ] {
            assert_eq!(agent.output(&id, code), output, "{alias}: {code}");
        }
        assert!(agent.output(&id, "if true").to_lowercase().contains("syntax error"), "{alias}");
        std::thread::scope(|scope| {
            let running = scope.spawn(|| agent.output(&id, "while :; do sleep 0.05; done"));
            std::thread::sleep(Duration::from_millis(300));
            agent.ok("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "INT"}));
            running.join().unwrap();
        });
        assert_eq!(agent.output(&id, "echo $V"), "kept\n", "{alias}");
        assert_eq!(agent.exec(&id, "exit 3")["exit_code"], 3, "{alias}");
    }
    if installed("node") {
        let id = agent.repl("node");
        for (code, output) in [
            ("const x = 1", ""),
            ("const x = 2; x + 1", "3\n"),
            ("await Promise.resolve(7)", "7\n"),
            ("console.log('hi'); undefined", "hi\n"),
            ("{ a: 1 }", "{ a: 1 }\n"),
            ("throw new Error('boo')", "Uncaught Error: boo\n    at repl-6:1:7\n"),
        ] {
            assert_eq!(agent.output(&id, code), output, "node: {code}");
        }
    }
}

#[test]
fn terminal_repls() {
    let agent = Agent::start();
    let config = json!({"name": "my", "candidates": [{"name": "no-such"}, {"name": "sh", "args": ["-i"]}],
        "env": [{"name": "PS1", "value_from": "prompt"}], "prompt": {"custom_prompt": "MY> "},
        "ready": {"mode": "prompt_token", "token": "MY> "}});
    let spec = json!({"type": "repl", "repl": {"alias": "my", "repl_config": config}});
    let id = agent.ok("POST", "/v1/contexts", spec)["id"].as_str().unwrap().to_owned();
    assert_eq!(agent.output(&id, "echo hello\nsleep 0.3; echo two"), "hello\ntwo\n");
    assert_eq!(agent.output(&id, "cd /tmp"), "");
    assert_eq!(agent.output(&id, "pwd"), "/tmp\n");
    if installed("python3") {
        let spec = json!({"type": "repl", "repl": {"alias": "python"}, "pty_size": {"rows": 24, "cols": 80}});
        let id = agent.ok("POST", "/v1/contexts", spec)["id"].as_str().unwrap().to_owned();
        assert_eq!(agent.output(&id, "print(2)"), "print(2)\r\n2\r\n_S0_> ");
    }
}

#[test]
fn files() {
    let agent = Agent::start();
    let query = |name: &str| format!("/v1/files?path={}", agent.path(name));
    let put = |name: &str, body: &[u8]| agent.raw("POST", &query(name), "", body);
    let get = |name: &str, headers: &str| agent.raw("GET", &query(name), headers, b"");
    assert_eq!(put("a/b/c", b"hello world").0, 200);
    assert_eq!(get("a/b/c", "").2, b"hello world");
    for (range, status, want) in
        [("bytes=0-4", 206, &b"hello"[..]), ("bytes=6-", 206, b"world"), ("bytes=-3", 206, b"rld"), ("bytes=0-4,6-7", 200, b"hello world")]
    {
        let (got, _, body) = get("a/b/c", &format!("range: {range}\r\n"));
        assert_eq!((got, body.as_slice()), (status, want), "{range}");
    }
    assert_eq!(get("a/b/c", "range: bytes=11-\r\n").0, 416);
    assert_eq!(put("empty", b"").0, 200);
    let (status, head, body) = get("empty", "");
    assert!(status == 200 && body.is_empty() && head.contains("content-length: 0"));
    let big: Vec<u8> = (0..20_000_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    assert_eq!(put("big", &big).0, 200);
    assert!(get("big", "").2 == big);
    // What is there keeps its mode; a link is written through.
    agent.sh(&format!("chmod 751 {0}; ln -s {0} {1}; mkfifo {2}", agent.path("big"), agent.path("link"), agent.path("fifo")));
    assert_eq!(put("link", b"small").0, 200);
    let stat = |name: &str| agent.call("GET", &format!("/v1/files/stat?path={}", agent.path(name)), Value::Null);
    assert_eq!((stat("big").1["mode"].clone(), stat("big").1["size"].clone()), (json!("0751"), json!(5)));
    assert_eq!((stat("link").1["type"].clone(), stat("link").1["is_link"].clone()), (json!("symlink"), json!(true)));
    for (name, read, write) in [("fifo", 409, 409), ("a", 409, 409), ("none", 404, 200), ("big/x", 409, 409)] {
        assert_eq!((get(name, "").0, put(name, b"x").0), (read, write), "{name}");
    }
    assert_eq!(stat("absent").0, 404);
    let list = |name: &str| agent.call("GET", &format!("/v1/files/list?path={}", agent.path(name)), Value::Null);
    assert_eq!((list("absent").0, list("big").0), (404, 409));
    assert_eq!(agent.call("GET", "/v1/files", Value::Null).0, 400);
    let mkdir = |name: &str, more: &str| agent.call("POST", &format!("{}&mkdir=true{more}", query(name)), Value::Null).0;
    assert_eq!((mkdir("d", ""), mkdir("d", ""), mkdir("d", "&recursive=true")), (201, 409, 201));
    assert_eq!((mkdir("p/q/r", ""), mkdir("p/q/r", "&recursive=true"), mkdir("big", "&recursive=true")), (404, 201, 409));
    let mv = |from: &str, to: &str| agent.call("POST", "/v1/files/move", json!({"source": agent.path(from), "destination": agent.path(to)})).0;
    assert_eq!((mv("a", "z"), mv("a", "y"), mv("z/b/c", "no/dir/c")), (200, 404, 404));
    let delete = |name: &str| agent.call("DELETE", &query(name), Value::Null).0;
    assert_eq!((delete("z"), delete("z"), delete("link"), delete("fifo")), (200, 200, 200, 200));
    assert_eq!((stat("z").0, stat("big").0), (404, 200));
    // An upload that breaks off leaves the old file and nothing else.
    let mut stream = agent.connect();
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf", query("d/f"));
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(5);
    while list("d").1["entries"] != json!([]) {
        assert!(Instant::now() < deadline, "{}", list("d").1);
        std::thread::sleep(Duration::from_millis(10));
    }
    // Writers at once: one of them wins as a whole.
    std::thread::scope(|scope| {
        for i in 0..8_u8 {
            scope.spawn(move || put("race", &vec![i; 300_000]));
        }
        for _ in 0..20 {
            let body = get("race", "").2;
            assert!(body.first().is_none_or(|first| body.starts_with(b"{") || body.iter().all(|b| b == first)));
        }
    });
    assert_eq!(get("race", "").2.len(), 300_000);
    let (_, _, body) = agent.raw("GET", "/v1/files?path=/proc/self/cmdline", "", b"");
    assert!(body.windows(8).any(|w| w == b"--socket"));
}

#[test]
fn watching_and_events() {
    let agent = Agent::start();
    std::fs::create_dir_all(agent.path("w/s1")).unwrap();
    let mut stream = agent.connect();
    write!(stream, "GET /v1/files/watch?recursive=true&path={} HTTP/1.1\r\nhost: x\r\n\r\n", agent.path("w")).unwrap();
    let mut seen = String::new();
    let mut wait_for = |what: &str| {
        while !seen.contains(what) {
            let mut more = [0; 4096];
            let n = stream.read(&mut more).unwrap();
            assert!(n > 0, "{what} did not come: {seen}");
            seen.push_str(&String::from_utf8_lossy(&more[..n]));
        }
    };
    wait_for("subscribed");
    std::fs::write(agent.path("w/s1/deep"), "1").unwrap();
    wait_for(&format!(r#""event":"create","path":"{}""#, agent.path("w/s1/deep")));
    wait_for(r#""event":"write""#);
    std::fs::create_dir_all(agent.path("w/new/sub")).unwrap();
    std::fs::write(agent.path("w/new/sub/x"), "1").unwrap();
    wait_for(&agent.path("w/new/sub/x"));
    std::fs::remove_file(agent.path("w/s1/deep")).unwrap();
    wait_for(r#""event":"remove""#);
    let (_, _, body) = agent.raw("GET", &format!("/v1/files/watch?path={}", agent.path("absent")), "", b"");
    assert!(String::from_utf8_lossy(&body).starts_with(r#"{"type":"error","code":"directory_not_found""#));

    agent.sh("exit 4");
    let mut stream = agent.connect();
    write!(stream, "GET /v1/events?after=0 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut seen = String::new();
    while !seen.contains(r#""exit_code":4"#) {
        let mut more = [0; 4096];
        let n = stream.read(&mut more).unwrap();
        seen.push_str(&String::from_utf8_lossy(&more[..n]));
    }
    assert!(seen.contains("process_started"));
}

#[test]
fn ends_are_told_with_what_was_printed() {
    let agent = Agent::start();
    let run = |script: &str, untold: bool| {
        let command = ["sh", "-c", script];
        agent.call("POST", "/v1/contexts", json!({"type": "cmd", "cmd": {"command": command}, "wait_until_done": true, "untold": untold})).1
    };
    run("echo nobody hears this; exit 5", true);
    let shown = run("i=0; while [ $i -lt 500 ]; do echo line$i; i=$((i+1)); done; echo wrong >&2; kill -TERM $$", false);
    let mut stream = agent.connect();
    write!(stream, "GET /v1/events?after=0 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut seen = String::new();
    while !seen.contains("process_exited") || !seen.ends_with("\n\r\n") {
        let mut more = [0; 64 << 10];
        let n = stream.read(&mut more).unwrap();
        assert!(n > 0);
        seen.push_str(&String::from_utf8_lossy(&more[..n]));
    }
    let events: Vec<Value> = seen.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!((&events[0]["event"], &events[0]["context_id"], &events[0]["cwd"]), (&json!("process_started"), &shown["id"], &json!(agent.path("ws"))));
    let end = &events[1];
    assert_eq!((&end["pid"], &end["exit_code"], &end["signal"], &end["state"]), (&events[0]["pid"], &json!(143), &json!(15), &json!("crashed")));
    let preview = end["stdout_preview"].as_str().unwrap();
    assert!(preview.len() <= 1024 && preview.ends_with("line499\n") && end["stderr_preview"] == "wrong\n", "{end}");
    assert!(end["duration_ms"].is_u64());
}
