//! Who wants to hear that a sandbox got or lost its processes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Told by the owners of sandboxes whenever they publish something.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<HashMap<String, Arc<Notify>>>);

/// Listens to one sandbox, until it is dropped.
pub(crate) struct Listening {
    all: Arc<Listeners>,
    id: String,
    heard: Arc<Notify>,
}

impl Listeners {
    /// One at a time listens to a sandbox; who comes second takes the place of the first.
    pub fn listen(self: &Arc<Self>, id: &str) -> Listening {
        let heard = Arc::<Notify>::default();
        self.lock().insert(id.to_owned(), Arc::clone(&heard));
        Listening { all: Arc::clone(self), id: id.to_owned(), heard }
    }

    pub(super) fn tell(&self, id: &str) {
        if let Some(heard) = self.lock().get(id) {
            heard.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listening {
    /// Returns when something was published since the last return.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if all.get(&self.id).is_some_and(|heard| Arc::ptr_eq(heard, &self.heard)) {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_is_heard_once() {
        let all = Arc::<Listeners>::default();
        let listening = all.listen("a");
        all.tell("a");
        all.tell("b");
        assert!(listening.heard().now_or_never().is_some());
        assert!(listening.heard().now_or_never().is_none());
        let second = all.listen("a");
        drop(listening);
        all.tell("a");
        assert!(second.heard().now_or_never().is_some());
        drop(second);
        assert!(all.lock().is_empty());
    }
}
