//! Runs of apps: a row before anything happens, a write before each step, and one end with one receipt.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    app::{
        Cleanup, Phase, RunStatus,
        run::{FailureReason, Group, GroupPolicy, RunCause, RunDoc, Withdrawn},
    },
    limits::app_runs as limits,
};

use crate::{
    Store, StoreError,
    app_receipts::{self, ReceiptRecord, SignReceipt},
};

mod claim;
mod cleanup;
mod prune;
mod withdraw;

pub use prune::PrunedRun;
pub use withdraw::Which;
pub(crate) use withdraw::withdraw_all;

/// A run that is asked for.
#[derive(Debug, Clone)]
pub struct NewAppRun {
    pub id: String,
    pub team_id: String,
    pub app_id: String,
    pub app_name: String,
    pub version: i64,
    pub action: String,
    pub cause: RunCause,
    pub schedule_id: Option<String>,
    pub tick_ms: Option<i64>,
    pub group: Option<Group>,
    /// By which who asks twice is answered once, and SHA-256 of what came with it.
    pub key: Option<(String, String)>,
    pub created_at_ms: i64,
    pub doc: RunDoc,
    /// JSON
    pub input: String,
}

impl NewAppRun {
    /// Of the files that it is given.
    pub fn files_bytes(&self) -> u64 {
        self.doc.files.iter().map(|file| file.size_bytes).sum()
    }
}

/// What became of a run that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InsertedRun {
    Queued,
    /// It was one too many in its group, and waits for nothing but to end as cancelled.
    Skipped,
    /// There is one by this key already.
    Same {
        run_id: String,
    },
    /// There is one by this key, and it was asked for otherwise.
    Other {
        run_id: String,
    },
}

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRun {
    pub id: String,
    pub team_id: String,
    pub app_id: String,
    pub app_name: String,
    pub version: i64,
    pub action: String,
    pub cause: RunCause,
    pub schedule_id: Option<String>,
    pub tick_ms: Option<i64>,
    pub status: RunStatus,
    pub phase: Phase,
    pub failure_reason: Option<FailureReason>,
    pub cleanup: Option<Cleanup>,
    pub sandbox_id: Option<String>,
    pub group: Option<String>,
    pub idempotency_key: Option<String>,
    pub cancel_requested_at_ms: Option<i64>,
    /// Why, where that was not asked for by itself.
    pub withdrawn: Option<Withdrawn>,
    pub created_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub log_bytes: u64,
    pub artifact_bytes: u64,
    pub receipt_id: Option<String>,
    pub doc: RunDoc,
    /// JSON; empty in lists.
    pub input: String,
}

/// The end of a run.
#[derive(Debug, Clone)]
pub struct AppRunEnd {
    pub id: String,
    /// It is not ended when it is in another state by now.
    pub from: RunStatus,
    pub status: RunStatus,
    pub failure_reason: Option<FailureReason>,
    pub cleanup: Option<Cleanup>,
    pub finished_at_ms: i64,
    pub log_bytes: u64,
    pub artifact_bytes: u64,
    pub doc: RunDoc,
}

/// Which runs of a team are listed.
#[derive(Debug, Clone, Default)]
pub struct AppRunFilter {
    pub app_id: Option<String>,
    pub action: Option<String>,
    pub status: Option<RunStatus>,
    pub schedule_id: Option<String>,
    /// The last one of the page before: when it was made, and its id.
    pub after: Option<(i64, String)>,
    pub limit: u32,
}

/// What a request to cancel met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelMet {
    Queued,
    Running,
    /// It has ended.
    Final,
}

const SMALL: &str = "id, team_id, app_id, app_name, version, action, cause, schedule_id, tick_ms, status, phase, failure_reason, cleanup, sandbox_id,
    concurrency_group, idempotency_key, cancel_requested_at_ms, created_at_ms, started_at_ms, finished_at_ms, log_bytes, artifact_bytes, receipt_id, withdrawn, doc";

/// Bytes of the files that a run was given.
const FILES_BYTES: &str =
    "(SELECT coalesce(sum(json_extract(value, '$.size_bytes')), 0) FROM json_each(CASE WHEN json_valid(doc) THEN doc ELSE '{}' END, '$.files'))";

