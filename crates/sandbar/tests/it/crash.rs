//! The server is killed with SIGKILL at random moments under mixed load. After each start everything that was
//! acknowledged must be there, and everything on the machine must belong to a row.

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    harness::{Rng, SANDBOXES, Server},
    http::{Api, Reply, encode, eventually},
    machine,
};

/// Clients at once, each with sandboxes of its own.
const WORKERS: usize = 3;
/// Sandboxes of one client.
const SANDBOXES_MAX: usize = 3;
/// Files of one sandbox that are remembered.
const FILES_MAX: usize = 6;
/// After a start the rest of the sweep runs beside the work.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

const HIBERNATES: &str = "hibernates";

/// What a client knows of one of its sandboxes.
struct Known {
    id: String,
    /// The contents that a file may have: one when acknowledged; more from a write in doubt until the next acknowledged one.
    files: BTreeMap<String, Vec<Vec<u8>>>,
    /// Its processes do not outlive a pause.
    hibernates: bool,
    /// `None` = a pause or resume is in doubt.
    paused: Option<bool>,
    /// A process that was seen running, by its context, its pid inside and its runtime.
    process: Option<(String, u64, String)>,
    delete: Delete,
}

#[derive(Clone, Copy, PartialEq)]
enum Delete {
    No,
    InDoubt,
    Acknowledged,
}

/// The server is gone; what was asked last is in doubt.
struct Gone;

type Outcome<T> = Result<T, Gone>;

struct Client {
    api: Api,
    rng: Rng,
    count: u64,
    known: Vec<Known>,
    /// What must not be.
    wrong: Vec<String>,
    done: u64,
}

#[test]
fn fifty_kills_under_load_lose_nothing_and_leave_nothing() {
    let kills: usize = std::env::var("SANDBAR_CRASH_KILLS").map_or(50, |text| text.parse().expect("a number"));
    let (mut rng, seed) = Rng::seeded();
    let _announce = Announce(seed);
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "2")]);
    // A pause of these ends their processes, and a resume makes a new runtime over the same files.
    let spec = json!({ "mainContainer": { "image": "host", "resources": { "memory": "256Mi" } }, "lifecycle": { "hibernateAfter": 0 } });
    server.api().post("/api/v1/templates", json!({ "template_id": HIBERNATES, "spec": spec })).ok(201);
    let mut clients: Vec<Client> =
        (0..WORKERS).map(|_| Client { api: server.api(), rng: rng.fork(), count: 0, known: Vec::new(), wrong: Vec::new(), done: 0 }).collect();
    for round in 0..kills {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in &mut clients {
                let stop = &stop;
                scope.spawn(move || client.work(stop));
            }
            // The moment is what is random here; nothing is waited for.
            std::thread::sleep(Duration::from_millis(20 + rng.below(400) as u64));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
        server.up();
        eventually("a machine that matches the rows", SETTLED_WITHIN, || {
            let wrong = machine::violations(&server);
            if wrong.is_empty() { Ok(()) } else { Err(format!("round {round}: {}", wrong.join("\n  "))) }
        });
        delete_strangers(&server, &clients);
        std::thread::scope(|scope| {
            for client in &mut clients {
                let server = &server;
                scope.spawn(move || client.check(server));
            }
        });
        for client in &clients {
            assert!(client.wrong.is_empty(), "round {round}: {}\n{}", client.wrong.join("\n  "), server.log_tail());
        }
    }
    let done: u64 = clients.iter().map(|client| client.done).sum();
    eprintln!("{kills} kills, {done} acknowledged operations");
    assert!(done > kills as u64, "there was hardly any load");
}

/// Says the seed when the test fails.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with SANDBAR_TEST_SEED={}", self.0);
        }
    }
}

/// Sandboxes whose claim was in doubt have rows and no client: they are whole, and they go.
fn delete_strangers(server: &Server, clients: &[Client]) {
    let api = server.api();
    let listed = api.get(&format!("{SANDBOXES}?limit=200")).ok(200);
    for row in listed["sandboxes"].as_array().unwrap() {
        let id = row["id"].as_str().unwrap();
        if !clients.iter().any(|client| client.known.iter().any(|known| known.id == id)) {
            api.delete(&format!("{SANDBOXES}/{id}")).ok(202);
        }
    }
}

impl Client {
    /// Works until the server is gone.
    fn work(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.wrong.is_empty() {
            if self.step().is_err() {
                return;
            }
            self.done += 1;
        }
    }

    fn step(&mut self) -> Outcome<()> {
        let usable: Vec<usize> = (0..self.known.len()).filter(|i| self.known[*i].delete == Delete::No).collect();
        let dice = self.rng.below(100);
        if usable.is_empty() || (usable.len() < SANDBOXES_MAX && dice < 25) {
            return self.claim();
        }
        let at = usable[self.rng.below(usable.len())];
        match dice {
            0..40 => self.write(at),
            40..60 => self.write_by_command(at),
            60..68 => self.start_process(at),
            68..80 => self.pause(at),
            80..90 => self.resume(at),
            90..94 => self.delete(at),
            _ => self.read(at),
        }
    }

