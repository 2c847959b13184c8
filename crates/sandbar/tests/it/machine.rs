//! What a server left on the machine, matched against its rows: nothing without an owner, nobody without its things.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::harness::Server;

/// A row of the database, as far as it owns things.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: String,
    pub desired: String,
    pub observed: String,
    pub runtime_id: Option<String>,
    pub previous_runtime_id: Option<String>,
    pub root_id: Option<String>,
    pub pid: Option<u32>,
    pub pid_start: Option<u64>,
}

impl Row {
    fn has_runtime(&self) -> bool {
        matches!(self.observed.as_str(), "starting" | "active" | "frozen")
    }
}

/// A process in a cgroup of the instance.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: u32,
    /// Its pid inside.
    pub inner_pid: u32,
    /// Clock ticks since boot.
    pub start: u64,
    pub runtime_id: String,
    pub command: String,
}

/// Where the groups of an instance may be: below the root of each hierarchy, or below the group of this process.
pub fn cgroup_dirs(instance: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own: Vec<&str> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(|path| path.trim_start_matches('/')).collect();
    let mut found = BTreeSet::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields.len() < 3 || !matches!(fields[2], "cgroup" | "cgroup2") {
            continue;
        }
        let root = Path::new(fields[1]);
        let bases = own.iter().flat_map(|path| [root.join(path), root.join(path).parent().unwrap_or(root).to_owned()]);
        for base in bases.chain([root.to_owned()]) {
            let dir = base.join("sandbar").join(instance);
            if dir.is_dir() {
                found.insert(dir);
            }
        }
    }
    found.into_iter().collect()
}

pub fn subdirs(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// All rows, read beside the running server.
pub fn rows(server: &Server) -> Vec<Row> {
    let path = server.data_dir().join("sandbar.db");
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database can be read");
    let mut query = db.prepare("SELECT id, desired, observed, runtime_id, root_id, doc FROM sandbox").expect("the table of sandboxes");
    let rows = query.query_map([], |row| {
        let doc: Value = serde_json::from_str(&row.get::<_, String>(5)?).expect("the record is JSON");
        Ok(Row {
            id: row.get(0)?,
            desired: row.get(1)?,
            observed: row.get(2)?,
            runtime_id: row.get(3)?,
            root_id: row.get(4)?,
            previous_runtime_id: doc["previous_runtime_id"].as_str().map(str::to_owned),
            pid: doc["pid"].as_u64().map(|pid| pid as u32),
            pid_start: doc["pid_start"].as_u64(),
        })
    });
    rows.unwrap().map(|row| row.expect("a row")).collect()
}

/// Layers and trees of volumes that rows name.
pub fn names_of_state(server: &Server) -> (BTreeSet<String>, BTreeSet<String>) {
    let path = server.data_dir().join("sandbar.db");
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database can be read");
    let texts = |sql: &str| -> BTreeSet<String> {
        let mut query = db.prepare(sql).expect("the tables are there");
        query.query_map([], |row| row.get(0)).unwrap().map(|row| row.expect("a row")).collect()
    };
    let layers = "SELECT json_extract(layer.value, '$.root_id') FROM (SELECT json_extract(doc, '$.base') base FROM sandbox UNION ALL SELECT base FROM snapshot UNION ALL SELECT base FROM template UNION ALL SELECT json_extract(doc, '$.base') FROM function_revision UNION ALL SELECT base FROM app_version UNION ALL SELECT base FROM app_setup) bases, json_each(bases.base, '$.layers') layer";
    let trees = "SELECT tree_id FROM volume UNION SELECT tree_id FROM volume_snapshot
        UNION SELECT json_extract(mount.value, '$.tree_id') FROM function_revision, json_each(function_revision.doc, '$.mounts') mount";
    (texts(layers), texts(trees))
}

/// Every process in a cgroup of the instance.
pub fn processes(instance: &str) -> Vec<Process> {
    let marker = format!("/sandbar/{instance}/");
    pids()
        .into_iter()
        .filter_map(|pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            let runtime_id = groups.lines().find_map(|line| line.split_once(&marker).map(|(_, rest)| rest.to_owned()))?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            // A corpse whose parent has not looked yet holds nothing.
            if status.lines().any(|line| line.starts_with("State:\tZ") || line.starts_with("State:\tX")) {
                return None;
            }
            let inner_pid = status.lines().find(|line| line.starts_with("NSpid:"))?.split_whitespace().last()?.parse().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
            Some(Process { pid, inner_pid, start: start_of(pid)?, runtime_id, command })
        })
        .collect()
}

