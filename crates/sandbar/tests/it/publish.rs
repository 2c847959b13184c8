//! Functions from outside: what is published stays as it was, what is not ready is never served, and nobody who calls one
//! notices that anything changes.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server, shared},
    http::{Api, eventually},
    machine,
};

mod docs;
mod faults;
mod instances;
mod kills;

const SOON: Duration = Duration::from_secs(60);
const APP: &str = include_str!("publish/app.py");
const PORT: u16 = 8080;
const FUNCTIONS: &str = "/api/v1/functions";
/// Clients at once, where load is wanted.
const CALLERS: usize = 4;

/// A function, deleted when it is dropped.
struct Function {
    api: Api,
    id: String,
    made: Value,
}

impl Function {
    #[track_caller]
    fn publish(sandbox: &Sandbox) -> Self {
        let made = sandbox.api.post(FUNCTIONS, json!({ "name": name(), "source": source(sandbox) })).ok(201);
        Self { api: sandbox.api.clone(), id: made["function"]["id"].as_str().expect("an id").to_owned(), made }
    }

    fn path(&self, rest: &str) -> String {
        format!("{FUNCTIONS}/{}{rest}", self.id)
    }

    fn host(&self) -> Api {
        self.api.at_url(&self.made["function"]["url"])
    }

    #[track_caller]
    fn revise(&self, sandbox: &Sandbox, more: Value) -> Value {
        let mut body = json!({ "source": source(sandbox) });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.api.post(&self.path("/revisions"), body).ok(201)
    }

    #[track_caller]
    fn set(&self, alias: &str, body: Value) -> Value {
        self.api.put(&self.path(&format!("/aliases/{alias}")), body).ok(200)["alias"].clone()
    }

    #[track_caller]
    fn update(&self, body: Value) -> Value {
        self.api.put(&self.path(""), body).ok(200)["function"].clone()
    }

    #[track_caller]
    fn runtime(&self) -> Value {
        self.api.get(&self.path("/runtime")).ok(200)["runtime"].clone()
    }

