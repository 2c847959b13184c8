//! Collections. A change of one is guarded by its generation, and so is every write of an item: an item is checked against the
//! fields that its collection has in the very transaction that writes it.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    limits,
    script::{
        collection::{CollectionRecord, CollectionSpec},
        item,
    },
};

use crate::{Store, StoreError, error::taken, items};

const COLUMNS: &str = "id, team_id, slug, doc, items, item_bytes, created_at_ms, updated_at_ms, generation";

impl Store {
    /// Stores a new collection without items. A team may have a limited number.
    pub async fn collection_insert(&self, collection: &CollectionRecord) -> Result<(), StoreError> {
        let collection = collection.clone();
        self.engine
            .write("insert a collection", move |c| {
                let count: usize =
                    c.prepare_cached("SELECT count(*) FROM collection WHERE team_id = ?1")?.query_row([&collection.team_id], |row| row.get(0))?;
                if count >= limits::COLLECTIONS_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "collections of this team", max: limits::COLLECTIONS_PER_TEAM_MAX });
                }
                let sql = format!("INSERT INTO collection ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, 0, 0, ?5, ?6, ?7)");
                c.prepare_cached(&sql)?
                    .execute((
                        &collection.id,
                        &collection.team_id,
                        &collection.slug,
                        text(&collection.spec)?,
                        collection.created_at_ms,
                        collection.updated_at_ms,
                        collection.generation,
                    ))
                    .map_err(taken("collection"))?;
                Ok(())
            })
            .await
    }

    pub async fn collection_get(&self, team_id: &str, slug: &str) -> Result<Option<CollectionRecord>, StoreError> {
        let (team_id, slug) = (team_id.to_owned(), slug.to_owned());
        self.engine
            .read("read a collection", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM collection WHERE team_id = ?1 AND slug = ?2");
                c.prepare_cached(&sql)?.query_row((team_id, slug), |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// A team's collections by slug.
    pub async fn collections_list(&self, team_id: &str) -> Result<Vec<CollectionRecord>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list collections", move |c| {
                let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM collection WHERE team_id = ?1 ORDER BY slug"))?;
                let rows = statement.query_map([team_id], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Changes what a collection is, with all its items where they have to change with it. Returns the record as stored.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] names the first item that does not fit, or says that there are too many to look at;
    /// [`StoreError::Duplicate`] when a field becomes unique and is not.
    pub async fn collection_update(&self, collection: &CollectionRecord, now_ms: i64) -> Result<CollectionRecord, StoreError> {
        let next = collection.clone();
        self.engine
            .write("change a collection", move |c| {
                let before = find(c, &next.id)?.ok_or_else(|| missing(&next.slug))?;
                if before.generation != next.generation {
                    return Err(stale(&next.slug));
                }
                for field in before.spec.unique().filter(|field| !next.spec.field(&field.name).is_some_and(|next| next.unique)) {
                    c.prepare_cached("DELETE FROM item_unique WHERE collection_id = ?1 AND field = ?2")?.execute((&next.id, &field.name))?;
                }
                let bytes = match before.items > 0 && before.spec.may_break(&next.spec) {
                    true => revise(c, &before, &next.spec, now_ms)?,
                    false => before.item_bytes,
                };
                let sql = format!(
                    "UPDATE collection SET doc = ?2, item_bytes = ?3, updated_at_ms = ?4, generation = generation + 1 WHERE id = ?1 RETURNING {COLUMNS}"
                );
                c.prepare_cached(&sql)?.query_row((&next.id, text(&next.spec)?, bytes, now_ms), |row| Ok(record(row)))?
            })
            .await
    }

    /// Deletes a collection; with `force` also its items, so many at a time. Returns whether it is gone: else ask again.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when there are items and they are not to go.
    pub async fn collection_delete(&self, team_id: &str, slug: &str, force: bool) -> Result<bool, StoreError> {
        let (team_id, slug) = (team_id.to_owned(), slug.to_owned());
        self.engine
            .write("delete a collection", move |c| {
                let sql = "SELECT id, items FROM collection WHERE team_id = ?1 AND slug = ?2";
                let found = c.prepare_cached(sql)?.query_row((team_id, &slug), |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))).optional()?;
                let (id, count) = found.ok_or_else(|| missing(&slug))?;
                if count > 0 && !force {
                    return Err(StoreError::InUse { what: "collection", by: vec![("items", count)] });
                }
                let rest = items::delete_some(c, &id, limits::ITEMS_DELETED_AT_ONCE_MAX)?;
                if rest == 0 {
                    c.prepare_cached("DELETE FROM collection WHERE id = ?1")?.execute([id])?;
                }
                Ok(rest == 0)
            })
            .await
    }
}

