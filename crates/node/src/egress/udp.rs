//! UDP out of a sandbox: every pair of a program's address and a destination is a flow, which is judged and carried by
//! a task of its own, over a socket of the host that is connected to the destination.
//!
//! ```text
//! program ── lo ──▶ listen ──▶ queue of its flow ──▶ judged ──allowed──▶ socket of the host ──▶ destination
//!    ▲                                                 │  ▲                       │
//!    └──────── ICMP: forbidden ◀────────refused────────┘  └─ QUIC says its name   │
//!    └──────── in the destination's name ◀────────────────────────────────────────┘
//! ```
//!
//! Whatever there is too much of is dropped, as networks do: flows, datagrams of a flow, bytes of a sandbox.
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandbar_core::egress::{Flow, Policy, Protected, Protocol, Verdict};
use sandbar_linux::net::{self, DATAGRAM_BYTES_MAX, Datagram, Datagrams, Replies};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::proxy::Share;
use super::{Attached, Inner, lock};

mod flow;
mod known;

use known::Known;

/// Flows that one sandbox may have at once, those that were refused lately among them.
pub(super) const FLOWS_MAX: usize = 512;
/// Datagrams of one flow that wait for its task.
const QUEUE_DATAGRAMS_MAX: usize = 64;
/// Bytes of one sandbox that wait, in all its flows together.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// When there is no place for a new flow, the one that was idle the longest makes room if it was for so long.
const IDLE_MAKES_ROOM: Duration = Duration::from_secs(5);
/// How often room is looked for, and how often it is recorded that there was none.
const ROOM_EVERY: Duration = Duration::from_millis(50);
const FULL_RECORDED_EVERY: Duration = Duration::from_secs(1);
/// Datagrams that are read before other tasks have their turn.
const BURST: usize = 64;

/// The flows of one sandbox.
pub(super) struct Flows {
    table: Mutex<Table>,
    bytes: Arc<Semaphore>,
    since: Instant,
}

#[derive(Default)]
struct Table {
    open: HashMap<Ends, Open>,
    next: u64,
    room_looked_for: Option<Instant>,
    full_recorded: Option<Instant>,
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ends {
    program: SocketAddr,
    destination: SocketAddr,
}

struct Open {
    number: u64,
    queue: mpsc::Sender<Queued>,
    cut: CancellationToken,
    /// Ends it like one that was idle for longer.
    make_room: CancellationToken,
    known: Known,
    last_used_ms: Arc<AtomicU64>,
}

/// A datagram on its way out.
struct Queued {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Default for Flows {
    fn default() -> Self {
        Self { table: Mutex::default(), bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)), since: Instant::now() }
    }
}

impl Flows {
    /// Cuts all.
    pub fn cut(&self) {
        for open in lock(&self.table).open.values() {
            open.cut.cancel();
        }
    }

    /// Cuts what the policy decides otherwise now. Call it with the state locked, like every judgement.
    pub fn judge(&self, policy: &Policy, protected: &Protected) {
        for open in lock(&self.table).open.values().filter(|open| !open.known.holds(policy, protected)) {
            open.cut.cancel();
        }
    }

    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }
}

/// Receives until the runtime is detached.
pub(super) async fn listen(attached: Arc<Attached>, inner: Arc<Inner>, datagrams: Datagrams, share: Share) {
    let Datagrams { socket, replies } = datagrams;
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(runtime = attached.runtime_id, %error, "no UDP for a sandbox");
            return;
        }
    };
    let replies = Arc::new(replies);
    loop {
        tokio::select! {
            () = attached.stop.cancelled() => return,
            ready = socket.readable() => if ready.is_err() { return },
        }
        // Only now: most sandboxes send nothing.
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        for _ in 0..BURST {
            match socket.try_io(Interest::READABLE, || net::receive(&socket, &mut buffer)) {
                Ok(datagram) => take(&attached, &inner, &replies, &share, datagram, &buffer[..datagram.len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Of one datagram.
                Err(_) => {}
            }
        }
        drop(buffer);
        tokio::task::yield_now().await;
    }
}

fn take(attached: &Arc<Attached>, inner: &Arc<Inner>, replies: &Arc<Replies>, share: &Share, datagram: Datagram, bytes: &[u8]) {
    // A program that called the proxy by its own address.
    if net::is_own_loopback(datagram.to.ip()) {
        return;
    }
    let Ok(room) = Arc::clone(&attached.udp.bytes).try_acquire_many_owned(bytes.len() as u32) else { return };
    let queued = Queued { bytes: bytes.to_vec(), _room: room };
    let ends = Ends { program: datagram.from, destination: datagram.to };
    let mut table = lock(&attached.udp.table);
    if let Some(open) = table.open.get(&ends) {
        open.last_used_ms.store(attached.udp.now_ms(), Relaxed);
        // Full: the datagram is dropped.
        open.queue.try_send(queued).ok();
        return;
    }
    let flow = udp_flow(ends.destination);
    let Some(place) = inner.places.take_for_udp(share) else {
        let record = table.make_room(attached.udp.now_ms());
        drop(table);
        if record {
            attached.record(None, None, flow, Verdict::deny("too many UDP flows at once"));
        }
        return;
    };
    let (queue, receiver) = mpsc::channel(QUEUE_DATAGRAMS_MAX);
    queue.try_send(queued).ok();
    let number = table.next;
    table.next += 1;
    let (cut, make_room) = (attached.stop.child_token(), CancellationToken::new());
    let last_used_ms = Arc::new(AtomicU64::new(attached.udp.now_ms()));
    let known = Known::new(flow, attached.names.of(flow.addr, std::time::Instant::now()));
    table
        .open
        .insert(ends, Open { number, queue, cut: cut.clone(), make_room: make_room.clone(), known: known.clone(), last_used_ms: Arc::clone(&last_used_ms) });
    drop(table);
    let listed = Listed { attached: Arc::clone(attached), ends, number, cut, make_room };
    let task = flow::Carrier::new(listed, Arc::clone(inner), Arc::clone(replies), known, receiver, last_used_ms);
    attached.tasks.spawn(async move {
        task.run().await;
        drop(place);
    });
}

impl Table {
    /// Ends the flow that was idle the longest; true when it has to be recorded that a flow found no place.
    fn make_room(&mut self, now_ms: u64) -> bool {
        let now = Instant::now();
        let is_due = |last: Option<Instant>, every| last.is_none_or(|last| now >= last + every);
        if is_due(self.room_looked_for, ROOM_EVERY) {
            self.room_looked_for = Some(now);
            let oldest = self.open.values().min_by_key(|open| open.last_used_ms.load(Relaxed));
            let idle_ms = |open: &&Open| now_ms.saturating_sub(open.last_used_ms.load(Relaxed));
            if let Some(oldest) = oldest.filter(|open| idle_ms(open) >= IDLE_MAKES_ROOM.as_millis() as u64) {
                oldest.make_room.cancel();
            }
        }
        let record = is_due(self.full_recorded, FULL_RECORDED_EVERY);
        if record {
            self.full_recorded = Some(now);
        }
        record
    }
}

/// A flow in the table, until it is dropped.
struct Listed {
    attached: Arc<Attached>,
    ends: Ends,
    number: u64,
    cut: CancellationToken,
    make_room: CancellationToken,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut table = lock(&self.attached.udp.table);
        if table.open.get(&self.ends).is_some_and(|open| open.number == self.number) {
            table.open.remove(&self.ends);
        }
    }
}

fn udp_flow(to: SocketAddr) -> Flow {
    Flow { addr: to.ip().to_canonical(), port: to.port(), proto: Protocol::Udp }
}
