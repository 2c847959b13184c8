//! A sandbox's files as a whole: captured for a snapshot, a fork or a template, and put back.

use sandbar_core::{
    limits,
    sandbox::{Base, Desired, Layer, Observed, SandboxRecord, reason},
};
use sandbar_node::{Pin, error_text};

use super::{Actor, spec};
use crate::{app::sandboxes::runtime_failure, error::ApiError};

/// The files of a sandbox at one moment, kept until a row names them.
pub(crate) struct Captured {
    pub base: Base,
    pub record: SandboxRecord,
    pub pin: Pin,
}

impl Actor {
    /// The files as they are. Of a sandbox without processes its own layer becomes one that nobody writes, which copies
    /// nothing; of another, which is held still meanwhile, they are copied.
    pub(super) async fn capture(&mut self) -> Result<Captured, ApiError> {
        let (mut base, mut pin) = match self.record.observed {
            Observed::Active | Observed::Frozen => self.copy().await?,
            Observed::Hibernated | Observed::Failed => self.stack().await?,
            Observed::Starting => return Err(ApiError::unavailable("the sandbox is starting").retry_after(1)),
            Observed::Cleaned => return Err(ApiError::conflict("the sandbox was cleaned and has no files; resume it first")),
        };
        if base.layers.len() > limits::LAYERS_MAX {
            let flattened = self.node.flatten(&base).await.map_err(|error| runtime_failure("making the layers of the sandbox one", &error))?;
            if self.record.base.as_ref() == Some(&base) {
                let mut record = self.record.clone();
                record.base = Some(flattened.0.clone());
                self.write(record).await?;
            }
            // Whoever else names the former layers keeps them.
            self.release(Some(&base));
            (base, pin) = flattened;
        }
        Ok(Captured { base, record: self.record.clone(), pin })
    }

    async fn copy(&self) -> Result<(Base, Pin), ApiError> {
        let gone = || ApiError::unavailable("the sandbox's processes are ending").retry_after(1);
        let (Some(runtime), Some(root), Some(below)) = (self.runtime.clone(), spec::root_of(&self.record), self.record.base.clone()) else {
            return Err(gone());
        };
        let node = self.node.clone();
        let copied = runtime.hold_still(async move { node.copy_root(&root).await }).await;
        let (layer, pin) = copied.and_then(|copied| copied).map_err(|error| runtime_failure("copying the sandbox's files", &error))?;
        let below_pin = self.node.pin_base(&below);
        Ok((on_top(layer, &below), pin.and(below_pin)))
    }

    async fn stack(&mut self) -> Result<(Base, Pin), ApiError> {
        let Some(below) = self.record.base.clone() else {
            return Err(ApiError::conflict("the sandbox has no files yet; resume it first"));
        };
        let Some(root) = spec::root_of(&self.record) else {
            let pin = self.node.pin_base(&below);
            return Ok((below, pin));
        };
        // Nothing was written since it was captured last.
        if self.node.is_root_empty(&root) {
            let pin = self.node.pin_base(&below);
            return Ok((below, pin));
        }
        let fresh = self.node.create_root().await.map_err(|error| runtime_failure("making a new layer", &error))?;
        let base = on_top(Layer { root_id: root.id.clone(), uid_slot: root.uid_slot }, &below);
        let pin = self.node.pin_base(&base);
        let mut record = self.record.clone();
        record.base = Some(base.clone());
        record.root_id = Some(fresh.id.clone());
        record.uid_slot = Some(fresh.uid_slot);
        if let Err(error) = self.write(record).await {
            self.node.remove_root(&fresh);
            return Err(error);
        }
        Ok((base, pin))
    }

    /// Puts other files in place of the sandbox's, which has to be paused. What was kept of its memory is given up.
    pub(super) async fn restore(&mut self, base: Base, text: &str) -> Result<(), ApiError> {
        if self.record.desired != Desired::Paused {
            return Err(ApiError::conflict("files can be restored only while the sandbox is paused; pause it first"));
        }
        // What may be refused comes before anything is given up.
        let fresh = self.node.create_root().await.map_err(|error| runtime_failure("making a new layer", &error))?;
        if let Err(error) = self.give_memory_up().await {
            self.node.remove_root(&fresh);
            return Err(error);
        }
        let (former_root, former_base) = (spec::root_of(&self.record), self.record.base.clone());
        let mut record = self.record.clone();
        record.base = Some(base);
        record.root_id = Some(fresh.id.clone());
        record.uid_slot = Some(fresh.uid_slot);
        record.updated_at_ms = super::now_ms();
        self.note("sandbox.restored", reason::USER_REQUEST, text);
        if let Err(error) = self.write(record).await {
            self.node.remove_root(&fresh);
            return Err(error);
        }
        if let Some(root) = former_root {
            self.node.remove_root(&root);
        }
        self.release(former_base.as_ref());
        Ok(())
    }

    async fn give_memory_up(&mut self) -> Result<(), ApiError> {
        if !self.record.observed.has_runtime() {
            return Ok(());
        }
        self.end_runtime().await?;
        let seen = sandbar_core::lifecycle::observe(&self.record, sandbar_core::lifecycle::Observation::Hibernated, super::now_ms());
        self.write(seen.record).await.map(drop)
    }

    /// Takes a volume out of the sandbox's configuration; its processes end first, as they may have files of it open.
    pub(super) async fn detach(&mut self, volume_id: &str) -> Result<(), ApiError> {
        if !self.record.mounts.iter().any(|mount| mount.volume_id == volume_id) {
            return Ok(());
        }
        if self.runtime.is_some() {
            self.end_runtime().await?;
            let text = "a volume that it had mounted was deleted; it starts without it";
            self.note("sandbox.volume_detached", reason::VOLUME_DELETED, text);
            let lost = sandbar_core::lifecycle::Observation::RuntimeLost { code: reason::VOLUME_DELETED, text: text.into() };
            let seen = sandbar_core::lifecycle::observe(&self.record, lost, super::now_ms());
            self.write(seen.record).await?;
        }
        let mut record = self.record.clone();
        record.mounts.retain(|mount| mount.volume_id != volume_id);
        self.write(record)
            .await
            .map(drop)
            .inspect_err(|error| tracing::error!(sandbox = self.record.id, error = error_text(error), "a volume was not detached"))
    }
}

fn on_top(layer: Layer, below: &Base) -> Base {
    let layers = std::iter::once(layer).chain(below.layers.iter().cloned()).collect();
    Base { image: below.image.clone(), layers }
}
