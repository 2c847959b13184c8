//! Quotas of teams, and what they have.

use rusqlite::{Connection, OptionalExtension};
use sandbar_core::{
    lifecycle::{self, Status},
    quota::{self, Dimension},
    sandbox::SandboxRecord,
    validate,
};

use crate::{Store, StoreError};

/// A limit that was set for a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaRecord {
    pub team_id: String,
    pub dimension: Dimension,
    pub limit: u64,
    /// Of rates.
    pub interval_ms: Option<u64>,
    pub burst: Option<u64>,
}

/// What a team has now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TeamUse {
    pub active_sandboxes: u64,
    pub paused_sandboxes: u64,
    pub memory_bytes: u64,
    pub cpu_millis: u64,
    pub disk_bytes: u64,
    pub volumes: u64,
    pub snapshots: u64,
}

impl TeamUse {
    /// The figure that a quota compares; none for rates.
    pub fn of(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::ActiveSandboxes => Some(self.active_sandboxes),
            Dimension::PausedSandboxes => Some(self.paused_sandboxes),
            Dimension::MemoryBytes => Some(self.memory_bytes),
            Dimension::CpuMillis => Some(self.cpu_millis),
            Dimension::DiskBytes => Some(self.disk_bytes),
            Dimension::Volumes => Some(self.volumes),
            Dimension::Snapshots => Some(self.snapshots),
            Dimension::SandboxClaims | Dimension::ApiRequests | Dimension::NetworkEgressBytes | Dimension::NetworkIngressBytes => None,
        }
    }
}

impl Store {
    /// Every quota of every team.
    pub async fn quotas_all(&self) -> Result<Vec<QuotaRecord>, StoreError> {
        self.engine
            .read("read quotas", |c| {
                let mut statement = c.prepare_cached("SELECT team_id, dimension, limit_value, interval_ms, burst_value FROM team_quota")?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
                rows.map(|row| {
                    let (team_id, dimension, limit, interval_ms, burst) = row?;
                    let dimension = Dimension::named(&dimension).ok_or_else(|| StoreError::corrupt("quota", &dimension))?;
                    Ok(QuotaRecord { team_id, dimension, limit, interval_ms, burst })
                })
                .collect()
            })
            .await
    }

    /// Sets a quota.
    pub async fn quota_put(&self, quota: &QuotaRecord, now_ms: i64) -> Result<(), StoreError> {
        let quota = quota.clone();
        self.engine
            .write("set a quota", move |c| {
                let sql = "INSERT INTO team_quota (team_id, dimension, limit_value, interval_ms, burst_value, updated_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                    ON CONFLICT (team_id, dimension) DO UPDATE SET limit_value = excluded.limit_value, interval_ms = excluded.interval_ms, burst_value = excluded.burst_value, updated_at_ms = excluded.updated_at_ms";
                c.prepare_cached(sql)?.execute((&quota.team_id, quota.dimension.as_str(), quota.limit, quota.interval_ms, quota.burst, now_ms))?;
                Ok(())
            })
            .await
    }

    /// Lifts a quota; lifting one that is not set changes nothing.
    pub async fn quota_delete(&self, team_id: &str, dimension: Dimension) -> Result<(), StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .write("lift a quota", move |c| {
                c.prepare_cached("DELETE FROM team_quota WHERE team_id = ?1 AND dimension = ?2")?.execute((team_id, dimension.as_str()))?;
                Ok(())
            })
            .await
    }

    /// Whether a sandbox may have what its new row says, as the write of that row would find: asked before anything is
    /// launched for it.
    pub async fn sandbox_check(&self, record: &SandboxRecord) -> Result<(), StoreError> {
        let record = record.clone();
        self.engine.read("read what a team has", move |c| check_growth(c, &record)).await
    }

    /// What a team has now.
    pub async fn team_use(&self, team_id: &str) -> Result<TeamUse, StoreError> {
        let team_id = team_id.to_owned();
        self.engine.read("read what a team has", move |c| team_use(c, &team_id)).await
    }
}

/// Whether `asked` more fits into a quota of the team, if it has one.
pub(crate) fn check(c: &Connection, team_id: &str, dimension: Dimension, used: u64, asked: u64) -> Result<(), StoreError> {
    let sql = "SELECT limit_value FROM team_quota WHERE team_id = ?1 AND dimension = ?2";
    let limit: Option<u64> = c.prepare_cached(sql)?.query_row((team_id, dimension.as_str()), |row| row.get(0)).optional()?;
    match limit {
        Some(limit) => quota::check(dimension, limit, used, asked).map_err(StoreError::Quota),
        None => Ok(()),
    }
}

