//! Apps online and offline. What is wanted is in the row before anything is done, so a server that is killed in between goes on from
//! there; one thing at a time is done with an app.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sandbar_api::app_lifecycle::AppPreviewRequest;
use sandbar_core::{
    app::{
        Desired, SandboxKind,
        launch::{Asked, Launch, SeenApp, Stopping},
        manifest::LaunchServices,
        redact::Redactor,
        run::Withdrawn,
    },
    limits::app_launch as limits,
    preview,
    sandbox::SandboxRecord,
};
use sandbar_store::{AppRecord, AppSandboxRecord, AppVersionRecord, AppVolumeRecord, StoreError, Which};

use super::{
    manifest_of,
    supervise::{Keeping, Stopped, Supervised, gates},
    unreadable,
};
use crate::{
    app::{
        App,
        auth::Principal,
        previews::MadePreview,
        sandboxes::{now_ms, store_failure, violations},
    },
    error::ApiError,
};

/// The agent of a sandbox that was made or woken answers within this time.
const REACHED_WITHIN: Duration = Duration::from_secs(20);
const STOP_GRACE: Duration = Duration::from_secs(limits::STOP_GRACE_S);
/// Between attempts to bring an app online that a former server had online; doubled up to the second figure.
const RECOVER_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Somebody else may change an app's row just then: so often it is read again.
const WRITES_MAX: u32 = 5;

/// Who does something with an app now.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// What is asked for at a start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Start {
    /// Services besides those that start by themselves.
    pub services: Option<LaunchServices>,
    /// A sandbox with the files of another version than the live one is kept.
    pub keep: bool,
}

/// What a stop came to.
#[derive(Debug, Clone)]
pub(crate) struct StopSummary {
    /// In the order in which they were ended.
    pub stopped: Vec<Stopped>,
    pub sandbox_id: Option<String>,
    pub sandbox: Stopping,
    /// Of those that go with the sandbox they are being deleted still.
    pub volumes_ending: Vec<AppVolumeRecord>,
    pub took: Duration,
}

impl App {
    /// Brings an app online, and what was asked for with it; joins what is under way. Returns when the sandbox is up and everything
    /// is being started.
    pub(crate) async fn start_app(self: &Arc<Self>, who: &Principal, name: &str, start: Start) -> Result<Supervised, ApiError> {
        let app = self.app(who, name).await?;
        tracing::info!(action = "start", team = app.team_id, app = app.id, by = who.user_id, "an app is brought online");
        self.whole(who, "starting the app", move |this, _| async move { this.bring_app_online(&app.id, start).await }).await
    }

    async fn bring_app_online(self: &Arc<Self>, app_id: &str, start: Start) -> Result<Supervised, ApiError> {
        let turn = self.app_turns.of(app_id);
        let _turn = turn.lock().await;
        let app = self.app_by_id(app_id).await?;
        self.bring_online_in_turn(app, start).await
    }

    /// The same for who has the turn of the app.
    pub(super) async fn bring_online_in_turn(self: &Arc<Self>, app: AppRecord, start: Start) -> Result<Supervised, ApiError> {
        let (was, wanted, rests) = (app.desired, start.services.clone(), asked_of(&app).woken || !self.is_app_awake(&app).await?);
        let live = self.live_version(&app).await?;
        if let Some(services) = &wanted {
            shape_of(&app, &live)?.check(services).map_err(|error| ApiError::bad_request(format!("services: {error}")))?;
        }
        // Before anything is made or ended for it.
        self.app_given_all(&app, &manifest_of(&live)?).await?;
        let app = self
            .want(app, Desired::Online, |asked| {
                let services = std::mem::take(&mut asked.services);
                *asked = match was {
                    Desired::Offline => Asked { services: wanted.clone().unwrap_or_default(), ..Asked::default() },
                    Desired::Online => Asked { services: both(services, wanted.clone()), stopped: std::mem::take(&mut asked.stopped), ..Asked::default() },
                };
                if let Some(services) = &wanted {
                    asked.stopped.retain(|name| !names(services, name));
                }
            })
            .await?;
        match self.up_and_kept_up(&app, live, start.keep).await {
            Ok(supervised) => Ok(supervised),
            Err(error) if was == Desired::Offline => {
                // Else the next server would try what this one has refused. What came of it until then is put down again.
                self.want(app, Desired::Offline, |asked| *asked = Asked { woken: rests, ..Asked::default() }).await?;
                Err(error)
            }
            Err(error) => {
                // It is to be online, so it is tried again unless it is.
                let online = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
                if online.is_none_or(|row| self.supervised(&row.sandbox_id).is_none()) {
                    self.bring_online_again(app.id);
                }
                Err(error)
            }
        }
    }

