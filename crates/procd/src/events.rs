//! The newest events, for those who follow them.
use std::cell::RefCell;
use std::collections::VecDeque;

use sandbar_procd_api::{Event, EventKind};
use tokio::sync::Notify;

use crate::limits::EVENTS_MAX;

/// A ring of events, numbered from 1.
#[derive(Debug, Default)]
pub struct Events {
    ring: RefCell<VecDeque<Event>>,
    seq: std::cell::Cell<u64>,
    /// Called at each new event.
    pub added: Notify,
}

impl Events {
    /// Records an event.
    pub fn add(&self, kind: EventKind) {
        let seq = self.seq.get() + 1;
        self.seq.set(seq);
        let mut ring = self.ring.borrow_mut();
        if ring.len() >= EVENTS_MAX {
            ring.pop_front();
        }
        ring.push_back(Event { seq, at_ms: crate::agent::now_ms(), kind });
        self.added.notify_waiters();
    }

    /// Events after a number, as lines of JSON, and the number to go on from.
    pub fn lines_after(&self, after: u64) -> (Vec<u8>, u64) {
        let mut lines = Vec::new();
        for event in self.ring.borrow().iter().filter(|e| e.seq > after) {
            if serde_json::to_writer(&mut lines, event).is_ok() {
                lines.push(b'\n');
            }
        }
        (lines, self.seq.get().max(after))
    }
}
