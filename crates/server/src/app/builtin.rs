//! The template `default`, which every installation has, offline too.

use std::collections::BTreeMap;

use sandbar_api::{
    sandbox::Resources,
    template::{Container, Pool, TemplateSpec},
};
use sandbar_core::{limits, quantity};
use sandbar_node::image::HOST;
use sandbar_store::{Store, StoreError};

use crate::app::sandboxes::now_ms;

/// Id of the built-in template.
pub const DEFAULT: &str = "default";

/// Stores the built-in template as this version and configuration have it.
pub async fn ensure(store: &Store, min_idle: u32) -> Result<(), StoreError> {
    let spec = TemplateSpec {
        description: Some("bash, python3 and node of this machine, read-only, under a root of its own".into()),
        display_name: Some("Default".into()),
        main_container: Container {
            image: HOST.into(),
            resources: Resources {
                memory: Some(quantity::format_bytes(limits::MEMORY_DEFAULT_BYTES)),
                cpu: Some(quantity::format_cpu_millis(limits::CPU_DEFAULT_MILLIS)),
                ephemeral_storage: Some(quantity::format_bytes(limits::DISK_DEFAULT_BYTES)),
            },
            ..Container::default()
        },
        env_vars: Some(BTreeMap::new()),
        pool: Some(Pool { min_idle, max_idle: min_idle }),
        ..TemplateSpec::default()
    };
    store.template_put_built_in(DEFAULT, &spec, now_ms()).await
}
