//! The memory that the requests of one sandbox take.
use std::sync::Arc;

use http::{Request, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// Heads of requests that are not answered to the end, and bodies that are read as a whole, of all connections together.
pub(in super::super) const HELD_BYTES_MAX: usize = 16 << 20;
/// What a header takes besides its text, as HTTP/2 counts it (RFC 9113, 6.5.2).
const HEADER_BYTES: usize = 32;

pub(in super::super) struct Held(Arc<Semaphore>);

impl Default for Held {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(HELD_BYTES_MAX)))
    }
}

impl Held {
    /// Room for so many bytes, until it is dropped.
    pub fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let room = u32::try_from(bytes).ok().and_then(|bytes| Arc::clone(&self.0).try_acquire_many_owned(bytes).ok());
        room.ok_or_else(|| {
            let text = format!("the sandbox's requests that are under way have more than {HELD_BYTES_MAX} bytes of heads and bodies");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })
    }

    /// Room for a request's head.
    pub fn take_head<B>(&self, request: &Request<B>) -> Result<OwnedSemaphorePermit, Refusal> {
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
        self.take(target + headers.sum::<usize>())
    }
}
