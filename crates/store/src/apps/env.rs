//! What apps are given for the variables that they ask for, sealed by whoever hands them in.

use sandbar_core::limits::deploys as limits;

use crate::{Store, StoreError};

/// A variable's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppEnv {
    pub name: String,
    pub sealed: String,
    pub updated_at_ms: i64,
}

impl Store {
    /// Keeps values in place of the former ones of their names; those without a value are not given any more. An app may have a limited
    /// number. The last former values are kept apart.
    pub async fn app_env_put(&self, app_id: &str, values: Vec<(String, Option<String>)>, now_ms: i64) -> Result<(), StoreError> {
        let id = app_id.to_owned();
        self.engine
            .write("keep variables of an app", move |c| {
                if !c.prepare_cached("SELECT 1 FROM app WHERE id = ?1")?.exists([&id])? {
                    return Err(StoreError::NotFound { what: "app", id });
                }
                for (name, sealed) in values {
                    let sql = "INSERT INTO app_env_former (app_id, name, sealed) SELECT app_id, name, sealed FROM app_env WHERE app_id = ?1 AND name = ?2";
                    c.prepare_cached(sql)?.execute((&id, &name))?;
                    let sql = "DELETE FROM app_env_former WHERE id IN (SELECT id FROM app_env_former WHERE app_id = ?1 AND name = ?2 ORDER BY id DESC LIMIT -1 OFFSET ?3)";
                    c.prepare_cached(sql)?.execute((&id, &name, limits::APP_ENV_FORMER_OF_NAME_MAX))?;
                    match sealed {
                        None => c.prepare_cached("DELETE FROM app_env WHERE app_id = ?1 AND name = ?2")?.execute((&id, name))?,
                        Some(sealed) => {
                            let sql = "INSERT INTO app_env (app_id, name, sealed, updated_at_ms) VALUES (?1, ?2, ?3, ?4)
                                ON CONFLICT (app_id, name) DO UPDATE SET sealed = excluded.sealed, updated_at_ms = excluded.updated_at_ms";
                            c.prepare_cached(sql)?.execute((&id, name, sealed, now_ms))?
                        }
                    };
                }
                let sql = "DELETE FROM app_env_former WHERE id IN (SELECT id FROM app_env_former WHERE app_id = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)";
                c.prepare_cached(sql)?.execute((&id, limits::APP_ENV_FORMER_MAX))?;
                let count: usize = c.prepare_cached("SELECT count(*) FROM app_env WHERE app_id = ?1")?.query_row([&id], |row| row.get(0))?;
                if count > limits::APP_ENV_MAX { Err(StoreError::TooMany { what: "variables of this app", max: limits::APP_ENV_MAX }) } else { Ok(()) }
            })
            .await
    }

    /// The variables of an app by name.
    pub async fn app_env(&self, app_id: &str) -> Result<Vec<AppEnv>, StoreError> {
        let id = app_id.to_owned();
        self.engine
            .read("read variables of an app", move |c| {
                let mut statement = c.prepare_cached("SELECT name, sealed, updated_at_ms FROM app_env WHERE app_id = ?1 ORDER BY name")?;
                let rows = statement.query_map([id], |row| Ok(AppEnv { name: row.get(0)?, sealed: row.get(1)?, updated_at_ms: row.get(2)? }))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Names and values that variables of an app had before, the newest first: what still runs may have been started with them.
    pub async fn app_env_former(&self, app_id: &str) -> Result<Vec<(String, String)>, StoreError> {
        let id = app_id.to_owned();
        self.engine
            .read("read former values of variables", move |c| {
                let mut statement = c.prepare_cached("SELECT name, sealed FROM app_env_former WHERE app_id = ?1 ORDER BY id DESC")?;
                let rows = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}
