//! Logins of clients that have no name and no password, and a proxy of the policy's.
use sandbar_core::credential::Material;

use super::world::{bound, rules, world};
use super::zone::Said;
use super::*;

fn login() -> Material {
    Material::UsernamePassword { username: "user".to_owned(), password: "pass".to_owned() }
}

/// What is said and answered on the next connection, in turn.
fn talk(outside: &TcpListener, turns: Vec<(&'static [u8], &'static [u8])>) -> std::thread::JoinHandle<()> {
    let outside = outside.try_clone().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = outside.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for (want, answer) in turns {
            let mut said = vec![0; want.len()];
            stream.read_exact(&mut said).unwrap();
            assert_eq!(String::from_utf8_lossy(&said), String::from_utf8_lossy(want));
            stream.write_all(answer).unwrap();
        }
    })
}

/// Says this and reads an answer of that length.
fn say(to: SocketAddr, said: &'static [u8], answer_bytes: usize) -> Result<String, ErrorKind> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = vec![0; answer_bytes];
    stream.write_all(said).and_then(|()| stream.read_exact(&mut answer)).map_err(|error| error.kind())?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_logged_in_to() {
    let bind = |port: u16| {
        let ports = json!([{"port": port, "protocol": "tcp"}]);
        let rule = json!({"name": "db", "credentialRef": "secret", "protocol": "redis", "domains": ["a.test"], "ports": ports});
        bound(rule, json!({"type": "username_password"}))
    };
    let Some(world) = world(bind(1)).await else { return };
    let to = world.bench.to;
    let network = bind(to.port());
    world.bench.handle.set_policy(policy(network.clone())).await.unwrap();
    // A name is known by its having been asked for. Of several the one that the rule is for is shown.
    for name in ["a.test", "b.test"] {
        inside(&world.bench.netns, move || resolve(name)).await;
    }
    let ping = b"*1\r\n$4\r\nPING\r\n";
    let refused = inside(&world.bench.netns, move || say(to, ping, 7)).await.unwrap_err();
    assert_eq!(refused, ErrorKind::ConnectionReset);
    let outside = world.bench.outside.try_clone().unwrap();
    tokio::task::spawn_blocking(move || drop(outside.accept().unwrap())).await.unwrap();

    world.give(network, login()).await;
    let auth = b"*3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$4\r\npass\r\n";
    let server = talk(&world.bench.outside, vec![(auth, b"+OK\r\n"), (ping, b"+PONG\r\n")]);
    assert_eq!(inside(&world.bench.netns, move || say(to, ping, 7)).await.unwrap(), "+PONG\r\n");
    server.join().unwrap();
    let entry = world.bench.handle.decisions().pop().unwrap();
    assert!(entry.decision == "allow" && entry.rule.ends_with(" (with the credential of egress.credentialRules[0] `db`)"), "{entry:?}");
    assert_eq!(entry.host.as_deref(), Some("a.test"));
    // What the client has of its own stays here.
    let own = b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$4\r\nmine\r\n*1\r\n$4\r\nPING\r\n";
    let server = talk(&world.bench.outside, vec![(auth, b"+OK\r\n"), (ping, b"+PONG\r\n")]);
    assert_eq!(inside(&world.bench.netns, move || say(to, own, 12)).await.unwrap(), "+OK\r\n+PONG\r\n");
    server.join().unwrap();
    let server = talk(&world.bench.outside, vec![(auth, b"-WRONGPASS x\r\n")]);
    assert_eq!(inside(&world.bench.netns, move || say(to, ping, 7)).await.unwrap_err(), ErrorKind::ConnectionReset);
    server.join().unwrap();
    let last = world.bench.handle.decisions().pop().unwrap();
    assert!(last.decision == "deny" && last.rule.contains("did not take the credential"), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_through_the_proxy() {
    let ours = own_address(|addr| addr.is_ipv4() && !addr.is_loopback());
    let Some(proxy) = ours.and_then(|addr| TcpListener::bind((addr, 0)).ok()) else { return };
    let at = proxy.local_addr().unwrap();
    let by = |host: &str| {
        let mut network = rules(json!({"proxy": {"type": "socks5", "address": format!("{host}:{}", at.port()), "credentialRef": "secret"}}));
        network["credentialBindings"] = json!([{"ref": "secret", "sourceRef": "source", "projection": {"type": "username_password"}}]);
        network
    };
    let Some(world) = world(by("proxy.test")).await else { return };
    let IpAddr::V4(v4) = at.ip() else { return };
    world.zone.at("proxy.test", v4);
    world.give(by("proxy.test"), login()).await;
    let to = world.bench.to;
    let head = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut connect = b"\x05\x01\x00\x03\x06a.test".to_vec();
    connect.extend(to.port().to_be_bytes());
    let turns: Vec<(&'static [u8], &'static [u8])> = vec![
        (b"\x05\x01\x02", b"\x05\x02"),
        (b"\x01\x04user\x04pass", b"\x01\x00"),
        (connect.leak(), &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        (b"GET / HTTP/1.1\r\n", b"HTTP/1.1 204 x\r\n\r\n"),
    ];
    let server = talk(&proxy, turns);
    assert_eq!(inside(&world.bench.netns, move || say(to, head, 14)).await.unwrap(), "HTTP/1.1 204 x");
    server.join().unwrap();
    // Not to where nobody may go, were it by a name.
    for addr in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(169, 254, 169, 254)] {
        world.zone.say("proxy.test", Said::At(vec![addr], 60));
        let failed = world.bench.handle.counters().failed;
        assert!(inside(&world.bench.netns, move || say(to, head, 12)).await.is_err());
        assert_eq!(world.bench.handle.counters().failed, failed + 1);
    }
}