    /// Sandboxes that serve it, by state.
    #[track_caller]
    fn instances(&self, state: &str) -> BTreeSet<String> {
        let runtime = self.runtime();
        let of_state = runtime["instances"].as_array().unwrap().iter().filter(|instance| instance["state"] == state);
        of_state.map(|instance| instance["sandbox_id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.api.try_send("DELETE", &self.path(""), &[], b"");
    }
}

/// No two tests have the same.
fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn source(sandbox: &Sandbox) -> Value {
    json!({ "sandbox_id": sandbox.id, "service_id": "api" })
}

fn service(tag: &str) -> Value {
    with_command(tag, json!(["python3", "/workspace/app.py", PORT.to_string()]))
}

fn with_command(tag: &str, command: Value) -> Value {
    json!({
        "id": "api", "port": PORT, "runtime": { "type": "cmd", "command": command, "env_vars": { "TAG": tag } },
        "ingress": { "public": true, "routes": [{ "id": "all", "path_prefix": "/", "resume": true }] },
    })
}

#[track_caller]
fn put(sandbox: &Sandbox, service: Value) {
    sandbox.api.put(&sandbox.path("/services"), json!({ "services": [service] })).ok(200);
}

/// A sandbox with the application.
fn app(api: &Api, tag: &str) -> Sandbox {
    let sandbox = Sandbox::claim(api, json!({ "env_vars": { "OWN": "own" } }));
    sandbox.write("/workspace/app.py", APP.as_bytes());
    put(&sandbox, service(tag));
    sandbox
}

/// What the function says.
#[track_caller]
fn says(host: &Api, path: &str) -> Value {
    let reply = host.get(path);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.value()
}

#[track_caller]
fn tag(host: &Api) -> String {
    says(host, "/")["tag"].as_str().expect("a tag").to_owned()
}

#[track_caller]
fn gone(sandbox: Sandbox) {
    sandbox.api.delete(&sandbox.path("")).ok(202);
    assert_eq!(sandbox.api.get(&sandbox.path("")).status, 404);
}

/// Calls a function from several clients for as long as `work` lasts, and returns which tags answered. Every call has to.
#[track_caller]
fn under_load<T>(host: &Api, work: impl FnOnce() -> T) -> (T, BTreeSet<String>) {
    let stop = AtomicBool::new(false);
    let (tags, wrong) = (Mutex::new(BTreeSet::new()), Mutex::new(Vec::new()));
    let calls = AtomicU32::new(0);
    let done = std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match host.try_send("GET", "/?s=0.02", &[], b"") {
                        Ok(reply) if reply.status == 200 => {
                            tags.lock().unwrap().insert(reply.value()["tag"].as_str().unwrap_or("?").to_owned());
                        }
                        Ok(reply) => wrong.lock().unwrap().push(reply.text()),
                        Err(error) => wrong.lock().unwrap().push(error.to_string()),
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let wait_for = |more: u32| {
            let aim = calls.load(Ordering::Relaxed) + more;
            eventually("calls", SOON, || if calls.load(Ordering::Relaxed) >= aim { Ok(()) } else { Err(format!("of {aim}")) });
        };
        wait_for(CALLERS as u32);
        let done = work();
        wait_for(4 * CALLERS as u32);
        stop.store(true, Ordering::Relaxed);
        done
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} calls failed: {:?}", wrong.len(), calls.into_inner(), wrong.first());
    (done, tags.into_inner().unwrap())
}

fn settled(server: &Server) {
    eventually("a machine that matches the rows", SOON, || {
        let wrong = machine::violations(server);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}

/// Rows of a table of the server's database.
fn count(server: &Server, what: &str) -> i64 {
    let db = rusqlite::Connection::open_with_flags(server.data_dir().join("sandbar.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn a_function_is_published_served_and_deleted() {
    let server = shared();
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    let (made, api) = (&function.made, &function.api);
    assert_eq!(
        (&made["revision"]["revision_number"], &made["alias"]["alias"], &made["alias"]["revision_number"]),
        (&json!(1), &json!("production"), &json!(1))
    );
    assert_eq!(made["function"]["active_revision_id"], made["revision"]["id"]);
    assert_eq!(made["revision"]["revision_spec"]["runtime_service"]["id"], "api");
    assert_eq!(made["revision"]["service_snapshot"], made["revision"]["revision_spec"]["runtime_service"]);
    assert_eq!(tag(&function.host()), "v1");
    assert_eq!(function.runtime()["serving"], "source");
    let slug = made["function"]["slug"].as_str().unwrap();
    assert_eq!(api.get(&format!("{FUNCTIONS}/{slug}")).ok(200)["function"]["id"], function.id.as_str());
    let listed = api.get(FUNCTIONS).ok(200);
    assert!(listed["functions"].as_array().unwrap().iter().any(|listed| listed["id"] == function.id.as_str()));
    let renamed = function.update(json!({ "name": "  Another Name ", "enabled": null }));
    assert_eq!((&renamed["name"], &renamed["slug"], &renamed["host"]), (&json!("Another Name"), &json!(slug), &made["function"]["host"]));
    assert_eq!(function.update(json!({ "name": " " }))["name"], "Another Name", "a blank name is none");

    function.update(json!({ "enabled": false }));
    assert_eq!(function.host().get("/").status, 503);
    assert_eq!((&function.runtime()["state"], &function.runtime()["phase"]), (&json!("disabled"), &json!("disabled")));
    function.update(json!({ "enabled": true }));
    assert_eq!(tag(&function.host()), "v1");

    let deleted = api.delete(&function.path("")).ok(200);
    assert_eq!((&deleted["message"], &deleted["function"]["id"]), (&json!("function deleted"), &json!(function.id)));
    assert!(deleted["function"]["deleted_at"].is_string());
    assert_eq!(api.get(&function.path("")).status, 404);
    assert_eq!(api.delete(&function.path("")).status, 404);
    assert_eq!(function.host().get("/").status, 404);
    let again = api.post(FUNCTIONS, json!({ "name": slug, "source": source(&sandbox) }));
    assert_eq!(again.error(&[409])["code"], "conflict", "its name stays taken");
}

#[test]
fn names_without_latin_letters_have_slugs_of_their_own() {
    let server = shared();
    let sandbox = app(&server.api(), "v1");
    let made = ["ü", "😀", "-"].map(|name| sandbox.api.post(FUNCTIONS, json!({ "name": name, "source": source(&sandbox) })).ok(201)["function"].clone());
    let slugs: BTreeSet<_> = made.iter().map(|function| function["slug"].as_str().unwrap().to_owned()).collect();
    for function in &made {
        sandbox.api.delete(&format!("{FUNCTIONS}/{}", function["id"].as_str().unwrap())).ok(200);
    }
    assert_eq!(slugs.into_iter().collect::<Vec<_>>(), ["function-3bc15c8a", "function-94a759fd", "function-9c533688"]);
}

#[test]
fn what_cannot_be_published_is_told() {
    let server = shared();
    let api = server.api();
    let sandbox = app(&api, "v1");
    let function = Function::publish(&sandbox);
    let bare = |id: &str, runtime: Value, public: bool| json!({ "id": id, "port": PORT, "runtime": runtime, "ingress": { "public": public, "routes": [] } });
    let services = json!([
        bare("hidden", json!({ "type": "cmd", "command": ["true"] }), false),
        bare("none", Value::Null, true),
        bare("manual", json!({ "type": "manual" }), true),
        bare("nameless", json!({ "type": "warm_process" }), true),
        bare("unknown", json!({ "type": "warm_process", "warm_process_name": "web" }), true),
        service("v1"),
    ]);
    sandbox.api.may().put(&sandbox.path("/services"), json!({ "services": services })).ok(200);
    for (id, blockers) in [
        ("hidden", json!(["not_public"])),
        ("none", json!(["missing_runtime"])),
        ("manual", json!(["manual_runtime"])),
        ("nameless", json!(["missing_warm_process_name"])),
    ] {
        for (path, name) in [(FUNCTIONS.to_owned(), name()), (function.path("/revisions"), String::new())] {
            let reply = api.post(&path, json!({ "name": name, "source": { "sandbox_id": sandbox.id, "service_id": id } }));
            assert_eq!(reply.error(&[400])["code"], "bad_request");
            assert_eq!(reply.value()["error"]["details"]["blockers"], blockers, "{id}");
        }
    }
    let spec = |service: Value, mounts: Value| json!({ "type": "revision_spec", "revision_spec": { "template_id": "default", "runtime_service": service, "mounts": mounts } });
    let mount = |place: &str, source: Value| json!([{ "mount_point": place, "source": source }]);
    for (source, status, says) in [
        (json!({}), 400, "source.sandbox_id is required"),
        (json!({ "sandbox_id": sandbox.id }), 400, "source.service_id is required"),
        (json!({ "sandbox_id": "sb-none", "service_id": "api" }), 404, "does not exist"),
        (json!({ "sandbox_id": sandbox.id, "service_id": "other" }), 404, "does not exist"),
        (json!({ "sandbox_id": sandbox.id, "service_id": "unknown" }), 400, "none of its template"),
        (json!({ "type": "zip" }), 400, "source.type"),
        (json!({ "type": "revision_spec" }), 400, "source.revision_spec is required"),
        (spec(json!({ "id": "api" }), json!([])), 400, "runtime_service[0].port"),
        (spec(service("x"), mount("/etc", json!({ "type": "sandbox_volume", "sandboxvolume_id": "vol-none" }))), 404, "vol-none"),
        (spec(service("x"), mount("/data", json!({ "type": "artifact" }))), 400, "artifacts"),
        (spec(service("x"), mount("/data", json!({ "type": "volume_snapshot" }))), 400, "snapshot_id"),
        (json!({ "sandbox_id": sandbox.id, "service_id": "api", "provenance": "x".repeat(20_000) }), 400, "source.provenance"),
    ] {
        let reply = api.post(FUNCTIONS, json!({ "name": name(), "source": source }));
        assert_eq!((reply.status, reply.text().contains(says)), (status, true), "{source}: {}", reply.text());
    }
    assert_eq!(api.post(FUNCTIONS, json!({ "name": "x" })).status, 400);
    assert_eq!(api.post(FUNCTIONS, json!({ "name": "x".repeat(129), "source": source(&sandbox) })).status, 400);
    let taken = api.post(FUNCTIONS, json!({ "name": function.made["function"]["name"], "source": source(&sandbox) }));
    assert!(taken.status == 409 && taken.text().contains("function name already exists"), "{}", taken.text());

    for (path, status) in [("/revisions/0", 400), ("/revisions/x", 400), ("/revisions/-1", 400), ("/revisions/9", 404), ("/aliases/none", 404)] {
        assert_eq!(api.get(&function.path(path)).status, status, "{path}");
    }
    for (alias, body, status) in [
        ("production", json!({}), 400),
        ("production", json!({ "revision_number": 0 }), 400),
        ("production", json!({ "revision_number": 99 }), 404),
        ("production", json!({ "weights": [] }), 400),
        ("production", json!({ "weights": [{ "revision_number": 1, "weight": 0 }] }), 400),
        ("production", json!({ "revision_number": 1, "weights": [{ "revision_number": 1, "weight": 1 }] }), 400),
        ("Staging", json!({ "revision_number": 1 }), 400),
        ("a--b", json!({ "revision_number": 1 }), 400),
    ] {
        assert_eq!(api.put(&function.path(&format!("/aliases/{alias}")), body.clone()).status, status, "{alias} {body}");
    }
    for bad in [json!({ "max_active": 3 }), json!({ "min_warm": 0, "max_active": 0, "target_concurrency": 1, "scale_down_after_seconds": 30 })] {
        assert_eq!(api.put(&function.path(""), json!({ "autoscaling": bad })).status, 400, "{bad}");
    }
    // Another team sees nothing of it.
    let stranger = super::api::member(&server, "no-friend@example.com");
    assert_eq!(stranger.get(&function.path("")).status, 404);
    assert_eq!(stranger.get(FUNCTIONS).ok(200)["functions"], json!([]));
    assert_eq!(stranger.post(FUNCTIONS, json!({ "name": name(), "source": source(&sandbox) })).status, 404);
}

#[test]
fn a_revision_never_changes_and_no_instance_sees_another() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let volume = api.post("/api/v1/sandboxvolumes", json!({ "name": "v" })).ok(201)["id"].as_str().unwrap().to_owned();
    let made = api.post(SANDBOXES, json!({ "template": "default", "mounts": [{ "sandboxvolume_id": volume, "mount_point": "/data" }] })).ok(201);
    let sandbox = Sandbox { api: api.clone(), id: made["sandbox_id"].as_str().unwrap().to_owned() };
    sandbox.write("/workspace/app.py", APP.as_bytes());
    sandbox.sh_ok("echo -n one >/data/f; echo -n one >/workspace/f");
    put(&sandbox, service("v1"));
    let function = Function::publish(&sandbox);
    let seen = "/?read=/data/f,/workspace/f";
    // The source goes on: what it does from now on is not what was published.
    sandbox.sh_ok("echo -n two >/data/f; echo -n two >/workspace/f");
    let live = says(&function.host(), seen);
    assert_eq!((&live["files"]["/data/f"], &live["own"]), (&json!("two"), &Value::Null), "it serves while it is there");
    gone(sandbox);
    // For a moment it may go on, until an instance is there.
    let own = eventually("what was published", SOON, || {
        let own = says(&function.host(), seen);
        if own["files"] == json!({ "/data/f": "one", "/workspace/f": "one" }) { Ok(own) } else { Err(own.to_string()) }
    });
    assert_eq!(says(&function.host(), seen)["sandbox"], own["sandbox"], "one that is there is used again");
    // What an instance writes is its own.
    function.host().post("/data/f", json!("mine"));
    function.host().post("/workspace/f", json!("mine"));
    assert_eq!(says(&function.host(), seen)["files"]["/data/f"], "\"mine\"");
    let before = function.instances("ready");
    assert_eq!(before.len(), 1);
    let restarted = function.api.post(&function.path("/runtime/recycle"), json!({})).ok(200);
    assert_eq!((&restarted["runtime"]["state"], &restarted["runtime"]["serving"]), (&json!("active"), &json!("revision")));
    let fresh = says(&function.host(), seen);
    assert_eq!(fresh["files"], json!({ "/data/f": "one", "/workspace/f": "one" }));
    assert!(function.instances("ready").is_disjoint(&before));

    // Its volumes are nobody's but its own.
    let listed: Vec<Value> = api.get("/api/v1/sandboxvolumes").ok(200).as_array().unwrap().clone();
    assert_eq!(listed.iter().map(|volume| volume["id"].as_str().unwrap()).collect::<Vec<_>>(), [volume.as_str()]);
    let revision = api.get(&function.path("/revisions/1")).ok(200)["revision"].clone();
    let mounted = &revision["restore_mounts"][0];
    assert_eq!((&mounted["mount_point"], &mounted["source_sandboxvolume_id"]), (&json!("/data"), &json!(volume)));
    let instance = function.instances("ready").into_iter().next().unwrap();
    let of_instance = api.get(&format!("{SANDBOXES}/{instance}")).ok(200)["mounts"][0]["sandboxvolume_id"].clone();
    for hidden in [&mounted["sandboxvolume_id"], &of_instance] {
        let path = format!("/api/v1/sandboxvolumes/{}", hidden.as_str().unwrap());
        assert_eq!((api.get(&path).status, api.delete(&path).status), (404, 404));
        assert_eq!(api.post(SANDBOXES, json!({ "template": "default", "mounts": [{ "sandboxvolume_id": hidden, "mount_point": "/data" }] })).status, 404);
    }
    // Neither is the sandbox listed among the team's, unless it is asked for.
    let listed = |query: &str| api.get(&format!("{SANDBOXES}{query}")).text().contains(&instance);
    assert!(!listed("") && listed("?instances=true"));

    api.delete(&function.path("")).ok(200);
    eventually("nothing that is left of it", SOON, || {
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

#[test]
fn a_specification_is_published_without_a_sandbox() {
    let server = shared();
    let api = server.api();
    let volume = api.post("/api/v1/sandboxvolumes", json!({})).ok(201)["id"].as_str().unwrap().to_owned();
    let file = |id: &str| format!("/api/v1/sandboxvolumes/{id}/files?path=/app.py");
    api.send("POST", &file(&volume), APP.as_bytes()).ok(200);
    let snapshot = api.post(&format!("/api/v1/sandboxvolumes/{volume}/snapshots"), json!({})).ok(201)["id"].clone();
    api.send("POST", &file(&volume), b"broken(").ok(200);
    let command = json!(["python3", "/data/app.py", PORT.to_string()]);
    let spec = json!({
        "template_id": "default", "runtime_service": with_command("spec", command), "env_refs": [{ "name": "A" }],
        "mounts": [{ "mount_point": "/data", "mode": "read_only", "source": { "type": "volume_snapshot", "snapshot_id": snapshot } }],
    });
    let made =
        api.post(FUNCTIONS, json!({ "name": name(), "source": { "type": "revision_spec", "revision_spec": spec, "provenance": { "commit": "abc" } } })).ok(201);
    let function = Function { api: api.clone(), id: made["function"]["id"].as_str().unwrap().to_owned(), made };
    let revision = &function.made["revision"];
    assert_eq!((&revision["source_type"], &revision["provenance"]), (&json!("revision_spec"), &json!({ "commit": "abc" })));
    assert_eq!(revision["revision_spec"]["env_refs"], json!([{ "name": "A" }]));
    assert_eq!(revision["revision_spec"]["mounts"][0]["mode"], "read_only");
    assert_eq!(tag(&function.host()), "spec");
    let write = function.host().try_send("POST", "/data/new", &[], b"x");
    assert!(write.is_err() || write.unwrap().status != 200, "it is mounted for reading only");
    api.delete(&format!("/api/v1/sandboxvolumes/{volume}")).ok(200);
}

#[test]
fn what_is_broken_is_not_promoted_and_nobody_notices() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = app(&server.api(), "good");
    let function = Function::publish(&sandbox);
    let broken = with_command("broken", json!(["sh", "-c", "echo it is broken on purpose >&2; exit 7"]));
    let (revision, tags) = under_load(&function.host(), || {
        put(&sandbox, broken);
        function.revise(&sandbox, json!({}))
    });
    assert_eq!(tags, BTreeSet::from(["good".to_owned()]));
    assert_eq!((&revision["promoted"], &revision["revision"]["revision_number"]), (&json!(false), &json!(2)));
    assert_eq!(revision["promotion_error"]["code"], "conflict");
    let why = revision["promotion_error"]["message"].as_str().unwrap();
    assert!(why.contains("exit code 7") && why.contains("it is broken on purpose"), "{why}");
    let refused = function.api.put(&function.path("/aliases/production"), json!({ "revision_number": 2 }));
    assert_eq!(refused.error(&[409])["code"], "conflict");
    assert!(refused.text().contains("it is broken on purpose"), "{}", refused.text());
    assert_eq!(function.api.get(&function.path("/aliases/production")).ok(200)["alias"]["revision_number"], 1);

    // It can be looked at under a name of its own; whoever does is told why not, and when to ask again.
    let alias = function.set("preview", json!({ "revision_number": 2 }));
    let preview = function.api.at_url(&alias["url"]);
    assert!(alias["host"].as_str().unwrap().starts_with("preview--"), "{alias}");
    for _ in 0..3 {
        let reply = preview.get("/");
        assert_eq!(reply.error(&[503])["code"], "unavailable");
        // What it printed is its owner's.
        assert!(reply.text().contains("exit code 7") && !reply.text().contains("it is broken on purpose"), "{}", reply.text());
        assert_eq!(reply.value()["error"]["details"]["revision_number"], 2);
        assert!(reply.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|seconds| seconds >= 1)));
    }
    let events = function.api.get(&function.path("/events")).ok(200)["events"].as_array().unwrap().clone();
    let failures = events.iter().filter(|event| event["kind"] == "instance.failed" && event["revision_number"] == 2).count();
    assert!((1..6).contains(&failures), "{failures} attempts: not one for each request");
    assert!(events.iter().any(|event| event["kind"] == "alias.refused"));
    assert!(events.iter().any(|event| event["kind"] == "instance.failed" && event.to_string().contains("it is broken on purpose")));
    assert_eq!(tag(&function.host()), "good");

    // What does not listen where it says is not ready either.
    put(&sandbox, with_command("deaf", json!(["sh", "-c", "echo it listens to nobody; exec sleep 1000"])));
    let deaf = function.revise(&sandbox, json!({ "promote": true }));
    let why = deaf["promotion_error"]["message"].as_str().unwrap_or_default();
    assert!(why.contains(&format!("does not listen on port {PORT}")) && why.contains("it listens to nobody"), "{deaf}");
    assert_eq!((&deaf["promoted"], tag(&function.host()).as_str()), (&json!(false), "good"));
    function.api.delete(&function.path("/aliases/preview")).ok(200);
    assert_eq!(preview.get("/").status, 404);
    for number in [2, 3] {
        function.api.delete(&function.path(&format!("/revisions/{number}"))).ok(200);
        assert_eq!(function.api.get(&function.path(&format!("/revisions/{number}"))).status, 404);
    }
    put(&sandbox, service("next"));
    let fourth = function.revise(&sandbox, json!({ "promote": true }));
    assert_eq!((&fourth["promoted"], &fourth["revision"]["revision_number"]), (&json!(true), &json!(4)), "numbers are not given twice: {fourth}");
    assert_eq!(tag(&function.host()), "next");
    let kept = function.api.delete(&function.path("/revisions/4"));
    assert_eq!(kept.error(&[409])["code"], "conflict", "production points to it");
    assert_eq!(function.api.delete(&function.path("/aliases/production")).error(&[409])["code"], "conflict");
    drop(function);
    gone(sandbox);
    settled(&server);
}

#[test]
fn a_source_is_up_before_production_moves_to_it() {
    let server = shared();
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    let host = function.host();
    assert_eq!(tag(&host), "v1");
    put(&sandbox, service("v2"));
    // Nobody asks the sandbox in between.
    assert_eq!(function.revise(&sandbox, json!({}))["promoted"], true);
    let contexts = sandbox.api.get(&sandbox.path("/contexts")).ok(200)["contexts"].clone();
    let up = contexts.as_array().unwrap().iter().any(|context| context["running"] == true && context["env_vars"]["TAG"] == "v2");
    assert!(up, "{contexts}");
    assert_eq!(tag(&host), "v2");
    gone(sandbox);
}

#[test]
fn the_source_is_deleted_and_revisions_come_and_go_under_load() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    let host = function.host();
    let (second, tags) = under_load(&host, || {
        put(&sandbox, service("v2"));
        function.revise(&sandbox, json!({ "promote": false }))
    });
    assert_eq!((second["promoted"].as_bool(), tags), (Some(false), BTreeSet::from(["v1".to_owned()])));
    let (_, tags) = under_load(&host, || function.set("production", json!({ "revision_number": 2 })));
    assert_eq!(tags, BTreeSet::from(["v1".to_owned(), "v2".to_owned()]));
    assert_eq!(function.runtime()["serving"], "source");
    let ((), tags) = under_load(&host, || gone(sandbox));
    assert_eq!(tags, BTreeSet::from(["v2".to_owned()]));
    assert_eq!(function.runtime()["serving"], "revision");
    let (_, tags) = under_load(&host, || function.set("production", json!({ "revision_number": 1 })));
    assert_eq!(tags, BTreeSet::from(["v1".to_owned(), "v2".to_owned()]));
    assert_eq!(tag(&host), "v1");
    let before = function.instances("ready");
    let (_, tags) = under_load(&host, || function.api.post(&function.path("/runtime/restart"), json!({})).ok(200));
    assert_eq!(tags, BTreeSet::from(["v1".to_owned()]));
    eventually("other instances", SOON, || {
        let now = function.instances("ready");
        if now.is_disjoint(&before) && !now.is_empty() { Ok(()) } else { Err(format!("{now:?} of {before:?}")) }
    });
    drop(function);
    settled(&server);
}

#[test]
fn requests_are_divided_by_weight_and_clients_stay() {
    let server = shared();
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    put(&sandbox, service("v2"));
    function.revise(&sandbox, json!({ "promote": false }));
    let split = json!({ "weights": [{ "revision_number": 1, "weight": 1 }, { "revision_number": 2, "weight": 1 }] });
    let alias = function.set("production", split.clone());
    assert_eq!((&alias["weights"], &alias["sticky"]), (&split["weights"], &json!(false)));
    let host = function.host();
    let mut seen = BTreeSet::new();
    // With a half each this fails once in a billion runs.
    for _ in 0..32 {
        seen.insert(tag(&host));
    }
    assert_eq!(seen, BTreeSet::from(["v1".to_owned(), "v2".to_owned()]));
    let mut sticky = split;
    sticky["sticky"] = json!(true);
    function.set("production", sticky);
    for _ in 0..4 {
        let first = host.get("/");
        let cookie = first.header("set-cookie").expect("a cookie").split(';').next().unwrap().to_owned();
        let wanted = first.value()["tag"].clone();
        for _ in 0..8 {
            let again = host.try_send("GET", "/", &[("cookie", &format!("a=1; {cookie}"))], b"").unwrap();
            assert_eq!(again.value()["tag"], wanted);
        }
    }
    function.set("production", json!({ "weights": [{ "revision_number": 1, "weight": 0 }, { "revision_number": 2, "weight": 5 }] }));
    assert_eq!(tag(&host), "v2");
    assert_eq!(
        function.api.get(&function.path("")).ok(200)["function"]["active_revision_id"],
        function.api.get(&function.path("/revisions/2")).ok(200)["revision"]["id"]
    );
}

#[test]
fn one_at_a_time_publishes() {
    let server = shared();
    let sandbox = app(&server.api(), "v1");
    let function = Function::publish(&sandbox);
    let replies: Vec<_> = std::thread::scope(|scope| {
        let publish = || function.api.post(&function.path("/revisions"), json!({ "source": source(&sandbox) }));
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(publish)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    assert!(made >= 1);
    for refused in replies.iter().filter(|reply| reply.status != 201) {
        assert!(refused.status == 409 && refused.text().contains("already in progress"), "{}", refused.text());
    }
    let numbers = function.api.get(&function.path("/revisions")).ok(200)["revisions"].as_array().unwrap().len();
    assert_eq!(numbers, made + 1);
}
