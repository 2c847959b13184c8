//! The task that keeps one process of an app up. It asks the decision what is next, does it inside the sandbox, and says what came of
//! it; whoever wants something of it sends a command, and reads what it last published.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    app::{
        AppState,
        launch::{Check, Entry},
        supervise::{Ending, Next, Phase, Seen, Upkeep, Why},
    },
    limits::app_launch as limits,
    redact::Redactor,
};
use sandbar_node::{Runtime, client::ProcdError};
use tokio::sync::{mpsc, oneshot, watch};

use super::process::{self, Found, Of};
use crate::app::sandboxes::now_ms;

/// An agent that does not answer is asked again after this time.
const AGAIN: Duration = Duration::from_millis(500);
/// Between the first two looks at whether a port answers. The pauses grow to what the manifest says: most apps are up long before that.
const FIRST_LOOK_MS: u64 = 4;
/// One that has not answered for so long cannot start anything.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// What an entry's process stands on.
#[derive(Debug, Clone, Default)]
pub(super) struct Ground {
    /// It is known whether the sandbox runs.
    pub looked: bool,
    /// None while it sleeps.
    pub runtime: Option<Arc<Runtime>>,
}

/// What a driver publishes.
#[derive(Debug, Clone)]
pub(crate) struct EntryView {
    pub entry: Arc<Entry>,
    pub state: AppState,
    pub phase: Phase,
    /// How many times somebody wanted it, up to what is shown here.
    pub heard: u64,
    /// How it ended last, since it was wanted.
    pub last: Option<Ending>,
    pub restarts: u32,
    /// The entry that it waits for.
    pub waits_for: Option<String>,
    /// Its processes as runtime and context, the oldest first.
    pub processes: Vec<(String, String)>,
    pub pid: Option<u32>,
    /// When the present process was found or started.
    pub started_at_ms: Option<i64>,
    /// Declared ports on which somebody listened when it was last looked.
    pub listening: Vec<u16>,
}

/// What can be asked of a driver.
pub(super) enum Command {
    Start,
    /// Nobody wants it any more. The reply says how it ended, if it ran.
    Stop {
        grace: Duration,
        reply: oneshot::Sender<Option<Ending>>,
    },
}

pub(super) struct Driver {
    pub upkeep: Upkeep,
    pub heard: u64,
    pub view: watch::Sender<EntryView>,
    pub commands: mpsc::Receiver<Command>,
    pub place: Place,
}

/// What a process is started with, and what takes the secrets among it out of what it prints.
pub(super) type Fresh = (Arc<Entry>, Arc<Redactor>);

/// Where a process is, and what it depends on.
pub(super) struct Place {
    pub entry: Arc<Entry>,
    /// Takes secrets out of the last lines.
    pub redactor: Arc<Redactor>,
    /// The same for the next process: what the app is given may have changed.
    pub latest: watch::Receiver<Fresh>,
    pub ground: watch::Receiver<Ground>,
    /// Advances whenever some process of the sandbox has ended.
    pub ends: watch::Receiver<u64>,
    pub dependencies: Vec<watch::Receiver<EntryView>>,
    /// The context of the present process.
    pub context_id: Option<String>,
    /// The last whose end was seen.
    pub seen_to_end: Option<String>,
}

impl Driver {
    /// Goes on until nobody can ask for anything any more.
    pub async fn run(mut self) {
        self.publish();
        loop {
            let ground = self.place.ground.borrow_and_update().clone();
            let next = self.upkeep.next(now_ms());
            let mut changes = self.place.ground.clone();
            let seen = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None => return,
                    Some(Command::Start) => {
                        self.heard += 1;
                        Seen::Wanted
                    }
                    Some(Command::Stop { grace, reply }) => {
                        let now = self.place.ground.borrow().runtime.clone();
                        let ending = self.place.stop(now.as_deref(), grace).await;
                        self.upkeep.see(Seen::Unwanted, now_ms());
                        self.publish();
                        let _ = reply.send(ending);
                        continue;
                    }
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.place.context_id = None;
                    Seen::Lost
                }
                seen = self.place.perform(next, ground.runtime.as_ref(), &self.view) => seen,
            };
            if let Seen::Ended(ending) | Seen::Blocked(ending) = &seen {
                tracing::info!(entry = self.place.entry.name, why = ending.why.as_str(), text = ending.text, "a process of an app is over");
            }
            self.upkeep.see(seen, now_ms());
            self.publish();
        }
    }

    fn publish(&self) {
        self.view.send_if_modified(|view| {
            let runs = matches!(self.upkeep.phase(), Phase::Starting { .. } | Phase::Ready { .. } | Phase::Unhealthy { .. });
            let (state, phase, last, restarts) = (self.upkeep.state(), self.upkeep.phase(), self.upkeep.last().cloned(), self.upkeep.restarts());
            let changed = (view.state, view.phase, view.restarts, view.heard) != (state, phase, restarts, self.heard) || view.last != last;
            (view.state, view.phase, view.last, view.restarts, view.heard) = (state, phase, last, restarts, self.heard);
            if !runs {
                view.pid = None;
                view.started_at_ms = None;
                view.listening.clear();
            }
            if !matches!(phase, Phase::Waiting { .. }) {
                view.waits_for = None;
            }
            changed
        });
    }
}

