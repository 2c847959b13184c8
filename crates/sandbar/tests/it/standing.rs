//! What lasts longer than a request ends when whoever began it may not do it any more, and nothing is passed on after that.

use std::{collections::BTreeSet, io::Read, net::TcpStream, time::Duration};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{
    api::member,
    harness::{Sandbox, Server, shared},
    http::{Api, Incoming, eventually},
};

const SOON: Duration = Duration::from_secs(30);
const VOLUMES: &str = "/api/v1/sandboxvolumes";

/// How something that lasts is opened.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A shell.
    Terminal,
    /// A WebSocket that is asked for changes of files.
    Watch,
    /// A body that goes on.
    Body,
    /// A job of the operator's, which the same middleware ends.
    Job,
}

/// All of the API that lasts, by method and path as in the description of the API.
const LASTING: [(&str, &str, Kind); 8] = [
    ("get", "/api/v1/sandboxes/{id}/contexts/{ctx}/ws", Kind::Terminal),
    ("get", "/api/v1/sandboxes/{id}/files/watch", Kind::Watch),
    ("get", "/api/v1/sandboxvolumes/{id}/files/watch", Kind::Watch),
    ("get", "/api/v1/sandboxes/{id}/logs", Kind::Body),
    ("get", "/api/v1/sandboxes/{id}/observability/logs", Kind::Body),
    ("get", "/api/v1/sandboxes/{id}/network/events", Kind::Body),
    ("post", "/api/v1/images/pull", Kind::Job),
    ("post", "/api/v1/images/build", Kind::Job),
];

/// Everything that is described as a WebSocket, as lines of JSON, or as something that can be followed.
fn described(server: &Server) -> BTreeSet<(String, String)> {
    let document = server.api().get("/openapi.json").value();
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object();
            let lasts = responses.is_some_and(|responses| {
                responses.contains_key("101")
                    || responses.values().any(|response| {
                        let kinds = response["content"].as_object();
                        kinds.is_some_and(|kinds| kinds.contains_key("application/x-ndjson") || kinds.contains_key("text/event-stream"))
                    })
            });
            let followed = operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "follow" || one["name"] == "watch"));
            if lasts || followed {
                found.insert((method.clone(), path.clone()));
            }
        }
    }
    found
}

