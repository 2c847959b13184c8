//! SSH with OpenSSH's own clients, and what is built on them.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    harness::{Sandbox, Server, free_address, shared},
    http::Api,
};

mod door;
mod files;
mod forward;
mod life;
mod session;

const KEYS: &str = "/users/me/ssh-keys";

/// A server that lets people in by SSH, shared by the tests that run at this time.
struct Ground {
    server: Server,
    port: u16,
}

fn ground() -> Arc<Ground> {
    static SHARED: Mutex<Weak<Ground>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let address = free_address();
        let server = Server::start_with(&[("SANDBAR_SSH_LISTEN", &address.to_string()), ("SANDBAR_REGISTRATION", "true"), ("SANDBAR_POOL_MIN_IDLE", "2")]);
        let ground = Arc::new(Ground { server, port: address.port() });
        *shared = Arc::downgrade(&ground);
        ground
    })
}

/// A key pair in a folder of its own, and what else a test writes; removed at the end.
struct Me {
    dir: PathBuf,
    /// The key's id at the server.
    id: String,
}

impl Me {
    /// Makes a key and adds it for the owner of an API key.
    fn with_key(ground: &Ground, api: &Api) -> Self {
        Self::with_key_at(ground.port, api)
    }

    fn with_key_at(port: u16, api: &Api) -> Self {
        let mut me = Self::stranger_at(port);
        me.id = api.post(KEYS, json!({ "name": "test", "public_key": me.public_key() })).ok(201)["id"].as_str().unwrap().to_owned();
        me
    }

    /// With a key that nobody knows.
    fn stranger(ground: &Ground) -> Self {
        Self::stranger_at(ground.port)
    }

    fn stranger_at(port: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("sandbar-ssh-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join("key")));
        let me = Self { dir, id: String::new() };
        let config = format!(
            "Host *\n HostName 127.0.0.1\n Port {}\n IdentityFile {}\n IdentitiesOnly yes\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n",
            port,
            me.dir.join("key").display(),
        );
        fs::write(me.dir.join("config"), config).unwrap();
        me
    }

    fn public_key(&self) -> String {
        fs::read_to_string(self.dir.join("key.pub")).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn config(&self) -> String {
        self.path("config").display().to_string()
    }

    /// A client of OpenSSH, with this key.
    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", &self.config()]).stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// `ssh ID ARGUMENTS`.
    fn ssh(&self, sandbox: &Sandbox, arguments: &[&str]) -> Command {
        let mut command = self.client("ssh");
        command.arg(format!("{}@sandbox", sandbox.id)).args(arguments);
        command
    }

    /// Standard output of a command that has to succeed.
    #[track_caller]
    fn ok(&self, sandbox: &Sandbox, command: &str) -> String {
        let done = run(&mut self.ssh(sandbox, &[command]));
        String::from_utf8(done.stdout).unwrap()
    }

    /// The same with options before the sandbox.
    fn ssh_with(&self, options: &[&str], sandbox: &Sandbox, arguments: &[&str]) -> Command {
        let mut command = self.client("ssh");
        command.args(options).arg(format!("{}@sandbox", sandbox.id)).args(arguments);
        command
    }
}

impl Drop for Me {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs to a good end.
#[track_caller]
fn run(command: &mut Command) -> Output {
    let done = command.output().expect("it can be run");
    assert!(done.status.success(), "{command:?}: {} {}", done.status, String::from_utf8_lossy(&done.stderr));
    done
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run")
}

/// Runs with this input, which is written while the output is read.
fn feed(command: Command, input: Vec<u8>) -> Output {
    let mut child = spawn(command);
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
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    noise
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A team of its own with an API for it.
fn other_team(server: &Server) -> Api {
    let api = server.api();
    let email = format!("ssh-{}@example.com", hex::encode(noise(4)));
    let registered = api.anonymous().post("/auth/register", json!({ "email": email, "password": "correct horse battery", "name": "Other" }));
    let token = registered.value()["data"]["access_token"].as_str().expect("a login").to_owned();
    api.with_token(&token)
}

fn wait_within(child: &mut Child, within: Duration) -> std::process::ExitStatus {
    super::http::eventually("the end of a client", within, || child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()))
}
