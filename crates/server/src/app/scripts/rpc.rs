//! What executors ask back: ops of the calls that they run for us.

use std::sync::Arc;

use sandbar_api::ErrorCode;
use sandbar_core::limits;
use sandbar_scripts::{
    Op, OpError, OpResult,
    remote::{RpcAuth, RpcReply, RpcRequest, named_args},
};

use super::{Subject, fetch, grants, live::LiveCall, reach::Asker};
use crate::{
    app::{App, SharedApp},
    error::ApiError,
    http::json,
};

/// Who asks: a call that goes on, or whoever knows the secret that all calls share.
pub(crate) struct RpcCaller(Option<Arc<LiveCall>>);

impl App {
    /// Whom a token lets ask.
    ///
    /// # Errors
    /// 403 when nobody may, 401 when this one may not.
    pub(crate) fn rpc_caller(&self, token: Option<&str>) -> Result<RpcCaller, ApiError> {
        let shared = self.config.scripts.rpc_token.as_deref();
        if shared.is_none() && self.reach.executor.is_none() {
            return Err(ApiError::new(ErrorCode::Forbidden, "no executor and no SANDBOX_RPC_TOKEN is configured"));
        }
        let wrong = || ApiError::new(ErrorCode::Unauthorized, "the token is no grant of a call that goes on");
        let token = token.ok_or_else(wrong)?;
        match self.reach.live.find(token) {
            Some(live) => Ok(RpcCaller(Some(live))),
            None if shared.is_some_and(|shared| grants::is_secret(token, shared)) => Ok(RpcCaller(None)),
            None => Err(wrong()),
        }
    }

    /// Answers an op. The token said in whose name; what the body says of that is believed of nobody.
    pub(crate) async fn sandbox_rpc(self: &SharedApp, caller: RpcCaller, body: &[u8]) -> Result<RpcReply, ApiError> {
        let request: RpcRequest = json::read(body).map_err(|error| ApiError::bad_request(format!("the body is not {{op, args, auth}}: {error}")))?;
        // Timers are the executor's own.
        let op = Op::named(&request.op).filter(|op| *op != Op::Sleep);
        let op = op.ok_or_else(|| ApiError::bad_request(format!("unknown op {:?}", request.op.chars().take(64).collect::<String>())))?;
        let args = named_args(op, &request.args);
        let result = match caller.0 {
            Some(live) => live.op(op, &args).await,
            None => self.shared_secret_op(op, &args, &request.auth).await,
        };
        Ok(match result {
            Ok(value) => RpcReply { ok: true, value: Some(value), ..RpcReply::default() },
            Err(OpError { code, message }) => RpcReply { error: Some(message), code: Some(code), ..RpcReply::default() },
        })
    }

    /// For executors that know only the secret that all calls share: nobody can tell which call asks. They read in the name that they
    /// say, as far as the database knows it, and get nothing that is a script's own.
    async fn shared_secret_op(self: &SharedApp, op: Op, args: &serde_json::value::RawValue, auth: &RpcAuth) -> OpResult {
        let (team_id, subject) = self.subject_of(auth).await?;
        match op {
            Op::Fetch => {
                // Nobody can tell how many scripts it came through, so it comes through no more of them.
                let depth = limits::SCRIPT_EVENT_DEPTH_MAX;
                let asker = Asker { team_id: &team_id, script: None, run_id: "", depth, secret: None };
                let within = std::time::Duration::from_millis(limits::SCRIPT_FETCH_MAX_MS);
                let fetched = tokio::time::timeout(within, fetch::fetch_as(self, asker, args)).await;
                fetched.unwrap_or_else(|_| Err(OpError::wrong("fetch failed: no answer in time")))
            }
            Op::DbList => self.script_db_list(&team_id, &subject, args).await,
            Op::DbOne => self.script_db_one(&team_id, &subject, args).await,
            Op::EmailSend | Op::SecretsGet | Op::Sleep => {
                Err(OpError::denied(format!("{} needs a grant; the shared SANDBOX_RPC_TOKEN is good for fetch and db alone", op.as_str())))
            }
        }
    }

    /// Who that is, by the database: the team that is named, and its member as it is there. Nobody is the system, which is in no role.
    async fn subject_of(&self, auth: &RpcAuth) -> Result<(String, Subject), OpError> {
        let unknown = || OpError::denied("auth names nobody that this server knows");
        let failed = |error: sandbar_store::StoreError| {
            tracing::error!(%error, "who an executor speaks for could not be read");
            OpError::internal("the server could not read who that is")
        };
        let team_id = auth.tenant_id.clone().ok_or_else(|| OpError::denied("auth.tenantId is needed with the shared SANDBOX_RPC_TOKEN"))?;
        self.store.team_get(&team_id).await.map_err(failed)?.ok_or_else(unknown)?;
        let Some(user_id) = &auth.user_id else { return Ok((team_id, Subject::default())) };
        let member = self.store.member_find(&team_id, user_id).await.map_err(failed)?.ok_or_else(unknown)?;
        let user = self.store.user_get(user_id).await.map_err(failed)?.ok_or_else(unknown)?;
        Ok((team_id, Subject { user_id: Some(user.id), email: Some(user.email), roles: vec![member.role.as_str().to_owned()] }))
    }
}
