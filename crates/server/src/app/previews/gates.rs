//! Ports that are closed for a while, because what serves them is not ready, or for good, because nobody declared them.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use sandbar_core::limits::FUNCTION_SERVICE_PORT;

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

/// By sandbox. All ports are open of a sandbox that is not here; of one that is, those that are named here as open.
#[derive(Default)]
pub(super) struct Gates(RwLock<HashMap<String, Ports>>);

enum Ports {
    Named(HashMap<u16, Gate>),
    /// Nothing is known of any of them.
    Closed {
        reason: String,
    },
}

impl Gates {
    pub fn get(&self, sandbox_id: &str, port: u16) -> Gate {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match gates.get(sandbox_id) {
            // Functions of the sandbox's owner are no business of an app.
            None => Gate::Open,
            Some(_) if port == FUNCTION_SERVICE_PORT => Gate::Open,
            Some(Ports::Closed { reason }) => Gate::Closed { reason: reason.clone() },
            Some(Ports::Named(ports)) => {
                ports.get(&port).cloned().unwrap_or_else(|| Gate::Closed { reason: format!("Port {port} is not declared by the app.") })
            }
        }
    }

    pub fn has(&self, sandbox_id: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(sandbox_id)
    }

    /// Closes what is not set, until [`Self::forget`].
    pub fn keep(&self, sandbox_id: &str) {
        let mut gates = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(gates.get(sandbox_id), Some(Ports::Named(_))) {
            gates.insert(sandbox_id.to_owned(), Ports::Named(HashMap::new()));
        }
    }

    /// Closes all, and lets none be set until [`Self::keep`].
    pub fn close(&self, sandbox_id: &str, reason: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(sandbox_id.to_owned(), Ports::Closed { reason: reason.to_owned() });
    }

    /// Of a sandbox that is not kept nothing is set: it is gone.
    pub fn set(&self, sandbox_id: &str, port: u16, gate: Gate) {
        if let Some(Ports::Named(ports)) = self.0.write().unwrap_or_else(PoisonError::into_inner).get_mut(sandbox_id) {
            ports.insert(port, gate);
        }
    }

    pub fn forget(&self, sandbox_id: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(sandbox_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_as_a_whole_stays_so_until_it_is_kept_anew() {
        let gates = Gates::default();
        gates.keep("a");
        gates.set("a", 1, Gate::Open);
        gates.close("a", "unreadable");
        gates.close("b", "unreadable");
        let closed = Gate::Closed { reason: "unreadable".into() };
        for sandbox in ["a", "b"] {
            gates.set(sandbox, 2, Gate::Open);
            for port in [1, 2, u16::MAX] {
                assert_eq!(gates.get(sandbox, port), closed);
            }
            assert_eq!(gates.get(sandbox, FUNCTION_SERVICE_PORT), Gate::Open);
        }
        gates.keep("a");
        assert_eq!(gates.get("a", 1), Gate::Closed { reason: "Port 1 is not declared by the app.".into() });
        gates.set("a", 1, Gate::Open);
        assert_eq!((gates.get("a", 1), gates.get("b", 1)), (Gate::Open, closed));
        gates.forget("b");
        assert_eq!(gates.get("b", 1), Gate::Open);
    }

    #[test]
    fn what_nobody_declared_is_closed_where_somebody_keeps_the_gates() {
        let gates = Gates::default();
        let closed = Gate::Closed { reason: "stopped".into() };
        gates.set("a", 1, closed.clone());
        assert_eq!(gates.get("a", 1), Gate::Open, "nobody keeps them");
        gates.keep("a");
        gates.set("a", 1, closed.clone());
        gates.set("a", 2, Gate::Opening { reason: "starting".into() });
        gates.keep("a");
        assert_eq!((gates.get("a", 1), gates.get("b", 1)), (closed, Gate::Open));
        assert_eq!(gates.get("a", 3), Gate::Closed { reason: "Port 3 is not declared by the app.".into() });
        assert_eq!(gates.get("a", FUNCTION_SERVICE_PORT), Gate::Open);
        gates.set("a", 1, Gate::Open);
        assert_eq!(gates.get("a", 1), Gate::Open);
        gates.forget("a");
        gates.set("a", 2, Gate::Closed { reason: "too late".into() });
        assert_eq!(gates.get("a", 2), Gate::Open);
        assert!(gates.0.read().expect("nobody panicked").is_empty(), "nothing is left of what is gone");
    }
}
