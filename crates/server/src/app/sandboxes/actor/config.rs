//! How a sandbox's configuration is changed, and what of it is in force at once.

use sandbar_api::sandbox::UpdateConfig;
use sandbar_core::{
    lifecycle,
    sandbox::{SandboxRecord, reason},
    validate,
};
use sandbar_node::error_text;
use sandbar_store::NewEvent;

use super::{
    super::{
        refusal::{refusal, store_failure},
        violations,
    },
    Actor, now_ms, spec,
};
use crate::error::ApiError;

impl Actor {
    pub(super) async fn update(&mut self, update: &UpdateConfig, only_services: bool) -> Result<(), ApiError> {
        let mut config = if only_services {
            validate::replace_services(&self.record.config, &serde_json::json!({ "services": update.services }))
        } else {
            validate::update(&self.record.config, update)
        }
        .map_err(violations)?;
        self.webhooks.seal_secret(&mut config, Some(&self.record.config))?;
        let transition =
            lifecycle::reconfigure(&self.record, config, update.ttl, update.hard_ttl, now_ms()).map_err(|error| refusal(&error, &self.record.id))?;
        if !transition.changed {
            return Ok(());
        }
        // Asked for when it sleeps, too: a policy that does not fit the template's would keep it from starting.
        spec::policy(&transition.record).map_err(ApiError::bad_request)?;
        if transition.record.config.network != self.record.config.network {
            self.credentials.check(&transition.record).await?;
        }
        let former = self.record.clone();
        // What makes walls is in force before the new configuration is acknowledged; if a part of it cannot be put in
        // force, or it cannot be written, all is taken back.
        let wanted = transition.record.clone();
        let done = match self.enforce(&former, &wanted).await {
            Ok(warning) => {
                self.note("sandbox.updated", reason::USER_REQUEST, "its configuration was changed");
                self.events.extend(warning);
                self.carry_out(transition).await
            }
            Err(error) => Err(error),
        };
        if done.is_err()
            && let Err(undo) = self.enforce(&wanted, &former).await
        {
            tracing::error!(sandbox = former.id, error = %undo, "walls of a refused update stay in force");
        }
        done
    }

    /// Puts limits and network policy of a record in force on the live runtime. Returns what its owner should read about it.
    async fn enforce(&mut self, former: &SandboxRecord, record: &SandboxRecord) -> Result<Option<NewEvent>, ApiError> {
        let Some(runtime) = self.runtime.clone() else { return Ok(None) };
        let policy = spec::policy(record).map_err(ApiError::bad_request)?;
        // First what can well be refused.
        self.node.set_limits(&runtime, spec::limits_of(record)).await.map_err(|error| {
            tracing::warn!(sandbox = record.id, error = error_text(&error), "limits were refused");
            ApiError::conflict("the new limits cannot be applied now: the sandbox may be using more memory than that")
        })?;
        let terms = self.credentials.terms(&record.team_id, policy).await.map_err(|error| store_failure("reading credential sources", &error))?;
        let trust = self.node.trust_for(&terms.policy);
        runtime.set_policy(terms).await.map_err(|error| ApiError::internal("applying the network policy", &error_text(&error)))?;
        let before = spec::policy(former).ok().and_then(|policy| self.node.trust_for(&policy));
        if trust != before {
            self.trust_due = Some(trust.unwrap_or_default());
        }
        Ok(self.tell_trust().await)
    }

    /// Tells programs of a runtime that is awake whom they may trust, if that is due. Returns what their owner should read
    /// about it.
    pub(super) async fn tell_trust(&mut self) -> Option<NewEvent> {
        let trust = self.trust_due.clone()?;
        let runtime = self.runtime.clone().filter(|runtime| !runtime.is_frozen() && !runtime.has_ended())?;
        let warning = spec::establish(&self.node, &runtime, &self.record.id, trust).await;
        if warning.is_none() {
            self.trust_due = None;
        }
        // Else the next update or thaw tries again.
        warning
    }
}
