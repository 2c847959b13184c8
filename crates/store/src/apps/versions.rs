//! Versions of apps: building, then ready or failed, and never anything else again.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_api::template::TemplateSpec;
use sandbar_core::{app::VersionState, limits::deploys as limits, sandbox::Base};

use super::{AppRecord, NewAppSetup, base, by_id, find, insert, json, record as app_record, set_live, setups, template};
use crate::{Store, StoreError, error::taken};

/// A version's row.
#[derive(Debug, Clone, PartialEq)]
pub struct AppVersionRecord {
    pub app_id: String,
    /// From 1, in the order of deploys.
    pub number: i64,
    pub state: VersionState,
    /// Why it failed.
    pub reason: Option<String>,
    /// In lower-case hex, as the next.
    pub manifest_sha256: String,
    pub source_sha256: String,
    pub source_bytes: u64,
    pub message: Option<String>,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    /// What lies below the files of its sandboxes, once it is ready.
    pub base: Option<Base>,
    pub template_id: String,
    /// As it was at the deploy.
    pub template: TemplateSpec,
    /// As it was written.
    pub manifest_text: String,
    /// Normalised, as JSON.
    pub manifest: String,
}

/// A version that is about to be built.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAppVersion {
    pub team_id: String,
    pub app_name: String,
    /// Of the app, if there is none of the name yet.
    pub app_id: String,
    pub manifest_sha256: String,
    pub source_sha256: String,
    pub source_bytes: u64,
    pub message: Option<String>,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
    pub template_id: String,
    pub template: TemplateSpec,
    pub manifest_text: String,
    pub manifest: String,
}

/// Versions that made room, and what rows named that are gone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pruned {
    pub numbers: Vec<i64>,
    pub bases: Vec<Base>,
}

const COLUMNS: &str = "app_id, number, state, reason, manifest_sha256, source_sha256, source_bytes, message, created_by, created_at_ms, finished_at_ms, base, template_id, template, manifest_text, manifest";

impl Store {
    /// Begins a version, with its app where that is the first one. An app is built one version at a time.
    pub async fn app_version_begin(&self, new: NewAppVersion) -> Result<(AppRecord, AppVersionRecord), StoreError> {
        self.engine
            .write("begin a version", move |c| {
                let app = match find(c, &new.team_id, &new.app_name)? {
                    Some(app) => app,
                    None => {
                        let app = first(&new);
                        insert(c, &app)?;
                        app
                    }
                };
                not_building(c, &app)?;
                let sql = "UPDATE app SET last_version = last_version + 1, updated_at_ms = ?2, generation = generation + 1 WHERE id = ?1 RETURNING id, team_id, name, last_version, live_version, desired, launch, seen, created_by, created_at_ms, updated_at_ms, generation";
                let app = c.prepare_cached(sql)?.query_row((&app.id, new.created_at_ms), |row| Ok(app_record(row)))??;
                let version = AppVersionRecord {
                    app_id: app.id.clone(),
                    number: app.last_version,
                    state: VersionState::Building,
                    reason: None,
                    manifest_sha256: new.manifest_sha256,
                    source_sha256: new.source_sha256,
                    source_bytes: new.source_bytes,
                    message: new.message,
                    created_by: new.created_by,
                    created_at_ms: new.created_at_ms,
                    finished_at_ms: None,
                    base: None,
                    template_id: new.template_id,
                    template: new.template,
                    manifest_text: new.manifest_text,
                    manifest: new.manifest,
                };
                put(c, &version)?;
                Ok((app, version))
            })
            .await
    }

    /// Refuses an app of which a version is being built: no other can be begun. For who asks before much is done for one.
    pub async fn app_not_building(&self, team_id: &str, name: &str) -> Result<(), StoreError> {
        let (team_id, name) = (team_id.to_owned(), name.to_owned());
        self.engine.read("look for a build", move |c| find(c, &team_id, &name)?.map_or(Ok(()), |app| not_building(c, &app))).await
    }

