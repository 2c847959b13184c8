//! What a sandbox tried, what was decided, and what came of it.
//!
//! Flows are numbered as they are decided about, and once more as they end. So who reads along can say how many it
//! missed, and that is exact: flows that are open are never forgotten, and each that is forgotten has ended once.
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use sandbar_core::egress::{App, Flow, Verdict};
use tokio::sync::watch;

/// Flows that are kept per runtime: more than can be open at once.
const FLOWS_MAX: usize = 2048;
const _: () = assert!(FLOWS_MAX > super::proxy::FLOWS_MAX + super::udp::FLOWS_MAX);
/// Numbers begin with the time, so that those of a later runtime of the same sandbox are larger.
const NUMBERS_PER_MS: u64 = 1000;

/// Sums since the runtime was attached, or of all runtimes since the server began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Connections that were allowed.
    pub allowed: u64,
    /// Connections and names that were refused by the proxy and the resolver. What a route refuses is not counted.
    pub refused: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Connections that were allowed but could not be dialled.
    pub failed: u64,
    /// From the sandbox.
    pub sent_bytes: u64,
    /// To the sandbox.
    pub received_bytes: u64,
    pub dns_queries: u64,
}

/// One decision and what came of it, for the user to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Grows from flow to flow.
    pub seq: u64,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    /// The name that the client said, or that the address was told for.
    pub host: Option<String>,
    /// What the client speaks, where that was looked at.
    pub app: Option<&'static str>,
    pub addr: IpAddr,
    pub port: u16,
    pub proto: &'static str,
    /// `allow` or `deny`.
    pub decision: &'static str,
    pub rule: String,
    /// From the sandbox, so far.
    pub sent_bytes: u64,
    /// To the sandbox, so far.
    pub received_bytes: u64,
    pub state: FlowState,
    /// Why it failed.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    Open,
    Closed,
    /// It was allowed, and then it broke: the server was not reached, or the flow was cut.
    Failed,
}

impl FlowState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
}

/// What happened, for who looks now and then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happened {
    /// Oldest first. A flow comes again when it has ended.
    pub flows: Vec<Decision>,
    /// Flows of which the end was forgotten before it was looked at.
    pub missed: u64,
}

/// The flows of one runtime. Clones are the same; it outlives the runtime.
#[derive(Clone)]
pub struct FlowLog(Arc<Shared>);

/// Where somebody who reads along is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    seq: u64,
    ends: u64,
}

struct Shared {
    ring: Mutex<Ring>,
    sums: Sums,
    /// Of all runtimes.
    totals: Arc<Sums>,
    changes: watch::Sender<()>,
}

struct Ring {
    flows: VecDeque<Arc<Record>>,
    first: u64,
    next: u64,
    ends: u64,
}

struct Record {
    seq: u64,
    at_ms: i64,
    host: Option<String>,
    app: Option<App>,
    flow: Flow,
    verdict: Verdict,
    /// False for what is told of a flow besides, which is no flow of its own.
    counts: bool,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    failure: OnceLock<String>,
    /// Its number among those that have ended.
    end: OnceLock<u64>,
}

/// A decision whose bytes still grow. The flow has ended when it is dropped.
pub(super) struct Entry {
    record: Arc<Record>,
    shared: Arc<Shared>,
}

/// Counters of one runtime, or of all.
#[derive(Default)]
pub(super) struct Sums {
    allowed: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
    failed: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    dns_queries: AtomicU64,
}

pub(super) struct Log {
    shared: Arc<Shared>,
}

impl Log {
    pub fn new(totals: Arc<Sums>) -> Self {
        let first = now_ms() as u64 * NUMBERS_PER_MS;
        let ring = Ring { flows: VecDeque::new(), first, next: first, ends: 0 };
        Self { shared: Arc::new(Shared { ring: Mutex::new(ring), sums: Sums::default(), totals, changes: watch::Sender::new(()) }) }
    }

    /// A flow that was decided about.
    pub fn record(&self, host: Option<String>, app: Option<App>, flow: Flow, verdict: Verdict) -> Arc<Entry> {
        let allowed = verdict.allow;
        self.shared.count(|sums| if allowed { &sums.allowed } else { &sums.refused }, 1);
        if allowed {
            self.shared.count(|sums| &sums.open, 1);
        }
        self.add(host, app, flow, verdict, true)
    }

    /// What else is to be said of a flow that was recorded.
    pub fn note(&self, host: Option<String>, app: Option<App>, flow: Flow, verdict: Verdict) {
        self.add(host, app, flow, verdict, false);
    }

