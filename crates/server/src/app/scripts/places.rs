//! How many calls of scripts there may be at once: of each script as many as its owner says, and of each team so many. Who comes
//! when all places are taken waits in turn; how many may wait is bounded.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::limits;
use tokio::sync::oneshot;

/// All places of all teams.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<String, Team>>);

#[derive(Debug, Default)]
struct Team {
    running: usize,
    /// By id; an entry goes with the last of it.
    scripts: HashMap<String, Script>,
}

#[derive(Debug, Default)]
struct Script {
    running: usize,
    max: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// None once it was given back.
    places: Option<Arc<Places>>,
    team_id: String,
    script_id: String,
}

/// All places are taken, and too many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// Calls of the script at once.
    pub max: usize,
}

impl Places {
    /// A place among the `max` of a script, or a turn in its queue, which may hold `waiting_max`.
    pub fn enter(self: &Arc<Self>, team_id: &str, script_id: &str, max: usize, waiting_max: usize) -> Result<Entered, Full> {
        let mut teams = self.lock();
        let team = teams.entry(team_id.to_owned()).or_default();
        let has_room = team.running < limits::SCRIPT_CONCURRENCY_PER_TEAM_MAX;
        let script = team.scripts.entry(script_id.to_owned()).or_default();
        script.max = max;
        script.waiting.retain(|waiting| !waiting.is_closed());
        if has_room && script.running < max && script.waiting.is_empty() {
            script.running += 1;
            team.running += 1;
            return Ok(Entered::At(self.place(team_id, script_id)));
        }
        if script.waiting.len() >= waiting_max {
            return Err(Full { max });
        }
        let (sender, receiver) = oneshot::channel();
        script.waiting.push_back(sender);
        Ok(Entered::Waiting(receiver))
    }

    fn place(self: &Arc<Self>, team_id: &str, script_id: &str) -> Place {
        Place { places: Some(Arc::clone(self)), team_id: team_id.to_owned(), script_id: script_id.to_owned() }
    }

    /// Gives a place back and lets in who waits.
    fn leave(self: &Arc<Self>, team_id: &str, script_id: &str) {
        let mut teams = self.lock();
        let Some(team) = teams.get_mut(team_id) else { return };
        team.running = team.running.saturating_sub(1);
        if let Some(script) = team.scripts.get_mut(script_id) {
            script.running = script.running.saturating_sub(1);
        }
        // Who was held up by the team may be waiting for any of its scripts.
        for (id, script) in &mut team.scripts {
            while team.running < limits::SCRIPT_CONCURRENCY_PER_TEAM_MAX && script.running < script.max {
                let Some(waiting) = script.waiting.pop_front() else { break };
                match waiting.send(self.place(team_id, id)) {
                    Ok(()) => {
                        script.running += 1;
                        team.running += 1;
                    }
                    // They are gone. Their place was not counted.
                    Err(mut place) => place.places = None,
                }
            }
        }
        team.scripts.retain(|_, script| script.running > 0 || !script.waiting.is_empty());
        if team.running == 0 && team.scripts.is_empty() {
            teams.remove(team_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Team>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of asking for a place.
#[derive(Debug)]
pub(crate) enum Entered {
    At(Place),
    Waiting(oneshot::Receiver<Place>),
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            places.leave(&self.team_id, &self.script_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(entered: Result<Entered, Full>) -> Place {
        match entered {
            Ok(Entered::At(place)) => place,
            other => panic!("{other:?}"),
        }
    }

    fn waiting(entered: Result<Entered, Full>) -> oneshot::Receiver<Place> {
        match entered {
            Ok(Entered::Waiting(waiting)) => waiting,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_waits_comes_in_turn_and_all_comes_back() {
        let places = Arc::new(Places::default());
        let first = at(places.enter("t", "s", 1, 2));
        let mut second = waiting(places.enter("t", "s", 1, 2));
        let mut third = waiting(places.enter("t", "s", 1, 2));
        assert_eq!(places.enter("t", "s", 1, 2).unwrap_err(), Full { max: 1 });
        let other = at(places.enter("t", "other", 1, 0));
        drop(first);
        let second = second.try_recv().expect("it is its turn");
        assert!(third.try_recv().is_err());
        drop(second);
        drop(third.try_recv().expect("it is its turn"));
        drop(other);
        assert!(places.lock().is_empty());
    }

    #[test]
    fn who_went_away_takes_no_place() {
        let places = Arc::new(Places::default());
        let first = at(places.enter("t", "s", 1, 2));
        drop(waiting(places.enter("t", "s", 1, 2)));
        let mut third = waiting(places.enter("t", "s", 1, 2));
        drop(first);
        drop(third.try_recv().expect("it is its turn"));
        // One that is handed over and never taken comes back, too.
        let first = at(places.enter("t", "s", 1, 1));
        let second = waiting(places.enter("t", "s", 1, 1));
        drop(first);
        drop(second);
        assert!(places.lock().is_empty());
    }

    #[test]
    fn a_team_has_so_many_places_for_all_its_scripts() {
        let places = Arc::new(Places::default());
        let mut held: Vec<_> = (0..limits::SCRIPT_CONCURRENCY_PER_TEAM_MAX).map(|n| at(places.enter("t", &n.to_string(), 1, 0))).collect();
        let mut late = waiting(places.enter("t", "late", 1, 1));
        at(places.enter("other", "s", 1, 0));
        held.pop();
        drop(late.try_recv().expect("there is room"));
        drop(held);
        assert!(places.lock().is_empty());
    }
}
