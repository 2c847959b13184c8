//! Keys, and whom they let in.

use super::*;

#[test]
fn keys_are_added_listed_and_removed() {
    let ground = ground();
    let api = ground.server.api();
    let me = Me::stranger(&ground);
    let made = api.post(KEYS, json!({ "name": "laptop", "public_key": format!("{} ", me.public_key().trim()) })).ok(201);
    for field in ["id", "name", "public_key", "key_type", "fingerprint_sha256", "comment", "created_at", "updated_at"] {
        assert!(made[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {made}");
    }
    let shown = run(Command::new("ssh-keygen").arg("-lf").arg(me.path("key.pub")));
    assert!(String::from_utf8(shown.stdout).unwrap().contains(made["fingerprint_sha256"].as_str().unwrap()));
    api.post(KEYS, json!({ "name": "again", "public_key": me.public_key() })).error(&[409]);
    let listed = |api: &Api| api.get(KEYS).ok(200)["ssh_keys"].as_array().unwrap().iter().any(|key| key["id"] == made["id"]);
    assert!(listed(&api) && listed(&api.may()));
    let other = other_team(&ground.server);
    assert!(!listed(&other));
    let id = made["id"].as_str().unwrap();
    other.delete(&format!("{KEYS}/{id}")).error(&[404]);
    // The same key for another team is another key.
    other.post(KEYS, json!({ "name": "mine", "public_key": me.public_key() })).ok(201);
    api.delete(&format!("{KEYS}/{id}")).ok(200);
    api.delete(&format!("{KEYS}/{id}")).error(&[404]);
    assert!(!listed(&api));
    let private = fs::read_to_string(me.path("key")).unwrap();
    for (name, key, names) in [
        ("", me.public_key(), "name"),
        ("x", String::new(), "public_key"),
        ("x", "ssh-ed25519 AAAA".to_owned(), "public_key"),
        ("x", private, "private key"),
        ("x", "ssh-dss AAAAB3NzaC1kc3MAAAAA".to_owned(), "ssh-dss"),
        ("x", "x".repeat(9000), "longer"),
        ("x", format!("command=\"ls\" {}", me.public_key()), "public_key"),
    ] {
        let refused = api.post(KEYS, json!({ "name": name, "public_key": key })).error(&[400]).to_string();
        assert!(refused.contains(names), "{names}: {refused}");
    }
    api.anonymous().get(KEYS).error(&[401]);
}

#[test]
fn what_an_api_key_added_ends_with_it() {
    let ground = ground();
    let api = ground.server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    let made = api.post("/api-keys", json!({ "name": "leaks", "roles": ["developer"] })).ok(201);
    let leaked = api.with_token(made["key"].as_str().unwrap());
    let me = Me::with_key(&ground, &leaked);
    assert_eq!(me.ok(&sandbox, "echo in"), "in\n");
    leaked.get(&format!("{KEYS}?all=true")).error(&[403]);
    let listed = |path: &str| api.get(path).ok(200)["ssh_keys"].as_array().unwrap().iter().find(|key| key["id"] == me.id.as_str()).cloned();
    assert_eq!(listed(&format!("{KEYS}?all=true")).unwrap()["api_key_id"], made["id"]);
    api.delete(&format!("/api-keys/{}", made["id"].as_str().unwrap())).ok(200);
    assert_eq!(me.ssh(&sandbox, &["true"]).output().unwrap().status.code(), Some(255));
    assert!(listed(&format!("{KEYS}?all=true")).is_none());
}

#[test]
fn who_may_not_write_sandboxes_gets_no_way_in() {
    let ground = ground();
    let api = ground.server.api();
    let viewer = api.post("/api-keys", json!({ "name": "viewer", "roles": ["viewer"] })).ok(201);
    let me = Me::stranger(&ground);
    api.with_token(viewer["key"].as_str().unwrap()).post(KEYS, json!({ "name": "x", "public_key": me.public_key() })).error(&[403]);
}

#[test]
fn wrong_keys_foreign_keys_and_unknown_sandboxes_look_alike() {
    let ground = ground();
    let api = ground.server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    let (mine, stranger) = (Me::with_key(&ground, &api), Me::stranger(&ground));
    let foreign = Me::with_key(&ground, &other_team(&ground.server));
    let knock = |me: &Me, user: &str| {
        let done = me.client("ssh").args([&format!("{user}@sandbox"), "true"]).output().unwrap();
        assert_eq!(done.status.code(), Some(255), "{user}");
        stderr(&done).replace(user, "USER")
    };
    let refused = knock(&stranger, &sandbox.id);
    assert!(refused.contains("Permission denied (publickey)"), "{refused}");
    assert_eq!(knock(&foreign, &sandbox.id), refused);
    assert_eq!(knock(&mine, "sb-aaaaaaaaaaaaaaaa"), refused);
    for user in ["root", &format!("{}+other", sandbox.id), &format!("{} x", sandbox.id), "sb/../x"] {
        assert_eq!(knock(&mine, user), refused, "{user}");
    }
    assert_eq!(mine.ok(&sandbox, "echo in"), "in\n");
    api.delete(&format!("{KEYS}/{}", mine.id)).ok(200);
    assert_eq!(knock(&mine, &sandbox.id), refused);
}

#[test]
fn a_member_who_leaves_or_may_less_stays_outside() {
    let ground = ground();
    let server = &ground.server;
    let owner = server.api();
    let sandbox = Sandbox::claim(&owner, json!({}));
    let team = sandbox.get()["team_id"].as_str().unwrap().to_owned();
    let other = other_team(server);
    let user = other.get("/users/me").ok(200);
    let members = format!("/teams/{team}/members");
    owner.post(&members, json!({ "email": user["email"], "role": "developer" })).ok(201);
    let me = Me::stranger(&ground);
    let headers = [("x-team-id", team.as_str()), ("content-type", "application/json")];
    let body = json!({ "name": "k", "public_key": me.public_key() }).to_string();
    assert_eq!(other.try_send("POST", KEYS, &headers, body.as_bytes()).unwrap().status, 201);
    assert_eq!(me.ok(&sandbox, "echo in"), "in\n");
    let all = owner.get(&format!("{KEYS}?all=true")).ok(200);
    let theirs = all["ssh_keys"].as_array().unwrap().iter().find(|key| key["user_id"] == user["id"]).expect("an admin sees it");
    let theirs = format!("{KEYS}/{}", theirs["id"].as_str().unwrap());
    let knock = || me.ssh(&sandbox, &["true"]).output().unwrap().status.code();
    let member = format!("{members}/{}", user["id"].as_str().unwrap());
    owner.put(&member, json!({ "role": "viewer" })).ok(200);
    assert_eq!(knock(), Some(255));
    owner.put(&member, json!({ "role": "builder" })).ok(200);
    assert_eq!(knock(), Some(0));
    owner.delete(&theirs).ok(200);
    assert_eq!(knock(), Some(255), "an admin has deleted the key");
    assert_eq!(other.try_send("POST", KEYS, &headers, body.as_bytes()).unwrap().status, 201);
    assert_eq!(knock(), Some(0));
    owner.delete(&member).ok(200);
    assert_eq!(knock(), Some(255));
}

#[test]
fn how_it_is_reached_is_told_where_it_is_and_only_there() {
    let ground = ground();
    let api = ground.server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    assert_eq!(sandbox.get()["ssh"], json!({ "host": "localhost", "port": ground.port, "username": sandbox.id }));
    let known = api.anonymous().get("/metadata").ok(200)["ssh"].clone();
    let scanned = run(Command::new("ssh-keyscan").args(["-t", "ed25519", "-p", &ground.port.to_string(), "127.0.0.1"]));
    assert!(String::from_utf8(scanned.stdout).unwrap().contains(known["host_key"].as_str().unwrap()));
    let without = shared();
    let outside = Sandbox::claim(&without.api(), json!({}));
    assert_eq!((outside.get()["ssh"].clone(), without.api().get("/metadata").ok(200)["ssh"].clone()), (Value::Null, Value::Null));
    // The command line's own way in: no question about the host key, and nothing written down.
    let me = Me::with_key(&ground, &api);
    let done = Command::new(env!("CARGO_BIN_EXE_sandbar"))
        .args(["--url", &format!("http://{}", api.addr()), "--token", super::super::harness::TOKEN, "sandbox", "ssh", &sandbox.id])
        .arg("--identity")
        .arg(me.path("key"))
        .args(["--", "echo", "it's", "$HOME"])
        .env("HOME", &me.dir)
        .output()
        .unwrap();
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stdout).as_ref()), (Some(0), "it's $HOME\n"), "{}", stderr(&done));
}

