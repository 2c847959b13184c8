//! Bytes in motion: WebSockets, files up and down, ranges, watches, and commands whose output nobody may lose.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tungstenite::Message;

use super::{
    harness::{Sandbox, TOKEN, rss, shared},
    http::{Incoming, eventually, next_frame},
};

const SOON: Duration = Duration::from_secs(30);

fn ws_path(sandbox: &Sandbox, context: &Value) -> String {
    sandbox.path(&format!("/contexts/{}/ws", context["id"].as_str().unwrap()))
}

#[test]
fn a_websocket_carries_input_output_and_the_end() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let context = sandbox.spawn(&["sh", "-c", "read a; echo got:$a; echo to-err >&2; read b; exit 9"]);
    let mut socket = sandbox.api.ws(&ws_path(&sandbox, &context)).expect("attached");
    socket.send(Message::text(json!({ "type": "input", "data": "ping\n" }).to_string())).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    while !(out.contains("got:ping\n") && err.contains("to-err\n")) {
        let frame = next_frame(&mut socket).expect("more output");
        match frame["source"].as_str() {
            Some("stdout") => out.push_str(frame["data"].as_str().unwrap()),
            Some("stderr") => err.push_str(frame["data"].as_str().unwrap()),
            _ => panic!("{frame}"),
        }
    }
    // What is no frame of ours goes to the process as it is.
    socket.send(Message::text("raw line\n")).unwrap();
    let done = loop {
        let frame = next_frame(&mut socket).expect("a done frame");
        if frame["type"] == "done" {
            break frame;
        }
    };
    assert_eq!((&done["exit_code"], &done["state"]), (&json!(9), &json!("crashed")));
    assert!(next_frame(&mut socket).is_none(), "something after the end");

    // Attached afterwards: all of it again, and the end.
    let mut late = sandbox.api.ws(&ws_path(&sandbox, &context)).expect("attached");
    let mut text = String::new();
    loop {
        let frame = next_frame(&mut late).expect("a frame");
        if frame["type"] == "done" {
            assert_eq!(frame["exit_code"], 9);
            break;
        }
        text.push_str(frame["data"].as_str().unwrap());
    }
    assert!(text.contains("got:ping") && text.contains("to-err"));
    assert_eq!(sandbox.api.ws(&sandbox.path("/contexts/ctx-00000000/ws")).err(), Some(404));
}

#[test]
fn a_slow_reader_loses_nothing_and_holds_nobody_back() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    // Below the cap of what is kept, in characters of several bytes that may not be cut.
    let count = 20_000;
    let context = sandbox.spawn(&["python3", "-c", &format!("import sys\nfor i in range({count}): sys.stdout.write('h\u{e9}\u{4e16}%05d\\n' % i)")]);
    let mut socket = sandbox.api.ws(&ws_path(&sandbox, &context)).expect("attached");
    eventually(
        "the command ends though nobody reads",
        SOON,
        || if sandbox.context(&context["id"])["running"] == false { Ok(()) } else { Err("it runs".into()) },
    );
    assert_eq!(sandbox.sh_ok("echo beside"), "beside\n");
    let mut text = String::new();
    loop {
        let frame = next_frame(&mut socket).expect("a frame");
        if frame["type"] == "done" {
            assert_eq!(frame["exit_code"], 0);
            break;
        }
        text.push_str(frame["data"].as_str().unwrap());
    }
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), count);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("h\u{e9}\u{4e16}{i:05}"));
    }
}

