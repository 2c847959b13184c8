//! Who has a worker, and who waits for one.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Inner, Refused, WorkersConfig};
use crate::Link;

#[derive(Debug, Default)]
pub(super) struct State {
    pub seats: HashMap<String, Seat>,
    /// Turns of teams that have TypeScript to read.
    pub strips: HashMap<String, Arc<Semaphore>>,
    pub spare: Spare,
    /// Somebody ends idle workers.
    pub swept: bool,
    /// One has started: the engine is compiled.
    pub started: bool,
}

#[derive(Debug)]
pub(super) struct Seat {
    pub worker: Arc<OnceCell<Link>>,
    room: Room,
    /// Calls that have or want the worker.
    users: usize,
    used: Instant,
}

/// What the calls of one team share.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub turns: Arc<Semaphore>,
    pub memory: Arc<Semaphore>,
    pub checks: Arc<Semaphore>,
}

#[derive(Debug, Default)]
pub(super) enum Spare {
    #[default]
    None,
    Starting,
    Ready(Link),
}

/// A call's hold on its team's seat.
#[derive(Debug)]
pub(super) struct User {
    inner: Arc<Inner>,
    team_id: String,
}

impl Inner {
    /// A seat for the team, in which it stays as long as it has users.
    pub(super) async fn sit(self: &Arc<Self>, team_id: &str) -> Result<User, Refused> {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.try_sit(team_id)? {
                return Ok(User { inner: Arc::clone(self), team_id: team_id.to_owned() });
            }
            left.await;
        }
    }

    /// False when all seats are taken by others who use them.
    fn try_sit(self: &Arc<Self>, team_id: &str) -> Result<bool, Refused> {
        let mut state = self.state();
        if let Some(seat) = state.seats.get_mut(team_id) {
            if seat.users >= self.config.calls_per_worker_max + self.config.waiting_max {
                return Err(Refused::Busy(format!("{} calls of this team wait already", self.config.waiting_max)));
            }
            seat.users += 1;
            return Ok(true);
        }
        if state.seats.len() >= self.config.workers_max {
            let longest = state.seats.iter().filter(|(_, seat)| seat.users == 0).min_by_key(|(_, seat)| seat.used);
            match longest.map(|(team_id, _)| team_id.clone()) {
                Some(team_id) => state.remove(&team_id),
                None if state.seats.len() >= self.config.workers_busy_max => return Ok(false),
                None => {}
            }
        }
        state.seats.insert(team_id.to_owned(), Seat::new(&self.config));
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.config.idle_max, self.closing.clone()));
        }
        Ok(true)
    }
}

impl Seat {
    fn new(config: &WorkersConfig) -> Self {
        let room = Room {
            turns: Arc::new(Semaphore::new(config.calls_per_worker_max)),
            memory: Arc::new(Semaphore::new(config.team_units())),
            checks: Arc::new(Semaphore::new(1)),
        };
        Self { worker: Arc::default(), room, users: 1, used: Instant::now() }
    }
}

impl State {
    pub fn room(&self, team_id: &str) -> Option<Room> {
        self.seats.get(team_id).map(|seat| seat.room.clone())
    }

    fn remove(&mut self, team_id: &str) {
        if let Some(link) = self.seats.remove(team_id).and_then(|seat| seat.worker.get().cloned()) {
            link.end("the engine was not used any more");
        }
    }
}

impl Spare {
    /// The one that is there, and not one that is on its way.
    pub fn take_ready(&mut self) -> Option<Link> {
        match std::mem::take(self) {
            Self::Ready(link) => (!link.is_gone()).then_some(link),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl User {
    pub fn team_id(&self) -> &str {
        &self.team_id
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(seat) = self.inner.state().seats.get_mut(&self.team_id) {
            seat.users -= 1;
            seat.used = Instant::now();
        }
        self.inner.left.notify_waiters();
    }
}

/// Ends workers that nobody has used for a while.
async fn sweep(inner: Weak<Inner>, idle_max: Duration, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(idle_max / 4) => {}
            () = closing.cancelled() => return,
        }
        let Some(inner) = inner.upgrade() else { return };
        let mut state = inner.state();
        let idle = state.seats.iter().filter(|(_, seat)| seat.users == 0 && seat.used.elapsed() >= idle_max);
        for team_id in idle.map(|(team_id, _)| team_id.clone()).collect::<Vec<_>>() {
            state.remove(&team_id);
        }
    }
}
