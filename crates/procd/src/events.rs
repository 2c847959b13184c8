//! The newest events, for those who follow them.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use sandbar_procd_api::{Event, EventKind};
use serde_json::Value;
use tokio::sync::Notify;

use crate::limits::{EVENT_LINES_BYTES, EVENTS_MAX, PUBLISHED_BYTES_MAX, PUBLISHED_MAX};

/// A ring of events, numbered from 1. What programs published stays in it until somebody has taken it.
#[derive(Debug, Default)]
pub struct Events {
    ring: RefCell<VecDeque<Event>>,
    seq: Cell<u64>,
    published: Cell<Published>,
    /// Called at each new event.
    pub added: Notify,
}

/// What of the ring nobody has taken yet.
#[derive(Debug, Clone, Copy, Default)]
struct Published {
    count: usize,
    bytes: usize,
}

/// What came of publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// It waits, or one with the same id does.
    Queued,
    /// Too much waits already.
    Full,
}

impl Events {
    /// Records an event.
    pub fn add(&self, kind: EventKind) {
        let seq = self.seq.get() + 1;
        self.seq.set(seq);
        let mut ring = self.ring.borrow_mut();
        if ring.len() >= EVENTS_MAX
            && let Some(oldest) = ring.iter().position(|event| published(event).is_none())
        {
            ring.remove(oldest);
        }
        ring.push_back(Event { seq, at_ms: crate::agent::now_ms(), kind });
        self.added.notify_waiters();
    }

    /// Records what a program published. `bytes` is the size of its payload.
    pub fn publish(&self, event_id: &str, payload: Value, bytes: usize) -> Publish {
        if self.ring.borrow().iter().any(|event| published(event) == Some(event_id)) {
            return Publish::Queued;
        }
        let waiting = self.published.get();
        if waiting.count >= PUBLISHED_MAX || waiting.bytes + bytes > PUBLISHED_BYTES_MAX {
            return Publish::Full;
        }
        self.published.set(Published { count: waiting.count + 1, bytes: waiting.bytes + bytes });
        self.add(EventKind::Published { event_id: event_id.to_owned(), payload });
        Publish::Queued
    }

    /// Forgets published events up to a number.
    pub fn taken(&self, seq: u64) {
        let mut ring = self.ring.borrow_mut();
        ring.retain(|event| event.seq > seq || published(event).is_none());
        let left = ring.iter().filter_map(|event| match &event.kind {
            EventKind::Published { payload, .. } => Some(payload.to_string().len()),
            EventKind::ProcessStarted { .. } | EventKind::ProcessExited { .. } | EventKind::OutOfMemory { .. } | EventKind::Heartbeat | EventKind::Unknown => {
                None
            }
        });
        self.published.set(left.fold(Published::default(), |sum, bytes| Published { count: sum.count + 1, bytes: sum.bytes + bytes }));
    }

    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        self.seq.get()
    }

    /// Events after a number, as lines of JSON, and the number to go on from. Not all at once, when they are large.
    pub fn lines_after(&self, after: u64) -> (Vec<u8>, u64) {
        let mut lines = Vec::new();
        for event in self.ring.borrow().iter().filter(|e| e.seq > after) {
            if serde_json::to_writer(&mut lines, event).is_ok() {
                lines.push(b'\n');
            }
            if lines.len() >= EVENT_LINES_BYTES {
                return (lines, event.seq);
            }
        }
        (lines, self.seq.get().max(after))
    }
}

/// The id of a published event.
fn published(event: &Event) -> Option<&str> {
    match &event.kind {
        EventKind::Published { event_id, .. } => Some(event_id),
        EventKind::ProcessStarted { .. } | EventKind::ProcessExited { .. } | EventKind::OutOfMemory { .. } | EventKind::Heartbeat | EventKind::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(events: &Events, after: u64) -> Vec<u64> {
        let (lines, _) = events.lines_after(after);
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str::<Event>(line).unwrap().seq).collect()
    }

    #[test]
    fn what_is_published_stays_until_it_is_taken() {
        let events = Events::default();
        assert_eq!(events.publish("a", Value::Null, 4), Publish::Queued);
        assert_eq!(events.publish("a", Value::Null, 4), Publish::Queued, "the same is there already");
        for _ in 0..2 * EVENTS_MAX {
            events.add(EventKind::Heartbeat);
        }
        let kept = ids(&events, 0);
        assert_eq!((kept.len(), kept[0]), (EVENTS_MAX, 1), "others made room");
        events.taken(1);
        assert!(!ids(&events, 0).contains(&1));
        assert_eq!(events.publish("a", Value::Null, 4), Publish::Queued);
        assert_eq!(ids(&events, 2 * EVENTS_MAX as u64 + 1), [2 * EVENTS_MAX as u64 + 2], "it is another one now");
    }

    #[test]
    fn what_is_published_has_bounds() {
        let events = Events::default();
        let large = Value::String("x".repeat(PUBLISHED_BYTES_MAX - 2));
        assert_eq!(events.publish("large", large.clone(), PUBLISHED_BYTES_MAX), Publish::Queued);
        assert_eq!(events.publish("more", Value::Null, 1), Publish::Full);
        events.taken(1);
        for n in 0..PUBLISHED_MAX {
            assert_eq!(events.publish(&n.to_string(), Value::Null, 4), Publish::Queued);
        }
        assert_eq!(events.publish("more", Value::Null, 4), Publish::Full);
    }

    #[test]
    fn lines_come_in_pieces() {
        let events = Events::default();
        for n in 0..4 {
            events.publish(&n.to_string(), Value::String("x".repeat(EVENT_LINES_BYTES / 2)), EVENT_LINES_BYTES / 2);
        }
        let (mut after, mut pieces) = (0, 0);
        while after < 4 {
            let (lines, next) = events.lines_after(after);
            assert!(next > after && lines.len() <= 2 * EVENT_LINES_BYTES);
            (after, pieces) = (next, pieces + 1);
        }
        assert!(pieces >= 2);
        assert_eq!((events.lines_after(4), events.newest()), ((Vec::new(), 4), 4));
    }
}