#[test]
fn a_terminal_has_a_size_that_can_be_changed_and_signals() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let body = json!({ "type": "cmd", "cmd": { "command": ["bash", "--norc", "--noprofile", "-i"] }, "pty_size": { "rows": 24, "cols": 80 }, "env_vars": { "TERM": "xterm" } });
    let context = sandbox.api.post(&sandbox.path("/contexts"), body).ok(201);
    let mut socket = sandbox.api.ws(&ws_path(&sandbox, &context)).expect("attached");
    let mut text = String::new();
    let mut until = |socket: &mut tungstenite::WebSocket<std::net::TcpStream>, wanted: &str| {
        while !text.contains(wanted) {
            let frame = next_frame(socket).unwrap_or_else(|| panic!("{wanted:?} did not come: {text}"));
            assert_eq!(frame["source"], "pty", "{frame}");
            text.push_str(frame["data"].as_str().unwrap());
        }
        text.clear();
    };
    let say = |socket: &mut tungstenite::WebSocket<std::net::TcpStream>, value: Value| socket.send(Message::text(value.to_string())).unwrap();
    say(&mut socket, json!({ "type": "input", "data": "stty size; echo TERM=$TERM\n" }));
    until(&mut socket, "24 80\r\nTERM=xterm");
    say(&mut socket, json!({ "type": "resize", "rows": 50, "cols": 132 }));
    say(&mut socket, json!({ "type": "input", "data": "stty size\n" }));
    until(&mut socket, "50 132");
    // The interrupt goes to whoever is in the foreground, so it waits for what is to be interrupted (and not for its echo).
    say(&mut socket, json!({ "type": "input", "data": "sh -c 'echo run$((1))ning; exec sleep 1000'\n" }));
    until(&mut socket, "run1ning");
    say(&mut socket, json!({ "type": "input", "data": "\u{3}" }));
    say(&mut socket, json!({ "type": "input", "data": "echo after-$((40+2))\n" }));
    until(&mut socket, "after-42");
    say(&mut socket, json!({ "type": "input", "data": "exit 3\n" }));
    let done = loop {
        let frame = next_frame(&mut socket).expect("the end");
        if frame["type"] == "done" {
            break frame;
        }
    };
    assert_eq!(done["exit_code"], 3);
}

#[test]
fn fast_commands_lose_no_output_and_background_children_hold_nobody() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    std::thread::scope(|scope| {
        for who in 0..4 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for i in 0..25 {
                    let done = sandbox.run(&["echo", &format!("{who}-{i}")]);
                    assert_eq!((done.code, done.stdout.as_str()), (0, format!("{who}-{i}\n").as_str()));
                }
            });
        }
    });
    // The grandchild holds the pipe; the answer comes with the child's end all the same.
    let done = sandbox.sh("sleep 86400 & echo started");
    assert_eq!((done.code, done.stdout.as_str()), (0, "started\n"));
    let lost = sandbox.python("import sys\nsys.stdout.buffer.write(b'\\xff\\xfeA\\x00B' + 'h\u{e9}'.encode())");
    assert!(lost.stdout.contains("A\u{0}Bh\u{e9}"), "{lost:?}");
    assert_eq!(sandbox.sh("exit 7").context["state"], "crashed");
    assert_eq!(sandbox.sh("kill -9 $$").code, 137);
    assert_eq!(sandbox.sh("kill -15 $$").code, 143);
}

#[test]
fn contexts_are_told_apart_and_their_calls_do_what_they_say() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let context = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "repl", "repl": { "alias": "python" } })).ok(201);
    let call = |rest: &str, body: Value| sandbox.api.post(&sandbox.path(&format!("/contexts/{}{rest}", context["id"].as_str().unwrap())), body);
    // The end is known, not guessed from silence, and nothing but the output comes back.
    let out = call("/exec", json!({ "data": "import time\nfor i in range(3):\n  print(i); time.sleep(0.2)\n" })).ok(200);
    assert_eq!(out["output_raw"], "0\n1\n2\n");
    assert_eq!(call("/exec", json!({ "data": "print('_S0_> not the end')" })).ok(200)["output_raw"], "_S0_> not the end\n");
    let out = call("/exec", json!({ "data": "1/0" })).ok(200);
    assert!(out["output_raw"].as_str().unwrap().contains("ZeroDivisionError"), "{out}");
    assert_eq!(call("/exec", json!({ "data": "def f(n):\n    return n * 2\n\nprint(f(21))" })).ok(200)["output_raw"], "42\n");
    call("/exec", json!({ "data": "x = 1" })).ok(200);
    assert_eq!(sandbox.api.send("POST", &sandbox.path(&format!("/contexts/{}/restart", context["id"].as_str().unwrap())), b"").ok(200)["id"], context["id"]);
    assert!(call("/exec", json!({ "data": "print('x' in globals())" })).ok(200)["output_raw"].as_str().unwrap().contains("False"));
    let stats = sandbox.api.get(&sandbox.path(&format!("/contexts/{}/stats", context["id"].as_str().unwrap()))).ok(200);
    assert!(stats["usage"]["memory_rss"].as_u64().unwrap() > 0, "{stats}");
    let listed = sandbox.api.get(&sandbox.path("/contexts")).ok(200);
    assert_eq!(listed["contexts"].as_array().unwrap().len(), 1);
    assert_eq!(sandbox.api.delete(&sandbox.path(&format!("/contexts/{}", context["id"].as_str().unwrap()))).ok(200)["deleted"], true);
    call("/exec", json!({ "data": "1" })).error(&[404]);
    for alias in ["bash", "sh", "node"] {
        if sandbox.sh(&format!("command -v {alias}")).code != 0 {
            continue;
        }
        let repl = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "repl", "repl": { "alias": alias } })).ok(201);
        let exec = |code: &str| {
            sandbox.api.post(&sandbox.path(&format!("/contexts/{}/exec", repl["id"].as_str().unwrap())), json!({ "data": code })).ok(200)["output_raw"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let (set, get) = if alias == "node" { ("var v = 41", "console.log(v + 1)") } else { ("v=41", "echo $((v + 1))") };
        exec(set);
        assert!(exec(get).contains("42"), "{alias}");
    }
    // Time and idleness end contexts, and say so.
    let brief = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["sleep", "86400"] }, "ttl_sec": 1 })).ok(201);
    eventually("the context's ttl", SOON, || {
        let reply = sandbox.api.get(&sandbox.path(&format!("/contexts/{}", brief["id"].as_str().unwrap())));
        if reply.status == 404 || reply.value()["data"]["running"] == false { Ok(()) } else { Err(reply.text()) }
    });
    let missing = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["no-such-program"] }, "wait_until_done": true }));
    assert!(missing.status != 201 || missing.value()["data"]["exit_code"] != 0, "{}", missing.text());
}

