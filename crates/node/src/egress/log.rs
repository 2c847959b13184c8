//! What a sandbox tried, what was decided, and what came of it.
//!
//! Flows are numbered as they are decided about, and once more as they end. So who reads along can say how many it
//! missed, and that is exact: flows that are open are never forgotten, and each that is forgotten has ended once.
//!
//! What is refused again and again is one entry that counts, and no kind of entry takes the places of another: a program
//! cannot bury what it reached under what it was refused.
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandbar_core::egress::{App, Flow, Verdict};
use tokio::sync::watch;

/// Flows that are kept per runtime: more than can be open at once.
const FLOWS_MAX: usize = 2048;
const _: () = assert!(FLOWS_MAX > super::proxy::FLOWS_MAX + super::udp::FLOWS_MAX);
/// Places that refused names and refused flows leave to others when all are taken. Allowed flows have the rest.
const REFUSED_SHARE: usize = 512;
/// What is refused again within so long of the first time is counted in its entry.
const REPEATS_WITHIN: Duration = Duration::from_secs(10);
/// The latest entries that are looked at for the first time.
const REPEATS_AMONG: usize = 256;
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
    /// Unix time in milliseconds; of the first, when it was refused several times.
    pub at_ms: i64,
    /// The same of the last.
    pub last_at_ms: i64,
    /// How often the same was refused within a short time; 1 for what was allowed.
    pub times: u64,
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
    /// Entries below are not counted on.
    counted_from: u64,
}