    fn claim(&mut self) -> Outcome<()> {
        let hibernates = self.rng.below(3) == 0;
        let template = if hibernates { HIBERNATES } else { "default" };
        let data = self.ask("POST", SANDBOXES, &json!({ "template": template }), 201)?;
        let Some(id) = data["sandbox_id"].as_str() else { return Ok(()) };
        let known = Known { id: id.to_owned(), files: BTreeMap::new(), hibernates, paused: Some(false), process: None, delete: Delete::No };
        self.known.push(known);
        Ok(())
    }

    fn write(&mut self, at: usize) -> Outcome<()> {
        let name = format!("f{}", self.rng.below(FILES_MAX));
        // Small and large: a large one is killed in the middle of its body more often.
        let size = if self.rng.below(8) == 0 { 1 << 20 } else { 100 };
        let content = self.content(size);
        let path = format!("{SANDBOXES}/{}/files?path={}", self.known[at].id, encode(&format!("/workspace/{name}")));
        let known = &mut self.known[at];
        known.files.entry(name.clone()).or_insert_with(|| vec![Vec::new()]).push(content.clone());
        known.paused = None;
        let reply = self.api.try_send("POST", &path, &[], &content);
        self.accept(reply, &path, 200)?;
        let known = &mut self.known[at];
        known.files.insert(name, vec![content]);
        // An access wakes a sandbox.
        known.paused = Some(false);
        Ok(())
    }

    fn write_by_command(&mut self, at: usize) -> Outcome<()> {
        self.count += 1;
        // A name of its own each time: a command that is in doubt may still run when the next one does.
        let name = format!("c{}", self.count);
        let content = self.content(40);
        let remembered: Vec<_> = self.known[at].files.keys().filter(|name| name.starts_with('c')).cloned().collect();
        for forgotten in remembered.iter().take((remembered.len() + 1).saturating_sub(FILES_MAX)) {
            self.known[at].files.remove(forgotten);
        }
        let script = format!("printf %s {} > /workspace/.{name} && mv /workspace/.{name} /workspace/{name}", String::from_utf8_lossy(&content));
        let path = format!("{SANDBOXES}/{}/contexts", self.known[at].id);
        let known = &mut self.known[at];
        known.files.entry(name.clone()).or_insert_with(|| vec![Vec::new()]).push(content.clone());
        known.paused = None;
        let body = json!({ "type": "cmd", "cmd": { "command": ["sh", "-c", script] }, "wait_until_done": true });
        let data = self.ask("POST", &path, &body, 201)?;
        if data["exit_code"] != 0 {
            self.wrong.push(format!("{path}: a command that writes a file ended with {data}"));
        }
        let known = &mut self.known[at];
        known.files.insert(name, vec![content]);
        known.paused = Some(false);
        Ok(())
    }

    fn start_process(&mut self, at: usize) -> Outcome<()> {
        if self.known[at].process.is_some() || self.known[at].hibernates {
            return Ok(());
        }
        let path = format!("{SANDBOXES}/{}/contexts", self.known[at].id);
        self.known[at].paused = None;
        let data = self.ask("POST", &path, &json!({ "type": "cmd", "cmd": { "command": ["sleep", "86400"] } }), 201)?;
        let row = self.ask("GET", &format!("{SANDBOXES}/{}", self.known[at].id), &Value::Null, 200)?;
        let known = &mut self.known[at];
        known.paused = Some(false);
        if let (Some(context), Some(pid), Some(runtime)) = (data["id"].as_str(), data["pid"].as_u64(), row["runtime_id"].as_str()) {
            known.process = Some((context.to_owned(), pid, runtime.to_owned()));
        }
        Ok(())
    }

    fn pause(&mut self, at: usize) -> Outcome<()> {
        self.known[at].paused = None;
        let data = self.ask("POST", &format!("{SANDBOXES}/{}/pause", self.known[at].id), &json!({}), 200)?;
        if data["paused"] != true {
            self.wrong.push(format!("a pause was answered with {data}"));
        }
        self.known[at].paused = Some(true);
        Ok(())
    }

    fn resume(&mut self, at: usize) -> Outcome<()> {
        self.known[at].paused = None;
        self.ask("POST", &format!("{SANDBOXES}/{}/resume", self.known[at].id), &json!({}), 200)?;
        self.known[at].paused = Some(false);
        Ok(())
    }

    fn delete(&mut self, at: usize) -> Outcome<()> {
        self.known[at].delete = Delete::InDoubt;
        self.ask("DELETE", &format!("{SANDBOXES}/{}", self.known[at].id), &Value::Null, 202)?;
        self.known[at].delete = Delete::Acknowledged;
        Ok(())
    }

    /// Reads a file and holds it against what was written.
    fn read(&mut self, at: usize) -> Outcome<()> {
        let Some(name) = self.known[at].files.keys().next().cloned() else { return Ok(()) };
        self.known[at].paused = None;
        let found = self.fetch(at, &name)?;
        self.known[at].paused = Some(false);
        self.compare(at, &name, &found);
        Ok(())
    }

