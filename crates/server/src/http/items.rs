//! Items of collections. Who may do what is for the collection's rules to say, and some of them hold for everybody: so these
//! routes are open, and a request without a token asks as nobody.

use axum::{
    body::Body,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    script::{access::Action, query::QueryText},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract, json,
    params::Params,
    scripts::wire::{self, Data, Done, Failed, Result},
};
use crate::{
    app::{
        SharedApp,
        auth::{self, Principal},
        items::{Reader, Rows},
        script_events::Cause,
        scripts::Subject,
    },
    error::ApiError,
};

/// Rows, and what is known of all of them.
#[derive(Debug, Serialize, ToSchema)]
struct ItemList {
    /// `id`, `createdAt`, `updatedAt`, `ownerId` where items have owners, and the collection's fields.
    data: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<ItemListMeta>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ItemListMeta {
    /// How many match, in all.
    total: u64,
}

/// A query in a body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemQueryRequest {
    /// Fields with values or operators (`_eq _neq _in _nin _gt _gte _lt _lte _null _contains _starts_with _ends_with`), `$and`, `$or`
    /// and `$not`; `$user.id`, `$now` and such as `$now-1d` are values.
    #[serde(default)]
    filter: Option<Value>,
    /// Fields in a list or a text with commas, a `-` before those that descend.
    #[serde(default)]
    sort: Option<Value>,
    /// 1 to 200, else 50.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    limit: Option<Value>,
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    offset: Option<Value>,
    /// `total`: how many match in all.
    #[serde(default)]
    meta: Option<String>,
}

/// Who asks: the holder of a token, or nobody.
struct Asker {
    team_id: String,
    subject: Subject,
    cause: Cause,
}

impl Asker {
    fn reader(&self) -> Reader<'_> {
        Reader { team_id: &self.team_id, subject: &self.subject, cause: Some(&self.cause) }
    }
}

impl FromRequestParts<SharedApp> for Asker {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> std::result::Result<Self, Response> {
        let cause = Cause::of(&parts.headers, &app.scripts.under_way);
        if parts.headers.contains_key(header::AUTHORIZATION) {
            let who = Principal::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
            if who.team_id.is_empty() {
                return Err(ApiError::new(ErrorCode::Forbidden, "you are in no team; make one or ask to be added to one").into_response());
            }
            let roles = who.roles.iter().map(|role| role.as_str().to_owned()).collect();
            return Ok(Self { team_id: who.team_id, subject: Subject { user_id: Some(who.user_id), email: None, roles }, cause });
        }
        let team_id = nobodys_team(parts, app).await.map_err(IntoResponse::into_response)?;
        Ok(Self { team_id, subject: Subject::default(), cause })
    }
}

/// The team that nobody asks about: the one that is named, else the only one.
async fn nobodys_team(parts: &Parts, app: &SharedApp) -> std::result::Result<String, ApiError> {
    let team_id = app.nobodys_team(named_team(parts)).await?;
    app.admit_request(&team_id)?;
    Ok(team_id)
}

/// The team that a request without a token names.
pub(super) fn named_team(parts: &Parts) -> Option<String> {
    let params = Params::parse(parts.uri.query().unwrap_or_default());
    let header = parts.headers.get(auth::TEAM_HEADER).and_then(|value| value.to_str().ok()).map(str::trim).filter(|team| !team.is_empty());
    header.or(params.text("team")).map(str::to_owned)
}

/// `/api/items`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(query)).routes(routes!(get, update, delete))
}

