//! Sandboxes that take all they can get. Each bomb is bounded and ends by itself; after each the server answers, a
//! second sandbox works, and the first one can be used again or says why not.

use std::time::Duration;

use serde_json::json;

use super::{
    harness::{Sandbox, rss, shared},
    http::eventually,
};

const SOON: Duration = Duration::from_secs(30);

/// The server and a neighbour are well, at once; the one that was bombed is, soon.
fn recovered(bombed: &Sandbox) {
    let second = Sandbox::claim(&bombed.api, json!({}));
    assert_eq!(second.sh_ok("echo well"), "well\n");
    eventually("the bombed sandbox", SOON, || {
        let body = json!({ "type": "cmd", "cmd": { "command": ["sh", "-c", "echo again"] }, "wait_until_done": true });
        let reply = bombed.api.post(&bombed.path("/contexts"), body);
        if reply.status == 201 && reply.value()["data"]["stdout"] == "again\n" { Ok(()) } else { Err(reply.text()) }
    });
}

#[test]
fn a_fork_bomb_meets_the_limit_of_processes() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let code = "import os, time\nn = 0\ntry:\n  while n < 5000:\n    if os.fork() == 0: time.sleep(3); os._exit(0)\n    n += 1\nexcept OSError as e: print('stopped', n, e.errno)";
    let done = sandbox.python(code);
    assert!(done.stdout.starts_with("stopped ") && done.stdout.trim().ends_with(" 11"), "{done:?}");
    recovered(&sandbox);
}

#[test]
fn a_shell_fork_bomb_ends_with_its_context() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    // Doubles for two seconds at most.
    let bomb = "end=$(($(date +%s)+2)); b() { [ $(date +%s) -lt $end ] && { b | b & }; }; b 2>/dev/null; wait";
    let context = sandbox.spawn(&["bash", "-c", bomb]);
    let second = Sandbox::claim(&server.api(), json!({}));
    assert_eq!(second.sh_ok("echo beside"), "beside\n");
    sandbox.api.delete(&sandbox.path(&format!("/contexts/{}", context["id"].as_str().unwrap()))).ok(200);
    recovered(&sandbox);
}

#[test]
fn memory_beyond_the_limit_is_killed_inside_and_the_owner_is_told() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "resources": { "memory": "128Mi" } }));
    let generation = sandbox.get()["runtime_generation"].clone();
    let done = sandbox.python("b = []\nfor i in range(1000): b.append(b'x' * (1 << 20))\nprint('got all')");
    assert_ne!(done.code, 0, "128Mi held 1000 MiB: {done:?}");
    assert_eq!(done.code, 137, "{done:?}");
    assert!(done.context["reason"].as_str().is_some_and(|reason| reason.contains("out_of_memory")), "the context does not say why: {}", done.context);
    sandbox.wait_event("the event", |event| event["type"] == "sandbox.out_of_memory");
    assert_eq!(sandbox.get()["runtime_generation"], generation, "procd was killed");
    // /dev/shm counts too.
    let shm = sandbox.sh("head -c 300000000 /dev/zero > /dev/shm/x; echo code $?; rm -f /dev/shm/x");
    assert!(!shm.stdout.contains("code 0"), "{shm:?}");
    recovered(&sandbox);
}

#[test]
fn a_repl_that_runs_out_of_memory_says_so_and_another_can_be_had() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "resources": { "memory": "128Mi" } }));
    let make =
        || sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "repl", "repl": { "alias": "python" } })).ok(201)["id"].as_str().unwrap().to_owned();
    let id = make();
    let exec = |id: &str, code: &str| sandbox.api.post(&sandbox.path(&format!("/contexts/{id}/exec")), json!({ "data": code }));
    let reply = exec(&id, "b = [b'x' * (1 << 20) for i in range(1000)]").ok(200);
    assert_eq!(reply["exit_code"], 137, "{reply}");
    assert!(reply["reason"].as_str().is_some_and(|reason| reason.contains("out_of_memory")), "{reply}");
    exec(&id, "1").error(&[404, 409, 410]);
    let id = make();
    assert!(exec(&id, "print(6 * 7)").ok(200)["output_raw"].as_str().unwrap().contains("42"));
    recovered(&sandbox);
}

#[test]
fn a_disk_writer_is_stopped_and_an_event_says_so() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "resources": { "ephemeralStorage": "64Mi" } }));
    // At most 512 MiB, slowly enough for a watcher that looks now and then.
    let code = "import os, time\nf = open('/workspace/big', 'wb')\ntry:\n  for i in range(512):\n    f.write(b'x' * (1 << 20)); f.flush(); os.fsync(f.fileno()); time.sleep(0.02)\n  print('all')\nexcept OSError as e: print('stopped', e.errno)";
    let done = sandbox.python(code);
    assert!(!done.stdout.contains("all"), "64Mi held 512 MiB: {done:?}");
    sandbox.wait_event("the event", |event| event["type"] == "sandbox.disk_limit");
    // It can be looked at and made smaller.
    sandbox.api.delete(&sandbox.file("/workspace/big")).ok(200);
    recovered(&sandbox);
    sandbox.write("/workspace/small", b"fits");
    assert_eq!(sandbox.read("/workspace/small"), b"fits");
}

