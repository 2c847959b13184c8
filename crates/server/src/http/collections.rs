//! Collections: what items are made of. For admins of the team.

use axum::extract::{Path, State};
use sandbar_core::{
    limits,
    script::{
        access::Rule,
        collection::{CollectionRecord, CollectionSpec, Field},
        moment::iso,
    },
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    params::Params,
    scripts::wire::{self, Data, Done, Failed, Result},
};
use crate::app::{SharedApp, auth::Principal, collections::CollectionChange};

type Body<T> = Json<T, { limits::COLLECTION_BODY_MAX_BYTES }>;

/// A new collection.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateCollection {
    /// Lower-case letters, digits, `_` and `-`, a letter first; it cannot be changed.
    slug: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// `{name, type, required?, unique?, default?, maxLength?, enum?}` each; the types are string, text, integer, number, boolean,
    /// datetime and json.
    #[schema(value_type = Vec<Value>)]
    fields: Vec<Field>,
    /// `{role, action, filter?, fields?}` each: the roles are public, authenticated, viewer, developer, builder, admin and
    /// service:NAME, the actions read, create, update, delete and *. Nobody but admins may do anything without one.
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    permissions: Vec<Rule>,
    /// Items know who made them, as `ownerId`.
    #[serde(default)]
    owner_scoped: bool,
}

/// What of a collection is to be another. Lists are replaced as a whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpdateCollection {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Value>>)]
    fields: Option<Vec<Field>>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Value>>)]
    permissions: Option<Vec<Rule>>,
    #[serde(default)]
    owner_scoped: Option<bool>,
}

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Collection {
    id: String,
    slug: String,
    name: Option<String>,
    description: Option<String>,
    #[schema(value_type = Vec<Value>)]
    fields: Vec<Value>,
    #[schema(value_type = Vec<Value>)]
    permissions: Vec<Value>,
    owner_scoped: bool,
    /// How many there are.
    items: u64,
    /// What they take, as JSON.
    item_bytes: u64,
    created_at: String,
    updated_at: String,
}

/// `/api/collections`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

/// The team's collections by slug.
#[utoipa::path(get, path = "/api/collections", operation_id = "list_collections", tag = "collections", responses(
    (status = 200, body = Data<Vec<Collection>>), (status = 401, body = Failed), (status = 403, body = Failed),
))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<Data<Vec<Collection>>> {
    wire::data(app.collections(&who).await?.into_iter().map(rendered).collect())
}

/// Make a collection.
#[utoipa::path(post, path = "/api/collections", operation_id = "create_collection", tag = "collections", request_body = CreateCollection, responses(
    (status = 201, body = Data<Collection>), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 409, body = Failed),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(body): Body<CreateCollection>) -> Result<Data<Collection>> {
    let CreateCollection { slug, name, description, fields, permissions, owner_scoped } = body;
    let spec = CollectionSpec { name, description, fields, permissions, owner_scoped };
    wire::created(rendered(app.create_collection(&who, slug, spec).await?))
}

/// One collection.
#[utoipa::path(get, path = "/api/collections/{slug}", operation_id = "get_collection", tag = "collections", params(("slug" = String, Path)), responses(
    (status = 200, body = Data<Collection>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(slug): Path<String>) -> Result<Data<Collection>> {
    wire::data(rendered(app.collection(&who, &slug).await?))
}

/// Change a collection. A change of fields that an item does not fit is refused and names the item; values of fields that are
/// gone go with them, and a field that becomes required is filled in with its default.
#[utoipa::path(patch, path = "/api/collections/{slug}", operation_id = "update_collection", tag = "collections", params(("slug" = String, Path)), request_body = UpdateCollection, responses(
    (status = 200, body = Done), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
    (status = 409, body = Failed),
))]
async fn update(State(app): State<SharedApp>, who: Principal, Path(slug): Path<String>, Json(body): Body<UpdateCollection>) -> Result<Done> {
    let UpdateCollection { name, description, fields, permissions, owner_scoped } = body;
    app.update_collection(&who, &slug, CollectionChange { name, description, fields, permissions, owner_scoped }).await?;
    wire::done()
}

/// Delete a collection. One that has items is only deleted with `force`; no script is told of them.
#[utoipa::path(delete, path = "/api/collections/{slug}", operation_id = "delete_collection", tag = "collections",
    params(("slug" = String, Path), ("force" = Option<bool>, Query)), responses(
    (status = 200, body = Done), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed), (status = 409, body = Failed),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(slug): Path<String>, params: Params) -> Result<Done> {
    app.delete_collection(&who, &slug, params.boolean("force")?.unwrap_or(false)).await?;
    wire::done()
}

fn rendered(collection: CollectionRecord) -> Collection {
    let CollectionRecord { id, team_id: _, slug, spec, items, item_bytes, created_at_ms, updated_at_ms, generation: _ } = collection;
    Collection {
        id,
        slug,
        name: spec.name,
        description: spec.description,
        fields: spec.fields.into_iter().map(|field| json!(field)).collect(),
        permissions: spec.permissions.into_iter().map(|rule| json!(rule)).collect(),
        owner_scoped: spec.owner_scoped,
        items,
        item_bytes,
        created_at: iso(created_at_ms),
        updated_at: iso(updated_at_ms),
    }
}

/// Tells null from nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
