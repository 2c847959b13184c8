//! Webhooks: what happens to sandboxes is posted to where their owners want it, from a queue in the database.

use std::{path::PathBuf, sync::Arc};

use sandbar_core::{
    limits,
    sandbox::SandboxRecord,
    webhook::{self, Kind},
};
use sandbar_node::{Runtime, outbound::Outbound, shares::Shares};
use sandbar_store::{DeliveryRecord, DeliveryState, NewDelivery, NewEvent, WebhookRecord};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure},
        seal::{Purpose, Seal, SealError, is_sealed},
    },
    error::ApiError,
    http::time::rfc3339,
};

pub(crate) mod inside;
mod post;

pub(crate) use post::Posted;

/// Tests that are posted at once.
const TESTS_MAX: usize = 16;
/// And for one team.
const TESTS_PER_TEAM_MAX: usize = 2;

/// What posting needs, shared by whoever does it.
pub struct Webhooks {
    pub(crate) seal: Arc<Seal>,
    outbound: Outbound,
    /// Woken when there is something new to post.
    pub(crate) changed: Notify,
    /// Where the room on the disk is looked at.
    pub(crate) data_dir: PathBuf,
    tests: Semaphore,
    team_tests: Shares,
}

/// One page of what was posted.
#[derive(Debug)]
pub struct Deliveries {
    pub deliveries: Vec<DeliveryRecord>,
    pub dropped: u64,
}

/// A new event.
pub(crate) fn delivery(event_id: Option<String>, kind: Kind, at_ms: i64, record: &SandboxRecord, payload: &Value) -> NewDelivery {
    event(event_id, kind, at_ms, &record.id, &record.team_id, payload)
}

fn event(event_id: Option<String>, kind: Kind, at_ms: i64, sandbox_id: &str, team_id: &str, payload: &Value) -> NewDelivery {
    let event_id = event_id.unwrap_or_else(|| match kind {
        Kind::Deleted => webhook::deleted_id(sandbox_id),
        _ => format!("evt_{}", uuid::Uuid::new_v4()),
    });
    let body = webhook::body(&event_id, kind, &rfc3339(at_ms), sandbox_id, team_id, payload);
    NewDelivery { event_id, kind, body }
}

/// Adds to the events of a change of a sandbox's row what its webhook is told of them. True when that is anything.
pub(crate) fn attach(former: Option<&SandboxRecord>, record: &SandboxRecord, runtime: Option<&Runtime>, events: &mut [NewEvent]) -> bool {
    if record.config.webhook.is_none() {
        return false;
    }
    let mut any = false;
    for event in events {
        let code = event.data.get("reason_code").and_then(Value::as_str).unwrap_or_default();
        for (kind, mut payload) in webhook::of_change(former, record, &event.kind, code, &event.message) {
            if let (Kind::Paused, Some(runtime)) = (kind, runtime) {
                let usage = runtime.usage();
                payload["resource_usage"] = json!({ "memory_bytes": usage.memory_bytes, "cpu_usec": usage.cpu_usec, "processes": usage.pids });
            }
            event.deliveries.push(delivery(None, kind, event.at_ms, record, &payload));
            any = true;
        }
    }
    any
}

impl Webhooks {
    pub(crate) fn new(seal: Arc<Seal>, outbound: Outbound, data_dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { seal, outbound, changed: Notify::new(), data_dir, tests: Semaphore::new(TESTS_MAX), team_tests: Shares::new(TESTS_PER_TEAM_MAX) })
    }

    /// Seals the secret of a configuration, unless it is the stored one.
    pub(crate) fn seal_secret(
        &self,
        config: &mut sandbar_api::sandbox::SandboxConfig,
        stored: Option<&sandbar_api::sandbox::SandboxConfig>,
    ) -> Result<(), ApiError> {
        let known = stored.and_then(|stored| stored.webhook.as_ref()).and_then(|webhook| webhook.secret.as_deref());
        let Some(secret) = config.webhook.as_mut().and_then(|webhook| webhook.secret.as_mut()) else { return Ok(()) };
        if known != Some(secret) {
            *secret = self.seal.seal(Purpose::WebhookSecret, secret).map_err(|error| ApiError::internal("sealing the webhook's secret", &error))?;
        }
        Ok(())
    }

    /// Whether a sandbox's secret cannot be opened with the key that the server has.
    pub(crate) fn is_closed(&self, record: &SandboxRecord) -> bool {
        let secret = record.config.webhook.as_ref().and_then(|webhook| webhook.secret.as_deref());
        secret.is_some_and(|sealed| self.seal.unseal(Purpose::WebhookSecret, sealed).is_err())
    }

    /// Seals what the first versions kept plainly. True when there was anything.
    pub(crate) fn seal_stored(&self, record: &mut SandboxRecord) -> Result<bool, SealError> {
        let Some(secret) = record.config.webhook.as_mut().and_then(|webhook| webhook.secret.as_mut()) else { return Ok(false) };
        if is_sealed(secret) {
            return Ok(false);
        }
        *secret = self.seal.seal(Purpose::WebhookSecret, secret)?;
        Ok(true)
    }
}

