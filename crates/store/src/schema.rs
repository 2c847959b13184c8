//! Migrations: numbered SQL texts, each applied once, all pending ones in one transaction.

use rusqlite::{Connection, TransactionBehavior};

use crate::StoreError;

/// In order; the number of a migration is its position, from 1, and equals that of its file.
const MIGRATIONS: [&str; 18] = [
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_state.sql"),
    include_str!("../migrations/0003_webhooks.sql"),
    include_str!("../migrations/0004_functions.sql"),
    include_str!("../migrations/0005_invocations.sql"),
    include_str!("../migrations/0006_credentials.sql"),
    include_str!("../migrations/0007_ssh_keys.sql"),
    include_str!("../migrations/0008_ssh_key_sources.sql"),
    include_str!("../migrations/0009_scripts.sql"),
    include_str!("../migrations/0010_apps.sql"),
    include_str!("../migrations/0011_previews.sql"),
    include_str!("../migrations/0012_app_runs.sql"),
    include_str!("../migrations/0013_schedules.sql"),
    include_str!("../migrations/0014_app_volumes.sql"),
    include_str!("../migrations/0015_receipts.sql"),
    include_str!("../migrations/0016_app_env_former.sql"),
    include_str!("../migrations/0017_preview_key.sql"),
    include_str!("../migrations/0018_app_run_sealed.sql"),
];

/// Brings the database to the newest schema. A database of a newer program is left alone and refused.
pub fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as i64;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (migration, number) in MIGRATIONS.iter().zip(1i64..) {
        if number > found {
            transaction.execute_batch(migration)?;
        }
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
