//! Items of collections, whoever asks for them: requests and `ctx.db` of scripts go through the same rules.

use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    roles::Role,
    script::{
        access::{self, Action, Allowed, Asker, Verdict},
        collection::{CollectionRecord, SYSTEM_FIELDS},
        item::{self, ItemRecord},
        query::{Context, Names, Query, QueryText},
    },
    validate::Violation,
};
use sandbar_store::{ItemQuery, NewScriptEvent, StoreError};
use serde_json::{Map, Value, json};

use super::{
    collections::{TRIES, changing},
    scripts::Subject,
};
use crate::{
    app::{
        App,
        sandboxes::{store_failure, violations},
        script_events::Cause,
    },
    error::ApiError,
    http::{params::shown, time::now_ms},
};

mod ops;

/// Who asks for items of which team.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub team_id: &'a str,
    pub subject: &'a Subject,
    /// What made its request.
    pub cause: Option<&'a Cause>,
}

/// What a query found.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    pub rows: Vec<Value>,
    /// How many there are in all, when that was asked for.
    pub total: Option<u64>,
}

impl Reader<'_> {
    fn may(&self, collection: &CollectionRecord, action: Action) -> Result<Allowed, ApiError> {
        let asker = Asker { user_id: self.subject.user_id.as_deref(), roles: &self.subject.roles };
        match access::resolve(&asker, &collection.spec, action) {
            Verdict::Allowed(allowed) => Ok(allowed),
            Verdict::Denied => Err(self.denied(collection, action)),
        }
    }

    /// 401 for nobody, who may be somebody, and 403 for everybody else.
    fn denied(&self, collection: &CollectionRecord, action: Action) -> ApiError {
        let is_nobody = self.subject.user_id.is_none() && self.subject.roles.is_empty();
        let code = if is_nobody { ErrorCode::Unauthorized } else { ErrorCode::Forbidden };
        ApiError::new(code, format!("No {} permission on {:?}", action.as_str(), collection.slug))
    }

    fn is_admin(&self) -> bool {
        self.subject.roles.iter().any(|role| role == Role::Admin.as_str())
    }

    fn context(&self, now_ms: i64) -> Context {
        Context { user_id: self.subject.user_id.clone(), now_ms }
    }

    /// An item as its reader may see it; no more than its id where it may not be read.
    fn shown(&self, collection: &CollectionRecord, item: &ItemRecord, now_ms: i64) -> Value {
        match self.may(collection, Action::Read) {
            Ok(allowed) if lets_through(&allowed, item, &self.context(now_ms)) => item::rendered(&collection.spec, item, allowed.fields.as_ref()),
            Ok(_) | Err(_) => json!({ "id": item.id }),
        }
    }
}

impl App {
    /// Refuses who may do this with no item of a collection at all: before what they send is read, which costs and tells them nothing.
    pub async fn check_item_access(&self, reader: Reader<'_>, slug: &str, action: Action) -> Result<(), ApiError> {
        let collection = self.collection_of(reader.team_id, slug).await?;
        reader.may(&collection, action).map(drop)
    }

    /// The rows that a query finds among those that may be read.
    pub async fn list_items(&self, reader: Reader<'_>, slug: &str, query: &QueryText, count: bool) -> Result<Rows, ApiError> {
        let collection = self.collection_of(reader.team_id, slug).await?;
        let allowed = reader.may(&collection, Action::Read)?;
        let names = Names { spec: &collection.spec, readable: allowed.fields.as_ref() };
        let query = Query::read(query, &names).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let asked = ItemQuery {
            team_id: collection.team_id.clone(),
            collection_id: collection.id.clone(),
            filters: allowed.filter.iter().cloned().chain(query.filter).collect(),
            context: reader.context(now_ms()),
            sort: query.sort,
            limit: query.limit,
            offset: query.offset,
            count,
        };
        let found = self.store.items_find(asked).await.map_err(|e| store_failure("finding items", &e))?;
        let rows = found.items.iter().map(|item| item::rendered(&collection.spec, item, allowed.fields.as_ref())).collect();
        Ok(Rows { rows, total: found.total })
    }

    /// The row of an item, when there is one that may be read.
    pub async fn find_item(&self, reader: Reader<'_>, slug: &str, id: &str) -> Result<Option<Value>, ApiError> {
        let collection = self.collection_of(reader.team_id, slug).await?;
        let allowed = reader.may(&collection, Action::Read)?;
        let found = self.item_of(&collection, id).await?;
        let context = reader.context(now_ms());
        Ok(found.filter(|item| lets_through(&allowed, item, &context)).map(|item| item::rendered(&collection.spec, &item, allowed.fields.as_ref())))
    }

    pub async fn get_item(&self, reader: Reader<'_>, slug: &str, id: &str) -> Result<Value, ApiError> {
        self.find_item(reader, slug, id).await?.ok_or_else(|| unknown(slug, id))
    }

