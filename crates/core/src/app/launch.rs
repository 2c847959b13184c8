//! What an app's manifest says of the processes that are kept up: what each is, when it is ready, and in which order they start.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    AppState, PreviewState,
    manifest::{Block, LaunchServices, Manifest, Port, Readiness, Restart, START, Service},
    shell::{self, APP_VAR, ENTRY_VAR, VERSION_VAR},
    supervise::Ending,
};
use crate::limits::apps as limits;

/// What may run in a sandbox of an app.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub manifest: Arc<Manifest>,
    /// The app's name, and the version whose files the sandbox has.
    pub app: String,
    pub version: i64,
    /// Services, each after what it depends on, and the start command, if there is one, last.
    pub entries: Vec<Arc<Entry>>,
}

/// One process that is kept up.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `start`, or the name of a service.
    pub name: String,
    pub command: Vec<String>,
    pub cwd: String,
    /// Its own, without what the sandbox gives to all.
    pub env: BTreeMap<String, String>,
    pub ports: Vec<Port>,
    pub check: Check,
    pub ready_within_ms: i64,
    pub check_every_ms: u64,
    pub restart: Restart,
    /// After so many seconds it is ended.
    pub runs_max_s: Option<u32>,
    pub depends_on: Vec<String>,
}

/// What a process has to pass to count as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It runs.
    Runs,
    /// Somebody accepts.
    Tcp(u16),
    /// Answered with a status below 500.
    Http { port: u16, path: String },
    /// Exits with 0.
    Command(Vec<String>),
}

/// What was asked for at the start of an app: a column of its row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Services besides those that start by themselves.
    pub services: LaunchServices,
    /// Services that start by themselves and were stopped since.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub stopped: BTreeSet<String>,
    /// A stop is under way: what becomes of the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopping: Option<Stopping>,
    /// While the app is offline: its sandbox was woken or made for runs, and the last of them puts it down again.
    #[serde(skip_serializing_if = "is_false")]
    pub woken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopping {
    Pause,
    Delete,
}

/// How an app was seen last: a column of its row, for the time when nobody watches it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SeenApp {
    /// The sandbox that this is of.
    pub sandbox_id: String,
    pub entries: BTreeMap<String, SeenEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SeenEntry {
    pub state: AppState,
    /// How it ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Ending>,
    /// Its processes, as runtime and context: the oldest first. Their lines in the sandbox's log are its log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<(String, String)>,
}

/// A service that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the app has no service {name:?}; it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
pub struct UnknownService {
    pub name: String,
    pub known: Vec<String>,
}

impl SeenApp {
    /// After a stop: nothing runs, and what was printed can still be found.
    #[must_use]
    pub fn stopped(mut self) -> Self {
        for entry in self.entries.values_mut() {
            (entry.state, entry.last) = (AppState::None, None);
        }
        self
    }
}

impl Launch {
    /// `env` is what the app was given for the variables that it asks for: of less weight than what the manifest says itself.
    pub fn of(manifest: Arc<Manifest>, app: &str, version: i64, env: &BTreeMap<String, String>) -> Self {
        let base = |name: &str, block: &Block| {
            // What tells a process apart cannot be chosen by a manifest.
            let own = [(APP_VAR, app.to_owned()), (VERSION_VAR, version.to_string()), (ENTRY_VAR, name.to_owned())];
            shell::whole(env, &shell::said(&manifest, Some(block), &BTreeMap::new()), own)
        };
        let names = manifest.services.iter().map(|service| service.name.as_str());
        let mut entries: Vec<Arc<Entry>> = manifest
            .in_order(names)
            .into_iter()
            .map(|service| {
                let Service { name, command, block, readiness, depends_on, restart, .. } = service;
                Arc::new(Entry { depends_on: depends_on.clone(), ..Entry::new(name, command, block, readiness.as_ref(), *restart, base(name, block)) })
            })
            .collect();
        if let Some(start) = &manifest.start
            && let Some(command) = &start.command
        {
            entries.push(Arc::new(Entry::new(START, command, &start.block, start.readiness.as_ref(), start.restart, base(START, &start.block))));
        }
        Self { app: app.to_owned(), version, entries, manifest }
    }

