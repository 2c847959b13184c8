//! Contexts of a sandbox: each call wakes it when it sleeps, then is the agent's. What an app was given sealed is not told of those of
//! its sandboxes.

use std::sync::Arc;

use sandbar_node::{
    Runtime,
    client::{Attached, ProcdError},
};
use sandbar_procd_api::{Context, CreateContext, ExecResult, Input, PtySize, Signal, Stats};

use crate::{
    app::{
        App,
        apps::sealed::{Sealed, SealedOutput},
        auth::Principal,
    },
    error::ApiError,
};

impl App {
    pub async fn create_context(&self, who: &Principal, sandbox: &str, create: &CreateContext) -> Result<Context, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let sealed = self.sealed_in(sandbox).await?;
        Ok(shown(sealed.as_ref(), unless_frozen(&runtime, runtime.client.create_context(create)).await?))
    }

    pub async fn list_contexts(&self, who: &Principal, sandbox: &str) -> Result<Vec<Context>, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let sealed = self.sealed_in(sandbox).await?;
        let contexts = unless_frozen(&runtime, runtime.client.list_contexts()).await?;
        Ok(contexts.into_iter().map(|context| shown(sealed.as_ref(), context)).collect())
    }

    pub async fn get_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<Context, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let sealed = self.sealed_in(sandbox).await?;
        Ok(shown(sealed.as_ref(), unless_frozen(&runtime, runtime.client.get_context(context)).await?))
    }

    pub async fn delete_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<(), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        unless_frozen(&runtime, runtime.client.delete_context(context)).await
    }

    pub async fn restart_context(&self, who: &Principal, sandbox: &str, context: &str) -> Result<Context, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let sealed = self.sealed_in(sandbox).await?;
        Ok(shown(sealed.as_ref(), unless_frozen(&runtime, runtime.client.restart_context(context)).await?))
    }

    pub async fn exec_in_context(&self, who: &Principal, sandbox: &str, context: &str, input: &Input) -> Result<ExecResult, ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let sealed = self.sealed_in(sandbox).await?;
        let mut result = unless_frozen(&runtime, runtime.client.exec(context, input)).await?;
        if let Some(sealed) = sealed {
            sealed.output(&mut result.output);
        }
        Ok(result)
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

    /// Attaches to a context; the runtime tells later how it ended. What it prints has to go through what comes with it, if something
    /// does.
    pub(crate) async fn attach_context(
        &self,
        who: &Principal,
        sandbox: &str,
        context: &str,
    ) -> Result<(Arc<Runtime>, Attached, Option<SealedOutput>), ApiError> {
        let runtime = self.access(who, sandbox).await?;
        let sealed = match self.sealed_in(sandbox).await? {
            None => None,
            Some(sealed) => {
                let contexts = unless_frozen(&runtime, runtime.client.list_contexts()).await?;
                contexts.iter().find(|found| found.id == context).and_then(|found| sealed.output_of(found))
            }
        };
        let attached = unless_frozen(&runtime, runtime.client.attach(context)).await?;
        Ok((runtime, attached, sealed))
    }
}

/// A context of a sandbox as it may be seen.
fn shown(sealed: Option<&Sealed>, mut context: Context) -> Context {
    if let Some(sealed) = sealed {
        sealed.context(&mut context);
    }
    context
}

/// A call into a sandbox, given up when the sandbox is paused meanwhile: its answer would not come before the resume.
pub(crate) async fn unless_frozen<T>(runtime: &Runtime, call: impl Future<Output = Result<T, ProcdError>>) -> Result<T, ApiError> {
    tokio::select! {
        result = call => Ok(result?),
        () = runtime.frozen() => Err(ApiError::unavailable("the sandbox was paused during the call; its processes go on when it is resumed").retry_after(1)),
    }
}
