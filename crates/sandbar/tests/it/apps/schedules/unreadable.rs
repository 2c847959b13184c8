//! Rows that cannot be read: they end, with a reason, and keep nobody else from anything.

use super::*;

fn write(server: &Server, sql: &str) {
    let db = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
    let changed = db.execute(sql, []).unwrap();
    assert_eq!(changed, 1, "{sql}");
}

#[test]
fn rows_that_cannot_be_read_end_and_keep_nobody_else_from_anything() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let web = |name: &str| {
        let yaml =
            format!("start:\n  command: \"python3 -m http.server 3000\"\n  ports: [{{port: 3000}}]\n{ACTIONS}  - name: long\n    command: \"sleep 1000\"\n");
        Demo::deploy(&api, name, &yaml, &[])
    };
    let (good, bad, offline) = (web("good"), web("bad"), web("offline"));
    for demo in [&bad, &offline] {
        demo.start();
    }
    offline.post("/stop", json!({}));
    let seconds = json!({ "name": "often", "cron": "* * * * * *", "action": "report", "runtimePolicy": "run_and_delete" });
    for demo in [&good, &bad, &offline] {
        demo.try_post("/schedules", seconds.clone()).ok(201);
    }
    let long = good.try_post("/runs", json!({ "action": "long" })).ok(202)["run"].clone();
    super::super::runs::until_phase(&api, &long, "commanding");
    server.kill();
    write(&server, "UPDATE app_version SET manifest = '{\"runtime\":' WHERE app_id = (SELECT id FROM app WHERE name = 'bad')");
    write(&server, "UPDATE app_version SET manifest = 'x' WHERE app_id = (SELECT id FROM app WHERE name = 'offline')");
    write(&server, "UPDATE app SET launch = 'no json' WHERE name = 'offline'");
    write(&server, "UPDATE app_schedule SET spec = '[]' WHERE app_id = (SELECT id FROM app WHERE name = 'offline')");
    write(&server, "UPDATE app_run SET doc = '{' WHERE status = 'running' AND action = 'long'");
    server.up();

    // Schedules: one that cannot be read has failed; of one whose app cannot be read each tick says so; all others go on.
    let failed = until(&offline, "often", "the end of a schedule", |it: &Value| it["lifecycle_status"] == "failed");
    assert!(failed["lifecycle_reason"].as_str().unwrap().contains("cannot be read") && failed["spec"].is_null(), "{failed}");
    let newest = || ticks(&bad, "often").first().cloned().unwrap_or_default();
    let mark = newest()["scheduled_at"].clone();
    let newest = eventually("a tick of an app that cannot be read", WITHIN, || {
        let newest = newest();
        if newest["scheduled_at"] == mark { Err(newest.to_string()) } else { Ok(newest) }
    });
    assert!(newest["reason"].as_str().unwrap().contains("manifest of version 1 cannot be read"), "{newest}");
    let run = ended(&api, &good.try_post("/runs", json!({ "action": "report" })).ok(202)["run"]);
    assert_eq!(run["status"], "succeeded", "{run}");
    let count = is(&good, "often")["execution_count"].as_u64().unwrap();
    until(&good, "often", "more ticks", |it: &Value| it["execution_count"].as_u64().unwrap() > count);
    // The run: ended once, with its receipt.
    let lost = ended(&api, &long);
    assert_eq!((&lost["status"], &lost["failure_reason"]), (&json!("failed"), &json!("internal")), "{lost}");
    assert!(lost["message"].as_str().unwrap().contains("cannot be read"), "{lost}");
    assert_ne!(lost["receipt_id"], Value::Null, "{lost}");
    // Apps are listed; those that cannot be read say so, and a deploy mends them.
    assert_eq!(api.get("/api/v1/apps").ok(200)["apps"].as_array().unwrap().len(), 3);
    for demo in [&bad, &offline] {
        let error = demo.try_post("/start", json!({})).error(&[500]);
        assert!(error["message"].as_str().unwrap().contains("deploy the app again"), "{error}");
    }
    for demo in [&good, &bad, &offline] {
        let path = schedule(demo, "often", "");
        demo.api.delete(&path).ok(200);
        demo.redeploy("actions:\n  - name: report\n    command: \"echo again\"\n", &[]);
        let run = ended(&api, &demo.try_post("/runs", json!({ "action": "report", "sandbox": "fresh" })).ok(202)["run"]);
        assert_eq!(run["status"], "succeeded", "{run}");
    }
    let log = server.log();
    let times = log.lines().filter(|line| line.contains("a schedule cannot be read, and ends")).count();
    assert_eq!(times, 1, "it is told of once\n{}", server.log_tail());
}
