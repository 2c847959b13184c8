//! OpenSSH and git of the sandbox, OpenSSH's server outside, and a key between them that the sandbox does not have.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};

use sandbar_core::credential::Material;

use super::zone::Zone;
use super::*;
use crate::egress::sources::{Source, Version};

const SSHD: &str = "/usr/sbin/sshd";
const PASSPHRASE: &str = "of nobody else";

/// A folder for both sides: what the sandbox has is in `inside`.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sandbar-ssh-proxy-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("inside")).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The private key and the public one.
    fn key(&self, name: &str, kind: &[&str], passphrase: &str) -> (String, String) {
        let path = self.0.join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-N", passphrase, "-C", "", "-f"]).arg(&path).args(kind).status();
        assert!(made.unwrap().success());
        (fs::read_to_string(&path).unwrap(), fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A sandbox that may speak SSH with git.test, and that server.
struct Place {
    folder: Folder,
    bench: Bench,
    server: Child,
    to: SocketAddr,
    host_line: String,
    sandbox_key: String,
    server_key: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// `None` without root or without OpenSSH.
async fn place(name: &str, kind: &[&str], more: &str) -> Option<Place> {
    if !Path::new(SSHD).exists() {
        eprintln!("skipped: needs {SSHD}");
        return None;
    }
    let zone = Zone::serve().await;
    let bench = bench(Policy::block_all(), vec![zone.addr]).await?;
    let IpAddr::V4(ours) = bench.to.ip() else { return None };
    zone.at("git.test", ours);
    zone.at("other.test", ours);
    let folder = Folder::new(name);
    let port = TcpListener::bind((ours, 0)).unwrap().local_addr().unwrap().port();
    let (_, host_line) = folder.key("host", kind, "");
    let (_, sandbox_key) = folder.key("inside/key", kind, "");
    let (server_key, public) = folder.key("key", kind, PASSPHRASE);
    fs::write(folder.0.join("authorized"), public).unwrap();
    let (host, authorized) = (folder.at("host"), folder.at("authorized"));
    let config = format!(
        "Port {port}\nListenAddress {ours}\nHostKey {host}\nAuthorizedKeysFile {authorized}\nPidFile none\nStrictModes no\nUsePAM no\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\nLogLevel ERROR\nAcceptEnv SHOWN\nSubsystem sftp internal-sftp\n{more}\n"
    );
    fs::write(folder.0.join("config"), config).unwrap();
    // Debian's server, run by root, wants it; its service makes it.
    let _ = fs::create_dir_all("/run/sshd");
    let server = Command::new(SSHD).args(["-D", "-e", "-f"]).arg(folder.0.join("config")).stderr(Stdio::null()).spawn().unwrap();
    let to = SocketAddr::from((ours, port));
    let place = Place { folder, bench, server, to, host_line: format!("git.test {host_line}"), sandbox_key, server_key };
    let begun = Instant::now();
    while TcpStream::connect(to).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "sshd does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let known = place.bench.egress.authority().known_hosts(["git.test"]).join("\n");
    fs::write(place.folder.0.join("inside/known_hosts"), known + "\n").unwrap();
    place.give(place.network(&place.sandbox_key, &place.host_line), Some(place.material())).await;
    assert_eq!(inside(&place.bench.netns, || resolve("git.test")).await.0, 0);
    Some(place)
}

impl Place {
    fn network(&self, sandbox_key: &str, host_line: &str) -> Value {
        let projection = json!({"type": "ssh_proxy", "sshProxy": {"sandboxPublicKeys": [sandbox_key], "upstreamUsername": "root", "knownHosts": [host_line]}});
        json!({
            "mode": "block-all",
            "egress": {
                "trafficRules": [{"name": "git", "action": "allow", "domains": ["git.test"]}],
                "credentialRules": [{"name": "key", "credentialRef": "secret", "protocol": "ssh", "domains": ["git.test"], "ports": [{"port": self.to.port(), "protocol": "tcp"}]}],
            },
            "credentialBindings": [{"ref": "secret", "sourceRef": "source", "projection": projection}],
        })
    }

    fn material(&self) -> Material {
        Material::SshPrivateKey { private_key_pem: self.server_key.clone(), passphrase: Some(PASSPHRASE.to_owned()) }
    }

    async fn give(&self, network: Value, material: Option<Material>) {
        let source = Arc::new(Source::default());
        source.put(Version { made_at_ms: 1, number: 1 }, material);
        let sources = [("source".to_owned(), source)].into_iter().collect();
        self.bench.handle.set_policy(Terms { policy: policy(network), sources }).await.unwrap();
    }

    /// The command with which the sandbox's client connects, without what it is to do.
    fn ssh(&self, more: &[&str]) -> Vec<String> {
        let (known, key) = (self.folder.at("inside/known_hosts"), self.folder.at("inside/key"));
        let options = [
            "StrictHostKeyChecking=yes".to_owned(),
            format!("UserKnownHostsFile={known}"),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "BatchMode=yes".to_owned(),
            format!("Hostname={}", self.to.ip()),
            "HostKeyAlias=git.test".to_owned(),
        ];
        let mut command = vec!["ssh".to_owned(), "-F".to_owned(), "none".to_owned(), "-i".to_owned(), key, "-p".to_owned(), self.to.port().to_string()];
        command.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        command.extend(more.iter().map(|&more| more.to_owned()));
        command
    }

    /// Runs a client inside, with this to read.
    async fn run(&self, command: Vec<String>, input: Vec<u8>) -> Output {
        let git_ssh: String = self.ssh(&[]).join(" ");
        let home = self.folder.at("inside");
        inside(&self.bench.netns, move || {
            let mut child = Command::new(&command[0])
                .args(&command[1..])
                .env("GIT_SSH_COMMAND", git_ssh)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("SHOWN", "shown")
                .env_remove("SSH_AUTH_SOCK")
                .current_dir(home)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
            let output = child.wait_with_output().unwrap();
            writing.join().unwrap();
            output
        })
        .await
    }

    async fn exec(&self, more: &[&str], input: &[u8]) -> Output {
        self.run(self.ssh(more), input.to_vec()).await
    }

    /// Runs a client that is refused, and says what it was told.
    async fn refused(&self) -> String {
        let output = self.exec(&["git@git.test", "true"], b"").await;
        assert_eq!(output.status.code(), Some(255));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains(&self.server_key[100..140]) && !text.contains(PASSPHRASE), "{text}");
        text
    }

    /// Why the last client was refused, which may be written down a moment after the client has gone.
    async fn last_rule(&self) -> String {
        let begun = Instant::now();
        loop {
            let last = self.bench.handle.decisions().pop().unwrap();
            if last.decision == "deny" || begun.elapsed() > Duration::from_secs(5) {
                assert_eq!((last.decision, last.app, last.host.as_deref()), ("deny", Some("ssh"), Some("git.test")));
                return last.rule;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    noise
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_clones_and_pushes() {
    let Some(place) = place("git", &["-t", "ed25519"], "").await else { return };
    let git = |arguments: &[&str]| ["git"].iter().chain(arguments).map(|&text| text.to_owned()).collect::<Vec<String>>();
    let server = place.folder.at("repo.git");
    assert!(Command::new("git").args(["init", "-q", "--bare", "-b", "main", &server]).status().unwrap().success());
    let url = format!("ssh://git@git.test{server}");
    let does = |output: Output| assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    does(place.run(git(&["clone", "-q", &url, "one"]), Vec::new()).await);
    fs::write(place.folder.0.join("inside/one/file"), noise(3 << 20)).unwrap();
    does(place.run(git(&["-C", "one", "add", "file"]), Vec::new()).await);
    does(place.run(git(&["-C", "one", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]), Vec::new()).await);
    does(place.run(git(&["-C", "one", "push", "-q", "origin", "HEAD:main"]), Vec::new()).await);
    does(place.run(git(&["clone", "-q", &url, "two"]), Vec::new()).await);
    let file = |name: &str| fs::read(place.folder.0.join("inside").join(name).join("file")).unwrap();
    assert!(file("one") == file("two"));
    let decisions = place.bench.handle.decisions();
    let last = decisions.last().unwrap();
    assert_eq!((last.decision, last.app, last.host.as_deref()), ("allow", Some("ssh"), Some("git.test")));
    assert!(last.received_bytes > 3 << 20, "{last:?}");
    // The server's key is no key for the sandbox's own connection, and the sandbox's none for the server.
    let direct = Command::new("ssh").args(&place.ssh(&["-o", "StrictHostKeyChecking=no", "root@git.test", "true"])[1..]).output().unwrap();
    assert_eq!(direct.status.code(), Some(255));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_what_they_are_at_the_server() {
    for (at, kind) in [vec!["-t", "rsa", "-b", "3072"], vec!["-t", "ecdsa", "-b", "384"]].iter().enumerate() {
        let Some(place) = place(&format!("sessions-{at}"), kind, "RekeyLimit 1M").await else { return };
        let output = place.exec(&["-o", "SendEnv=SHOWN", "git@git.test", "cat; echo wrong >&2; echo $SHOWN; exit 7"], b"said ").await;
        assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(7), &b"said shown\n"[..], &b"wrong\n"[..]), "{kind:?}");
        let killed = place.exec(&["git@git.test", "kill -KILL $$"], b"").await;
        assert_eq!(killed.status.code(), Some(255));
        let output = place.exec(&["-tt", "git@git.test", "stty size; tty"], b"").await;
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("0 0\r\n/dev/pts/"), "{output:?}");

        let input = noise(24 << 20);
        let output = place.exec(&["-o", "RekeyLimit=1M", "git@git.test", "cat"], &input).await;
        assert!(output.status.success() && output.stdout == input, "{kind:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// 100 MB both ways at once, while another session of the same connection is not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_stands_still_holds_up_no_other() {
    let Some(place) = place("shared", &["-t", "ed25519"], "").await else { return };
    let control = format!("ControlPath={}", place.folder.at("c"));
    let master = place.ssh(&["-o", &control, "-o", "ControlMaster=yes", "git@git.test", "cat /dev/zero"]);
    let mut master = inside(&place.bench.netns, move || Command::new(&master[0]).args(&master[1..]).stdout(Stdio::piped()).spawn().unwrap()).await;
    let begun = Instant::now();
    while !place.folder.0.join("c").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the first session is there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let input = noise(100 << 20);
    let output = place.exec(&["-o", &control, "git@git.test", "cat"], &input).await;
    let got = (output.status.code(), output.stdout.len(), String::from_utf8_lossy(&output.stderr));
    assert_eq!(got, (Some(0), input.len(), "".into()));
    assert!(output.stdout == input);
    // Only sessions go through.
    let output = place.exec(&["-o", &control, "-O", "check", "git@git.test"], b"").await;
    assert!(output.status.success());
    let output = place.exec(&["-W", "127.0.0.1:22", "git@git.test"], b"").await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("forwarding does not go through to the server"), "{output:?}");
    master.kill().unwrap();
    master.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_known_is_refused() {
    let Some(place) = place("refused", &["-t", "ed25519"], "").await else { return };
    let (other_key, other) = place.folder.key("other", &["-t", "ed25519"], "");
    let network = |key: &str, host: &str| place.network(key, host);
    let ours = |network: Value| place.give(network, Some(place.material()));

    ours(network(&other, &place.host_line)).await;
    assert!(place.refused().await.contains("Permission denied (publickey)"));
    assert_eq!(place.last_rule().await, "egress.credentialRules[0] `key` (the client showed no key of sandboxPublicKeys)");

    ours(network(&place.sandbox_key, &format!("git.test {other}"))).await;
    let text = place.refused().await;
    assert!(text.contains("(knownHosts: the server's host key (SHA256:") && text.contains("is not the one of known_hosts"), "{text}");
    assert!(place.last_rule().await.contains("is not the one of known_hosts"));
    ours(network(&place.sandbox_key, &place.host_line.replace("git.test", "hub.test"))).await;
    assert!(place.refused().await.contains("no line of known_hosts that can be used is for the host"));

    let good = network(&place.sandbox_key, &place.host_line);
    for (material, reason) in [
        (None, "its credential source cannot be opened"),
        (Some(Material::SshPrivateKey { private_key_pem: other_key, passphrase: None }), "the server does not take the key for this user"),
        (Some(Material::SshPrivateKey { private_key_pem: place.server_key.clone(), passphrase: Some("wrong".to_owned()) }), "is not opened by its passphrase"),
        (Some(Material::SshPrivateKey { private_key_pem: "PRIVATE".to_owned(), passphrase: None }), "is no private key in PEM"),
    ] {
        place.give(good.clone(), material).await;
        let text = place.refused().await;
        assert!(text.contains(reason), "{text}");
        assert!(place.last_rule().await.contains(reason));
    }
    // Who fails open goes as itself, and is asked for the server's own key.
    let mut open = good.clone();
    open["egress"]["credentialRules"][0]["failurePolicy"] = "fail-open".into();
    place.give(open, None).await;
    assert!(place.refused().await.contains("Host key verification failed"));

    place.give(good, Some(place.material())).await;
    let again = place.exec(&["git@git.test", "echo again"], b"").await;
    assert_eq!(again.stdout, b"again\n", "{}", String::from_utf8_lossy(&again.stderr));
}

/// Where everything is allowed the server is connected to at once, and speaks at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_used_where_everything_is_allowed_too() {
    let Some(place) = place("open", &["-t", "ed25519"], "").await else { return };
    let mut network = place.network(&place.sandbox_key, &place.host_line);
    network["mode"] = "allow-all".into();
    network["egress"]["trafficRules"] = json!([]);
    place.give(network.clone(), Some(place.material())).await;
    for _ in 0..5 {
        let output = place.exec(&["git@git.test", "echo said"], b"").await;
        assert_eq!(output.stdout, b"said\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
    // Another name of the same address is another server.
    let to = place.to;
    let alias = place.ssh(&["-o", "StrictHostKeyChecking=no", "root@git.test", "true"]);
    network["egress"]["credentialRules"][0]["domains"] = json!(["elsewhere.test"]);
    place.give(network, Some(place.material())).await;
    let output = place.run(alias, Vec::new()).await;
    assert!(!output.status.success(), "{to}: the sandbox has no key of its own");
}

/// A policy that changes ends what was logged in by the former one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_rule_ends_the_connection() {
    let Some(place) = place("changed", &["-t", "ed25519"], "").await else { return };
    let command = place.ssh(&["git@git.test", "echo on; sleep 60"]);
    let mut child = inside(&place.bench.netns, move || Command::new(&command[0]).args(&command[1..]).stdout(Stdio::piped()).spawn().unwrap()).await;
    let mut said = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let (_, other) = place.folder.key("other", &["-t", "ed25519"], "");
    place.give(place.network(&other, &place.host_line), Some(place.material())).await;
    let begun = Instant::now();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(!status.success() && begun.elapsed() < Duration::from_secs(5), "{status}");
}
