//! Queries of items. They may read whole collections, so they have bounds: one at a time, so long, so many bytes.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, params_from_iter};
use sandbar_core::{
    limits,
    script::{
        item::ItemRecord,
        query::{Context, Filter, SortKey},
    },
};

use super::filter::Sql;
use crate::{Store, StoreError};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemQuery {
    /// Whose turn it is.
    pub team_id: String,
    pub collection_id: String,
    /// All of them have to hold.
    pub filters: Vec<Filter>,
    pub context: Context,
    /// The newest first when it says nothing.
    pub sort: Vec<SortKey>,
    pub limit: u32,
    pub offset: u32,
    /// Whether all that match are counted.
    pub count: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemsFound {
    pub items: Vec<ItemRecord>,
    pub total: Option<u64>,
}

/// Steps of the database's machine between two looks at the clock.
const STEPS: i32 = 10_000;

const TOO_SLOW: &str = "the query reads for longer than a query may; narrow it down, or sort by createdAt";
const TOO_LARGE: &str = "the rows are more than 6 MiB together; ask for fewer at a time by limit";

impl Store {
    /// Finds items.
    ///
    /// # Errors
    /// [`StoreError::Query`] for one that reads too long or finds too much.
    pub async fn items_find(&self, query: ItemQuery) -> Result<ItemsFound, StoreError> {
        let turn = self.turns.take(&query.team_id).await?;
        self.engine
            .read("find items", move |c| {
                let _turn = turn;
                found(c, &query)
            })
            .await
    }
}

fn found(c: &Connection, query: &ItemQuery) -> Result<ItemsFound, StoreError> {
    let _watch = Watch::start(c);
    // One moment for ids, rows and count.
    let transaction = c.unchecked_transaction()?;
    let mut sql = Sql::new(&query.context);
    let collection = sql.bind(query.collection_id.clone().into());
    let mut matching = format!("collection_id = {collection}");
    for filter in &query.filters {
        matching.push_str(" AND ");
        matching.push_str(&sql.condition(filter));
    }
    let total = match query.count {
        true => {
            let counted = format!("SELECT count(*) FROM item WHERE {matching}");
            Some(transaction.prepare(&counted)?.query_row(params_from_iter(sql.values()), |row| row.get(0)).map_err(interrupted)?)
        }
        false => None,
    };
    let order = sql.order(&query.sort);
    let (limit, offset) = (sql.bind(i64::from(query.limit).into()), sql.bind(i64::from(query.offset).into()));
    // Only ids are sorted, not whole rows.
    let chosen = format!("SELECT id FROM item WHERE {matching} ORDER BY {order} LIMIT {limit} OFFSET {offset}");
    let mut statement = transaction.prepare(&chosen)?;
    let ids: Vec<String> = statement.query_map(params_from_iter(sql.values()), |row| row.get(0))?.collect::<Result<_, _>>().map_err(interrupted)?;
    drop(statement);
    let mut items = Vec::with_capacity(ids.len());
    let mut bytes = 0;
    let mut statement = transaction.prepare_cached(&format!("SELECT {}, octet_length(doc) FROM item WHERE collection_id = ?1 AND id = ?2", super::COLUMNS))?;
    for id in ids {
        let (item, size) = statement.query_row((&query.collection_id, &id), |row| Ok((super::record(row), row.get::<_, usize>(6)?))).map_err(interrupted)?;
        bytes += size;
        if bytes > limits::QUERY_ROWS_MAX_BYTES {
            return Err(StoreError::Query(TOO_LARGE));
        }
        items.push(item?);
    }
    Ok(ItemsFound { items, total })
}

/// Ends what runs on a connection when its time is up.
struct Watch<'c>(&'c Connection);

impl<'c> Watch<'c> {
    fn start(c: &'c Connection) -> Self {
        let end = Instant::now() + Duration::from_millis(limits::QUERY_MAX_MS);
        c.progress_handler(STEPS, Some(move || Instant::now() >= end));
        Self(c)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.progress_handler(0, None::<fn() -> bool>);
    }
}

fn interrupted(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => StoreError::Query(TOO_SLOW),
        _ => error.into(),
    }
}