    /// Makes items, all or none, and returns their rows.
    pub async fn create_items(&self, reader: Reader<'_>, slug: &str, given: Vec<Map<String, Value>>) -> Result<Vec<Value>, ApiError> {
        self.check_room()?;
        for _ in 0..TRIES {
            let collection = self.collection_of(reader.team_id, slug).await?;
            let allowed = reader.may(&collection, Action::Create)?;
            let now = now_ms();
            let mut items = Vec::with_capacity(given.len());
            for (n, fields) in given.iter().enumerate() {
                let made = new_item(&reader, &collection, &allowed, fields.clone(), now);
                // Of several it matters which one it is.
                let item = made.map_err(|error| if given.len() > 1 { error.with_message(|text| format!("item {n}: {text}")) } else { error })?;
                let event = told(&reader, &collection, "created", &item, now);
                items.push((item, event));
            }
            let rows = items.iter().map(|(item, _)| reader.shown(&collection, item, now)).collect();
            match self.store.items_insert(&collection, items).await {
                Ok(()) => {
                    self.script_jobs_added();
                    return Ok(rows);
                }
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => {}
                Err(error @ StoreError::Exists { .. }) => return Err(ApiError::conflict(error.to_string())),
                Err(error) => return Err(store_failure("saving the items", &error)),
            }
        }
        Err(changing("collection"))
    }

    /// Gives fields of an item other values, and returns its row.
    pub async fn update_item(&self, reader: Reader<'_>, slug: &str, id: &str, given: Map<String, Value>) -> Result<Value, ApiError> {
        self.check_room()?;
        for _ in 0..TRIES {
            let now = now_ms();
            let (collection, allowed, before) = self.item_for(&reader, slug, id, Action::Update).await?;
            let mut next = changed_item(&reader, &collection, &allowed, &before, given.clone(), now)?;
            match self.store.item_update(&collection, &next, told(&reader, &collection, "updated", &next, now)).await {
                Ok(generation) => {
                    self.script_jobs_added();
                    next.generation = generation;
                    return Ok(reader.shown(&collection, &next, now));
                }
                // Whatever it is now is found out by looking again.
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => return Err(store_failure("saving the item", &error)),
            }
        }
        Err(changing("item"))
    }

    pub async fn delete_item(&self, reader: Reader<'_>, slug: &str, id: &str) -> Result<(), ApiError> {
        for _ in 0..TRIES {
            let now = now_ms();
            let (collection, _, before) = self.item_for(&reader, slug, id, Action::Delete).await?;
            match self.store.item_delete(&collection, id, before.generation, told(&reader, &collection, "deleted", &before, now)).await {
                Ok(()) => {
                    self.script_jobs_added();
                    return Ok(());
                }
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => return Err(store_failure("deleting the item", &error)),
            }
        }
        Err(changing("item"))
    }

    /// An item that something may be done with. One that may not even be read is not there.
    async fn item_for(&self, reader: &Reader<'_>, slug: &str, id: &str, action: Action) -> Result<(CollectionRecord, Allowed, ItemRecord), ApiError> {
        let collection = self.collection_of(reader.team_id, slug).await?;
        let allowed = reader.may(&collection, action)?;
        let context = reader.context(now_ms());
        let item = self.item_of(&collection, id).await?.ok_or_else(|| unknown(slug, id))?;
        if !lets_through(&allowed, &item, &context) {
            let is_seen = reader.may(&collection, Action::Read).is_ok_and(|allowed| lets_through(&allowed, &item, &context));
            return Err(if is_seen { reader.denied(&collection, action) } else { unknown(slug, id) });
        }
        Ok((collection, allowed, item))
    }

    async fn item_of(&self, collection: &CollectionRecord, id: &str) -> Result<Option<ItemRecord>, ApiError> {
        if !item::is_id(id) {
            return Ok(None);
        }
        self.store.item_get(&collection.id, id).await.map_err(|e| store_failure("reading the item", &e))
    }
}

fn new_item(reader: &Reader<'_>, collection: &CollectionRecord, allowed: &Allowed, mut given: Map<String, Value>, now: i64) -> Result<ItemRecord, ApiError> {
    let id = match given.remove("id") {
        None | Some(Value::Null) => uuid::Uuid::new_v4().to_string(),
        Some(Value::String(id)) if item::is_id(&id) => id,
        Some(_) => return Err(ApiError::bad_request(format!("id: {}", item::id_rule()))),
    };
    let owner_id = match given.remove("ownerId") {
        Some(owner) if collection.spec.owner_scoped && reader.is_admin() => owner_of(owner)?,
        Some(owner) if collection.spec.owner_scoped && owner.as_str() == reader.subject.user_id.as_deref() => reader.subject.user_id.clone(),
        Some(_) => return Err(ApiError::bad_request(owner_rule(collection))),
        None => reader.subject.user_id.clone().filter(|_| collection.spec.owner_scoped),
    };
    if let Some(name) = SYSTEM_FIELDS.into_iter().find(|name| given.contains_key(*name)) {
        return Err(ApiError::bad_request(format!("{name}: is set by the server")));
    }
    writable(reader, collection, allowed, &given, Action::Create)?;
    let doc = item::new(&collection.spec, given, now).map_err(violations)?;
    let made = ItemRecord { id, owner_id, doc, created_at_ms: now, updated_at_ms: now, generation: 1 };
    fits(reader, collection, allowed, &made, Action::Create, now)?;
    Ok(made)
}

