//! Schedules of apps by a clock of the test's own: what fires, what is skipped and why, when a server was away, when the clock is set,
//! and where clocks on walls are moved; who keeps a schedule, and what becomes of it.

mod clocks;
mod keepers;
mod turns;

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use sandbar_core::{
    app::{
        RunStatus,
        manifest::Schedule,
        receipt::Kind,
        run::{AtOnce, CleanupPolicy, Group, Known, Place, RunCause, RunDoc, Terms},
        schedule::Keeper,
    },
    sandbox::{Base, Layer},
};
use sandbar_store::{
    AppRecord, AppRunEnd, AppScheduleRecord, AppStepped, NewAppRun, NewAppVersion, SignReceipt, SignedReceipt, Store, StoreError, fresh_schedule,
};
use serde_json::{Value, json};

use crate::Fresh;

/// A moment as RFC 3339 has it.
fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().map(Timestamp::as_millisecond).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The same as the clock on a wall shows it, without the year and with the offset.
fn shown(at_ms: i64, zone: &str) -> String {
    let zone = TimeZone::get(zone).expect("a zone");
    Timestamp::from_millisecond(at_ms).expect("a moment").to_zoned(zone).strftime("%m-%dT%H:%M:%S%:z").to_string()
}

fn spec(given: &Value) -> Schedule {
    let mut whole = json!({ "name": "s", "enabled": true, "target": { "kind": "action", "name": "a" }, "runtimePolicy": "run_and_delete" });
    whole.as_object_mut().expect("an object").extend(given.as_object().expect("an object").clone());
    serde_json::from_value(whole).unwrap_or_else(|error| panic!("{given}: {error}"))
}

fn sign() -> SignReceipt {
    Box::new(|run, place| Ok(SignedReceipt { id: format!("r-{}", run.id), sha256: place.seq.to_string(), doc: "{}".into() }))
}

/// A store with an app, and a clock.
struct World {
    fresh: Fresh,
    store: Store,
    app: AppRecord,
    now_ms: i64,
    /// Runs end before the next look.
    runs_end: bool,
    group: Option<Group>,
}

impl World {
    async fn at(now: &str) -> Self {
        let fresh = Fresh::new();
        let store = fresh.installed().await;
        let app = deployed(&store, ms(now), &json!([])).await;
        Self { fresh, store, app, now_ms: ms(now), runs_end: true, group: None }
    }

    /// Makes a schedule of a client's.
    async fn schedule(&self, given: &Value) -> AppScheduleRecord {
        let record = fresh_schedule("s".into(), "team", &self.app.id, Keeper::Api, spec(given), self.now_ms).expect("is a schedule");
        self.store.app_schedule_insert(record).await.expect("inserts")
    }

    async fn find(&self) -> AppScheduleRecord {
        self.store.app_schedule_get("s").await.expect("reads").expect("is there")
    }

    fn order(&self) -> NewAppRun {
        NewAppRun {
            id: String::new(),
            team_id: "team".into(),
            app_id: self.app.id.clone(),
            app_name: self.app.name.clone(),
            version: 1,
            action: "a".into(),
            cause: RunCause::Schedule,
            schedule_id: None,
            tick_ms: None,
            group: self.group.clone(),
            key: None,
            created_at_ms: self.now_ms,
            doc: doc(),
            input: "{}".into(),
        }
    }

    /// What the task does at each look; returns when it looks next.
    async fn look(&self) -> Option<i64> {
        let (due, _) = self.store.app_schedules_due(self.now_ms, 256).await.expect("reads");
        for schedule in due {
            self.step(schedule, Ok(self.order())).await;
            if self.runs_end {
                self.end_all().await;
            }
        }
        let (due, next) = self.store.app_schedules_due(self.now_ms, 256).await.expect("reads");
        assert_eq!(due, [], "all that was due is decided");
        next
    }

    async fn step(&self, schedule: AppScheduleRecord, order: Result<NewAppRun, String>) -> AppStepped {
        self.store.app_schedule_step(schedule, order, self.now_ms).await.expect("steps")
    }

    /// The server runs until a moment.
    async fn run_until(&mut self, until: &str) {
        let until_ms = ms(until);
        loop {
            match self.look().await {
                Some(next) if next <= until_ms => self.now_ms = next,
                _ => break,
            }
        }
        self.now_ms = until_ms;
        self.look().await;
    }

