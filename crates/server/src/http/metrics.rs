//! Prometheus metrics of an application: counters are raised where things happen, gauges are set when they are read.

use std::{
    sync::{LazyLock, atomic::Ordering},
    time::Duration,
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use sandbar_core::script::RunTrigger;
use sandbar_node::egress::Counters;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::SharedApp, error::ApiError};

/// `/metrics`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(read))
}

/// Calls into sandboxes that failed because the agent did not answer properly. Counted for the process, since an error
/// is turned into a reply where no application is at hand.
static AGENT_ERRORS: LazyLock<Counter> = LazyLock::new(Counter::default);

/// A call into a sandbox failed in transport.
pub fn agent_failed() {
    AGENT_ERRORS.inc();
}

/// All that is counted.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram>,
    /// Requests that are being answered.
    pub in_flight: Gauge,
    served: Family<ServedLabels, Counter>,
    serving: Family<KindLabels, Histogram>,
    claims: Family<OutcomeLabels, Counter>,
    claim_latency: Histogram,
    runtimes: Family<OriginLabels, Counter>,
    webhook_tries: Family<OutcomeLabels, Counter>,
    webhook_waiting: Gauge,
    scripts: Family<ScriptLabels, Counter>,
    script_latency: Histogram,
    sandboxes: Family<StateLabels, Gauge>,
    pool_idle: Family<PoolLabels, Gauge>,
    pool_wanted: Family<PoolLabels, Gauge>,
    network: NetworkMetrics,
}

/// What sandboxes did since the server began; it does not go down when a sandbox ends.
#[derive(Default)]
struct NetworkMetrics {
    flows: Family<OutcomeLabels, Counter>,
    open: Gauge,
    bytes: Family<DirectionLabels, Counter>,
    dns_queries: Counter,
}

/// `sent` or `received`, as the sandbox sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

/// `sandbox`, `function` or `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServedLabels {
    kind: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
}

/// `pool` or `cold`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabels {
    origin: &'static str,
}

/// `ok` or `failed`; of webhooks `delivered`, `retried` or `failed`; of flows `allowed`, `refused` or `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// What made a script run, and `ok` or the code of its failure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScriptLabels {
    trigger: &'static str,
    outcome: String,
}

