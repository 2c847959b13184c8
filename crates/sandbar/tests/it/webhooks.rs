//! Webhooks: a receiver of our own, which answers as a test wants it to, and real sandboxes.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    harness::{SANDBOXES, Sandbox, Server, TOKEN},
    http::{Api, eventually},
    receiver::{Answer, Got, Receiver},
};

const WITHIN: Duration = Duration::from_secs(60);
const LOOPBACK: (&str, &str) = ("SANDBAR_EGRESS_ALLOW", "127.0.0.1/32");

fn hmac_sha256(key: &[u8], text: &[u8]) -> String {
    assert!(key.len() <= 64);
    let pad = |with: u8| (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([pad(0x36), text.to_vec()].concat());
    hex::encode(Sha256::digest([pad(0x5c), inner.to_vec()].concat()))
}

fn claim(api: &Api, webhook: Value) -> Sandbox {
    Sandbox::claim(api, json!({ "webhook": webhook }))
}

#[track_caller]
fn deliveries(sandbox: &Sandbox, query: &str) -> Vec<Value> {
    sandbox.api.get(&sandbox.path(&format!("/webhook/deliveries?limit=200&{query}"))).ok(200)["deliveries"].as_array().unwrap().clone()
}

/// Waits until an event of this type has this status.
#[track_caller]
fn wait_delivery(sandbox: &Sandbox, kind: &str, status: &str) -> Value {
    eventually(&format!("{kind} {status}"), WITHIN, || {
        let all = deliveries(sandbox, "");
        all.iter().find(|d| d["event_type"] == kind && d["status"] == status).cloned().ok_or_else(|| json!(all).to_string())
    })
}

#[test]
fn a_life_is_told_in_order_and_signed() {
    let server = Server::start_with(&[LOOPBACK]);
    let receiver = Receiver::ok();
    let api = server.api();
    let webhook = json!({ "url": receiver.url("/hook?x=1"), "secret": "s3cret-of-the-hook" });
    let sandbox = Sandbox::claim(&api, json!({ "webhook": webhook, "env_vars": { "TOKEN": "value-of-the-token" } }));
    let id = sandbox.id.clone();
    assert_eq!(sandbox.get()["webhook"], json!({ "url": receiver.url("/hook?x=1"), "has_secret": true }));
    sandbox.sh("echo out; echo err >&2; exit 3");
    receiver.wait_kind("process.exited");
    assert_ne!(sandbox.sh("kill -9 $$").code, 0);
    receiver.wait_kind("process.crashed");
    sandbox.api.post(&sandbox.path("/pause"), json!({})).ok(200);
    sandbox.api.post(&sandbox.path("/resume"), json!({})).ok(200);
    receiver.wait_kind("sandbox.resumed");
    let seen = [sandbox.get(), json!(sandbox.events()), json!(deliveries(&sandbox, ""))].map(|value| value.to_string()).concat();
    drop(sandbox);
    let got = receiver.wait("the end", |got| got.iter().any(|got| got.kind() == "sandbox.deleted"));
    let kinds: Vec<_> = got.iter().map(Got::kind).collect();
    let wanted = [
        "sandbox.ready",
        "process.started",
        "process.exited",
        "process.started",
        "process.crashed",
        "sandbox.paused",
        "sandbox.resumed",
        "sandbox.killed",
        "sandbox.deleted",
    ];
    assert_eq!(kinds, wanted);
    let mut ids = HashSet::new();
    for got in &got {
        let event = got.event();
        let of = |name: &str| got.headers.get(name).cloned().unwrap_or_default();
        assert_eq!((got.path.as_str(), of("content-type").as_str(), of("x-sandbar-delivery-attempt").as_str()), ("/hook?x=1", "application/json", "1"));
        assert_eq!(event.as_object().unwrap().keys().collect::<Vec<_>>(), ["event_id", "event_type", "payload", "sandbox_id", "team_id", "timestamp"]);
        assert_eq!((&event["sandbox_id"], &event["event_id"]), (&json!(id), &json!(of("x-sandbar-event-id"))));
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z') && ids.insert(event["event_id"].to_string()), "{event}");
        assert_eq!(of("x-sandbox0-signature"), hmac_sha256(b"s3cret-of-the-hook", &got.body));
        let signed = [of("x-sandbar-timestamp").as_bytes(), b".", &got.body].concat();
        assert_eq!(of("x-sandbar-signature"), format!("t={},v1={}", of("x-sandbar-timestamp"), hmac_sha256(b"s3cret-of-the-hook", &signed)));
        assert!(!String::from_utf8_lossy(&got.body).contains("value-of-the-token"), "{event}");
    }
    let payloads: Vec<_> = got.iter().map(|got| got.event()["payload"].clone()).collect();
    assert_eq!(payloads[0], json!({ "http_port": 49983, "sandbox_id": id }));
    assert_eq!((&payloads[1]["process_type"], &payloads[1]["cwd"], &payloads[1]["command"][0]), (&json!("cmd"), &json!("/workspace"), &json!("sh")));
    assert_eq!((&payloads[2]["process_id"], &payloads[2]["pid"]), (&payloads[1]["process_id"], &payloads[1]["pid"]));
    assert_eq!((&payloads[2]["exit_code"], &payloads[2]["stdout_preview"], &payloads[2]["stderr_preview"]), (&json!(3), &json!("out\n"), &json!("err\n")));
    assert_eq!((&payloads[4]["exit_code"], &payloads[4]["state"]), (&json!(137), &json!("killed")));
    assert_eq!((&payloads[5]["reason_code"], payloads[5]["resource_usage"]["memory_bytes"].as_u64() > Some(0)), (&json!("user_request"), true));
    assert_eq!(payloads[6]["resumed"], true);
    assert_eq!((&payloads[7]["reason"], &payloads[8]), (&json!("shutdown"), &json!({ "reason": "pod_deleted" })));
    assert_eq!(got[8].event()["event_id"], format!("evt_sandbox_deleted_{id}"));
    // The secret stands nowhere, and what was told of a sandbox outlives it.
    assert!(!seen.contains("s3cret"), "{seen}");
    for file in ["sandbar.db", "sandbar.db-wal"] {
        let bytes = fs::read(server.data_dir().join(file)).unwrap_or_default();
        assert!(!bytes.windows(18).any(|part| part == b"s3cret-of-the-hook"), "{file}");
    }
    assert!(!server.log_tail().contains("s3cret"));
    let listed = api.get(&format!("{SANDBOXES}/{id}/webhook/deliveries")).ok(200);
    assert_eq!((listed["deliveries"].as_array().unwrap().len(), &listed["deliveries"][0]["event_type"]), (9, &json!("sandbox.deleted")));
    let again = format!("{SANDBOXES}/{id}/webhook/deliveries/evt_sandbox_deleted_{id}/redeliver");
    api.post(&again, json!({})).ok(202);
    receiver.wait("the last once more", |got| got.len() == 10 && got[9].body == got[8].body);
    eventually("it is noted", WITHIN, || {
        let waiting = api.get(&format!("{SANDBOXES}/{id}/webhook/deliveries?status=pending")).ok(200);
        if waiting["deliveries"] == json!([]) { Ok(()) } else { Err(waiting.to_string()) }
    });
    let metrics = api.get("/metrics").text();
    assert!(metrics.contains("sandbar_webhook_tries_total{outcome=\"delivered\"} 10") && metrics.contains("sandbar_webhook_waiting 0"), "{metrics}");
}

#[test]
fn what_is_not_taken_comes_again_to_the_byte() {
    let server = Server::start_with(&[LOOPBACK]);
    let times = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&times);
    let receiver = Receiver::start(move |got| match (got.kind().as_str(), counted.fetch_add(1, Ordering::Relaxed)) {
        ("sandbox.ready", 0) => Answer::Status(503),
        ("sandbox.ready", 1) => Answer::With(429, "retry-after: 1"),
        ("sandbox.paused", _) => Answer::With(302, "location: /elsewhere"),
        ("sandbox.resumed", _) => Answer::Status(410),
        _ => Answer::Status(200),
    });
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/h") }));
    sandbox.api.post(&sandbox.path("/pause"), json!({})).ok(200);
    sandbox.api.post(&sandbox.path("/resume"), json!({})).ok(200);
    sandbox.sh("true");
    let got = receiver.wait("what came after", |got| got.iter().any(|got| got.kind() == "process.exited"));
    let kinds: Vec<_> = got.iter().map(Got::kind).collect();
    assert_eq!(kinds, ["sandbox.ready", "sandbox.ready", "sandbox.ready", "sandbox.paused", "sandbox.resumed", "process.started", "process.exited"]);
    assert!(got[..3].iter().all(|one| one.body == got[0].body), "each time the same");
    let attempts: Vec<_> = got[..3].iter().map(|got| got.headers["x-sandbar-delivery-attempt"].clone()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert!(
        got.iter().all(|got| got.path == "/h" && !got.headers.contains_key("x-sandbox0-signature")),
        "no redirect is followed, nothing is signed without a key"
    );
    let ready = wait_delivery(&sandbox, "sandbox.ready", "delivered");
    assert_eq!((&ready["attempts"], &ready["last_status"], &ready["last_answer"]), (&json!(3), &json!(200), &json!("said")));
    let paused = wait_delivery(&sandbox, "sandbox.paused", "failed");
    assert_eq!((&paused["attempts"], &paused["last_status"]), (&json!(1), &json!(302)));
    assert!(paused["last_error"].as_str().unwrap().contains("redirects are not followed"), "{paused}");
    let failed = deliveries(&sandbox, "status=failed");
    assert_eq!(failed.iter().map(|d| d["event_type"].as_str().unwrap()).collect::<Vec<_>>(), ["sandbox.resumed", "sandbox.paused"], "newest first");
    // Once more, because somebody asks.
    let path = sandbox.path(&format!("/webhook/deliveries/{}", paused["event_id"].as_str().unwrap()));
    let body = sandbox.api.get(&path).ok(200)["body"].as_str().unwrap().to_owned();
    assert_eq!(body.as_bytes(), got[3].body);
    sandbox.api.post(&format!("{path}/redeliver"), json!({})).ok(202);
    let again = receiver.wait("once more", |got| got.iter().filter(|got| got.kind() == "sandbox.paused").count() == 2);
    assert_eq!(again.last().unwrap().body, got[3].body);
    sandbox.api.post(&sandbox.path("/webhook/deliveries/none/redeliver"), json!({})).error(&[404]);
    sandbox.api.get(&sandbox.path("/webhook/deliveries?status=lost")).error(&[400]);
    sandbox.api.get(&sandbox.path("/webhook/deliveries?limit=0")).error(&[400]);
    let page = sandbox.api.get(&sandbox.path("/webhook/deliveries?limit=2")).ok(200);
    let rest = sandbox.api.get(&sandbox.path(&format!("/webhook/deliveries?limit=2&before={}", page["next_before"]))).ok(200);
    let ids = |page: &Value| page["deliveries"].as_array().unwrap().iter().map(|d| d["event_id"].to_string()).collect::<HashSet<_>>();
    assert!(ids(&page).len() == 2 && ids(&rest).len() == 2 && ids(&page).is_disjoint(&ids(&rest)));
}

#[test]
fn who_does_not_answer_keeps_nobody_waiting() {
    let server = Server::start_with(&[LOOPBACK]);
    let (silent, well) = (Receiver::start(|_| Answer::Silence), Receiver::ok());
    let stuck: Vec<_> = (0..12).map(|_| claim(&server.api(), json!({ "url": silent.url("/") }))).collect();
    eventually("tries under way", WITHIN, || if silent.open.load(Ordering::Relaxed) > 0 { Ok(()) } else { Err(String::new()) });
    let sandbox = claim(&server.api(), json!({ "url": well.url("/") }));
    let id = sandbox.id.clone();
    // It goes to its end while the others wait for their first.
    drop(sandbox);
    well.wait("its last event", |got| got.iter().any(|got| got.event()["event_id"] == format!("evt_sandbox_deleted_{id}")));
    assert!(silent.open.load(Ordering::Relaxed) <= 8, "of one receiver only so many at once");
    for sandbox in &stuck {
        assert_eq!(deliveries(sandbox, "status=delivered"), Vec::<Value>::new());
    }
    // A receiver that is late has not taken it.
    let tried = eventually("a try that was given up", WITHIN, || {
        let all: Vec<_> = stuck.iter().flat_map(|sandbox| deliveries(sandbox, "status=pending")).collect();
        all.iter().find(|d| d["attempts"].as_u64() > Some(0)).cloned().ok_or_else(|| json!(all).to_string())
    });
    assert!(tried["last_error"].as_str().unwrap().contains("no answer within"), "{tried}");
}

#[test]
fn a_killed_server_loses_no_event() {
    let mut server = Server::start_with(&[LOOPBACK]);
    let status = Arc::new(AtomicU16::new(503));
    let says = Arc::clone(&status);
    let receiver = Receiver::start(move |_| Answer::Status(says.load(Ordering::Relaxed)));
    let webhook = json!({ "url": receiver.url("/"), "secret": "k" });
    let sandbox = claim(&server.api(), webhook.clone());
    sandbox.sh("true");
    let doomed = claim(&server.api(), webhook);
    let doomed_id = doomed.id.clone();
    drop(doomed);
    wait_delivery(&sandbox, "process.exited", "pending");
    server.kill();
    status.store(200, Ordering::Relaxed);
    server.up();
    sandbox.sh("false");
    let of = |got: &[Got], id: &str| got.iter().filter(|got| got.event()["sandbox_id"] == id).cloned().collect::<Vec<_>>();
    let taken = |got: &[Got], id: &str| {
        let mut seen = HashSet::new();
        of(got, id).into_iter().filter(|got| seen.insert(got.event()["event_id"].to_string())).map(|got| got.kind()).collect::<Vec<_>>()
    };
    let got = receiver.wait("all of it", |got| taken(got, &sandbox.id).len() >= 5 && taken(got, &doomed_id).len() >= 3);
    assert_eq!(taken(&got, &sandbox.id), ["sandbox.ready", "process.started", "process.exited", "process.started", "process.exited"]);
    assert_eq!(taken(&got, &doomed_id), ["sandbox.ready", "sandbox.killed", "sandbox.deleted"]);
    let bodies: BTreeMap<_, _> = got.iter().map(|got| (got.event()["event_id"].to_string(), got.body.clone())).collect();
    assert!(got.iter().all(|got| bodies[&got.event()["event_id"].to_string()] == got.body), "the same before and after");
    // Nothing is taken twice from inside: each process began once.
    let began: Vec<_> = got
        .iter()
        .filter(|got| got.kind() == "process.started")
        .map(|got| (got.event()["payload"]["process_id"].to_string(), got.event()["event_id"].to_string()))
        .collect();
    let events: HashSet<_> = began.iter().collect();
    let processes: HashSet<_> = began.iter().map(|(process, _)| process).collect();
    assert_eq!(events.len(), processes.len(), "{began:?}");
}

fn stored_secret(server: &Server, sandbox: &Sandbox) -> String {
    let database = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
    let sql = "SELECT json_extract(doc, '$.config.webhook.secret') FROM sandbox WHERE id = ?1";
    database.query_row(sql, [&sandbox.id], |row| row.get(0)).unwrap()
}

/// The first versions kept secrets as they were sent.
#[test]
fn secrets_of_before_are_sealed_at_the_start() {
    let mut server = Server::start_with(&[LOOPBACK]);
    let receiver = Receiver::ok();
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/"), "secret": "plain-as-before" }));
    receiver.wait_kind("sandbox.ready");
    assert!(server.terminate().success());
    let sealed = stored_secret(&server, &sandbox);
    assert!(sealed.starts_with("sealed:1:") && !sealed.contains("plain"), "{sealed}");
    let database = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
    database.execute("UPDATE sandbox SET doc = json_set(doc, '$.config.webhook.secret', 'plain-as-before') WHERE id = ?1", [&sandbox.id]).unwrap();
    database.execute("UPDATE webhook SET secret = NULL", []).unwrap();
    drop(database);
    server.up();
    sandbox.api.post(&sandbox.path("/pause"), json!({})).ok(200);
    let got = receiver.wait("what came after", |got| got.iter().any(|got| got.kind() == "sandbox.paused"));
    assert!(got.iter().all(|got| got.headers.get("x-sandbox0-signature") == Some(&hmac_sha256(b"plain-as-before", &got.body))));
    assert!(server.terminate().success());
    let again = stored_secret(&server, &sandbox);
    assert!(again.starts_with("sealed:1:") && again != sealed);
    server.up();
}

#[test]
fn a_webhook_is_tried_and_seen_by_its_team_alone() {
    let server = Server::start_with(&[LOOPBACK, ("SANDBAR_REGISTRATION", "true")]);
    let receiver = Receiver::start(|got| if got.kind() == "webhook.test" { Answer::Status(201) } else { Answer::Silence });
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/") }));
    let done = sandbox.api.post(&sandbox.path("/webhook/test"), json!({})).ok(200);
    assert_eq!(
        (&done["status"], &done["event_type"], &done["last_status"], &done["attempts"]),
        (&json!("delivered"), &json!("webhook.test"), &json!(201), &json!(1))
    );
    assert!(receiver.got().iter().any(|got| got.event()["event_id"] == done["event_id"]), "past what waits");
    let plain = Sandbox::claim(&server.api(), json!({}));
    plain.api.post(&plain.path("/webhook/test"), json!({})).error(&[409]);
    assert_eq!(deliveries(&plain, ""), Vec::<Value>::new());
    assert_eq!(plain.get().get("webhook"), None);
    plain.api.get(&format!("{SANDBOXES}/sb-none/webhook/deliveries")).error(&[404]);
    let registered = server.api().anonymous().post("/auth/register", json!({ "email": "other@example.com", "password": "long enough", "name": "Other" }));
    let token = registered.value()["data"]["access_token"].as_str().expect("a token").to_owned();
    let other = server.api().with_token(&token);
    let event = done["event_id"].as_str().unwrap();
    for (method, rest) in [("GET", String::new()), ("GET", format!("/{event}")), ("POST", format!("/{event}/redeliver"))] {
        other.send(method, &sandbox.path(&format!("/webhook/deliveries{rest}")), b"{}").error(&[404]);
    }
    other.post(&sandbox.path("/webhook/test"), json!({})).error(&[404]);
    other.anonymous().get(&sandbox.path("/webhook/deliveries")).error(&[401]);
    assert_eq!(server.api().with_token(TOKEN).get(&sandbox.path("/webhook/deliveries")).status, 200);
}

#[test]
fn protected_addresses_are_not_posted_to() {
    let server = Server::start_with(&[]);
    let receiver = Receiver::ok();
    let port = receiver.addr.port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "http://0.0.0.0:1/".to_owned(),
    ] {
        let sandbox = claim(&server.api(), json!({ "url": url }));
        let failed = wait_delivery(&sandbox, "sandbox.ready", "failed");
        let error = failed["last_error"].as_str().unwrap();
        assert!(error.contains("is not reached") && error.contains("--egress-allow") && failed["attempts"] == 1, "{url}: {failed}");
    }
    assert_eq!(receiver.kinds(), Vec::<String>::new());
}

