//! Stops and starts of the server: what goes on meanwhile, what is made up for, who is kept out.

use std::{fs, time::Duration};

use serde_json::json;

use super::{
    harness::{Sandbox, Server},
    http::eventually,
    machine,
};

const SOON: Duration = Duration::from_secs(20);

fn server() -> Server {
    Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")])
}

/// Leaves the sandbox to the server's own end instead of deleting it.
fn keep(sandbox: Sandbox) -> String {
    let id = sandbox.id.clone();
    std::mem::forget(sandbox);
    id
}

fn settled(server: &Server) {
    eventually("a machine that matches the rows", SOON, || {
        let wrong = machine::violations(server);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}

#[test]
fn sigterm_leaves_sandboxes_running_and_the_next_start_adopts_them() {
    let mut server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let paused = Sandbox::claim(&server.api(), json!({}));
    paused.write("/workspace/f", b"kept");
    paused.post("/pause", json!({}));
    let counter = "i=0; while :; do i=$((i+1)); echo $i > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.05; done";
    let context = sandbox.spawn(&["sh", "-c", counter]);
    let repl = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "repl", "repl": { "alias": "python" } })).ok(201);
    let exec = sandbox.path(&format!("/contexts/{}/exec", repl["id"].as_str().unwrap()));
    sandbox.api.post(&exec, json!({ "data": "x = 41" })).ok(200);
    let before = sandbox.get();
    let count = |sandbox: &Sandbox| String::from_utf8(sandbox.read("/tmp/n")).unwrap().trim().parse::<u64>().unwrap();
    eventually("the first count", SOON, || match sandbox.api.get(&sandbox.file("/tmp/n")).status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    let counted = count(&sandbox);

    let status = server.terminate();
    assert!(status.success(), "SIGTERM is no failure: {status}\n{}", server.log_tail());
    let outside = machine::processes(&server.instance);
    assert!(outside.iter().any(|process| process.command.starts_with("sh -c")), "the process ended with the server: {outside:?}");

    server.up();
    let after = sandbox.get();
    for key in ["id", "runtime_id", "runtime_generation", "status", "created_at"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let now = sandbox.context(&context["id"]);
    assert_eq!((&now["running"], &now["pid"]), (&json!(true), &context["pid"]));
    eventually("the counter goes on", SOON, || if count(&sandbox) > counted { Ok(()) } else { Err(count(&sandbox).to_string()) });
    let answer = sandbox.api.post(&exec, json!({ "data": "print(x + 1)" })).ok(200);
    assert!(answer["output_raw"].as_str().unwrap().contains("42"), "the REPL forgot: {answer}");
    assert!(paused.is_paused());
    assert_eq!(paused.read("/workspace/f"), b"kept");
    settled(&server);
}

#[test]
fn a_ttl_that_passes_while_the_server_is_down_pauses_soon_after_the_start() {
    let mut server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({ "ttl": 2 }));
    sandbox.write("/workspace/f", b"kept");
    server.kill();
    let runtimes = machine::processes(&server.instance);
    assert!(!runtimes.is_empty(), "the runtime ended with the server");
    // What has to pass is time itself.
    std::thread::sleep(Duration::from_millis(2500));
    server.up();
    sandbox.wait_paused();
    sandbox.wait_event("the reason of the pause", |event| event["type"] == "sandbox.paused" && event["reason_code"] == "ttl_expired");
    assert_eq!(sandbox.read("/workspace/f"), b"kept");
    settled(&server);
}

#[test]
fn a_hard_ttl_that_passes_while_the_server_is_down_cleans_and_access_restores() {
    let mut server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({ "hard_ttl": 2 }));
    sandbox.write("/workspace/f", b"gone");
    server.kill();
    std::thread::sleep(Duration::from_millis(2500));
    server.up();
    eventually("the cleaning", SOON, || {
        let row = sandbox.get();
        if row["cleaned"] == true { Ok(()) } else { Err(row.to_string()) }
    });
    settled(&server);
    assert!(machine::processes(&server.instance).is_empty(), "the runtime of a cleaned sandbox lives");
    assert_eq!(sandbox.sh_ok("ls /workspace; echo fresh"), "fresh\n");
}

