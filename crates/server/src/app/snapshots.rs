//! Snapshots of sandboxes' files.

use sandbar_store::SnapshotRecord;

use crate::{
    app::{App, auth::Principal, sandboxes::store_failure},
    error::ApiError,
};

impl App {
    /// One snapshot of the team.
    pub async fn snapshot(&self, who: &Principal, id: &str) -> Result<SnapshotRecord, ApiError> {
        let found = self.store.snapshot_get(&who.team_id, id).await.map_err(|e| store_failure("reading the snapshot", &e))?;
        found.ok_or_else(|| ApiError::not_found("snapshot", id))
    }
}
