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

/// By sandbox and port. All ports are open of a sandbox that is not here; of one that is, those that are named here as open.
#[derive(Default)]
pub(super) struct Gates(RwLock<HashMap<String, HashMap<u16, Gate>>>);

impl Gates {
    pub fn get(&self, sandbox_id: &str, port: u16) -> Gate {
        let gates = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match gates.get(sandbox_id) {
            // Functions of the sandbox's owner are no business of an app.
            None => Gate::Open,
            Some(_) if port == FUNCTION_SERVICE_PORT => Gate::Open,
            Some(ports) => ports.get(&port).cloned().unwrap_or_else(|| Gate::Closed { reason: format!("Port {port} is not declared by the app.") }),
        }
    }

    /// Closes what is not set, until [`Self::forget`].
    pub fn keep(&self, sandbox_id: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(sandbox_id.to_owned()).or_default();
    }

    /// Of a sandbox that is not kept nothing is set: it is gone.
    pub fn set(&self, sandbox_id: &str, port: u16, gate: Gate) {
        if let Some(ports) = self.0.write().unwrap_or_else(PoisonError::into_inner).get_mut(sandbox_id) {
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
