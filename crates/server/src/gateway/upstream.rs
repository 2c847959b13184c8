//! Connections to servers inside, kept for the next request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::body::Body;
use sandbar_node::{Runtime, connections::Connections};

/// Idle connections kept for one server.
const IDLE_MAX: usize = 32;
/// What may be read ahead from a server. Bounds the head of an answer too.
const READ_BUFFER_BYTES_MAX: usize = 128 << 10;
/// Servers that are remembered before it is looked at which are gone.
const SERVERS_MAX: usize = 4096;

/// By runtime and port: a new runtime of a sandbox never gets a connection of the former one.
#[derive(Default)]
pub(super) struct Upstreams(Mutex<HashMap<Server, Arc<Connections<Body>>>>);

/// A runtime's id, a port, and whether TLS is spoken there.
type Server = (String, u16, bool);

impl Upstreams {
    pub fn to(&self, runtime: &Runtime, port: u16, tls: bool) -> Arc<Connections<Body>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SERVERS_MAX {
            known.retain(|_, connections| Arc::strong_count(connections) > 1 || !connections.is_empty());
        }
        let connections = known.entry((runtime.id.clone(), port, tls)).or_insert_with(|| Arc::new(Connections::new(IDLE_MAX, READ_BUFFER_BYTES_MAX)));
        Arc::clone(connections)
    }
}
