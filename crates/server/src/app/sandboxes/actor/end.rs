//! The end of a sandbox for good.

use futures_util::future::BoxFuture;
use sandbar_core::{
    lifecycle,
    sandbox::{SandboxRecord, reason},
};

use super::{Actor, DELETE_ATTEMPTS_MAX, Reply, now_ms, spec};
use crate::app::sandboxes::refusal::refusal;

impl Actor {
    /// Says that it is gone and ends it; true when it is.
    pub(super) async fn delete(&mut self, linger: Option<BoxFuture<'static, ()>>, reply: Reply) -> bool {
        let transition = match lifecycle::delete(&self.record, now_ms()) {
            Ok(transition) => transition,
            Err(error) => {
                let _ = reply.send(Err(refusal(&error, &self.record.id)));
                return true;
            }
        };
        self.note("sandbox.deleted", reason::USER_REQUEST, "a client asked for it");
        match self.write(transition.record).await {
            Err(error) => {
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
