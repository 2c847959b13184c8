//! Snapshots, restores, forks, and templates made from sandboxes.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server},
    http::{Api, eventually},
    machine,
};

const SOON: Duration = Duration::from_secs(30);

fn server() -> Server {
    Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")])
}

fn snapshot(sandbox: &Sandbox, more: Value) -> String {
    sandbox.api.post(&sandbox.path("/snapshots"), more).ok(201)["id"].as_str().unwrap().to_owned()
}

fn fork(sandbox: &Sandbox) -> Sandbox {
    let data = sandbox.api.post(&sandbox.path("/fork"), json!({})).ok(201);
    assert_eq!(data["source_sandbox_id"], sandbox.id.as_str());
    assert_eq!((&data["sandbox"]["status"], &data["sandbox"]["paused"]), (&json!("paused"), &json!(true)));
    Sandbox { api: sandbox.api.clone(), id: data["sandbox"]["id"].as_str().unwrap().to_owned() }
}

fn claim_snapshot(api: &Api, snapshot: &str) -> Sandbox {
    let data = api.post(SANDBOXES, json!({ "template": "default", "snapshot_id": snapshot })).ok(201);
    Sandbox { api: api.clone(), id: data["sandbox_id"].as_str().unwrap().to_owned() }
}

fn settled(server: &Server) {
    eventually("a machine that matches the rows", SOON, || {
        let wrong = machine::violations(server);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}

#[test]
fn a_snapshot_keeps_what_was_and_what_was_not() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok(
        "echo one >/workspace/f; ln /workspace/f /root/hard; ln -s f /workspace/soft; rm -r /etc/profile.d /srv; mkdir -m 700 /srv; chown 5:6 /workspace/f",
    );
    let running = snapshot(&sandbox, json!({ "name": "running", "description": "d" }));
    sandbox.sh_ok("echo two >/workspace/f; rm /workspace/soft");
    sandbox.post("/pause", json!({}));
    let frozen = snapshot(&sandbox, json!({}));
    assert_eq!(sandbox.get()["status"], "paused");
    sandbox.post("/hibernate", json!({}));
    let stopped = snapshot(&sandbox, json!({}));
    let again = snapshot(&sandbox, json!({}));
    let listed = sandbox.api.get(&sandbox.path("/snapshots")).ok(200);
    assert_eq!(listed["count"], 4);
    assert_eq!(listed["snapshots"][0]["name"], "running");

    let seen = |id: &str| {
        claim_snapshot(&server.api(), id)
            .sh_ok("cat /workspace/f; stat -c '%u:%g %h' /root/hard; readlink /workspace/soft; ls -d /etc/profile.d 2>/dev/null; stat -c %a /srv")
    };
    assert_eq!(seen(&running), "one\n5:6 2\nf\n700\n");
    for id in [&frozen, &stopped, &again] {
        assert_eq!(seen(id), "two\n5:6 2\n700\n");
    }
    // Its own files go on from where they were.
    assert_eq!(sandbox.sh_ok("cat /workspace/f; echo three >/workspace/f; stat -c %h /root/hard"), "two\n2\n");
    assert_eq!(seen(&stopped), "two\n5:6 2\n700\n");
    settled(&server);
    for id in [&running, &frozen, &stopped, &again] {
        let path = format!("/api/v1/sandbox-rootfs-snapshots/{id}");
        assert_eq!(server.api().get(&path).ok(200)["sandbox_id"], sandbox.id.as_str());
        server.api().delete(&path).ok(200);
        assert_eq!(server.api().get(&path).status, 404);
    }
    assert_eq!(sandbox.sh_ok("cat /workspace/f"), "three\n");
    settled(&server);
    // Of a sandbox that is gone they can still be found.
    let last = snapshot(&sandbox, json!({}));
    let path = sandbox.path("/snapshots");
    drop(sandbox);
    assert_eq!(server.api().get(&path).ok(200)["snapshots"][0]["id"], last.as_str());
    server.api().delete(&format!("/api/v1/sandbox-rootfs-snapshots/{last}")).ok(200);
    assert_eq!(server.api().get(&path).status, 404);
    settled(&server);
}

#[test]
fn who_asks_and_goes_away_leaves_nothing_half_done() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok("head -c 200M /dev/zero >/workspace/big");
    let volume = server.api().post("/api/v1/sandboxvolumes", json!({})).ok(201)["id"].as_str().unwrap().to_owned();
    server.api().send("POST", &format!("/api/v1/sandboxvolumes/{volume}/files?path=/big"), &vec![1; 50 << 20]).ok(200);
    for path in [
        sandbox.path("/snapshots"),
        sandbox.path("/fork"),
        format!("/api/v1/sandboxvolumes/{volume}/fork"),
        format!("/api/v1/sandboxvolumes/{volume}/snapshots"),
    ] {
        let stream = server.api().open("POST", &path, &[], Some(0)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(stream);
    }
    eventually("all of it done", SOON, || {
        let snapshots = sandbox.api.get(&sandbox.path("/snapshots")).ok(200)["count"] == 1;
        let forks = sandbox.api.get(SANDBOXES).ok(200)["count"] == 2;
        let volumes = sandbox.api.get("/api/v1/sandboxvolumes").ok(200).as_array().unwrap().len() == 2;
        let kept = sandbox.api.get(&format!("/api/v1/sandboxvolumes/{volume}/snapshots")).ok(200).as_array().unwrap().len() == 1;
        if snapshots && forks && volumes && kept { Ok(()) } else { Err(format!("{snapshots} {forks} {volumes} {kept}")) }
    });
    eventually("a machine that matches the rows", SOON, || {
        // The keeper of the volume is no sandbox.
        let wrong: Vec<_> = machine::violations(&server).into_iter().filter(|text| !text.contains("idle")).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}

#[test]
fn files_are_restored_while_paused_and_only_then() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.write("/workspace/f", b"one");
    let first = snapshot(&sandbox, json!({}));
    sandbox.write("/workspace/f", b"two");
    let restore = || sandbox.api.post(&sandbox.path("/rootfs/restore"), json!({ "snapshot_id": first }));
    assert_eq!(restore().status, 409);
    sandbox.post("/pause", json!({}));
    let data = restore().ok(200);
    assert_eq!((&data["status"], &data["snapshot_id"]), (&json!("paused"), &json!(first)));
    assert_eq!(sandbox.get()["status"], "paused");
    assert_eq!(sandbox.sh_ok("cat /workspace/f"), "one");
    sandbox.post("/pause", json!({}));
    assert_eq!(sandbox.api.post(&sandbox.path("/rootfs/restore"), json!({ "snapshot_id": "nope" })).status, 404);
    assert_eq!(sandbox.sh_ok("cat /workspace/f"), "one");
    settled(&server);
}

#[test]
fn forks_of_forks_outlive_their_sources_and_a_kill() {
    let mut server = server();
    let first = Sandbox::claim(&server.api(), json!({ "env_vars": { "KEPT": "yes" }, "hard_ttl": 5000 }));
    first.sh_ok("echo 0 >/workspace/f");
    let mut last = fork(&first);
    assert_eq!(last.get()["hard_ttl"], 5000);
    for n in 1..5 {
        assert_eq!(last.sh_ok(&format!("echo {n} >>/workspace/f; echo $KEPT")), "yes\n");
        if n % 2 == 0 {
            last.post("/pause", json!({}));
            last.post("/hibernate", json!({}));
        }
        last = fork(&last);
    }
    assert_eq!(first.sh_ok("cat /workspace/f"), "0\n");
    drop(first);
    settled(&server);
    server.kill();
    server.up();
    assert_eq!(last.sh_ok("cat /workspace/f"), "0\n1\n2\n3\n4\n");
    assert_eq!(last.api.post(&last.path("/fork"), json!({ "memory": true })).status, 409);
    assert_eq!(last.api.post(&last.path("/fork"), json!({ "config": { "ttl": 10, "hard_ttl": 5 } })).status, 400);
    settled(&server);
}

#[test]
fn many_layers_become_one_and_nothing_is_lost() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    sandbox.sh_ok("rm -r /etc/profile.d; mv /media /media2; echo deep >/media2/x; mkdir /opt/d; echo gone >/opt/gone; ln /opt/gone /opt/gone2");
    for n in 0..70 {
        sandbox.write(&format!("/workspace/f{n}"), n.to_string().as_bytes());
        if n == 30 {
            sandbox.sh_ok("rm -r /opt/gone; rmdir /opt/d; echo file >/opt/d; mv /media2 /media; mkdir /etc/profile.d; echo p >/etc/profile.d/own");
        }
        sandbox.post("/pause", json!({}));
        sandbox.post("/hibernate", json!({}));
        let id = snapshot(&sandbox, json!({}));
        if n != 69 {
            server.api().delete(&format!("/api/v1/sandbox-rootfs-snapshots/{id}")).ok(200);
        }
    }
    settled(&server);
    let (layers, _) = machine::names_of_state(&server);
    assert!(layers.len() < 65, "{} layers", layers.len());
    let seen = sandbox.sh_ok("cat /workspace/f* | wc -c; cat /media/x /opt/d /opt/gone2 /etc/profile.d/*; ls -d /media2 /opt/gone /workspace/f0 2>&1 | grep -c 'No such'; stat -c %a /tmp; id -u");
    assert_eq!(seen, "130\ndeep\nfile\ngone\np\n2\n1777\n0\n");
}

#[test]
fn snapshots_expire_and_have_limits() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let create = |body: Value| sandbox.api.post(&sandbox.path("/snapshots"), body);
    for wrong in [json!({ "expires_at": "yesterday" }), json!({ "expires_at": "2020-01-01T00:00:00Z" }), json!({ "name": "x".repeat(500) })] {
        assert_eq!(create(wrong).status, 400);
    }
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1500);
    let id = snapshot(&sandbox, json!({ "expires_at": soon.to_string() }));
    let path = format!("/api/v1/sandbox-rootfs-snapshots/{id}");
    assert!(server.api().get(&path).ok(200)["expires_at"].is_string());
    eventually("the end of the snapshot", SOON, || match server.api().get(&path).status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
    settled(&server);
    for _ in 0..100 {
        create(json!({})).ok(201);
    }
    let refused = create(json!({}));
    assert_eq!(refused.status, 429);
    assert!(refused.value()["error"]["message"].as_str().unwrap().contains("100"));
    settled(&server);
}

