//! Who may query items now. A query may read much, and there are few readers for everything: so one query runs at a time, and
//! of each team one waits for that, the others behind it. A team that asks all the time makes others wait for one of its
//! queries, not for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sandbar_core::limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::StoreError;

pub struct Turns {
    all: Arc<Semaphore>,
    /// One place each. Whoever waits or has one holds a reference.
    teams: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Leave to query, until it is dropped. It goes with the query, which ends later than who asked may wait.
pub struct Turn {
    _all: OwnedSemaphorePermit,
    _team: OwnedSemaphorePermit,
}

/// Teams that are remembered though none of theirs waits.
const IDLE_MAX: usize = 1000;

impl Turns {
    pub fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(1)), teams: Mutex::default() }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] when too many of the team wait already.
    pub async fn take(&self, team_id: &str) -> Result<Turn, StoreError> {
        let team = self.place(team_id)?.acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let all = Arc::clone(&self.all).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        Ok(Turn { _all: all, _team: team })
    }

    fn place(&self, team_id: &str) -> Result<Arc<Semaphore>, StoreError> {
        let mut teams = self.teams.lock().unwrap_or_else(PoisonError::into_inner);
        if teams.len() > IDLE_MAX {
            teams.retain(|_, place| Arc::strong_count(place) > 1);
        }
        let place = teams.entry(team_id.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1)));
        match Arc::strong_count(place) > limits::QUERIES_WAITING_MAX {
            true => Err(StoreError::TooMany { what: "queries of this team that wait", max: limits::QUERIES_WAITING_MAX }),
            false => Ok(Arc::clone(place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn one_of_each_team_is_in_the_queue() {
        let turns = Turns::new();
        let running = poll_once(pin!(turns.take("busy"))).expect("is free").expect("a turn");
        let mut second = pin!(turns.take("busy"));
        assert!(poll_once(second.as_mut()).is_none());
        let mut other = pin!(turns.take("other"));
        assert!(poll_once(other.as_mut()).is_none());
        drop(running);
        // The busy team asked first, and is behind all the same.
        let turn = poll_once(other.as_mut()).expect("is next").expect("a turn");
        assert!(poll_once(second.as_mut()).is_none());
        drop(turn);
        assert!(poll_once(second.as_mut()).expect("is next").is_ok());
    }

    #[test]
    fn a_team_has_so_many_that_wait() {
        let turns = Turns::new();
        let places: Vec<_> = (0..limits::QUERIES_WAITING_MAX).map(|_| turns.place("a").expect("has room")).collect();
        assert!(matches!(turns.place("a"), Err(StoreError::TooMany { .. })));
        assert!(turns.place("b").is_ok());
        drop(places);
        assert!(turns.place("a").is_ok());
    }
}