    /// A version is ready: it names its files from now on, and so does what its setup left. With `activate` it is the live one; the
    /// first one is in any case. Refused when the version is not being built any more.
    pub async fn app_version_ready(
        &self,
        app_id: &str,
        number: i64,
        files: Base,
        setup: Option<NewAppSetup>,
        activate: bool,
        now_ms: i64,
    ) -> Result<(AppRecord, Pruned), StoreError> {
        let id = app_id.to_owned();
        self.engine
            .write("make a version ready", move |c| {
                let sql = "UPDATE app_version SET state = 'ready', base = ?3, finished_at_ms = ?4 WHERE app_id = ?1 AND number = ?2 AND state = 'building'";
                if c.prepare_cached(sql)?.execute((&id, number, json(&files)?, now_ms))? == 0 {
                    return Err(StoreError::NotFound { what: "version", id: number.to_string() });
                }
                let gone = || StoreError::NotFound { what: "app", id: id.clone() };
                let app = by_id(c, &id)?.ok_or_else(gone)?;
                if activate || app.live_version.is_none() {
                    set_live(c, &id, number, now_ms)?;
                }
                let mut pruned = Pruned::default();
                if let Some(setup) = setup {
                    pruned.bases = setups::put(c, &app.team_id, &id, &setup, now_ms)?;
                }
                prune(c, &id, &mut pruned)?;
                Ok((by_id(c, &id)?.ok_or_else(gone)?, pruned))
            })
            .await
    }

    /// A version could not be built. Of one that is gone nothing is said.
    pub async fn app_version_failed(&self, app_id: &str, number: i64, reason: &str, now_ms: i64) -> Result<Pruned, StoreError> {
        let (id, reason) = (app_id.to_owned(), reason.to_owned());
        self.engine
            .write("say that a version failed", move |c| {
                let sql = "UPDATE app_version SET state = 'failed', reason = ?3, finished_at_ms = ?4 WHERE app_id = ?1 AND number = ?2 AND state = 'building'";
                c.prepare_cached(sql)?.execute((&id, number, reason, now_ms))?;
                let mut pruned = Pruned::default();
                prune(c, &id, &mut pruned)?;
                Ok(pruned)
            })
            .await
    }

    /// Every version that is being built has failed. Returns how many.
    pub async fn app_versions_interrupt(&self, reason: &str, now_ms: i64) -> Result<usize, StoreError> {
        let reason = reason.to_owned();
        self.engine
            .write("say that versions failed", move |c| {
                let sql = "UPDATE app_version SET state = 'failed', reason = ?1, finished_at_ms = ?2 WHERE state = 'building'";
                Ok(c.prepare_cached(sql)?.execute((reason, now_ms))?)
            })
            .await
    }