impl Store {
    /// Whether a run of a team with so many bytes of files may be asked for now, before they are kept. [`Self::app_run_insert`] asks again.
    pub async fn app_run_check(&self, team_id: &str, files_bytes: u64) -> Result<(), StoreError> {
        let team_id = team_id.to_owned();
        self.engine.read("look whether a run may be asked for", move |c| check(c, &team_id, files_bytes)).await
    }

    /// Asks for a run: its row is there, or why not.
    pub async fn app_run_insert(&self, run: NewAppRun) -> Result<InsertedRun, StoreError> {
        self.engine.write("ask for a run", move |c| insert_run(c, &run)).await
    }

    /// A whole run of a team.
    pub async fn app_run_get(&self, team_id: &str, id: &str) -> Result<Option<AppRun>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a run", move |c| {
                let sql = format!("SELECT {SMALL}, input FROM app_run WHERE id = ?1 AND team_id = ?2");
                c.prepare_cached(&sql)?.query_row((id, team_id), |row| Ok(run(row))).optional()?.transpose()
            })
            .await
    }

    /// A whole run of whatever team.
    pub async fn app_run_find(&self, id: &str) -> Result<Option<AppRun>, StoreError> {
        let id = id.to_owned();
        self.engine.read("read a run", move |c| find(c, &id)).await
    }

    /// Runs of a team, the newest first, without their inputs.
    pub async fn app_runs_list(&self, team_id: &str, filter: AppRunFilter) -> Result<Vec<AppRun>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list runs", move |c| {
                let which = match (&filter.schedule_id, &filter.app_id) {
                    (Some(_), _) => "schedule_id = ?3 AND team_id = ?1 AND (?2 IS NULL OR app_id = ?2)",
                    (None, Some(_)) => "app_id = ?2 AND team_id = ?1 AND ?3 IS NULL",
                    (None, None) => "team_id = ?1 AND ?2 IS NULL AND ?3 IS NULL",
                };
                let sql = format!(
                    "SELECT {SMALL}, '' FROM app_run WHERE {which} AND (?4 IS NULL OR action = ?4) AND (?5 IS NULL OR status = ?5)
                        AND (?6 IS NULL OR created_at_ms < ?6 OR (created_at_ms = ?6 AND id > ?7))
                    ORDER BY created_at_ms DESC, id LIMIT ?8"
                );
                let (after_ms, after_id) = filter.after.unzip();
                let status = filter.status.map(RunStatus::as_str);
                let params = (team_id, filter.app_id, filter.schedule_id, filter.action, status, after_ms, after_id, filter.limit);
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map(params, |row| Ok(run(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Notes how far a running run is, before that step begins.
    pub async fn app_run_step(&self, id: &str, phase: Phase, sandbox_id: Option<&str>, doc: &RunDoc) -> Result<(), StoreError> {
        let (id, sandbox_id, doc) = (id.to_owned(), sandbox_id.map(str::to_owned), text(doc)?);
        self.engine
            .write("note how far a run is", move |c| {
                let sql = "UPDATE app_run SET phase = ?2, sandbox_id = coalesce(?3, sandbox_id), doc = ?4 WHERE id = ?1 AND status = 'running'";
                match c.prepare_cached(sql)?.execute((&id, phase.as_str(), sandbox_id, doc))? {
                    0 => Err(StoreError::NotFound { what: "running run", id }),
                    _ => Ok(()),
                }
            })
            .await
    }

    /// Notes that a run is to be cancelled. None: there is no such run of the team.
    pub async fn app_run_cancel(&self, team_id: &str, id: &str, now_ms: i64) -> Result<Option<CancelMet>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("cancel a run", move |c| {
                let sql = "SELECT status FROM app_run WHERE id = ?1 AND team_id = ?2";
                let status: Option<String> = c.prepare_cached(sql)?.query_row((&id, team_id), |row| row.get(0)).optional()?;
                let met = match status.as_deref() {
                    None => return Ok(None),
                    Some("queued") => CancelMet::Queued,
                    Some("running") => CancelMet::Running,
                    Some(_) => return Ok(Some(CancelMet::Final)),
                };
                let sql = "UPDATE app_run SET cancel_requested_at_ms = coalesce(cancel_requested_at_ms, ?2) WHERE id = ?1";
                c.prepare_cached(sql)?.execute((id, now_ms))?;
                Ok(Some(met))
            })
            .await
    }

    /// Ends a run with its receipt, which is signed within the commit: both are there, or neither. None: it has ended already, or is
    /// in another state than it was.
    pub async fn app_run_finish(&self, end: AppRunEnd, sign: SignReceipt) -> Result<Option<ReceiptRecord>, StoreError> {
        let doc = text(&end.doc)?;
        self.engine
            .write("end a run", move |c| {
                let sql = "UPDATE app_run SET status = ?3, failure_reason = ?4, cleanup = ?5, finished_at_ms = ?6, log_bytes = ?7, artifact_bytes = ?8,
                    doc = ?9 WHERE id = ?1 AND status = ?2";
                let changed = c.prepare_cached(sql)?.execute((
                    &end.id,
                    end.from.as_str(),
                    end.status.as_str(),
                    end.failure_reason.map(FailureReason::as_str),
                    end.cleanup.map(Cleanup::as_str),
                    end.finished_at_ms,
                    end.log_bytes as i64,
                    end.artifact_bytes as i64,
                    doc,
                ))?;
                if changed == 0 {
                    return Ok(None);
                }
                let run = find(c, &end.id)?.ok_or_else(|| StoreError::NotFound { what: "run", id: end.id.clone() })?;
                let receipt = app_receipts::append(c, &run, sign)?;
                c.prepare_cached("UPDATE app_run SET receipt_id = ?2 WHERE id = ?1")?.execute((&end.id, &receipt.id))?;
                Ok(Some(receipt))
            })
            .await
    }

    /// Runs that are under way. Whoever has none of these at hand goes on with them.
    pub async fn app_runs_running(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("read runs that are under way", move |c| {
                let mut statement =
                    c.prepare_cached("SELECT id FROM app_run WHERE status = 'running' AND status IN ('queued', 'running') ORDER BY created_at_ms, id")?;
                statement.query_map([], |row| row.get(0))?.map(|row| Ok(row?)).collect()
            })
            .await
    }

    /// The run of an app that was asked for with a key, and SHA-256 of what came with it.
    pub async fn app_run_by_key(&self, app_id: &str, key: &str) -> Result<Option<(String, String)>, StoreError> {
        let (app_id, key) = (app_id.to_owned(), key.to_owned());
        self.engine.read("look for a run by its key", move |c| by_key(c, &app_id, &key)).await
    }

    /// What the newest runs in a sandbox of an app were given sealed, by the names of variables.
    pub async fn app_runs_sealed(&self, app_id: &str, sandbox_id: &str) -> Result<Vec<BTreeMap<String, String>>, StoreError> {
        let (app_id, sandbox_id) = (app_id.to_owned(), sandbox_id.to_owned());
        self.engine
            .read("read what runs were given", move |c| {
                // Most have none; the text is looked through before it is read.
                let sql = "SELECT CASE WHEN json_valid(doc) THEN json_extract(doc, '$.sealed_env') END FROM app_run
                    WHERE app_id = ?1 AND sandbox_id = ?2 AND instr(doc, '\"sealed_env\"') > 0 ORDER BY created_at_ms DESC, id LIMIT ?3";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map((app_id, sandbox_id, limits::RUNS_SEALED_MAX), |row| row.get::<_, Option<String>>(0))?;
                let sealed = rows.map(|row| Ok(row?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()));
                sealed.collect()
            })
            .await
    }

    /// Runs that are to be cancelled, and that nothing was begun of.
    pub async fn app_runs_unwanted(&self, limit: u32) -> Result<Vec<AppRun>, StoreError> {
        self.runs_where("status = 'queued' AND status IN ('queued', 'running') AND cancel_requested_at_ms IS NOT NULL", limit).await
    }

    /// Of running runs, those that are to be cancelled.
    pub async fn app_runs_to_cancel(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("read runs that are to be cancelled", move |c| {
                let sql = "SELECT id FROM app_run WHERE status = 'running' AND status IN ('queued', 'running') AND cancel_requested_at_ms IS NOT NULL";
                let mut statement = c.prepare_cached(sql)?;
                statement.query_map([], |row| row.get(0))?.map(|row| Ok(row?)).collect()
            })
            .await
    }

    async fn runs_where(&self, which: &'static str, limit: u32) -> Result<Vec<AppRun>, StoreError> {
        self.engine
            .read("read runs", move |c| {
                let sql = format!("SELECT {SMALL}, input FROM app_run WHERE {which} ORDER BY created_at_ms, id LIMIT ?1");
                let mut statement = c.prepare_cached(&sql)?;
                statement.query_map([limit], |row| Ok(run(row)))?.map(|row| row?).collect()
            })
            .await
    }
}

/// Asks for a run; for use in the transaction that does what it was asked for by. A run of a group that makes others end says so in
/// their rows: whoever looks for unwanted runs finds them.
pub(crate) fn insert_run(c: &Connection, new: &NewAppRun) -> Result<InsertedRun, StoreError> {
    if let Some((key, request)) = &new.key
        && let Some((run_id, of)) = by_key(c, &new.app_id, key)?
    {
        return Ok(if of == *request { InsertedRun::Same { run_id } } else { InsertedRun::Other { run_id } });
    }
    check(c, &new.team_id, new.files_bytes())?;
    let skipped = match &new.group {
        Some(group) => is_one_too_many(c, new, group)?,
        None => false,
    };
    let mut doc = new.doc.clone();
    doc.known.skipped = skipped;
    let (key, request) = new.key.clone().unzip();
    let sql = "INSERT INTO app_run (id, team_id, app_id, app_name, version, action, cause, schedule_id, tick_ms, status, phase, concurrency_group,
        concurrency_max, idempotency_key, request_sha256, cancel_requested_at_ms, created_at_ms, log_bytes, artifact_bytes, doc, input)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'queued', 'preparing', ?10, ?11, ?12, ?13, ?14, ?15, 0, 0, ?16, ?17)";
    c.prepare_cached(sql)?.execute(rusqlite::params![
        new.id,
        new.team_id,
        new.app_id,
        new.app_name,
        new.version,
        new.action,
        new.cause.as_str(),
        new.schedule_id,
        new.tick_ms,
        new.group.as_ref().map(|group| &group.name),
        new.group.as_ref().map(|group| group.max),
        key,
        request,
        skipped.then_some(new.created_at_ms),
        new.created_at_ms,
        text(&doc)?,
        new.input,
    ])?;
    Ok(if skipped { InsertedRun::Skipped } else { InsertedRun::Queued })
}