/// `sandbar sandbox exec` of a shell's script.
fn exec(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
    let url = format!("http://{}", sandbox.api.addr());
    command.args(["--url", &url, "--token", TOKEN, "sandbox", "exec", &sandbox.id, "--", "sh", "-c", script]).stdin(Stdio::null());
    command
}

#[test]
fn nothing_of_a_commands_output_is_lost_before_somebody_attaches() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let print = "yes 0123456789abcde | head -c 20000000";
    // As the clients' cmd_stream does, and slower than any of them.
    let context = sandbox.spawn(&["sh", "-c", print]);
    std::thread::sleep(Duration::from_secs(2));
    let mut socket = sandbox.api.ws(&ws_path(&sandbox, &context)).expect("attached");
    let mut seen = 0;
    let done = loop {
        let frame = next_frame(&mut socket).expect("a frame");
        if frame["type"] == "done" {
            break frame;
        }
        assert_eq!(frame["source"], "stdout", "{frame}");
        seen += frame["data"].as_str().unwrap().len();
    };
    assert_eq!((seen, &done["exit_code"], &done["truncated"]), (20_000_000, &json!(0), &Value::Null));
    // Who comes later is told what is missing, and not within the output.
    let mut late = sandbox.api.ws(&ws_path(&sandbox, &context)).expect("attached");
    let lost = next_frame(&mut late).expect("a frame");
    assert_eq!(lost["source"], "stderr", "{lost}");
    let mut seen = lost["lost_bytes"].as_u64().expect("how much is missing");
    let done = loop {
        let frame = next_frame(&mut late).expect("a frame");
        if frame["type"] == "done" {
            break frame;
        }
        seen += frame["data"].as_str().unwrap().len() as u64;
    };
    assert_eq!((seen, &done["truncated"]), (20_000_000, &json!(true)));
    for _ in 0..3 {
        let output = exec(&sandbox, print).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.stdout.len(), output.status.code(), stderr.as_ref()), (20_000_000, Some(0), ""));
    }
}

#[test]
fn a_command_ends_with_the_terminal_of_its_client() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let mut client = exec(&sandbox, "echo $$; exec sleep 86400").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = rustix::process::Pid::from_child(&client);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(128 + 1));
    assert_ne!(sandbox.sh(&format!("kill -0 {}", line.trim())).code, 0);
}

