//! Waking sandboxes for whoever comes to their public hosts: one wake for all who come, and a pause after one that failed,
//! so that strangers cannot keep a sandbox busy with starts that its owner has to wait for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_api::ErrorCode;
use sandbar_core::sandbox::SandboxRecord;
use sandbar_node::Runtime;
use tokio::sync::watch;

use super::wait::PATIENCE;
use crate::{app::SharedApp, error::ApiError};

/// Pause after a failure, doubled up to the second while it goes on failing.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Sandboxes that are remembered before those whose pause has long passed are forgotten.
const KNOWN_MAX: usize = 1024;

type Woken = (Arc<SandboxRecord>, Arc<Runtime>);

/// Sandboxes that are woken, or could not be a moment ago.
#[derive(Default)]
pub(super) struct Waking(Mutex<HashMap<String, Entry>>);

struct Entry {
    /// The wake under way; empty when it has failed.
    going: Option<watch::Receiver<Option<Result<Woken, ApiError>>>>,
    until: Instant,
    pause: Duration,
}

/// Why a sandbox is not awake.
pub(super) enum Sleeping {
    /// It takes longer than a caller is kept waiting; it goes on.
    Long,
    Refused(ApiError),
}

impl Waking {
    /// Wakes it, or waits for who does already.
    pub async fn wake(&self, app: &SharedApp, record: &SandboxRecord) -> Result<Woken, Sleeping> {
        let mut going = self.join(app, record)?;
        let woken = tokio::time::timeout(PATIENCE, going.wait_for(Option::is_some)).await.map_err(|_| Sleeping::Long)?;
        match woken.ok().and_then(|woken| woken.clone()) {
            Some(Ok(woken)) => Ok(woken),
            Some(Err(_)) => Err(failed(PAUSE.0)),
            None => Err(Sleeping::Long),
        }
    }

    fn join(&self, app: &SharedApp, record: &SandboxRecord) -> Result<watch::Receiver<Option<Result<Woken, ApiError>>>, Sleeping> {
        let mut known = self.lock();
        let now = Instant::now();
        let former = known.get(&record.id);
        if let Some(going) = former.and_then(|entry| entry.going.as_ref()) {
            return Ok(going.clone());
        }
        if let Some(entry) = former.filter(|entry| entry.until > now) {
            return Err(failed(entry.until - now));
        }
        let pause = former.map_or(PAUSE.0, |entry| (entry.pause * 2).min(PAUSE.1));
        if known.len() >= KNOWN_MAX {
            known.retain(|_, entry| entry.going.is_some() || entry.until + PAUSE.1 > now);
        }
        let (sender, going) = watch::channel(None);
        known.insert(record.id.clone(), Entry { going: Some(going.clone()), until: now, pause });
        drop(known);
        let (app, record) = (Arc::clone(app), record.clone());
        app.clone().sandboxes.tasks.spawn(async move {
            let woken = app.wake(&record).await;
            let waking = &app.gateway.waking;
            match &woken {
                Ok(_) => drop(waking.lock().remove(&record.id)),
                Err(error) => {
                    tracing::info!(sandbox = record.id, %error, "a sandbox could not be woken for a request");
                    waking.lock().insert(record.id.clone(), Entry { going: None, until: Instant::now() + pause, pause });
                }
            }
            sender.send_replace(Some(woken));
        });
        Ok(going)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(pause: Duration) -> Sleeping {
    let seconds = pause.as_secs_f64().ceil().max(1.0) as u32;
    Sleeping::Refused(ApiError::new(ErrorCode::SandboxResumeFailed, "the sandbox could not be resumed").retry_after(seconds))
}
