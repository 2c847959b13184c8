//! Keepers: small runtimes without a network that have one volume, so that what clients do with its files is done behind
//! the same walls, and by the same agent, as in a sandbox. Made when first needed, ended when nobody needs them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::{egress, sandbox::Base};
use tokio::sync::OnceCell;

use crate::{Limits, Node, Runtime, RuntimeError, RuntimeSpec, VolumeMount, error_text, image::HOST};

/// Where the volume is inside, until its agent has made it its root.
const VOLUME_PATH: &str = "/volume";
/// A keeper that was not used for this long ends.
const IDLE_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits { memory_bytes: 128 << 20, cpu_millis: 1000, pids: 64, disk_bytes: 0 };

/// The keepers that live, by tree.
#[derive(Default)]
pub(crate) struct Keepers(Mutex<HashMap<String, Place>>);

struct Place {
    runtime: Arc<OnceCell<Arc<Runtime>>>,
    used: Instant,
    /// Who holds it uses it.
    lease: Arc<()>,
}

/// A keeper that stays while this is held.
pub struct Keeper {
    pub runtime: Arc<Runtime>,
    _lease: Arc<()>,
}

impl Node {
    /// The keeper of a tree, which is made when there is none; of those who ask at once only one makes it. Files in it can
    /// have at most `file_bytes_max` bytes.
    pub async fn volume_keeper(&self, tree_id: &str, file_bytes_max: u64) -> Result<Keeper, RuntimeError> {
        // One that ended meanwhile is replaced, once.
        for _ in 0..2 {
            let (cell, lease) = {
                let mut places = self.inner.keepers.lock();
                let place = places.entry(tree_id.to_owned()).or_insert_with(|| Place { runtime: Arc::default(), used: Instant::now(), lease: Arc::new(()) });
                place.used = Instant::now();
                (Arc::clone(&place.runtime), Arc::clone(&place.lease))
            };
            let made = cell.get_or_try_init(|| self.make_keeper(tree_id, file_bytes_max)).await;
            match made {
                Ok(runtime) if !runtime.has_ended() && self.inner.keepers.knows(tree_id, &cell) => {
                    return Ok(Keeper { runtime: Arc::clone(runtime), _lease: lease });
                }
                // It has ended, or its end was asked for while it was made. Another may have its place by now.
                Ok(runtime) => {
                    self.inner.keepers.forget(tree_id, &cell);
                    self.destroy_with_root(runtime).await;
                }
                Err(error) => {
                    self.inner.keepers.forget(tree_id, &cell);
                    return Err(error);
                }
            }
        }
        Err(RuntimeError::Ended)
    }

    /// Ends the keeper of a tree, if there is one, and waits until it has.
    pub async fn volume_end_keeper(&self, tree_id: &str) {
        let place = self.inner.keepers.lock().remove(tree_id);
        if let Some(runtime) = place.and_then(|place| place.runtime.get().cloned()) {
            self.destroy_with_root(&runtime).await;
        }
    }

    async fn make_keeper(&self, tree_id: &str, file_bytes_max: u64) -> Result<Arc<Runtime>, RuntimeError> {
        let spec = RuntimeSpec {
            base: Base { image: HOST.to_owned(), layers: Vec::new() },
            limits: Limits { disk_bytes: file_bytes_max, ..LIMITS },
            mounts: vec![VolumeMount { tree_id: tree_id.to_owned(), target: VOLUME_PATH.trim_start_matches('/').into(), read_only: false }],
            tmpfs: Vec::new(),
            warm: Vec::new(),
        };
        let root = self.create_root().await?;
        let runtime = match self.launch(&spec, root.clone()).await {
            Ok(runtime) => runtime,
            Err(error) => {
                self.remove_root(&root);
                return Err(error);
            }
        };
        let closed = egress::compile_value(&serde_json::json!({ "mode": "block-all" })).map_err(|_| RuntimeError::Network("the closed policy".to_owned()));
        let ready = async {
            runtime.set_policy(closed?).await?;
            // A sandbox that has the volume makes links in it as it likes; none of them leads out of it.
            runtime.client.enter(VOLUME_PATH).await.map_err(RuntimeError::Agent)
        };
        if let Err(error) = ready.await {
            self.destroy_with_root(&runtime).await;
            return Err(error);
        }
        Ok(runtime)
    }

    /// The task that ends keepers which nobody uses.
    pub(crate) fn start_keepers(&self) {
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = node.inner.stop.cancelled() => break,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                for runtime in node.inner.keepers.take_idle() {
                    node.destroy_with_root(&runtime).await;
                }
            }
            let rest: Vec<_> = node.inner.keepers.lock().drain().filter_map(|(_, place)| place.runtime.get().cloned()).collect();
            for runtime in rest {
                if let Err(error) = runtime.destroy().await {
                    tracing::warn!(error = error_text(&error), "a keeper is left to the next start");
                    continue;
                }
                node.destroy_with_root(&runtime).await;
            }
        });
    }
}

impl Keepers {
    fn knows(&self, tree_id: &str, cell: &Arc<OnceCell<Arc<Runtime>>>) -> bool {
        self.lock().get(tree_id).is_some_and(|place| Arc::ptr_eq(&place.runtime, cell))
    }

    fn forget(&self, tree_id: &str, cell: &Arc<OnceCell<Arc<Runtime>>>) {
        let mut places = self.lock();
        if places.get(tree_id).is_some_and(|place| Arc::ptr_eq(&place.runtime, cell)) {
            places.remove(tree_id);
        }
    }

    fn take_idle(&self) -> Vec<Arc<Runtime>> {
        let mut places = self.lock();
        let mut idle = Vec::new();
        places.retain(|_, place| {
            if Arc::strong_count(&place.lease) > 1 {
                place.used = Instant::now();
            }
            let Some(runtime) = place.runtime.get().filter(|_| place.used.elapsed() > IDLE_MAX) else { return true };
            idle.push(Arc::clone(runtime));
            false
        });
        idle
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
