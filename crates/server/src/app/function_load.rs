//! What calls of handlers may hold on the server itself: the bytes of their requests, which are read whole, places among the
//! calls of one function, and WebSockets. Each sandbox has a share, so that no one of them can take all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_api::ErrorCode;
use sandbar_core::limits;

use crate::error::ApiError;

/// All that is held.
#[derive(Debug, Default)]
pub struct FunctionLoad(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    sockets: usize,
    /// By what holds something; an entry goes with the last of it.
    sandboxes: HashMap<String, Share>,
}

#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    sockets: usize,
    /// By function.
    calls: HashMap<String, usize>,
}

impl FunctionLoad {
    /// Takes a place among the `max` calls of a function, before anything of a request is read.
    pub(crate) fn enter(self: &Arc<Self>, sandbox: &str, function: &str, max: usize) -> Result<Calling, ApiError> {
        {
            let mut held = self.lock();
            let calls = held.sandboxes.entry(sandbox.to_owned()).or_default().calls.entry(function.to_owned()).or_default();
            if *calls >= max {
                let text = format!("{max} calls are running, the most at once");
                return Err(ApiError::new(ErrorCode::FunctionConcurrencyExceeded, text).retry_after(1));
            }
            *calls += 1;
        }
        Ok(Calling { load: Arc::clone(self), sandbox: sandbox.to_owned(), function: Some(function.to_owned()), bytes: 0 })
    }

    /// Takes a place among the WebSockets of handlers.
    pub(crate) fn open(self: &Arc<Self>, sandbox: &str) -> Result<Socket, ApiError> {
        {
            let mut held = self.lock();
            let own = held.sandboxes.get(sandbox).map_or(0, |share| share.sockets);
            for (open, max, whose) in
                [(own, limits::FUNCTION_SOCKETS_PER_SANDBOX_MAX, "this sandbox's functions"), (held.sockets, limits::FUNCTION_SOCKETS_MAX, "functions")]
            {
                if open >= max {
                    return Err(ApiError::unavailable(format!("{max} WebSockets of {whose} are open, which is the limit")).retry_after(1));
                }
            }
            held.sockets += 1;
            held.sandboxes.entry(sandbox.to_owned()).or_default().sockets += 1;
        }
        Ok(Socket { load: Arc::clone(self), sandbox: sandbox.to_owned() })
    }

    fn give_back(&self, sandbox: &str, give: impl FnOnce(&mut Share)) {
        let mut held = self.lock();
        let Some(share) = held.sandboxes.get_mut(sandbox) else { return };
        give(share);
        if share.bytes == 0 && share.sockets == 0 && share.calls.is_empty() {
            held.sandboxes.remove(sandbox);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call and the bytes of its request.
#[derive(Debug)]
pub(crate) struct Calling {
    load: Arc<FunctionLoad>,
    sandbox: String,
    function: Option<String>,
    bytes: usize,
}

impl Calling {
    /// Takes room for more bytes of the request.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let mut held = self.load.lock();
        let own = held.sandboxes.get(&self.sandbox).map_or(0, |share| share.bytes);
        if own + bytes > limits::FUNCTION_REQUESTS_PER_SANDBOX_BYTES_MAX || held.bytes + bytes > limits::FUNCTION_REQUESTS_BYTES_MAX {
            return Err(ApiError::unavailable("too much of the bodies of requests to functions is on its way").retry_after(1));
        }
        held.bytes += bytes;
        held.sandboxes.entry(self.sandbox.clone()).or_default().bytes += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// The request is inside the sandbox, or is no more.
    pub(crate) fn sent(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.load.lock().bytes -= bytes;
            self.load.give_back(&self.sandbox, |share| share.bytes -= bytes);
        }
    }

    /// Gives back the place and keeps the bytes: who counts it is somebody else from here on.
    pub(crate) fn leave(&mut self) {
        let Some(function) = self.function.take() else { return };
        self.load.give_back(&self.sandbox, |share| {
            if let Some(calls) = share.calls.get_mut(&function) {
                *calls -= 1;
                if *calls == 0 {
                    share.calls.remove(&function);
                }
            }
        });
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.sent();
        self.leave();
    }
}

/// A WebSocket of a handler.
#[derive(Debug)]
pub(crate) struct Socket {
    load: Arc<FunctionLoad>,
    sandbox: String,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.load.lock().sockets -= 1;
        self.load.give_back(&self.sandbox, |share| share.sockets -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sandbox_has_a_share_and_all_comes_back() {
        let load = Arc::new(FunctionLoad::default());
        let mut one = load.enter("a", "f", 1).expect("a place");
        assert_eq!(load.enter("a", "f", 1).expect_err("no place").status(), 429);
        load.enter("a", "g", 1).expect("another function");
        load.enter("b", "f", 1).expect("another sandbox");
        one.grow(limits::FUNCTION_REQUESTS_PER_SANDBOX_BYTES_MAX).expect("its share");
        assert_eq!(one.grow(1).expect_err("more than its share").status(), 503);
        let shares = limits::FUNCTION_REQUESTS_BYTES_MAX / limits::FUNCTION_REQUESTS_PER_SANDBOX_BYTES_MAX;
        let mut others: Vec<_> = (1..shares).map(|n| load.enter(&n.to_string(), "f", 1).expect("a place")).collect();
        for other in &mut others {
            other.grow(limits::FUNCTION_REQUESTS_PER_SANDBOX_BYTES_MAX).expect("its share");
        }
        let mut last = load.enter("last", "f", 1).expect("a place");
        assert_eq!(last.grow(1).expect_err("all is taken").status(), 503);
        one.sent();
        last.grow(1).expect("room again");
        one.leave();
        load.enter("a", "f", 1).expect("the place is back");
        let sockets: Vec<_> = (0..limits::FUNCTION_SOCKETS_PER_SANDBOX_MAX).map(|_| load.open("a").expect("a socket")).collect();
        assert_eq!(load.open("a").expect_err("more than its share").status(), 503);
        drop((load.open("b").expect("another sandbox"), sockets, one, others, last));
        let held = load.lock();
        assert_eq!((held.bytes, held.sockets, held.sandboxes.len()), (0, 0, 0));
    }
}