#[test]
fn files_have_modes_ranges_kinds_and_atomic_writes() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.write("/workspace/deep/er/f", b"0123456789");
    let ranged = |range: &str| sandbox.api.try_send("GET", &sandbox.file("/workspace/deep/er/f"), &[("range", range)], b"").unwrap();
    let part = ranged("bytes=2-4");
    assert_eq!((part.status, part.body.as_slice(), part.header("content-range")), (206, &b"234"[..], Some("bytes 2-4/10")));
    assert_eq!(ranged("bytes=-3").body, b"789");
    assert_eq!(ranged("bytes=7-").body, b"789");
    assert_eq!(ranged("bytes=7-1000").body, b"789");
    ranged("bytes=10-").error(&[416]);
    assert_eq!(ranged("nonsense").status, 200);
    let file = sandbox.api.get(&sandbox.file("/workspace/deep/er/f"));
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    let as_json = sandbox.api.try_send("GET", &sandbox.file("/workspace/deep/er/f"), &[("accept", "application/json")], b"").unwrap().ok(200);
    assert_eq!((&as_json["content"], &as_json["encoding"]), (&json!("MDEyMzQ1Njc4OQ=="), &json!("base64")));
    sandbox.api.send("POST", &format!("{}&mode=0750", sandbox.file("/workspace/run")), b"#!/bin/sh\necho ran").ok(200);
    assert_eq!(sandbox.sh_ok("/workspace/run"), "ran\n");
    sandbox.sh_ok("ln -s run /workspace/link");
    let stat = sandbox.api.get(&sandbox.path("/files/stat?path=/workspace/run")).ok(200);
    assert_eq!((&stat["mode"], &stat["type"], &stat["size"], &stat["is_link"]), (&json!("0750"), &json!("file"), &json!(18), &json!(false)));
    let link = sandbox.api.get(&sandbox.path("/files/stat?path=/workspace/link")).ok(200);
    assert_eq!((&link["type"], &link["is_link"], &link["link_target"]), (&json!("symlink"), &json!(true), &json!("run")));
    let listed = sandbox.api.get(&sandbox.path("/files/list?path=/workspace")).ok(200);
    let mut names: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["deep", "link", "run"]);
    sandbox.api.post(&sandbox.path("/files/move"), json!({ "source": "/workspace/deep", "destination": "/workspace/moved" })).ok(200);
    assert_eq!(sandbox.read("/workspace/moved/er/f"), b"0123456789");
    sandbox.api.delete(&sandbox.file("/workspace/moved")).ok(200);
    sandbox.api.get(&sandbox.file("/workspace/moved/er/f")).error(&[404]);
    // A relative path is the workspace's.
    sandbox.api.send("POST", &sandbox.file("relative"), b"r").ok(200);
    assert_eq!(sandbox.read("/workspace/relative"), b"r");
    let strange = "/workspace/a b&c=d+e%20?#\u{4e16}\u{754c}\n.txt";
    sandbox.write(strange, b"strange");
    assert_eq!(sandbox.read(strange), b"strange");

    // Who reads while others write sees one whole content or another.
    sandbox.write("/workspace/atomic", &[b'a'; 300_000]);
    std::thread::scope(|scope| {
        let sandbox = &sandbox;
        scope.spawn(move || {
            for i in 0..20u8 {
                sandbox.write("/workspace/atomic", &vec![b'b' + i; 300_000]);
            }
        });
        for _ in 0..40 {
            let content = sandbox.read("/workspace/atomic");
            assert_eq!(content.len(), 300_000);
            assert!(content.iter().all(|byte| *byte == content[0]), "half of one and half of another");
        }
    });
}

/// Bytes that repeat nowhere near, from a counter.
fn block(number: u64) -> Vec<u8> {
    let mut block = vec![0; 64 << 10];
    for (i, chunk) in block.chunks_mut(32).enumerate() {
        chunk.copy_from_slice(&Sha256::digest((number * 4096 + i as u64 % 64).to_le_bytes()));
    }
    block
}

#[test]
fn large_files_pass_in_flat_memory_both_ways() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let size: u64 = std::env::var("SANDBAR_TEST_FILE_MIB").map_or(256, |text| text.parse().unwrap()) << 20;
    let blocks: Vec<Vec<u8>> = (0..16).map(block).collect();
    // What is allocated once for any transfer is there before.
    sandbox.write("/workspace/warm", &[0; 1 << 20]);
    sandbox.read("/workspace/warm");
    let before = rss(server.pid());
    let mut peak = before;
    let mut sent = Sha256::new();
    let path = sandbox.file("/workspace/large");
    let mut stream = sandbox.api.open("POST", &path, &[], Some(size)).unwrap();
    for i in 0..size / (64 << 10) {
        let block = &blocks[(i % 16) as usize];
        stream.write_all(block).unwrap();
        sent.update(block);
        if i % 256 == 0 {
            peak = peak.max(rss(server.pid()));
        }
    }
    Incoming::read(stream).unwrap().whole().unwrap().ok(200);
    let sent = hex::encode(sent.finalize());
    assert!(sandbox.sh_ok("sha256sum /workspace/large").starts_with(&sent), "another content inside");
    let mut incoming = sandbox.api.stream(&path, &[]);
    assert_eq!(incoming.status, 200);
    let mut got = Sha256::new();
    let (mut buffer, mut count, mut total) = (vec![0; 64 << 10], 0u64, 0u64);
    loop {
        let read = incoming.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        got.update(&buffer[..read]);
        total += read as u64;
        count += 1;
        if count.is_multiple_of(256) {
            peak = peak.max(rss(server.pid()));
        }
    }
    assert_eq!(total, size);
    assert_eq!(hex::encode(got.finalize()), sent);
    let grown = peak.saturating_sub(before);
    assert!(grown < 64 << 20, "the server grew by {} MiB for a file of {} MiB", grown >> 20, size >> 20);
}

