//! Contexts of a sandbox: each call wakes it when it sleeps, then is the agent's.

use std::sync::Arc;

use sandbar_node::{
    Runtime,
    client::{Attached, ProcdError},
};
use sandbar_procd_api::{Context, CreateContext, ExecResult, Input, PtySize, Signal, Stats};

use crate::{
    app::{App, auth::Principal},
    error::ApiError,
};

impl App {
    pub async fn create_context(&self, who: &Principal, sandbox: &str, create: &CreateContext) -> Result<Context, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.create_context(create)).await
    }

    pub async fn list_contexts(&self, who: &Principal, sandbox: &str) -> Result<Vec<Context>, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.list_contexts()).await
    }

    pub async fn get_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<Context, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.get_context(context)).await
    }

    pub async fn delete_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.delete_context(context)).await
    }

    pub async fn restart_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<Context, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.restart_context(context)).await
    }

    pub async fn exec_in_context(&self, who: &Principal, sandbox: &str, context: &str, input: &Input) -> Result<ExecResult, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.exec(context, input)).await
    }

    pub async fn write_to_context(&self, who: &Principal, sandbox: &str, context: &str, input: &Input) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.input(context, input)).await
    }

    pub async fn resize_context(&self, who: &Principal, sandbox: &str, context: &str, size: PtySize) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.resize(context, size)).await
    }

    pub async fn signal_context(&self, who: &Principal, sandbox: &str, context: &str, signal: &Signal) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.signal(context, signal)).await
    }

    /// A context with what its processes use.
    pub async fn context_stats(&self, who: &Principal, sandbox: &str, context: &str) -> Result<(Context, Stats), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let context_now = unless_frozen(&runtime, runtime.client.get_context(context)).await?;
        Ok((context_now, unless_frozen(&runtime, runtime.client.context_stats(context)).await?))
    }

    /// Attaches to a context; the runtime tells later how it ended.
    pub async fn attach_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<(Arc<Runtime>, Attached), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let attached = unless_frozen(&runtime, runtime.client.attach(context)).await?;
        Ok((runtime, attached))
    }
}

/// A call into a sandbox, given up when the sandbox is paused meanwhile: its answer would not come before the resume.
pub(crate) async fn unless_frozen<T>(runtime: &Runtime, call: impl Future<Output = Result<T, ProcdError>>) -> Result<T, ApiError> {
    tokio::select! {
        result = call => Ok(result?),
        () = runtime.frozen() => Err(ApiError::unavailable("the sandbox was paused during the call; its processes go on when it is resumed").retry_after(1)),
    }
}