/// Whether a team may have one run more, with files of so many bytes.
fn check(c: &Connection, team_id: &str, bytes: u64) -> Result<(), StoreError> {
    let sql = "SELECT count(*) FROM app_run WHERE status = 'queued' AND status IN ('queued', 'running') AND team_id = ?1";
    let waiting: usize = c.prepare_cached(sql)?.query_row([team_id], |row| Ok(row.get::<_, i64>(0)?.max(0) as usize))?;
    if waiting >= limits::RUNS_WAITING_PER_TEAM_MAX {
        return Err(StoreError::TooMany { what: "runs of this team's apps that wait", max: limits::RUNS_WAITING_PER_TEAM_MAX });
    }
    if bytes > 0 && bytes.saturating_add(files_bytes(c, team_id)?) > limits::RUNS_FILES_PER_TEAM_MAX_BYTES as u64 {
        return Err(StoreError::TooMany { what: "bytes of files of this team's runs that have not ended", max: limits::RUNS_FILES_PER_TEAM_MAX_BYTES });
    }
    Ok(())
}

/// Bytes of the files that unfinished runs of a team keep.
fn files_bytes(c: &Connection, team_id: &str) -> Result<u64, StoreError> {
    let sql = format!("SELECT coalesce(sum({FILES_BYTES}), 0) FROM app_run WHERE status IN ('queued', 'running') AND team_id = ?1");
    Ok(c.prepare_cached(&sql)?.query_row([team_id], |row| Ok(row.get::<_, i64>(0)?.max(0).unsigned_abs()))?)
}