#[test]
fn many_inodes_and_deep_folders_are_deleted_with_the_sandbox() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let code = "import os\nos.mkdir('/workspace/many')\nfor i in range(20000): open(f'/workspace/many/{i}', 'w').close()\nos.chdir('/workspace')\nfor i in range(2000):\n  os.mkdir('d' * 100); os.chdir('d' * 100)\nprint('made')";
    let done = sandbox.python(code);
    // On a busy machine it is still at it when folders that deep are seen, which are too deep to be counted.
    let was_ended = sandbox.events().iter().any(|event| event["type"] == "sandbox.disk_limit");
    assert!(done.stdout == "made\n" || was_ended, "{done:?}");
    recovered(&sandbox);
    // The list of a folder with that many entries is an answer, not a failure.
    let listed = sandbox.api.get(&sandbox.path("/files/list?path=/workspace/many"));
    assert!(listed.status == 200 || (400..500).contains(&listed.status), "{} {}", listed.status, &listed.text()[..200.min(listed.body.len())]);
    let root = server.data_dir().join("roots");
    let count = || std::fs::read_dir(&root).unwrap().count();
    let before = count();
    drop(sandbox);
    eventually("the files are gone", SOON, || {
        let left = count();
        let trash = std::fs::read_dir(server.data_dir().join("trash")).unwrap().count();
        if trash == 0 && left <= before { Ok(()) } else { Err(format!("{left} roots, {trash} in the trash")) }
    });
}

#[test]
fn open_files_have_a_limit_of_their_own() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let code = "import os\nfds = []\ntry:\n  for i in range(200000): fds.append(os.open('/dev/null', 0))\n  print('all')\nexcept OSError as e: print('stopped', e.errno)";
    assert_eq!(sandbox.python(code).stdout, "stopped 24\n");
    recovered(&sandbox);
}

#[test]
fn a_flood_of_output_is_capped_with_a_marker_and_costs_the_server_little() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let before = rss(server.pid());
    let done = sandbox.sh("yes 0123456789abcdef | head -c 200000000; echo THE-END");
    assert_eq!(done.code, 0);
    assert!(done.stdout.ends_with("THE-END\n"), "the end is missing");
    assert!(done.stdout.len() < 64 << 20, "{} bytes were kept", done.stdout.len());
    assert_eq!(done.context["truncated"], true, "nothing says that something is missing");
    let grown = rss(server.pid()).saturating_sub(before);
    assert!(grown < 128 << 20, "the server grew by {} MiB", grown >> 20);
    recovered(&sandbox);
}

#[test]
fn a_websocket_that_nobody_reads_hurts_nobody() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let context = sandbox.spawn(&["sh", "-c", "yes 0123456789abcdef | head -c 200000000; echo THE-END"]);
    let before = rss(server.pid());
    let unread = sandbox.api.ws(&sandbox.path(&format!("/contexts/{}/ws", context["id"].as_str().unwrap()))).expect("attached");
    eventually("the command goes on without its reader", Duration::from_secs(60), || {
        let now = sandbox.context(&context["id"]);
        if now["running"] == false { Ok(()) } else { Err("it waits for the reader".into()) }
    });
    let grown = rss(server.pid()).saturating_sub(before);
    assert!(grown < 128 << 20, "the server grew by {} MiB", grown >> 20);
    recovered(&sandbox);
    drop(unread);
    assert!(sandbox.context(&context["id"])["stdout"].as_str().unwrap().ends_with("THE-END\n"));
}

#[test]
fn many_contexts_meet_a_limit_that_says_its_name() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let mut refused = None;
    for _ in 0..600 {
        let reply = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["sleep", "60"] } }));
        if reply.status != 201 {
            refused = Some(reply);
            break;
        }
    }
    if let Some(reply) = refused {
        reply.error(&[409, 429]);
    }
    let second = Sandbox::claim(&server.api(), json!({}));
    assert_eq!(second.sh_ok("echo well"), "well\n");
    // Still to be looked at and ended.
    let listed = sandbox.api.get(&sandbox.path("/contexts")).ok(200);
    let first = listed["contexts"][0]["id"].as_str().unwrap();
    sandbox.api.delete(&sandbox.path(&format!("/contexts/{first}"))).ok(200);
    assert_eq!(sandbox.sh_ok("echo well"), "well\n");
}

#[test]
fn a_sandbox_that_cripples_its_own_agent_hurts_only_itself_and_can_be_ended() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.write("/workspace/f", b"kept");
    // Pid 1 is of the same user: whatever the kernel allows against it, signals, priority, a place on one CPU, fewer files.
    let attack = "import ctypes, os, signal, struct\nl = ctypes.CDLL(None, use_errno=True)\nl.syscall(302, 1, 7, struct.pack('QQ', 0, 0), 0)\nos.sched_setaffinity(1, [0])\nos.setpriority(os.PRIO_PROCESS, 1, 19)\nfor n in range(1, 65):\n  try: os.kill(1, n)\n  except OSError: pass";
    // Whoever cripples the agent cannot count on being told by it that it worked.
    let body = json!({ "type": "cmd", "cmd": { "command": ["python3", "-c", attack] }, "wait_until_done": true });
    let reply = sandbox.api.post(&sandbox.path("/contexts"), body);
    assert!(matches!(reply.status, 201 | 503), "{} {}", reply.status, reply.text());
    let second = Sandbox::claim(&sandbox.api, json!({}));
    assert_eq!(second.sh_ok("echo well"), "well\n");
    // An answer, whatever it is, and not a connection that hangs.
    for _ in 0..8 {
        let reply = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["true"] }, "wait_until_done": true }));
        assert!(matches!(reply.status, 201 | 409 | 429 | 500 | 503), "{} {}", reply.status, reply.text());
    }
    sandbox.post("/pause", json!({}));
    sandbox.post("/resume", json!({}));
    sandbox.api.delete(&sandbox.path("")).ok(202);
}
