//! Receipts of runs: a chain for each team, from 1 on without gaps. Each names the one before by its hash, and none is changed.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::{AppRun, Store, StoreError};

/// A signed receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptRecord {
    pub id: String,
    pub team_id: String,
    pub seq: u64,
    pub run_id: String,
    pub app_id: String,
    pub created_at_ms: i64,
    /// Of the signed document; the next one names it.
    pub sha256: String,
    /// The signed document: JSON.
    pub doc: String,
}

/// The place that a receipt gets in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPlace {
    pub seq: u64,
    /// The hash of the one before; none before the first.
    pub prev_sha256: Option<String>,
}

/// A document that was signed for its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    pub id: String,
    pub sha256: String,
    pub doc: String,
}

/// Signs the receipt of a run that has ended, within the commit of its end: only there its place is known.
pub type SignReceipt = Box<dyn FnOnce(&AppRun, ChainPlace) -> Result<SignedReceipt, StoreError> + Send>;

const COLUMNS: &str = "id, team_id, seq, run_id, app_id, created_at_ms, sha256, doc";

impl Store {
    /// Receipts of a team in the order of their chain, perhaps of one app alone.
    pub async fn receipts_list(&self, team_id: &str, app_id: Option<&str>, after_seq: u64, limit: u32) -> Result<Vec<ReceiptRecord>, StoreError> {
        let (team_id, app_id) = (team_id.to_owned(), app_id.map(str::to_owned));
        self.engine
            .read("list receipts", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM app_receipt WHERE team_id = ?1 AND seq > ?2 AND (?3 IS NULL OR app_id = ?3) ORDER BY seq LIMIT ?4");
                let mut statement = c.prepare_cached(&sql)?;
                statement.query_map((team_id, after_seq as i64, app_id, limit), receipt)?.map(|row| Ok(row?)).collect()
            })
            .await
    }

    /// The receipt of a run, which may be gone by now.
    pub async fn receipt_of_run(&self, team_id: &str, run_id: &str) -> Result<Option<ReceiptRecord>, StoreError> {
        let (team_id, run_id) = (team_id.to_owned(), run_id.to_owned());
        self.engine
            .read("read a receipt", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM app_receipt WHERE run_id = ?1 AND team_id = ?2");
                Ok(c.prepare_cached(&sql)?.query_row((run_id, team_id), receipt).optional()?)
            })
            .await
    }
}

/// Appends the receipt of a run to the chain of its team.
pub(crate) fn append(c: &Connection, run: &AppRun, sign: SignReceipt) -> Result<ReceiptRecord, StoreError> {
    let sql = "SELECT seq, sha256 FROM app_receipt WHERE team_id = ?1 ORDER BY seq DESC LIMIT 1";
    let last: Option<(i64, String)> = c.prepare_cached(sql)?.query_row([&run.team_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let seq = last.as_ref().map_or(0, |(seq, _)| *seq) + 1;
    let place = ChainPlace { seq: seq.max(0) as u64, prev_sha256: last.map(|(_, sha256)| sha256) };
    let SignedReceipt { id, sha256, doc } = sign(run, place)?;
    let created_at_ms = run.finished_at_ms.unwrap_or(run.created_at_ms);
    let sql = format!("INSERT INTO app_receipt ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    c.prepare_cached(&sql)?.execute((&id, &run.team_id, seq, &run.id, &run.app_id, created_at_ms, &sha256, &doc))?;
    Ok(ReceiptRecord {
        id,
        team_id: run.team_id.clone(),
        seq: seq.max(0) as u64,
        run_id: run.id.clone(),
        app_id: run.app_id.clone(),
        created_at_ms,
        sha256,
        doc,
    })
}

fn receipt(row: &Row<'_>) -> rusqlite::Result<ReceiptRecord> {
    Ok(ReceiptRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        seq: row.get::<_, i64>(2)?.max(0) as u64,
        run_id: row.get(3)?,
        app_id: row.get(4)?,
        created_at_ms: row.get(5)?,
        sha256: row.get(6)?,
        doc: row.get(7)?,
    })
}
