//! What was used, by the hour, and samples of sandboxes.

use sandbar_core::metrics::Sample;

use crate::{Store, StoreError};

/// What comes on top of one sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageAdd {
    pub team_id: String,
    pub window_start_ms: i64,
    pub subject_type: &'static str,
    pub subject_id: String,
    pub window_type: &'static str,
    pub value: i64,
}

/// One sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    pub window_start_ms: i64,
    pub subject_type: String,
    pub subject_id: String,
    pub window_type: String,
    pub value: i64,
    pub recorded_at_ms: i64,
}

/// Where a page of sums begins: behind this one.
pub type UsageCursor = (i64, String, String, String);

impl Store {
    /// Adds to sums and keeps samples, all or nothing. Samples of sandboxes that are gone are left out.
    pub async fn usage_add(&self, adds: Vec<UsageAdd>, samples: Vec<(String, Sample)>, now_ms: i64) -> Result<(), StoreError> {
        self.engine
            .write("add up usage", move |c| {
                let sql = "INSERT INTO usage_window (team_id, window_start_ms, subject_type, subject_id, window_type, value, recorded_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                    ON CONFLICT (team_id, window_start_ms, subject_type, subject_id, window_type) DO UPDATE SET value = value + excluded.value, recorded_at_ms = excluded.recorded_at_ms";
                let mut add = c.prepare_cached(sql)?;
                for sum in &adds {
                    add.execute((&sum.team_id, sum.window_start_ms, sum.subject_type, &sum.subject_id, sum.window_type, sum.value, now_ms))?;
                }
                let sql = "INSERT OR REPLACE INTO metric_sample (sandbox_id, at_ms, sample) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM sandbox WHERE id = ?1)";
                let mut keep = c.prepare_cached(sql)?;
                for (sandbox_id, sample) in &samples {
                    let text = serde_json::to_string(sample).map_err(|e| StoreError::corrupt("sample", &e))?;
                    keep.execute((sandbox_id, sample.at_ms, text))?;
                }
                Ok(())
            })
            .await
    }

    /// A page of a team's sums, oldest first.
    pub async fn usage_list(&self, team_id: &str, after: Option<UsageCursor>, window_type: Option<String>, limit: u32) -> Result<Vec<UsageRecord>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("read usage", move |c| {
                let sql = "SELECT window_start_ms, subject_type, subject_id, window_type, value, recorded_at_ms FROM usage_window
                    WHERE team_id = ?1 AND (window_start_ms, subject_type, subject_id, window_type) > (?2, ?3, ?4, ?5) AND (?6 IS NULL OR window_type = ?6)
                    ORDER BY window_start_ms, subject_type, subject_id, window_type LIMIT ?7";
                let (start, subject_type, subject_id, kind) = after.unwrap_or((i64::MIN, String::new(), String::new(), String::new()));
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map((team_id, start, subject_type, subject_id, kind, window_type, limit), |row| {
                    Ok(UsageRecord {
                        window_start_ms: row.get(0)?,
                        subject_type: row.get(1)?,
                        subject_id: row.get(2)?,
                        window_type: row.get(3)?,
                        value: row.get(4)?,
                        recorded_at_ms: row.get(5)?,
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// The samples of a sandbox in `from..to`, oldest first.
    pub async fn samples(&self, sandbox_id: &str, from_ms: i64, to_ms: i64, limit: u32) -> Result<Vec<Sample>, StoreError> {
        let id = sandbox_id.to_owned();
        self.engine
            .read("read samples", move |c| {
                let mut statement =
                    c.prepare_cached("SELECT sample FROM metric_sample WHERE sandbox_id = ?1 AND at_ms >= ?2 AND at_ms < ?3 ORDER BY at_ms LIMIT ?4")?;
                let rows = statement.query_map((id, from_ms, to_ms, limit), |row| row.get::<_, String>(0))?;
                rows.map(|row| serde_json::from_str(&row?).map_err(|e| StoreError::corrupt("sample", &e))).collect()
            })
            .await
    }

    /// The newest sample of a sandbox.
    pub async fn newest_sample(&self, sandbox_id: &str) -> Result<Option<Sample>, StoreError> {
        use rusqlite::OptionalExtension;
        let id = sandbox_id.to_owned();
        self.engine
            .read("read the newest sample", move |c| {
                let sql = "SELECT sample FROM metric_sample WHERE sandbox_id = ?1 ORDER BY at_ms DESC LIMIT 1";
                let text: Option<String> = c.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
                text.map(|text| serde_json::from_str(&text).map_err(|e| StoreError::corrupt("sample", &e))).transpose()
            })
            .await
    }

    /// Drops samples from before `gone_ms`, and of those from before `thin_ms` all but the first of each `every_ms`.
    pub async fn samples_prune(&self, gone_ms: i64, thin_ms: i64, every_ms: i64) -> Result<usize, StoreError> {
        self.engine
            .write("drop old samples", move |c| {
                let gone = c.prepare_cached("DELETE FROM metric_sample WHERE at_ms < ?1")?.execute([gone_ms])?;
                // Two rounds of the thinning overlap by a day, so that none is missed after a standstill of less.
                let sql = "DELETE FROM metric_sample WHERE at_ms >= ?1 AND at_ms < ?2
                    AND EXISTS (SELECT 1 FROM metric_sample earlier WHERE earlier.sandbox_id = metric_sample.sandbox_id AND earlier.at_ms < metric_sample.at_ms AND earlier.at_ms >= metric_sample.at_ms / ?3 * ?3)";
                let thinned = c.prepare_cached(sql)?.execute((thin_ms - 86_400_000, thin_ms, every_ms))?;
                Ok(gone + thinned)
            })
            .await
    }
}