/// Adds to what a collection holds, when it is still the one that its items were checked against.
pub(crate) fn count(c: &Connection, collection: &CollectionRecord, items: i64, bytes: i64) -> Result<(), StoreError> {
    let sql = "UPDATE collection SET items = items + ?3, item_bytes = item_bytes + ?4 WHERE id = ?1 AND generation = ?2 RETURNING items";
    let counted: Option<u64> = c.prepare_cached(sql)?.query_row((&collection.id, collection.generation, items, bytes), |row| row.get(0)).optional()?;
    let Some(count) = counted else {
        return Err(if find(c, &collection.id)?.is_some() { stale(&collection.slug) } else { missing(&collection.slug) });
    };
    if items > 0 && count > limits::ITEMS_PER_COLLECTION_MAX {
        return Err(StoreError::TooMany { what: "items in this collection", max: limits::ITEMS_PER_COLLECTION_MAX as usize });
    }
    if bytes > 0 {
        let sql = "SELECT total(item_bytes) FROM collection WHERE team_id = ?1";
        let all: f64 = c.prepare_cached(sql)?.query_row([&collection.team_id], |row| row.get(0))?;
        if all > limits::ITEMS_PER_TEAM_MAX_BYTES as f64 {
            return Err(StoreError::TooMany { what: "bytes in the items of this team", max: limits::ITEMS_PER_TEAM_MAX_BYTES as usize });
        }
    }
    Ok(())
}

/// Makes all items of a collection fit into what it will be. Returns their bytes then.
fn revise(c: &Connection, before: &CollectionRecord, next: &CollectionSpec, now_ms: i64) -> Result<u64, StoreError> {
    if before.items > limits::ITEMS_REVISED_MAX || before.item_bytes > limits::ITEMS_REVISED_MAX_BYTES {
        return Err(StoreError::Unfit(format!(
            "the change has to look at every item, and that is done for at most {} items of {} bytes together; there are {} of {} bytes",
            limits::ITEMS_REVISED_MAX,
            limits::ITEMS_REVISED_MAX_BYTES,
            before.items,
            before.item_bytes
        )));
    }
    let added: Vec<_> =
        next.unique().filter(|field| !before.spec.field(&field.name).is_some_and(|before| before.unique && before.kind == field.kind)).collect();
    for field in &added {
        c.prepare_cached("DELETE FROM item_unique WHERE collection_id = ?1 AND field = ?2")?.execute((&before.id, &field.name))?;
    }
    let mut bytes = 0;
    let mut after = String::new();
    // Page by page, so that no row is read while others are written.
    loop {
        let sql = "SELECT id, doc FROM item WHERE collection_id = ?1 AND id > ?2 ORDER BY id LIMIT 100";
        let page: Vec<(String, String)> =
            c.prepare_cached(sql)?.query_map((&before.id, &after), |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        let Some((last, _)) = page.last() else { return Ok(bytes) };
        after = last.clone();
        for (id, doc) in page {
            let old = items::parsed(&doc)?;
            let new = item::revised(next, &old, now_ms)
                .map_err(|violation| StoreError::Unfit(format!("item {id:?} does not fit the change: {violation}; change the item first")))?;
            let mut size = doc.len();
            if new != old {
                let text = items::text(&new)?;
                size = text.len();
                if size > limits::ITEM_MAX_BYTES {
                    return Err(StoreError::Unfit(format!("item {id:?} would become larger than {} bytes", limits::ITEM_MAX_BYTES)));
                }
                c.prepare_cached("UPDATE item SET doc = ?3, generation = generation + 1 WHERE collection_id = ?1 AND id = ?2")?
                    .execute((&before.id, &id, text))?;
            }
            items::claim_unique(c, &before.id, added.iter().copied(), &id, &new)?;
            bytes += size as u64;
        }
    }
}

fn find(c: &Connection, id: &str) -> Result<Option<CollectionRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM collection WHERE id = ?1");
    c.prepare_cached(&sql)?.query_row([id], |row| Ok(record(row))).optional()?.transpose()
}

fn missing(slug: &str) -> StoreError {
    StoreError::NotFound { what: "collection", id: slug.to_owned() }
}

fn stale(slug: &str) -> StoreError {
    StoreError::Stale { what: "collection", id: slug.to_owned() }
}

fn text(spec: &CollectionSpec) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|e| StoreError::corrupt("collection", &e))
}

fn record(row: &Row<'_>) -> Result<CollectionRecord, StoreError> {
    let doc = row.get_ref(3)?.as_str().map_err(|e| StoreError::corrupt("collection", &e))?;
    Ok(CollectionRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        slug: row.get(2)?,
        spec: serde_json::from_str(doc).map_err(|e| StoreError::corrupt("collection", &e))?,
        items: row.get(4)?,
        item_bytes: row.get(5)?,
        created_at_ms: row.get(6)?,
        updated_at_ms: row.get(7)?,
        generation: row.get(8)?,
    })
}
