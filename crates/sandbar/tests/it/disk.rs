//! A full disk: whoever asks is told so, nothing that was acknowledged is lost, and once there is room all goes on.

use std::{path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server},
    http::{Reply, eventually},
};

const VOLUMES: &str = "/api/v1/sandboxvolumes";
const TEMPLATES: &str = "/api/v1/templates";
const SIZE_MIB: u32 = 128;

/// A server whose data has a small filesystem of its own.
fn server() -> Server {
    Server::start_on(&[("SANDBAR_POOL_MIN_IDLE", "0")], |data: &Path| {
        let options = format!("size={SIZE_MIB}m,mode=755");
        assert!(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "sandbar-test"]).arg(data).status().unwrap().success());
    })
}

/// Everything that was acknowledged before the disk was full.
struct Kept {
    writer: Sandbox,
    sleeper: Sandbox,
    snapshot: String,
    volume: String,
}

impl Kept {
    fn make(server: &Server) -> Self {
        let api = server.api();
        let writer = Sandbox::claim(&api, json!({}));
        let sleeper = Sandbox::claim(&api, json!({}));
        for sandbox in [&writer, &sleeper] {
            sandbox.write("/workspace/kept", b"kept");
        }
        sleeper.post("/pause", json!({}));
        sleeper.post("/hibernate", json!({}));
        let snapshot = api.post(&writer.path("/snapshots"), json!({ "name": "before" })).ok(201)["id"].as_str().unwrap().to_owned();
        let volume = api.post(VOLUMES, json!({})).ok(201)["id"].as_str().unwrap().to_owned();
        api.send("POST", &format!("{VOLUMES}/{volume}/files?path=/kept"), b"kept").ok(200);
        Self { writer, sleeper, snapshot, volume }
    }

    /// From inside, to the last byte.
    fn fill(&self) {
        let done = self.writer.sh("cd /workspace; dd if=/dev/zero of=fill bs=1M 2>&1; dd if=/dev/zero of=fill2 bs=512 2>&1");
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stdout.contains("No space left on device"), "{done:?}");
    }

    fn free(&self) {
        self.writer.sh_ok("rm -f /workspace/fill /workspace/fill2");
    }

    /// Files of a sandbox that runs, of one that slept, of the volume, and the list of snapshots.
    fn check(&self, server: &Server) {
        let api = server.api();
        assert_eq!(self.writer.read("/workspace/kept"), b"kept");
        let file = api.get(&format!("{VOLUMES}/{}/files?path=/kept", self.volume));
        assert_eq!((file.status, file.text().as_str()), (200, "kept"));
        let listed = api.get(&self.writer.path("/snapshots")).ok(200);
        assert_eq!((&listed["count"], &listed["snapshots"][0]["id"]), (&json!(1), &json!(self.snapshot)));
        assert_eq!(api.get(&format!("{SANDBOXES}?limit=200")).ok(200)["count"], 2);
    }
}

/// Refused for want of room, in words.
#[track_caller]
fn refused(what: &str, reply: &Reply) {
    assert!(matches!(reply.status, 507 | 503), "{what}: {} {}", reply.status, reply.text());
    let message = reply.value()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("disk is full") || message.contains("No space left"), "{what}: {}", reply.text());
}

