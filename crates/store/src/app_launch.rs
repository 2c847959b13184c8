//! What was asked for at the start of apps, beyond what [`crate::Store`] says of apps as such.

use crate::{Store, StoreError};

impl Store {
    /// Apps whose stop a server began and did not come to the end of.
    pub async fn apps_stopping(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("look for apps that are being stopped", |c| {
                let sql = "SELECT id FROM app WHERE desired = 'offline' AND json_extract(launch, '$.stopping') IS NOT NULL ORDER BY id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}
