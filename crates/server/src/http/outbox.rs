//! Mail of scripts that was not sent, because no SMTP server is set.

use axum::extract::{Path, State};
use sandbar_core::{limits, roles::Permission};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    params::Params,
    scripts::wire::{self, Data, Failed, Page, Result},
    time::rfc3339,
};
use crate::app::{SharedApp, auth::Principal, scripts::outbox::Kept};

/// `/api/outbox`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// A mail.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OutboxMail {
    id: String,
    created_at: String,
    from: String,
    to: Vec<String>,
    cc: Vec<String>,
    subject: String,
    /// Of the script that sent it.
    script_id: Option<String>,
    script: Option<String>,
    run_id: Option<String>,
    bytes: u64,
    /// The mail as it would have been sent; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
}

/// Mails of the team, newest first.
#[utoipa::path(get, path = "/api/outbox", tag = "scripts", params(
    ("limit" = Option<u32>, Query, description = "1 to 200, default 50"), ("cursor" = Option<String>, Query, description = "nextCursor of the page before"),
), responses((status = 200, body = Page<OutboxMail>), (status = 403, body = Failed)))]
async fn list(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<Page<OutboxMail>> {
    who.require(Permission::TeamAdmin)?;
    let limit = params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT) as usize;
    let kept = app.outbox_list(&who, params.text("cursor").map(str::to_owned), limit).await?;
    let next = kept.last().filter(|_| kept.len() == limit).map(|last| last.id.clone());
    wire::page(kept.into_iter().map(|kept| rendered(kept, None)).collect(), next)
}

/// One mail, whole.
#[utoipa::path(get, path = "/api/outbox/{id}", tag = "scripts", params(("id" = String, Path)), responses(
    (status = 200, body = Data<OutboxMail>), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<OutboxMail>> {
    who.require(Permission::TeamAdmin)?;
    let (kept, raw) = app.outbox_get(&who, &id).await?;
    wire::data(rendered(kept, Some(raw)))
}

fn rendered(kept: Kept, raw: Option<String>) -> OutboxMail {
    let Kept { id, bytes, about } = kept;
    OutboxMail {
        id,
        created_at: rfc3339(about.created_at_ms),
        from: about.from,
        to: about.to,
        cc: about.cc,
        subject: about.subject,
        script_id: about.script_id,
        script: about.script_name,
        run_id: about.run_id,
        bytes,
        raw,
    }
}
