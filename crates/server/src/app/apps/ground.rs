//! What an app is made on: the `runtime` of its manifest, as this server has it.

use sandbar_api::{
    ErrorCode,
    sandbox::{Resources, SandboxConfig},
    template::TemplateSpec,
};
use sandbar_core::{
    app::{
        manifest::{Egress, Image, Manifest, Runtime},
        shell::{APP_VAR, VERSION_VAR},
    },
    quantity,
    sandbox::Base,
};
use sandbar_node::Pin;
use serde_json::json;

use crate::{
    app::{App, auth::Principal, builtin, images::Absence, sandboxes::spec},
    error::ApiError,
};

/// GiB.
const GIB: u64 = 1 << 30;

/// The ground of a version.
pub(super) struct Ground {
    pub template_id: String,
    pub template: TemplateSpec,
    /// With what keeps it until a row names it; none for an image that has to be pulled first.
    pub base: Option<(Base, Pin)>,
}

impl App {
    /// Finds what a manifest names. An image that is not there is pulled by the build, if that is allowed at all.
    pub(super) async fn app_ground(&self, who: &Principal, manifest: &Manifest) -> Result<Ground, ApiError> {
        match &manifest.runtime {
            Runtime::Base(id) => self.template_ground(who, id).await,
            Runtime::Snapshot(id) => {
                let mut ground = self.template_ground(who, builtin::DEFAULT).await?;
                let base = self.snapshot(who, id).await?.base;
                let pin = self.node.pin_base(&base);
                // Deleted in between, it may have been collected before the pin.
                self.snapshot(who, id).await?;
                ground.base = Some((base, pin));
                Ok(ground)
            }
            Runtime::Image(image) => {
                let mut ground = self.template_ground(who, builtin::DEFAULT).await?;
                ground.template.main_container.image = name_of(image);
                ground.base = None;
                match self.image_base(&ground.template) {
                    Ok(found) => ground.base = Some(found),
                    Err(text) => match self.image_absence(spec::image_of(&ground.template), text) {
                        Absence::Pulling | Absence::Failed(_) => {}
                        Absence::Missing(text) => {
                            let text = format!("runtime.image: {text}; the operator can pull it, or let images of its registry be pulled");
                            return Err(ApiError::new(ErrorCode::TemplateNotReady, text));
                        }
                    },
                }
                Ok(ground)
            }
        }
    }

    async fn template_ground(&self, who: &Principal, id: &str) -> Result<Ground, ApiError> {
        let record = self.template(who, id).await.map_err(|error| error.with_message(|text| format!("runtime.base: {text}")))?;
        let base = spec::base_of(&self.node, &record.spec, record.base.as_ref())
            .map_err(|text| ApiError::new(ErrorCode::TemplateNotReady, format!("template {id:?} cannot be used: {text}")))?;
        let pin = self.node.pin_base(&base);
        if record.base.is_some() && self.template(who, id).await?.base != record.base {
            return Err(ApiError::conflict(format!("template {id:?} was changed at the same time; try again")));
        }
        let template = TemplateSpec { pool: None, warm_processes: None, ..record.spec };
        Ok(Ground { template_id: record.id, template, base: Some((base, pin)) })
    }

    /// The image of a template as it is here, kept.
    pub(super) fn image_base(&self, template: &TemplateSpec) -> Result<(Base, Pin), String> {
        let base = spec::base_of(&self.node, template, None)?;
        let pin = self.node.pin_base(&base);
        // Its name may have been taken away before the pin.
        let again = spec::base_of(&self.node, template, None)?;
        if again == base { Ok((base, pin)) } else { self.image_base(template) }
    }
}

fn name_of(image: &Image) -> String {
    match &image.digest {
        Some(digest) if !image.reference.contains('@') => format!("{}@{digest}", image.reference),
        _ => image.reference.clone(),
    }
}

/// How sandboxes of an app are configured.
pub(super) fn config_of(manifest: &Manifest, app: &str, version: i64) -> SandboxConfig {
    let mut env = manifest.env.clone();
    env.insert(APP_VAR.to_owned(), app.to_owned());
    env.insert(VERSION_VAR.to_owned(), version.to_string());
    let bytes = |amount: sandbar_core::app::amount::Amount| quantity::format_bytes(amount.times(GIB));
    let asked = &manifest.resources;
    let resources = Resources {
        memory: asked.memory_gb.map(bytes),
        cpu: asked.cpu.map(|cpu| quantity::format_cpu_millis(cpu.millis())),
        ephemeral_storage: asked.disk_gb.map(bytes),
    };
    let mut network = match manifest.network.egress {
        // As the template has it, or the server.
        Egress::Restricted => json!({}),
        Egress::Allow => json!({ "mode": "allow-all" }),
        Egress::Block => json!({ "mode": "block-all" }),
    };
    // Receipts tell what was refused, and so nothing is refused where nobody sees it.
    network["egress"] = json!({ "audit": true });
    SandboxConfig { env_vars: Some(env), network: Some(network), resources: Some(resources), auto_resume: Some(true), ..SandboxConfig::default() }
}

/// A layer on top of what lies below.
pub(super) fn on_top(layer: sandbar_core::sandbox::Layer, below: &Base) -> Base {
    Base { image: below.image.clone(), layers: std::iter::once(layer).chain(below.layers.iter().cloned()).collect() }
}

/// How it is named where setups are told apart: by content.
pub(super) fn name_of_base(base: &Base, template: &TemplateSpec) -> String {
    let layers: Vec<_> = base.layers.iter().map(|layer| layer.root_id.as_str()).collect();
    json!([base.image, layers, template.env_vars, template.main_container.env, template.network]).to_string()
}
