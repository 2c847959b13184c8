//! Receipts of runs.

use axum::extract::{Path, State};
use sandbar_api::{error::ErrorEnvelope, reply::Envelope};
use sandbar_core::{app::receipt::SignedCheckpoint, limits, roles::Permission};
use sandbar_store::ReceiptRecord;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    params::Params,
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

/// Receipts as they were signed: `sandbar receipt verify` reads each of them, and the whole list.
#[derive(Debug, Serialize, ToSchema)]
struct ReceiptList {
    #[schema(value_type = Vec<serde_json::Value>)]
    receipts: Vec<Box<RawValue>>,
    /// Where the oldest are not kept any longer: up to which number, and the hash of that one, which the next names; signed, too.
    #[schema(value_type = Option<serde_json::Value>)]
    checkpoint: Option<SignedCheckpoint>,
    /// `after_seq` of the next page, where there may be one.
    next_after_seq: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ReceiptReply {
    /// The signed receipt.
    #[schema(value_type = serde_json::Value)]
    receipt: Box<RawValue>,
}

/// By which anybody can tell that a receipt is this server's.
#[derive(Debug, Serialize, ToSchema)]
struct ReceiptKey {
    algorithm: &'static str,
    key_id: String,
    /// 64 hexadecimal digits.
    public_key: String,
}

/// `/api/v1/receipts` and `/api/v1/app-runs/{id}/receipt`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(key)).routes(routes!(get)).routes(routes!(of_run))
}

/// The receipts of the team, in the order of their chain.
#[utoipa::path(get, path = "/api/v1/receipts", tag = "apps", params(
    ("app" = Option<String>, Query, description = "of this app alone: its name, or the id of one that is gone"),
    ("after_seq" = Option<u64>, Query), ("limit" = Option<u32>, Query, description = "1 to 200, default 50; a page has fewer when they are large"),
), responses((status = 200, body = Envelope<ReceiptList>), (status = 400, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<ReceiptList> {
    let limit = params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT);
    let after = params.integer("after_seq", 0..=i64::MAX.unsigned_abs())?.unwrap_or_default();
    let (page, checkpoint) = app.receipts(&who, params.text("app"), after, limit).await?;
    let next_after_seq = page.receipts.last().filter(|_| page.more).map(|last| last.seq);
    reply::ok(ReceiptList { receipts: page.receipts.into_iter().map(signed).collect::<std::result::Result<_, _>>()?, checkpoint, next_after_seq })
}

/// The key that receipts are signed with.
#[utoipa::path(get, path = "/api/v1/receipts/key", tag = "apps", responses((status = 200, body = Envelope<ReceiptKey>)))]
async fn key(State(app): State<SharedApp>, who: Principal) -> Result<ReceiptKey> {
    who.require(Permission::FunctionRead)?;
    let key = app.receipts.public_key();
    reply::ok(ReceiptKey { algorithm: "ed25519", key_id: key.id(), public_key: key.to_string() })
}

/// One receipt.
#[utoipa::path(get, path = "/api/v1/receipts/{id}", tag = "apps", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<ReceiptReply>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<ReceiptReply> {
    reply::ok(ReceiptReply { receipt: signed(app.receipt(&who, &id).await?)? })
}

/// The receipt of a run that has ended.
#[utoipa::path(get, path = "/api/v1/app-runs/{id}/receipt", tag = "apps", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<ReceiptReply>), (status = 404, body = ErrorEnvelope), (status = 409, description = "it has not ended", body = ErrorEnvelope),
))]
async fn of_run(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<ReceiptReply> {
    reply::ok(ReceiptReply { receipt: signed(app.receipt_of_run(&who, &id).await?)? })
}

fn signed(record: ReceiptRecord) -> std::result::Result<Box<RawValue>, ApiError> {
    RawValue::from_string(record.doc).map_err(|error| ApiError::internal("reading a receipt", &error))
}
