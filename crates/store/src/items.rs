//! Items of collections. What tells scripts of a change is written in the change's own transaction.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::script::{
    collection::{CollectionRecord, Field},
    item::ItemRecord,
};
use serde_json::{Map, Value};

use crate::{NewScriptEvent, Store, StoreError, collections, error::taken, script_events};

mod filter;
mod find;
mod turns;

pub use find::{ItemQuery, ItemsFound};
pub(crate) use turns::Turns;

const COLUMNS: &str = "id, owner_id, doc, created_at_ms, updated_at_ms, generation";

impl Store {
    /// Stores new items of a collection, all or none, each with the event that tells of it. They were checked against the
    /// collection as it is given here; if it is another by now, that is [`StoreError::Stale`].
    pub async fn items_insert(&self, collection: &CollectionRecord, items: Vec<(ItemRecord, NewScriptEvent)>) -> Result<(), StoreError> {
        let collection = collection.clone();
        self.engine
            .write("insert items", move |c| {
                let docs: Vec<String> = items.iter().map(|(item, _)| text(&item.doc)).collect::<Result<_, _>>()?;
                collections::count(c, &collection, items.len() as i64, docs.iter().map(|doc| doc.len() as i64).sum())?;
                for ((item, event), doc) in items.iter().zip(docs) {
                    let sql = format!("INSERT INTO item (collection_id, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
                    c.prepare_cached(&sql)?
                        .execute((&collection.id, &item.id, &item.owner_id, doc, item.created_at_ms, item.updated_at_ms, item.generation))
                        .map_err(taken("an item with this id"))?;
                    claim_unique(c, &collection.id, collection.spec.unique(), &item.id, &item.doc)?;
                    script_events::publish(c, event)?;
                }
                Ok(())
            })
            .await
    }

    pub async fn item_get(&self, collection_id: &str, id: &str) -> Result<Option<ItemRecord>, StoreError> {
        let (collection_id, id) = (collection_id.to_owned(), id.to_owned());
        self.engine.read("read an item", move |c| find(c, &collection_id, &id)).await
    }

    /// Replaces an item that is as it was read: its generation is the one that it has still. Returns its new generation.
    pub async fn item_update(&self, collection: &CollectionRecord, item: &ItemRecord, event: NewScriptEvent) -> Result<i64, StoreError> {
        let (collection, item) = (collection.clone(), item.clone());
        self.engine
            .write("update an item", move |c| {
                let before = guarded(c, &collection.id, &item.id, item.generation)?;
                let doc = text(&item.doc)?;
                collections::count(c, &collection, 0, doc.len() as i64 - before as i64)?;
                let sql = "UPDATE item SET owner_id = ?3, doc = ?4, updated_at_ms = ?5, generation = generation + 1 WHERE collection_id = ?1 AND id = ?2";
                c.prepare_cached(sql)?.execute((&collection.id, &item.id, &item.owner_id, doc, item.updated_at_ms))?;
                c.prepare_cached("DELETE FROM item_unique WHERE collection_id = ?1 AND item_id = ?2")?.execute((&collection.id, &item.id))?;
                claim_unique(c, &collection.id, collection.spec.unique(), &item.id, &item.doc)?;
                script_events::publish(c, &event)?;
                Ok(item.generation + 1)
            })
            .await
    }

    /// Deletes an item that is as it was read.
    pub async fn item_delete(&self, collection: &CollectionRecord, id: &str, generation: i64, event: NewScriptEvent) -> Result<(), StoreError> {
        let (collection, id) = (collection.clone(), id.to_owned());
        self.engine
            .write("delete an item", move |c| {
                let bytes = guarded(c, &collection.id, &id, generation)?;
                collections::count(c, &collection, -1, -(bytes as i64))?;
                c.prepare_cached("DELETE FROM item WHERE collection_id = ?1 AND id = ?2")?.execute((&collection.id, &id))?;
                script_events::publish(c, &event)?;
                Ok(())
            })
            .await
    }
}

/// The bytes of an item's document, if it is as it was read.
fn guarded(c: &Connection, collection_id: &str, id: &str, generation: i64) -> Result<u64, StoreError> {
    let sql = "SELECT octet_length(doc), generation FROM item WHERE collection_id = ?1 AND id = ?2";
    let found: Option<(u64, i64)> = c.prepare_cached(sql)?.query_row((collection_id, id), |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match found {
        Some((bytes, now)) if now == generation => Ok(bytes),
        Some(_) => Err(StoreError::Stale { what: "item", id: id.to_owned() }),
        None => Err(StoreError::NotFound { what: "item", id: id.to_owned() }),
    }
}

/// Takes the values of an item's unique fields for it.
pub(crate) fn claim_unique<'a>(
    c: &Connection,
    collection_id: &str,
    fields: impl Iterator<Item = &'a Field>,
    item_id: &str,
    doc: &Map<String, Value>,
) -> Result<(), StoreError> {
    for field in fields {
        if let Some(value) = doc.get(&field.name) {
            let sql = "INSERT INTO item_unique (collection_id, field, value, item_id) VALUES (?1, ?2, ?3, ?4)";
            c.prepare_cached(sql)?.execute((collection_id, &field.name, value.to_string(), item_id)).map_err(|error| match crate::error::is_taken(&error) {
                true => StoreError::Duplicate { field: field.name.clone() },
                false => error.into(),
            })?;
        }
    }
    Ok(())
}

/// Deletes some of a collection's items and tells nobody. Returns how many are left.
pub(crate) fn delete_some(c: &Connection, collection_id: &str, max: usize) -> Result<u64, StoreError> {
    let sql =
        "DELETE FROM item WHERE collection_id = ?1 AND id IN (SELECT id FROM item WHERE collection_id = ?1 ORDER BY id LIMIT ?2) RETURNING octet_length(doc)";
    let bytes: Vec<i64> = c.prepare_cached(sql)?.query_map((collection_id, max), |row| row.get(0))?.collect::<Result<_, _>>()?;
    let sql = "UPDATE collection SET items = items - ?2, item_bytes = item_bytes - ?3 WHERE id = ?1 RETURNING items";
    Ok(c.prepare_cached(sql)?.query_row((collection_id, bytes.len(), bytes.iter().sum::<i64>()), |row| row.get(0))?)
}

pub(crate) fn text(doc: &Map<String, Value>) -> Result<String, StoreError> {
    serde_json::to_string(doc).map_err(|e| StoreError::corrupt("item", &e))
}

pub(crate) fn parsed(doc: &str) -> Result<Map<String, Value>, StoreError> {
    serde_json::from_str(doc).map_err(|e| StoreError::corrupt("item", &e))
}

fn find(c: &Connection, collection_id: &str, id: &str) -> Result<Option<ItemRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM item WHERE collection_id = ?1 AND id = ?2");
    c.prepare_cached(&sql)?.query_row((collection_id, id), |row| Ok(record(row))).optional()?.transpose()
}

fn record(row: &Row<'_>) -> Result<ItemRecord, StoreError> {
    Ok(ItemRecord {
        id: row.get(0)?,
        owner_id: row.get(1)?,
        doc: parsed(row.get_ref(2)?.as_str().map_err(|e| StoreError::corrupt("item", &e))?)?,
        created_at_ms: row.get(3)?,
        updated_at_ms: row.get(4)?,
        generation: row.get(5)?,
    })
}