    fn add(&self, host: Option<String>, app: Option<App>, flow: Flow, verdict: Verdict, counts: bool) -> Arc<Entry> {
        let mut ring = super::lock(&self.shared.ring);
        if ring.flows.len() >= FLOWS_MAX {
            let oldest = ring.flows.iter().position(|record| record.end.get().is_some());
            // One has ended: there are more places than flows can be open.
            ring.flows.remove(oldest.unwrap_or(0));
        }
        let record = Arc::new(Record {
            seq: ring.next,
            at_ms: now_ms(),
            host,
            app,
            flow,
            verdict,
            counts,
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            failure: OnceLock::new(),
            end: OnceLock::new(),
        });
        ring.next += 1;
        ring.flows.push_back(Arc::clone(&record));
        drop(ring);
        self.shared.changes.send_replace(());
        Arc::new(Entry { record, shared: Arc::clone(&self.shared) })
    }

    pub fn sent(&self, entry: &Entry, bytes: u64) {
        self.shared.count(|sums| &sums.sent_bytes, bytes);
        entry.record.sent_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn received(&self, entry: &Entry, bytes: u64) {
        self.shared.count(|sums| &sums.received_bytes, bytes);
        entry.record.received_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn dns_query(&self) {
        self.shared.count(|sums| &sums.dns_queries, 1);
    }

    pub fn counters(&self) -> Counters {
        self.shared.sums.read()
    }

    pub fn decisions(&self) -> Vec<Decision> {
        super::lock(&self.shared.ring).flows.iter().map(|record| record.render()).collect()
    }

    pub fn reading(&self) -> FlowLog {
        FlowLog(Arc::clone(&self.shared))
    }
}

impl Entry {
    /// Says why a flow broke that was carried. The first reason is the one that is shown.
    pub fn broke(&self, reason: impl Into<String>) {
        self.record.failure.set(reason.into()).ok();
    }

    /// Says why nothing was reached.
    pub fn failed(&self, reason: impl Into<String>) {
        if self.record.failure.set(reason.into()).is_ok() {
            self.shared.count(|sums| &sums.failed, 1);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut ring = super::lock(&self.shared.ring);
        if self.record.end.set(ring.ends).is_ok() {
            ring.ends += 1;
        }
        drop(ring);
        if self.record.verdict.allow && self.record.counts {
            for sums in [&self.shared.sums, &*self.shared.totals] {
                sums.open.fetch_sub(1, Relaxed);
            }
        }
        self.shared.changes.send_replace(());
    }
}

impl Ring {
    fn after(&self, seq: u64) -> impl Iterator<Item = &Record> {
        self.flows.iter().map(|record| &**record).filter(move |record| record.seq > seq)
    }

    /// Numbers have no gaps, and none is below the first.
    fn forgotten_after(&self, seq: u64) -> u64 {
        let all = self.next.saturating_sub(self.first.max(seq.saturating_add(1)));
        all.saturating_sub(self.after(seq).count() as u64)
    }
}

impl Shared {
    fn count(&self, which: impl Fn(&Sums) -> &AtomicU64, more: u64) {
        for sums in [&self.sums, &*self.totals] {
            which(sums).fetch_add(more, Relaxed);
        }
    }
}

impl Sums {
    pub fn read(&self) -> Counters {
        Counters {
            allowed: self.allowed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            open: self.open.load(Relaxed),
            failed: self.failed.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            dns_queries: self.dns_queries.load(Relaxed),
        }
    }
}

impl FlowLog {
    /// The flows after this number that `wanted` picks, oldest first and at most `limit`; how many after it were
    /// forgotten; and whether there are more.
    pub fn after(&self, seq: u64, limit: usize, wanted: impl Fn(&Decision) -> bool) -> (Vec<Decision>, u64, bool) {
        let ring = super::lock(&self.0.ring);
        let mut flows: Vec<_> = ring.after(seq).map(Record::render).filter(wanted).take(limit + 1).collect();
        let more = flows.len() > limit;
        flows.truncate(limit);
        (flows, ring.forgotten_after(seq), more)
    }

    /// Reads along from behind this number on; says how many flows after it are forgotten.
    pub fn position(&self, seq: u64) -> (Position, u64) {
        let ring = super::lock(&self.0.ring);
        (Position { seq, ends: ring.ends }, ring.forgotten_after(seq))
    }

    /// What happened since the position, which moves on.
    pub fn look(&self, position: &mut Position) -> Happened {
        let ring = super::lock(&self.0.ring);
        let (seq, ends) = (position.seq, position.ends);
        let is_new = |record: &Record| record.seq > seq;
        let has_ended = |record: &Record| record.end.get().is_some_and(|end| *end >= ends);
        let told = ring.flows.iter().filter(|record| has_ended(record)).count() as u64;
        let happened = Happened {
            flows: ring.flows.iter().filter(|record| is_new(record) || has_ended(record)).map(|record| record.render()).collect(),
            missed: ring.ends - ends - told,
        };
        *position = Position { seq: ring.next - 1, ends: ring.ends };
        happened
    }

    /// Returns when something happened since it was called last, by who holds this receiver.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }
}

impl Record {
    fn render(&self) -> Decision {
        let state = match (self.end.get(), self.failure.get()) {
            (None, _) if self.verdict.allow => FlowState::Open,
            (_, Some(_)) => FlowState::Failed,
            (_, None) => FlowState::Closed,
        };
        Decision {
            seq: self.seq,
            at_ms: self.at_ms,
            host: self.host.clone(),
            app: self.app.map(App::as_str),
            addr: self.flow.addr,
            port: self.flow.port,
            proto: self.flow.proto.as_str(),
            decision: if self.verdict.allow { "allow" } else { "deny" },
            rule: self.verdict.rule.to_string(),
            sent_bytes: self.sent_bytes.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            state,
            reason: self.failure.get().cloned(),
        }
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sandbar_core::egress::Protocol;

    use super::*;

    fn decide(log: &Log, allow: bool) -> Arc<Entry> {
        let flow = Flow { addr: [9, 9, 9, 9].into(), port: 53, proto: Protocol::Udp };
        log.record(None, None, flow, Verdict { allow, rule: "test".into() })
    }

    #[test]
    fn a_flow_is_told_when_it_begins_and_when_it_ends() {
        let totals = Arc::new(Sums::default());
        let log = Log::new(Arc::clone(&totals));
        let reading = log.reading();
        let (mut position, missed) = reading.position(0);
        assert_eq!((missed, reading.look(&mut position)), (0, Happened::default()));
        let flow = decide(&log, true);
        drop(decide(&log, false));
        let seen = reading.look(&mut position).flows;
        assert_eq!(seen.iter().map(|flow| (flow.decision, flow.state)).collect::<Vec<_>>(), [("allow", FlowState::Open), ("deny", FlowState::Closed)]);
        assert_eq!(reading.look(&mut position), Happened::default());
        log.sent(&flow, 5);
        log.received(&flow, 7);
        flow.failed("cut");
        flow.failed("again");
        assert_eq!(log.counters().open, 1);
        drop(flow);
        let ended = reading.look(&mut position).flows.remove(0);
        assert_eq!((ended.seq, ended.state, ended.reason.as_deref()), (seen[0].seq, FlowState::Failed, Some("cut")));
        assert_eq!((ended.sent_bytes, ended.received_bytes), (5, 7));
        drop(log);
        let all = Counters { allowed: 1, refused: 1, failed: 1, sent_bytes: 5, received_bytes: 7, ..Counters::default() };
        assert_eq!(totals.read(), all, "sums outlive the runtime");
    }

    #[test]
    fn who_reads_too_slowly_is_told_how_much_is_missing() {
        let log = Log::new(Arc::default());
        let reading = log.reading();
        let (mut position, _) = reading.position(0);
        let open = decide(&log, true);
        let first = reading.look(&mut position).flows[0].seq;
        for _ in 0..3 * FLOWS_MAX {
            decide(&log, false);
        }
        let happened = reading.look(&mut position);
        assert_eq!((happened.flows.len() as u64 + happened.missed, happened.flows.len()), (3 * FLOWS_MAX as u64, FLOWS_MAX - 1));
        drop(open);
        let end = reading.look(&mut position);
        assert_eq!((end.flows[0].seq, end.missed), (first, 0), "what is open is not forgotten");
        // The same for pages.
        let (page, missed, more) = reading.after(first, 10, |flow| flow.decision == "deny");
        assert_eq!((page.len(), missed, more), (10, (2 * FLOWS_MAX + 1) as u64, true));
        let last = reading.after(0, usize::MAX - 1, |_| true).0.pop().unwrap().seq;
        assert_eq!(reading.after(last, 10, |_| true), (vec![], 0, false));
        assert_eq!(reading.position(last).1, 0);
        assert_eq!(reading.after(u64::MAX, 10, |_| true), (vec![], 0, false));
    }
}
