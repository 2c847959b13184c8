//! Bun in sandboxes: one process for each team that has trusted scripts, made when first needed, ended when nobody needs it.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::limits;
use sandbar_node::{
    Limits, Node,
    enclosed::{Enclosed, PROGRAM_PATH, Program},
    error_text,
};
use sandbar_scripts::{
    Call, Failure, Host, bun,
    link::{Link, Ran},
};
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A process that had nothing to do for this long ends.
const IDLE_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits { memory_bytes: 1 << 30, cpu_millis: 2000, pids: 512, disk_bytes: 64 << 20 };
/// What it is called in `PATH`.
const NAME: &str = "bun";

/// The processes that live, by team.
pub(crate) struct Bun {
    node: Node,
    binary: Option<PathBuf>,
    places: Arc<Mutex<HashMap<String, Place>>>,
    stop: CancellationToken,
}

struct Place {
    process: Arc<OnceCell<Process>>,
    used: Instant,
    /// Who holds it uses it.
    lease: Arc<()>,
}

/// A Bun that answers. Its sandbox ends with it.
struct Process {
    link: Link,
    _hold: DropGuard,
}

#[derive(Debug, thiserror::Error)]
enum BunError {
    #[error("bun is not installed; set SANDBAR_BUN to the path of its program, or put it in PATH")]
    Missing,
    #[error("{0} is not the program bun: there is no such file")]
    NotThere(PathBuf),
    #[error("{} teams run scripts in Bun at this moment, and there may be no more", limits::SCRIPT_BUN_PROCESSES_MAX)]
    Full,
    #[error("bun could not be started: {0}")]
    Start(String),
    #[error("the server is stopping")]
    Stopping,
}

impl Bun {
    /// `configured` or the `bun` in `PATH`. Whether there is one matters only when a script asks for it.
    pub(crate) fn new(node: Node, configured: Option<&Path>) -> Self {
        let places = Arc::<Mutex<HashMap<String, Place>>>::default();
        let stop = CancellationToken::new();
        let (weak, stopping) = (Arc::downgrade(&places), stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => break,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let Some(places) = weak.upgrade() else { break };
                drop(take_idle(&places));
            }
        });
        Self { node, binary: configured.map(Path::to_owned).or_else(in_path), places, stop }
    }

    /// Runs a script in the process of its team.
    pub(crate) async fn run(&self, team_id: &str, call: Call, host: &dyn Host, cancel: &CancellationToken) -> Ran {
        // One that ended meanwhile is replaced, once.
        for _ in 0..2 {
            let (cell, _lease) = match self.place(team_id) {
                Ok(place) => place,
                Err(error) => return failed(&call, &error),
            };
            match cell.get_or_try_init(|| self.start()).await {
                Ok(process) if !process.link.is_gone() => return process.link.run(call, host, cancel).await,
                Ok(_) => self.forget(team_id, &cell),
                Err(error) => {
                    self.forget(team_id, &cell);
                    return failed(&call, &error);
                }
            }
        }
        failed(&call, &BunError::Start("it ended at once".to_owned()))
    }

    /// Ends all of them.
    pub(crate) fn close(&self) {
        self.stop.cancel();
        let all: Vec<Place> = lock(&self.places).drain().map(|(_, place)| place).collect();
        for process in all.iter().filter_map(|place| place.process.get()) {
            process.link.end("the server is stopping");
        }
    }

    fn place(&self, team_id: &str) -> Result<(Arc<OnceCell<Process>>, Arc<()>), BunError> {
        if self.stop.is_cancelled() {
            return Err(BunError::Stopping);
        }
        let mut places = lock(&self.places);
        if !places.contains_key(team_id) && places.len() >= limits::SCRIPT_BUN_PROCESSES_MAX {
            // Who was idle for longest makes room.
            let idle = places.iter().filter(|(_, place)| Arc::strong_count(&place.lease) == 1).min_by_key(|(_, place)| place.used);
            let idle = idle.map(|(team, _)| team.clone()).ok_or(BunError::Full)?;
            places.remove(&idle);
        }
        let place = places.entry(team_id.to_owned()).or_insert_with(|| Place { process: Arc::default(), used: Instant::now(), lease: Arc::new(()) });
        place.used = Instant::now();
        Ok((Arc::clone(&place.process), Arc::clone(&place.lease)))
    }

    fn forget(&self, team_id: &str, cell: &Arc<OnceCell<Process>>) {
        let mut places = lock(&self.places);
        if places.get(team_id).is_some_and(|place| Arc::ptr_eq(&place.process, cell)) {
            places.remove(team_id);
        }
    }

    async fn start(&self) -> Result<Process, BunError> {
        let binary = self.binary.clone().ok_or(BunError::Missing)?;
        // A link would lead elsewhere inside.
        let binary = tokio::fs::canonicalize(&binary).await.map_err(|_| BunError::NotThere(binary))?;
        let program = Program {
            name: NAME,
            binary,
            files: bun::FILES,
            arguments: bun::arguments(PROGRAM_PATH),
            env: bun::environment(LIMITS.memory_bytes),
            limits: LIMITS,
        };
        let Enclosed { stream, hold, .. } = self.node.enclose(&program).await.map_err(|error| BunError::Start(error_text(&error)))?;
        let (read, write) = tokio::io::split(stream);
        let (link, _task) = Link::open(read, write).await.map_err(|error| BunError::Start(error_text(&error)))?;
        Ok(Process { link, _hold: hold })
    }
}

impl Drop for Bun {
    fn drop(&mut self) {
        self.close();
    }
}

fn take_idle(places: &Mutex<HashMap<String, Place>>) -> Vec<Place> {
    let mut places = lock(places);
    let mut idle = Vec::new();
    for place in places.values_mut() {
        if Arc::strong_count(&place.lease) > 1 {
            place.used = Instant::now();
        }
    }
    let late: Vec<String> = places.iter().filter(|(_, place)| place.used.elapsed() > IDLE_MAX).map(|(team, _)| team.clone()).collect();
    for team in late {
        idle.extend(places.remove(&team));
    }
    idle
}

fn lock(places: &Mutex<HashMap<String, Place>>) -> MutexGuard<'_, HashMap<String, Place>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first `bun` in `PATH` that is a file.
fn in_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(NAME)).find(|file| file.is_file())
}

fn failed(call: &Call, error: &BunError) -> Ran {
    tracing::warn!(error = error_text(error), "a script is not run");
    Ran::failed(call, Failure::internal(error.to_string()))
}
