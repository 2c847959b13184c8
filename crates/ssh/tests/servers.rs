//! Our client against OpenSSH's server, with a configuration of its own on a port of loopback, and against our own.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::{
    io::Read,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sandbar_ssh::{
    Account, Channel, ConnectError, Doorkeeper, Event, HostKey, HostKeyError, HostKeys, NotOpened, Opener, Outcome, PrivateKey, PtyRequest, PublicKey, Request,
    Session, Settings, Stream, connect, login,
};
use tokio::net::{TcpListener, TcpStream};

const SSHD: &str = "/usr/sbin/sshd";

/// A server with a folder of its own; both end with it.
struct Server {
    folder: PathBuf,
    child: Option<Child>,
    address: SocketAddr,
}

impl Server {
    /// `None` where there is no OpenSSH server to try it with.
    async fn start(name: &str, host_kind: &[&str], more: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("skipped: needs {SSHD}");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("sandbar-sshd-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { address: SocketAddr::from(([127, 0, 0, 1], port)), child: None, folder };
        server.make_key("host", host_kind);
        let at = server.folder.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nPidFile none\nStrictModes no\nUsePAM no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\nLogLevel ERROR\nAcceptEnv SHOWN\nSubsystem sftp internal-sftp\n{more}\n"
        );
        std::fs::write(server.folder.join("config"), config).unwrap();
        std::fs::write(server.folder.join("authorized"), "").unwrap();
        // Debian's server, run by root, wants it; its service makes it.
        let _ = std::fs::create_dir_all("/run/sshd");
        let child = Command::new(SSHD).args(["-D", "-e", "-f"]).arg(server.folder.join("config")).stderr(Stdio::null()).spawn().unwrap();
        server.child = Some(child);
        for _ in 0..200 {
            if TcpStream::connect(server.address).await.is_ok() {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("sshd does not answer");
    }

    fn make_key(&self, name: &str, kind: &[&str]) -> (String, String) {
        let path = self.folder.join(name);
        let _ = std::fs::remove_file(&path);
        assert!(Command::new("ssh-keygen").args(["-q", "-N", "", "-f"]).arg(&path).args(kind).status().unwrap().success());
        (std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(path.with_extension("pub")).unwrap())
    }

    /// A key that the server takes for whoever runs the test.
    fn user_key(&self, kind: &[&str]) -> PrivateKey {
        let (private, public) = self.make_key("user", kind);
        std::fs::write(self.folder.join("authorized"), public).unwrap();
        std::fs::set_permissions(self.folder.join("authorized"), std::fs::Permissions::from_mode(0o644)).unwrap();
        PrivateKey::from_pem(&private, None).unwrap()
    }

    fn host_keys(&self) -> HostKeys {
        let line = std::fs::read_to_string(self.folder.join("host.pub")).unwrap();
        HostKeys::of([format!("[127.0.0.1]:{} {line}", self.address.port()).as_str()], &["127.0.0.1"], self.address.port())
    }

    async fn connect(&self, key: PrivateKey, host_keys: HostKeys) -> Result<Connection, ConnectError> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned();
        connect(stream, Account { software: "Test", user, key, host_keys }).await.map(Connection::run)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A session that is served until this is dropped.
struct Connection {
    opener: Opener,
    task: tokio::task::JoinHandle<()>,
}

impl Connection {
    fn run(session: Session<TcpStream>) -> Self {
        let opener = session.opener();
        let task = tokio::spawn(async move { session.run(drop, std::future::pending()).await.unwrap() });
        Self { opener, task }
    }

    async fn exec(&self, command: &str) -> Channel {
        let channel = self.opener.session().await.unwrap();
        assert!(channel.request(&Request::Exec(command.as_bytes().to_vec()), true).await.unwrap());
        channel
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_all(channel: &Channel) -> (Vec<u8>, Vec<u8>, Option<Outcome>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((stream, data)) = channel.read_either().await {
        match stream {
            Stream::Out => out.extend_from_slice(&data),
            Stream::Err => err.extend_from_slice(&data),
        }
    }
    (out, err, channel.outcome().await)
}

fn noise(bytes: usize) -> Bytes {
    let mut noise = vec![0; bytes];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    noise.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_of_host_and_user() {
    for (at, kind) in
        [vec!["-t", "ed25519"], vec!["-t", "ecdsa", "-b", "256"], vec!["-t", "ecdsa", "-b", "384"], vec!["-t", "rsa", "-b", "2048"]].iter().enumerate()
    {
        let Some(server) = Server::start(&format!("kinds-{at}"), kind, "").await else { return };
        let connection = server.connect(server.user_key(kind), server.host_keys()).await.unwrap();
        let channel = connection.exec("echo said; echo wrong >&2; exit 7").await;
        assert_eq!(read_all(&channel).await, (b"said\n".to_vec(), b"wrong\n".to_vec(), Some(Outcome::Status(7))), "{kind:?}");
    }
    let Some(server) =
        Server::start("kinds-sha256", &["-t", "rsa", "-b", "3072"], "PubkeyAcceptedAlgorithms rsa-sha2-256\nHostKeyAlgorithms rsa-sha2-256").await
    else {
        return;
    };
    let connection = server.connect(server.user_key(&["-t", "rsa", "-b", "3072"]), server.host_keys()).await.unwrap();
    assert_eq!(read_all(&connection.exec("true").await).await.2, Some(Outcome::Status(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cipher_and_exchange() {
    for (at, more) in [
        "Ciphers aes128-gcm@openssh.com\nKexAlgorithms curve25519-sha256",
        "Ciphers aes256-gcm@openssh.com\nKexAlgorithms ecdh-sha2-nistp256",
        "Ciphers chacha20-poly1305@openssh.com\nKexAlgorithms curve25519-sha256@libssh.org",
        "VersionAddendum with words\nMaxSessions 2\nBanner /etc/hostname",
    ]
    .iter()
    .enumerate()
    {
        let Some(server) = Server::start(&format!("ciphers-{at}"), &["-t", "ed25519"], more).await else { return };
        let connection = server.connect(server.user_key(&["-t", "ed25519"]), server.host_keys()).await.unwrap();
        assert_eq!(read_all(&connection.exec("echo $0").await).await.2, Some(Outcome::Status(0)), "{more}");
    }
    let Some(server) = Server::start("ciphers-none", &["-t", "ed25519"], "Ciphers aes256-ctr").await else { return };
    let error = server.connect(server.user_key(&["-t", "ed25519"]), server.host_keys()).await.err().unwrap();
    assert_eq!(error.to_string(), "no cipher in common");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_is_refused_on_either_side() {
    let Some(server) = Server::start("refused", &["-t", "ed25519"], "").await else { return };
    let wrong_host = HostKeys::of([format!("* {}", server.make_key("other", &["-t", "ed25519"]).1).as_str()], &["127.0.0.1"], server.address.port());
    let error = server.connect(server.user_key(&["-t", "ed25519"]), wrong_host).await.err().unwrap();
    assert!(matches!(error, ConnectError::HostKey(HostKeyError::Other(_))), "{error}");
    let error = server.connect(server.user_key(&["-t", "ed25519"]), HostKeys::default()).await.err().unwrap();
    assert!(matches!(error, ConnectError::HostKey(HostKeyError::NoneKnown)), "{error}");
    let unknown = PrivateKey::from_pem(&server.make_key("unknown", &["-t", "rsa", "-b", "2048"]).0, None).unwrap();
    let error = server.connect(unknown, server.host_keys()).await.err().unwrap();
    assert!(matches!(error, ConnectError::Denied), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_can_ask_for() {
    let Some(server) = Server::start("requests", &["-t", "ed25519"], "").await else { return };
    let connection = server.connect(server.user_key(&["-t", "ed25519"]), server.host_keys()).await.unwrap();
    let channel = connection.opener.session().await.unwrap();
    let pty = PtyRequest { term: "vt100".into(), cols: 77, rows: 11, modes: vec![53, 0, 0, 0, 0, 0] };
    assert!(channel.request(&Request::Pty(pty), true).await.unwrap());
    assert!(channel.request(&Request::Env { name: "SHOWN".into(), value: "yes".into() }, true).await.unwrap());
    assert!(!channel.request(&Request::Env { name: "HIDDEN".into(), value: "yes".into() }, true).await.unwrap());
    let command = "stty size; echo $TERM $SHOWN; read line; stty size; stty -a | grep -o -e '-echo '; read line";
    assert!(channel.request(&Request::Exec(command.into()), true).await.unwrap());
    let mut said = String::new();
    while !said.contains("yes") {
        said.push_str(&String::from_utf8_lossy(&channel.read().await.unwrap()));
    }
    assert_eq!(said, "11 77\r\nvt100 yes\r\n");
    channel.request(&Request::Resize { cols: 99, rows: 22 }, false).await.unwrap();
    channel.write(Stream::Out, Bytes::from_static(b"go\n")).await.unwrap();
    said.clear();
    while !said.contains("-echo") {
        said.push_str(&String::from_utf8_lossy(&channel.read().await.unwrap()));
    }
    assert!(said.starts_with("22 99\r\n"), "{said}");
    channel.write(Stream::Out, Bytes::from_static(b"go\n")).await.unwrap();
    assert_eq!(read_all(&channel).await.2, Some(Outcome::Status(0)));

    let channel = connection.exec("kill -TERM $$").await;
    assert_eq!(read_all(&channel).await.2, Some(Outcome::Signal("TERM".into())));

    let channel = connection.opener.session().await.unwrap();
    assert!(!channel.request(&Request::Subsystem("none".into()), true).await.unwrap());
    let channel = connection.opener.session().await.unwrap();
    assert!(channel.request(&Request::Subsystem("sftp".into()), true).await.unwrap());
    channel.write(Stream::Out, Bytes::from_static(&[0, 0, 0, 5, 1, 0, 0, 0, 3])).await.unwrap();
    assert_eq!(channel.read().await.unwrap()[4], 2, "SSH_FXP_VERSION");

    let mut open = Vec::new();
    let refused = loop {
        match connection.opener.session().await {
            Ok(channel) => open.push(channel),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, NotOpened::Refused(_)) && open.len() < 12, "{refused}");
    open.clear();
    drop(channel);
    assert_eq!(read_all(&connection.exec("echo still").await).await.0, b"still\n");
}

/// Much both ways at once, while another channel of the same connection stands still.
async fn through_cat(connection: &Connection, bytes: usize) {
    let stalled = connection.exec("cat /dev/zero").await;
    let channel = connection.exec("cat").await;
    let input = noise(bytes);
    let writing = async {
        channel.write(Stream::Out, input.clone()).await.unwrap();
        channel.end();
    };
    let ((out, _, outcome), ()) = tokio::join!(read_all(&channel), writing);
    assert_eq!(outcome, Some(Outcome::Status(0)));
    assert!(out == input);
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_through_both_ways() {
    let Some(server) = Server::start("much", &["-t", "ed25519"], "").await else { return };
    let connection = server.connect(server.user_key(&["-t", "ed25519"]), server.host_keys()).await.unwrap();
    through_cat(&connection, 100 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_in_between() {
    let Some(server) = Server::start("rekey", &["-t", "rsa", "-b", "2048"], "RekeyLimit 1M").await else { return };
    let connection = server.connect(server.user_key(&["-t", "ed25519"]), server.host_keys()).await.unwrap();
    through_cat(&connection, 16 << 20).await;
}

struct Everybody;

impl Doorkeeper for Everybody {
    async fn admits(&self, user: &str, _key: &PublicKey) -> bool {
        user == "somebody"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_server() {
    let host_key = HostKey::from_pkcs8(&HostKey::generate().unwrap()).unwrap();
    let host_keys = HostKeys::of([format!("here {}", host_key.line()).as_str()], &["here"], 22);
    let settings = Arc::new(Settings { host_key, software: "Test" });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (_, session) = login(listener.accept().await.unwrap().0, settings, &Everybody).await.unwrap();
        let open = |open: sandbar_ssh::Open| {
            tokio::spawn(async move {
                let channel = open.accept().unwrap();
                let mut signal = None;
                while let Some(Event::Request { request, wants_reply }) = channel.event().await {
                    if wants_reply {
                        channel.answer(matches!(request, Request::Exec(_)));
                    }
                    match request {
                        Request::Exec(_) => break,
                        Request::Signal(name) => signal = Some(name),
                        _ => {}
                    }
                }
                channel.write(Stream::Err, Bytes::from_static(b"began")).await.unwrap();
                while let Some(data) = channel.read().await {
                    channel.write(Stream::Out, data).await.unwrap();
                }
                channel.exit(Outcome::Signal(signal.unwrap()));
                channel.end();
            });
        };
        session.run(open, std::future::pending()).await.unwrap();
    });
    let key = ring_key();
    let account = Account { software: "Test", user: "somebody".into(), key, host_keys };
    let connection = Connection::run(connect(TcpStream::connect(address).await.unwrap(), account).await.unwrap());
    let channel = connection.opener.session().await.unwrap();
    assert!(!channel.request(&Request::Shell, true).await.unwrap());
    assert!(channel.request(&Request::Signal("KILL".into()), false).await.unwrap());
    assert!(channel.request(&Request::Exec(b"x".to_vec()), true).await.unwrap());
    let input = noise(8 << 20);
    let writing = async {
        channel.write(Stream::Out, input.clone()).await.unwrap();
        channel.end();
    };
    let ((out, err, outcome), ()) = tokio::join!(read_all(&channel), writing);
    assert_eq!((err, outcome), (b"began".to_vec(), Some(Outcome::Signal("KILL".into()))));
    assert!(out == input);
}

/// A fresh key in PKCS#8.
fn ring_key() -> PrivateKey {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(HostKey::generate().unwrap()));
    PrivateKey::from_pem(&pem, None).unwrap()
}
