//! What a sandbox tried, and what was decided.
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use sandbar_core::egress::{App, Flow, Verdict};

/// Decisions that are kept per runtime.
const DECISIONS_MAX: usize = 1000;

/// Sums since the runtime was attached.
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

/// One decision, for the user to read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    /// Unix time in milliseconds.
    pub at: u64,
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
    /// Both ways, so far.
    pub bytes: u64,
}

/// A decision whose bytes still grow.
pub(super) struct Entry {
    at: u64,
    host: Option<String>,
    app: Option<App>,
    flow: Flow,
    verdict: Verdict,
    bytes: AtomicU64,
}

#[derive(Default)]
pub(super) struct Log {
    entries: Mutex<VecDeque<Arc<Entry>>>,
    allowed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    dns_queries: AtomicU64,
}

impl Log {
    pub fn record(&self, host: Option<String>, app: Option<App>, flow: Flow, verdict: Verdict) -> Arc<Entry> {
        let counter = if verdict.allow { &self.allowed } else { &self.refused };
        counter.fetch_add(1, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Arc::new(Entry { at: now.as_millis() as u64, host, app, flow, verdict, bytes: AtomicU64::new(0) });
        let mut entries = super::lock(&self.entries);
        if entries.len() >= DECISIONS_MAX {
            entries.pop_front();
        }
        entries.push_back(Arc::clone(&entry));
        entry
    }

    pub fn sent(&self, entry: &Entry, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Relaxed);
        entry.bytes.fetch_add(bytes, Relaxed);
    }

    pub fn received(&self, entry: &Entry, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Relaxed);
        entry.bytes.fetch_add(bytes, Relaxed);
    }

    pub fn dial_failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub fn dns_query(&self) {
        self.dns_queries.fetch_add(1, Relaxed);
    }

    pub fn counters(&self, open: u64) -> Counters {
        Counters {
            allowed: self.allowed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            open,
            failed: self.failed.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            dns_queries: self.dns_queries.load(Relaxed),
        }
    }

    pub fn decisions(&self) -> Vec<Decision> {
        super::lock(&self.entries).iter().map(|entry| entry.render()).collect()
    }
}

impl Entry {
    fn render(&self) -> Decision {
        Decision {
            at: self.at,
            host: self.host.clone(),
            app: self.app.map(App::as_str),
            addr: self.flow.addr,
            port: self.flow.port,
            proto: self.flow.proto.as_str(),
            decision: if self.verdict.allow { "allow" } else { "deny" },
            rule: self.verdict.rule.to_string(),
            bytes: self.bytes.load(Relaxed),
        }
    }
}
