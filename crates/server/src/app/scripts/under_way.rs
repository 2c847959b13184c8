//! Runs that go on, by the trace that their requests are of. What comes back to us by a name that we do not know as ours, or through
//! somebody who hands traces on, says by it which run it came through.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// How many scripts each run came through.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashMap<Uuid, u32>>>);

/// A run that goes on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Going {
    runs: UnderWay,
    run: Option<Uuid>,
}

impl UnderWay {
    pub fn begin(&self, run_id: &str, depth: u32) -> Going {
        let run = Uuid::parse_str(run_id).ok();
        if let Some(run) = run {
            self.lock().insert(run, depth);
        }
        Going { runs: self.clone(), run }
    }

    /// The run that a W3C `traceparent` is of, and its depth.
    pub fn of_trace(&self, traceparent: &str) -> Option<(Uuid, u32)> {
        let trace = traceparent.split('-').nth(1).filter(|trace| trace.len() == 32)?;
        let run = Uuid::try_parse(trace).ok()?;
        let depth = self.lock().get(&run).copied()?;
        Some((run, depth))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if let Some(run) = self.run {
            self.runs.lock().remove(&run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_that_of_a_run_while_it_goes_on() {
        let runs = UnderWay::default();
        let going = runs.begin("0188ac24-0000-7000-8000-000000000001", 3);
        let found = runs.of_trace("00-0188ac24000070008000000000000001-00f067aa0ba902b7-01");
        assert_eq!(found.map(|(run, depth)| (run.to_string(), depth)), Some(("0188ac24-0000-7000-8000-000000000001".to_owned(), 3)));
        for other in ["00-0188ac24000070008000000000000002-00f067aa0ba902b7-01", "00-x-y-z", "0188ac24000070008000000000000001", "", "--"] {
            assert_eq!(runs.of_trace(other), None, "{other}");
        }
        drop(going);
        assert_eq!(runs.of_trace("00-0188ac24000070008000000000000001-00f067aa0ba902b7-01"), None);
        drop(runs.begin("no-uuid", 1));
        assert!(runs.lock().is_empty());
    }
}
