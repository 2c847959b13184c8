//! The sandboxes that serve revisions. An instance's row is written before its sandbox and goes after it, in one commit
//! with the volumes that only that sandbox had.

use rusqlite::{Row, params_from_iter};
use sandbar_core::function::{InstanceRecord, InstanceState};

use crate::{Store, StoreError, VolumeRecord, error::taken};

const COLUMNS: &str = "sandbox_id, team_id, function_id, revision_id, state, created_at_ms, ready_at_ms, startup_ms";

impl Store {
    /// Stores an instance that is about to be made, with its own copies of its revision's volumes. Refused when the revision
    /// is gone.
    pub async fn instance_insert(&self, instance: &InstanceRecord, volumes: Vec<VolumeRecord>) -> Result<(), StoreError> {
        let instance = instance.clone();
        self.engine
            .write("insert an instance", move |c| {
                if !c.prepare_cached("SELECT 1 FROM function_revision WHERE id = ?1")?.exists([&instance.revision_id])? {
                    return Err(StoreError::NotFound { what: "revision", id: instance.revision_id });
                }
                let sql = format!("INSERT INTO function_instance ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
                c.prepare_cached(&sql)?
                    .execute((
                        &instance.sandbox_id,
                        &instance.team_id,
                        &instance.function_id,
                        &instance.revision_id,
                        instance.state.as_str(),
                        instance.created_at_ms,
                        instance.ready_at_ms,
                        instance.startup_ms,
                    ))
                    .map_err(taken("instance"))?;
                volumes.iter().try_for_each(|volume| crate::volumes::insert(c, volume))
            })
            .await
    }

    /// An instance is ready.
    pub async fn instance_ready(&self, sandbox_id: &str, now_ms: i64, startup_ms: i64) -> Result<(), StoreError> {
        let id = sandbox_id.to_owned();
        self.engine
            .write("note that an instance is ready", move |c| {
                let sql = "UPDATE function_instance SET state = 'ready', ready_at_ms = ?2, startup_ms = ?3 WHERE sandbox_id = ?1 AND state = 'starting'";
                let changed = c.prepare_cached(sql)?.execute((&id, now_ms, startup_ms))?;
                if changed == 0 { Err(StoreError::NotFound { what: "instance", id }) } else { Ok(()) }
            })
            .await
    }

    /// Moves instances on; those that are gone are left out. No instance moves back.
    pub async fn instances_set(&self, sandbox_ids: Vec<String>, state: InstanceState) -> Result<(), StoreError> {
        if sandbox_ids.is_empty() {
            return Ok(());
        }
        self.engine
            .write("move instances on", move |c| {
                let mut statement = c.prepare_cached("UPDATE function_instance SET state = ?2 WHERE sandbox_id = ?1 AND state <> 'removing'")?;
                for id in sandbox_ids {
                    statement.execute((id, state.as_str()))?;
                }
                Ok(())
            })
            .await
    }

    /// Every instance of every function.
    pub async fn instances_all(&self) -> Result<Vec<InstanceRecord>, StoreError> {
        self.instances("SELECT {COLUMNS} FROM function_instance ORDER BY created_at_ms, sandbox_id", Vec::new()).await
    }

    /// The instances of a function, oldest first.
    pub async fn instances_of(&self, function_id: &str) -> Result<Vec<InstanceRecord>, StoreError> {
        let sql = "SELECT {COLUMNS} FROM function_instance WHERE function_id = ?1 ORDER BY created_at_ms, sandbox_id";
        self.instances(sql, vec![function_id.to_owned()]).await
    }

    async fn instances(&self, sql: &'static str, params: Vec<String>) -> Result<Vec<InstanceRecord>, StoreError> {
        self.engine
            .read("read instances", move |c| {
                let mut statement = c.prepare_cached(&sql.replace("{COLUMNS}", COLUMNS))?;
                let rows = statement.query_map(params_from_iter(params), |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Deletes the rows of instances that are to go and whose sandboxes are gone, with the volumes of those. Returns the
    /// trees that these named.
    pub async fn instances_settle(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .write("delete what is left of instances", |c| {
                c.prepare_cached(
                    "DELETE FROM function_instance WHERE state = 'removing' AND NOT EXISTS (SELECT 1 FROM sandbox WHERE id = function_instance.sandbox_id)",
                )?
                .execute([])?;
                let sql = "DELETE FROM volume WHERE owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM function_instance WHERE sandbox_id = volume.owner)
                    AND NOT EXISTS (SELECT 1 FROM app_sandbox WHERE sandbox_id = volume.owner)
                    AND NOT EXISTS (SELECT 1 FROM sandbox WHERE id = volume.owner) RETURNING tree_id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}

fn record(row: &Row<'_>) -> Result<InstanceRecord, StoreError> {
    let state: String = row.get(4)?;
    Ok(InstanceRecord {
        sandbox_id: row.get(0)?,
        team_id: row.get(1)?,
        function_id: row.get(2)?,
        revision_id: row.get(3)?,
        state: InstanceState::named(&state).ok_or_else(|| StoreError::corrupt("instance", &state))?,
        created_at_ms: row.get(5)?,
        ready_at_ms: row.get(6)?,
        startup_ms: row.get(7)?,
    })
}
