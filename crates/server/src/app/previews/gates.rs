//! Ports that are closed for a while, because what serves them is not ready.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

/// Whether a port may be reached from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// What serves it is on its way up. The reason is shown to whoever comes.
    Opening {
        reason: String,
    },
    /// Nothing is going to serve it unless somebody does something.
    Closed {
        reason: String,
    },
}

/// By sandbox and port; what is not here is open.
#[derive(Default)]
pub(super) struct Gates(RwLock<HashMap<String, HashMap<u16, Gate>>>);

impl Gates {
    pub fn get(&self, sandbox_id: &str, port: u16) -> Gate {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        gates.get(sandbox_id).and_then(|ports| ports.get(&port)).cloned().unwrap_or(Gate::Open)
    }

    pub fn set(&self, sandbox_id: &str, port: u16, gate: Gate) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if gate != Gate::Open {
            gates.entry(sandbox_id.to_owned()).or_default().insert(port, gate);
        } else if let Some(ports) = gates.get_mut(sandbox_id) {
            ports.remove(&port);
            if ports.is_empty() {
                gates.remove(sandbox_id);
            }
        }
    }

    pub fn open_all(&self, sandbox_id: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(sandbox_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_closed_is_open() {
        let gates = Gates::default();
        let closed = Gate::Closed { reason: "stopped".into() };
        gates.set("a", 1, closed.clone());
        gates.set("a", 2, Gate::Opening { reason: "starting".into() });
        assert_eq!((gates.get("a", 1), gates.get("a", 3), gates.get("b", 1)), (closed, Gate::Open, Gate::Open));
        gates.set("a", 1, Gate::Open);
        assert_eq!(gates.get("a", 1), Gate::Open);
        gates.open_all("a");
        assert_eq!(gates.get("a", 2), Gate::Open);
        gates.set("a", 2, Gate::Open);
        assert!(gates.0.read().expect("nobody panicked").is_empty());
    }
}
