//! Runs that end with their app or its sandbox, and whether a sandbox has runs.

use rusqlite::Connection;
use sandbar_core::app::run::Withdrawn;

use crate::{Store, StoreError};

/// Which of an app's runs that have not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those that are in the app's sandbox, or wait for it.
    OfApp,
    /// Those that are in this sandbox.
    In(String),
}

impl Which {
    fn matching(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::All => ("status IN ('queued', 'running') AND ?2 IS NULL", None),
            Self::OfApp => ("status IN ('queued', 'running') AND CASE WHEN json_valid(doc) THEN json_extract(doc, '$.place') END = 'app' AND ?2 IS NULL", None),
            Self::In(sandbox_id) => ("status = 'running' AND status IN ('queued', 'running') AND sandbox_id = ?2", Some(sandbox_id)),
        }
    }
}

impl Store {
    /// Notes that runs are to end, and why; of those that were to end already the former reason stays. Returns all that have not ended.
    pub async fn app_runs_withdraw(&self, app_id: &str, which: Which, why: Withdrawn, now_ms: i64) -> Result<Vec<String>, StoreError> {
        let app_id = app_id.to_owned();
        self.engine.write("withdraw runs", move |c| withdraw(c, &app_id, &which, why, now_ms)).await
    }

    /// Why a run is to end, where nobody asked for that itself.
    pub async fn app_run_withdrawn(&self, id: &str) -> Result<Option<Withdrawn>, StoreError> {
        Ok(self.app_run_find(id).await?.and_then(|run| run.withdrawn))
    }

    /// Whether some run besides this one has not ended. One that waits and is to be cancelled does not count.
    pub async fn app_has_runs(&self, app_id: &str, which: Which, besides: Option<&str>) -> Result<bool, StoreError> {
        let (app_id, besides) = (app_id.to_owned(), besides.map(str::to_owned));
        self.engine
            .read("look for runs of an app", move |c| {
                let (matching, value) = which.matching();
                let sql = format!(
                    "SELECT 1 FROM app_run WHERE app_id = ?1 AND {matching} AND id IS NOT ?3 AND (status = 'running' OR cancel_requested_at_ms IS NULL)"
                );
                Ok(c.prepare_cached(&sql)?.exists((app_id, value, besides))?)
            })
            .await
    }
}

/// The same of all runs of an app; for use in the transaction that takes it away.
pub(crate) fn withdraw_all(c: &Connection, app_id: &str, why: Withdrawn, now_ms: i64) -> Result<(), StoreError> {
    withdraw(c, app_id, &Which::All, why, now_ms).map(drop)
}

fn withdraw(c: &Connection, app_id: &str, which: &Which, why: Withdrawn, now_ms: i64) -> Result<Vec<String>, StoreError> {
    let (matching, value) = which.matching();
    let sql = format!(
        "UPDATE app_run SET withdrawn = CASE WHEN cancel_requested_at_ms IS NULL THEN ?3 ELSE withdrawn END,
            cancel_requested_at_ms = coalesce(cancel_requested_at_ms, ?4)
        WHERE app_id = ?1 AND {matching} RETURNING id"
    );
    let mut statement = c.prepare_cached(&sql)?;
    statement.query_map((app_id, value, why.as_str(), now_ms), |row| row.get(0))?.map(|row| Ok(row?)).collect()
}
