//! Contexts of a sandbox: each call wakes it when it sleeps, then is the agent's.

use std::sync::Arc;

use sandbar_node::{
    Runtime,
    client::Attached,
};
use sandbar_procd_api::{Context, CreateContext, ExecResult, Input, PtySize, Signal, Stats};

use crate::{
    app::{App, auth::Principal},
    error::ApiError,
};

impl App {
    pub async fn create_context(&self, who: &Principal, sandbox: &str, create: &CreateContext) -> Result<Context, ApiError> {
        Ok(self.access(who, sandbox).await?.client.create_context(create).await?)
    }

    pub async fn list_contexts(&self, who: &Principal, sandbox: &str) -> Result<Vec<Context>, ApiError> {
        Ok(self.access(who, sandbox).await?.client.list_contexts().await?)
    }

    pub async fn get_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<Context, ApiError> {
        Ok(self.access(who, sandbox).await?.client.get_context(context).await?)
    }

    pub async fn delete_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<(), ApiError> {
        Ok(self.access(who, sandbox).await?.client.delete_context(context).await?)
    }

    pub async fn restart_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<Context, ApiError> {
        Ok(self.access(who, sandbox).await?.client.restart_context(context).await?)
    }

    pub async fn exec_in_context(&self, who: &Principal, sandbox: &str, context: &str, input: &Input) -> Result<ExecResult, ApiError> {
        Ok(self.access(who, sandbox).await?.client.exec(context, input).await?)
    }

    pub async fn write_to_context(&self, who: &Principal, sandbox: &str, context: &str, input: &Input) -> Result<(), ApiError> {
        Ok(self.access(who, sandbox).await?.client.input(context, input).await?)
    }

    pub async fn resize_context(&self, who: &Principal, sandbox: &str, context: &str, size: PtySize) -> Result<(), ApiError> {
        Ok(self.access(who, sandbox).await?.client.resize(context, size).await?)
    }

    pub async fn signal_context(&self, who: &Principal, sandbox: &str, context: &str, signal: &Signal) -> Result<(), ApiError> {
        Ok(self.access(who, sandbox).await?.client.signal(context, signal).await?)
    }

    /// A context with what its processes use.
    pub async fn context_stats(&self, who: &Principal, sandbox: &str, context: &str) -> Result<(Context, Stats), ApiError> {
        let client = &self.access(who, sandbox).await?.client;
        Ok((client.get_context(context).await?, client.context_stats(context).await?))
    }

    /// Attaches to a context; the runtime tells later how it ended.
    pub async fn attach_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<(Arc<Runtime>, Attached), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let attached = runtime.client.attach(context).await?;
        Ok((runtime, attached))
    }
}