impl App {
    /// What was and is to be posted for a sandbox, newest first. A sandbox that is gone can still be asked for, as long as
    /// something of it is kept.
    pub async fn webhook_deliveries(
        &self,
        who: &Principal,
        sandbox_id: &str,
        state: Option<DeliveryState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Deliveries, ApiError> {
        let Some(webhook) = self.webhook_of(who, sandbox_id).await? else { return Ok(Deliveries { deliveries: Vec::new(), dropped: 0 }) };
        let listed = self.store.webhook_deliveries(&who.team_id, sandbox_id, state, before, limit).await;
        Ok(Deliveries { deliveries: listed.map_err(|e| store_failure("listing deliveries", &e))?, dropped: webhook.dropped })
    }

    /// One event with its body.
    pub async fn webhook_delivery(&self, who: &Principal, sandbox_id: &str, event_id: &str) -> Result<DeliveryRecord, ApiError> {
        self.webhook_of(who, sandbox_id).await?;
        let found = self.store.webhook_delivery(&who.team_id, sandbox_id, event_id).await.map_err(|e| store_failure("reading the delivery", &e))?;
        found.ok_or_else(|| ApiError::not_found("event", event_id))
    }

    /// Posts an event once more, in its turn.
    pub async fn webhook_redeliver(&self, who: &Principal, sandbox_id: &str, event_id: &str) -> Result<DeliveryRecord, ApiError> {
        self.present_webhook(who, sandbox_id).await?;
        self.store.webhook_redeliver(&who.team_id, sandbox_id, event_id, now_ms()).await.map_err(|e| store_failure("posting the event again", &e))?;
        self.webhooks.changed.notify_one();
        self.webhook_delivery(who, sandbox_id, event_id).await
    }

    /// Posts an event now, past all that waits, and says what came of it.
    pub async fn webhook_test(&self, who: &Principal, sandbox_id: &str) -> Result<DeliveryRecord, ApiError> {
        let webhook = self.present_webhook(who, sandbox_id).await?;
        let of_team = self.webhooks.team_tests.of(&who.team_id).try_acquire_owned();
        let _of_team = of_team.map_err(|_| ApiError::unavailable(format!("the team is testing {TESTS_PER_TEAM_MAX} webhooks already")).retry_after(1))?;
        let _place = self.webhooks.tests.try_acquire().map_err(|_| ApiError::unavailable("too many webhooks are being tested").retry_after(1))?;
        let now = now_ms();
        let test = event(None, Kind::Test, now, sandbox_id, &who.team_id, &json!({ "message": "somebody asked for this to see whether it arrives" }));
        let Posted { outcome, attempt } = self.webhooks.post(&who.team_id, &webhook.url, webhook.secret.as_deref(), &test.event_id, 1, &test.body).await;
        let ok = webhook::next(outcome, 1, 0.0, now.saturating_add(limits::WEBHOOK_WINDOW_MS), now) == webhook::Next::Delivered;
        self.metrics.webhook_tried(if ok { "delivered" } else { "failed" });
        self.store.webhook_log(&webhook, &test, now, &attempt, ok).await.map_err(|e| store_failure("noting the test", &e))?;
        self.webhook_delivery(who, sandbox_id, &test.event_id).await
    }

    /// The webhook of a sandbox that is there, or was.
    async fn webhook_of(&self, who: &Principal, sandbox_id: &str) -> Result<Option<WebhookRecord>, ApiError> {
        let found = self.store.webhook_get(&who.team_id, sandbox_id).await.map_err(|e| store_failure("reading the webhook", &e))?;
        if found.is_none() {
            self.get(who, sandbox_id).await?;
        }
        Ok(found)
    }

    async fn present_webhook(&self, who: &Principal, sandbox_id: &str) -> Result<WebhookRecord, ApiError> {
        let found = self.webhook_of(who, sandbox_id).await?.filter(|webhook| !webhook.url.is_empty());
        found.ok_or_else(|| ApiError::conflict("the sandbox has no webhook; set config.webhook first"))
    }
}