enum Open {
    Socket(&'static str, Kind, Box<WebSocket<TcpStream>>),
    Body(&'static str, Incoming),
}

/// What is opened, and where.
struct Place<'a> {
    sandbox: &'a Sandbox,
    volume: &'a str,
    shell: &'a Value,
}

impl Place<'_> {
    /// Opens all that lasts for somebody.
    fn open_all(&self, api: &Api, headers: &[(&'static str, &str)]) -> Vec<Open> {
        let open = |(_, path, kind): &(&'static str, &'static str, Kind)| {
            let id = if path.contains("sandboxvolumes") { self.volume } else { &self.sandbox.id };
            let at = path.replace("{id}", id).replace("{ctx}", self.shell["id"].as_str().unwrap());
            match kind {
                Kind::Job => None,
                Kind::Body => {
                    let mut body = api.stream(&format!("{at}?follow=true&watch=true"), headers);
                    assert_eq!(body.status, 200, "{path}");
                    body.line().unwrap_or_else(|error| panic!("{path}: {error}"));
                    Some(Open::Body(path, body))
                }
                Kind::Terminal | Kind::Watch => {
                    let mut socket = api.ws_with(&at, headers).unwrap_or_else(|status| panic!("{path}: {status}"));
                    if *kind == Kind::Watch {
                        socket.send(Message::text(json!({ "action": "subscribe", "path": "/" }).to_string())).unwrap();
                        assert!(socket.read().unwrap().to_text().unwrap().contains("subscribed"), "{path}");
                    }
                    Some(Open::Socket(path, *kind, Box::new(socket)))
                }
            }
        };
        LASTING.iter().filter_map(open).collect()
    }
}

/// That it has ended, without what happened afterwards.
fn ended(how: &str, open: Open, mark: &str) {
    match open {
        Open::Socket(path, kind, mut socket) => {
            if kind == Kind::Terminal {
                let _ = socket.send(Message::text(json!({ "type": "input", "data": format!("touch /tmp/{mark}\n") }).to_string()));
            }
            loop {
                match socket.read() {
                    Ok(Message::Close(frame)) => {
                        let frame = frame.unwrap_or_else(|| panic!("{how}, {path}: a close without why"));
                        assert_eq!(u16::from(frame.code), 1008, "{how}, {path}: {}", frame.reason);
                        assert!(!frame.reason.is_empty(), "{how}, {path}");
                        return;
                    }
                    Ok(Message::Text(text)) => assert!(!text.contains(mark), "{how}, {path}: {text}"),
                    Ok(_) => {}
                    Err(error) => panic!("{how}, {path}: it goes on, or broke off: {error}"),
                }
            }
        }
        Open::Body(path, mut body) => {
            let mut rest = Vec::new();
            let outcome = body.read_to_end(&mut rest);
            let rest = String::from_utf8_lossy(&rest);
            assert!(!rest.contains(mark), "{how}, {path}: {rest}");
            // Text has no way to say why it ends, and breaks off; lines say so.
            match outcome {
                Ok(_) => assert_eq!(serde_json::from_str::<Value>(rest.lines().last().unwrap()).unwrap()["type"], "error", "{how}, {path}: {rest}"),
                Err(error) => assert!(path.ends_with("/logs") && error.kind() == std::io::ErrorKind::UnexpectedEof, "{how}, {path}: {error}"),
            }
        }
    }
}

#[test]
fn what_lasts_is_in_the_table() {
    let listed = LASTING.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(described(&shared()), listed, "whatever lasts has to end with the rights of whoever began it");
}

#[test]
fn what_lasts_ends_with_the_right_to_it() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("SANDBAR_REGISTRATION", "true")]);
    let admin = server.api();
    let sandbox = Sandbox::claim(&admin, json!({}));
    let volume = admin.post(VOLUMES, json!({ "name": "v" })).ok(201)["id"].as_str().unwrap().to_owned();
    let shell = sandbox.spawn(&["sh"]);
    let printer = sandbox.spawn(&["sh", "-c", "while echo tick; do sleep 0.05; done"]);
    let place = Place { sandbox: &sandbox, volume: &volume, shell: &shell };
    let team = sandbox.get()["team_id"].as_str().unwrap().to_owned();
    let members = format!("/teams/{team}/members");
    for how in ["a deactivated key", "a deleted key", "a maker who may less", "a lesser role", "a member who is gone", "a logout", "a new password"] {
        let mark = format!("mark-{}", how.replace(' ', "-"));
        let mail = format!("{}@example.com", how.replace(' ', "-"));
        let person = member(&server, &mail);
        let user = person.get("/users/me").ok(200);
        admin.post(&members, json!({ "email": mail, "role": "developer" })).ok(201);
        let headers = [("x-team-id", team.as_str())];
        let theirs = format!("{members}/{}", user["id"].as_str().unwrap());
        let by_key = how.contains("key") || how.contains("maker");
        let key = by_key.then(|| {
            let headers = [("x-team-id", team.as_str()), ("content-type", "application/json")];
            let body = json!({ "name": "k", "roles": ["developer"] }).to_string();
            person.try_send("POST", "/api-keys", &headers, body.as_bytes()).unwrap().ok(201)
        });
        let opened = match &key {
            Some(key) => place.open_all(&admin.with_token(key["key"].as_str().unwrap()), &[]),
            None => place.open_all(&person, &headers),
        };
        let id = key.as_ref().map(|key| key["id"].as_str().unwrap()).unwrap_or_default();
        match how {
            "a deactivated key" => drop(admin.send("POST", &format!("/api-keys/{id}/deactivate"), b"").ok(200)),
            "a deleted key" => drop(admin.delete(&format!("/api-keys/{id}")).ok(200)),
            "a maker who may less" | "a lesser role" => drop(admin.put(&theirs, json!({ "role": "viewer" })).ok(200)),
            "a member who is gone" => drop(admin.delete(&theirs).ok(200)),
            "a logout" => drop(person.send("POST", "/auth/logout", b"").ok(200)),
            _ => {
                let change = json!({ "old_password": "correct horse battery", "new_password": "correct horse battery 2" });
                drop(person.post("/auth/change-password", change).ok(200));
            }
        }
        // Seen by whoever still watches, and printed for whoever still follows.
        admin.send("POST", &format!("{VOLUMES}/{volume}/files?path=/{mark}"), b"x").ok(200);
        sandbox.sh_ok(&format!("echo {mark}; touch /{mark}"));
        // A viewer may go on with what viewers may.
        let reads_still = how == "a lesser role" || how == "a maker who may less";
        for open in opened {
            if !(reads_still && matches!(open, Open::Socket(_, Kind::Watch, _))) {
                ended(how, open, &mark);
            }
        }
        assert_eq!(sandbox.sh(&format!("test -e /tmp/{mark}")).code, 1, "{how}: the shell was typed into");
    }
    assert_eq!(sandbox.context(&printer["id"])["running"], true);
    assert_eq!(sandbox.context(&shell["id"])["running"], true, "the shell itself stays");
}

#[test]
fn a_download_and_a_login_that_is_renewed() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("SANDBAR_REGISTRATION", "true")]);
    let admin = server.api();
    let sandbox = Sandbox::claim(&admin, json!({}));
    sandbox.sh_ok("truncate -s 256M /tmp/large");
    let made = admin.post("/api-keys", json!({ "name": "k", "roles": ["viewer"] })).ok(201);
    let mut download = admin.with_token(made["key"].as_str().unwrap()).stream(&sandbox.path("/files?path=/tmp/large"), &[]);
    let mut first = vec![0; 1 << 20];
    download.read_exact(&mut first).unwrap();
    admin.delete(&format!("/api-keys/{}", made["id"].as_str().unwrap())).ok(200);
    let mut rest = Vec::new();
    assert!(download.read_to_end(&mut rest).is_err() && rest.len() < 200 << 20, "{} bytes came", rest.len());

    // Who renews a login goes on with what they have open, until they log out.
    let account = json!({ "email": "renews@example.com", "password": "correct horse battery" });
    drop(member(&server, "renews@example.com"));
    let login = admin.anonymous().post("/auth/login", account).ok(200);
    let first = admin.with_token(login["access_token"].as_str().unwrap());
    let own = Sandbox::claim(&first, json!({}));
    let shell = own.spawn(&["sh"]);
    let mut socket = first.ws(&own.path(&format!("/contexts/{}/ws", shell["id"].as_str().unwrap()))).unwrap();
    let next = admin.anonymous().post("/auth/refresh", json!({ "refresh_token": login["refresh_token"] })).ok(200);
    first.get("/users/me").error(&[401]);
    socket.send(Message::text(json!({ "type": "input", "data": "echo still here\n" }).to_string())).unwrap();
    assert!(socket.read().unwrap().to_text().unwrap().contains("still here"));
    let next = admin.with_token(next["access_token"].as_str().unwrap());
    next.send("POST", "/auth/logout", b"").ok(200);
    eventually("the socket is closed", SOON, || match socket.read() {
        Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1008 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