#[test]
fn the_host_key_stays_and_a_port_that_is_taken_is_an_error_only_when_it_was_asked_for() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free_address();
    let mut server = Server::start_with(&[("SANDBAR_SSH_LISTEN", &address.to_string()), ("SANDBAR_POOL_MIN_IDLE", "0")]);
    let fingerprint = |server: &Server| server.api().anonymous().get("/metadata").ok(200)["ssh"]["fingerprint_sha256"].clone();
    let before = fingerprint(&server);
    assert!(server.terminate().success());
    server.up();
    assert_eq!(fingerprint(&server), before);
    let dir = std::env::temp_dir().join(format!("sandbar-ssh-taken-{}", std::process::id()));
    let refused = Command::new(env!("CARGO_BIN_EXE_sandbar"))
        .args(["serve", "--data-dir"])
        .arg(&dir)
        .args(["--listen", &free_address().to_string(), "--ssh-listen", &taken.local_addr().unwrap().to_string()])
        .output()
        .unwrap();
    let _ = fs::remove_dir_all(&dir);
    assert!(!refused.status.success() && stderr(&refused).contains("cannot listen on"), "{}", stderr(&refused));
}

/// A connection ends with what let it in, and what it forwards with it.
#[test]
fn a_connection_ends_with_its_key_the_api_key_behind_it_and_the_role() {
    let ground = ground();
    let owner = ground.server.api();
    let sandbox = Sandbox::claim(&owner, json!({}));
    let team = sandbox.get()["team_id"].as_str().unwrap().to_owned();
    let made = owner.post("/api-keys", json!({ "name": "leaks", "roles": ["developer"] })).ok(201);
    let by_api_key = Me::with_key(&ground, &owner.with_token(made["key"].as_str().unwrap()));
    let by_key = Me::with_key(&ground, &owner);
    let other = other_team(&ground.server);
    let user = other.get("/users/me").ok(200);
    owner.post(&format!("/teams/{team}/members"), json!({ "email": user["email"], "role": "developer" })).ok(201);
    let by_role = Me::stranger(&ground);
    let headers = [("x-team-id", team.as_str()), ("content-type", "application/json")];
    let body = json!({ "name": "k", "public_key": by_role.public_key() }).to_string();
    assert_eq!(other.try_send("POST", KEYS, &headers, body.as_bytes()).unwrap().status, 201);

    let begin = |me: &Me| {
        let mut child = me.ssh(&sandbox, &["echo in; cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        assert_eq!(&word, b"in\n");
        child
    };
    let all = [&by_api_key, &by_key, &by_role].map(begin);
    let mut stays = begin(&Me::with_key(&ground, &owner));
    owner.delete(&format!("/api-keys/{}", made["id"].as_str().unwrap())).ok(200);
    owner.delete(&format!("{KEYS}/{}", by_key.id)).ok(200);
    owner.put(&format!("/teams/{team}/members/{}", user["id"].as_str().unwrap()), json!({ "role": "viewer" })).ok(200);
    for child in all {
        // Its input stays open: it is the server that ends it.
        let mut child = child;
        let _input = child.stdin.take();
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(255), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.stdout, b"");
    }
    stays.stdin.as_mut().unwrap().write_all(b"still").unwrap();
    assert_eq!(stays.wait_with_output().unwrap().stdout, b"still");
}