/// Seconds; from a tenth of a millisecond, which a warm call takes, to a minute.
const LATENCY_BUCKETS_S: [f64; 15] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A request to a public host was answered after so long.
    pub fn served(&self, kind: &'static str, status: u16, took: Duration) {
        self.served.get_or_create(&ServedLabels { kind, status }).inc();
        self.serving.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sandbar");
        let latency = Family::new_with_constructor((|| Histogram::new(LATENCY_BUCKETS_S)) as fn() -> Histogram);
        let metrics = Self {
            requests: Family::default(),
            latency,
            in_flight: Gauge::default(),
            served: Family::default(),
            serving: Family::new_with_constructor((|| Histogram::new(LATENCY_BUCKETS_S)) as fn() -> Histogram),
            claims: Family::default(),
            claim_latency: Histogram::new(LATENCY_BUCKETS_S),
            runtimes: Family::default(),
            webhook_tries: Family::default(),
            webhook_waiting: Gauge::default(),
            scripts: Family::default(),
            script_latency: Histogram::new(LATENCY_BUCKETS_S),
            sandboxes: Family::default(),
            pool_idle: Family::default(),
            pool_wanted: Family::default(),
            network: NetworkMetrics::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests answered", metrics.requests.clone());
        registry.register_with_unit("http_request_duration", "Time to the head of the reply", Unit::Seconds, metrics.latency.clone());
        registry.register("http_requests_in_flight", "Requests being answered", metrics.in_flight.clone());
        registry.register("gateway_requests", "Requests to public hosts answered", metrics.served.clone());
        registry.register_with_unit("gateway_request_duration", "Time to the head of the reply", Unit::Seconds, metrics.serving.clone());
        registry.register("claims", "Claims answered", metrics.claims.clone());
        registry.register_with_unit("claim_duration", "Time from a claim to a usable sandbox", Unit::Seconds, metrics.claim_latency.clone());
        registry.register("runtimes_taken", "Runtimes given to sandboxes, by where they came from", metrics.runtimes.clone());
        registry.register("webhook_tries", "Attempts to post to webhooks, by what came of them", metrics.webhook_tries.clone());
        registry.register("webhook_waiting", "Events that wait to be posted to webhooks", metrics.webhook_waiting.clone());
        registry.register("agent_errors", "Calls to agents that failed in transport", AGENT_ERRORS.clone());
        registry.register("script_runs", "Runs of scripts, by what made them happen and what came of them", metrics.scripts.clone());
        registry.register_with_unit("script_run_duration", "Time from the start of a run to its end", Unit::Seconds, metrics.script_latency.clone());
        registry.register("sandboxes", "Sandboxes by state", metrics.sandboxes.clone());
        registry.register("pool_idle", "Idle runtimes that wait for a claim", metrics.pool_idle.clone());
        registry.register("pool_wanted", "Idle runtimes that are wanted", metrics.pool_wanted.clone());
        registry.register(
            "network_flows",
            "Connections, flows and names of sandboxes, by what came of them; what failed was allowed before",
            metrics.network.flows.clone(),
        );
        registry.register("network_flows_open", "Connections and flows of sandboxes that are open", metrics.network.open.clone());
        registry.register_with_unit("network_traffic", "What sandboxes sent and received", Unit::Bytes, metrics.network.bytes.clone());
        registry.register("network_dns_queries", "Questions of sandboxes to their resolvers", metrics.network.dns_queries.clone());
        Self { registry, ..metrics }
    }

    /// A request was answered. `route` is the template, never the path: a stranger must not make labels.
    pub fn answered(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let labels = RouteLabels { method, route: route.to_owned() };
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
        self.requests.get_or_create(&RequestLabels { method, route: labels.route, status }).inc();
    }

    /// A claim was answered.
    pub fn claimed(&self, ok: bool, took: Duration) {
        self.claims.get_or_create(&OutcomeLabels { outcome: if ok { "ok" } else { "failed" } }).inc();
        if ok {
            self.claim_latency.observe(took.as_secs_f64());
        }
    }

    /// A script ran for so long; `code` says why it failed, if it did.
    pub fn script_ran(&self, trigger: RunTrigger, code: Option<&str>, took: Duration) {
        self.scripts.get_or_create(&ScriptLabels { trigger: trigger.as_str(), outcome: code.unwrap_or("ok").to_owned() }).inc();
        self.script_latency.observe(took.as_secs_f64());
    }

    /// An event was posted to a webhook: `delivered`, `retried` or `failed`.
    pub fn webhook_tried(&self, outcome: &'static str) {
        self.webhook_tries.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// A sandbox was given a runtime, from the pool or launched for it.
    pub fn launched(&self, from_pool: bool) {
        self.runtimes.get_or_create(&OriginLabels { origin: if from_pool { "pool" } else { "cold" } }).inc();
    }
}

impl NetworkMetrics {
    fn set(&self, sums: &Counters) {
        // A reader that looked earlier and writes later takes nothing back.
        let raise = |counter: &Counter, to: u64| {
            counter.inner().fetch_max(to, Ordering::Relaxed);
        };
        for (outcome, count) in [("allowed", sums.allowed), ("refused", sums.refused), ("failed", sums.failed)] {
            raise(&self.flows.get_or_create(&OutcomeLabels { outcome }), count);
        }
        for (direction, count) in [("sent", sums.sent_bytes), ("received", sums.received_bytes)] {
            raise(&self.bytes.get_or_create(&DirectionLabels { direction }), count);
        }
        raise(&self.dns_queries, sums.dns_queries);
        self.open.set(i64::try_from(sums.open).unwrap_or(i64::MAX));
    }
}

/// Metrics of the server in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "OpenMetrics text", content_type = "text/plain")), security(()))]
async fn read(State(app): State<SharedApp>) -> Result<Response, ApiError> {
    let metrics = &app.metrics;
    metrics.sandboxes.clear();
    for (state, count) in app.store.sandbox_counts().await.map_err(|error| ApiError::internal("counting sandboxes", &error))? {
        metrics.sandboxes.get_or_create(&StateLabels { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let waiting = app.store.webhook_waiting().await.map_err(|error| ApiError::internal("counting deliveries", &error))?;
    metrics.webhook_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    metrics.network.set(&app.node.network_totals());
    metrics.pool_idle.clear();
    metrics.pool_wanted.clear();
    for pool in app.node.pools() {
        let labels = PoolLabels { pool: pool.key };
        metrics.pool_idle.get_or_create(&labels).set(i64::from(pool.idle));
        metrics.pool_wanted.get_or_create(&labels).set(i64::from(pool.min_idle));
    }
    let mut text = String::new();
    encode(&mut text, &metrics.registry).map_err(|error| ApiError::internal("encoding metrics", &error))?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}