    async fn is_app_awake(&self, app: &AppRecord) -> Result<bool, ApiError> {
        let online = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
        match online {
            Some(row) => Ok(self.look(&row.sandbox_id).await?.is_some_and(|(_, runtime)| runtime.is_some())),
            None => Ok(false),
        }
    }

    async fn up_and_kept_up(self: &Arc<Self>, app: &AppRecord, live: AppVersionRecord, keep: bool) -> Result<Supervised, ApiError> {
        let (row, record) = self.app_sandbox_up(app, &live, keep).await?;
        let version = if row.version == live.number { live } else { self.version_of(app, row.version).await? };
        let (launch, redactor) = self.app_launch(app, &version, true).await?;
        self.serve_ports(&record, &launch).await?;
        let keeping = Keeping { app_id: Some(app.id.clone()), revive: true, seen: seen_of(app), redactor };
        let supervised = self.supervise(&record.id, &launch, &launch.wanted(&asked_of(app)), keeping);
        supervised.heard().await;
        Ok(supervised)
    }

    /// The sandbox of an app, made or woken, with an agent that answers.
    pub(super) async fn app_sandbox_up(
        self: &Arc<Self>,
        app: &AppRecord,
        live: &AppVersionRecord,
        keep: bool,
    ) -> Result<(AppSandboxRecord, SandboxRecord), ApiError> {
        let whole = self.app_whole(app.clone()).await?;
        let found = match whole.online {
            Some(row) => self.record_of(&row.sandbox_id).await?.map(|record| (row, record)),
            None => None,
        };
        let (row, record) = match found {
            Some(found) if keep || !whole.outdated => found,
            former => {
                // What can be known before is looked at before anything ends.
                self.check_app_sandbox(app, live).await?;
                if let Some((row, _)) = former {
                    self.withdraw_runs(&app.id, Which::In(row.sandbox_id.clone()), Withdrawn::AppReplaced).await?;
                    self.unsupervise(&row.sandbox_id, STOP_GRACE).await;
                }
                // One that somebody deleted has its row still.
                if let Some(row) = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))? {
                    self.end_app_sandbox(&row.sandbox_id).await;
                }
                let record = self.make_app_sandbox(app, live, SandboxKind::App, None).await?;
                let row = self.store.app_sandbox_get(&record.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
                (row.ok_or_else(|| ApiError::conflict("the sandbox of the app was ended just now"))?, record)
            }
        };
        let (record, runtime) = self.bring_up(&record).await?;
        tokio::time::timeout(REACHED_WITHIN, runtime.client.info())
            .await
            .map_err(|_| ApiError::unavailable(format!("the sandbox did not answer within {} s", REACHED_WITHIN.as_secs())).retry_after(1))??;
        Ok((row, record.as_ref().clone()))
    }

    /// Takes an app offline: what runs in its sandbox is cancelled first, then services are ended, then the start command; then its sandbox
    /// is paused or deleted.
    pub(crate) async fn stop_app(self: &Arc<Self>, who: &Principal, name: &str, sandbox: Stopping) -> Result<StopSummary, ApiError> {
        let app = self.app(who, name).await?;
        tracing::info!(action = "stop", team = app.team_id, app = app.id, by = who.user_id, "an app is taken offline");
        let stopped = self.whole(who, "stopping the app", move |this, _| async move {
            let turn = this.app_turns.of(&app.id);
            let in_turn = turn.lock().await;
            let app = this.app_by_id(&app.id).await?;
            let (team_id, app_name) = (app.team_id.clone(), app.name.clone());
            let app = this.want(app, Desired::Offline, |asked| asked.stopping = Some(sandbox)).await?;
            let mut summary = this.finish_stop(app, sandbox).await?;
            drop(in_turn);
            if sandbox == Stopping::Delete {
                summary.volumes_ending = this.await_volumes_gone(&team_id, &app_name).await;
            }
            Ok(summary)
        });
        stopped.await
    }

    async fn finish_stop(self: &Arc<Self>, app: AppRecord, sandbox: Stopping) -> Result<StopSummary, ApiError> {
        let began = Instant::now();
        let have_ended = self.withdraw_runs(&app.id, Which::OfApp, Withdrawn::AppStopped).await?;
        let online = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
        let mut stopped = Vec::new();
        if let Some(row) = &online {
            let was_awake = self.supervised(&row.sandbox_id).is_some_and(|supervised| supervised.is_awake());
            stopped = self.unsupervise(&row.sandbox_id, STOP_GRACE).await;
            match sandbox {
                Stopping::Delete => self.end_app_sandbox(&row.sandbox_id).await,
                Stopping::Pause => {
                    if let Some(record) = self.record_of(&row.sandbox_id).await? {
                        self.put_down(record, "its app was stopped", !was_awake || !have_ended).await?;
                    }
                }
            }
        }
        if sandbox == Stopping::Delete {
            self.end_volumes_with_sandbox(&app).await?;
        }
        let app = self.want(app, Desired::Offline, |asked| *asked = Asked::default()).await?;
        self.remember_stopped(&app, sandbox).await;
        let sandbox_id = online.map(|row| row.sandbox_id);
        Ok(StopSummary { stopped, sandbox_id, sandbox, volumes_ending: Vec::new(), took: began.elapsed() })
    }

    /// Makes a private preview of a port of an app that is online: of the first that it declares, when none is named.
    pub(crate) async fn preview_app(&self, who: &Principal, name: &str, request: AppPreviewRequest) -> Result<MadePreview, ApiError> {
        let AppPreviewRequest { mut port, mut path, mcp, ttl_seconds } = request;
        let app = self.app(who, name).await?;
        let online = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
        let supervised = online.filter(|_| app.desired == Desired::Online).and_then(|row| self.supervised(&row.sandbox_id));
        let Some(supervised) = supervised else { return Err(ApiError::conflict(format!("app {name:?} is not online; start it first"))) };
        let launch = supervised.launch();
        if let Some(wanted) = &mcp {
            if port.is_some() || path.is_some() {
                return Err(ApiError::bad_request("mcp: names a port and a path; leave out the others"));
            }
            let endpoints = &launch.manifest.mcp.endpoints;
            if endpoints.is_empty() {
                return Err(ApiError::bad_request("mcp: the app declares no endpoint of the Model Context Protocol (mcp.endpoints in its manifest)"));
            }
            let endpoint = endpoints.iter().find(|endpoint| wanted.is_empty() || endpoint.called() == wanted).ok_or_else(|| {
                let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.called()).collect();
                ApiError::bad_request(format!("mcp: the app has no endpoint {}; it has {}", crate::http::params::shown(wanted), names.join(", ")))
            })?;
            (port, path) = (Some(endpoint.port), Some(endpoint.path.clone()));
        }
        let declared = launch.ports().map(|(_, port)| port).find(|declared| port.is_none_or(|port| declared.port == port));
        let (port, own_path, wakes) = match (declared, port) {
            (Some(declared), _) => (declared.port, declared.path.as_str(), declared.auto_start),
            (None, Some(port)) => {
                let declared: Vec<String> = launch.ports().map(|(_, port)| port.port.to_string()).collect();
                let declared = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
                return Err(ApiError::bad_request(format!("port: {port} is not declared by the app, which declares {declared}")));
            }
            (None, None) => return Err(ApiError::bad_request("port: the app declares none, so one has to be named")),
        };
        let new = preview::wanted(port.into(), None, Some(path.as_deref().unwrap_or(own_path)), ttl_seconds, wakes).map_err(violations)?;
        self.create_preview(who, supervised.sandbox_id(), new).await
    }

    async fn remember_stopped(&self, app: &AppRecord, sandbox: Stopping) {
        let seen = match sandbox {
            Stopping::Pause => seen_of(app).stopped(),
            // Its log goes with it.
            Stopping::Delete => SeenApp::default(),
        };
        let written = match serde_json::to_value(seen) {
            Ok(seen) => self.store.app_seen(&app.id, &seen).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            tracing::warn!(app = app.id, error, "how an app was seen was not remembered");
        }
    }

    /// Starts a service of an app that is online, with what it depends on.
    pub(crate) async fn start_app_service(self: &Arc<Self>, who: &Principal, name: &str, service: &str) -> Result<Supervised, ApiError> {
        let (supervised, _, _turn) = self.turn_service(who, name, service, true).await?;
        for name in supervised.launch().with_dependencies(service) {
            supervised.start(&name);
        }
        supervised.heard().await;
        Ok(supervised)
    }

    /// Ends a service of an app that is online. It stays so until somebody starts it, or the app anew.
    pub(crate) async fn stop_app_service(self: &Arc<Self>, who: &Principal, name: &str, service: &str) -> Result<Stopped, ApiError> {
        let (supervised, service, _turn) = self.turn_service(who, name, service, false).await?;
        Ok(supervised.stop(&service, STOP_GRACE).await)
    }

    /// Ends a service and starts it.
    pub(crate) async fn restart_app_service(self: &Arc<Self>, who: &Principal, name: &str, service: &str) -> Result<Supervised, ApiError> {
        let (supervised, service, _turn) = self.turn_service(who, name, service, true).await?;
        supervised.stop(&service, STOP_GRACE).await;
        for name in supervised.launch().with_dependencies(&service) {
            supervised.start(&name);
        }
        supervised.heard().await;
        Ok(supervised)
    }

    /// Remembers whether a service is wanted, and keeps others from doing anything with its app.
    async fn turn_service(
        self: &Arc<Self>,
        who: &Principal,
        name: &str,
        service: &str,
        wanted: bool,
    ) -> Result<(Supervised, String, tokio::sync::OwnedMutexGuard<()>), ApiError> {
        let app = self.app(who, name).await?;
        let turn = self.app_turns.of(&app.id).lock_owned().await;
        let app = self.app_by_id(&app.id).await?;
        let online = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
        let found = online.filter(|_| app.desired == Desired::Online).and_then(|row| Some((self.supervised(&row.sandbox_id)?, row.version)));
        let Some((supervised, version)) = found else { return Err(ApiError::conflict(format!("app {name:?} is not online; start it first"))) };
        let launch = Arc::clone(supervised.launch());
        if launch.manifest.find_service(service).is_none() {
            return Err(ApiError::new(sandbar_api::ErrorCode::NotFound, launch.unknown(service).to_string()));
        }
        if wanted {
            let (launch, redactor) = self.app_launch(&app, &self.version_of(&app, version).await?, true).await?;
            supervised.renew(&launch, &redactor);
        }
        if wanted && !supervised.is_awake() {
            let record = self.record_of(supervised.sandbox_id()).await?.ok_or_else(|| ApiError::not_found("sandbox", supervised.sandbox_id()))?;
            self.bring_up(&record).await?;
        }
        self.want(app, Desired::Online, |asked| {
            let all = launch.manifest.services.iter().map(|service| service.name.clone());
            let mut services: Vec<String> = match std::mem::take(&mut asked.services) {
                LaunchServices::All => all.collect(),
                LaunchServices::Named(names) => names,
            };
            services.retain(|name| name != service);
            if wanted {
                services.push(service.to_owned());
                asked.stopped.remove(service);
            } else {
                asked.stopped.insert(service.to_owned());
            }
            asked.services = LaunchServices::Named(services);
        })
        .await?;
        Ok((supervised, service.to_owned(), turn))
    }

    /// Lets what is started anew in an app that is online, by whatever reason, have what the app is given now. Behind the caller.
    pub(super) fn renew_app(self: &Arc<Self>, app_id: String) {
        let this = Arc::clone(self);
        self.sandboxes.tasks.spawn(async move {
            // Whoever comes last in its turn knows the latest.
            let turn = this.app_turns.of(&app_id);
            let _turn = turn.lock().await;
            let renewed = async {
                let app = this.app_by_id(&app_id).await?;
                let online = this.store.app_sandbox_online(&app_id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
                if let Some((supervised, version)) = online.and_then(|row| Some((this.supervised(&row.sandbox_id)?, row.version))) {
                    let (launch, redactor) = this.app_launch(&app, &this.version_of(&app, version).await?, true).await?;
                    supervised.renew(&launch, &redactor);
                }
                Ok::<_, ApiError>(())
            };
            if let Err(error) = renewed.await {
                tracing::info!(app = app_id, %error, "what is started anew of an app keeps what the app was given before");
            }
        });
    }

    /// Goes on with the apps that a former server had online, or was stopping. Sandboxes that sleep are left asleep.
    pub(crate) async fn recover_online_apps(self: &Arc<Self>) -> Result<(), ApiError> {
        for app in self.store.apps_online().await.map_err(|e| store_failure("reading apps", &e))? {
            match self.keep_up_again(&app, true).await {
                Ok(true) => {}
                Ok(false) => self.bring_online_again(app.id),
                Err(error) => {
                    tracing::error!(app = app.id, %error, "an app that is to be online cannot be looked after yet");
                    self.bring_online_again(app.id);
                }
            }
        }
        for (sandbox_id, app_id, version) in self.store.app_sandboxes_offline().await.map_err(|e| store_failure("reading sandboxes of apps", &e))? {
            let launch = async {
                let app = self.app_by_id(&app_id).await?;
                shape_of(&app, &self.version_of(&app, version).await?)
            };
            match launch.await {
                Ok(launch) => gates::begin_closed(self, &sandbox_id, &launch),
                // One app that cannot be read keeps the server from nothing. Which ports it declares is not known.
                Err(error) => {
                    tracing::error!(app = app_id, version, %error, "an app that is offline cannot be read; all ports of its sandbox are closed");
                    gates::close_all(self, &sandbox_id);
                }
            }
        }
        self.reconcile_app_stops().await
    }

    /// Goes on with stops that a former server, or a former try, did not come to the end of. Can be repeated at any time.
    pub(crate) async fn reconcile_app_stops(self: &Arc<Self>) -> Result<(), ApiError> {
        for id in self.store.apps_stopping().await.map_err(|e| store_failure("reading apps", &e))? {
            let Some(stopping) = self.apps.stopping.begin(&id) else { continue };
            let this = Arc::downgrade(self);
            self.supervisors.spawn_free(async move {
                let _stopping = stopping;
                let Some(this) = this.upgrade() else { return };
                if let Err(error) = this.stop_again(&id).await {
                    tracing::error!(app = id, %error, "an app that was being stopped is not; it will be tried again");
                }
            });
        }
        Ok(())
    }

    /// Keeps up what a former server did, in the sandbox that there is; false when there is none. With `begins` also what was asked for
    /// and never came to be seen.
    async fn keep_up_again(self: &Arc<Self>, app: &AppRecord, begins: bool) -> Result<bool, ApiError> {
        let online = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
        let Some(row) = online else { return Ok(false) };
        if self.record_of(&row.sandbox_id).await?.is_none() {
            return Ok(false);
        }
        let launch = async { self.app_launch(app, &self.version_of(app, row.version).await?, false).await };
        let (launch, redactor) = match launch.await {
            Err(error) if error.details() == Some(&unreadable()) => {
                gates::close_all(self, &row.sandbox_id);
                return Err(error);
            }
            launch => launch?,
        };
        let seen = seen_of(app);
        let known = |name: &String| {
            let entry = seen.entries.get(name).filter(|_| seen.sandbox_id == row.sandbox_id);
            entry.is_some_and(|entry| entry.state != sandbar_core::app::AppState::None)
        };
        let unseen: Vec<String> = launch.wanted(&asked_of(app)).into_iter().filter(|name| begins && !known(name)).collect();
        let keeping = Keeping { app_id: Some(app.id.clone()), revive: begins, seen: seen.clone(), redactor };
        self.supervise(&row.sandbox_id, &launch, &unseen, keeping);
        Ok(true)
    }

    fn bring_online_again(self: &Arc<Self>, app_id: String) {
        // Once, however often that fails.
        let Some(bringing) = self.apps.bringing.begin(&app_id) else { return };
        let this = Arc::downgrade(self);
        self.supervisors.spawn_free(async move {
            let _bringing = bringing;
            let mut pause = RECOVER_PAUSE.0;
            loop {
                let Some(app) = this.upgrade() else { return };
                match app.app_by_id(&app_id).await {
                    Ok(found) if found.desired == Desired::Online => {}
                    Ok(_) => return,
                    Err(error) if error.status() == 404 => return,
                    Err(error) => tracing::warn!(app = app_id, %error, "an app cannot be read"),
                }
                match app.bring_app_online(&app_id, Start { services: None, keep: true }).await {
                    Ok(_) => return,
                    Err(error) if error.details() == Some(&unreadable()) => {
                        tracing::error!(app = app_id, %error, "an app that is to be online cannot be read; it is not tried again");
                        return;
                    }
                    Err(error) => tracing::warn!(app = app_id, %error, "an app that is to be online is not yet"),
                }
                drop(app);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RECOVER_PAUSE.1);
            }
        });
    }

    async fn stop_again(self: &Arc<Self>, app_id: &str) -> Result<(), ApiError> {
        let turn = self.app_turns.of(app_id);
        let _turn = turn.lock().await;
        let app = self.app_by_id(app_id).await?;
        let (Desired::Offline, Some(sandbox)) = (app.desired, asked_of(&app).stopping) else { return Ok(()) };
        // What still runs is found first, so that it can be ended as it should be; else it ends with its sandbox.
        if let Err(error) = self.keep_up_again(&app, false).await {
            tracing::warn!(app = app_id, %error, "what an app that is being stopped still runs is not known");
        }
        self.finish_stop(app, sandbox).await.map(drop)
    }

    /// What a version of an app keeps up, and what takes its secrets out of what is printed. With `needs_all` a variable that is
    /// required and that nobody gave is a conflict (409).
    pub(crate) async fn app_launch(&self, app: &AppRecord, version: &AppVersionRecord, needs_all: bool) -> Result<(Arc<Launch>, Arc<Redactor>), ApiError> {
        let manifest = manifest_of(version)?;
        let given = if needs_all { self.app_given_all(app, &manifest).await? } else { self.app_given(app, &manifest).await? };
        let redactor = Arc::new(given.redactor());
        Ok((Arc::new(Launch::of(Arc::new(manifest), &app.name, version.number, &given.env)), redactor))
    }

    pub(super) async fn app_by_id(&self, id: &str) -> Result<AppRecord, ApiError> {
        let found = self.store.app_get(id).await.map_err(|e| store_failure("reading the app", &e))?;
        found.ok_or_else(|| ApiError::not_found("app", id))
    }

    /// Writes what is wanted of an app. Its row may be changed by deploys meanwhile; then it is read and changed again.
    pub(super) async fn want(&self, app: AppRecord, desired: Desired, change: impl Fn(&mut Asked)) -> Result<AppRecord, ApiError> {
        let mut app = app;
        for _ in 0..WRITES_MAX {
            let mut asked = asked_of(&app);
            change(&mut asked);
            let launch = serde_json::to_value(&asked).map_err(|error| ApiError::internal("saving what is wanted of the app", &error))?;
            match self.store.app_want(&app.id, app.generation, desired, &launch, now_ms()).await {
                Ok(app) => return Ok(app),
                Err(StoreError::Stale { .. }) => app = self.app_by_id(&app.id).await?,
                Err(error) => return Err(store_failure("saving what is wanted of the app", &error)),
            }
        }
        Err(ApiError::unavailable("the app is being changed by others; try again").retry_after(1))
    }
}

