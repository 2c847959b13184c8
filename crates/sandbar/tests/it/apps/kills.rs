//! The server is killed in the middle of builds: a version that was begun is ready or has failed, and nothing is left.

use super::*;
use crate::it::harness::Rng;

const ROUNDS: usize = 6;

#[test]
fn kills_leave_no_build_half_done() {
    let (mut rng, seed) = Rng::seeded();
    eprintln!("seed {seed}");
    let mut server = server();
    let app = Deployed::new(&server.api());
    app.ready("", &[("sandbar.yaml", "schemaVersion: 1\n")]);
    let mut acknowledged = 1;
    for round in 0..ROUNDS {
        let yaml = format!(
            "schemaVersion: 1\nsetup:\n  commands: ['head -c 5000000 /dev/urandom >f', 'sleep 0.3; echo {round}']\nvalidation:\n  commands: ['sleep 0.2']\n"
        );
        std::thread::scope(|scope| {
            let deploy = scope.spawn(|| {
                let path = app.path("/versions");
                app.api.try_send("POST", &path, &[], &archive(&[("sandbar.yaml", &yaml)]))
            });
            // The moment is what is random here; nothing is waited for.
            std::thread::sleep(Duration::from_millis(rng.below(1500) as u64));
            server.kill();
            if let Ok(Ok(reply)) = deploy.join()
                && reply.status == 202
            {
                acknowledged = acknowledged.max(reply.value()["data"]["version"].as_i64().unwrap());
            }
        });
        server.up();
        let versions = app.api.get(&app.path("/versions")).ok(200)["versions"].as_array().unwrap().clone();
        assert!(versions[0]["version"].as_i64().unwrap() >= acknowledged, "round {round}: what was acknowledged is gone");
        for version in &versions {
            match version["state"].as_str().unwrap() {
                "ready" => {}
                "failed" => assert!(version["reason"].as_str().unwrap().contains("the server ended during the build"), "{version}"),
                other => panic!("round {round}: {other}"),
            }
        }
        settled(&server);
        assert_eq!(count(&server, "app_sandbox"), 0, "round {round}");
    }
    // It is built as if nothing had been.
    app.ready("", &[("sandbar.yaml", "schemaVersion: 1\nsetup:\n  commands: ['true']\n")]);
    app.api.delete(&app.path("")).ok(200);
    settled(&server);
    assert_eq!((count(&server, "app_version"), count(&server, "app_setup"), count(&server, "sandbox")), (0, 0, 0));
}

#[test]
fn clients_that_leave_in_the_middle_leave_no_half_version() {
    use std::io::Write;

    let (mut rng, seed) = Rng::seeded();
    eprintln!("seed {seed}");
    let server = server();
    let app = Deployed::new(&server.api());
    let yaml = "schemaVersion: 1\nsetup: {commands: ['cat data >sum']}\nvalidation: {commands: ['cmp data sum']}\n";
    let tar = archive(&[("sandbar.yaml", yaml), ("data", &"0123456789".repeat(50_000))]);
    let leave_after = |sent: usize, pause_ms: u64| {
        let mut stream = app.api.open("POST", &app.path("/versions"), &[], Some(tar.len() as u64)).unwrap();
        stream.write_all(&tar[..sent]).unwrap();
        // How far the server is when the client goes is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_millis(pause_ms));
    };
    for sent in [0, 1, 600, tar.len() / 2, tar.len() - 1] {
        leave_after(sent, 20);
    }
    settled(&server);
    assert_eq!((count(&server, "app"), count(&server, "app_version"), count(&server, "app_sandbox")), (0, 0, 0), "none of it was whole");

    let unbuilt = || count(&server, "app_version WHERE state != 'ready'");
    for _ in 0..8 {
        leave_after(tar.len(), rng.below(40) as u64);
        eventually("that nothing is being built", SOON, || match unbuilt() {
            0 => Ok(()),
            left => Err(left.to_string()),
        });
    }
    let yaml = format!("{yaml}description: the last\n");
    eventually("nobody else's build", SOON, || match app.send("", &[("sandbar.yaml", &yaml), ("data", "x")]) {
        reply if reply.status == 202 => {
            app.built(&reply.ok(202)["version"]);
            Ok(())
        }
        reply => Err(reply.text()),
    });
    settled(&server);
    assert_eq!((unbuilt(), count(&server, "app_sandbox")), (0, 0));
}
