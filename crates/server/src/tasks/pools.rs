//! Tells the node which pools the templates ask for.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use sandbar_store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, sandboxes::spec};

/// Templates that could not be read are read again after this time.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Makes the node's pools what the templates say: at the start and whenever a template changed.
pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let read = reconcile(&app).await;
        let again = read.as_ref().ok().copied().flatten().unwrap_or_else(|| Instant::now() + LOOK_EVERY);
        if let Err(error) = &read {
            tracing::error!(%error, "templates cannot be read; pools stay as they are");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.templates_changed.notified() => {}
            () = tokio::time::sleep_until(again.into()), if read.is_ok() => {}
            () = tokio::time::sleep(AFTER_FAILURE), if read.is_err() => {}
        }
    }
}

/// Returns when an image that could not be pulled is to be tried again.
async fn reconcile(app: &SharedApp) -> Result<Option<Instant>, StoreError> {
    let mut again: Option<Instant> = None;
    let templates = app.store.templates_all().await?;
    let mut wanted: HashMap<String, (sandbar_node::RuntimeSpec, u32)> = HashMap::new();
    // A launch from an image that is not here fails each time, and the others would wait behind it.
    for template in &templates {
        let Ok(base) = spec::base_of(&app.node, &template.spec, template.base.as_ref()) else {
            let next = app.pull_for_templates(spec::image_of(&template.spec));
            again = again.into_iter().chain(next).min();
            continue;
        };
        let launched = spec::pool_spec(&app.node, &template.spec, base);
        let min_idle = template.spec.pool.as_ref().map_or(0, |pool| pool.min_idle);
        // Alike runtimes are interchangeable, so one pool serves all templates that want such, as large as their sum.
        let entry = wanted.entry(spec::pool_key(&launched)).or_insert_with(|| (launched, 0));
        entry.1 = entry.1.saturating_add(min_idle);
    }
    let present: HashSet<String> = app.node.pools().into_iter().map(|pool| pool.key).collect();
    for key in present.iter().filter(|key| !wanted.contains_key(*key)) {
        if let Some(spec) = wanted.values().next().map(|(spec, _)| spec.clone()) {
            app.node.keep_pool(key, spec, 0);
        }
    }
    for (key, (spec, min_idle)) in wanted {
        app.node.keep_pool(&key, spec, min_idle);
    }
    Ok(again)
}
