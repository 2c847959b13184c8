//! Certificates from an authority: a real one for tests, `pebble`, that comes to the gateway to see that the names lead there.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::json;

use super::{
    certificates::{Root, Secure, curl},
    harness::{Sandbox, Server, free_address},
    http::eventually,
};

const DOMAIN: &str = "example.test";
/// A debug build, an authority and a name server on a busy machine.
const WITHIN: Duration = Duration::from_secs(90);

/// `pebble`, with a name server that says of every name that it is here.
struct Authority {
    dir: PathBuf,
    addr: SocketAddr,
    management: SocketAddr,
    children: Vec<Child>,
    names: SocketAddr,
}

impl Authority {
    /// It will come to `gateway`, and its certificates are valid for so many seconds.
    fn new(gateway: SocketAddr, valid_s: u64) -> Self {
        let (addr, management, names) = (free_address(), free_address(), free_address());
        let dir = std::env::temp_dir().join(format!("sandbar-it-{}-acme-{}", std::process::id(), addr.port()));
        fs::create_dir_all(&dir).unwrap();
        let ca = Root::new();
        let (certificate, key) = ca.issue(&["127.0.0.1"]);
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let config = json!({ "pebble": {
            "listenAddress": addr, "managementListenAddress": management, "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": 1, "tlsPort": gateway.port(), "certificateValidityPeriod": valid_s,
        } });
        for (name, contents) in [("root.pem", ca.pem()), ("cert.pem", certificate), ("key.pem", key), ("config.json", config.to_string())] {
            fs::write(dir.join(name), contents).unwrap();
        }
        Self { dir, addr, management, children: Vec::new(), names }
    }

    fn start(gateway: SocketAddr, valid_s: u64) -> Self {
        let mut authority = Self::new(gateway, valid_s);
        authority.up();
        authority
    }

    fn up(&mut self) {
        let names = self.names.to_string();
        let config = self.dir.join("config.json");
        self.spawn("pebble-challtestsrv", &["-dns01", &names, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", ""], &[]);
        let env = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_VA_ALWAYS_VALID", "0")];
        self.spawn("pebble", &["-config", config.to_str().unwrap(), "-dnsserver", &names, "-strict"], &env);
        eventually("the authority", WITHIN, || curl(self.addr, "localhost", &["-k", &self.url()]));
    }

    fn spawn(&mut self, program: &str, args: &[&str], env: &[(&str, &str)]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join(format!("{program}.log"))).unwrap();
        let child = Command::new(program)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} is not installed (packaging/prerequisites.sh test): {error}"));
        self.children.push(child);
    }

    fn url(&self) -> String {
        format!("https://{}/dir", self.addr)
    }

    /// What it signs with, as PEM.
    fn root(&self) -> String {
        curl(self.management, "localhost", &["-k", &format!("https://{}/roots/0", self.management)]).unwrap()
    }

    /// How many orders were placed.
    fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("pebble.log")).unwrap_or_default()
    }

    fn server(&self, gateway: SocketAddr) -> Server {
        Server::start_with(&[
            ("SANDBAR_POOL_MIN_IDLE", "1"),
            ("SANDBAR_PUBLIC_DOMAIN", DOMAIN),
            ("SANDBAR_GATEWAY_LISTEN", &gateway.to_string()),
            ("SANDBAR_ACME_DIRECTORY", &self.url()),
            ("SANDBAR_ACME_CONTACT", "mailto:operator@example.test"),
            ("SANDBAR_ACME_CA", self.dir.join("root.pem").to_str().unwrap()),
        ])
    }

    fn down(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the authority's log ---\n{}", self.log());
        }
        self.down();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn service(server: &Server) -> (Sandbox, String) {
    let route = json!({ "id": "all", "path_prefix": "/", "resume": true });
    let runtime = json!({ "type": "cmd", "command": ["python3", "-m", "http.server", "8000"], "cwd": "/etc" });
    let service = json!({ "id": "web", "port": 8000, "runtime": runtime, "ingress": { "public": true, "routes": [route] } });
    let private = json!({ "id": "inner", "port": 9000, "ingress": { "public": false } });
    let sandbox = Sandbox::claim(&server.api(), json!({ "services": [service, private] }));
    let host = format!("{}--p8000.{DOMAIN}", sandbox.id);
    (sandbox, host)
}

