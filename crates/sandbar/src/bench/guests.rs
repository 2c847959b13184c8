//! The sandboxes of a run: each is remembered and deleted at the end, whatever happened.

use std::{collections::BTreeSet, sync::Mutex};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::client::{Client, Refusal, sandbox_path};

const PARALLEL: usize = 16;

/// A server and what we claimed from it.
pub struct Guests {
    pub client: Client,
    live: Mutex<BTreeSet<String>>,
}

impl Guests {
    pub fn new(client: Client) -> Self {
        Self { client, live: Mutex::default() }
    }

    /// Claims one from the template `default`. It pauses itself if we are killed.
    pub async fn claim(&self) -> anyhow::Result<String> {
        self.claim_from("default").await
    }

    /// Claims one from a template.
    pub async fn claim_from(&self, template: &str) -> anyhow::Result<String> {
        let made = self.client.post("/api/v1/sandboxes", &json!({"template": template, "config": {"ttl": 3600}})).await?;
        let id = made["sandbox_id"].as_str().context("the claim's reply has no sandbox_id")?.to_owned();
        self.live().insert(id.clone());
        Ok(id)
    }

    /// Claims until `count` are live, several at a time.
    pub async fn claim_up_to(&self, count: usize) -> anyhow::Result<()> {
        let missing = count.saturating_sub(self.live().len());
        let mut claims = stream::iter(0..missing).map(|_| self.claim()).buffer_unordered(PARALLEL);
        while let Some(claim) = claims.next().await {
            claim?;
        }
        Ok(())
    }

    /// Runs a command to its end.
    pub async fn command(&self, id: &str, command: &[&str]) -> anyhow::Result<Value> {
        self.client.post(&sandbox_path(id, "/contexts"), &json!({"type": "cmd", "cmd": {"command": command}, "wait_until_done": true})).await
    }

    pub async fn delete(&self, id: &str) -> anyhow::Result<()> {
        match self.client.delete(&sandbox_path(id, "")).await {
            Ok(_) => {}
            Err(error) if error.downcast_ref::<Refusal>().is_some_and(|r| r.status == 404) => {}
            Err(error) => return Err(error),
        }
        self.live().remove(id);
        Ok(())
    }

    /// Deletes what is left; says how many could not be.
    pub async fn delete_all(&self) -> usize {
        let ids: Vec<String> = self.live().iter().cloned().collect();
        let mut deletes = stream::iter(&ids).map(|id| self.delete(id)).buffer_unordered(PARALLEL);
        let mut failed = 0;
        while let Some(result) = deletes.next().await {
            failed += usize::from(result.is_err());
        }
        failed
    }

    fn live(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