    /// The clock is set while the server runs, or was away.
    async fn set_clock(&mut self, to: &str) {
        self.now_ms = ms(to);
        self.store.app_schedules_rewind(self.now_ms).await.expect("rewinds");
    }

    async fn end_all(&self) {
        for run in self.store.app_runs_claim(AtOnce::of(64), self.now_ms).await.expect("claims") {
            self.end(&run.id, RunStatus::Running).await;
        }
    }

    async fn end(&self, id: &str, from: RunStatus) {
        let end = AppRunEnd {
            id: id.into(),
            from,
            status: RunStatus::Succeeded,
            failure_reason: None,
            cleanup: None,
            finished_at_ms: self.now_ms,
            log_bytes: 0,
            artifact_bytes: 0,
            doc: doc(),
        };
        self.store.app_run_finish(end, sign()).await.expect("ends").expect("was there");
    }

    /// All ticks, the oldest first, as the clock on a wall shows them: `+` for one that fired, with how late by the clock that was; `-`
    /// for those that were skipped, with how many.
    async fn ticks(&self, zone: &str) -> Vec<String> {
        let mut ticks = self.store.app_ticks_list("s", None, 1000).await.expect("lists");
        ticks.reverse();
        ticks
            .iter()
            .map(|row| match &row.run_id {
                Some(_) if row.decided_at_ms == row.tick.tick_ms => format!("+{}", shown(row.tick.tick_ms, zone)),
                Some(_) => format!("+{} late {} s", shown(row.tick.tick_ms, zone), (row.decided_at_ms - row.tick.tick_ms) / 1000),
                None => format!("-{} {}", shown(row.tick.tick_ms, zone), row.tick.count),
            })
            .collect()
    }

    /// Why ticks were skipped, the oldest first.
    async fn reasons(&self) -> Vec<String> {
        let mut ticks = self.store.app_ticks_list("s", None, 1000).await.expect("lists");
        ticks.reverse();
        ticks.into_iter().filter(|row| row.run_id.is_none()).map(|row| row.tick.reason.expect("a reason")).collect()
    }
}

fn doc() -> RunDoc {
    RunDoc {
        command: "true".into(),
        cwd: None,
        env: BTreeMap::new(),
        sealed_env: BTreeMap::new(),
        timeout_s: 60,
        requires_start: false,
        place: Place::Fresh,
        cleanup: CleanupPolicy::Delete,
        keep: None,
        artifact_paths: Vec::new(),
        files: Vec::new(),
        input_sha256: String::new(),
        manifest_sha256: String::new(),
        source_sha256: String::new(),
        caused_by: None,
        caller: None,
        kind: Kind::Action,
        schedule: None,
        ground: None,
        max_spend_micros: None,
        terms: Terms::default(),
        known: Known::default(),
    }
}

/// Makes a version with these schedules in its manifest the live one.
async fn deployed(store: &Store, now_ms: i64, schedules: &Value) -> AppRecord {
    try_deploy(store, now_ms, schedules).await.expect("is ready")
}

async fn try_deploy(store: &Store, now_ms: i64, schedules: &Value) -> Result<AppRecord, StoreError> {
    let manifest = json!({ "schemaVersion": 1, "runtime": { "base": "default" }, "actions": [{ "name": "a", "command": "true" }], "schedules": schedules });
    let new = NewAppVersion {
        team_id: "team".into(),
        app_name: "web".into(),
        app_id: "app".into(),
        manifest_sha256: "m".into(),
        source_sha256: "s".into(),
        source_bytes: 7,
        message: None,
        created_by: Some("user".into()),
        created_at_ms: now_ms,
        template_id: "default".into(),
        template: serde_json::from_value(json!({ "mainContainer": { "image": "host", "resources": {} } })).expect("a template"),
        manifest_text: String::new(),
        manifest: manifest.to_string(),
    };
    let (app, version) = store.app_version_begin(new).await.expect("begins");
    let base = Base { image: "host".into(), layers: vec![Layer { root_id: format!("l{}", version.number), uid_slot: 3 }] };
    Ok(store.app_version_ready(&app.id, version.number, base, None, true, now_ms).await?.0)
}
