//! A rotation is there with the very next request, whatever became of the sandbox since it was claimed.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use serde_json::{Value, json};

use super::super::{
    harness::{Sandbox, Server},
    http::{Api, eventually},
    network::own_address,
};
use super::{SOURCES, headers, path};

const NAME: &str = "api.test";
/// Asks on a connection that it keeps whenever it is told to, and says from which port.
const KEEPER: &str = "import http.client, os, sys, time
kept = http.client.HTTPConnection('api.test', int(sys.argv[1]), timeout=30)
n = 0
while True:
  if not os.path.exists(f'/tmp/ask-{n}'):
    time.sleep(0.02)
    continue
  kept.request('GET', '/')
  port = kept.sock.getsockname()[1]
  answer = kept.getresponse().read().decode()
  with open('/tmp/new', 'w') as out: out.write(f'{port} {answer}')
  os.rename('/tmp/new', f'/tmp/got-{n}')
  n += 1
";
/// Gives whoever calls it what it gets itself.
const RELAY: &str = "import http.server, sys, urllib.request
class Relay(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    answer = urllib.request.urlopen(f'http://api.test:{sys.argv[1]}/', timeout=30).read()
    self.send_response(200)
    self.send_header('Content-Length', str(len(answer)))
    self.end_headers()
    self.wfile.write(answer)
http.server.HTTPServer(('', 8080), Relay).serve_forever()
";

/// A server that says to everybody how they were authorized.
fn upstream(ip: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    addr
}

fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    loop {
        let mut authorized = "nothing".to_owned();
        loop {
            let Some(line) = lines.next().transpose()? else { return Ok(()) };
            match line.split_once(':') {
                _ if line.is_empty() => break,
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => value.trim().clone_into(&mut authorized),
                Some(_) | None => {}
            }
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{authorized}", authorized.len())?;
    }
}

/// A name server that knows one address for every name.
fn name_server(ip: Ipv4Addr) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            let name = query[12..len].iter().position(|byte| *byte == 0).map_or(len, |end| 12 + end);
            let Some(question) = query.get(12..name + 5).filter(|_| name + 5 <= len) else { continue };
            let is_a = question.ends_with(&[0, 1, 0, 1]);
            let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], question].concat();
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(ip.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    addr
}

fn policy(source: &str) -> Value {
    let header = json!({ "name": "Authorization", "valueTemplate": "Bearer {{ .token }}" });
    json!({
        "mode": "allow-all",
        "egress": { "credentialRules": [{ "name": "api", "credentialRef": "api", "protocol": "http", "domains": [NAME] }] },
        "credentialBindings": [{ "ref": "api", "sourceRef": source, "projection": { "type": "http_headers", "httpHeaders": { "headers": [header] } } }],
    })
}

/// A sandbox that asks the upstream.
struct Asker {
    sandbox: Sandbox,
    port: u16,
    asked: usize,
}

impl Asker {
    fn new(sandbox: Sandbox, port: u16) -> Self {
        let mut asker = Self { sandbox, port, asked: 0 };
        asker.keep();
        asker
    }

    /// Begins to keep a connection.
    fn keep(&mut self) {
        self.sandbox.sh_ok("rm -f /tmp/ask-* /tmp/got-*");
        self.sandbox.spawn(&["python3", "-c", KEEPER, &self.port.to_string()]);
        self.asked = 0;
    }

    fn on_a_new_connection(&self) -> String {
        self.sandbox.python(&format!("import urllib.request\nprint(urllib.request.urlopen('http://{NAME}:{}/', timeout=30).read().decode())", self.port)).stdout
    }

    /// The connection's port, and what was answered.
    fn on_the_kept_one(&mut self) -> (String, String) {
        let n = self.asked;
        self.asked += 1;
        let answer =
            self.sandbox.sh_ok(&format!("touch /tmp/ask-{n}; for i in $(seq 1000); do [ -e /tmp/got-{n} ] && break; sleep 0.02; done; cat /tmp/got-{n}"));
        let (port, answer) = answer.split_once(' ').expect("a port and an answer");
        (port.to_owned(), answer.to_owned())
    }

    #[track_caller]
    fn has(&mut self, secret: &str) -> String {
        assert_eq!(self.on_a_new_connection(), format!("Bearer {secret}\n"));
        let (port, answer) = self.on_the_kept_one();
        assert_eq!(answer, format!("Bearer {secret}"));
        port
    }
}

fn rotate(api: &Api, secret: &str) {
    api.put(&path("rotated"), headers("rotated", secret)).ok(200);
}

#[test]
fn a_rotation_is_there_with_the_next_request() {
    let Some(IpAddr::V4(ip)) = own_address() else { panic!("an address of this machine besides loopback is needed") };
    let port = upstream(ip).port();
    let (allow, names) = (ip.to_string(), name_server(ip).to_string());
    let mut server = Server::start_with(&[("SANDBAR_EGRESS_ALLOW", &allow), ("SANDBAR_NAMESERVERS", &names)]);
    let api = server.api();
    api.post(SOURCES, headers("rotated", "first")).ok(201);
    let mut asker = Asker::new(Sandbox::claim(&api, json!({ "network": policy("rotated") })), port);
    let kept = asker.has("first");
    rotate(&api, "second");
    assert_eq!(asker.has("second"), kept, "on the same connection");

    // While it is asleep, too.
    asker.sandbox.post("/pause", json!({}));
    rotate(&api, "third");
    asker.sandbox.post("/resume", json!({}));
    assert_eq!(asker.has("third"), kept, "on the same connection");
    rotate(&api, "fourth");
    assert_eq!(asker.has("fourth"), kept, "on the same connection");

    // A new server has its runtime and none of its connections.
    server.kill();
    server.up();
    asker.keep();
    let kept = asker.has("fourth");
    rotate(&api, "fifth");
    assert_eq!(asker.has("fifth"), kept, "on the same connection");

    // A fork has the same source.
    let made = api.post(&asker.sandbox.path("/fork"), json!({})).ok(201);
    let fork = Sandbox { api: api.clone(), id: made["sandbox"]["id"].as_str().unwrap().to_owned() };
    rotate(&api, "sixth");
    fork.post("/resume", json!({}));
    let mut fork = Asker::new(fork, port);
    fork.has("sixth");
    rotate(&api, "seventh");
    fork.has("seventh");
    asker.has("seventh");
    drop(fork);

    // And so does what is published from it.
    asker.sandbox.write("/workspace/relay.py", RELAY.as_bytes());
    let service = json!({
        "id": "relay", "port": 8080, "runtime": { "type": "cmd", "command": ["python3", "/workspace/relay.py", port.to_string()] },
        "ingress": { "public": true, "routes": [{ "id": "all", "path_prefix": "/", "resume": true }] },
    });
    api.put(&asker.sandbox.path("/services"), json!({ "services": [service] })).ok(200);
    let made = api.post("/api/v1/functions", json!({ "name": "relay", "source": { "sandbox_id": asker.sandbox.id, "service_id": "relay" } })).ok(201);
    let function = api.anonymous().at_url(&made["function"]["url"]);
    let answers = || {
        eventually("the function's instance", std::time::Duration::from_secs(60), || {
            let reply = function.get("/");
            if reply.status == 200 { Ok(reply.text()) } else { Err(reply.text()) }
        })
    };
    assert_eq!(answers(), "Bearer seventh");
    rotate(&api, "eighth");
    assert_eq!(answers(), "Bearer eighth");
    api.delete(&format!("/api/v1/functions/{}", made["function"]["id"].as_str().unwrap())).ok(200);
}
