//! A real registry on loopback, images made by hand, and a wire that breaks.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    harness::free_address,
    http::{Api, eventually},
};

/// `docker-registry` with storage in a folder of the test.
pub struct Registry {
    child: Child,
    pub addr: SocketAddr,
    dir: PathBuf,
}

impl Registry {
    /// With a user and password when `login` is given.
    pub fn start(dir: &Path, login: Option<(&str, &str)>) -> Self {
        let addr = free_address();
        fs::create_dir_all(dir).unwrap();
        let mut config = format!("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {addr}\n", dir.join("storage").display());
        if let Some((user, password)) = login {
            let hash = Command::new("python3").args(["-c", BCRYPT, password]).output().unwrap();
            assert!(hash.status.success(), "{}", String::from_utf8_lossy(&hash.stderr));
            fs::write(dir.join("htpasswd"), format!("{user}:{}\n", String::from_utf8_lossy(&hash.stdout).trim())).unwrap();
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", dir.join("htpasswd").display()));
        }
        fs::write(dir.join("config.yml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed (packaging/prerequisites.sh test)");
        eventually("the registry", Duration::from_secs(20), || TcpStream::connect(addr).map(drop).map_err(|error| error.to_string()));
        Self { child, addr, dir: dir.to_owned() }
    }

    /// Pushes an archive with an OCI layout.
    pub fn push(&self, archive: &[u8], name: &str, more: &[&str]) {
        let path = self.dir.join("push.tar");
        fs::write(&path, archive).unwrap();
        let pushed = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .args(more)
            .arg(format!("oci-archive:{}", path.display()))
            .arg(format!("docker://{}/{name}", self.addr))
            .output()
            .expect("skopeo is installed");
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    }

    /// Where the registry keeps a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.dir.join(format!("storage/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints a bcrypt hash, the only kind that the registry takes, by the C library.
const BCRYPT: &str = "import ctypes, sys\nl = ctypes.CDLL('libcrypt.so.1'); l.crypt.restype = ctypes.c_char_p\nprint(l.crypt(sys.argv[1].encode(), b'$2b$05$abcdefghijklmnopqrstuu').decode())";

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar by hand, for a layer or an archive.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn entry(mut self, kind: u8, name: &str, link: &str, mode: u32, contents: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name.as_bytes());
        raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
        raw[156] = kind;
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "", 0o755, b"")
    }

    pub fn file(self, name: &str, contents: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, contents)
    }

    pub fn done(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An image by hand.
pub struct Image {
    pub layers: Vec<Vec<u8>>,
    pub architecture: &'static str,
    pub env: Vec<&'static str>,
}

impl Image {
    pub fn of(layers: Vec<Vec<u8>>) -> Self {
        Self { layers, architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, env: vec!["FROM_IMAGE=yes"] }
    }

    pub fn config(&self) -> String {
        let ids: Vec<_> = self.layers.iter().map(|layer| digest(layer)).collect();
        json!({ "architecture": self.architecture, "os": "linux", "config": { "Env": self.env }, "rootfs": { "type": "layers", "diff_ids": ids } }).to_string()
    }

    pub fn manifest(&self) -> String {
        let config = self.config();
        let layer = |bytes: &Vec<u8>| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(bytes), "size": bytes.len() });
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len() },
            "layers": self.layers.iter().map(layer).collect::<Vec<_>>() })
        .to_string()
    }

    /// As an OCI layout in a tar.
    pub fn layout(&self, name: &str) -> Vec<u8> {
        layout(&[self], name, false)
    }
}

/// Images in one OCI layout; as one list for several machines when `listed`.
pub fn layout(images: &[&Image], name: &str, listed: bool) -> Vec<u8> {
    let blob = |tar: Tar, bytes: &[u8]| tar.file(&format!("blobs/sha256/{}", &digest(bytes)[7..]), bytes);
    let mut tar = Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut entries = Vec::new();
    for image in images {
        let (config, manifest) = (image.config(), image.manifest());
        for bytes in image.layers.iter().map(Vec::as_slice).chain([config.as_bytes(), manifest.as_bytes()]) {
            tar = blob(tar, bytes);
        }
        entries.push(descriptor(&manifest, Some(image.architecture)));
    }
    let named = |mut entry: Value| {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entry
    };
    let top = if listed {
        let list = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries }).to_string();
        tar = blob(tar, list.as_bytes());
        let mut entry = descriptor(&list, None);
        entry["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
        vec![named(entry)]
    } else {
        entries.into_iter().map(named).collect()
    };
    tar.file("index.json", json!({ "schemaVersion": 2, "manifests": top }).to_string().as_bytes()).done()
}

fn descriptor(text: &str, architecture: Option<&str>) -> Value {
    let mut entry = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(text.as_bytes()), "size": text.len() });
    if let Some(architecture) = architecture {
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
    }
    entry
}

/// A wire to somewhere that breaks each connection after so many bytes to the client.
pub struct BadWire {
    pub addr: SocketAddr,
    pub passed: Arc<AtomicU64>,
    limit: Arc<AtomicU64>,
}

impl BadWire {
    pub fn to(target: SocketAddr, limit: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self { addr: listener.local_addr().unwrap(), passed: Arc::default(), limit: Arc::new(AtomicU64::new(limit)) };
        let (passed, limit) = (Arc::clone(&wire.passed), Arc::clone(&wire.limit));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { continue };
                let (passed, limit) = (Arc::clone(&passed), limit.load(Ordering::SeqCst));
                let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut up, &mut to));
                thread::spawn(move || carry(server, client, limit, &passed));
            }
        });
        wire
    }

    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, limit: u64, passed: &AtomicU64) {
    let (mut left, mut buffer) = (limit, vec![0u8; 16 << 10]);
    while left > 0 {
        let Ok(read @ 1..) = from.read(&mut buffer) else { break };
        let part = usize::try_from(left.min(read as u64)).unwrap();
        if to.write_all(&buffer[..part]).is_err() {
            break;
        }
        left -= part as u64;
        passed.fetch_add(part as u64, Ordering::SeqCst);
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// What a made-up registry answers: status, headers, body.
pub type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// A server that says what it is told to, whatever that is.
pub struct Fake {
    pub addr: SocketAddr,
    /// Heads of all requests.
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// `answer` gets the path and the whole head of a request.
    pub fn start(answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self { addr: listener.local_addr().unwrap(), seen: Arc::default() };
        let (seen, answer) = (Arc::clone(&fake.seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        fake
    }

    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &dyn Fn(&str, &str) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        head.push_str(&std::mem::take(&mut line));
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, headers, body) = answer(&path, &head);
    seen.lock().unwrap().push(head);
    let mut reply = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        reply.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = stream;
    let _ = stream.write_all(reply.as_bytes()).and_then(|()| stream.write_all(b"\r\n")).and_then(|()| stream.write_all(&body));
}

/// All lines of a pull or build.
pub fn lines(api: &Api, verb: &str, body: Value) -> Vec<Value> {
    let reply = api.post(&format!("/api/v1/images/{verb}"), body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The image that a pull or build ends with.
#[track_caller]
pub fn made(api: &Api, verb: &str, body: Value) -> Value {
    let last = lines(api, verb, body).pop().expect("a last line");
    assert_eq!(last["type"], "done", "{last}");
    last["image"].clone()
}

/// Why a pull or build failed.
#[track_caller]
pub fn refused(api: &Api, verb: &str, body: Value) -> String {
    let last = lines(api, verb, body).pop().expect("a last line");
    assert_eq!(last["type"], "error", "{last}");
    last["message"].as_str().unwrap().to_owned()
}