    /// A version of an app.
    pub async fn app_version(&self, app_id: &str, number: i64) -> Result<Option<AppVersionRecord>, StoreError> {
        let id = app_id.to_owned();
        self.engine
            .read("read a version", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM app_version WHERE app_id = ?1 AND number = ?2");
                c.prepare_cached(&sql)?.query_row((id, number), |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// The versions of an app, the newest first.
    pub async fn app_versions(&self, app_id: &str) -> Result<Vec<AppVersionRecord>, StoreError> {
        let id = app_id.to_owned();
        self.engine
            .read("list versions", move |c| {
                let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM app_version WHERE app_id = ?1 ORDER BY number DESC"))?;
                let rows = statement.query_map([id], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }
}

fn not_building(c: &Connection, app: &AppRecord) -> Result<(), StoreError> {
    let sql = "SELECT number FROM app_version WHERE app_id = ?1 AND state = 'building'";
    match c.prepare_cached(sql)?.query_row([&app.id], |row| row.get::<_, i64>(0)).optional()? {
        None => Ok(()),
        Some(number) => {
            let text = format!("version {number} of app {:?} is being built; wait until it is ready, cancel its build, or delete the app", app.name);
            Err(StoreError::Unfit(text))
        }
    }
}

fn first(new: &NewAppVersion) -> AppRecord {
    AppRecord {
        id: new.app_id.clone(),
        team_id: new.team_id.clone(),
        name: new.app_name.clone(),
        last_version: 0,
        live_version: None,
        desired: Default::default(),
        launch: serde_json::json!({}),
        seen: serde_json::json!({}),
        created_by: new.created_by.clone(),
        created_at_ms: new.created_at_ms,
        updated_at_ms: new.created_at_ms,
        generation: 1,
    }
}

/// Takes the oldest versions of an app away that are too many: not the live one, and none that a sandbox or a run has.
fn prune(c: &Connection, app_id: &str, pruned: &mut Pruned) -> Result<(), StoreError> {
    let count: usize = c.prepare_cached("SELECT count(*) FROM app_version WHERE app_id = ?1")?.query_row([app_id], |row| row.get(0))?;
    let surplus = count.saturating_sub(limits::APP_VERSIONS_MAX);
    if surplus == 0 {
        return Ok(());
    }
    let sql = "SELECT number FROM app_version AS v WHERE app_id = ?1 AND state <> 'building'
        AND number IS NOT (SELECT live_version FROM app WHERE id = ?1)
        AND NOT EXISTS (SELECT 1 FROM app_sandbox WHERE app_id = ?1 AND version = v.number)
        AND NOT EXISTS (SELECT 1 FROM app_run WHERE app_id = ?1 AND version = v.number AND status IN ('queued', 'running'))
        ORDER BY number LIMIT ?2";
    let mut statement = c.prepare_cached(sql)?;
    let numbers: Vec<i64> = statement.query_map((app_id, surplus), |row| row.get(0))?.collect::<Result<_, _>>()?;
    for number in numbers {
        let sql = "DELETE FROM app_version WHERE app_id = ?1 AND number = ?2 RETURNING base";
        let named: Option<String> = c.prepare_cached(sql)?.query_row((app_id, number), |row| row.get(0))?;
        pruned.bases.extend(named.as_deref().map(base).transpose()?);
        pruned.numbers.push(number);
    }
    Ok(())
}

fn put(c: &Connection, version: &AppVersionRecord) -> Result<(), StoreError> {
    let sql = format!("INSERT INTO app_version ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)");
    c.prepare_cached(&sql)?
        .execute((
            &version.app_id,
            version.number,
            version.state.as_str(),
            &version.reason,
            &version.manifest_sha256,
            &version.source_sha256,
            i64::try_from(version.source_bytes).unwrap_or(i64::MAX),
            &version.message,
            &version.created_by,
            version.created_at_ms,
            version.finished_at_ms,
            version.base.as_ref().map(json).transpose()?,
            &version.template_id,
            json(&version.template)?,
            &version.manifest_text,
            &version.manifest,
        ))
        .map_err(taken("version"))?;
    Ok(())
}

fn record(row: &Row<'_>) -> Result<AppVersionRecord, StoreError> {
    let state: String = row.get(2)?;
    Ok(AppVersionRecord {
        app_id: row.get(0)?,
        number: row.get(1)?,
        state: VersionState::named(&state).ok_or_else(|| StoreError::corrupt("version", &state))?,
        reason: row.get(3)?,
        manifest_sha256: row.get(4)?,
        source_sha256: row.get(5)?,
        source_bytes: row.get::<_, i64>(6)?.unsigned_abs(),
        message: row.get(7)?,
        created_by: row.get(8)?,
        created_at_ms: row.get(9)?,
        finished_at_ms: row.get(10)?,
        base: row.get::<_, Option<String>>(11)?.as_deref().map(base).transpose()?,
        template_id: row.get(12)?,
        template: template(&row.get::<_, String>(13)?)?,
        manifest_text: row.get(14)?,
        manifest: row.get(15)?,
    })
}
