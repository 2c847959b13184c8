//! What scripts reach outside of themselves: the Internet, people's mail, an executor. One of it for the server.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
};

use sandbar_core::limits;
use sandbar_node::shares::Shares;
use sandbar_scripts::OpError;
use sandbar_store::ScriptRecord;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    email::{MailError, Mailer},
    live::LiveCalls,
    remote::Executor,
};
use crate::config::Config;

/// Gives secrets by their names.
pub(crate) type SecretOf<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// Who asks for something in a script's run.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub team_id: &'a str,
    /// None when nobody knows which one: an executor that does not know grants asks.
    pub script: Option<&'a ScriptRecord>,
    pub run_id: &'a str,
    /// How many scripts it came through.
    pub depth: u32,
    /// Gives the secrets that are bound to the script; they go where the script wants them without it seeing them.
    pub secret: Option<SecretOf<'a>>,
}

/// A place of a team, and one of all.
pub(super) type Taken = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Places of which everybody has so many, and all together so many.
pub(super) struct Places {
    all: Arc<Semaphore>,
    each: Shares,
}

pub(crate) struct Reach {
    pub(super) fetches: Places,
    pub(crate) mailer: Mailer,
    pub(super) live: LiveCalls,
    /// Where one is configured.
    pub(super) executor: Option<Executor>,
    /// Where the API listens.
    listen: OnceLock<SocketAddr>,
}

/// Why scripts cannot reach what they are to reach.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error("the client of the executor cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("the machine gives no random numbers")]
    NoRandom,
}

impl Reach {
    pub(crate) fn open(config: &Config, data_dir: &Path) -> Result<Self, ReachError> {
        Ok(Self {
            fetches: Places::new(limits::SCRIPT_FETCHES_MAX, limits::SCRIPT_FETCHES_PER_TEAM_MAX),
            mailer: Mailer::open(config, data_dir)?,
            live: LiveCalls::new().ok_or(ReachError::NoRandom)?,
            executor: config.scripts.exec_url.as_deref().map(Executor::new).transpose()?,
            listen: OnceLock::new(),
        })
    }

    /// Tells where the API listens, once that is known.
    pub(crate) fn listens(&self, address: SocketAddr) {
        let _ = self.listen.set(address);
    }

    pub(super) fn listening(&self) -> Option<SocketAddr> {
        self.listen.get().copied()
    }
}

impl Places {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each: Shares::new(each) }
    }

    /// Waits for a place of a team, and then for one of all: who waits for its own takes nothing of what is for all.
    pub(super) async fn take(&self, team: &str) -> Result<Taken, OpError> {
        let closed = |_| OpError::internal("the server is stopping");
        let of_team = self.each.of(team).acquire_owned().await.map_err(closed)?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.map_err(closed)?;
        Ok((of_team, of_all))
    }
}