/// Files of certificates below the server's data.
fn kept(server: &Server) -> Vec<PathBuf> {
    let folders = fs::read_dir(server.data_dir().join("acme")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    files.filter(|path| path.extension().is_some_and(|extension| extension == "pem")).collect()
}

#[test]
fn hosts_that_something_is_served_on_get_certificates_and_others_get_none() {
    let gateway = free_address();
    let authority = Authority::start(gateway, 3600);
    let mut server = authority.server(gateway);
    let (sandbox, host) = service(&server);
    let services = sandbox.api.get(&sandbox.path("/services")).ok(200);
    assert_eq!(services["services"][0]["public_url"], format!("https://{host}"), "{services}");
    let root = authority.root();
    assert_eq!(authority.orders(), 0, "nobody asked yet");

    // All who come at once wait for one order.
    let shown: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| Secure::connect(gateway, &host, &root).map(|secure| secure.certificate))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let first = eventually("a certificate", WITHIN, || Secure::connect(gateway, &host, &root)).certificate;
    for certificate in shown {
        assert_eq!(certificate, Ok(first.clone()));
    }
    assert_eq!(authority.orders(), 1, "{}", authority.log());
    let mut secure = Secure::connect(gateway, &host.to_uppercase(), &root).unwrap();
    assert_eq!((secure.certificate.clone(), secure.get("/hostname").0), (first.clone(), 200));

    // The API by its own name has one, too. Nothing else has: what is not there, is not public, or is no host at all.
    let api = eventually("a certificate of the API", WITHIN, || Secure::connect(gateway, &format!("api.{DOMAIN}"), &root).map(|mut api| api.get("/healthz").0));
    assert_eq!((api, authority.orders()), (200, 2));
    let id = &sandbox.id;
    let gone = Sandbox::claim(&sandbox.api, json!({}));
    let no_service = format!("{}--p8000.{DOMAIN}", gone.id);
    for other in [
        format!("{id}--p9000.{DOMAIN}"),
        format!("{id}--p8001.{DOMAIN}"),
        format!("nothing--p8000.{DOMAIN}"),
        format!("www.{DOMAIN}"),
        format!("web-1a2b3c4d.{DOMAIN}"),
        format!("a.{host}"),
        DOMAIN.to_owned(),
        no_service,
        "api.elsewhere.test".to_owned(),
        format!("api.{DOMAIN}.elsewhere.test"),
    ] {
        let refused = Secure::connect(gateway, &other, &root).map(|_| ()).unwrap_err();
        assert!(refused.contains("alert"), "{other}: {refused}");
    }
    assert_eq!(authority.orders(), 2, "{}", authority.log());

    // A function has one by its own name, and by no other.
    let body = json!({ "name": "shop", "source": { "sandbox_id": id, "service_id": "web" } });
    let function = sandbox.api.post("/api/v1/functions", body).ok(201)["function"]["host"].as_str().unwrap().to_owned();
    let published = eventually("a certificate of a function", WITHIN, || Secure::connect(gateway, &function, &root).map(|mut f| f.get("/hostname").0));
    assert_eq!((published, authority.orders()), (200, 3));
    assert!(Secure::connect(gateway, &format!("no-alias--{function}"), &root).is_err());

    // Kept over a restart and a crash, for nobody else to read, and used without asking the authority.
    use std::os::unix::fs::PermissionsExt;
    let files = kept(&server);
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    server.kill();
    server.up();
    assert_eq!(Secure::connect(gateway, &host, &root).unwrap().certificate, first);
    assert_eq!(authority.orders(), 3);
    // The account is kept as well: another host is ordered with it.
    let (_second, other) = service(&server);
    eventually("a certificate of another host", WITHIN, || Secure::connect(gateway, &other, &root));
    assert_eq!((authority.orders(), authority.log().matches("accounts in memory").count()), (4, 1));
    assert!(!server.log_tail().contains("PRIVATE KEY"));
}