impl Place {
    /// Does what is next, and returns what was seen of it. Can be dropped at any time: what was begun is found again.
    async fn perform(&mut self, next: Next, runtime: Option<&Arc<Runtime>>, view: &watch::Sender<EntryView>) -> Seen {
        match (next, runtime) {
            (Next::Rest, _) => std::future::pending().await,
            (Next::Pause { until_ms }, _) => {
                let wait = u64::try_from(until_ms.saturating_sub(now_ms())).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                // The decision is asked again, and its time has come.
                Seen::Missed
            }
            // Whoever sleeps is not asked anything; it is told when there is ground again.
            (Next::Launch { .. } | Next::Check { .. } | Next::Look | Next::End, None) => std::future::pending().await,
            (Next::Launch { adopt }, Some(runtime)) => self.launch(runtime, adopt, view).await,
            (Next::Check { until_ms }, Some(runtime)) => self.check(runtime, until_ms, view).await,
            (Next::Look, Some(runtime)) => self.look(runtime, view).await,
            (Next::End, Some(runtime)) => {
                let id = self.context_id.clone().unwrap_or_default();
                let log_tail = process::printed(runtime, &self.redactor, &id).await;
                process::end(runtime, self.of(), &id, Duration::from_secs(limits::STOP_GRACE_S)).await;
                let text = format!("{:?} {} within {} s and was ended", self.entry.name, self.entry.check.lack(), self.entry.ready_within_ms / 1000);
                self.over();
                Seen::Ended(Ending { log_tail, ..Ending::new(Why::StartNotReady, text, now_ms()) })
            }
        }
    }

    async fn launch(&mut self, runtime: &Arc<Runtime>, adopt: bool, view: &watch::Sender<EntryView>) -> Seen {
        let until = Instant::now() + ANSWERS_WITHIN;
        let why = loop {
            match self.try_launch(runtime, adopt, view).await {
                Ok(seen) => return seen,
                // It is ending, or busy; if it is ending we are told.
                Err(ProcdError::Gone(_)) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                Err(ProcdError::Api { body, .. }) => break body.message,
                Err(error) => break error.to_string(),
            }
        };
        Seen::Ended(Ending::new(Why::NotStarted, format!("{:?} could not be started: {why}", self.entry.name), now_ms()))
    }

    async fn try_launch(&mut self, runtime: &Arc<Runtime>, adopt: bool, view: &watch::Sender<EntryView>) -> Result<Seen, ProcdError> {
        match process::find(runtime, &self.entry, self.seen_to_end.as_deref()).await? {
            Found::Running(context) => {
                self.runs(runtime, &context, view);
                return Ok(Seen::Runs);
            }
            Found::Ended(context) if adopt => {
                let ending = process::ending(runtime, self.of(), &context.id).await;
                self.runs(runtime, &context, view);
                self.over();
                return Ok(Seen::Ended(ending));
            }
            Found::Ended(_) | Found::None => {}
        }
        if let Err(ending) = self.wait_for_dependencies(view).await {
            return Ok(Seen::Blocked(ending));
        }
        (self.entry, self.redactor) = self.latest.borrow().clone();
        let context = process::start(runtime, &self.entry).await?;
        self.runs(runtime, &context, view);
        Ok(Seen::Runs)
    }

    /// Returns when all that it depends on is ready; with why that cannot be.
    async fn wait_for_dependencies(&mut self, view: &watch::Sender<EntryView>) -> Result<(), Ending> {
        for dependency in &mut self.dependencies {
            let name = dependency.borrow().entry.name.clone();
            if dependency.borrow().state != AppState::Ready {
                view.send_modify(|view| view.waits_for = Some(name.clone()));
            }
            let settled = dependency.wait_for(|view| !matches!(view.state, AppState::Starting | AppState::Unhealthy)).await;
            let (state, last) = match settled {
                Ok(view) => (view.state, view.last.clone()),
                Err(_) => (AppState::None, None),
            };
            if state != AppState::Ready {
                let why = last.map_or_else(|| "it does not run".to_owned(), |last| last.text);
                let text = format!("{:?} depends on {name:?}, which is not ready: {why}", self.entry.name);
                return Err(Ending::new(Why::DependencyFailed, text, now_ms()));
            }
        }
        Ok(())
    }