/// A tar of one file of a megabyte.
fn archive() -> Vec<u8> {
    let mut tar = vec![0u8; 512];
    tar[..4].copy_from_slice(b"data");
    tar[100..107].copy_from_slice(b"0000644");
    tar[124..135].copy_from_slice(b"00004000000");
    tar[156] = b'0';
    tar[257..262].copy_from_slice(b"ustar");
    tar[263..265].copy_from_slice(b"00");
    tar[148..156].copy_from_slice(b"        ");
    let sum: u32 = tar.iter().map(|byte| u32::from(*byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.resize(512 + (1 << 20), 7);
    tar.resize(512 + (1 << 20) + 1024, 0);
    tar
}

fn attempts(server: &Server, kept: &Kept) {
    let api = server.api();
    let megabyte = vec![1u8; 1 << 20];
    refused("a file into a sandbox", &api.send("POST", &kept.writer.file("/workspace/new"), &megabyte));
    assert_eq!(api.get(&kept.writer.file("/workspace/new")).status, 404, "not half of it");
    refused("a file into a volume", &api.send("POST", &format!("{VOLUMES}/{}/files?path=/new", kept.volume), &megabyte));
    assert_eq!(api.get(&format!("{VOLUMES}/{}/files?path=/new", kept.volume)).status, 404, "not half of it");
    refused("an archive", &api.send("PUT", &format!("{VOLUMES}/{}/files/archive", kept.volume), &archive()));
    refused("a snapshot of a running sandbox", &api.post(&kept.writer.path("/snapshots"), json!({})));
    refused("a fork of a running sandbox", &api.post(&kept.writer.path("/fork"), json!({})));
    refused("a template of a running sandbox", &api.post(&format!("{TEMPLATES}/from-sandbox"), json!({ "template_id": "made", "sandbox_id": kept.writer.id })));
    refused("a claim", &api.post(SANDBOXES, json!({ "template": "default" })));
    refused("a claim from a snapshot", &api.post(SANDBOXES, json!({ "template": "default", "snapshot_id": kept.snapshot })));
    refused("a volume", &api.post(VOLUMES, json!({})));
    let spec = json!({ "mainContainer": { "image": "host", "resources": { "memory": "256Mi" } }, "description": "x".repeat(900) });
    refused("a template", &api.post(TEMPLATES, json!({ "template_id": "big", "spec": spec })));
}

#[test]
fn a_full_disk_refuses_clearly_loses_nothing_and_recovers() {
    let mut server = server();
    let kept = Kept::make(&server);
    kept.fill();
    attempts(&server, &kept);
    kept.check(&server);
    // What needs no room goes on, and so does what makes room.
    kept.sleeper.post("/resume", json!({}));
    assert_eq!(kept.sleeper.read("/workspace/kept"), b"kept");
    kept.sleeper.post("/pause", json!({}));
    assert_eq!(kept.writer.sh_ok("echo out"), "out\n");

    server.kill();
    server.up();
    kept.check(&server);
    attempts(&server, &kept);
    assert_eq!(kept.sleeper.read("/workspace/kept"), b"kept");
    // Stopped in good order the log of the database is given back; the start is on a full disk all the same.
    kept.fill_again();
    assert!(server.terminate().success());
    server.up();
    kept.check(&server);

    kept.free();
    eventually("room", Duration::from_secs(10), || match server.api().post(&kept.writer.path("/snapshots"), json!({})) {
        reply if reply.status == 201 => Ok(server.api().delete(&format!("/api/v1/sandbox-rootfs-snapshots/{}", reply.ok(201)["id"].as_str().unwrap()))),
        reply => Err(reply.text()),
    })
    .ok(200);
    kept.check(&server);
    server.api().send("POST", &kept.writer.file("/workspace/new"), &vec![1u8; 1 << 20]).ok(200);
    server.api().send("PUT", &format!("{VOLUMES}/{}/files/archive", kept.volume), &archive()).ok(200);
    let claimed = server.api().post(SANDBOXES, json!({ "template": "default", "snapshot_id": kept.snapshot })).ok(201);
    let claimed = Sandbox { api: server.api(), id: claimed["sandbox_id"].as_str().unwrap().to_owned() };
    assert_eq!(claimed.read("/workspace/kept"), b"kept");
}

impl Kept {
    /// What a restart gave back is taken, too.
    fn fill_again(&self) {
        self.writer.sh("cd /workspace; dd if=/dev/zero of=fill3 bs=1M; dd if=/dev/zero of=fill2 bs=512 oflag=append conv=notrunc");
    }
}

#[test]
fn sandboxes_and_volumes_can_be_deleted_on_a_full_disk() {
    let server = server();
    let api = server.api();
    let kept = Kept::make(&server);
    kept.fill();
    // Many small writes that need no new file: the database must not lock itself out of them.
    for n in 0..600 {
        let name = format!("{n}{}", "x".repeat(2000));
        let reply = api.put(&kept.writer.path(""), json!({ "config": { "services": [], "ttl": 1000 + n, "later": name } }));
        assert!(matches!(reply.status, 200 | 507), "{n}: {} {}", reply.status, reply.text());
    }
    api.delete(&format!("/api/v1/sandbox-rootfs-snapshots/{}", kept.snapshot)).ok(200);
    api.delete(&format!("{VOLUMES}/{}", kept.volume)).ok(200);
    assert!(matches!(api.delete(&kept.writer.path("")).status, 200 | 202));
    eventually("room", Duration::from_secs(20), || match api.post(SANDBOXES, json!({ "template": "default" })) {
        reply if reply.status == 201 => Ok(reply),
        reply => Err(reply.text()),
    });
    let left: Value = api.get(&format!("{SANDBOXES}?limit=200")).ok(200);
    assert_eq!(left["count"], 2);
}