impl Turns {
    pub(super) fn of(&self, app_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever nobody holds or waits for is not needed.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(app_id.to_owned()).or_default())
    }
}

/// What a version keeps up, without what it was given for its variables: to look at, not to start.
pub(crate) fn shape_of(app: &AppRecord, version: &AppVersionRecord) -> Result<Launch, ApiError> {
    Ok(Launch::of(Arc::new(manifest_of(version)?), &app.name, version.number, &BTreeMap::new()))
}

pub(crate) fn asked_of(app: &AppRecord) -> Asked {
    serde_json::from_value(app.launch.clone()).unwrap_or_default()
}

pub(crate) fn seen_of(app: &AppRecord) -> SeenApp {
    serde_json::from_value(app.seen.clone()).unwrap_or_default()
}

fn both(before: LaunchServices, more: Option<LaunchServices>) -> LaunchServices {
    match (before, more) {
        (LaunchServices::All, _) | (_, Some(LaunchServices::All)) => LaunchServices::All,
        (before, None) => before,
        (LaunchServices::Named(mut names), Some(LaunchServices::Named(more))) => {
            names.extend(more);
            names.sort();
            names.dedup();
            LaunchServices::Named(names)
        }
    }
}

fn names(services: &LaunchServices, name: &str) -> bool {
    match services {
        LaunchServices::All => true,
        LaunchServices::Named(names) => names.iter().any(|other| other == name),
    }
}
