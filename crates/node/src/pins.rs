//! What must not be collected although no row names it yet: the ground of operations under way.
//!
//! A collection decides by rows that it read a moment ago. Whatever was pinned since then may have got its row after
//! they were read, so it is left alone too.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::sandbox::Base;

#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// How many hold it.
    held: HashMap<String, usize>,
    /// Everything that was pinned since the collection under way began.
    since: HashSet<String>,
    /// What a row named and does not any more.
    released: HashSet<String>,
}

/// Keeps roots, images or trees from being collected while it lives.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    ids: Vec<String>,
}

impl Pins {
    pub fn pin(&self, ids: Vec<String>) -> Pin {
        let mut state = self.lock();
        for id in &ids {
            *state.held.entry(id.clone()).or_default() += 1;
            state.since.insert(id.clone());
        }
        drop(state);
        Pin { pins: self.clone(), ids }
    }

    pub fn release(&self, ids: impl IntoIterator<Item = String>) {
        self.lock().released.extend(ids);
    }

    /// Begins a collection: call it before rows are read. `false` when there is nothing to collect.
    pub fn begin(&self) -> bool {
        let mut state = self.lock();
        state.since = state.held.keys().cloned().collect();
        !state.released.is_empty()
    }

    /// Whether something was released that could not be looked at yet.
    pub fn has_released(&self) -> bool {
        !self.lock().released.is_empty()
    }

    /// Whether somebody works with it, or did since the collection under way began.
    pub fn is_held(&self, id: &str) -> bool {
        let state = self.lock();
        state.held.contains_key(id) || state.since.contains(id)
    }

    /// What was released and is neither in use nor pinned, now or since the beginning. What is in use is forgotten: it is
    /// released again by whoever names it last.
    pub fn take_unused(&self, in_use: impl Fn(&str) -> bool) -> Vec<String> {
        let mut state = self.lock();
        let State { since, released, .. } = &mut *state;
        let mut unused = Vec::new();
        released.retain(|id| {
            if since.contains(id) {
                return true;
            }
            if !in_use(id) {
                unused.push(id.clone());
            }
            false
        });
        unused
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pin {
    /// Both in one.
    pub fn and(mut self, mut other: Self) -> Self {
        self.ids.append(&mut other.ids);
        self
    }

    /// The ids of a base: its layers and its image.
    pub(crate) fn ids_of(base: &Base) -> Vec<String> {
        base.layers.iter().map(|layer| layer.root_id.clone()).chain([base.image.clone()]).collect()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.lock();
        for id in &self.ids {
            if let Some(count) = state.held.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pinned_during_a_collection_outlives_it() {
        let pins = Pins::default();
        let before = pins.pin(vec!["a".into()]);
        pins.release(["a", "b", "c", "d"].map(str::to_owned));
        assert!(pins.begin());
        let during = pins.pin(vec!["b".into()]);
        drop((before, during));
        assert_eq!(pins.take_unused(|id| id == "d"), ["c"]);
        assert!(pins.begin());
        let mut rest = pins.take_unused(|_| false);
        rest.sort();
        assert_eq!(rest, ["a", "b"], "what was in use is not tried again");
        assert!(!pins.begin());
    }

    #[test]
    fn two_pins_of_one_are_two() {
        let pins = Pins::default();
        let (one, two) = (pins.pin(vec!["a".into()]), pins.pin(vec!["a".into()]));
        pins.release(["a".to_owned()]);
        drop(one);
        pins.begin();
        assert!(pins.take_unused(|_| false).is_empty());
        drop(two);
        pins.begin();
        assert_eq!(pins.take_unused(|_| false), ["a"]);
    }
}
