//! Places of which everybody has so many and nobody more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

/// Places by name of who takes them. Who holds none is forgotten.
#[derive(Debug)]
pub struct Shares {
    each: usize,
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Shares {
    pub fn new(each: usize) -> Self {
        Self { each, places: Mutex::default() }
    }

    /// The places of one. They are held by its owned permits.
    pub fn of(&self, who: &str) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(places.entry(who.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.each))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_its_share_and_who_has_none_is_forgotten() {
        let shares = Shares::new(2);
        let first = shares.of("a").try_acquire_owned().expect("a place");
        let second = shares.of("a").try_acquire_owned().expect("a place");
        assert!(shares.of("a").try_acquire_owned().is_err());
        assert!(shares.of("b").try_acquire_owned().is_ok(), "another has its own");
        drop(first);
        assert!(shares.of("a").try_acquire_owned().is_ok());
        drop(second);
        drop(shares.of("c"));
        assert_eq!(shares.places.lock().expect("a lock").keys().collect::<Vec<_>>(), ["c"]);
    }
}