    fn fetch(&mut self, at: usize, name: &str) -> Outcome<Vec<u8>> {
        let path = format!("{SANDBOXES}/{}/files?path={}", self.known[at].id, encode(&format!("/workspace/{name}")));
        let reply = self.api.try_send("GET", &path, &[], b"").map_err(|_| Gone)?;
        match reply.status {
            200 => Ok(reply.body),
            // As if it were empty: what a file that was never acknowledged may be.
            404 => Ok(Vec::new()),
            _ => {
                self.wrong.push(format!("GET {path}: {} {}", reply.status, reply.text()));
                Ok(Vec::new())
            }
        }
    }

    fn compare(&mut self, at: usize, name: &str, found: &[u8]) {
        let allowed = &self.known[at].files[name];
        if !allowed.iter().any(|content| content == found) {
            let shown = |bytes: &[u8]| format!("{} bytes {:?}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(24)]));
            let want: Vec<_> = allowed.iter().map(|content| shown(content)).collect();
            self.wrong.push(format!("{} /workspace/{name} is {}, may be {}", self.known[at].id, shown(found), want.join(" or ")));
        }
    }

    /// After a start: all that was acknowledged is there. Settles what was in doubt.
    fn check(&mut self, server: &Server) {
        let processes = machine::processes(&server.instance);
        for at in 0..self.known.len() {
            if self.check_one(at, &processes).is_err() {
                self.wrong.push("the server went away by itself".into());
                return;
            }
        }
        self.known.retain(|known| known.delete == Delete::No);
    }

    fn check_one(&mut self, at: usize, processes: &[machine::Process]) -> Outcome<()> {
        let id = self.known[at].id.clone();
        let path = format!("{SANDBOXES}/{id}");
        let reply = self.api.try_send("GET", &path, &[], b"").map_err(|_| Gone)?;
        match (self.known[at].delete, reply.status) {
            (Delete::Acknowledged, 404) => return Ok(()),
            (Delete::InDoubt, 404) => {
                self.known[at].delete = Delete::Acknowledged;
                return Ok(());
            }
            (Delete::InDoubt, 200) => self.known[at].delete = Delete::No,
            (Delete::No, 200) => {}
            (Delete::No | Delete::InDoubt | Delete::Acknowledged, status) => {
                self.wrong.push(format!("{id}: GET gives {status} {}", reply.text()));
                return Ok(());
            }
        }
        let row = reply.value()["data"].clone();
        if row["id"] != id.as_str() {
            self.wrong.push(format!("{id} has become {row}"));
        }
        let paused = row["paused"].as_bool();
        if self.known[at].paused.is_some() && self.known[at].paused != paused {
            self.wrong.push(format!("{id}: acknowledged paused={:?}, now {row}", self.known[at].paused));
        }
        self.known[at].paused = paused;
        if let Some((_, pid, runtime)) = &self.known[at].process {
            let alive =
                processes.iter().any(|process| process.runtime_id == *runtime && u64::from(process.inner_pid) == *pid && process.command == "sleep 86400");
            if !alive || row["runtime_id"] != runtime.as_str() {
                self.wrong.push(format!("{id}: process {pid} of {runtime} did not live on: {row}"));
            }
        }
        // Reading wakes it, so the paused ones are left alone mostly.
        if paused == Some(true) && self.rng.below(4) != 0 {
            return Ok(());
        }
        for name in self.known[at].files.keys().cloned().collect::<Vec<_>>() {
            let found = self.fetch(at, &name)?;
            self.known[at].paused = Some(false);
            self.compare(at, &name, &found);
        }
        if let Some((context, pid, _)) = self.known[at].process.clone() {
            let data = self.ask("GET", &format!("{path}/contexts/{context}"), &Value::Null, 200)?;
            self.known[at].paused = Some(false);
            if data["running"] != true || data["pid"].as_u64() != Some(pid) {
                self.wrong.push(format!("{id}: context {context} of process {pid} is now {data}"));
            }
        }
        Ok(())
    }

    fn content(&mut self, size: usize) -> Vec<u8> {
        let word = format!("{:016x}", self.rng.next());
        word.bytes().cycle().take(size).collect()
    }

    fn ask(&mut self, method: &str, path: &str, body: &Value, status: u16) -> Outcome<Value> {
        let reply = if body.is_null() { self.api.try_send(method, path, &[], b"") } else { self.api.try_json(method, path, body) };
        self.accept(reply, path, status)
    }

    /// The data of an acknowledgement. Another answer is wrong: the server is asked for nothing that it may refuse.
    fn accept(&mut self, reply: io::Result<Reply>, path: &str, status: u16) -> Outcome<Value> {
        let reply = reply.map_err(|_| Gone)?;
        let value = reply.value();
        if reply.status != status || value["success"] != true {
            self.wrong.push(format!("{path}: want {status}, got {} {}", reply.status, reply.text()));
            return Err(Gone);
        }
        Ok(value["data"].clone())
    }
}
