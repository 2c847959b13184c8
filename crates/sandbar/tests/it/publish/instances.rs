//! Instances: what they are made of, how many there are, and what holds them.

use super::*;

#[test]
fn warm_processes_and_handlers_are_published_too() {
    let server = shared();
    let api = server.api();
    let id = name();
    let spec = json!({
        "mainContainer": { "image": "host", "resources": { "memory": "256Mi" } },
        "warmProcesses": [
            { "name": "web", "type": "cmd", "command": ["python3", "-c", APP.replace("int(sys.argv[1])", &PORT.to_string())], "envVars": { "TAG": "warm" },
              "probes": { "startup": { "tcpSocket": { "port": PORT }, "periodSeconds": 1, "failureThreshold": 60 } } },
            { "alias": "python", "type": "repl" },
        ],
    });
    api.post("/api/v1/templates", json!({ "template_id": id, "spec": spec })).ok(201);
    let sandbox = Sandbox::claim_from(&api, &id, json!({}));
    let warm = |name: &str| {
        let mut service = service("-");
        service["runtime"] = json!({ "type": "warm_process", "warm_process_name": name });
        sandbox.api.may().put(&sandbox.path("/services"), json!({ "services": [service] })).ok(200);
    };
    warm("python");
    let refused = api.post(FUNCTIONS, json!({ "name": name(), "source": source(&sandbox) }));
    assert!(refused.status == 400 && refused.text().contains("is a REPL"), "{}", refused.text());
    warm("web");
    let function = Function::publish(&sandbox);
    assert_eq!(tag(&function.host()), "warm");
    let code = "def handler(request):\n    return {'status': 201, 'body': 'called ' + request['path']}\n";
    let inline = json!({ "type": "function", "function": { "runtime": "python", "handler": "handler", "source": { "type": "inline", "code": code } } });
    let mut service = service("-");
    (service["runtime"], service["port"]) = (inline, json!(0));
    put(&sandbox, service);
    let handler = Function::publish(&sandbox);
    gone(sandbox);
    assert_eq!(tag(&function.host()), "warm");
    let reply = handler.host().get("/here");
    assert_eq!((reply.status, reply.text().as_str()), (201, "called /here"));
    drop(function);
    api.delete(&format!("/api/v1/templates/{id}")).ok(200);
}

#[test]
fn a_web_socket_of_a_handler_counts_as_in_flight_until_it_is_closed() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let code = "async def handler(request, ws):\n    async for message in ws:\n        await ws.send(message)\n";
    let inline = json!({ "runtime": "python", "handler": "handler", "source": { "type": "inline", "code": code } });
    let ingress = json!({ "public": true, "routes": [{ "id": "all", "path_prefix": "/", "resume": true }] });
    put(&sandbox, json!({ "id": "api", "runtime": { "type": "function", "function": inline }, "ingress": ingress }));
    let function = Function::publish(&sandbox);
    // From here on the function's own sandboxes serve it, and are counted.
    gone(sandbox);
    let in_flight = || {
        let runtime = function.runtime();
        let instances = runtime["instances"].as_array().unwrap();
        instances.iter().filter_map(|instance| instance["in_flight"].as_u64()).sum::<u64>()
    };
    let mut socket = function.host().ws("/").expect("an upgrade");
    socket.send(tungstenite::Message::text("x")).unwrap();
    assert_eq!(socket.read().unwrap(), tungstenite::Message::text("x"));
    assert_eq!(in_flight(), 1);
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    eventually("nothing in flight", SOON, || if in_flight() == 0 { Ok(()) } else { Err(function.runtime().to_string()) });
}

#[test]
fn as_many_instances_as_are_wanted_and_no_more() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    gone(sandbox);
    let scaling = |min: u32, max: u32, target: u32| json!({ "autoscaling": { "min_warm": min, "max_active": max, "target_concurrency": target, "scale_down_after_seconds": 30 } });
    assert_eq!(function.instances("ready").len(), 0, "nobody asked for one");
    function.update(scaling(2, 2, 1));
    eventually("warm instances", SOON, || if function.instances("ready").len() == 2 { Ok(()) } else { Err(function.runtime().to_string()) });
    assert_eq!(function.runtime()["phase"], "ready");
    // Four at once on two that take one each: the others wait for their turn.
    let host = function.host();
    let sandboxes: BTreeSet<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| says(&host, "/?s=1")["sandbox"].as_str().unwrap().to_owned())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(sandboxes.len(), 2);
    assert_eq!(function.instances("ready").len(), 2);
    // One that somebody deletes is replaced, so is one that ends by itself.
    let victim = function.instances("ready").into_iter().next().unwrap();
    server.api().delete(&format!("{SANDBOXES}/{victim}")).ok(202);
    eventually("another in its place", SOON, || {
        let ready = function.instances("ready");
        if ready.len() == 2 && !ready.contains(&victim) { Ok(()) } else { Err(format!("{ready:?}")) }
    });
    let _ = host.try_send("GET", "/die", &[], b"");
    for _ in 0..4 {
        assert_eq!(tag(&host), "v1", "whoever comes next is served all the same");
    }
    function.update(json!({ "enabled": false }));
    eventually("no instances", SOON, || if count(&server, "function_instance") == 0 { Ok(()) } else { Err(function.runtime().to_string()) });
    settled(&server);
}

#[test]
fn instances_outlive_a_restart_of_the_server() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    gone(sandbox);
    let before = says(&function.host(), "/");
    let instances = function.instances("ready");
    for gracefully in [false, true] {
        if gracefully {
            server.terminate();
        } else {
            server.kill();
        }
        server.up();
        let after = says(&function.host(), "/");
        assert_eq!((&after["sandbox"], &after["pid"]), (&before["sandbox"], &before["pid"]), "the same process goes on");
        assert_eq!(function.instances("ready"), instances);
    }
    drop(function);
    settled(&server);
}
