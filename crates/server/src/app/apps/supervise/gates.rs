//! Which declared ports may be reached from outside: those whose process is ready. The gateway asks before it lets somebody in.

use std::sync::{Arc, Weak};

use futures_util::future::select_all;
use sandbar_core::app::{AppState, PreviewState, launch, launch::Launch};
use tokio::sync::watch;

use super::{EntryView, driver::Ground};
use crate::app::{App, previews::Gate};

pub(super) struct Gatekeeper {
    pub app: Weak<App>,
    pub sandbox_id: String,
    pub views: Vec<watch::Receiver<EntryView>>,
    pub ground: watch::Receiver<Ground>,
}

impl Gatekeeper {
    /// Goes on until it is dropped.
    pub async fn run(mut self) {
        loop {
            let awake = self.ground.borrow_and_update().runtime.is_some();
            let views: Vec<EntryView> = self.views.iter_mut().map(|view| view.borrow_and_update().clone()).collect();
            let Some(app) = self.app.upgrade() else { return };
            for view in &views {
                for port in view.entry.ports.iter().map(|port| port.port) {
                    app.previews.set_gate(&self.sandbox_id, port, gate(view, port, awake));
                }
            }
            drop(app);
            let changes: Vec<_> = self.views.iter_mut().map(|view| Box::pin(async { drop(view.changed().await) })).collect();
            tokio::select! {
                changed = self.ground.changed() => if changed.is_err() {
                    return;
                },
                ((), _, _) = select_all(changes) => {}
            }
        }
    }
}

/// Begins to keep the gates of a sandbox in which something is kept up: nobody is let in before it is ready. Ports that are declared
/// for no process are for whoever listens there.
pub(in crate::app) fn begin(app: &Arc<App>, sandbox_id: &str, launch: &Launch) {
    app.previews.keep_gates(sandbox_id);
    close(app, sandbox_id, launch);
    for (_, port) in launch.ports().filter(|(of, _)| launch.entry(of).is_none()) {
        app.previews.set_gate(sandbox_id, port.port, Gate::Open);
    }
}

/// The same where nothing is: all ports are closed.
pub(in crate::app) fn begin_closed(app: &Arc<App>, sandbox_id: &str, launch: &Launch) {
    app.previews.keep_gates(sandbox_id);
    close(app, sandbox_id, launch);
}

/// Closes all declared ports of a sandbox that is still there: nothing is kept up in it any more.
pub(in crate::app) fn close(app: &Arc<App>, sandbox_id: &str, launch: &Launch) {
    let reason = format!("App {:?} is not online.", launch.app);
    for (_, port) in launch.ports() {
        app.previews.set_gate(sandbox_id, port.port, Gate::Closed { reason: reason.clone() });
    }
}

/// Closes all ports, where it is not known which ones it does.
pub(in crate::app) fn close_all(app: &Arc<App>, sandbox_id: &str) {
    app.previews.close_gates(sandbox_id, "The app cannot be read.");
}

fn gate(view: &EntryView, port: u16, awake: bool) -> Gate {
    let name = &view.entry.name;
    if !awake && matches!(view.state, AppState::Starting | AppState::Ready | AppState::Unhealthy) {
        // Who may wake it does, and meets it when it is ready again.
        return Gate::Opening { reason: "The app is waking up.".to_owned() };
    }
    match launch::preview_state(view.state, true, view.listening.contains(&port)) {
        PreviewState::Ready => Gate::Open,
        PreviewState::Opening => Gate::Opening { reason: format!("{name:?} is starting.") },
        PreviewState::Closed => {
            let why = view.last.as_ref().map_or_else(|| format!("{name:?} is not running."), |last| format!("{}.", last.text));
            Gate::Closed { reason: why }
        }
    }
}
