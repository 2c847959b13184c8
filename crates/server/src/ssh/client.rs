//! Somebody who has come in, and the sandbox that they came for.

use std::{sync::Arc, time::Duration};

use sandbar_api::ErrorCode;
use sandbar_node::{
    Runtime,
    client::{ProcessInput, ProcessOutput},
};
use sandbar_procd_api::{PROTOCOL_PROCESS, process::Start};

use crate::{
    app::{SharedApp, auth::Principal, contexts::unless_frozen, standing::Changes},
    error::ApiError,
};

/// How long the end of a runtime may take to be known after its agent fell silent.
const END_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Client {
    app: SharedApp,
    sandbox: String,
    fingerprint: String,
}

impl Client {
    pub fn new(app: SharedApp, sandbox: String, fingerprint: String) -> Self {
        Self { app, sandbox, fingerprint }
    }

    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// Who comes, and which key of theirs it is. That has to be good at this moment still.
    pub async fn who(&self) -> Result<(Principal, String), ApiError> {
        let gone = || ApiError::not_found("sandbox", &self.sandbox);
        let (record, _) = self.app.look(&self.sandbox).await?.ok_or_else(gone)?;
        let who = self.app.auth.ssh_principal(&record.team_id, &self.fingerprint).await?;
        who.ok_or_else(|| ApiError::new(ErrorCode::Forbidden, "the key does not open this sandbox any more"))
    }

    /// Returns when whoever has come in may not any more, with why: their key went, or what it was added by, or their role.
    pub async fn barred(&self) -> String {
        let mut changes = Changes::new(self.app.auth.changes());
        loop {
            changes.next().await;
            match self.who().await {
                Err(error) if error.status() < 500 => return error.message().to_owned(),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// The sandbox's runtime, awake.
    pub async fn runtime(&self) -> Result<Arc<Runtime>, ApiError> {
        let (who, _) = self.who().await?;
        self.app.admit_request(&who.team_id)?;
        self.app.access(&who, &self.sandbox).await
    }

    /// Starts a process inside whose streams are ours.
    pub async fn start(&self, runtime: &Runtime, arguments: &[Vec<u8>], start: &Start) -> Result<(ProcessInput, ProcessOutput), ApiError> {
        if unless_frozen(runtime, runtime.client.protocol()).await? < PROTOCOL_PROCESS {
            return Err(ApiError::conflict("the sandbox was started by an older version of the server; pause and resume it, then SSH works"));
        }
        unless_frozen(runtime, runtime.client.start_process(arguments, start)).await
    }
}

/// Why a runtime does not answer any more, for people; returns when it is known.
pub(super) async fn why_silent(runtime: &Runtime) -> &'static str {
    tokio::select! {
        biased;
        () = runtime.ended() => "the sandbox has ended, or was started anew",
        () = runtime.frozen() => "the sandbox was paused",
        () = tokio::time::sleep(END_WITHIN) => "the sandbox does not answer any more",
    }
}
