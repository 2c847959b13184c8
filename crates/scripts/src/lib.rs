//! The JavaScript engines: what a call is, what an engine is told and says, and the engines themselves.
//!
//! An engine is a process at the other end of a stream: QuickJS in WebAssembly behind walls of its own ([`worker`]), or Bun in
//! a sandbox. It is sent [`frame::Run`] and answers in [`frame::Step`]s; what a script asks of its host (`ctx.*`) comes out as
//! [`Op`]s and goes to an [`Host`], which is the same for all of them.

#![forbid(unsafe_code)]

pub mod bun;
pub mod call;
pub mod frame;
pub mod host;
mod json;
pub mod link;
pub mod pool;
pub mod quickjs;
pub mod recording;
pub mod remote;
pub mod typescript;
pub mod worker;

pub use call::{Call, Failure, FailureCode, Level, Limits, LogLine, Outcome, Usage, User};
pub use host::{Host, Op, OpError, OpResult};
pub use json::{DEPTH_MAX as JSON_DEPTH_MAX, is_too_deep};
pub use link::{CheckError, Link, LinkError, Ran, Recorder, Replayed};
pub use pool::{StripError, Workers, WorkersConfig};
pub use recording::{OpRecord, Recording};