fn by_key(c: &Connection, app_id: &str, key: &str) -> Result<Option<(String, String)>, StoreError> {
    let sql = "SELECT id, request_sha256 FROM app_run WHERE app_id = ?1 AND idempotency_key = ?2";
    Ok(c.prepare_cached(sql)?.query_row((app_id, key), |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Whether a run is not to begin because its group is busy; where others have to end for it, that is noted.
fn is_one_too_many(c: &Connection, new: &NewAppRun, group: &Group) -> Result<bool, StoreError> {
    let sql = "SELECT id FROM app_run WHERE app_id = ?1 AND concurrency_group = ?2 AND status IN ('queued', 'running') AND cancel_requested_at_ms IS NULL
        ORDER BY created_at_ms, id";
    let mut statement = c.prepare_cached(sql)?;
    let others: Vec<String> = statement.query_map((&new.app_id, &group.name), |row| row.get(0))?.collect::<Result<_, _>>()?;
    let over = (others.len() + 1).saturating_sub(group.max as usize);
    match group.policy {
        GroupPolicy::Queue => Ok(false),
        GroupPolicy::Skip => Ok(over > 0),
        GroupPolicy::Cancel => {
            let mut cancel = c.prepare_cached("UPDATE app_run SET cancel_requested_at_ms = ?2 WHERE id = ?1")?;
            for id in others.iter().take(over) {
                cancel.execute((id, new.created_at_ms))?;
            }
            Ok(false)
        }
    }
}

fn find(c: &Connection, id: &str) -> Result<Option<AppRun>, StoreError> {
    let sql = format!("SELECT {SMALL}, input FROM app_run WHERE id = ?1");
    c.prepare_cached(&sql)?.query_row([id], |row| Ok(run(row))).optional()?.transpose()
}

fn text(doc: &RunDoc) -> Result<String, StoreError> {
    serde_json::to_string(doc).map_err(|e| StoreError::corrupt("run", &e))
}

fn run(row: &Row<'_>) -> Result<AppRun, StoreError> {
    fn named<T>(column: &str, text: &str, named: impl Fn(&str) -> Option<T>, doc: &mut RunDoc) -> Option<T> {
        let found = named(text);
        if found.is_none() {
            doc.known.unreadable.get_or_insert_with(|| format!("{column} {text:?}"));
        }
        found
    }
    let text = |column: usize| row.get::<_, String>(column);
    let optional = |column: usize| row.get::<_, Option<String>>(column);
    // What is of no use keeps nobody from reading the others: the run says so itself, and ends.
    let (doc, status) = (text(24)?, text(9)?);
    let mut doc = serde_json::from_str(&doc).unwrap_or_else(|error| RunDoc::unreadable(&error.to_string()));
    let phase = named("phase", &text(10)?, Phase::named, &mut doc);
    let cause = named("cause", &text(6)?, RunCause::named, &mut doc);
    let failure_reason = optional(11)?.and_then(|text| named("reason", &text, FailureReason::named, &mut doc));
    let cleanup = optional(12)?.and_then(|text| named("cleanup", &text, Cleanup::named, &mut doc));
    let withdrawn = optional(23)?.and_then(|text| named("withdrawn", &text, Withdrawn::named, &mut doc));
    Ok(AppRun {
        id: row.get(0)?,
        team_id: row.get(1)?,
        app_id: row.get(2)?,
        app_name: row.get(3)?,
        version: row.get(4)?,
        action: row.get(5)?,
        cause: cause.unwrap_or(RunCause::Api),
        schedule_id: row.get(7)?,
        tick_ms: row.get(8)?,
        status: RunStatus::named(&status).ok_or_else(|| StoreError::corrupt("run", &format!("status {status:?}")))?,
        phase: phase.unwrap_or(Phase::Preparing),
        failure_reason,
        cleanup,
        sandbox_id: row.get(13)?,
        group: row.get(14)?,
        idempotency_key: row.get(15)?,
        cancel_requested_at_ms: row.get(16)?,
        created_at_ms: row.get(17)?,
        started_at_ms: row.get(18)?,
        finished_at_ms: row.get(19)?,
        log_bytes: row.get::<_, i64>(20)?.max(0) as u64,
        artifact_bytes: row.get::<_, i64>(21)?.max(0) as u64,
        receipt_id: row.get(22)?,
        withdrawn,
        doc,
        input: row.get(25)?,
    })
}
