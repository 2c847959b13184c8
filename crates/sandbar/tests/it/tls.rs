//! TLS of the gateway's own listener, by a certificate from files.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;

use super::{
    certificates::{Root, Secure, curl},
    harness::{Sandbox, Server, free_address},
    http::eventually,
};

const DOMAIN: &str = "example.test";

struct Site {
    server: Server,
    gateway: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    root: PathBuf,
    ca: Root,
}

impl Site {
    fn start() -> Self {
        let (ca, gateway) = (Root::new(), free_address());
        // Its folder has its name only when it has started.
        let dir = std::env::temp_dir().join(format!("sandbar-it-{}-tls-{}", std::process::id(), gateway.port()));
        fs::create_dir_all(&dir).unwrap();
        let (certificate, key, root) = (dir.join("cert.pem"), dir.join("key.pem"), dir.join("root.pem"));
        put(&ca, &certificate, &key, &[&format!("*.{DOMAIN}")]);
        fs::write(&root, ca.pem()).unwrap();
        let server = Server::start_with(&[
            ("SANDBAR_POOL_MIN_IDLE", "1"),
            ("SANDBAR_PUBLIC_DOMAIN", DOMAIN),
            ("SANDBAR_GATEWAY_LISTEN", &gateway.to_string()),
            ("SANDBAR_TLS_CERT", certificate.to_str().unwrap()),
            ("SANDBAR_TLS_KEY", key.to_str().unwrap()),
        ]);
        Self { server, gateway, certificate, key, root, ca }
    }

    fn service(&self) -> Sandbox {
        let route = json!({ "id": "all", "path_prefix": "/", "resume": true });
        let runtime = json!({ "type": "cmd", "command": ["python3", "-m", "http.server", "--protocol", "HTTP/1.1", "8000"], "cwd": "/etc" });
        let service = json!({ "id": "web", "port": 8000, "runtime": runtime, "ingress": { "public": true, "routes": [route] } });
        Sandbox::claim(&self.server.api(), json!({ "services": [service] }))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.root.parent().unwrap());
    }
}

fn put(ca: &Root, certificate: &Path, key: &Path, names: &[&str]) {
    let (pem, secret) = ca.issue(names);
    fs::write(key, secret).unwrap();
    fs::write(certificate, pem).unwrap();
}

#[test]
fn a_service_is_reached_by_https_in_both_versions() {
    let site = Site::start();
    let sandbox = site.service();
    let host = format!("{}--p8000.{DOMAIN}", sandbox.id);
    let url = format!("https://{host}:{}", site.gateway.port());
    let services = sandbox.api.get(&sandbox.path("/services")).ok(200);
    assert_eq!(services["services"][0]["public_url"], url.as_str(), "{services}");
    let root = site.root.to_str().unwrap();
    let hostname = sandbox.sh_ok("cat /etc/hostname");
    for (version, want) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let said = curl(site.gateway, &host, &["--cacert", root, version, "-w", "\n%{http_version} %{http_code}", &format!("{url}/hostname")]).unwrap();
        assert_eq!(said, format!("{hostname}\n{want} 200"), "{version}");
    }
    // The API by its own name, and not by another.
    for (name, status) in [("api", "200"), ("other", "404")] {
        let host = format!("{name}.{DOMAIN}");
        let url = format!("https://{host}:{}/healthz", site.gateway.port());
        let said = curl(site.gateway, &host, &["--cacert", root, "-o", "/dev/null", "-w", "%{http_code}", &url]).unwrap();
        assert_eq!(said, status, "{name}");
    }
    // What is no TLS gets no answer and disturbs nobody.
    let said = curl(site.gateway, &host, &[&format!("http://{host}:{}/", site.gateway.port())]);
    assert!(said.is_err(), "{said:?}");
}

#[test]
fn a_new_certificate_is_read_and_no_connection_is_lost() {
    let site = Site::start();
    let sandbox = site.service();
    let host = format!("{}--p8000.{DOMAIN}", sandbox.id);
    let root = site.ca.pem();
    let mut old = Secure::connect(site.gateway, &host, &root).unwrap();
    assert_eq!(old.get("/hostname").0, 200);
    // A key that is not the certificate's: the former pair goes on being used.
    let (_, stray) = site.ca.issue(&["stray.test"]);
    let kept = fs::read_to_string(&site.key).unwrap();
    fs::write(&site.key, stray).unwrap();
    eventually("the word about the new key", Duration::from_secs(60), || {
        let log = site.server.log_tail();
        if log.contains("the new certificate cannot be used") { Ok(()) } else { Err(log) }
    });
    assert_eq!(Secure::connect(site.gateway, &host, &root).unwrap().certificate, old.certificate);
    fs::write(&site.key, kept).unwrap();
    put(&site.ca, &site.certificate, &site.key, &[&host]);
    let mut new = eventually("the new certificate", Duration::from_secs(60), || {
        let new = Secure::connect(site.gateway, &host, &root)?;
        if new.certificate == old.certificate { Err("the former one is shown".to_owned()) } else { Ok(new) }
    });
    assert_eq!(new.get("/hostname").0, 200);
    assert_eq!(old.get("/hostname").0, 200, "on the connection from before");
}

#[test]
fn files_that_cannot_be_used_are_refused_at_the_start() {
    let ca = Root::new();
    let dir = std::env::temp_dir().join(format!("sandbar-it-{}-pairs", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = ca.issue(&["a.test"]);
    let (_, other) = ca.issue(&["a.test"]);
    for (name, contents) in [("cert", certificate.as_str()), ("key", &key), ("other", &other), ("empty", "")] {
        fs::write(dir.join(name), contents).unwrap();
    }
    for (certificate, key, named) in [
        ("cert", "other", "certificate and key cannot be used together"),
        ("cert", "cert", "cert"),
        ("key", "key", "key holds no certificate"),
        ("empty", "key", "empty holds no certificate"),
        ("absent", "key", "absent"),
        ("cert", "", "tls_key"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        command.arg("serve").env_clear().env("SANDBAR_DATA_DIR", path("data")).env("SANDBAR_LISTEN", free_address().to_string());
        command.env("SANDBAR_GATEWAY_LISTEN", free_address().to_string()).env("SANDBAR_TLS_CERT", path(certificate));
        if !key.is_empty() {
            command.env("SANDBAR_TLS_KEY", path(key));
        }
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(named), "{certificate} {key}: {said}");
        assert!(!said.contains("BEGIN"), "{said}");
    }
    fs::remove_dir_all(dir).unwrap();
}
