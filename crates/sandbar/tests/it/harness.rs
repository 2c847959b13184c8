//! The real server as a child process: started, killed, started again, and everything of it cleaned away after.

use std::{
    fs::{self, File, OpenOptions},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, Once, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    http::{Api, encode, eventually},
    machine,
};

/// The first admin's key.
pub const TOKEN: &str = "s0_default_0123456789abcdef0123456789abcdef0123456789abcdef";
/// Stands in the server's environment and must be seen in no sandbox.
pub const SECRET: &str = "canary-7f3c9a1e5b";
/// A debug build on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const DIR_PREFIX: &str = "sandbar-it-";
pub const SANDBOXES: &str = "/api/v1/sandboxes";

/// A server with a data directory of its own.
pub struct Server {
    dir: PathBuf,
    addr: SocketAddr,
    env: Vec<(String, String)>,
    child: Option<Child>,
    pub instance: String,
    /// Just before the present process was started.
    pub started_at: SystemTime,
}

impl Server {
    /// Starts with more environment: `SANDBAR_...`.
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        Self::start_on(env, |_| {})
    }

    /// The same with a data directory that was prepared: what is mounted there is unmounted at the end.
    pub fn start_on(env: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        static ONCE: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ONCE.call_once(sweep_dead_runs);
        let dir = std::env::temp_dir().join(format!("{DIR_PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("data")).expect("a directory for the test");
        let dir = fs::canonicalize(dir).unwrap();
        let mut server = Self {
            instance: instance_of(&dir.join("data")),
            addr: free_address(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            child: None,
            dir,
            started_at: SystemTime::now(),
        };
        prepare(&server.data_dir());
        server.up();
        server
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn api(&self) -> Api {
        Api::new(self.addr, TOKEN)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Sandboxes that the server was told to keep idle.
    pub fn pool(&self) -> usize {
        self.env.iter().find(|(name, _)| name == "SANDBAR_POOL_MIN_IDLE").map_or(4, |(_, value)| value.parse().unwrap())
    }

    /// SIGKILL, and the corpse is fetched.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        signal(child.id(), Signal::TERM);
        match wait(&mut child, STOP_WITHIN) {
            Some(status) => status,
            None => {
                let log = self.log_tail();
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server did not stop within {STOP_WITHIN:?} of SIGTERM\n{log}")
            }
        }
    }

    /// Starts on the same data and port, and waits until it is ready.
    pub fn up(&mut self) {
        self.up_with(|_| {});
    }

    /// The same with something else about its process.
    pub fn up_with(&mut self, change: impl FnOnce(&mut Command)) {
        self.started_at = SystemTime::now();
        let mut command = self.command();
        change(&mut command);
        let mut child = command.spawn().expect("the server can be executed");
        fs::write(self.dir.join("server.pid"), child.id().to_string()).unwrap();
        let end = Instant::now() + START_WITHIN;
        loop {
            let ready = self.api().anonymous().try_send("GET", "/readyz", &[], b"");
            if ready.as_ref().is_ok_and(|reply| reply.status == 200) {
                break;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the server ended at its start: {status}\n{}", self.log_tail());
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server was not ready within {START_WITHIN:?}: {ready:?}\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
    }

    /// A second server on the same data: its exit status and what it said. Another port, so that only the data can be
    /// what it stumbles over.
    pub fn second(&self) -> (ExitStatus, String) {
        let path = self.dir.join("second.log");
        let log = File::create(&path).unwrap();
        let mut child = self.command().env("SANDBAR_LISTEN", free_address().to_string()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let status = wait(&mut child, START_WITHIN);
        let _ = child.kill();
        let _ = child.wait();
        (status.expect("a second server on the same data does not go on"), fs::read_to_string(path).unwrap())
    }

    /// All of the log since the first start.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("server.log")).unwrap_or_default()).into_owned()
    }

    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        format!("--- the server's log, {} ---\n{}", self.dir.display(), lines[lines.len().saturating_sub(60)..].join("\n"))
    }

    fn command(&self) -> Command {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("server.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        command
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SANDBAR_DATA_DIR", self.data_dir())
            .env("SANDBAR_LISTEN", self.addr.to_string())
            .env("SANDBAR_BOOTSTRAP_TOKEN", TOKEN)
            .env("HOST_SECRET", SECRET)
            // It is compiled once for all tests.
            .env("SANDBAR_SCRIPT_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/script-cache"))
            // One machine has one default port.
            .env("SANDBAR_SSH_LISTEN", "off")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Some(mut child) = self.child.take() {
            delete_all(&self.api());
            signal(child.id(), Signal::TERM);
            if wait(&mut child, Duration::from_secs(10)).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        clean(&self.dir, &self.instance);
    }
}

/// A server that all tests share which run at this time; the last one takes it down.
pub fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start_with(&[("SANDBAR_REGISTRATION", "true"), ("SANDBAR_POOL_MIN_IDLE", "2")]));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A sandbox, deleted when it is dropped.
pub struct Sandbox {
    pub api: Api,
    pub id: String,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Done {
    pub code: i64,
    pub stdout: String,
    pub context: Value,
}

impl Sandbox {
    #[track_caller]
    pub fn claim(api: &Api, config: Value) -> Self {
        Self::claim_from(api, "default", config)
    }

    #[track_caller]
    pub fn claim_from(api: &Api, template: &str, config: Value) -> Self {
        let data = api.post(SANDBOXES, json!({ "template": template, "config": config })).ok(201);
        Self { api: api.clone(), id: data["sandbox_id"].as_str().expect("an id").to_owned() }
    }

    pub fn path(&self, rest: &str) -> String {
        format!("{SANDBOXES}/{}{rest}", self.id)
    }

    #[track_caller]
    pub fn get(&self) -> Value {
        self.api.get(&self.path("")).ok(200)
    }

    #[track_caller]
    pub fn post(&self, rest: &str, body: Value) -> Value {
        self.api.post(&self.path(rest), body).ok(200)
    }

    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Done {
        self.run_with(command, json!({}))
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> Done {
        self.run(&["sh", "-c", script])
    }

    /// Standard output of a script that must succeed.
    #[track_caller]
    pub fn sh_ok(&self, script: &str) -> String {
        let done = self.sh(script);
        assert_eq!(done.code, 0, "{script}: {done:?}");
        done.stdout
    }

    #[track_caller]
    pub fn python(&self, code: &str) -> Done {
        self.run(&["python3", "-c", code])
    }

    #[track_caller]
    pub fn run_with(&self, command: &[&str], more: Value) -> Done {
        let mut body = json!({ "type": "cmd", "cmd": { "command": command }, "wait_until_done": true });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let context = self.api.post(&self.path("/contexts"), body).ok(201);
        let text = |key: &str| context[key].as_str().unwrap_or_default().to_owned();
        Done { code: context["exit_code"].as_i64().unwrap_or(-1), stdout: text("stdout"), context }
    }

    /// Starts a command and does not wait.
    #[track_caller]
    pub fn spawn(&self, command: &[&str]) -> Value {
        self.api.post(&self.path("/contexts"), json!({ "type": "cmd", "cmd": { "command": command } })).ok(201)
    }

    #[track_caller]
    pub fn context(&self, id: &Value) -> Value {
        self.api.get(&self.path(&format!("/contexts/{}", id.as_str().unwrap()))).ok(200)
    }

    pub fn file(&self, path: &str) -> String {
        self.path(&format!("/files?path={}", encode(path)))
    }

    #[track_caller]
    pub fn write(&self, path: &str, content: &[u8]) {
        self.api.send("POST", &self.file(path), content).ok(200);
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> Vec<u8> {
        let reply = self.api.get(&self.file(path));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.body
    }

    #[track_caller]
    pub fn is_paused(&self) -> bool {
        self.get()["paused"].as_bool().unwrap()
    }

    #[track_caller]
    pub fn wait_paused(&self) {
        eventually("the pause", Duration::from_secs(30), || if self.is_paused() { Ok(()) } else { Err(self.get().to_string()) });
    }

    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        self.api.get(&self.path("/events?limit=1000")).ok(200)["events"].as_array().expect("events").clone()
    }

    /// Waits for an event of which `wanted` is true.
    #[track_caller]
    pub fn wait_event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, Duration::from_secs(30), || {
            let events = self.events();
            events.iter().find(|event| wanted(event)).cloned().ok_or_else(|| json!(events).to_string())
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.api.try_send("DELETE", &self.path(""), &[], b"");
    }
}

/// Deletes what the key can see.
pub fn delete_all(api: &Api) {
    for _ in 0..10 {
        let Ok(reply) = api.try_send("GET", &format!("{SANDBOXES}?limit=200&instances=true"), &[], b"") else { return };
        let rows = reply.value()["data"]["sandboxes"].as_array().cloned().unwrap_or_default();
        if rows.is_empty() {
            return;
        }
        for row in rows {
            let _ = api.try_send("DELETE", &format!("{SANDBOXES}/{}", row["id"].as_str().unwrap_or_default()), &[], b"");
        }
    }
}

/// Resident memory of a process in bytes.
pub fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A random number generator that says its seed, so that a failure can be repeated.
pub struct Rng(u64);

impl Rng {
    /// From `SANDBAR_TEST_SEED`, else from the clock.
    pub fn seeded() -> (Self, u64) {
        let seed = match std::env::var("SANDBAR_TEST_SEED") {
            Ok(text) => text.parse().expect("SANDBAR_TEST_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64,
        };
        (Self(seed), seed)
    }

    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + within;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() > end => return None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

/// Below the range from which the kernel takes ports for clients, so that nobody takes it while the server is down.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + offset as u16));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// As the server names its cgroups: 8 hex digits of the path of its data.
fn instance_of(data_dir: &Path) -> String {
    hex::encode(&Sha256::digest(data_dir.as_os_str().as_encoded_bytes())[..4])
}

/// Removes what a test run left that was itself killed.
fn sweep_dead_runs() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(DIR_PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        let dir = entry.path();
        if let Some(server) = fs::read_to_string(dir.join("server.pid")).ok().and_then(|text| text.parse::<u32>().ok()) {
            let environ = fs::read(format!("/proc/{server}/environ")).unwrap_or_default();
            if String::from_utf8_lossy(&environ).contains(dir.to_string_lossy().as_ref()) {
                signal(server, Signal::KILL);
            }
        }
        clean(&dir, &instance_of(&dir.join("data")));
    }
}

/// Ends every process of an instance, removes its cgroups and its files.
fn clean(dir: &Path, instance: &str) {
    let groups = machine::cgroup_dirs(instance);
    for _ in 0..500 {
        let mut left = 0;
        for group in groups.iter().flat_map(|parent| machine::subdirs(parent)) {
            let _ = fs::write(group.join("cgroup.kill"), "1");
            let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in procs.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                left += 1;
                signal(pid, Signal::KILL);
            }
            if fs::remove_dir(&group).is_err() && group.exists() {
                left += 1;
            }
        }
        if left == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for parent in &groups {
        let _ = fs::remove_dir(parent);
        let _ = parent.parent().map(fs::remove_dir);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let data = dir.join("data").display().to_string();
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(&data)) {
        // Whatever still has it open loses its name only.
        let _ = Command::new("umount").args(["-l", &data]).status();
    }
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("{} could not be removed: {error}", dir.display());
    }
}
