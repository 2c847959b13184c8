//! Descriptors in the event loop.
use std::io;
use std::os::fd::AsRawFd;

use tokio::io::unix::AsyncFd;

/// Watches a nonblocking descriptor.
///
/// # Errors
/// When the event loop does not take it.
// The replacement of `AsyncFd::new` is unsafe to say, and asks for what holds here anyway: the callers hand over types
// that own their descriptor for as long as they live and give the same number always. `unsafe` stays in crates/linux.
#[allow(deprecated)]
pub fn watch<T: AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(fd)
}
