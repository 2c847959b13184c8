//! Room in memory for what passes between engines and their host: answers that no engine has taken yet, and what ops were asked
//! with. All engines share what there is, and none has more than its part, so that one that takes nothing holds up itself alone.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use tokio::sync::Notify;

/// Of all engines of this process.
const ALL_BYTES_MAX: usize = 256 << 20;
/// Of one engine: of one team.
const PART_BYTES_MAX: usize = 64 << 20;

static ALL: LazyLock<Rooms> = LazyLock::new(|| Rooms { answers: Room::new(ALL_BYTES_MAX), args: Room::new(ALL_BYTES_MAX) });

/// Both kinds. They are apart: it is answers that let go of arguments.
#[derive(Debug, Clone)]
pub(super) struct Rooms {
    pub answers: Room,
    pub args: Room,
}

/// Clones are the same room.
#[derive(Debug, Clone)]
pub(super) struct Room {
    own: Arc<Count>,
    whole: Option<Arc<Count>>,
    /// Of the whole: somebody left.
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct Count {
    max: usize,
    used: AtomicUsize,
}

/// Bytes that are counted until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Room,
    bytes: usize,
}

impl Rooms {
    /// For one engine.
    pub fn of_engine() -> Self {
        Self { answers: ALL.answers.part(PART_BYTES_MAX), args: ALL.args.part(PART_BYTES_MAX) }
    }
}

impl Room {
    fn new(max: usize) -> Self {
        Self { own: Arc::new(Count { max, used: AtomicUsize::new(0) }), whole: None, freed: Arc::default() }
    }

    fn part(&self, max: usize) -> Self {
        Self { own: Arc::new(Count { max, used: AtomicUsize::new(0) }), whole: Some(Arc::clone(&self.own)), freed: Arc::clone(&self.freed) }
    }

    /// Whether nothing more should be let in.
    pub fn is_full(&self) -> bool {
        self.counts().any(|count| count.used.load(Ordering::Relaxed) >= count.max)
    }

    /// Counts what is there already, whether there is room for it or not.
    pub fn hold(&self, bytes: usize) -> Held {
        for count in self.counts() {
            count.used.fetch_add(bytes, Ordering::Relaxed);
        }
        Held { room: self.clone(), bytes }
    }

    /// Counts what would fit.
    pub fn try_hold(&self, bytes: usize) -> Option<Held> {
        let held = self.hold(bytes);
        self.counts().all(|count| count.used.load(Ordering::Relaxed) <= count.max).then_some(held)
    }

    /// Until it is not full.
    pub async fn wait(&self) {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if !self.is_full() {
                return;
            }
            freed.await;
        }
    }

    /// What comes of `next`; none as soon as it would be polled with the room full.
    pub async fn unless_full<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        let mut next = pin!(next);
        std::future::poll_fn(|cx| if self.is_full() { Poll::Ready(None) } else { next.as_mut().poll(cx).map(Some) }).await
    }

    fn counts(&self) -> impl Iterator<Item = &Count> {
        [Some(&self.own), self.whole.as_ref()].into_iter().flatten().map(|count| &**count)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for count in self.room.counts() {
            count.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.room.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_is_full_before_the_whole_is_and_the_whole_fills_with_its_parts() {
        let whole = Room::new(100);
        let (one, two) = (whole.part(60), whole.part(60));
        let first = one.hold(60);
        assert!(one.is_full() && !two.is_full() && !whole.is_full());
        assert!(two.try_hold(41).is_none());
        let second = two.try_hold(40).expect("it fits");
        assert!(two.is_full() && whole.is_full());
        assert_eq!(two.unless_full(async {}).await, None);
        let (waited, ()) = tokio::join!(two.wait(), async move { drop(first) });
        assert_eq!((waited, two.unless_full(async {}).await), ((), Some(())));
        drop(second);
        assert_eq!(whole.own.used.load(Ordering::Relaxed), 0);
    }
}
