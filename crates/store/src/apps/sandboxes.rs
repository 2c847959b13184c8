//! The sandboxes of apps. The row is written before the sandbox and goes after it.

use rusqlite::{OptionalExtension, Row, params_from_iter};
use sandbar_core::app::SandboxKind;

use crate::{
    Store, StoreError,
    error::{is_taken, taken},
};

/// A sandbox's row among those of apps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSandboxRecord {
    pub sandbox_id: String,
    pub team_id: String,
    pub app_id: String,
    pub version: i64,
    pub kind: SandboxKind,
    /// The run that it was made for.
    pub run_id: Option<String>,
    /// It is to be ended by whoever looks.
    pub removing: bool,
    pub created_at_ms: i64,
}

const COLUMNS: &str = "sandbox_id, team_id, app_id, version, kind, run_id, state, created_at_ms";

impl Store {
    /// Stores a sandbox that is about to be made. Refused when its version is gone, and as taken when the app has one online.
    pub async fn app_sandbox_insert(&self, sandbox: &AppSandboxRecord) -> Result<(), StoreError> {
        let sandbox = sandbox.clone();
        self.engine
            .write("insert a sandbox of an app", move |c| {
                let sql = "SELECT 1 FROM app_version WHERE app_id = ?1 AND number = ?2";
                if !c.prepare_cached(sql)?.exists((&sandbox.app_id, sandbox.version))? {
                    return Err(StoreError::NotFound { what: "version", id: sandbox.version.to_string() });
                }
                let sql = format!("INSERT INTO app_sandbox ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
                let state = if sandbox.removing { "removing" } else { "wanted" };
                c.prepare_cached(&sql)?
                    .execute((
                        &sandbox.sandbox_id,
                        &sandbox.team_id,
                        &sandbox.app_id,
                        sandbox.version,
                        sandbox.kind.as_str(),
                        &sandbox.run_id,
                        state,
                        sandbox.created_at_ms,
                    ))
                    .map_err(|error| if is_taken(&error) { taken("a sandbox of the app that is online")(error) } else { error.into() })?;
                Ok(())
            })
            .await
    }

    /// A sandbox, if it is one of an app's.
    pub async fn app_sandbox_get(&self, sandbox_id: &str) -> Result<Option<AppSandboxRecord>, StoreError> {
        let id = sandbox_id.to_owned();
        self.engine
            .read("read a sandbox of an app", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM app_sandbox WHERE sandbox_id = ?1");
                c.prepare_cached(&sql)?.query_row([id], |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// The one sandbox that an app has online.
    pub async fn app_sandbox_online(&self, app_id: &str) -> Result<Option<AppSandboxRecord>, StoreError> {
        let sql = "SELECT {COLUMNS} FROM app_sandbox WHERE app_id = ?1 AND kind = 'app' AND state = 'wanted'";
        Ok(self.app_sandboxes(sql, Some(app_id.to_owned())).await?.pop())
    }

    /// The sandboxes of an app, oldest first.
    pub async fn app_sandboxes_of(&self, app_id: &str) -> Result<Vec<AppSandboxRecord>, StoreError> {
        self.app_sandboxes("SELECT {COLUMNS} FROM app_sandbox WHERE app_id = ?1 ORDER BY created_at_ms, sandbox_id", Some(app_id.to_owned())).await
    }

    /// Those that are to be ended, and those whose app or version, or whose sandbox is gone: all that something has to be done about.
    pub async fn app_sandboxes_astray(&self) -> Result<Vec<AppSandboxRecord>, StoreError> {
        let sql = "SELECT {COLUMNS} FROM app_sandbox AS s WHERE state = 'removing'
            OR NOT EXISTS (SELECT 1 FROM sandbox WHERE id = s.sandbox_id)
            OR NOT EXISTS (SELECT 1 FROM app_version WHERE app_id = s.app_id AND number = s.version)
            OR (kind = 'build' AND NOT EXISTS (SELECT 1 FROM app_version WHERE app_id = s.app_id AND number = s.version AND state = 'building'))
            ORDER BY created_at_ms, sandbox_id";
        self.app_sandboxes(sql, None).await
    }

    async fn app_sandboxes(&self, sql: &'static str, param: Option<String>) -> Result<Vec<AppSandboxRecord>, StoreError> {
        self.engine
            .read("read sandboxes of apps", move |c| {
                let mut statement = c.prepare_cached(&sql.replace("{COLUMNS}", COLUMNS))?;
                let rows = statement.query_map(params_from_iter(param), |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Says of sandboxes that they are to be ended; those that are gone are left out. There is no way back.
    pub async fn app_sandboxes_remove(&self, sandbox_ids: Vec<String>) -> Result<(), StoreError> {
        if sandbox_ids.is_empty() {
            return Ok(());
        }
        self.engine
            .write("say that sandboxes of apps are to be ended", move |c| {
                let mut statement = c.prepare_cached("UPDATE app_sandbox SET state = 'removing' WHERE sandbox_id = ?1")?;
                for id in sandbox_ids {
                    statement.execute([id])?;
                }
                Ok(())
            })
            .await
    }

    /// Deletes the rows of these that are to be ended and whose sandboxes are gone. Returns how many.
    pub async fn app_sandboxes_settle(&self, sandbox_ids: Vec<String>) -> Result<usize, StoreError> {
        self.engine
            .write("delete what is left of sandboxes of apps", move |c| {
                let sql = "DELETE FROM app_sandbox WHERE sandbox_id = ?1 AND state = 'removing' AND NOT EXISTS (SELECT 1 FROM sandbox WHERE id = ?1)";
                let mut statement = c.prepare_cached(sql)?;
                let mut gone = 0;
                for id in sandbox_ids {
                    gone += statement.execute([id])?;
                }
                Ok(gone)
            })
            .await
    }
}

fn record(row: &Row<'_>) -> Result<AppSandboxRecord, StoreError> {
    let (kind, state): (String, String) = (row.get(4)?, row.get(6)?);
    Ok(AppSandboxRecord {
        sandbox_id: row.get(0)?,
        team_id: row.get(1)?,
        app_id: row.get(2)?,
        version: row.get(3)?,
        kind: SandboxKind::named(&kind).ok_or_else(|| StoreError::corrupt("sandbox of an app", &kind))?,
        run_id: row.get(5)?,
        removing: state == "removing",
        created_at_ms: row.get(7)?,
    })
}