/// Who allows the machine's own address has opened the machine's services.
#[test]
fn loopback_is_open_with_the_machine() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // No packet is sent: this only asks which of our addresses faces the world.
    let own = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()).map_or("127.0.0.1".to_owned(), |addr| addr.ip().to_string());
    let server = Server::start_with(&[("SANDBAR_EGRESS_ALLOW", &format!("{own}/32"))]);
    let receiver = Receiver::ok();
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/") }));
    receiver.wait_kind("sandbox.ready");
    // From inside, loopback is the sandbox's own.
    let script = format!("import socket; s = socket.create_connection(('127.0.0.1', {}), 5)", receiver.addr.port());
    assert_ne!(sandbox.python(&script).code, 0);
    let metadata = claim(&server.api(), json!({ "url": "http://169.254.169.254/" }));
    wait_delivery(&metadata, "sandbox.ready", "failed");
}

const PUBLISH: &str = r#"
import json, sys, urllib.request, urllib.error
def publish(body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request("http://127.0.0.1:49983/api/v1/webhook/publish", data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as reply: return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error: return error.code, json.loads(error.read())
    except urllib.error.URLError as error: return 0, {"error": str(error.reason)}
"#;

#[track_caller]
fn publish(sandbox: &Sandbox, code: &str) -> Vec<Value> {
    let done = sandbox.python(&format!("{PUBLISH}\n{code}"));
    assert_eq!(done.code, 0, "{done:?}");
    done.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn programs_inside_publish_events() {
    let server = Server::start_with(&[LOOPBACK]);
    let busy = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&busy);
    let receiver = Receiver::start(move |_| Answer::Status(if says.load(Ordering::Relaxed) { 503 } else { 200 }));
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/") }));
    let code = r#"
for body in [{"event_id": "job-1", "payload": {"n": 1, "text": "ä"}}, {"event_id": "job-1", "payload": {"n": 2}}, {"payload": [1]},
             {"event_id": "evt_sandbox_deleted_x", "payload": 1}, {"event_id": "a b", "payload": 1}, b"no json", {"payload": "x" * (256 << 10)},
             {"event_id": "large", "payload": "x" * (255 << 10)}]:
    print(json.dumps(publish(body)))
try: urllib.request.urlopen("http://127.0.0.1:49983/")
except urllib.error.HTTPError as error: print(error.code)
"#;
    let said = publish(&sandbox, code);
    let statuses: Vec<_> = said[..8].iter().map(|answer| answer[0].as_u64().unwrap()).collect();
    assert_eq!((statuses.as_slice(), &said[8]), ([202, 202, 202, 400, 400, 400, 413, 202].as_slice(), &json!(404)), "{said:?}");
    assert_eq!((&said[0][1]["event_id"], &said[1][1]["event_id"]), (&json!("job-1"), &json!("job-1")));
    let generated = said[2][1]["event_id"].as_str().unwrap().to_owned();
    assert!(generated.starts_with("evt_"));
    assert_eq!((&said[3][1]["error"]["code"], &said[6][1]["error"]["code"]), (&json!("invalid_request"), &json!("request_too_large")));
    // The same id is the same event as long as it waits, also in the server's queue.
    eventually("the queue", WITHIN, || {
        let waiting = deliveries(&sandbox, "status=pending");
        if waiting.iter().any(|d| d["event_id"] == "large") { Ok(()) } else { Err(json!(waiting).to_string()) }
    });
    assert_eq!(publish(&sandbox, r#"print(json.dumps(publish({"event_id": "job-1", "payload": {"n": 3}})))"#)[0][0], 202);
    sandbox.sh("true");
    busy.store(false, Ordering::Relaxed);
    let got = receiver.wait("all", |got| got.iter().filter(|got| got.kind() == "process.exited").count() >= 3);
    let told: BTreeMap<String, Value> = got
        .iter()
        .map(Got::event)
        .filter(|event| event["event_type"] == "agent.event")
        .map(|event| (event["event_id"].as_str().unwrap().to_owned(), event["payload"].clone()))
        .collect();
    assert_eq!(told.keys().cloned().collect::<HashSet<_>>(), HashSet::from(["job-1".to_owned(), "large".to_owned(), generated.clone()]));
    assert_eq!((&told["job-1"], &told[&generated]), (&json!({ "n": 1, "text": "ä" }), &json!([1])));
    // Done with, it can be told again.
    wait_delivery(&sandbox, "process.exited", "delivered");
    publish(&sandbox, r#"print(json.dumps(publish({"event_id": "job-1", "payload": {"n": 4}})))"#);
    receiver.wait("the second", |got| got.iter().any(|got| got.event()["payload"]["n"] == 4));
    // More than anybody needs is refused, and only then.
    let many = publish(
        &sandbox,
        "statuses = [publish({'payload': n})[0] for n in range(600)]\nprint(json.dumps([statuses.count(202), statuses.count(429), statuses.count(503), len(statuses)]))",
    );
    let counts: Vec<_> = many[0].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert!(counts[0] >= 200 && counts[0] + counts[1] + counts[2] == 600, "{counts:?}");
}

#[test]
fn what_was_accepted_is_told_though_the_sandbox_stops() {
    let server = Server::start_with(&[LOOPBACK]);
    let receiver = Receiver::ok();
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/") }));
    // It notes what was accepted, and goes on.
    let code = r#"
import time
with open("/workspace/accepted", "w") as accepted:
    for n in range(100000):
        if publish({"event_id": f"n-{n}", "payload": n})[0] == 202: print(f"n-{n}", file=accepted, flush=True)
        else: time.sleep(0.01)
"#;
    sandbox.spawn(&["python3", "-c", &format!("{PUBLISH}\n{code}")]);
    let accepted = || String::from_utf8(sandbox.read("/workspace/accepted")).expect("text").lines().map(str::to_owned).collect::<Vec<_>>();
    let more_than = |count: usize| {
        eventually("it publishes", WITHIN, || {
            let done = sandbox.sh("wc -l < /workspace/accepted");
            let now = done.stdout.trim().parse().unwrap_or(0);
            if now > count { Ok(now) } else { Err(format!("{done:?}")) }
        })
    };
    let before = more_than(20);
    sandbox.post("/pause", json!({}));
    sandbox.post("/resume", json!({}));
    // Also after a pause, and in the midst of it the memory goes.
    more_than(before + 100);
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    sandbox.post("/resume", json!({}));
    let accepted = accepted();
    let told = |got: &[Got]| got.iter().map(|got| got.event()["event_id"].as_str().unwrap().to_owned()).collect::<HashSet<_>>();
    receiver.wait("all that was accepted", |got| {
        let told = told(got);
        accepted.iter().all(|id| told.contains(id))
    });
}

#[test]
fn without_a_webhook_the_port_is_the_sandboxs_own() {
    let server = Server::start_with(&[LOOPBACK]);
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let bind = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 49983))";
    assert_eq!(publish(&sandbox, "print(json.dumps(publish({'payload': 1})))")[0][0], 0, "nobody listens");
    assert_eq!(sandbox.python(bind).code, 0);
    // It comes and goes with the webhook.
    let receiver = Receiver::ok();
    sandbox.sh("true");
    let put = |webhook: Value| sandbox.api.put(&sandbox.path(""), json!({ "config": { "webhook": webhook } })).ok(200);
    assert_eq!(put(json!({ "url": receiver.url("/a"), "secret": "hush-hush" }))["webhook"], json!({ "url": receiver.url("/a"), "has_secret": true }));
    eventually("an event that is published", WITHIN, || {
        let said = publish(&sandbox, "print(json.dumps(publish({'event_id': 'one', 'payload': 1})))");
        if said[0][0] == 202 { Ok(()) } else { Err(said[0].to_string()) }
    });
    let got = receiver.wait("it arrives", |got| got.iter().any(|got| got.kind() == "agent.event"));
    assert!(got.iter().all(|got| got.headers.get("x-sandbox0-signature") == Some(&hmac_sha256(b"hush-hush", &got.body))));
    assert!(!got.iter().any(|got| got.event()["payload"]["command"] == json!(["sh", "-c", "true"])), "what was before it is not told");
    assert_eq!(put(json!({ "url": receiver.url("/b") }))["webhook"]["has_secret"], true, "the secret stays");
    sandbox.sh("true");
    receiver.wait("the other path", |got| got.iter().any(|got| got.path == "/b" && got.headers.contains_key("x-sandbox0-signature")));
    assert_eq!(put(Value::Null).get("webhook"), None);
    eventually("nobody listens any more", WITHIN, || {
        let said = publish(&sandbox, "print(json.dumps(publish({'payload': 1})))");
        if said[0][0] == 503 && said[0][1]["error"]["code"] == "webhook_unavailable" { Ok(()) } else { Err(said[0].to_string()) }
    });
    sandbox.api.post(&sandbox.path("/webhook/test"), json!({})).error(&[409]);
    let many = sandbox.api.put(&sandbox.path(""), json!({ "config": { "ttl": 500, "webhook": null } })).ok(200);
    assert_eq!(many.get("webhook"), None);
}

#[test]
fn changes_of_files_are_told() {
    let server = Server::start_with(&[LOOPBACK]);
    let receiver = Receiver::ok();
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/"), "watch_dir": "/workspace/later" }));
    assert_eq!(sandbox.get()["webhook"]["watch_dir"], "/workspace/later");
    // The folder comes after the webhook.
    sandbox.sh_ok("mkdir -p /workspace/later/deep");
    let mut n = 0;
    let change = |wanted: Value| {
        receiver.wait(&wanted.to_string(), |got| got.iter().any(|got| got.kind() == "file.modified" && got.event()["payload"] == wanted));
    };
    eventually("the watch", WITHIN, || {
        n += 1;
        sandbox.sh_ok(&format!("echo 1 > /workspace/later/probe{n}"));
        thread::sleep(Duration::from_millis(300));
        if receiver.kinds().contains(&"file.modified".to_owned()) { Ok(()) } else { Err(String::new()) }
    });
    sandbox.sh_ok("cd /workspace/later/deep && for i in $(seq 50); do echo $i >> many; done && mv many moved && chmod 600 moved");
    change(json!({ "event_type": "create", "path": "/workspace/later/deep/many" }));
    change(json!({ "event_type": "rename", "path": "/workspace/later/deep/moved", "old_path": "/workspace/later/deep/many" }));
    change(json!({ "event_type": "chmod", "path": "/workspace/later/deep/moved" }));
    sandbox.sh_ok("rm /workspace/later/deep/moved");
    change(json!({ "event_type": "remove", "path": "/workspace/later/deep/moved" }));
    sandbox.write("/workspace/later/whole.txt", b"in one step");
    change(json!({ "event_type": "write", "path": "/workspace/later/whole.txt" }));
    let writes = receiver.got().iter().filter(|got| got.event()["payload"] == json!({ "event_type": "write", "path": "/workspace/later/deep/many" })).count();
    assert!((1..25).contains(&writes), "fifty writes in a row are few changes: {writes}");
    assert!(!receiver.got().iter().any(|got| String::from_utf8_lossy(&got.body).contains(".sandbar-")), "how the agent writes is nobody's business");
    // And of the runtime after this one.
    sandbox.api.post(&sandbox.path("/pause"), json!({})).ok(200);
    sandbox.api.post(&sandbox.path("/hibernate"), json!({})).ok(200);
    sandbox.api.post(&sandbox.path("/resume"), json!({})).ok(200);
    eventually("the next watch", WITHIN, || {
        n += 1;
        sandbox.sh_ok(&format!("echo 1 > /workspace/later/probe{n}"));
        thread::sleep(Duration::from_millis(300));
        let path = format!("/workspace/later/probe{n}");
        if receiver.got().iter().any(|got| got.event()["payload"]["path"] == path) { Ok(()) } else { Err(String::new()) }
    });
}

#[test]
fn a_flood_from_inside_has_bounds() {
    let server = Server::start_with(&[LOOPBACK]);
    let receiver = Receiver::start(|_| Answer::Status(503));
    let sandbox = claim(&server.api(), json!({ "url": receiver.url("/"), "watch_dir": "/workspace" }));
    sandbox.sh("true");
    eventually("the flood", WITHIN, || {
        sandbox.sh_ok("cd /workspace; for i in $(seq 2000); do : > f$i; done; rm -f f*");
        let listed = sandbox.api.get(&sandbox.path("/webhook/deliveries?limit=1")).ok(200);
        if listed["dropped"].as_u64() > Some(1000) { Ok(()) } else { Err(listed.to_string()) }
    });
    sandbox.api.post(&sandbox.path("/pause"), json!({})).ok(200);
    let waiting = server.api().get("/metrics").text();
    let waiting: usize = waiting.lines().find_map(|line| line.strip_prefix("sandbar_webhook_waiting ")).unwrap().parse().unwrap();
    assert!(waiting <= 1001, "{waiting}");
    sandbox.wait_event("a note", |event| event["type"] == "webhook.events_dropped");
    let pending: HashSet<_> = deliveries(&sandbox, "status=pending").iter().map(|d| d["event_type"].as_str().unwrap().to_owned()).collect();
    assert!(pending.contains("sandbox.paused"), "{pending:?}");
    let oldest = eventually("the first", WITHIN, || {
        let mut before = String::new();
        loop {
            let page = sandbox.api.get(&sandbox.path(&format!("/webhook/deliveries?limit=200{before}"))).ok(200);
            match page["next_before"].as_i64() {
                Some(next) => before = format!("&before={next}"),
                None => return page["deliveries"].as_array().unwrap().last().cloned().ok_or_else(|| page.to_string()),
            }
        }
    });
    assert_eq!(oldest["event_type"], "sandbox.ready", "the lifecycle is never given up");
}
