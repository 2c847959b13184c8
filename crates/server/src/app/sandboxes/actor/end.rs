//! How a sandbox loses its processes, and how it goes.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sandbar_core::{
    lifecycle::{self, Observation},
    sandbox::{Desired, SandboxRecord, reason},
};
use sandbar_node::error_text;

use super::{super::refusal::refusal, Actor, Reply, lost, now_ms, spec};

/// Times that the end of a deleted sandbox's processes is waited for.
const DELETE_ATTEMPTS_MAX: u32 = 6;

impl Actor {
    /// A row that promises processes where there are none: the end of a runtime could not be written when it came, or a
    /// recovery could not. Else the sandbox would count as running and never be started again.
    pub(super) async fn notice_loss(&mut self) {
        if self.runtime.is_some() || self.record.desired == Desired::Deleted || !self.record.observed.has_runtime() {
            return;
        }
        let text = "its processes had ended; its files are kept";
        self.note("sandbox.runtime_lost", reason::RUNTIME_EXITED, text);
        let seen = lifecycle::observe(&self.record, lost(text), now_ms());
        if let Err(error) = self.carry_out(seen).await {
            tracing::error!(sandbox = self.record.id, %error, "the loss of a runtime was not recorded");
        }
    }

    /// Pid 1 ended by itself.
    pub(super) async fn lost(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let (code, text) = if runtime.oom_kills() > 0 {
            (reason::OUT_OF_MEMORY, "it ran out of memory and its first process was killed; its files are kept")
        } else {
            (reason::RUNTIME_EXITED, "its first process ended; its files are kept")
        };
        self.usage.ends(&Arc::new(self.record.clone()), &runtime);
        if let Err(error) = runtime.destroy().await {
            tracing::warn!(sandbox = self.record.id, error = error_text(&error), "remains of a runtime are left to the sweep");
        }
        self.note("sandbox.runtime_lost", code, text);
        let seen = lifecycle::observe(&self.record, Observation::RuntimeLost { code, text: text.into() }, now_ms());
        if let Err(error) = self.carry_out(seen).await {
            tracing::error!(sandbox = self.record.id, %error, "the loss of a runtime was not recorded");
        }
    }

    /// Ends it for good; true when it is gone.
    pub(super) async fn delete(&mut self, linger: Option<BoxFuture<'static, ()>>, reply: Reply) -> bool {
        let transition = match lifecycle::delete(&self.record, now_ms()) {
            Ok(transition) => transition,
            Err(error) => {
                let _ = reply.send(Err(refusal(&error, &self.record.id)));
                return true;
            }
        };
        // Before the last event of its life.
        self.hear_out().await;
        self.note("sandbox.deleted", reason::USER_REQUEST, "a client asked for it");
        match self.write(transition.record).await {
            Err(error) => {
                self.listen().await;
                let _ = reply.send(Err(error));
                return false;
            }
            // Gone for everybody from here on; what is left of it goes behind the answer.
            Ok(record) => {
                let _ = reply.send(Ok(self.view()));
                if let Some(linger) = linger {
                    linger.await;
                }
                self.finish_delete(record).await;
            }
        }
        true
    }

    /// Removes what is left of a deleted sandbox, the row last. What fails is done at the next start.
    pub async fn finish_delete(&mut self, record: SandboxRecord) {
        let mut attempts = 1;
        // A disk that is very busy can keep processes from ending for longer than anybody else wants to wait.
        while let Err(error) = self.end_runtime().await {
            if attempts == DELETE_ATTEMPTS_MAX {
                tracing::error!(sandbox = record.id, %error, "a deleted sandbox is left to the next start");
                return;
            }
            tracing::warn!(sandbox = record.id, %error, attempts, "a deleted sandbox has not ended yet");
            attempts += 1;
        }
        if let Some(root) = spec::root_of(&record) {
            self.node.remove_root(&root);
        }
        for runtime_id in record.runtime_id.iter().chain(&record.previous_runtime_id) {
            self.node.remove_logs(runtime_id);
        }
        if let Err(error) = self.store.sandbox_delete(&record.id, record.version).await {
            tracing::error!(sandbox = record.id, %error, "a deleted sandbox's row is left to the next start");
        }
        self.release(record.base.as_ref());
        self.runtime = None;
    }
}
