//! The server is killed while it publishes, promotes and starts instances: what was not acknowledged is there whole or not at
//! all, and nothing is left that nobody owns.

use super::*;
use crate::it::harness::Rng;

const ROUNDS: usize = 8;

#[test]
fn kills_leave_nothing_half_published() {
    let (mut rng, seed) = Rng::seeded();
    eprintln!("seed {seed}");
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let volume = api.post("/api/v1/sandboxvolumes", json!({})).ok(201)["id"].clone();
    let made = api.post(SANDBOXES, json!({ "template": "default", "mounts": [{ "sandboxvolume_id": volume, "mount_point": "/data" }] })).ok(201);
    let sandbox = Sandbox { api: api.clone(), id: made["sandbox_id"].as_str().unwrap().to_owned() };
    sandbox.write("/workspace/app.py", APP.as_bytes());
    sandbox.sh_ok("head -c 20000000 /dev/urandom >/data/f; head -c 20000000 /dev/urandom >/workspace/f");
    put(&sandbox, service("v1"));
    let function = Function::publish(&sandbox);
    let mut acknowledged = 1;
    for round in 0..ROUNDS {
        // So that each publish is served by instances of its own, and none by the source.
        put(&sandbox, service(&format!("v{}", round + 2)));
        std::thread::scope(|scope| {
            let publish = scope.spawn(|| api.try_json("POST", &function.path("/revisions"), &json!({ "source": source(&sandbox) })));
            let call = scope.spawn(|| function.host().try_send("GET", "/", &[], b""));
            // The moment is what is random here; nothing is waited for.
            std::thread::sleep(Duration::from_millis(rng.below(1500) as u64));
            server.kill();
            if let Ok(Ok(reply)) = publish.join()
                && reply.status == 201
            {
                acknowledged = acknowledged.max(reply.value()["data"]["revision"]["revision_number"].as_i64().unwrap());
            }
            let _ = call.join();
        });
        server.up();
        let revisions = api.get(&function.path("/revisions")).ok(200)["revisions"].as_array().unwrap().clone();
        let newest = revisions[0]["revision_number"].as_i64().unwrap();
        assert!(newest >= acknowledged, "round {round}: what was acknowledged is gone");
        let production = api.get(&function.path("/aliases/production")).ok(200)["alias"]["revision_number"].as_i64().unwrap();
        assert!(revisions.iter().any(|revision| revision["revision_number"] == production), "round {round}: production points to nothing");
        // Whatever it points to is whole.
        let said = says(&function.host(), "/");
        assert_eq!(said["tag"], format!("v{}", tag_of(&revisions, production)), "round {round}");
        eventually("what was half made to be gone", SOON, || {
            let left = [
                count(&server, "function_instance WHERE state IN ('starting', 'removing')"),
                count(&server, "volume WHERE owner IS NOT NULL AND owner NOT IN (SELECT sandbox_id FROM function_instance)"),
                count(&server, "function_instance WHERE sandbox_id NOT IN (SELECT id FROM sandbox)"),
            ];
            if left == [0; 3] { Ok(()) } else { Err(format!("round {round}: {left:?}")) }
        });
        eventually("a machine that matches the rows", SOON, || {
            let wrong = machine::violations(&server);
            if wrong.is_empty() { Ok(()) } else { Err(format!("round {round}: {}", wrong.join("\n  "))) }
        });
    }
    drop(function);
    gone(sandbox);
    eventually("nothing that is left", SOON, || {
        let left = [
            count(&server, "function_instance"),
            count(&server, "function_revision"),
            count(&server, "volume WHERE owner IS NOT NULL"),
            count(&server, "sandbox"),
        ];
        if left == [0; 4] { Ok(()) } else { Err(format!("{left:?}")) }
    });
    settled(&server);
}

/// The tag that a revision was published with.
fn tag_of(revisions: &[Value], number: i64) -> String {
    let revision = revisions.iter().find(|revision| revision["revision_number"] == number).expect("the revision");
    revision["service_snapshot"]["runtime"]["env_vars"]["TAG"].as_str().unwrap().trim_start_matches('v').to_owned()
}
