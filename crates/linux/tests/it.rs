//! Real namespaces, mounts and groups: these need root.
#![allow(clippy::unwrap_used)]
#[path = "it/isolation.rs"]
mod isolation;
#[path = "it/layers.rs"]
mod layers;
#[path = "it/life.rs"]
mod life;
#[path = "it/room.rs"]
mod room;

/// What each launch of these tests is preceded by.
fn prepare() {}