#[test]
fn a_template_made_of_a_sandbox_begins_with_its_files() {
    let server = server();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok("echo installed >/usr/local/x 2>/dev/null || echo installed >/opt/x");
    let body = json!({ "template_id": "made", "sandbox_id": sandbox.id, "spec_overrides": { "displayName": "Made" } });
    let send =
        |body: &Value| server.api().try_send("POST", "/api/v1/templates/from-sandbox", &[("idempotency-key", "k1")], body.to_string().as_bytes()).unwrap();
    let made = send(&body).ok(202);
    assert_eq!((&made["status"]["creation"]["state"], &made["spec"]["displayName"]), (&json!("ready"), &json!("Made")));
    assert_eq!(send(&body).ok(202)["template_id"], "made", "the same request again");
    assert_eq!(send(&json!({ "template_id": "other", "sandbox_id": sandbox.id })).status, 409);
    assert_eq!(server.api().post("/api/v1/templates/from-sandbox", body).status, 409);
    drop(sandbox);
    let claimed = Sandbox::claim_from(&server.api(), "made", json!({}));
    assert_eq!(claimed.sh_ok("cat /opt/x /usr/local/x 2>/dev/null || true"), "installed\n");
    server.api().delete("/api/v1/templates/made").ok(200);
    assert_eq!(claimed.sh_ok("cat /opt/x"), "installed\n");
    settled(&server);
}

#[test]
fn all_snapshots_of_a_team_are_listed_those_of_sandboxes_that_are_gone_too() {
    const ALL: &str = "/api/v1/sandbox-rootfs-snapshots";
    let server = server();
    let api = server.api();
    assert_eq!(api.get(ALL).ok(200), json!({ "snapshots": [], "count": 0 }));
    let (gone, stays) = (Sandbox::claim(&api, json!({})), Sandbox::claim(&api, json!({})));
    let made = [snapshot(&gone, json!({ "name": "of one that is gone" })), snapshot(&stays, json!({}))];
    api.delete(&gone.path("")).ok(202);
    eventually("the sandbox is gone", SOON, || match api.get(&gone.path("")).status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
    let listed = api.get(ALL).ok(200);
    let ids: Vec<_> = listed["snapshots"].as_array().unwrap().iter().map(|one| (one["id"].clone(), one["sandbox_id"].clone())).collect();
    assert_eq!(ids, [(json!(made[0]), json!(gone.id)), (json!(made[1]), json!(stays.id))]);
    api.delete(&format!("{ALL}/{}", made[0])).ok(200);
    assert_eq!(api.get(ALL).ok(200)["count"], 1);
    api.anonymous().get(ALL).error(&[401]);
}