#[test]
fn certificates_are_renewed_by_themselves_and_not_those_of_hosts_that_are_gone() {
    let gateway = free_address();
    let authority = Authority::start(gateway, 12);
    let server = authority.server(gateway);
    let ((_sandbox, host), (gone, gone_host)) = (service(&server), service(&server));
    let root = authority.root();
    let first = eventually("a certificate", WITHIN, || Secure::connect(gateway, &host, &root)).certificate;
    eventually("the other certificate", WITHIN, || Secure::connect(gateway, &gone_host, &root));
    drop(gone);
    let issued = |host: &str| server_lines(&server, host);
    let of_gone = issued(&gone_host);
    // Nobody asks for it meanwhile.
    let before = issued(&host);
    eventually("three renewals", WITHIN, || if issued(&host) >= before + 3 { Ok(()) } else { Err(server.log_tail()) });
    assert_ne!(Secure::connect(gateway, &host, &root).unwrap().certificate, first);
    eventually("the end of the other's file", WITHIN, || {
        let files = kept(&server);
        if files.iter().any(|file| file.to_string_lossy().contains(&gone_host)) { Err(format!("{files:?}")) } else { Ok(()) }
    });
    assert!(issued(&gone_host) <= of_gone + 1, "the deletion may have come after its last renewal: {}", server.log_tail());
    assert!(Secure::connect(gateway, &gone_host, &root).is_err());
}

/// How often a host got a certificate, by the server's log.
fn server_lines(server: &Server, host: &str) -> usize {
    server.log().lines().filter(|line| line.contains("there is a certificate") && line.contains(host)).count()
}

#[test]
fn without_its_authority_the_server_lives_and_orders_when_it_is_back() {
    let gateway = free_address();
    let mut authority = Authority::new(gateway, 3600);
    let server = authority.server(gateway);
    let (sandbox, host) = service(&server);
    let refused = Secure::connect(gateway, &host, &Root::new().pem()).map(|_| ()).unwrap_err();
    assert!(refused.contains("alert"), "{refused}");
    let log = server.log_tail();
    assert!(log.contains("no certificate was issued") && log.contains(&host) && log.contains("Connection refused"), "{log}");
    assert_eq!(sandbox.sh_ok("echo alive"), "alive\n");
    authority.up();
    let root = authority.root();
    let first = eventually("a certificate", WITHIN, || Secure::connect(gateway, &host, &root)).certificate;
    assert_eq!(authority.orders(), 1);
    // While it is away again, what is there is shown.
    authority.down();
    assert_eq!(Secure::connect(gateway, &host, &root).unwrap().certificate, first);
    // It comes back, and has forgotten us.
    authority.up();
    let (_second, other) = service(&server);
    let root = authority.root();
    eventually("a certificate by another account", WITHIN, || Secure::connect(gateway, &other, &root));
    assert!(server.log().contains("does not know our account"), "{}", server.log());
}

#[test]
fn a_name_that_does_not_lead_here_is_not_ordered_again_and_again() {
    let (gateway, elsewhere) = (free_address(), free_address());
    let authority = Authority::start(elsewhere, 3600);
    let server = authority.server(gateway);
    let (_sandbox, host) = service(&server);
    let root = authority.root();
    assert!(Secure::connect(gateway, &host, &root).is_err());
    eventually("the authority's refusal", WITHIN, || {
        let log = server.log();
        if log.contains("no certificate was issued") && log.contains("for the tls-alpn-01 challenge") { Ok(()) } else { Err(log) }
    });
    for _ in 0..5 {
        assert!(Secure::connect(gateway, &host, &root).is_err());
    }
    assert_eq!(authority.orders(), 1, "{}", authority.log());
}

#[test]
fn files_win_for_the_hosts_that_they_name() {
    let gateway = free_address();
    let authority = Authority::start(gateway, 3600);
    let ca = Root::new();
    let (certificate, key) = ca.issue(&[&format!("api.{DOMAIN}")]);
    let path = |name: &str| authority.dir.join(name).to_str().unwrap().to_owned();
    fs::write(path("own.pem"), certificate).unwrap();
    fs::write(path("own-key.pem"), key).unwrap();
    let server = Server::start_with(&[
        ("SANDBAR_POOL_MIN_IDLE", "1"),
        ("SANDBAR_PUBLIC_DOMAIN", DOMAIN),
        ("SANDBAR_GATEWAY_LISTEN", &gateway.to_string()),
        ("SANDBAR_TLS_CERT", &path("own.pem")),
        ("SANDBAR_TLS_KEY", &path("own-key.pem")),
        ("SANDBAR_ACME_DIRECTORY", &authority.url()),
        ("SANDBAR_ACME_CA", &path("root.pem")),
    ]);
    let (_sandbox, host) = service(&server);
    assert_eq!(Secure::connect(gateway, &format!("api.{DOMAIN}"), &ca.pem()).unwrap().get("/healthz").0, 200);
    assert_eq!(authority.orders(), 0);
    let root = authority.root();
    eventually("a certificate", WITHIN, || Secure::connect(gateway, &host, &root));
    assert_eq!(authority.orders(), 1);
}
