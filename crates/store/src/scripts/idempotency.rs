//! Keys by which a client that asks twice is answered once.

use rusqlite::{Connection, OptionalExtension};
use sandbar_core::limits;

use crate::{ScriptRun, Store, StoreError, script_runs};

/// What a key stood for before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    pub body_sha256: String,
    pub run_id: String,
}

/// What became of a claim of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idempotency {
    /// The key is the run's from now on.
    New,
    Used(KeyUse),
}

/// Old keys that one claim removes.
const SWEPT_MAX: u32 = 64;

impl Store {
    /// Claims a key for a run, which is stored with it: whoever comes next finds one or the other whole.
    pub async fn script_idempotency_claim(&self, key: &str, body_sha256: &str, run: &ScriptRun) -> Result<Idempotency, StoreError> {
        let (key, body, run) = (key.to_owned(), body_sha256.to_owned(), run.clone());
        self.engine
            .write("claim an idempotency key", move |c| {
                let claimed = claim(c, &key, &body, &run)?;
                if claimed == Idempotency::New {
                    script_runs::put(c, &run)?;
                }
                Ok(claimed)
            })
            .await
    }

    /// Forgets a key and its run, which was never begun.
    pub async fn script_idempotency_release(&self, script_id: &str, key: &str, run_id: &str) -> Result<(), StoreError> {
        let (script_id, key, run_id) = (script_id.to_owned(), key.to_owned(), run_id.to_owned());
        self.engine
            .write("release an idempotency key", move |c| {
                c.prepare_cached("DELETE FROM script_idempotency WHERE script_id = ?1 AND key = ?2 AND run_id = ?3")?.execute((script_id, key, &run_id))?;
                c.prepare_cached("DELETE FROM script_run WHERE id = ?1")?.execute([run_id])?;
                Ok(())
            })
            .await
    }
}

/// Claims a key for a run, which whoever claims stores in the same transaction.
pub(crate) fn claim(c: &Connection, key: &str, body_sha256: &str, run: &ScriptRun) -> Result<Idempotency, StoreError> {
    let before_ms = run.created_at_ms - limits::IDEMPOTENCY_KEPT_MS;
    let sql = "DELETE FROM script_idempotency WHERE (script_id, key) IN
        (SELECT script_id, key FROM script_idempotency WHERE created_at_ms < ?1 ORDER BY created_at_ms LIMIT ?2)";
    c.prepare_cached(sql)?.execute((before_ms, SWEPT_MAX))?;
    let sql = "SELECT body_sha256, run_id FROM script_idempotency WHERE script_id = ?1 AND key = ?2 AND created_at_ms >= ?3";
    let read = |row: &rusqlite::Row<'_>| Ok(KeyUse { body_sha256: row.get(0)?, run_id: row.get(1)? });
    if let Some(used) = c.prepare_cached(sql)?.query_row((&run.script_id, key, before_ms), read).optional()? {
        return Ok(Idempotency::Used(used));
    }
    let sql = "INSERT OR REPLACE INTO script_idempotency (script_id, key, body_sha256, run_id, created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
    c.prepare_cached(sql)?.execute((&run.script_id, key, body_sha256, &run.id, run.created_at_ms))?;
    Ok(Idempotency::New)
}
