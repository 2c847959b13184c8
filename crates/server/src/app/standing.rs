//! Whether somebody may still do what they began: asked again for all that lasts longer than a request, be it a body, a WebSocket or
//! an SSH connection. A key can be ended, a role taken away, somebody log out.
//!
//! It is asked when such a thing happened, before anything more is passed on, and every few seconds besides, since time ends keys, too.

use std::time::Duration;

use sandbar_api::ErrorCode;
use sandbar_core::roles::Permissions;
use tokio::sync::watch;

use super::{SharedApp, auth::Principal};
use crate::error::ApiError;

/// It is asked this often when nothing is known to have happened.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A store that does not answer is asked again after this time. Nothing is passed on meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Tells that it is time to ask.
#[derive(Debug, Clone)]
pub(crate) struct Changes(watch::Receiver<()>);

impl Changes {
    pub fn new(changes: watch::Receiver<()>) -> Self {
        Self(changes)
    }

    /// Returns when something was revoked, or it was not asked for a while.
    pub async fn next(&mut self) {
        tokio::select! {
            changed = self.0.changed() => if changed.is_err() {
                // The server ends.
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }

    /// Whether something was revoked since the last time.
    fn take(&mut self) -> bool {
        let changed = self.0.has_changed().unwrap_or(true);
        self.0.mark_unchanged();
        changed
    }
}

/// Somebody who was allowed to just now, and what they need to be allowed to still.
#[derive(Clone)]
pub(crate) struct Standing {
    app: SharedApp,
    who: Principal,
    needs: Permissions,
    changes: Changes,
}

impl Standing {
    pub fn new(app: &SharedApp, who: &Principal, needs: Permissions) -> Self {
        let mut changes = app.auth.changes();
        // What was revoked since it was found out who asks.
        changes.mark_changed();
        Self { app: SharedApp::clone(app), who: who.clone(), needs, changes: Changes(changes) }
    }

    /// Returns when it is time to ask.
    pub async fn changed(&mut self) {
        self.changes.next().await;
    }

    /// Refuses who may not any more.
    pub async fn ask(&self) -> Result<(), ApiError> {
        loop {
            match self.app.auth.verify_again(&self.who).await {
                Ok(now) if now.permissions.covers(self.needs) => return Ok(()),
                Ok(_) => return Err(ApiError::new(ErrorCode::Forbidden, "your role was changed since this began; begin it again")),
                Err(error) if error.status() < 500 => return Err(error),
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// To be asked before anything is passed on: costs next to nothing while nothing was revoked.
    pub async fn pass(&mut self) -> Result<(), ApiError> {
        if self.changes.take() { self.ask().await } else { Ok(()) }
    }

    /// Resolves when whoever it is may not any more, with why.
    pub async fn over(mut self) -> ApiError {
        loop {
            self.changed().await;
            if let Err(error) = self.ask().await {
                return error;
            }
        }
    }
}
