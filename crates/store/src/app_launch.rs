//! What was asked for at the start of apps, beyond what [`crate::Store`] says of apps as such.

use crate::{Store, StoreError};

impl Store {
    /// Apps whose stop a server began and did not come to the end of.
    pub async fn apps_stopping(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("look for apps that are being stopped", |c| {
                // One that cannot be read asks for nothing.
                let sql = "SELECT id FROM app WHERE desired = 'offline'
                    AND CASE WHEN json_valid(launch) THEN json_extract(launch, '$.stopping') END IS NOT NULL ORDER BY id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Sandboxes that apps keep which are offline, and those of runs, each with its app's id and its version.
    pub async fn app_sandboxes_offline(&self) -> Result<Vec<(String, String, i64)>, StoreError> {
        self.engine
            .read("look for sandboxes of apps that are offline", |c| {
                let sql = "SELECT s.sandbox_id, s.app_id, s.version FROM app_sandbox AS s JOIN app ON app.id = s.app_id
                    WHERE s.state = 'wanted' AND (s.kind = 'run' OR (s.kind = 'app' AND app.desired = 'offline')) ORDER BY s.sandbox_id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}