#[test]
fn two_servers_on_one_data_directory_refuse() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let context = sandbox.spawn(&["sleep", "86400"]);
    let (status, said) = server.second();
    assert!(!status.success(), "a second server started:\n{said}");
    assert!(said.contains("data"), "it does not say why: {said}");
    // It must not have swept or taken over what the first one owns.
    assert_eq!(sandbox.context(&context["id"])["running"], true);
    assert_eq!(sandbox.sh_ok("echo on"), "on\n");
    settled(&server);
}

#[test]
fn what_no_row_owns_is_removed_at_the_start() {
    let mut server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    server.kill();
    let data = server.data_dir();
    for dir in ["roots/root-aaaaaaaaaaaaaaaa/upper/deep/er", "runtimes/rt-aaaaaaaaaaaaaaaa", "trash/root-bbbbbbbbbbbbbbbb-0/upper", "images/half-aaaa"] {
        fs::create_dir_all(data.join(dir)).unwrap();
    }
    fs::write(data.join("runtimes/rt-aaaaaaaaaaaaaaaa/log.a"), "").unwrap();
    let groups = machine::cgroup_dirs(&server.instance);
    assert!(!groups.is_empty(), "the instance has no cgroups");
    for group in &groups {
        fs::create_dir(group.join("rt-aaaaaaaaaaaaaaaa")).unwrap();
    }
    server.up();
    settled(&server);
    assert_eq!(sandbox.sh_ok("echo on"), "on\n");
}

#[test]
fn a_sandbox_whose_processes_died_with_the_server_down_keeps_its_files() {
    let mut server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.write("/workspace/f", b"kept");
    let generation = sandbox.get()["runtime_generation"].as_i64().unwrap();
    server.kill();
    for process in machine::processes(&server.instance).into_iter().filter(|process| process.inner_pid == 1) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(process.pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
    }
    eventually("the end of the runtime", SOON, || {
        let left = machine::processes(&server.instance);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    server.up();
    settled(&server);
    sandbox.wait_event("the loss", |event| event["reason_code"] == "restarted" || event["type"] == "sandbox.runtime_lost");
    assert_eq!(sandbox.read("/workspace/f"), b"kept");
    assert!(sandbox.get()["runtime_generation"].as_i64().unwrap() > generation);
}

#[test]
fn pid_1_of_a_sandbox_killed_from_outside_is_noticed_and_the_files_are_kept() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.write("/workspace/f", b"kept");
    let init = machine::processes(&server.instance).into_iter().find(|process| process.inner_pid == 1).expect("a pid 1");
    rustix::process::kill_process(rustix::process::Pid::from_raw(init.pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
    sandbox.wait_event("the loss", |event| event["type"] == "sandbox.runtime_lost");
    assert_eq!(sandbox.read("/workspace/f"), b"kept");
    settled(&server);
}

#[test]
fn the_database_and_the_key_file_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let server = server();
    let sandbox = keep(Sandbox::claim(&server.api(), json!({})));
    for name in ["sandbar.db", "secret.key", "egress-ca.key", "egress-ssh.key"] {
        let path = server.data_dir().join(name);
        let Ok(meta) = fs::metadata(&path) else {
            assert_eq!(name, "secret.key", "{} is missing", path.display());
            continue;
        };
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{} can be read by others", path.display());
    }
    // The key itself is stored nowhere.
    for file in fs::read_dir(server.data_dir()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let bytes = fs::read(file.path()).unwrap();
        let token = super::harness::TOKEN.as_bytes();
        assert!(!bytes.windows(token.len()).any(|window| window == token), "{} holds the key", file.path().display());
    }
    server.api().delete(&format!("{}/{sandbox}", super::harness::SANDBOXES)).ok(202);
}