/// The items that match and may be read.
#[utoipa::path(get, path = "/api/items/{slug}", operation_id = "list_items", tag = "collections", security((), ("bearer" = [])), params(
    ("slug" = String, Path), ("filter" = Option<String>, Query, description = "JSON"), ("sort" = Option<String>, Query), ("limit" = Option<u32>, Query),
    ("offset" = Option<u32>, Query), ("meta" = Option<String>, Query, description = "`total`"), ("team" = Option<String>, Query, description = "Without a token"),
), responses(
    (status = 200, body = ItemList), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn list(State(app): State<SharedApp>, asker: Asker, Path(slug): Path<String>, params: Params) -> Result<ItemList> {
    let text = |name: &str| params.text(name).map(|text| Value::String(text.to_owned()));
    let filter = match params.text("filter") {
        Some(text) => Some(json::read(text.as_bytes()).map_err(|error| extract::wrong("filter:", &error))?),
        None => None,
    };
    let query = QueryText { filter, sort: text("sort"), limit: text("limit"), offset: text("offset") };
    let count = counted(params.text("meta"))?;
    found(app.list_items(asker.reader(), &slug, &query, count).await?)
}

/// The same, with the query in the body.
#[utoipa::path(post, path = "/api/items/{slug}/query", operation_id = "query_items", tag = "collections", security((), ("bearer" = [])),
    params(("slug" = String, Path)), request_body = ItemQueryRequest, responses(
    (status = 200, body = ItemList), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn query(State(app): State<SharedApp>, asker: Asker, Path(slug): Path<String>, body: Body) -> Result<ItemList> {
    app.check_item_access(asker.reader(), &slug, Action::Read).await?;
    let bytes = extract::read(body, limits::QUERY_BODY_MAX_BYTES).await?;
    let query = if extract::is_blank(&bytes) { ItemQueryRequest::default() } else { extract::parse(&bytes)? };
    let ItemQueryRequest { filter, sort, limit, offset, meta } = query;
    let count = counted(meta.as_deref())?;
    found(app.list_items(asker.reader(), &slug, &QueryText { filter, sort, limit, offset }, count).await?)
}

/// Make an item, or several in a list: all or none of them. `id` may be given.
#[utoipa::path(post, path = "/api/items/{slug}", operation_id = "create_items", tag = "collections", security((), ("bearer" = [])), params(("slug" = String, Path)),
    request_body = Value, responses(
    (status = 201, body = Data<Value>), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
    (status = 409, body = Failed), (status = 413, body = Failed),
))]
async fn create(State(app): State<SharedApp>, asker: Asker, Path(slug): Path<String>, body: Body) -> Result<Data<Value>> {
    app.check_item_access(asker.reader(), &slug, Action::Create).await?;
    let (items, is_list) = match sent(body).await? {
        Value::Array(items) if items.is_empty() || items.len() > limits::ITEMS_PER_REQUEST_MAX => {
            return Err(ApiError::bad_request(format!("a list has to have 1 to {} items", limits::ITEMS_PER_REQUEST_MAX)));
        }
        Value::Array(items) => (items, true),
        item => (vec![item], false),
    };
    let items = items.into_iter().map(fields).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut rows = app.create_items(asker.reader(), &slug, items).await?;
    wire::created(if is_list { Value::Array(rows) } else { rows.pop().unwrap_or_default() })
}

/// One item.
#[utoipa::path(get, path = "/api/items/{slug}/{id}", operation_id = "get_item", tag = "collections", security((), ("bearer" = [])),
    params(("slug" = String, Path), ("id" = String, Path)), responses(
    (status = 200, body = Data<Value>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn get(State(app): State<SharedApp>, asker: Asker, Path((slug, id)): Path<(String, String)>) -> Result<Data<Value>> {
    wire::data(app.get_item(asker.reader(), &slug, &id).await?)
}

/// Give fields of an item other values; null takes one away. The row as it is then comes back beside `ok`.
#[utoipa::path(patch, path = "/api/items/{slug}/{id}", operation_id = "update_item", tag = "collections", security((), ("bearer" = [])),
    params(("slug" = String, Path), ("id" = String, Path)), request_body = Value, responses(
    (status = 200, body = Updated), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
    (status = 409, body = Failed), (status = 413, body = Failed),
))]
async fn update(State(app): State<SharedApp>, asker: Asker, Path((slug, id)): Path<(String, String)>, body: Body) -> Result<Updated> {
    app.check_item_access(asker.reader(), &slug, Action::Update).await?;
    let given = fields(sent(body).await?)?;
    let data = app.update_item(asker.reader(), &slug, &id, given).await?;
    wire::with_status(StatusCode::OK, Updated { ok: true, data })
}

/// Delete an item.
#[utoipa::path(delete, path = "/api/items/{slug}/{id}", operation_id = "delete_item", tag = "collections", security((), ("bearer" = [])),
    params(("slug" = String, Path), ("id" = String, Path)), responses(
    (status = 200, body = Done), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed), (status = 409, body = Failed),
))]
async fn delete(State(app): State<SharedApp>, asker: Asker, Path((slug, id)): Path<(String, String)>) -> Result<Done> {
    app.delete_item(asker.reader(), &slug, &id).await?;
    wire::done()
}

/// What became of an item.
#[derive(Debug, Serialize, ToSchema)]
struct Updated {
    /// Always true.
    ok: bool,
    data: Value,
}

fn found(rows: Rows) -> Result<ItemList> {
    wire::with_status(StatusCode::OK, ItemList { data: rows.rows, meta: rows.total.map(|total| ItemListMeta { total }) })
}

fn counted(meta: Option<&str>) -> std::result::Result<bool, ApiError> {
    match meta {
        None => Ok(false),
        Some("total") => Ok(true),
        Some(_) => Err(ApiError::bad_request("meta: there is only total")),
    }
}

async fn sent(body: Body) -> std::result::Result<Value, ApiError> {
    let bytes = extract::read(body, limits::ITEMS_BODY_MAX_BYTES).await?;
    if extract::is_blank(&bytes) {
        return Err(ApiError::bad_request("the request needs a JSON body"));
    }
    json::read(&bytes).map_err(|error| extract::wrong("the request body", &error))
}

fn fields(item: Value) -> std::result::Result<Map<String, Value>, ApiError> {
    match item {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::bad_request("an item has to be a JSON object of fields and values")),
    }
}
