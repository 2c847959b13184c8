//! Connections into the sandbox, and by way of it.

use std::net::{TcpListener, TcpStream};

use super::*;

/// A client that forwards, until it is dropped.
struct Forwarding(Child);

impl Forwarding {
    fn start(me: &Me, sandbox: &Sandbox, options: &[&str], port: u16) -> Self {
        let child = spawn(me.ssh_with(&[&["-N", "-o", "ExitOnForwardFailure=yes"], options].concat(), sandbox, &[]));
        let mut forwarding = Self(child);
        crate::it::http::eventually("the forwarded port", Duration::from_secs(20), || {
            assert!(forwarding.0.try_wait().unwrap().is_none(), "the client ended");
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
        forwarding
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server of files inside and waits for it.
fn serve_files(sandbox: &Sandbox, bind: &str) {
    sandbox.sh_ok("mkdir -p /srv/www && echo here > /srv/www/index.html && head -c 5000000 /dev/urandom > /srv/www/big");
    sandbox.spawn(&["python3", "-m", "http.server", "8099", "--bind", bind, "--directory", "/srv/www"]);
    sandbox.sh_ok(&format!("for i in $(seq 200); do curl -fsg -o /dev/null http://{bind}:8099/ && exit 0; sleep 0.05; done; exit 1"));
}

fn curl(arguments: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "-m", "20"]).args(arguments).output().unwrap()
}

#[test]
fn a_local_port_leads_to_a_server_inside() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    serve_files(&sandbox, "127.0.0.1");
    let port = free_address().port();
    let _forwarding = Forwarding::start(&me, &sandbox, &["-L", &format!("{port}:localhost:8099")], port);
    assert_eq!(curl(&[&format!("http://127.0.0.1:{port}/")]).stdout, b"here\n");
    let big = curl(&[&format!("http://127.0.0.1:{port}/big")]);
    assert_eq!(format!("{}  /srv/www/big\n", hash(&big.stdout)), sandbox.sh_ok("sha256sum /srv/www/big"));
    // One that nobody reads holds up no other.
    let mut stalled = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stalled.write_all(b"GET /big HTTP/1.0\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(curl(&[&format!("http://127.0.0.1:{port}/")]).stdout, b"here\n");
}

#[test]
fn a_proxy_reaches_what_the_sandbox_may() {
    let ground = ground();
    let api = ground.server.api();
    let me = Me::with_key(&ground, &api);
    let sandbox = Sandbox::claim(&api, json!({}));
    serve_files(&sandbox, "127.0.0.2");
    sandbox.sh_ok("echo 127.0.0.2 inner.test >> /etc/hosts");
    let port = free_address().port();
    let _forwarding = Forwarding::start(&me, &sandbox, &["-D", &port.to_string()], port);
    let by = |url: &str| curl(&["--socks5-hostname", &format!("127.0.0.1:{port}"), url]);
    assert_eq!(by("http://127.0.0.2:8099/").stdout, b"here\n");
    // A name that is known inside only.
    assert_eq!(by("http://inner.test:8099/").stdout, b"here\n", "names are resolved inside");
    // This machine's loopback is not the sandbox's: a server of ours is not found, nor is what the policy protects.
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(!by(&format!("http://127.0.0.1:{}/", ours.local_addr().unwrap().port())).status.success());
    assert!(!by("http://169.254.169.254/").status.success());
    // Why is told where the protocol has a word for it.
    let direct = |target: &str| me.ssh_with(&["-W", target], &sandbox, &[]).output().unwrap();
    for (target, says) in [("169.254.169.254:80", "Permission denied"), ("localhost:9", "refused"), ("nosuch.invalid:80", "")] {
        let refused = direct(target);
        assert_eq!(refused.status.code(), Some(255), "{target}");
        assert!(stderr(&refused).contains("stdio forwarding failed") || stderr(&refused).contains(says), "{target}: {}", stderr(&refused));
    }
}

#[test]
fn a_socket_in_the_file_system() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let code = "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('/tmp/s'); s.listen()\nwhile True:\n c, _ = s.accept(); c.sendall(b'unix ' + c.recv(100)); c.close()";
    sandbox.spawn(&["python3", "-c", code]);
    sandbox.sh_ok("for i in $(seq 200); do [ -S /tmp/s ] && exit 0; sleep 0.05; done; exit 1");
    let port = free_address().port();
    let _forwarding = Forwarding::start(&me, &sandbox, &["-L", &format!("{port}:/tmp/s")], port);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"unix hello");
}
