//! Credential sources: what goes in never comes out, what is bound stays, and programs inside trust who ends their TLS.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    api::member,
    harness::{SANDBOXES, Sandbox, Server, shared},
    http::{Api, Reply},
};

mod rotation;

const SOURCES: &str = "/api/v1/credential-sources";

fn headers(name: &str, secret: &str) -> Value {
    json!({ "name": name, "resolverKind": "static_headers", "spec": { "staticHeaders": { "values": { "token": secret } } } })
}

fn login(name: &str, secret: &str) -> Value {
    json!({ "name": name, "resolverKind": "static_username_password", "spec": { "staticUsernamePassword": { "username": "u", "password": secret } } })
}

fn path(name: &str) -> String {
    format!("{SOURCES}/{name}")
}

/// A policy that gives requests to one host a credential of a source.
fn policy(source: &str) -> Value {
    let headers = json!([{ "name": "Authorization", "valueTemplate": "Bearer {{ .token }}" }]);
    json!({
        "mode": "allow-all",
        "egress": { "credentialRules": [{ "name": "api", "credentialRef": "api", "protocol": "https", "domains": ["api.example.com"], "tlsMode": "terminate-reoriginate" }] },
        "credentialBindings": [{ "ref": "api", "sourceRef": source, "projection": { "type": "http_headers", "httpHeaders": { "headers": headers } } }],
    })
}

