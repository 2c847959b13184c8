//! Receipts of runs: a chain for each team, from 1 on without gaps. Each names the one before by its hash, and none is changed. The oldest
//! go in time; what is known of the last one that went stands in the row of the chain.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::limits::apps as limits;

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

/// The last receipt of a chain that is not kept any longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptsGone {
    pub seq: u64,
    pub sha256: String,
    pub at_ms: i64,
}

/// Receipts of a team in order, as they were at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiptPage {
    pub receipts: Vec<ReceiptRecord>,
    /// There may be others after the last of these.
    pub more: bool,
    /// What went before the first one that is kept.
    pub gone: Option<ReceiptsGone>,
}

/// How many receipts of a team are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptsKept {
    pub max: u64,
    pub bytes_max: u64,
    /// Those from before are not.
    pub since_ms: i64,
}

impl ReceiptsKept {
    /// As servers keep them.
    pub fn at(now_ms: i64) -> Self {
        Self { max: limits::RECEIPTS_PER_TEAM_MAX, bytes_max: limits::RECEIPTS_PER_TEAM_MAX_BYTES, since_ms: now_ms.saturating_sub(limits::RECEIPT_KEPT_MS) }
    }
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
    /// Receipts of a team in the order of their chain, perhaps of one app alone: so many, or fewer when they have more than so many bytes
    /// together, but at least one.
    pub async fn receipts_list(
        &self,
        team_id: &str,
        app_id: Option<&str>,
        after_seq: u64,
        (limit, max_bytes): (u32, usize),
    ) -> Result<ReceiptPage, StoreError> {
        let (team_id, app_id) = (team_id.to_owned(), app_id.map(str::to_owned));
        self.engine
            .read("list receipts", move |c| {
                let c = c.unchecked_transaction()?;
                let which = if app_id.is_some() { "app_id = ?3 AND team_id = ?1" } else { "team_id = ?1 AND ?3 IS NULL" };
                let sql = format!("SELECT {COLUMNS} FROM app_receipt WHERE {which} AND seq > ?2 ORDER BY seq LIMIT ?4");
                let mut statement = c.prepare_cached(&sql)?;
                let (mut receipts, mut bytes, mut more) = (Vec::<ReceiptRecord>::new(), 0, false);
                for found in statement.query_map((&team_id, after_seq as i64, app_id, limit), receipt)? {
                    let found = found?;
                    bytes += found.doc.len();
                    if bytes > max_bytes && !receipts.is_empty() {
                        more = true;
                        break;
                    }
                    receipts.push(found);
                }
                more |= receipts.len() >= limit as usize;
                let sql = "SELECT gone_seq, gone_sha256, gone_at_ms FROM app_receipt_chain WHERE team_id = ?1 AND gone_seq IS NOT NULL";
                let gone = |row: &Row<'_>| Ok(ReceiptsGone { seq: row.get::<_, i64>(0)?.max(0) as u64, sha256: row.get(1)?, at_ms: row.get(2)? });
                let gone = c.prepare_cached(sql)?.query_row([team_id], gone).optional()?;
                Ok(ReceiptPage { receipts, more, gone })
            })
            .await
    }

    /// A receipt of a team.
    pub async fn receipt_get(&self, team_id: &str, id: &str) -> Result<Option<ReceiptRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a receipt", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM app_receipt WHERE id = ?1 AND team_id = ?2");
                Ok(c.prepare_cached(&sql)?.query_row((id, team_id), receipt).optional()?)
            })
            .await
    }

    /// Removes the oldest receipts of teams with more than are kept; of each chain `step` in one commit, and never the newest, which
    /// the next one names. Returns how many went.
    pub async fn receipts_prune(&self, kept: ReceiptsKept, now_ms: i64, step: u32) -> Result<usize, StoreError> {
        let teams: Vec<String> = self
            .engine
            .read("look for old receipts", move |c| {
                let mut statement = c.prepare_cached("SELECT team_id FROM app_receipt_chain")?;
                statement.query_map([], |row| row.get(0))?.map(|row| Ok(row?)).collect()
            })
            .await?;
        let mut removed = 0;
        for team_id in teams {
            loop {
                let team = team_id.clone();
                let Some(last) = self.engine.read("look for old receipts", move |c| superfluous(c, &team, kept, step)).await? else { break };
                let team = team_id.clone();
                removed += self.engine.write("remove old receipts", move |c| remove(c, &team, last, now_ms)).await?;
            }
        }
        Ok(removed)
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

/// The last one that goes of a chain, at most `step` from its begin on. None: all are kept.
fn superfluous(c: &Connection, team_id: &str, kept: ReceiptsKept, step: u32) -> Result<Option<i64>, StoreError> {
    let end = |order: &str| -> Result<Option<i64>, StoreError> {
        let sql = format!("SELECT seq FROM app_receipt WHERE team_id = ?1 ORDER BY seq {order} LIMIT 1");
        Ok(c.prepare_cached(&sql)?.query_row([team_id], |row| row.get(0)).optional()?)
    };
    let (Some(first), Some(newest)) = (end("ASC")?, end("DESC")?) else { return Ok(None) };
    let sql = "SELECT bytes FROM app_receipt_chain WHERE team_id = ?1";
    let bytes: i64 = c.prepare_cached(sql)?.query_row([team_id], |row| row.get(0)).optional()?.unwrap_or_default();
    let (mut count, mut bytes) = ((newest - first + 1).max(0) as u64, bytes.max(0) as u64);
    let sql = "SELECT seq, created_at_ms, octet_length(doc) FROM app_receipt WHERE team_id = ?1 AND seq < ?2 ORDER BY seq LIMIT ?3";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query((team_id, newest, step.max(1)))?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let (seq, created_at_ms, size): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // From the begin on: what is in order goes in order, whatever a clock said.
        if count <= kept.max && bytes <= kept.bytes_max && created_at_ms >= kept.since_ms {
            break;
        }
        (count, bytes) = (count - 1, bytes.saturating_sub(size.max(0) as u64));
        last = Some(seq);
    }
    Ok(last)
}

/// Removes the receipts of a chain up to a number, which stands for them from then on.
fn remove(c: &Connection, team_id: &str, last: i64, now_ms: i64) -> Result<usize, StoreError> {
    let sql = "SELECT sha256 FROM app_receipt WHERE team_id = ?1 AND seq = ?2";
    let Some(sha256) = c.prepare_cached(sql)?.query_row((team_id, last), |row| row.get::<_, String>(0)).optional()? else { return Ok(0) };
    let sql = "UPDATE app_receipt_chain SET bytes = bytes - (SELECT coalesce(sum(octet_length(doc)), 0) FROM app_receipt WHERE team_id = ?1 AND seq <= ?2),
        gone_seq = ?2, gone_sha256 = ?3, gone_at_ms = ?4 WHERE team_id = ?1";
    c.prepare_cached(sql)?.execute((team_id, last, sha256, now_ms))?;
    Ok(c.prepare_cached("DELETE FROM app_receipt WHERE team_id = ?1 AND seq <= ?2")?.execute((team_id, last))?)
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
    let sql = "INSERT INTO app_receipt_chain (team_id, bytes) VALUES (?1, ?2) ON CONFLICT (team_id) DO UPDATE SET bytes = bytes + excluded.bytes";
    c.prepare_cached(sql)?.execute((&run.team_id, doc.len() as i64))?;
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
