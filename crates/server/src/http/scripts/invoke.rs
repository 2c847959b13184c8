//! Calling a function.

use axum::{
    extract::{FromRequestParts, Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use sandbar_core::limits;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    render::{self, InvokeResult},
    wire::{self, Failed},
};
use crate::{
    app::{
        App, SharedApp,
        auth::{Principal, Rejection},
        script_events::Cause,
        scripts::{
            invoke::{Caller, Invoked, Wish},
            keys::PREFIX,
        },
    },
    error::ApiError,
    http::{items::named_team, params::Params},
};

/// Says that the answer was given before.
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const FUNCTION_KEY: &str = "x-function-key";
const STICKY_KEY: &str = "x-sticky-key";
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A call that will run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    /// Ask for it at `/api/invocations/{id}`.
    invocation_id: String,
    run_id: String,
    status: &'static str,
}

pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(invoke))
}

/// Call a function with the trigger http. The body is `ctx.data`, whatever its `Content-Type`; one that is empty or no JSON counts as
/// `{}`, and one of more than 100 levels of lists and objects is refused. With `Prefer: respond-async` or
/// `mode=async` the call is kept and run later. With an `Idempotency-Key` the same call is made once within 24 hours.
#[utoipa::path(post, path = "/api/functions/{id}/invoke", tag = "scripts", params(
    ("id" = String, Path, description = "name or id"), ("mode" = Option<String>, Query, description = "sync or async"),
    ("alias" = Option<String>, Query), ("version" = Option<u32>, Query),
    ("team" = Option<String>, Query, description = "whose function a name means, without a token"),
), request_body = serde_json::Value, responses(
    (status = 200, body = InvokeResult), (status = 202, body = Accepted), (status = 500, description = "the function failed", body = InvokeResult),
    (status = 400, description = "its trigger is another", body = Failed), (status = 401, body = Failed), (status = 403, body = Failed),
    (status = 404, body = Failed), (status = 409, description = "IDEMPOTENCY_IN_PROGRESS (with Retry-After) or IDEMPOTENCY_KEY_REUSED", body = Failed), (status = 413, body = Failed), (status = 429, body = Failed),
))]
async fn invoke(State(app): State<SharedApp>, caller: Caller, params: Params, Path(id): Path<String>, request: Request) -> Result<Response, ApiError> {
    let wish = wish(&app, &params, request.headers())?;
    let invoked = app.invoke_script(caller, &id, wish, request.into_body()).await?;
    let (mut response, is_replayed) = match invoked {
        Invoked::Ran { run, outcome, replayed, sight } => {
            let value = outcome.and_then(|outcome| outcome.result.ok().flatten());
            let result = render::result(&run, value).seen_by(sight);
            let status = if result.ok { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            (wire::with_status(status, result).into_response(), replayed)
        }
        Invoked::Queued { run_id, replayed } => {
            let place = HeaderValue::from_str(&format!("/api/invocations/{run_id}"));
            let accepted = Accepted { invocation_id: run_id.clone(), run_id, status: "queued" };
            let mut response = wire::with_status(StatusCode::ACCEPTED, accepted).into_response();
            response.headers_mut().extend(place.ok().map(|place| (header::LOCATION, place)));
            (response, replayed)
        }
    };
    if is_replayed {
        response.headers_mut().insert(REPLAYED.clone(), HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn wish(app: &App, params: &Params, headers: &HeaderMap) -> Result<Wish, ApiError> {
    let prefers = |word: &str| {
        let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        values.map(|value| value.split(';').next().unwrap_or_default().trim()).any(|value| value.eq_ignore_ascii_case(word))
    };
    let is_async = match params.text("mode") {
        None => prefers("respond-async"),
        Some("async") => true,
        Some("sync") => false,
        Some(other) => return Err(ApiError::bad_request(format!("mode: {} is neither sync nor async", crate::http::params::shown(other)))),
    };
    Ok(Wish {
        is_async,
        // What is live is called by neither of them, and not by a variable that happened to be empty.
        alias: params.not_empty("alias")?.map(str::to_owned),
        version: params.not_empty("version").and_then(|_| params.integer("version", 1..=u32::MAX))?,
        sticky: bounded(headers, STICKY_KEY)?,
        idempotency_key: bounded(headers, IDEMPOTENCY_KEY)?,
        depth: Cause::of(headers, &app.scripts.under_way).depth,
        origin: headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(|host| format!("http://{host}")),
    })
}

/// A header of 1 to 255 visible characters.
fn bounded(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().ok().map(str::trim).filter(|text| (1..=limits::IDEMPOTENCY_KEY_MAX_CHARS).contains(&text.len()));
    let text = text.ok_or_else(|| ApiError::bad_request(format!("{name}: has 1 to {} visible ASCII characters", limits::IDEMPOTENCY_KEY_MAX_CHARS)))?;
    Ok(Some(text.to_owned()))
}

/// Anybody may ask; who shows something has to show something that is good.
impl FromRequestParts<SharedApp> for Caller {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Rejection> {
        let bearer = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        let named = parts.headers.get(FUNCTION_KEY).map(|value| value.to_str().unwrap_or_default().trim().to_owned());
        let is_function_key = bearer.as_ref().is_some_and(|token| token.starts_with(PREFIX));
        let principal = match parts.headers.contains_key(header::AUTHORIZATION) && !is_function_key {
            true => Some(Principal::from_request_parts(parts, app).await?),
            false => None,
        };
        Ok(Self { principal, key: named.or_else(|| bearer.filter(|_| is_function_key)), team: named_team(parts) })
    }
}
