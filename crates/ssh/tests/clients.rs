//! OpenSSH's client against a server that gives back what it is sent.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use sandbar_ssh::{Doorkeeper, Event, HostKey, Open, OpenKind, Outcome, PublicKey, Refusal, Request, Settings, Stream, login};
use tokio::net::TcpListener;

struct Only(PublicKey);

impl Doorkeeper for Only {
    async fn admits(&self, user: &str, key: &PublicKey) -> bool {
        user == "somebody" && *key == self.0
    }
}

/// A folder with keys, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sandbar-ssh-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn key(&self, kind: &[&str]) -> PublicKey {
        let path = self.0.join("key");
        let _ = std::fs::remove_file(&path);
        let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-f"]).arg(&path).args(kind).status().unwrap();
        assert!(made.success());
        PublicKey::from_line(&std::fs::read_to_string(path.with_extension("pub")).unwrap()).unwrap().0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn echo(open: Open) {
    if open.kind != OpenKind::Session {
        return open.refuse(Refusal::Prohibited, "sessions only");
    }
    let Some(channel) = open.accept() else { return };
    loop {
        match channel.event().await {
            Some(Event::Request { request: Request::Exec(command), wants_reply }) => {
                if wants_reply {
                    channel.answer(true);
                }
                channel.write(Stream::Err, command.into()).await.unwrap();
                break;
            }
            Some(Event::Request { wants_reply, .. }) if wants_reply => channel.answer(false),
            Some(_) => {}
            None => return,
        }
    }
    while let Some(data) = channel.read().await {
        if channel.write(Stream::Out, data).await.is_err() {
            return;
        }
    }
    channel.exit(Outcome::Status(7));
    channel.end();
}

async fn serve(key: PublicKey) -> SocketAddr {
    let host_key = HostKey::from_pkcs8(&HostKey::generate().unwrap()).unwrap();
    let settings = Arc::new(Settings { host_key, software: "Test" });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Arc::new(Only(key));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (settings, door) = (Arc::clone(&settings), Arc::clone(&door));
            tokio::spawn(async move {
                let Ok((_, session)) = login(stream, settings, &*door).await else { return };
                let open = |open| {
                    tokio::spawn(echo(open));
                };
                let _ = session.run(open, std::future::pending()).await;
            });
        }
    });
    address
}

fn ssh(folder: &Path, address: SocketAddr, more: &[&str]) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"]);
    command.arg("-i").arg(folder.join("key")).args(["-p", &address.port().to_string()]).args(more);
    command
}

fn run(mut command: Command, input: Vec<u8>) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    noise
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_and_cipher() {
    for (at, (kind, options)) in [
        (vec!["-t", "ed25519"], vec!["-o", "Ciphers=chacha20-poly1305@openssh.com"]),
        (vec!["-t", "ecdsa", "-b", "256"], vec!["-o", "Ciphers=aes256-gcm@openssh.com", "-o", "KexAlgorithms=ecdh-sha2-nistp256"]),
        (vec!["-t", "ecdsa", "-b", "384"], vec!["-o", "Ciphers=aes128-gcm@openssh.com", "-o", "KexAlgorithms=curve25519-sha256@libssh.org"]),
        (vec!["-t", "rsa", "-b", "2048"], vec![]),
        (vec!["-t", "rsa", "-b", "3072"], vec!["-o", "PubkeyAcceptedAlgorithms=rsa-sha2-256"]),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = Folder::new(&format!("kinds-{at}"));
        let address = serve(folder.key(&kind)).await;
        let input = noise(300_000);
        let mut command = ssh(&folder.0, address, &options);
        command.args(["somebody@127.0.0.1", "say this"]);
        let output = run(command, input.clone());
        assert_eq!(output.status.code(), Some(7), "{kind:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stderr, b"say this");
        assert!(output.stdout == input, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_wrong_user_look_alike() {
    let folder = Folder::new("wrong");
    let right = folder.key(&["-t", "ed25519"]);
    let address = serve(right).await;
    let mut unknown = ssh(&folder.0, address, &[]);
    unknown.args(["nobody@127.0.0.1", "x"]);
    let unknown = run(unknown, Vec::new());
    folder.key(&["-t", "ed25519"]);
    let mut wrong = ssh(&folder.0, address, &[]);
    wrong.args(["somebody@127.0.0.1", "x"]);
    let wrong = run(wrong, Vec::new());
    assert_eq!((unknown.status.code(), wrong.status.code()), (Some(255), Some(255)));
    assert_eq!(String::from_utf8_lossy(&unknown.stderr).replace("nobody", "somebody"), String::from_utf8_lossy(&wrong.stderr));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("Permission denied (publickey)"));
}

/// Much both ways, read slowly, and with new keys every megabyte: each direction goes on while the other waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_itself_alone() {
    let folder = Folder::new("slow");
    let address = serve(folder.key(&["-t", "ed25519"])).await;
    let input = noise(24 << 20);
    let mut command = ssh(&folder.0, address, &["-o", "RekeyLimit=1M"]);
    command.args(["somebody@127.0.0.1", "x"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let sent = input.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut read = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            length => read.extend_from_slice(&buffer[..length]),
        }
        if read.len() < 4 << 20 {
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }
    writing.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(read == input);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_ssh_is_sent_away() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = Folder::new("noise");
    let address = serve(folder.key(&["-t", "ed25519"])).await;
    for bytes in [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), noise(4096), [b"SSH-2.0-x\r\n".to_vec(), noise(4096)].concat(), vec![b'a'; 100_000]] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let end = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "the connection ends");
    }
}
