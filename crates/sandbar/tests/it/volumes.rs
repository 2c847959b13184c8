//! Volumes: files that outlive sandboxes, who may have them, and what is kept of them.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server},
    http::{Api, Reply, eventually},
    machine,
};

const VOLUMES: &str = "/api/v1/sandboxvolumes";
const SOON: Duration = Duration::from_secs(30);

fn server() -> Server {
    Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")])
}

fn create(api: &Api, body: Value) -> String {
    let data = api.post(VOLUMES, body).ok(201);
    assert_eq!(data["backend"], "s0fs");
    data["id"].as_str().unwrap().to_owned()
}

fn put(api: &Api, volume: &str, path: &str, bytes: &[u8]) -> Reply {
    api.send("POST", &format!("{VOLUMES}/{volume}/files?path={path}"), bytes)
}

fn read(api: &Api, volume: &str, path: &str) -> (u16, String) {
    let reply = api.get(&format!("{VOLUMES}/{volume}/files?path={path}"));
    (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
}

fn try_claim(api: &Api, mounts: Value) -> Reply {
    api.post(SANDBOXES, json!({ "template": "default", "mounts": mounts }))
}

fn claim(api: &Api, volume: &str, at: &str) -> Sandbox {
    let data = try_claim(api, json!([{ "sandboxvolume_id": volume, "mount_point": at }])).ok(201);
    Sandbox { api: api.clone(), id: data["sandbox_id"].as_str().unwrap().to_owned() }
}

fn settled(server: &Server) {
    eventually("a machine that matches the rows", SOON, || {
        // Those who serve files of volumes are no sandboxes.
        let wrong: Vec<_> = machine::violations(server).into_iter().filter(|text| !text.contains("idle") && !text.contains("without a row")).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}

#[test]
fn files_by_api_and_in_sandboxes_are_the_same_and_stay_within() {
    let server = server();
    let api = server.api();
    let volume = create(&api, json!({ "name": "v", "default_posix_uid": 1000, "default_posix_gid": 1000 }));
    put(&api, &volume, "/seed.txt", b"seed").ok(200);
    let sandbox = claim(&api, &volume, "/workspace/data");
    assert_eq!(sandbox.sh_ok("cat /workspace/data/seed.txt; stat -c '%u %U' /workspace/data; stat -c %u /workspace/data/seed.txt"), "seed1000 user\n0\n");
    sandbox.sh_ok(
        "mkdir -p /workspace/data/d; echo out >/workspace/data/d/out; ln -s /etc/passwd /workspace/data/link; ln -s ../../../../etc/shadow /workspace/data/up",
    );
    assert_eq!(read(&api, &volume, "/d/out"), (200, "out\n".into()));
    // Where a link leads is decided behind walls, where there is nothing of the host's.
    for path in ["/up", "/../../../../etc/shadow", "/d/../../../root/.ssh/id_rsa"] {
        let (status, text) = read(&api, &volume, path);
        assert!(status != 200 || !text.contains("$"), "{path}: {status} {text}");
    }
    let listed = api.get(&format!("{VOLUMES}/{volume}/files/list?path=/")).ok(200);
    let names: Vec<&str> = listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["/d", "/link", "/seed.txt", "/up"]);
    assert_eq!(api.delete(&format!("{VOLUMES}/{volume}/files?path=/..")).status, 400);
    let refused = api.post(&format!("{VOLUMES}/{volume}/files/move"), json!({ "source": "/d/out", "destination": "/e/out" })).error(&[404]);
    assert_eq!(refused["message"], "/d/out to /e/out: No such file or directory");
    api.send("POST", &format!("{VOLUMES}/{volume}/files?path=/e&mkdir=true"), b"").ok(201);
    api.post(&format!("{VOLUMES}/{volume}/files/move"), json!({ "source": "/d/out", "destination": "/e/out" })).ok(200);
    assert_eq!(sandbox.sh_ok("cat /workspace/data/e/out"), "out\n");
    drop(sandbox);
    assert_eq!(read(&api, &volume, "/e/out"), (200, "out\n".into()));
    assert_eq!(claim(&api, &volume, "/data").sh_ok("cat /data/e/out"), "out\n");
    api.delete(&format!("{VOLUMES}/{volume}")).ok(200);
    assert_eq!(api.get(&format!("{VOLUMES}/{volume}")).status, 404);
    assert_eq!(read(&api, &volume, "/e/out").0, 404);
    settled(&server);
}

#[test]
fn folders_in_memory_and_declared_mounts_of_a_template() {
    let server = server();
    let api = server.api();
    let spec = json!({ "mainContainer": { "image": "host", "resources": { "memory": "256Mi" } }, "ephemeralMounts": [{ "mountPath": "/scratch", "sizeLimit": "1Mi" }],
        "volumeMounts": [{ "name": "data", "mountPath": "/data", "readOnly": true }] });
    api.post("/api/v1/templates", json!({ "template_id": "mounts", "spec": spec })).ok(201);
    let volume = create(&api, json!({}));
    put(&api, &volume, "/f", b"x").ok(200);
    let claim = |at: &str| api.post(SANDBOXES, json!({ "template": "mounts", "mounts": [{ "sandboxvolume_id": volume, "mount_point": at }] }));
    assert_eq!(claim("/elsewhere").status, 400);
    let sandbox = Sandbox { api: api.clone(), id: claim("/data").ok(201)["sandbox_id"].as_str().unwrap().to_owned() };
    assert_eq!(
        sandbox.sh_ok("cat /data/f; touch /data/g 2>/dev/null || echo read-only; echo y >/scratch/y; df -k /scratch | tail -1 | awk '{print $2}'"),
        "xread-only\n1024\n"
    );
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    assert_eq!(sandbox.sh_ok("ls /scratch | wc -l; cat /data/f"), "0\nx");
    settled(&server);
}

#[test]
fn access_modes_hold() {
    let server = server();
    let api = server.api();
    let (one, read_only, many) = (create(&api, json!({})), create(&api, json!({ "access_mode": "ROX" })), create(&api, json!({ "access_mode": "RWX" })));
    assert_eq!(api.post(VOLUMES, json!({ "access_mode": "RW" })).status, 400);
    assert_eq!(api.post(VOLUMES, json!({ "size_limit": "1" })).status, 400);
    let holder = claim(&api, &one, "/d");
    let mount = json!([{ "sandboxvolume_id": one, "mount_point": "/d" }]);
    let refused = try_claim(&api, mount.clone());
    assert_eq!(refused.status, 409);
    assert!(refused.value()["error"]["message"].as_str().unwrap().contains(&holder.id));
    holder.post("/pause", json!({}));
    assert_eq!(try_claim(&api, mount).status, 409, "a paused sandbox has files of it open");
    assert_eq!(api.delete(&format!("{VOLUMES}/{one}")).status, 409);
    assert_eq!(api.get(&format!("{VOLUMES}/{one}")).ok(200)["mounted_by"], json!([holder.id]));

    put(&api, &read_only, "/f", b"x").ok(200);
    let (a, b) = (claim(&api, &read_only, "/d"), claim(&api, &read_only, "/d"));
    assert_eq!(a.sh("echo y >/d/f").code, 2);
    assert_eq!(b.sh_ok("cat /d/f"), "x");
    let (a, b) = (claim(&api, &many, "/d"), claim(&api, &many, "/d"));
    a.sh_ok("echo shared >/d/f");
    assert_eq!(b.sh_ok("cat /d/f; echo more >>/d/f"), "shared\n");
    assert_eq!(a.sh_ok("cat /d/f"), "shared\nmore\n");
    for (at, status) in [("/", 400), ("relative", 400), ("/proc/x", 400), ("/etc", 400), ("/a/../b", 400), ("/usr/lib/x", 400)] {
        assert_eq!(try_claim(&api, json!([{ "sandboxvolume_id": many, "mount_point": at }])).status, status, "{at}");
    }
    assert_eq!(try_claim(&api, json!([{ "sandboxvolume_id": "vol-none", "mount_point": "/d" }])).status, 404);

    // By force: processes end, and the sandbox starts without it.
    api.delete(&format!("{VOLUMES}/{one}?force=true")).ok(200);
    assert_eq!(holder.sh_ok("ls /d | wc -l"), "0\n");
    assert_eq!(holder.get()["mounts"], json!([]));
    settled(&server);
}

/// Sandboxes write past the API, and the limit holds all the same.
#[test]
fn a_sandbox_does_not_grow_a_volume_beyond_its_limit() {
    let server = server();
    let api = server.api();
    let volume = create(&api, json!({ "size_limit": "4Mi" }));
    let sandbox = claim(&api, &volume, "/d");
    sandbox.sh_ok("head -c 3M /dev/zero >/d/fits");
    let writer = sandbox.spawn(&["sh", "-c", "while true; do head -c 64k /dev/zero >>/d/more; sleep 0.01; done"]);
    let event = sandbox.wait_event("the limit", |event| event["kind"] == "sandbox.volume_limit" || event["type"] == "sandbox.volume_limit");
    assert!(event["message"].as_str().unwrap().contains("size limit of 4.00 MiB"), "{event}");
    eventually("the end of the writer", SOON, || {
        let context = sandbox.context(&writer["id"]);
        if context["running"] == false { Ok(()) } else { Err(context.to_string()) }
    });
    // Over the limit, but no more than that: it goes on, and makes room.
    assert_eq!(sandbox.sh_ok("sleep 2; rm /d/more; cat /d/fits | wc -c"), "3145728\n");
    assert_eq!(api.get(&sandbox.path("")).ok(200)["status"], "running");
}

#[test]
fn snapshots_forks_and_restores_of_a_volume() {
    let mut server = server();
    let api = server.api();
    let volume = create(&api, json!({ "size_limit": "4Mi" }));
    let at = |rest: &str| format!("{VOLUMES}/{volume}{rest}");
    let sandbox = claim(&api, &volume, "/d");
    sandbox.sh_ok("echo one >/d/f; ln /d/f /d/hard; chown 7:8 /d/f; truncate -s 100M /d/sparse");
    let first = api.post(&at("/snapshots"), json!({ "name": "first" })).ok(201);
    assert!(first["size_bytes"].as_u64().unwrap() < 1 << 20);
    sandbox.sh_ok("echo two >/d/f");
    let snapshot = format!("/snapshots/{}", first["id"].as_str().unwrap());
    assert_eq!(api.post(&at(&format!("{snapshot}/restore")), json!({})).status, 409);
    let fork = api.post(&at("/fork"), json!({ "name": "copy" })).ok(201);
    assert_eq!(fork["source_volume_id"], volume.as_str());
    assert_eq!(read(&api, fork["id"].as_str().unwrap(), "/f"), (200, "two\n".into()));
    drop(sandbox);
    let restored = api.post(&at(&format!("{snapshot}/restore")), json!({})).ok(200);
    assert_eq!(restored["status"], "restored");
    let sandbox = claim(&api, &volume, "/d");
    assert_eq!(sandbox.sh_ok("cat /d/f; stat -c '%u:%g %h' /d/hard; stat -c %s /d/sparse"), "one\n7:8 2\n104857600\n");
    assert_eq!(put(&api, &volume, "/big", &vec![0; 5 << 20]).status, 507);
    server.kill();
    server.up();
    let api = server.api();
    assert_eq!(read(&api, &volume, "/f"), (200, "one\n".into()));
    let from = create(&api, json!({ "snapshot_id": first["id"] }));
    assert_eq!(read(&api, &from, "/f"), (200, "one\n".into()));
    api.delete(&at(&snapshot)).ok(200);
    api.delete(&at(&snapshot)).ok(200);
    assert_eq!(api.get(&at(&snapshot)).status, 404);
    assert_eq!(api.get(&at("/snapshots")).ok(200), json!([]));
    // Archives: out of one volume, into another, and one that is refused leaves nothing.
    let tar = api.get(&at("/files/archive"));
    assert_eq!(tar.status, 200);
    let target = create(&api, json!({ "size_limit": "200Mi" }));
    let put_archive = |id: &str, path: &str, bytes: &[u8]| api.send("PUT", &format!("{VOLUMES}/{id}/files/archive?path={path}"), bytes);
    assert_eq!(put_archive(&target, "/in/here", &tar.body).ok(200)["files"], 3);
    assert_eq!(read(&api, &target, "/in/here/hard"), (200, "one\n".into()));
    let zip = api.get(&format!("{VOLUMES}/{target}/files/archive?format=zip"));
    assert!(zip.body.starts_with(b"PK"));
    assert_eq!(put_archive(&target, "/zipped", &zip.body).ok(200)["files"], 5);
    assert_eq!(read(&api, &target, "/zipped/in/here/f"), (200, "one\n".into()));
    assert_eq!(put_archive(&target, "/a/../b", &tar.body).status, 400);
    put(&api, &target, "/file", b"x").ok(200);
    assert_eq!(put_archive(&target, "/file/in", &tar.body).status, 409);
    let cut = put_archive(&target, "/cut", &tar.body[..tar.body.len() / 2]).error(&[400]);
    assert!(cut["message"].as_str().unwrap().contains("nothing was changed"), "{cut}");
    assert_eq!(read(&api, &target, "/cut/f").0, 404);
    assert_eq!(put_archive(&volume, "/", &tar.body).status, 507, "100 MiB of zeros do not fit into 4");
    // A fork of a sandbox has a copy of its own.
    let data = sandbox.api.post(&sandbox.path("/fork"), json!({})).ok(201);
    let child = Sandbox { api: api.clone(), id: data["sandbox"]["id"].as_str().unwrap().to_owned() };
    assert_eq!(child.sh_ok("cat /d/f; echo child >/d/f"), "one\n");
    assert_eq!(sandbox.sh_ok("cat /d/f"), "one\n");
    settled(&server);
}

/// Links in a volume are its users' own; whoever serves its files follows none of them out of it.
#[test]
fn no_link_of_a_volume_leads_out_of_it_whatever_is_done() {
    let server = server();
    let api = server.api();
    let volume = create(&api, json!({ "name": "v", "size_limit": "16Mi" }));
    let sandbox = claim(&api, &volume, "/data");
    sandbox.sh_ok("cd /data && mkdir own && echo inner >own/passwd && ln -s / r && ln -s /proc/self p && ln -s ../../../../.. up && ln -s /own/passwd abs && ln -s / own/r && ln -s /nowhere/yet new");
    let url = |operation: &str, query: &str| format!("{VOLUMES}/{volume}/files{operation}?{query}");
    // The root that a link names is the volume's own.
    assert_eq!(read(&api, &volume, "/r/own/passwd"), (200, "inner\n".into()));
    assert_eq!(read(&api, &volume, "/up/own/r/own/passwd"), (200, "inner\n".into()));
    assert_eq!(read(&api, &volume, "/abs"), (200, "inner\n".into()));
    for path in [
        "/r/etc/passwd",
        "/r/proc/self/mountinfo",
        "/p/mountinfo",
        "/p/root/etc/passwd",
        "/p/fd/0",
        "/up/etc/passwd",
        "/r/procd/bin/procd",
        "/r/volume/own/passwd",
    ] {
        assert_eq!(read(&api, &volume, path).0, 404, "{path}");
        assert_eq!(api.get(&url("/stat", &format!("path={path}"))).status, 404, "{path}");
    }
    for path in ["/r/etc", "/r/proc", "/p/fd", "/r/volume"] {
        assert_eq!(api.get(&url("/list", &format!("path={path}"))).status, 404, "{path}");
    }
    let names = |path: &str| -> Vec<String> {
        let listed = api.get(&url("/list", &format!("path={path}"))).ok(200);
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/r"), names("/"), "the link's own place");
    assert_eq!(names("/up"), names("/"));
    // What is written lands in the volume, where its size is counted.
    put(&api, &volume, "/r/tmp/evil", b"x").ok(200);
    put(&api, &volume, "/new", b"through").ok(200);
    api.send("POST", &url("", "path=/up/made&mkdir=true"), b"").ok(201);
    api.post(&format!("{VOLUMES}/{volume}/files/move"), json!({ "source": "/r/tmp/evil", "destination": "/own/r/made/moved" })).ok(200);
    assert_eq!(sandbox.sh_ok("cd /data && cat made/moved nowhere/yet && ls tmp"), "xthrough");
    api.send("DELETE", &url("", "path=/r/made/moved"), b"").ok(200);
    assert_eq!(sandbox.sh("test -e /data/made/moved").code, 1);
    api.send("DELETE", &url("", "path=/own/r/."), b"").ok(200);
    assert_eq!(sandbox.sh_ok("cd /data && test ! -e own/r && cat own/passwd"), "inner\n", "the link went, not what it names");
    assert_eq!(put(&api, &volume, "/r/large", &vec![1; 17 << 20]).status, 507);
    assert!(names("/").iter().all(|name| name != "large"));
    // A watch through a link is one of the volume.
    let mut watch = api.ws(&url("/watch", "")).unwrap();
    watch.send(tungstenite::Message::text(json!({ "action": "subscribe", "path": "/r/etc" }).to_string())).unwrap();
    assert!(watch.read().unwrap().to_text().unwrap().contains("error"));
    watch.send(tungstenite::Message::text(json!({ "action": "subscribe", "path": "/r/own" }).to_string())).unwrap();
    assert!(watch.read().unwrap().to_text().unwrap().contains("subscribed"));
    sandbox.sh_ok("echo x >/data/own/seen");
    assert!(watch.read().unwrap().to_text().unwrap().contains("seen"));
    // The whole as an archive has the links as they are.
    let archive = api.get(&url("/archive", ""));
    assert_eq!(archive.status, 200);
    assert!(!archive.text().contains("root:x:"));
}

/// Beside its deletion, a volume is there or it is not.
#[test]
fn writes_beside_a_deletion_are_told_that_it_is_gone() {
    let server = server();
    let api = server.api();
    for _ in 0..12 {
        let volume = create(&api, json!({ "name": "v" }));
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|n| {
                    scope.spawn({
                        let (api, volume) = (&api, &volume);
                        move || put(api, volume, &format!("/f{n}"), b"x").status
                    })
                })
                .collect();
            api.delete(&format!("{VOLUMES}/{volume}")).ok(200);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert!(statuses.iter().all(|status| [200, 404, 409, 503].contains(status)), "{statuses:?}");
    }
    assert!(!server.log().contains("cannot be served"), "{}", server.log_tail());
    settled(&server);
}
