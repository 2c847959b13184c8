//! Places of which nobody gets more than a share.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts places by who has them.
pub(crate) struct Shares<K> {
    all_max: usize,
    each_max: usize,
    taken: Mutex<Taken<K>>,
}

struct Taken<K> {
    all: usize,
    each: HashMap<K, usize>,
}

/// A place, until it is dropped.
pub(crate) struct Place<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    key: Option<K>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    pub fn new(all_max: usize, each_max: usize) -> Arc<Self> {
        Arc::new(Self { all_max, each_max, taken: Mutex::new(Taken { all: 0, each: HashMap::new() }) })
    }

    /// A place for somebody; none when all are taken or the share is. Without a key there is no share.
    pub fn take(self: &Arc<Self>, key: Option<K>) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.all_max {
            return None;
        }
        if let Some(key) = &key {
            let own = taken.each.entry(key.clone()).or_default();
            if *own >= self.each_max {
                return None;
            }
            *own += 1;
        }
        taken.all += 1;
        Some(Place { shares: Arc::clone(self), key })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        let Some(key) = &self.key else { return };
        if let Some(own) = taken.each.get_mut(key) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.each.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_a_share_and_all_together_not_more_than_there_is() {
        let shares = Shares::new(5, 2);
        let held: Vec<_> = ["a", "a", "a", "b", "b", "c"].into_iter().map(|key| shares.take(Some(key))).collect();
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, true, true, true]);
        assert!(shares.take(None).is_none(), "all are taken");
        drop(held);
        assert!(shares.take(Some("a")).is_some() && shares.take(None).is_some());
        assert!(shares.taken.lock().unwrap().each.is_empty());
    }
}
