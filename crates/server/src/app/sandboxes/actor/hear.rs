//! What programs inside published, before they are silenced: it was acknowledged, and is only in their memory until the
//! follower has written it.

use std::{sync::Arc, time::Duration};

use sandbar_core::{lifecycle::Effect, sandbox::Desired};
use sandbar_node::{Runtime, client::ProcdError, error_text};

use super::Actor;

/// A follower that cannot write, or an agent that does not answer, keeps nothing from ending for longer than this.
const HEAR_WITHIN: Duration = Duration::from_secs(2);

/// Whether programs may be able to say something before an effect and not after it, or the other way round.
pub(super) fn silences(effect: &Effect) -> bool {
    match effect {
        Effect::Freeze | Effect::Hibernate | Effect::Destroy { .. } | Effect::Thaw => true,
        Effect::Launch => false,
    }
}

impl Actor {
    /// The runtime, when it is awake and somebody is to hear of it.
    fn audible(&self) -> Option<&Arc<Runtime>> {
        let told = self.record.config.webhook.is_some() && self.record.desired != Desired::Deleted && self.heard.is_followed();
        self.runtime.as_ref().filter(|runtime| told && !runtime.is_frozen() && !runtime.has_ended())
    }

    /// Lets nothing more be published and returns when all that was is in the webhook's queue.
    pub(super) async fn hear_out(&self) {
        let Some(runtime) = self.audible() else { return };
        let heard = async {
            // One that only begins lets programs publish first.
            self.heard.until(&runtime.id, 0).await;
            let newest = runtime.client.set_publishing(false).await?;
            self.heard.until(&runtime.id, newest).await;
            Ok::<_, ProcdError>(())
        };
        match tokio::time::timeout(HEAR_WITHIN, heard).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(sandbox = self.record.id, error = error_text(&error), "an agent was not heard to the end"),
            Err(_) => tracing::warn!(sandbox = self.record.id, within = ?HEAR_WITHIN, "events were not taken in time; what was published last may be lost"),
        }
    }

    /// Lets programs publish again, where they are awake.
    pub(super) async fn listen(&self) {
        let Some(runtime) = self.audible() else { return };
        match tokio::time::timeout(HEAR_WITHIN, runtime.client.set_publishing(true)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(sandbox = self.record.id, error = error_text(&error), "programs cannot publish events"),
            Err(_) => tracing::warn!(sandbox = self.record.id, within = ?HEAR_WITHIN, "programs cannot publish events: the agent does not answer"),
        }
    }
}