/// Whether a team may have one more sandbox of this size, running or paused. Teams without quotas cost one look.
pub(crate) fn check_sandbox(c: &Connection, team_id: &str, active: bool, memory_bytes: u64, cpu_millis: u64, disk_bytes: u64) -> Result<(), StoreError> {
    if !c.prepare_cached("SELECT 1 FROM team_quota WHERE team_id = ?1 LIMIT 1")?.exists([team_id])? {
        return Ok(());
    }
    let used = team_use(c, team_id)?;
    let asked = if active {
        vec![
            (Dimension::ActiveSandboxes, used.active_sandboxes, 1),
            (Dimension::MemoryBytes, used.memory_bytes, memory_bytes),
            (Dimension::CpuMillis, used.cpu_millis, cpu_millis),
            (Dimension::DiskBytes, used.disk_bytes, disk_bytes),
        ]
    } else {
        vec![(Dimension::PausedSandboxes, used.paused_sandboxes, 1), (Dimension::DiskBytes, used.disk_bytes, disk_bytes)]
    };
    asked.into_iter().try_for_each(|(dimension, used, asked)| check(c, team_id, dimension, used, asked))
}

/// Whether a sandbox may have what its new row says: by running again it takes up more than before, and by larger limits.
/// What it had already is not asked about again, however far beyond a quota that is.
pub(crate) fn check_growth(c: &Connection, record: &SandboxRecord) -> Result<(), StoreError> {
    if !c.prepare_cached("SELECT 1 FROM team_quota WHERE team_id = ?1 LIMIT 1")?.exists([&record.team_id])? {
        return Ok(());
    }
    let is_active = |status: &str| [Status::Starting.as_str(), Status::Running.as_str()].contains(&status);
    let sql = "SELECT status, memory_bytes, cpu_millis, disk_bytes FROM sandbox WHERE id = ?1";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?, row.get::<_, u64>(2)?, row.get::<_, u64>(3)?));
    let Some((status, memory_bytes, cpu_millis, disk_bytes)) = c.prepare_cached(sql)?.query_row([&record.id], row).optional()? else { return Ok(()) };
    let (was, is) = (u64::from(is_active(&status)), u64::from(is_active(lifecycle::status(record).as_str())));
    let size = validate::effective_resources(&record.template, &record.config);
    let used = team_use(c, &record.team_id)?;
    let asked = [
        (Dimension::ActiveSandboxes, used.active_sandboxes, was, is),
        (Dimension::MemoryBytes, used.memory_bytes, was * memory_bytes, is * size.memory_bytes),
        (Dimension::CpuMillis, used.cpu_millis, was * cpu_millis, is * size.cpu_millis),
        (Dimension::DiskBytes, used.disk_bytes, disk_bytes, size.disk_bytes),
    ];
    let grown = asked.into_iter().filter(|(_, _, had, has)| has > had);
    grown.into_iter().try_for_each(|(dimension, used, had, has)| check(c, &record.team_id, dimension, used, has - had))
}

fn team_use(c: &Connection, team_id: &str) -> Result<TeamUse, StoreError> {
    let sql = "SELECT count(*) FILTER (WHERE status IN (?2, ?3)), count(*) FILTER (WHERE paused),
            coalesce(sum(memory_bytes) FILTER (WHERE status IN (?2, ?3)), 0), coalesce(sum(cpu_millis) FILTER (WHERE status IN (?2, ?3)), 0), coalesce(sum(disk_bytes), 0),
            (SELECT count(*) FROM volume WHERE team_id = ?1 AND owner IS NULL), (SELECT count(*) FROM snapshot WHERE team_id = ?1)
        FROM sandbox WHERE team_id = ?1";
    let used = c.prepare_cached(sql)?.query_row((team_id, Status::Starting.as_str(), Status::Running.as_str()), |row| {
        Ok(TeamUse {
            active_sandboxes: row.get(0)?,
            paused_sandboxes: row.get(1)?,
            memory_bytes: row.get(2)?,
            cpu_millis: row.get(3)?,
            disk_bytes: row.get(4)?,
            volumes: row.get(5)?,
            snapshots: row.get(6)?,
        })
    })?;
    Ok(used)
}