/// What does not match. Empty when the machine and the rows agree. For a moment after a start there may be something;
/// ask again.
pub fn violations(server: &Server) -> Vec<String> {
    let mut out = Vec::new();
    let rows = rows(server);
    let data = server.data_dir();
    let processes = processes(&server.instance);
    let server_start = start_of(server.pid()).expect("the server runs");

    let live: BTreeMap<&str, &Row> = rows.iter().filter(|row| row.has_runtime()).filter_map(|row| Some((row.runtime_id.as_deref()?, row))).collect();
    let named: BTreeSet<&str> = rows.iter().flat_map(|row| [&row.runtime_id, &row.previous_runtime_id]).flatten().map(String::as_str).collect();
    let (layers, trees) = names_of_state(server);
    let roots: BTreeSet<&str> = rows.iter().filter_map(|row| row.root_id.as_deref()).chain(layers.iter().map(String::as_str)).collect();
    for layer in layers.iter().filter(|layer| !data.join("roots").join(layer).is_dir()) {
        out.push(format!("layer {layer} is lost"));
    }
    let on_disk: BTreeSet<String> = subdirs(&data.join("volumes")).iter().map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned()).collect();
    if on_disk != trees {
        out.push(format!("trees of volumes are {on_disk:?}, rows name {trees:?}"));
    }

    // Idle ones of the pool have no row; they must all be of this process of the server.
    let is_fresh_process = |process: &Process| process.start >= server_start;
    let mut idle: BTreeSet<&str> = BTreeSet::new();
    for process in processes.iter().filter(|process| !live.contains_key(process.runtime_id.as_str())) {
        if is_fresh_process(process) {
            idle.insert(&process.runtime_id);
        } else {
            out.push(format!("process {} ({}) of runtime {} has no row", process.pid, process.command, process.runtime_id));
        }
    }
    if idle.len() > server.pool() {
        out.push(format!("{} runtimes are idle, the pool is {}: {idle:?}", idle.len(), server.pool()));
    }
    let known = |runtime: &str| live.contains_key(runtime) || idle.contains(runtime);

    for dir in cgroup_dirs(&server.instance) {
        for group in subdirs(&dir) {
            let name = group.file_name().unwrap().to_string_lossy().into_owned();
            if !known(&name) {
                out.push(format!("cgroup {} has no row", group.display()));
            }
        }
    }

    for row in &rows {
        if row.desired == "deleted" {
            out.push(format!("{} is half deleted", row.id));
        }
        check_row(row, &processes, &server.instance, &mut out);
        if let Some(root) = &row.root_id
            && !data.join("roots").join(root).is_dir()
        {
            out.push(format!("{} has lost its root {root}", row.id));
        }
    }

    for dir in subdirs(&data.join("runtimes")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if !named.contains(name.as_str()) && !known(&name) {
            out.push(format!("folder {} has no row", dir.display()));
        }
        if dir.join("procd.sock").exists() && !known(&name) {
            out.push(format!("socket of {name}, which does not live"));
        }
    }
    let mut unowned_roots = 0;
    for dir in subdirs(&data.join("roots")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if roots.contains(name.as_str()) {
            continue;
        }
        unowned_roots += 1;
        let made = fs::metadata(&dir).and_then(|meta| meta.modified());
        if made.is_ok_and(|made| made < server.started_at) {
            out.push(format!("folder {} has no row", dir.display()));
        }
    }
    if unowned_roots > idle.len() {
        out.push(format!("{unowned_roots} roots without a row, for {} idle runtimes", idle.len()));
    }
    for entry in fs::read_dir(data.join("trash")).into_iter().flatten().flatten() {
        out.push(format!("the trash still has {}", entry.path().display()));
    }
    for entry in fs::read_dir(data.join("images")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("half-") {
            out.push(format!("half an image: {}", entry.path().display()));
        }
    }

    listening(&data, &known, &mut out);
    open_files(server, &data, &known, &processes, &mut out);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.contains(&*data.to_string_lossy())) {
        out.push(format!("a mount on the host: {line}"));
    }
    out
}

