//! Tells the node which pools the templates ask for.

use std::collections::{HashMap, HashSet};

use crate::app::{SharedApp, sandboxes::spec};

/// Makes the node's pools what the templates say. Called at the start and when a template changed.
pub(crate) async fn reconcile(app: &SharedApp) {
    let templates = match app.store.templates_all().await {
        Ok(templates) => templates,
        Err(error) => {
            tracing::error!(%error, "templates cannot be read; pools stay as they are");
            return;
        }
    };
    let mut wanted: HashMap<String, (sandbar_node::RuntimeSpec, u32)> = HashMap::new();
    for template in &templates {
        let min_idle = template.spec.pool.as_ref().map_or(0, |pool| pool.min_idle);
        // Alike runtimes are interchangeable, so one pool serves all templates that want such, as large as their sum.
        let entry = wanted.entry(spec::pool_key(&template.spec)).or_insert_with(|| (spec::pool_spec(&template.spec), 0));
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
}