    pub fn entry(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The processes that a start wants, each after what it depends on: the start command, the services that start by themselves,
    /// those that were asked for, and what these depend on.
    pub fn wanted(&self, asked: &Asked) -> Vec<String> {
        let mut names: Vec<&str> = self.manifest.launched_services().iter().map(|service| service.name.as_str()).collect();
        names.retain(|name| !asked.stopped.contains(*name));
        match &asked.services {
            LaunchServices::All => names.extend(self.manifest.services.iter().map(|service| service.name.as_str())),
            LaunchServices::Named(more) => names.extend(more.iter().map(String::as_str)),
        }
        let mut wanted: Vec<String> = self.manifest.in_order(names).iter().map(|service| service.name.clone()).collect();
        wanted.extend(self.entry(START).map(|start| start.name.clone()));
        wanted
    }

    /// A service and what it depends on, itself last.
    pub fn with_dependencies(&self, service: &str) -> Vec<String> {
        self.manifest.in_order([service]).iter().map(|service| service.name.clone()).collect()
    }

    /// Processes that are ended at the same time, in this order: who depends on something before what it depends on, `start` last.
    pub fn stop_order(&self) -> Vec<Vec<String>> {
        let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.name != START) {
            // What it depends on stands before it.
            let below = entry.depends_on.iter().filter_map(|name| depth.get(name.as_str())).max().copied();
            depth.insert(&entry.name, below.map_or(0, |below| below + 1));
        }
        let mut rounds: Vec<Vec<String>> = Vec::new();
        for (name, depth) in depth {
            if rounds.len() <= depth {
                rounds.resize(depth + 1, Vec::new());
            }
            rounds[depth].push(name.to_owned());
        }
        rounds.reverse();
        rounds.extend(self.entry(START).map(|start| vec![start.name.clone()]));
        rounds
    }

    /// Every declared port of the start command and of services, with whose it is.
    pub fn ports(&self) -> impl Iterator<Item = (&str, &Port)> {
        let start = self.manifest.start.iter().flat_map(|start| start.block.ports.iter().map(|port| (START, port)));
        start.chain(self.manifest.services.iter().flat_map(|service| service.block.ports.iter().map(|port| (service.name.as_str(), port))))
    }

    /// Refuses names of services that there are not.
    pub fn check(&self, services: &LaunchServices) -> Result<(), UnknownService> {
        let LaunchServices::Named(names) = services else { return Ok(()) };
        match names.iter().find(|name| self.manifest.find_service(name).is_none()) {
            Some(name) => Err(self.unknown(name)),
            None => Ok(()),
        }
    }

    pub fn unknown(&self, name: &str) -> UnknownService {
        let known = self.manifest.services.iter().map(|service| service.name.clone()).collect();
        UnknownService { name: name.chars().take(limits::APP_NAME_MAX_CHARS).collect(), known }
    }
}

impl Entry {
    fn new(name: &str, command: &str, block: &Block, readiness: Option<&Readiness>, restart: Restart, env: BTreeMap<String, String>) -> Self {
        let default = Readiness::default();
        let said = readiness.unwrap_or(&default);
        Self {
            name: name.to_owned(),
            command: shell::argv(command),
            cwd: shell::folder(block.cwd.as_deref()),
            env,
            ports: block.ports.clone(),
            check: Check::of(said, &block.ports),
            ready_within_ms: i64::from(said.timeout_seconds) * 1000,
            check_every_ms: u64::from(said.interval_ms),
            restart,
            runs_max_s: block.timeout_seconds,
            depends_on: Vec::new(),
        }
    }

    pub fn is_start(&self) -> bool {
        self.name == START
    }
}

impl Check {
    fn of(said: &Readiness, ports: &[Port]) -> Self {
        let first = ports.first();
        match (&said.command, &said.path, said.port) {
            (Some(command), _, _) => Self::Command(shell::argv(command)),
            (None, Some(path), port) => match port.or(first.map(|port| port.port)) {
                Some(port) => Self::Http { port, path: path.clone() },
                None => Self::Runs,
            },
            (None, None, Some(port)) => Self::Tcp(port),
            (None, None, None) => first.map_or(Self::Runs, |first| Self::Http { port: first.port, path: first.path.clone() }),
        }
    }

    /// How often one that was passed is asked again, in milliseconds. A command costs a process each time.
    pub fn look_every_ms(&self) -> u64 {
        match self {
            Self::Runs | Self::Tcp(_) | Self::Http { .. } => 3_000,
            Self::Command(_) => 15_000,
        }
    }

    /// What is lacking, for people, as a clause after a name.
    pub fn lack(&self) -> String {
        match self {
            Self::Runs => "did not run".to_owned(),
            Self::Tcp(port) => format!("did not listen on port {port}"),
            Self::Http { port, path } => format!("did not answer {path} on port {port} with a status below 500"),
            Self::Command(command) => format!("did not pass its readiness command {:?}", command.last().map(String::as_str).unwrap_or_default()),
        }
    }
}

/// Whether a preview of a port leads to the app. `state` is that of the process which the port was declared for; none is wanted of a port
/// that nobody is started for, and then all that counts is whether somebody listens.
pub fn preview_state(state: AppState, has_process: bool, listens: bool) -> PreviewState {
    match (has_process, state, listens) {
        (false, _, true) => PreviewState::Ready,
        (false, _, false) => PreviewState::Closed,
        (true, AppState::Ready | AppState::Unhealthy, true) => PreviewState::Ready,
        (true, AppState::Starting | AppState::Ready | AppState::Unhealthy, _) => PreviewState::Opening,
        (true, AppState::None | AppState::Exited | AppState::Failed, _) => PreviewState::Closed,
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests;