fn check_row(row: &Row, processes: &[Process], instance: &str, out: &mut Vec<String>) {
    let mine = || processes.iter().filter(|process| Some(&process.runtime_id) == row.runtime_id.as_ref());
    if !row.has_runtime() {
        return;
    }
    let (Some(runtime), Some(pid)) = (&row.runtime_id, row.pid) else {
        out.push(format!("{} is {} and has no runtime", row.id, row.observed));
        return;
    };
    match mine().find(|process| process.pid == pid) {
        None => out.push(format!("{} is {} and its pid {pid} is not there", row.id, row.observed)),
        Some(process) if Some(process.start) != row.pid_start || process.inner_pid != 1 => {
            out.push(format!("pid {pid} of {} is another process: {process:?}", row.id))
        }
        Some(_) => {}
    }
    for dir in cgroup_dirs(instance) {
        let events = fs::read_to_string(dir.join(runtime).join("cgroup.events")).unwrap_or_default();
        let Some(frozen) = events.lines().find_map(|line| line.strip_prefix("frozen ")) else { continue };
        if (frozen == "1") != (row.observed == "frozen") {
            out.push(format!("{} is {} and its cgroup says frozen {frozen}", row.id, row.observed));
        }
    }
}

/// Unix sockets with a name below the data.
fn listening(data: &Path, known: &dyn Fn(&str) -> bool, out: &mut Vec<String>) {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let prefix = format!("{}/runtimes/", data.display());
    for line in sockets.lines() {
        let Some((_, rest)) = line.split_once(&prefix) else { continue };
        let runtime = rest.split('/').next().unwrap_or_default();
        if !known(runtime) {
            out.push(format!("a socket of {runtime}, which has no row"));
        }
    }
}

/// Who on the machine has files below the data open, and which network namespaces the server holds.
fn open_files(server: &Server, data: &Path, known: &dyn Fn(&str) -> bool, processes: &[Process], out: &mut Vec<String>) {
    let runtimes = data.join("runtimes");
    for pid in pids().into_iter().filter(|pid| *pid != std::process::id()) {
        for link in links(pid) {
            let Ok(inner) = link.strip_prefix(data) else { continue };
            if pid == server.pid() {
                continue;
            }
            match link.strip_prefix(&runtimes).ok().and_then(|rest| rest.iter().next()).and_then(|name| name.to_str()) {
                Some(runtime) if known(runtime) => {}
                _ => out.push(format!("process {pid} has {} open", inner.display())),
            }
        }
    }
    let own = fs::read_link("/proc/self/ns/net").ok();
    let alive: BTreeSet<PathBuf> = processes.iter().filter_map(|process| fs::read_link(format!("/proc/{}/ns/net", process.pid)).ok()).chain(own).collect();
    for link in links(server.pid()).into_iter().filter(|link| link.to_string_lossy().starts_with("net:[")) {
        if !alive.contains(&link) {
            out.push(format!("the server holds {}, in which nobody lives", link.display()));
        }
    }
}

fn links(pid: u32) -> Vec<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Field 22 of `/proc/PID/stat`.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(19)?.parse().ok()
}
