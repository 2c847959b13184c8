//! What the client side of the command line does: one file per noun.

pub mod copy;
pub mod exec;
pub mod image;
pub mod key;
pub mod login;
pub mod sandbox;
pub mod snapshot;
pub mod storage;
pub mod template;
pub mod volume;