fn changed_item(
    reader: &Reader<'_>,
    collection: &CollectionRecord,
    allowed: &Allowed,
    before: &ItemRecord,
    mut given: Map<String, Value>,
    now: i64,
) -> Result<ItemRecord, ApiError> {
    let mut owner_id = before.owner_id.clone();
    if collection.spec.owner_scoped
        && reader.is_admin()
        && let Some(owner) = given.remove("ownerId")
    {
        owner_id = owner_of(owner)?;
    }
    // Who sends back a row as it was read changes nothing of these.
    let row = item::rendered(&collection.spec, before, None);
    for name in SYSTEM_FIELDS {
        if let Some(sent) = given.remove(name)
            && row.get(name) != Some(&sent)
        {
            return Err(ApiError::bad_request(format!("{name}: cannot be changed")));
        }
    }
    writable(reader, collection, allowed, &given, Action::Update)?;
    let doc = item::changed(&collection.spec, &before.doc, given).map_err(violations)?;
    // A clock that was set back makes nothing older.
    let next = ItemRecord { owner_id, doc, updated_at_ms: now.max(before.updated_at_ms), ..before.clone() };
    fits(reader, collection, allowed, &next, Action::Update, now)?;
    Ok(next)
}

/// Refuses fields that the rules do not name. Those that there are not are left for the check of the item to name.
fn writable(reader: &Reader<'_>, collection: &CollectionRecord, allowed: &Allowed, given: &Map<String, Value>, action: Action) -> Result<(), ApiError> {
    match given.keys().find(|name| collection.spec.field(name).is_some() && !allowed.may_use(name)) {
        Some(name) => Err(reader.denied(collection, action).with_message(|text| format!("{text} for the field {}", shown(name)))),
        None => Ok(()),
    }
}

/// Refuses what an item would be when the rules do not let that through, or when it is too large.
fn fits(reader: &Reader<'_>, collection: &CollectionRecord, allowed: &Allowed, item: &ItemRecord, action: Action, now: i64) -> Result<(), ApiError> {
    let bytes = serde_json::to_vec(&item.doc).map_or(usize::MAX, |json| json.len());
    if bytes > limits::ITEM_MAX_BYTES {
        let message = format!("the item has {bytes} bytes as JSON, and may have at most {}", limits::ITEM_MAX_BYTES);
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, message));
    }
    match lets_through(allowed, item, &reader.context(now)) {
        true => Ok(()),
        false => Err(reader.denied(collection, action).with_message(|text| format!("{text} for an item such as it would be"))),
    }
}

fn lets_through(allowed: &Allowed, item: &ItemRecord, context: &Context) -> bool {
    allowed.filter.as_ref().is_none_or(|filter| filter.matches(item, context))
}

fn owner_of(owner: Value) -> Result<Option<String>, ApiError> {
    match owner {
        Value::Null => Ok(None),
        Value::String(id) if (1..=limits::ITEM_ID_MAX_CHARS).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => Ok(Some(id)),
        _ => Err(violations(vec![Violation::new("ownerId", "has to be the id of a user, or null")])),
    }
}

fn owner_rule(collection: &CollectionRecord) -> String {
    match collection.spec.owner_scoped {
        true => "ownerId: is whoever makes the item; only an admin of the team can name somebody else".to_owned(),
        false => "ownerId: is for collections with ownerScoped".to_owned(),
    }
}

/// What scripts are told of a change. They see all of the item, in the name of nobody.
fn told(reader: &Reader<'_>, collection: &CollectionRecord, what: &str, item: &ItemRecord, now: i64) -> NewScriptEvent {
    NewScriptEvent {
        id: uuid::Uuid::new_v4().to_string(),
        team_id: collection.team_id.clone(),
        target: format!("items:{}:{what}", collection.slug),
        data: item::rendered(&collection.spec, item, None).to_string(),
        depth: reader.cause.map_or(0, |cause| cause.depth),
        cause_run_id: reader.cause.and_then(|cause| cause.run_id.clone()),
        subject: json!(Subject::default()).to_string(),
        created_at_ms: now,
    }
}

fn unknown(slug: &str, id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("Item {} not found in {}", shown(id), shown(slug)))
}
