//! What goes wrong behind a function's back, and costs neither its callers an answer nor the machine a sandbox.

use super::*;

#[test]
fn a_source_that_listens_no_more_does_not_take_production_away() {
    let server = shared();
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    assert_eq!(tag(&function.host()), "v1");
    assert_eq!(function.runtime()["serving"], "source");
    // Its process runs and does not listen, until it is well again; what was published does.
    let deaf = "import os, time\nwhile not os.path.exists('/workspace/well'):\n    time.sleep(0.1)\n";
    sandbox.write("/workspace/app.py", deaf.as_bytes());
    let _ = function.host().try_send("GET", "/die", &[], b"");
    // A browser waits for a moment only, and asks again.
    eventually("an instance that takes over", SOON, || {
        let reply = function.host().try_send("GET", "/", &[("accept", "text/html")], b"").map_err(|error| error.to_string())?;
        let is_answer = reply.status == 200 && reply.text().contains("\"tag\": \"v1\"");
        if is_answer { Ok(()) } else { Err(format!("{}: {}", reply.status, reply.text())) }
    });
    assert_eq!(function.instances("ready").len(), 1);
    // The source is looked at behind the requests from now on.
    for _ in 0..3 {
        assert_eq!(tag(&function.host()), "v1");
    }
    sandbox.write("/workspace/app.py", APP.as_bytes());
    sandbox.write("/workspace/well", b"yes");
    eventually("the source to serve again", SOON, || {
        let said = says(&function.host(), "/?read=/workspace/well");
        if said["files"]["/workspace/well"] == "yes" { Ok(()) } else { Err(said.to_string()) }
    });
}

#[test]
fn what_could_not_be_written_down_is_removed_later() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    gone(sandbox);
    assert_eq!(tag(&function.host()), "v1");
    let database = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
    database.busy_timeout(SOON).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON function_instance WHEN NEW.state IN ('removing', 'draining')
        BEGIN SELECT RAISE(ABORT, 'refused by a test'); END";
    database.execute_batch(refuse).unwrap();
    function.update(json!({ "enabled": false }));
    eventually("an instance that has lost its place", SOON, || {
        let runtime = function.runtime();
        if runtime["instances"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(runtime.to_string()) }
    });
    assert_eq!(count(&server, "function_instance WHERE state = 'ready'"), 1, "nothing of it could be written");
    database.execute_batch("DROP TRIGGER refuse").unwrap();
    eventually("no instances", SOON, || match count(&server, "function_instance") + count(&server, "sandbox") {
        0 => Ok(()),
        left => Err(format!("{left} rows are left")),
    });
    settled(&server);
}

#[test]
fn a_restart_starts_the_source_anew_and_nobody_notices() {
    let server = shared();
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    // Only the source has it.
    sandbox.write("/workspace/mark", b"source");
    let from_source = || {
        let said = says(&function.host(), "/?read=/workspace/mark");
        (said["files"]["/workspace/mark"] == "source").then(|| said["pid"].clone())
    };
    let before = from_source().expect("the source serves");
    let (restarted, tags) = under_load(&function.host(), || function.api.post(&function.path("/runtime/restart"), json!({})));
    restarted.ok(200);
    assert_eq!(tags, BTreeSet::from(["v1".to_owned()]));
    let after = eventually("the source to serve again", SOON, || from_source().ok_or_else(|| function.runtime().to_string()));
    assert_ne!(before, after, "it is another process");
}