    /// Asks until it is ready, until it ended or until the time is over.
    async fn check(&mut self, runtime: &Arc<Runtime>, until_ms: i64, view: &watch::Sender<EntryView>) -> Seen {
        let Some(id) = self.context_id.clone() else { return Seen::Lost };
        let entry = &self.entry;
        let mut pause_ms = match entry.check {
            Check::Runs | Check::Tcp(_) | Check::Http { .. } => FIRST_LOOK_MS.min(entry.check_every_ms),
            // Each look is a program that is started.
            Check::Command(_) => entry.check_every_ms,
        };
        let asked = async {
            loop {
                let left = u64::try_from(until_ms.saturating_sub(now_ms())).unwrap_or(0);
                if left == 0 {
                    return Seen::Missed;
                }
                if process::passes(runtime, entry, Duration::from_millis(left)).await {
                    return Seen::Passed;
                }
                tokio::time::sleep(Duration::from_millis(pause_ms.min(left))).await;
                pause_ms = (pause_ms * 3 / 2).min(entry.check_every_ms);
            }
        };
        let seen = tokio::select! {
            biased;
            ending = process::ended(runtime, Of { entry, redactor: &self.redactor }, &id, &mut self.ends) => Seen::Ended(ending),
            seen = asked => seen,
        };
        match seen {
            Seen::Ended(_) => self.over(),
            Seen::Passed => {
                // It may have ended while somebody else answered in its place.
                if let Some(ending) = process::has_ended(runtime, self.of(), &id).await {
                    self.over();
                    return Seen::Ended(ending);
                }
                self.look_at_ports(runtime, view).await;
            }
            _ => {}
        }
        seen
    }

    /// After a while, whether it still passes; at once, when it ended.
    async fn look(&mut self, runtime: &Arc<Runtime>, view: &watch::Sender<EntryView>) -> Seen {
        let Some(id) = self.context_id.clone() else { return Seen::Lost };
        let entry = &self.entry;
        let looked = async {
            tokio::time::sleep(Duration::from_millis(entry.check.look_every_ms())).await;
            match entry.check {
                // That it runs is looked at beside.
                Check::Runs => Seen::Passed,
                Check::Tcp(_) | Check::Http { .. } | Check::Command(_) if process::passes(runtime, entry, Duration::MAX).await => Seen::Passed,
                Check::Tcp(_) | Check::Http { .. } | Check::Command(_) => Seen::Missed,
            }
        };
        let seen = tokio::select! {
            biased;
            ending = process::ended(runtime, Of { entry, redactor: &self.redactor }, &id, &mut self.ends) => Seen::Ended(ending),
            seen = looked => seen,
        };
        match &seen {
            Seen::Ended(_) => self.over(),
            _ => self.look_at_ports(runtime, view).await,
        }
        seen
    }

    async fn look_at_ports(&self, runtime: &Arc<Runtime>, view: &watch::Sender<EntryView>) {
        if self.entry.ports.is_empty() {
            return;
        }
        let listening = process::listening(runtime, self.entry.ports.iter().map(|port| port.port)).await;
        view.send_if_modified(|view| {
            let changed = view.listening != listening;
            view.listening = listening;
            changed
        });
    }

    fn runs(&mut self, runtime: &Runtime, context: &sandbar_procd_api::Context, view: &watch::Sender<EntryView>) {
        self.context_id = Some(context.id.clone());
        let process = (runtime.id.clone(), context.id.clone());
        view.send_modify(|view| {
            view.waits_for = None;
            view.pid = context.pid;
            view.started_at_ms = i64::try_from(context.created_ms).ok();
            if !view.processes.contains(&process) {
                view.processes.push(process);
                let too_many = view.processes.len().saturating_sub(limits::PROCESSES_REMEMBERED_MAX);
                view.processes.drain(..too_many);
            }
        });
    }

    fn of(&self) -> Of<'_> {
        Of { entry: &self.entry, redactor: &self.redactor }
    }

    fn over(&mut self) {
        self.seen_to_end = self.context_id.take().or(self.seen_to_end.take());
    }

    /// Ends its process, if it has one, and what a former one left running.
    async fn stop(&mut self, runtime: Option<&Runtime>, grace: Duration) -> Option<Ending> {
        let runtime = runtime?;
        let id = match self.context_id.take() {
            Some(id) => id,
            // One may have been started just now.
            None => match process::find(runtime, &self.entry, None).await {
                Ok(Found::Running(context)) => context.id,
                Ok(Found::Ended(context)) => {
                    // It ended by itself, and what it left running is to end, too.
                    process::end(runtime, self.of(), &context.id, grace).await;
                    return None;
                }
                Ok(Found::None) | Err(_) => return None,
            },
        };
        Some(process::end(runtime, self.of(), &id, grace).await)
    }
}
