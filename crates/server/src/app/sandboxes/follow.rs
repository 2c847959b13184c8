//! What happens inside a sandbox with a webhook: followed while it has processes, and put in the webhook's queue.
//!
//! One task per sandbox, for as long as it has an owner. Up to which event those of a runtime were taken is written in the
//! step that takes them, so a server that is killed loses none and takes none twice. Changes of files have no number; some
//! may be missed while no server runs.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use sandbar_core::{
    limits,
    sandbox::{Desired, SandboxRecord},
    webhook::{Bucket, Burst, Class},
};
use sandbar_node::{Runtime, client::ProcdError, error_text, room};
use sandbar_procd_api::{Event, EventKind, WatchLine};
use sandbar_store::{NewDelivery, NewEvent, Store, Taken};
use tokio::{sync::watch, time::Instant};

use super::actor::{View, now_ms};
use crate::app::webhooks::{Webhooks, inside};

/// Events that are taken in one step.
const BATCH_MAX: usize = 128;
/// Changes of files within this time are told together.
const BURST: Duration = Duration::from_millis(200);
/// Between attempts to reach the agent, or a folder that is not there yet.
const AGAIN: Duration = Duration::from_secs(1);
/// What was said before an end is still read this long.
const DRAIN: Duration = Duration::from_millis(500);
/// The agent is told within this time that nobody listens any more.
const TELL_WITHIN: Duration = Duration::from_secs(2);
/// Between two notes in the sandbox's events that something was dropped.
const NOTE_EVERY_MS: i64 = 60_000;

/// What is needed to follow.
#[derive(Clone)]
pub(super) struct Follower {
    pub store: Store,
    pub webhooks: Arc<Webhooks>,
    pub heard: Arc<Heard>,
}

/// Whether a sandbox is followed, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Heard {
    followed: AtomicBool,
    /// Of this runtime all is written, or passed over, up to the event of this number.
    upto: watch::Sender<(String, u64)>,
}

impl Heard {
    /// True for the first who asks: that one is to follow.
    pub fn begin(&self) -> bool {
        !self.followed.swap(true, Ordering::Relaxed)
    }

    pub fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }

    /// Returns when all of a runtime's events up to a number were heard; for 0, when they are listened to.
    pub async fn until(&self, runtime_id: &str, seq: u64) {
        // An error would be that there is no sender, and that is ours.
        let _ = self.upto.subscribe().wait_for(|(of, upto)| of == runtime_id && *upto >= seq).await;
    }

    fn reached(&self, runtime_id: &str, seq: u64) {
        self.upto.send_replace((runtime_id.to_owned(), seq));
    }
}

/// Whom to follow, and how.
struct Target {
    record: Arc<SandboxRecord>,
    runtime: Arc<Runtime>,
    watch_dir: Option<String>,
}

impl Target {
    fn of(view: &View) -> Option<Self> {
        let webhook = view.record.config.webhook.as_ref()?;
        let runtime = view.runtime.clone().filter(|_| view.record.desired != Desired::Deleted)?;
        Some(Self { record: Arc::clone(&view.record), runtime, watch_dir: webhook.watch_dir.clone() })
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.runtime, &other.runtime) && self.watch_dir == other.watch_dir
    }
}

