//! Calls of functions that nobody waits for. Bounded for each sandbox, and gone with it.

use rusqlite::{OptionalExtension, Row};
use sandbar_core::limits;

use crate::{Store, StoreError};

/// A result up to which the others of its team are not counted when it is kept.
const SMALL_BYTES: usize = 16 << 10;

/// A call's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvocationRecord {
    pub id: String,
    pub sandbox_id: String,
    pub function: String,
    pub status: InvocationStatus,
    pub created_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    /// JSON: the response of one that succeeded, the error of one that failed. Not in lists.
    pub result: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvocationStatus {
    Running,
    /// The handler answered.
    Succeeded,
    Failed,
}

impl InvocationStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        [Self::Running, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| StoreError::corrupt("invocation", &format!("status {text:?}")))
    }
}

impl Store {
    /// Notes that a call begins. The oldest results make room for it; calls that run are limited.
    pub async fn invocation_insert(&self, id: &str, sandbox_id: &str, function: &str, now_ms: i64) -> Result<(), StoreError> {
        let (id, sandbox_id, function) = (id.to_owned(), sandbox_id.to_owned(), function.to_owned());
        self.engine
            .write("insert an invocation", move |c| {
                let count = "SELECT count(*) FROM invocation WHERE sandbox_id = ?1 AND status = 'running'";
                let running: usize = c.prepare_cached(count)?.query_row([&sandbox_id], |row| row.get(0))?;
                if running >= limits::INVOCATIONS_RUNNING_MAX {
                    return Err(StoreError::TooMany { what: "calls of functions under way that nobody waits for", max: limits::INVOCATIONS_RUNNING_MAX });
                }
                c.prepare_cached("DELETE FROM invocation WHERE created_at_ms < ?1 AND status <> 'running'")?.execute([now_ms - limits::INVOCATION_KEPT_MS])?;
                c.prepare_cached(
                    "DELETE FROM invocation WHERE sandbox_id = ?1 AND status <> 'running' AND id NOT IN
                        (SELECT id FROM invocation WHERE sandbox_id = ?1 ORDER BY created_at_ms DESC, id LIMIT ?2)",
                )?
                .execute((&sandbox_id, limits::INVOCATIONS_PER_SANDBOX_MAX - 1))?;
                let sql =
                    "INSERT INTO invocation (id, sandbox_id, function, status, created_at_ms) SELECT ?1, id, ?3, 'running', ?4 FROM sandbox WHERE id = ?2";
                let inserted = c.prepare_cached(sql)?.execute((id, &sandbox_id, function, now_ms))?;
                if inserted == 0 { Err(StoreError::NotFound { what: "sandbox", id: sandbox_id }) } else { Ok(()) }
            })
            .await
    }

    /// Keeps what came of a call; nothing when its sandbox is gone. The oldest results of its team make room for a large one.
    pub async fn invocation_finish(&self, id: &str, status: InvocationStatus, result: String, now_ms: i64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("finish an invocation", move |c| {
                c.prepare_cached("UPDATE invocation SET status = ?2, result = ?3, finished_at_ms = ?4 WHERE id = ?1 AND status = 'running'")?.execute((
                    &id,
                    status.as_str(),
                    &result,
                    now_ms,
                ))?;
                // Counting has its price, and the small ones are counted by the next prune.
                if result.len() > SMALL_BYTES {
                    let sql = format!(
                        "DELETE FROM invocation WHERE id IN ({})",
                        over("s.team_id = (SELECT o.team_id FROM invocation i JOIN sandbox o ON o.id = i.sandbox_id WHERE i.id = ?3)")
                    );
                    c.prepare_cached(&sql)?.execute((limits::INVOCATION_RESULTS_PER_TEAM_BYTES_MAX, i64::MAX, id))?;
                }
                Ok(())
            })
            .await
    }

    /// Removes results from before `before_ms`, and the oldest of teams whose results have more than `bytes`; at most
    /// `limit` of each. Returns how many there were.
    pub async fn invocations_prune(&self, before_ms: i64, bytes: usize, limit: u32) -> Result<usize, StoreError> {
        let over: Vec<String> = self
            .engine
            .read("count the results of invocations", move |c| {
                let mut statement = c.prepare_cached(&over("true"))?;
                let rows = statement.query_map((bytes, limit), |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await?;
        self.engine
            .write("remove old invocations", move |c| {
                let sql = "DELETE FROM invocation WHERE id IN
                    (SELECT id FROM invocation WHERE created_at_ms < ?1 AND status <> 'running' ORDER BY created_at_ms LIMIT ?2)";
                let mut removed = c.prepare_cached(sql)?.execute((before_ms, limit))?;
                let mut remove = c.prepare_cached("DELETE FROM invocation WHERE id = ?1")?;
                for id in over {
                    removed += remove.execute([id])?;
                }
                Ok(removed)
            })
            .await
    }

    /// Ends every call that runs, for a server that starts: nobody carries them on. Returns how many there were.
    pub async fn invocations_interrupt(&self, result: &str, now_ms: i64) -> Result<usize, StoreError> {
        let result = result.to_owned();
        self.engine
            .write("interrupt invocations", move |c| {
                Ok(c.execute("UPDATE invocation SET status = 'failed', result = ?1, finished_at_ms = ?2 WHERE status = 'running'", (result, now_ms))?)
            })
            .await
    }

    /// A call of a function.
    pub async fn invocation_get(&self, sandbox_id: &str, function: &str, id: &str) -> Result<Option<InvocationRecord>, StoreError> {
        let key = (id.to_owned(), sandbox_id.to_owned(), function.to_owned());
        self.engine
            .read("read an invocation", move |c| {
                let sql = "SELECT id, sandbox_id, function, status, created_at_ms, finished_at_ms, result
                    FROM invocation WHERE id = ?1 AND sandbox_id = ?2 AND function = ?3";
                c.prepare_cached(sql)?.query_row(key, |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// The calls of a function that are kept, newest first, without what came of them.
    pub async fn invocations_list(&self, sandbox_id: &str, function: &str) -> Result<Vec<InvocationRecord>, StoreError> {
        let key = (sandbox_id.to_owned(), function.to_owned());
        self.engine
            .read("list invocations", move |c| {
                let sql = "SELECT id, sandbox_id, function, status, created_at_ms, finished_at_ms, NULL
                    FROM invocation WHERE sandbox_id = ?1 AND function = ?2 ORDER BY created_at_ms DESC, id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map(key, |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }
}

/// Selects at most ?2 results that lie beyond the newest ?1 bytes of their team.
fn over(which: &str) -> String {
    format!(
        "SELECT id FROM (SELECT i.id AS id, sum(octet_length(i.result)) OVER (PARTITION BY s.team_id ORDER BY i.created_at_ms DESC, i.id) AS total
            FROM invocation i JOIN sandbox s ON s.id = i.sandbox_id WHERE i.result IS NOT NULL AND {which}) WHERE total > ?1 LIMIT ?2"
    )
}

fn record(row: &Row<'_>) -> Result<InvocationRecord, StoreError> {
    let status: String = row.get(3)?;
    Ok(InvocationRecord {
        id: row.get(0)?,
        sandbox_id: row.get(1)?,
        function: row.get(2)?,
        status: InvocationStatus::parse(&status)?,
        created_at_ms: row.get(4)?,
        finished_at_ms: row.get(5)?,
        result: row.get(6)?,
    })
}
