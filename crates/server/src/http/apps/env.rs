//! Variables of apps.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use sandbar_api::{
    app::{AppEnvData, AppEnvResponse},
    error::ErrorEnvelope,
    reply::Envelope,
};
use sandbar_core::{limits::deploys as limits, roles::Permission};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, SharedApp, apps::manifest_of, auth::Principal},
    error::ApiError,
    http::{
        extract::Json,
        reply::{self, Result},
        time::rfc3339,
    },
};

/// Values by name.
type Values = Json<BTreeMap<String, Option<String>>, { limits::APP_ENV_BODY_MAX_BYTES }>;

/// `/api/v1/apps/{name}/env`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, put))
}

/// The variables that an app asks for and was given, without their values.
#[utoipa::path(get, path = "/api/v1/apps/{name}/env", tag = "apps", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<AppEnvData>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<AppEnvData> {
    who.require(Permission::FunctionRead)?;
    reply::ok(known(&app, &who, &name).await?)
}

/// Give an app values for variables, `{NAME: value}`; null forgets one. They are kept sealed, and what runs keeps those that it was
/// started with.
#[utoipa::path(put, path = "/api/v1/apps/{name}/env", tag = "apps", params(("name" = String, Path)), request_body = Object, responses(
    (status = 200, body = Envelope<AppEnvData>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn put(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, Json(values): Values) -> Result<AppEnvData> {
    who.require(Permission::FunctionWrite)?;
    app.put_app_env(&who, &name, values).await?;
    reply::ok(known(&app, &who, &name).await?)
}

async fn known(app: &App, who: &Principal, name: &str) -> std::result::Result<AppEnvData, ApiError> {
    let (record, given) = app.app_env(who, name).await?;
    let asked = match record.live_version {
        Some(_) => manifest_of(&app.live_version(&record).await?)?.inputs.env,
        None => Vec::new(),
    };
    let mut given: BTreeMap<String, i64> = given.into_iter().map(|env| (env.name, env.updated_at_ms)).collect();
    let mut env: Vec<AppEnvResponse> = Vec::new();
    for asked in asked {
        let updated_at = given.remove(&asked.name).map(rfc3339);
        let (required, secret, description) = (asked.required, asked.secret, asked.description);
        env.push(AppEnvResponse { name: asked.name, given: updated_at.is_some(), asked: true, required, secret, description, updated_at });
    }
    let others = given.into_iter().map(|(name, at)| AppEnvResponse {
        name,
        given: true,
        asked: false,
        required: false,
        secret: true,
        description: None,
        updated_at: Some(rfc3339(at)),
    });
    env.extend(others);
    Ok(AppEnvData { env })
}