/// Whether anything below a folder holds a text.
fn holds(dir: &Path, text: &str) -> Option<String> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let found = match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds(&path, text),
            Ok(kind) if kind.is_file() => {
                let bytes = fs::read(&path).unwrap_or_default();
                bytes.windows(text.len()).any(|part| part == text.as_bytes()).then(|| path.display().to_string())
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn what_goes_in_never_comes_out() {
    const FIRST: &str = "canary-first-19c4e2";
    const SECOND: &str = "canary-second-83b7d1";
    let mut server = Server::start_with(&[("SANDBAR_LOG_LEVEL", "trace"), ("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let mut replies: Vec<Reply> = Vec::new();
    let mut keep = |reply: Reply, status: u16| {
        assert_eq!(reply.status, status, "{}", reply.text());
        let data = reply.value()["data"].clone();
        replies.push(reply);
        data
    };

    let made = keep(api.post(SOURCES, headers("github", FIRST)), 201);
    assert_eq!(
        (&made["name"], &made["resolverKind"], &made["currentVersion"], &made["status"]),
        (&json!("github"), &json!("static_headers"), &json!(1), &json!("active"))
    );
    keep(api.post(SOURCES, headers("github", FIRST)), 409);
    keep(api.post(SOURCES, login("login", FIRST)), 201);
    let list = keep(api.get(SOURCES), 200);
    assert_eq!(list.as_array().expect("an array").iter().map(|source| &source["name"]).collect::<Vec<_>>(), ["github", "login"]);
    assert_eq!(keep(api.get(&path("github")), 200), made);
    keep(api.get(&path("none")), 404);

    // What is wrong with a body is told by its fields alone.
    let mut wrong = headers("other", FIRST);
    wrong["spec"]["staticHeaders"]["values"]["token"] = json!(format!("{FIRST}\r\nx: y"));
    keep(api.post(SOURCES, wrong), 400);
    keep(api.post(SOURCES, json!({ "name": "x", "resolverKind": FIRST, "spec": FIRST })), 400);
    keep(
        api.post(SOURCES, json!({ "name": "x", "resolverKind": "static_ssh_private_key", "spec": { "staticSSHPrivateKey": { "privateKeyPem": FIRST } } })),
        400,
    );
    keep(api.send("POST", SOURCES, format!("{{\"name\":\"x\",\"spec\":{FIRST}").as_bytes()), 400);

    // In use, by a live sandbox and a paused one.
    let live = Sandbox {
        id: keep(api.post(SANDBOXES, json!({ "template": "default", "config": { "network": policy("github") } })), 201)["sandbox_id"].as_str().unwrap().into(),
        api: api.clone(),
    };
    keep(api.get(&live.path("/network")), 200);
    keep(api.get(&live.path("")), 200);

    // Rotation counts; the kind and the name stay.
    let rotated = keep(api.put(&path("github"), headers("github", SECOND)), 200);
    assert_eq!((&rotated["currentVersion"], &rotated["createdAt"]), (&json!(2), &made["createdAt"]));
    let mut unnamed = headers("", SECOND);
    unnamed.as_object_mut().unwrap().remove("name");
    assert_eq!(keep(api.put(&path("github"), unnamed), 200)["currentVersion"], 3);
    keep(api.put(&path("github"), headers("gitlab", SECOND)), 400);
    keep(api.put(&path("github"), login("github", SECOND)), 400);
    keep(api.put(&path("none"), headers("none", SECOND)), 404);
    let refused = bound_by(&api, &path("github"));
    assert!(refused.contains(&format!("sandbox {}", live.id)), "{refused}");
    keep(api.get(&live.path("/events?limit=1000")), 200);
    keep(api.get(&live.path("/logs")), 200);

    // Nothing inside knows it.
    let inside = live.sh_ok("env; cat /proc/1/environ 2>/dev/null; cat /run/sandbox0/networking/* /etc/ssl/certs/sandbar-egress.pem");
    assert!(inside.contains("BEGIN CERTIFICATE") && !inside.contains("canary"), "{inside}");
    assert_eq!(live.sh("grep -rIl canary- /etc /root /run /tmp /var /workspace 2>/dev/null").stdout, "");

    // A new server reads them again; another key does not.
    server.kill();
    server.up();
    assert_eq!(api.get(&path("github")).ok(200)["status"], "active");
    for reply in &replies {
        let text = format!("{reply:?} {}", reply.text());
        assert!(!text.contains(FIRST) && !text.contains(SECOND), "{text}");
    }
    drop(live);
    server.terminate();
    for secret in [FIRST, SECOND] {
        assert!(!server.log().contains(secret), "it is in the log");
        assert_eq!(holds(&server.data_dir(), secret), None);
    }
    fs::write(server.data_dir().join("secret.key"), format!("{}\n", "07".repeat(32))).unwrap();
    server.up();
    assert_eq!(api.get(&path("github")).ok(200)["status"], "unreadable");
    assert_eq!(api.put(&path("github"), headers("github", SECOND)).ok(200)["status"], "active", "a rotation makes it readable");
}

/// Who keeps a source from being deleted.
fn bound_by(api: &Api, path: &str) -> String {
    let reply = api.delete(path);
    assert_eq!(reply.status, 409, "{}", reply.text());
    reply.value()["error"]["message"].as_str().expect("a message").to_owned()
}

#[test]
fn what_is_bound_stays_and_what_is_missing_is_not_bound() {
    let server = shared();
    let api = server.api();
    api.post(SOURCES, headers("bound", "v")).ok(201);
    api.post(SOURCES, json!({ "name": "unfit", "resolverKind": "static_ssh_private_key", "spec": { "staticSSHPrivateKey": { "privateKeyPem": SSH_KEY } } }))
        .ok(201);

    // Neither a claim, an update, a policy nor a template binds what is not there, or does not fit.
    let plain = Sandbox::claim(&api, json!({}));
    let template =
        |name: &str, network: Value| json!({ "template_id": name, "spec": { "mainContainer": { "image": "host", "resources": {} }, "network": network } });
    for (source, what) in [("missing", "this team does not have"), ("unfit", "of kind static_ssh_private_key does not fit")] {
        let tries = [
            api.post(SANDBOXES, json!({ "template": "default", "config": { "network": policy(source) } })),
            api.put(&plain.path(""), json!({ "config": { "network": policy(source) } })),
            api.put(&plain.path("/network"), policy(source)),
            api.post("/api/v1/templates", template("binds-none", policy(source))),
        ];
        for reply in tries {
            let text = reply.text();
            assert!(reply.status == 400 && text.contains("\\\"api\\\"") && text.contains(&format!("\\\"{source}\\\"")) && text.contains(what), "{text}");
        }
    }

    // A sandbox keeps its source until it is deleted, whatever state it is in.
    api.put(&plain.path("/network"), policy("bound")).ok(200);
    assert!(bound_by(&api, &path("bound")).contains(&plain.id));
    plain.post("/pause", json!({}));
    plain.api.post(&plain.path("/hibernate"), json!({}));
    assert!(bound_by(&api, &path("bound")).contains(&plain.id));
    plain.post("/resume", json!({}));

    // So do a template, a sandbox that was claimed from it, and a revision of a function.
    api.post("/api/v1/templates", template("binds", policy("bound"))).ok(201);
    assert!(bound_by(&api, &path("bound")).contains("template binds"));
    let of_template = Sandbox::claim_from(&api, "binds", json!({}));
    api.put("/api/v1/templates/binds", json!({ "spec": { "mainContainer": { "image": "host", "resources": {} } } })).ok(200);
    assert!(bound_by(&api, &path("bound")).contains(&of_template.id));
    drop(of_template);
    api.delete("/api/v1/templates/binds").ok(200);
    let service = json!({
        "id": "api", "port": 8080, "runtime": { "type": "cmd", "command": ["python3", "-m", "http.server", "8080"] },
        "ingress": { "public": true, "routes": [{ "id": "all", "path_prefix": "/", "resume": true }] },
    });
    api.put(&plain.path("/services"), json!({ "services": [service] })).ok(200);
    let made = api.post("/api/v1/functions", json!({ "name": "binds", "source": { "sandbox_id": plain.id, "service_id": "api" } })).ok(201);
    drop(plain);
    let by = bound_by(&api, &path("bound"));
    assert!(by.contains("revision 1 of function binds"), "{by}");
    api.delete(&format!("/api/v1/functions/{}", made["function"]["id"].as_str().unwrap())).ok(200);
    super::http::eventually("the end of all that bind it", std::time::Duration::from_secs(60), || {
        let reply = api.delete(&path("bound"));
        if reply.status == 200 { Ok(()) } else { Err(reply.text()) }
    });
    api.delete(&path("bound")).error(&[404]);
    api.delete(&path("unfit")).ok(200);
}

#[test]
fn sources_are_a_teams_own() {
    let server = shared();
    let (api, stranger) = (server.api(), member(&server, "credentials@example.com"));
    api.post(SOURCES, headers("own", "v")).ok(201);
    assert_eq!(stranger.get(SOURCES).ok(200), json!([]));
    stranger.get(&path("own")).error(&[404]);
    stranger.put(&path("own"), headers("own", "w")).error(&[404]);
    stranger.delete(&path("own")).error(&[404]);
    let claim = stranger.post(SANDBOXES, json!({ "template": "default", "config": { "network": policy("own") } }));
    assert_eq!(claim.status, 400, "{}", claim.text());
    stranger.post(SOURCES, login("own", "w")).ok(201);
    assert_eq!(api.get(&path("own")).ok(200)["resolverKind"], "static_headers");
    stranger.delete(&path("own")).ok(200);
    // Roles: who only looks does not write.
    let key = |role: &str| {
        let made = api.post("/api-keys", json!({ "name": "test", "roles": [role] })).ok(201);
        api.with_token(made["key"].as_str().expect("the key's text"))
    };
    for role in ["viewer", "developer"] {
        let key = key(role);
        key.get(&path("own")).ok(200);
        key.put(&path("own"), headers("own", "w")).error(&[403]);
        key.post(SOURCES, headers("more", "w")).error(&[403]);
        key.delete(&path("own")).error(&[403]);
    }
    key("builder").delete(&path("own")).ok(200);
    api.anonymous().get(SOURCES).error(&[401]);
}

const TRUSTS: &str = "import os, ssl
named = lambda context: any('Sandbar egress authority' in str(ca['subject']) for ca in context.get_ca_certs())
bare = ssl.create_default_context()
os.environ.pop('SSL_CERT_FILE', None)
plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
plain.load_verify_locations(cafile='/etc/ssl/certs/ca-certificates.crt')
print(named(bare), named(plain), len(bare.get_ca_certs()) > 10)";

#[test]
fn programs_trust_the_installation_where_the_policy_ends_tls() {
    let server = shared();
    let api = server.api();
    api.post(SOURCES, headers("trust", "v")).ok(201);
    let plain = Sandbox::claim(&api, json!({}));
    assert_eq!(
        plain.sh_ok("ls -d /run/sandbox0 /etc/ssl/certs/sandbar-egress.pem 2>/dev/null; echo ${SSL_CERT_FILE-none}"),
        "none\n",
        "who needs none gets none"
    );

    let claimed = Sandbox::claim(&api, json!({ "network": policy("trust"), "env_vars": { "CURL_CA_BUNDLE": "/mine" } }));
    let looks_trusting = |sandbox: &Sandbox| {
        let env = sandbox.sh_ok("env");
        for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"] {
            assert!(env.contains(&format!("{name}=/var/run/sandbox0/networking/ca-bundle.crt\n")), "{env}");
        }
        assert!(env.contains("SANDBOX0_NETWORK_MITM_CA_FILE=/var/run/sandbox0/networking/mitm-ca.crt\n"), "{env}");
        let done = sandbox.python(TRUSTS);
        assert_eq!(done.stdout, "True True True\n", "{done:?}");
        let verified = sandbox
            .sh("openssl verify -CApath /etc/ssl/certs $SANDBOX0_NETWORK_MITM_CA_FILE && openssl verify -CAfile $SSL_CERT_FILE $SANDBOX0_NETWORK_MITM_CA_FILE");
        assert!(verified.code == 127 || verified.stdout.matches(": OK").count() == 2, "{verified:?}");
        env
    };
    let env = looks_trusting(&claimed);
    assert!(env.contains("CURL_CA_BUNDLE=/mine\n"), "the sandbox's own environment is stronger: {env}");
    assert_eq!(claimed.run(&["true"]).context["env_vars"], json!({ "CURL_CA_BUNDLE": "/mine" }), "and what clients are told of it stays the same");

    // After a new start over the same files, and nothing twice.
    let bundle = || claimed.sh_ok("cat /etc/ssl/certs/ca-certificates.crt | sha256sum");
    let before = bundle();
    claimed.post("/pause", json!({}));
    claimed.api.post(&claimed.path("/hibernate"), json!({}));
    claimed.post("/resume", json!({}));
    looks_trusting(&claimed);
    assert_eq!(bundle(), before);

    // A change of policy, also of one that is asleep.
    api.put(&plain.path("/network"), policy("trust")).ok(200);
    looks_trusting(&plain);
    let asleep = Sandbox::claim(&api, json!({}));
    asleep.post("/pause", json!({}));
    api.put(&asleep.path("/network"), policy("trust")).ok(200);
    asleep.post("/resume", json!({}));
    looks_trusting(&asleep);
    assert!(claimed.events().iter().all(|event| event["type"] != "sandbox.egress_untrusted"), "{:?}", claimed.events());
    drop((plain, claimed, asleep));
    api.delete(&path("trust"));
}

/// SSH that is ended outside is known by its key, and no more when the policy says so no more.
#[test]
fn ssh_hosts_come_and_go_with_the_policy() {
    let server = shared();
    let api = server.api();
    api.post(SOURCES, json!({ "name": "deploy", "resolverKind": "static_ssh_private_key", "spec": { "staticSSHPrivateKey": { "privateKeyPem": SSH_KEY } } }))
        .ok(201);
    let ssh = json!({ "sandboxPublicKeys": [SSH_PUBLIC_KEY], "upstreamUsername": "git", "knownHosts": [format!("git.example.com {SSH_PUBLIC_KEY}")] });
    let policy = json!({
        "mode": "allow-all",
        "egress": { "credentialRules": [{ "name": "git", "credentialRef": "deploy", "protocol": "ssh", "domains": ["git.example.com"] }] },
        "credentialBindings": [{ "ref": "deploy", "sourceRef": "deploy", "projection": { "type": "ssh_proxy", "sshProxy": ssh } }],
    });
    let sandbox = Sandbox::claim(&api, json!({ "network": policy }));
    let lines = sandbox.sh_ok("cat /etc/ssh/ssh_known_hosts");
    assert!(lines.contains("git.example.com,[git.example.com]:* ssh-ed25519 AAAA"), "{lines}");
    assert_eq!(sandbox.sh_ok("echo ${SSL_CERT_FILE-none}"), "none\n", "no TLS is ended");
    api.put(&sandbox.path("/network"), json!({ "mode": "allow-all", "egress": {} })).ok(200);
    assert_eq!(sandbox.sh_ok("cat /etc/ssh/ssh_known_hosts"), "");
    drop(sandbox);
    api.delete(&path("deploy"));
}

const SSH_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACAmcBWjf8XynFcJRfHmZNQcCQQyXL7sNIe4uQ35mUttFwAAAIh746QCe+Ok
AgAAAAtzc2gtZWQyNTUxOQAAACAmcBWjf8XynFcJRfHmZNQcCQQyXL7sNIe4uQ35mUttFw
AAAEA6fhV7hNntV/jaCrk8IFjk3CCbf0//MFG5D8qLLWCPNSZwFaN/xfKcVwlF8eZk1BwJ
BDJcvuw0h7i5DfmZS20XAAAABHRlc3QB
-----END OPENSSH PRIVATE KEY-----
";
const SSH_PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICZwFaN/xfKcVwlF8eZk1BwJBDJcvuw0h7i5DfmZS20X";
