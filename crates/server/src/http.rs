//! The API over HTTP: routes, and what every request goes through.
//!
//! Handlers parse, authorize, make one call and render; one file per resource, named as in `app/`. The same routes are
//! served at the root and under [`MAY`], with the profile as an extension that only rendering looks at.

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
};
use sandbar_api::ErrorCode;
use sandbar_core::lifecycle::Profile;
use utoipa_axum::router::OpenApiRouter;

use crate::{app::SharedApp, error::ApiError};

mod apps;
mod auth;
mod collections;
pub(crate) mod contexts;
mod credentials;
mod events;
pub mod extract;
mod files;
mod follow;
mod functions;
mod health;
mod images;
mod items;
pub mod json;
mod keys;
mod logs;
mod metadata;
pub mod metrics;
mod network;
mod openapi;
mod outbox;
pub mod params;
mod previews;
mod quotas;
mod receipts;
mod render;
pub mod reply;
mod request;
mod sandbox_functions;
mod sandbox_metrics;
mod sandbox_rpc;
mod sandboxes;
mod script_events;
mod script_jobs;
pub mod script_runs;
pub mod scripts;
mod serve;
mod services;
mod snapshots;
mod ssh_keys;
pub(crate) mod standing;
mod storage;
mod teams;
mod templates;
pub mod time;
mod usage;
mod users;
mod volumes;
mod webhooks;

pub use metrics::Metrics;
pub(crate) use serve::{prepare, serve};

/// Where clients of the May generation are sent.
pub const MAY: &str = "/compat/2026-05";

/// Routes with their descriptions.
pub type Routes = OpenApiRouter<SharedApp>;

/// The whole API for an application.
pub fn router(app: SharedApp) -> Router {
    let document = openapi::document(routes());
    let api: Router<SharedApp> = routes().into();
    let both = api.clone().layer(Extension(Profile::Current)).nest(MAY, api.layer(Extension(Profile::May))).merge(openapi::router(&document));
    both.method_not_allowed_fallback(wrong_method)
        .fallback(no_route)
        // Bodies are bounded where they are read, each by its own limit.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), standing::hold))
        .layer(middleware::from_fn_with_state(app.clone(), request::observe))
        // Outside of all that makes errors.
        .layer(middleware::from_fn(scripts::wire::render))
        .with_state(app)
}

/// The description of the API, which is `/openapi.json`.
pub fn document() -> utoipa::openapi::OpenApi {
    openapi::document(routes())
}

fn routes() -> Routes {
    OpenApiRouter::new()
        .merge(sandboxes::router())
        .merge(contexts::router())
        .merge(files::router())
        .merge(sandbox_functions::router())
        .merge(services::router())
        .merge(previews::router())
        .merge(network::router())
        .merge(credentials::router())
        .merge(logs::router())
        .merge(events::router())
        .merge(functions::router())
        .merge(apps::router())
        .merge(receipts::router())
        .merge(collections::router())
        .merge(items::router())
        .merge(scripts::router())
        .merge(script_runs::router())
        .merge(script_events::router())
        .merge(script_jobs::router())
        .merge(webhooks::router())
        .merge(outbox::router())
        .merge(sandbox_rpc::router())
        .merge(templates::router())
        .merge(images::router())
        .merge(snapshots::router())
        .merge(volumes::router())
        .merge(quotas::router())
        .merge(usage::router())
        .merge(storage::router())
        .merge(sandbox_metrics::router())
        .merge(auth::router())
        .merge(users::router())
        .merge(ssh_keys::router())
        .merge(teams::router())
        .merge(keys::router())
        .merge(metadata::router())
        .merge(health::router())
        .merge(metrics::router())
}

async fn no_route(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {}", params::shown(request.uri().path())))
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!("{} does not know {}", params::shown(request.uri().path()), params::shown(request.method().as_str()));
    ApiError::new(ErrorCode::MethodNotAllowed, message)
}