struct Record {
    seq: u64,
    at_ms: i64,
    last_at_ms: AtomicI64,
    times: AtomicU64,
    host: Option<String>,
    app: Option<App>,
    flow: Flow,
    verdict: Verdict,
    /// False for what is told of a flow besides, which is no flow of its own.
    counts: bool,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    /// The rule whose credential its client was logged in with.
    credential: OnceLock<Arc<str>>,
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
        let ring = Ring { flows: VecDeque::new(), first, next: first, ends: 0, counted_from: first };
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
        let at_ms = now_ms();
        let mut ring = super::lock(&self.shared.ring);
        let counted_from = ring.counted_from;
        let known = ring
            .flows
            .iter()
            .rev()
            .take(REPEATS_AMONG)
            .take_while(|record| record.seq >= counted_from)
            .find(|record| record.is_repeated_by(host.as_deref(), app, flow, &verdict, at_ms));
        if let Some(record) = known {
            record.times.fetch_add(1, Relaxed);
            record.last_at_ms.fetch_max(at_ms, Relaxed);
            return Arc::new(Entry { record: Arc::clone(record), shared: Arc::clone(&self.shared) });
        }
        if ring.flows.len() >= FLOWS_MAX {
            ring.make_room(Kind::of(app, &verdict));
        }
        let record = Arc::new(Record {
            seq: ring.next,
            at_ms,
            last_at_ms: AtomicI64::new(at_ms),
            times: AtomicU64::new(1),
            host,
            app,
            flow,
            verdict,
            counts,
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            credential: OnceLock::new(),
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
    /// Says by which rule's credential its client is logged in at the server.
    pub fn logged_in(&self, rule: impl Into<Arc<str>>) {
        self.record.credential.set(rule.into()).ok();
    }

    /// Whether anything came from the server.
    pub fn has_received(&self) -> bool {
        self.record.received_bytes.load(Relaxed) > 0
    }

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

/// What entries displace only each other when all places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RefusedName,
    RefusedFlow,
    Allowed,
}

impl Kind {
    const ALL: [Self; 3] = [Self::RefusedName, Self::RefusedFlow, Self::Allowed];

    fn of(app: Option<App>, verdict: &Verdict) -> Self {
        match (verdict.allow, app) {
            (true, _) => Self::Allowed,
            (false, Some(App::Dns)) => Self::RefusedName,
            (false, _) => Self::RefusedFlow,
        }
    }

    fn share(self) -> usize {
        match self {
            Self::RefusedName | Self::RefusedFlow => REFUSED_SHARE,
            Self::Allowed => FLOWS_MAX - 2 * REFUSED_SHARE,
        }
    }
}

impl Ring {
    /// Forgets the oldest that has ended of a kind that has more than its share, counting the one that comes.
    fn make_room(&mut self, coming: Kind) {
        let count = |kind: Kind| self.flows.iter().filter(|record| record.kind() == kind).count() + usize::from(kind == coming);
        let is_over = Kind::ALL.map(|kind| count(kind) > kind.share());
        let has_ended = |record: &Record| record.end.get().is_some();
        let oldest = self.flows.iter().position(|record| has_ended(record) && is_over[record.kind() as usize]);
        // Open flows may be more than their share. Then another one has ended: there are more places than flows can be open.
        let oldest = oldest.or_else(|| self.flows.iter().position(|record| has_ended(record)));
        self.flows.remove(oldest.unwrap_or(0));
    }

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
    /// The flows after this number that `wanted` picks, oldest first and at most `limit`; and how many after it were
    /// forgotten.
    pub fn after(&self, seq: u64, limit: usize, wanted: impl Fn(&Decision) -> bool) -> (Vec<Decision>, u64) {
        let ring = super::lock(&self.0.ring);
        let flows = ring.after(seq).map(Record::render).filter(wanted).take(limit).collect();
        (flows, ring.forgotten_after(seq))
    }

    /// What is refused from now on is an entry of its own, also where the same was refused just before.
    pub fn begin_anew(&self) {
        let mut ring = super::lock(&self.0.ring);
        ring.counted_from = ring.next;
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
    fn kind(&self) -> Kind {
        Kind::of(self.app, &self.verdict)
    }

    /// Whether this is the same refusal again, and soon.
    fn is_repeated_by(&self, host: Option<&str>, app: Option<App>, flow: Flow, verdict: &Verdict, at_ms: i64) -> bool {
        !verdict.allow
            && self.verdict == *verdict
            && (self.host.as_deref(), self.app, self.flow) == (host, app, flow)
            && at_ms.saturating_sub(self.at_ms) < REPEATS_WITHIN.as_millis() as i64
    }

    fn render(&self) -> Decision {
        let state = match (self.end.get(), self.failure.get()) {
            (None, _) if self.verdict.allow => FlowState::Open,
            (_, Some(_)) => FlowState::Failed,
            (_, None) => FlowState::Closed,
        };
        Decision {
            seq: self.seq,
            at_ms: self.at_ms,
            last_at_ms: self.last_at_ms.load(Relaxed),
            times: self.times.load(Relaxed),
            host: self.host.clone(),
            app: self.app.map(App::as_str),
            addr: self.flow.addr,
            port: self.flow.port,
            proto: self.flow.proto.as_str(),
            decision: if self.verdict.allow { "allow" } else { "deny" },
            rule: match self.credential.get() {
                Some(credential) => format!("{} (with the credential of {credential})", self.verdict.rule),
                None => self.verdict.rule.to_string(),
            },
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

    const FLOW: Flow = Flow { addr: IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9)), port: 53, proto: Protocol::Udp };

    fn decide(log: &Log, allow: bool) -> Arc<Entry> {
        log.record(None, None, FLOW, Verdict { allow, rule: "test".into() })
    }

    fn refuse_name(log: &Log, name: &str) {
        log.record(Some(name.to_owned()), Some(App::Dns), FLOW, Verdict::deny("test"));
    }

    #[test]
    fn what_is_refused_again_is_counted() {
        let log = Log::new(Arc::default());
        for _ in 0..3 {
            refuse_name(&log, "a.test");
            refuse_name(&log, "b.test");
        }
        drop([decide(&log, true), decide(&log, true)]);
        let seen: Vec<_> = log.decisions().into_iter().map(|flow| (flow.host, flow.times)).collect();
        assert_eq!(seen, [(Some("a.test".to_owned()), 3), (Some("b.test".to_owned()), 3), (None, 1), (None, 1)]);
        assert_eq!(log.counters().refused, 6);
    }

    #[test]
    fn who_begins_anew_sees_what_was_refused_before_again() {
        let log = Log::new(Arc::default());
        refuse_name(&log, "a.test");
        log.reading().begin_anew();
        refuse_name(&log, "a.test");
        refuse_name(&log, "a.test");
        let seen: Vec<_> = log.decisions().into_iter().map(|flow| flow.times).collect();
        assert_eq!(seen, [1, 2]);
        assert!(log.decisions().iter().all(|flow| flow.last_at_ms >= flow.at_ms));
    }

    #[test]
    fn what_is_refused_does_not_bury_what_was_reached() {
        let log = Log::new(Arc::default());
        let first = decide(&log, true).record.seq;
        log.record(None, None, FLOW, Verdict::deny("first"));
        for at in 0..3 * FLOWS_MAX {
            refuse_name(&log, &format!("{at}.test"));
        }
        let kept = log.decisions();
        assert_eq!((kept.len(), kept[0].seq, &*kept[1].rule), (FLOWS_MAX, first, "first"));
        let count = |kept: &[Decision], allow: bool| kept.iter().filter(|flow| (flow.decision == "allow") == allow).count();
        for _ in 0..3 * FLOWS_MAX {
            decide(&log, true);
        }
        for at in 0..3 * FLOWS_MAX {
            log.record(None, None, FLOW, Verdict::deny(format!("rule {at}")));
        }
        let kept = log.decisions();
        assert_eq!((count(&kept, true), count(&kept, false)), (FLOWS_MAX - 2 * REFUSED_SHARE, 2 * REFUSED_SHARE));
        assert_eq!(kept.iter().filter(|flow| flow.app.is_some()).count(), REFUSED_SHARE);
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
        for at in 0..3 * FLOWS_MAX {
            log.record(None, None, FLOW, Verdict::deny(format!("rule {at}")));
        }
        let happened = reading.look(&mut position);
        assert_eq!((happened.flows.len() as u64 + happened.missed, happened.flows.len()), (3 * FLOWS_MAX as u64, FLOWS_MAX - 1));
        drop(open);
        let end = reading.look(&mut position);
        assert_eq!((end.flows[0].seq, end.missed), (first, 0), "what is open is not forgotten");
        // The same for pages.
        let (page, missed) = reading.after(first, 10, |flow| flow.decision == "deny");
        assert_eq!((page.len(), missed), (10, (2 * FLOWS_MAX + 1) as u64));
        let last = reading.after(0, usize::MAX, |_| true).0.pop().unwrap().seq;
        assert_eq!(reading.after(last, 10, |_| true), (vec![], 0));
        assert_eq!(reading.position(last).1, 0);
        assert_eq!(reading.after(u64::MAX, 10, |_| true), (vec![], 0));
    }
}