#[test]
fn a_reader_that_stops_reading_a_file_holds_nobody_back() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok("head -c 100000000 /dev/zero > /workspace/large");
    let stuck: Vec<_> = (0..8).map(|_| sandbox.api.stream(&sandbox.file("/workspace/large"), &[])).collect();
    sandbox.write("/workspace/beside", b"written");
    assert_eq!(sandbox.read("/workspace/beside"), b"written");
    assert_eq!(sandbox.sh_ok("echo beside"), "beside\n");
    sandbox.post("/pause", json!({}));
    sandbox.post("/resume", json!({}));
    drop(stuck);
    assert_eq!(sandbox.read("/workspace/beside"), b"written");
}

#[test]
fn watches_tell_of_direct_children_and_of_deeper_ones_on_request() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok("mkdir -p /workspace/flat/sub /workspace/deep/sub");
    let mut socket = sandbox.api.ws(&sandbox.path("/files/watch")).expect("attached");
    let subscribe = |socket: &mut tungstenite::WebSocket<std::net::TcpStream>, path: &str, recursive: bool| {
        socket.send(Message::text(json!({ "action": "subscribe", "path": path, "recursive": recursive }).to_string())).unwrap();
        let first = next_frame(socket).expect("an answer");
        assert_eq!((&first["type"], &first["path"]), (&json!("subscribed"), &json!(path)), "{first}");
        first["watch_id"].clone()
    };
    let flat = subscribe(&mut socket, "/workspace/flat", false);
    sandbox.write("/workspace/flat/sub/unseen", b"x");
    sandbox.write("/workspace/flat/seen", b"x");
    loop {
        let frame = next_frame(&mut socket).expect("an event");
        assert_eq!(frame["watch_id"], flat);
        assert_ne!(frame["path"], "/workspace/flat/sub/unseen", "a watch that is not recursive went down");
        if frame["path"] == "/workspace/flat/seen" {
            break;
        }
    }
    socket.send(Message::text(json!({ "action": "unsubscribe", "watch_id": flat }).to_string())).unwrap();
    while next_frame(&mut socket).expect("an answer")["type"] != "unsubscribed" {}
    let deep = subscribe(&mut socket, "/workspace/deep", true);
    let mut wait = |path: &str, kinds: &[&str]| loop {
        let frame = next_frame(&mut socket).expect("an event");
        assert_eq!(frame["watch_id"], deep);
        if frame["path"] == path && kinds.contains(&frame["event"].as_str().unwrap()) {
            break;
        }
    };
    sandbox.write("/workspace/deep/sub/a", b"x");
    wait("/workspace/deep/sub/a", &["create", "write"]);
    // Folders that are made later are watched as well.
    sandbox.sh_ok("mkdir -p /workspace/deep/new");
    wait("/workspace/deep/new", &["create"]);
    sandbox.sh_ok("sleep 0.2; echo x > /workspace/deep/new/b");
    wait("/workspace/deep/new/b", &["create", "write"]);
    sandbox.sh_ok("chmod 600 /workspace/deep/sub/a");
    wait("/workspace/deep/sub/a", &["chmod"]);
    sandbox.sh_ok("rm /workspace/deep/sub/a");
    wait("/workspace/deep/sub/a", &["remove"]);
    let mut other = sandbox.api.ws(&sandbox.path("/files/watch")).expect("attached");
    other.send(Message::text(json!({ "action": "subscribe", "path": "/workspace/none" }).to_string())).unwrap();
    assert_eq!(next_frame(&mut other).expect("an answer")["type"], "error");
}
