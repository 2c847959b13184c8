//! What becomes of sessions and sandboxes in one another's course.

use super::*;

#[test]
fn a_paused_sandbox_is_woken_when_it_may_be() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    sandbox.sh_ok("echo kept > /workspace/a");
    for path in ["/pause", "/hibernate"] {
        if path == "/hibernate" {
            sandbox.post("/pause", json!({}));
        }
        sandbox.post(path, json!({}));
        assert!(sandbox.is_paused());
        // To come in is not to use it.
        let mut idle = spawn(me.ssh_with(&["-N"], &sandbox, &[]));
        std::thread::sleep(Duration::from_millis(700));
        assert!(sandbox.is_paused() && idle.try_wait().unwrap().is_none());
        idle.kill().unwrap();
        idle.wait().unwrap();
        assert_eq!(me.ok(&sandbox, "cat /workspace/a"), "kept\n");
        assert!(!sandbox.is_paused());
    }
}

#[test]
fn a_paused_sandbox_that_may_not_be_woken_says_so() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({ "auto_resume": false })));
    sandbox.post("/pause", json!({}));
    let refused = me.ssh(&sandbox, &["true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(255));
    assert!(stderr(&refused).contains("sandbar: ") && stderr(&refused).contains("paused"), "{}", stderr(&refused));
    assert!(sandbox.is_paused());
    sandbox.post("/resume", json!({}));
    assert_eq!(me.ok(&sandbox, "echo up"), "up\n");
}

#[test]
fn sessions_end_with_a_word_when_the_sandbox_does() {
    let ground = ground();
    let api = ground.server.api();
    let me = Me::with_key(&ground, &api);
    for (what, says) in [("pause", "the sandbox was paused"), ("delete", "the sandbox has ended")] {
        let sandbox = Sandbox::claim(&api, json!({}));
        let mut child = spawn(me.ssh(&sandbox, &["echo begun; sleep 1000"]));
        let mut begun = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        match what {
            "pause" => drop(sandbox.post("/pause", json!({}))),
            _ => drop(api.delete(&sandbox.path("")).ok(202)),
        }
        let status = wait_within(&mut child, Duration::from_secs(20));
        let mut text = String::new();
        child.stderr.as_mut().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(status.code(), Some(255), "{what}");
        assert!(text.contains(says), "{what}: {text}");
    }
}

#[test]
fn a_server_that_stops_takes_leave_and_the_sandbox_goes_on() {
    let address = free_address();
    let mut server = Server::start_with(&[("SANDBAR_SSH_LISTEN", &address.to_string()), ("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let me = Me::with_key_at(address.port(), &server.api());
    let mut child = spawn(me.ssh(&sandbox, &["echo begun; sleep 1000"]));
    let mut begun = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let marker = sandbox.spawn(&["sleep", "4713"]);
    assert!(server.terminate().success());
    assert_eq!(wait_within(&mut child, Duration::from_secs(20)).code(), Some(255));
    server.up();
    assert_eq!(sandbox.context(&marker["id"])["running"], json!(true));
    assert_eq!(me.ok(&sandbox, "pgrep -fc 'sleep [1]000' || echo gone"), "0\ngone\n");
}