impl Follower {
    /// Follows until the sandbox has no owner any more.
    pub async fn run(self, mut view: watch::Receiver<View>) {
        loop {
            let target = Target::of(&view.borrow_and_update());
            let ended = match target {
                Some(target) => self.follow(&target, &mut view).await,
                None => view.changed().await.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// Follows one target until there is another; true when the owner is gone.
    async fn follow(&self, target: &Target, view: &mut watch::Receiver<View>) -> bool {
        let mut work = std::pin::pin!(async { tokio::join!(self.events(target), self.files(target)) });
        let mut done = false;
        let gone = loop {
            tokio::select! {
                _ = &mut work, if !done => done = true,
                changed = view.changed() => {
                    let next = Target::of(&view.borrow_and_update());
                    if changed.is_err() {
                        break true;
                    }
                    if !next.is_some_and(|next| next.is_same(target)) {
                        break false;
                    }
                }
            }
        };
        if !done {
            let _ = tokio::time::timeout(DRAIN, work).await;
        }
        let removed = !gone && view.borrow().record.config.webhook.is_none();
        if removed && !target.runtime.has_ended() {
            // A sandbox that is frozen hears it later, or not: then what is published goes nowhere.
            let _ = tokio::time::timeout(TELL_WITHIN, target.runtime.client.set_publishing(false)).await;
        }
        gone
    }

    /// Takes the agent's events, until the runtime has ended.
    async fn events(&self, target: &Target) {
        let mut pace = Pace::new();
        while !target.runtime.has_ended() {
            if let Err(error) = self.one_stream(target, &mut pace).await {
                tracing::debug!(sandbox = target.record.id, error = error_text(&error), "the events of a sandbox broke off");
            }
            tokio::select! {
                () = target.runtime.ended() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn one_stream(&self, target: &Target, pace: &mut Pace) -> Result<(), ProcdError> {
        let client = &target.runtime.client;
        client.set_publishing(true).await?;
        let (mut after, mut since_ms) = match self.store.webhook_cursor(&target.record.id, &target.runtime.id).await {
            Ok(Some(cursor)) => cursor,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::error!(sandbox = target.record.id, error = error_text(&error), "it is not known how far events were taken");
                return Ok(());
            }
        };
        if after > 0 {
            since_ms = i64::MIN;
            // Whoever took them may not have come to say so: then they would count as waiting for ever.
            client.events_taken(after).await?;
        }
        let mut lines = client.events(after).await?;
        self.heard.reached(&target.runtime.id, after);
        while let Some(first) = lines.next().await? {
            // Whatever is there already; while this is written, more gathers.
            let mut events = vec![first];
            let mut broken = None;
            while events.len() < BATCH_MAX {
                match lines.next().now_or_never() {
                    Some(Ok(Some(event))) => events.push(event),
                    Some(Ok(None)) | None => break,
                    Some(Err(error)) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            after = self.take(target, events, after, &mut since_ms, pace).await?;
            self.heard.reached(&target.runtime.id, after);
            if let Some(error) = broken {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts a batch in the queue, however long it takes, and returns up to which number all is taken. An error is that the
    /// agent could not be told; then it is told before the next batch. What was before
    /// `since_ms` is passed over; from the first that was not, all is told, whatever becomes of the clock.
    async fn take(&self, target: &Target, mut events: Vec<Event>, after: u64, since_ms: &mut i64, pace: &mut Pace) -> Result<u64, ProcdError> {
        self.hide_outputs(target, &mut events).await;
        let (mut upto, mut lost, mut published) = (after, 0, false);
        let mut deliveries = Vec::new();
        for event in events {
            if let EventKind::Heartbeat | EventKind::Unknown = event.kind {
                continue;
            }
            if event.seq <= upto {
                continue;
            }
            // The agent keeps a limited number, and dropped what is missing here.
            lost += if upto > 0 { event.seq - upto - 1 } else { 0 };
            upto = event.seq;
            published |= matches!(event.kind, EventKind::Published { .. });
            if i64::try_from(event.at_ms).is_ok_and(|at_ms| at_ms < *since_ms) {
                continue;
            }
            *since_ms = i64::MIN;
            if let Some(delivery) = inside::of_event(&target.record, event) {
                lost += pace.admit(&mut deliveries, delivery);
            }
        }
        if !deliveries.is_empty() || lost > 0 || published {
            self.enqueue(target, Some((&target.runtime.id, upto)), lost, deliveries, pace).await;
        }
        if published {
            target.runtime.client.events_taken(upto).await?;
        }
        Ok(upto)
    }

    /// Commands of apps were given secrets, which may stand in what they printed: that is not told of them.
    async fn hide_outputs(&self, target: &Target, events: &mut [Event]) {
        let printed = events.iter_mut().filter_map(|event| match &mut event.kind {
            EventKind::ProcessExited { stdout_preview, stderr_preview, .. } => Some([stdout_preview, stderr_preview]),
            EventKind::ProcessStarted { .. } | EventKind::Published { .. } | EventKind::OutOfMemory { .. } | EventKind::Heartbeat | EventKind::Unknown => None,
        });
        let printed: Vec<&mut String> = printed.flatten().filter(|text| !text.is_empty()).collect();
        // Whoever cannot be asked may be an app's.
        if !printed.is_empty() && !matches!(self.store.app_sandbox_get(&target.record.id).await, Ok(None)) {
            printed.into_iter().for_each(String::clear);
        }
    }

    /// Follows changes below the folder that is to be watched, when there is one, until the runtime has ended.
    async fn files(&self, target: &Target) {
        let Some(dir) = &target.watch_dir else { return };
        let mut pace = Pace::new();
        while !target.runtime.has_ended() {
            if let Err(error) = self.one_watch(target, dir, &mut pace).await {
                tracing::debug!(sandbox = target.record.id, error = error_text(&error), "a watch broke off");
            }
            // It may not be there yet.
            tokio::select! {
                () = target.runtime.ended() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn one_watch(&self, target: &Target, dir: &str, pace: &mut Pace) -> Result<(), ProcdError> {
        let mut lines = target.runtime.client.watch(dir, true).await?;
        let mut burst = Burst::default();
        let mut flush_at: Option<Instant> = None;
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = async { match flush_at { Some(at) => tokio::time::sleep_until(at).await, None => pending().await } } => {
                    flush_at = None;
                    self.flush(target, &mut burst, pace).await;
                    continue;
                }
            };
            match line {
                Ok(Some(WatchLine::Event { event, path, old_path })) => match event.as_str() {
                    "create" | "write" | "remove" | "rename" | "chmod" => burst.add(&event, &path, old_path.as_deref()),
                    // Changes were missed; how many nobody knows.
                    _ => burst.lose(),
                },
                Ok(Some(WatchLine::Subscribed { .. })) => {}
                Ok(Some(WatchLine::Error { .. }) | None) => {
                    self.flush(target, &mut burst, pace).await;
                    return Ok(());
                }
                Err(error) => {
                    self.flush(target, &mut burst, pace).await;
                    return Err(error);
                }
            }
            if !burst.is_empty() && flush_at.is_none() {
                flush_at = Some(Instant::now() + BURST);
            }
        }
    }

    async fn flush(&self, target: &Target, burst: &mut Burst, pace: &mut Pace) {
        let (changes, mut lost) = burst.take();
        let mut deliveries = Vec::new();
        for change in changes {
            lost += pace.admit(&mut deliveries, inside::of_change(&target.record, &change, now_ms()));
        }
        if !deliveries.is_empty() || lost > 0 {
            self.enqueue(target, None, lost, deliveries, pace).await;
        }
    }

    /// Writes to the queue; tries again until it is done.
    async fn enqueue(&self, target: &Target, upto: Option<(&str, u64)>, lost: u64, deliveries: Vec<NewDelivery>, pace: &mut Pace) {
        let id = &target.record.id;
        loop {
            // The last room on the disk is not for what a sandbox says. The agent keeps what it can meanwhile.
            let full = room::free_bytes(&self.webhooks.data_dir).is_ok_and(|free| free < room::FLOOR_BYTES);
            if !full {
                match self.store.webhook_take(id, upto, lost, now_ms(), deliveries.clone()).await {
                    Ok(Taken { enqueued, dropped }) => {
                        if enqueued > 0 {
                            self.webhooks.changed.notify_one();
                        }
                        return self.note_dropped(id, lost + dropped, pace).await;
                    }
                    Err(error) => tracing::warn!(sandbox = id, error = error_text(&error), "events for a webhook cannot be written"),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn note_dropped(&self, id: &str, dropped: u64, pace: &mut Pace) {
        let Some(count) = pace.dropped(dropped) else { return };
        let text = format!("{count} events were not put in the webhook's queue, or taken out of it again: too many waited, or came at once");
        let event = NewEvent::new(now_ms(), "webhook.events_dropped", text);
        if let Err(error) = self.store.event_append(id, &[event]).await {
            tracing::debug!(sandbox = id, error = error_text(&error), "an event was not recorded");
        }
    }
}

/// How many events from inside are let through, and when it is said that some were not.
struct Pace {
    bucket: Bucket,
    dropped: u64,
    noted_at_ms: i64,
}

impl Pace {
    fn new() -> Self {
        Self { bucket: Bucket::new(limits::WEBHOOK_INSIDE_BURST, limits::WEBHOOK_INSIDE_PER_SECOND, now_ms()), dropped: 0, noted_at_ms: 0 }
    }

    /// Keeps an event, or returns that one was dropped. What is published has passed a bound inside.
    fn admit(&mut self, deliveries: &mut Vec<NewDelivery>, delivery: NewDelivery) -> u64 {
        let passes = match delivery.kind.class() {
            Class::Cheap => self.bucket.take(now_ms()),
            Class::Published | Class::Lifecycle => true,
        };
        if passes {
            deliveries.push(delivery);
        }
        u64::from(!passes)
    }

    /// How many to tell of now.
    fn dropped(&mut self, more: u64) -> Option<u64> {
        self.dropped += more;
        let now = now_ms();
        if self.dropped == 0 || now - self.noted_at_ms < NOTE_EVERY_MS {
            return None;
        }
        self.noted_at_ms = now;
        Some(std::mem::take(&mut self.dropped))
    }
}
