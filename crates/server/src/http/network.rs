//! A sandbox's network: its policy as it was given, and what came of it.

use axum::extract::{Path, State};
use sandbar_api::{error::ErrorEnvelope, sandbox::UpdateConfig};
use sandbar_core::{egress, roles::Permission, sandbox::SandboxRecord, validate};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal, sandboxes::violations},
    error::ApiError,
};

mod events;

/// `/api/v1/sandboxes/{id}/network`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(get, put)).merge(events::router())
}

/// The network policy that is in force: the sandbox's own on top of its template's, whose rules stay unless one of the
/// same name replaces them; `allow-all` where neither says anything.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/network", tag = "network", params(("id" = String, Path)), responses(
    (status = 200, body = Object), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Value> {
    who.require(Permission::SandboxRead)?;
    reply::ok(policy(&app.get(&who, &id).await?))
}

/// Replace the sandbox's own network policy, which stands on its template's; the answer is what is in force. It holds for new connections when the reply comes, and cuts those that it refuses.
#[utoipa::path(put, path = "/api/v1/sandboxes/{id}/network", tag = "network", params(("id" = String, Path)), request_body = Object, responses(
    (status = 200, body = Object), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn put(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(policy_sent): Json<Value>) -> Result<Value> {
    who.require(Permission::SandboxWrite)?;
    check(&policy_sent)?;
    let update = UpdateConfig { network: Some(policy_sent), ..UpdateConfig::default() };
    reply::ok(policy(&app.update(&who, &id, update).await?))
}

/// Says what is wrong by the paths of this body; inside the configuration of a sandbox they are longer.
fn check(policy: &Value) -> std::result::Result<(), ApiError> {
    if !policy.is_object() {
        return Err(ApiError::bad_request("the network policy must be a JSON object"));
    }
    let mut found = validate::network_policy_on_template(policy, "network");
    for violation in &mut found {
        if let Some(path) = violation.path.strip_prefix("network.") {
            violation.path = path.to_owned();
        }
    }
    if found.is_empty() { Ok(()) } else { Err(violations(found)) }
}

/// What is in force. `mode` is always there, since clients require it.
fn policy(record: &SandboxRecord) -> Value {
    let part = |network: &Option<Value>| network.clone().unwrap_or_default();
    let mut policy = egress::merge(&part(&record.template.network), &part(&record.config.network));
    if policy.is_null() {
        policy = json!({});
    }
    if let Some(fields) = policy.as_object_mut() {
        fields.entry("mode").or_insert_with(|| "allow-all".into());
    }
    policy
}
