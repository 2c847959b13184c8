//! Building a version: its files are what the runtime has, what the setup commands left, and the source on top.
//!
//! Files are layers. The source becomes one on the host; setup commands run in a sandbox on it, whose own files are the next. With
//! `setup.inputs` the commands see those files only, and the whole source lies on top of what they left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sandbar_core::{
    app::{
        SandboxKind,
        manifest::Manifest,
        shell::{self, Env},
    },
    limits::{self as all_limits, deploys as limits},
    sandbox::Base,
};
use sandbar_node::{Pin, Runtime, image::Progress, warm};
use sandbar_store::{AppRecord, AppVersionRecord, NewAppSetup};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ground::{Ground, name_of_base, on_top},
    log::Log,
    shell::context,
    source::{Source, any_matches},
    steps::{self, Extra, Failure},
};
use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{Captured, now_ms, runtime_failure, spec, store_failure},
    },
    error::ApiError,
};

/// The folder of the source, in the root.
const WORKSPACE: &str = "workspace";
const BUILD_MAX: Duration = Duration::from_secs(limits::APP_BUILD_MAX_S);
const PROBE_MAX: Duration = Duration::from_secs(limits::APP_PROBE_MAX_S);
/// Between two looks at a probe, and for one.
const PROBE_PAUSE: Duration = Duration::from_millis(200);
const PROBE_WITHIN: Duration = Duration::from_secs(5);

/// Who cancels a build waits so long for its end.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// What is to be built.
pub(super) struct Build {
    pub app: AppRecord,
    pub version: AppVersionRecord,
    pub who: Principal,
    pub source: Source,
    pub ground: Ground,
    pub activate: bool,
}

/// Until when a build may go on.
struct Term {
    until: Instant,
    stop: BuildStop,
}

/// Ends a build. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct BuildStop {
    asked: CancellationToken,
    /// Its app was deleted; else nobody wants this version.
    deleted: Arc<AtomicBool>,
    /// The build is over, and its row says how.
    done: CancellationToken,
}

impl BuildStop {
    /// The app was deleted.
    pub fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.asked.cancel();
    }

    /// Nobody wants this version. Returns when the build is over, or after a while.
    pub async fn cancel(&self) {
        self.asked.cancel();
        let _ = tokio::time::timeout(CANCEL_WAIT, self.done.cancelled()).await;
    }

    fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    fn failure(&self) -> Failure {
        Failure(if self.is_deleted() { "the app was deleted" } else { "the build was cancelled" }.to_owned())
    }
}

/// What a build came to, kept until rows name it.
struct Built {
    base: Base,
    setup: Option<NewAppSetup>,
    /// Layers that this build made and that nobody else names.
    own: Vec<String>,
    pins: Vec<Pin>,
}

impl App {
    /// Builds behind the caller; the version's row says what came of it.
    pub(super) fn begin_build(self: &Arc<Self>, build: Build) {
        let (id, number) = (build.app.id.clone(), build.version.number);
        let stop = BuildStop::default();
        self.apps.lock().insert((id.clone(), number), stop.clone());
        let app = Arc::clone(self);
        self.sandboxes.tasks.spawn(async move {
            let path = app.build_log(&id, number);
            match Log::create(&path, limits::APP_BUILD_LOG_MAX_BYTES).await {
                Ok(log) => app.build_and_say(build, log, &stop).await,
                Err(error) => {
                    tracing::error!(%error, app = id, "the log of a build cannot be written");
                    app.build_failed(&id, number, "the log of the build cannot be written; the server's disk may be full").await;
                }
            }
            app.apps.lock().remove(&(id.clone(), number));
            // Its sandboxes have nothing to do any more.
            app.apps.changed.notify_one();
            if stop.is_deleted() {
                app.remove_build_logs(&id);
            }
            stop.done.cancel();
        });
    }

    async fn build_and_say(self: &Arc<Self>, build: Build, mut log: Log, stop: &BuildStop) {
        let (id, number) = (build.app.id.clone(), build.version.number);
        let began = Instant::now();
        let built = self.build(&build, &mut log, stop).await;
        // Whatever came of it, nobody is to go on in these.
        self.end_build_sandboxes(&id, number).await;
        // The log is whole before the row says that nothing follows.
        match &built {
            Ok(_) => log.end(&format!("==> version {number} was built in {:.1} s", began.elapsed().as_secs_f64())).await,
            Err(Failure(text)) => log.end(&format!("==> version {number} failed: {text}")).await,
        }
        let named = match built {
            Ok(built) => self.name_built(&build, built).await,
            Err(failure) => Err(failure),
        };
        if let Err(Failure(text)) = named {
            self.build_failed(&id, number, &text).await;
        }
    }

    async fn build(self: &Arc<Self>, build: &Build, log: &mut Log, stop: &BuildStop) -> Result<Built, Failure> {
        let place = match self.apps.places.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                log.line("==> waiting for other builds").await;
                tokio::select! {
                    // Never closed.
                    place = self.apps.places.acquire() => place.map_err(|_| Failure("the server is ending".to_owned()))?,
                    () = stop.asked.cancelled() => return Err(stop.failure()),
                }
            }
        };
        let term = Term { until: Instant::now() + BUILD_MAX, stop: stop.clone() };
        let mut built = Built { base: Base::default(), setup: None, own: Vec::new(), pins: Vec::new() };
        let done = async {
            let below = term.within(self.ground_of(build, log, &mut built.pins)).await?;
            self.lay(build, below, &term, log, &mut built).await?;
            self.flatten(&mut built).await?;
            self.validate(build, &built.base, &term, log).await
        };
        let done = done.await;
        drop(place);
        match done {
            Ok(()) => Ok(built),
            Err(failure) => {
                self.give_up_build(built);
                Err(failure)
            }
        }
    }

    /// What lies below everything, pulled where it is not there.
    async fn ground_of(self: &Arc<Self>, build: &Build, log: &mut Log, pins: &mut Vec<Pin>) -> Result<Base, Failure> {
        if let Some((base, _)) = &build.ground.base {
            pins.push(self.node.pin_base(base));
            return Ok(base.clone());
        }
        let image = spec::image_of(&build.ground.template).to_owned();
        log.line(&format!("==> pulling image {image}")).await;
        let (report, mut progress) = mpsc::channel(16);
        let pulling = self.pull_for_app(&image, report);
        let telling = async {
            while let Some(line) = progress.recv().await {
                match line {
                    Progress::Layers { count, bytes } => log.line(&format!("{count} layers, {bytes} bytes")).await,
                    Progress::Ready { digest, was_there } => log.line(&format!("{digest} {}", if was_there { "was there" } else { "is ready" })).await,
                    Progress::Downloaded { .. } | Progress::Unpacking { .. } | Progress::Step { .. } | Progress::Output { .. } => {}
                }
            }
        };
        let (pulled, ()) = tokio::join!(pulling, telling);
        pulled.map_err(|error| Failure(format!("image {image} could not be pulled: {}", error.message())))?;
        let (base, pin) = self.image_base(&build.ground.template).map_err(|text| Failure(format!("image {image} cannot be used: {text}")))?;
        pins.push(pin);
        Ok(base)
    }

    /// Lays the source and what its setup leaves on top.
    async fn lay(self: &Arc<Self>, build: &Build, below: Base, term: &Term, log: &mut Log, built: &mut Built) -> Result<(), Failure> {
        let Build { source, app, .. } = build;
        let manifest = &source.parsed.manifest;
        let inputs = source.setup_inputs();
        if manifest.setup.commands.is_empty() {
            return self.lay_source(source, &below, false, built).await;
        }
        let key = source.setup_key(&name_of_base(&below, &build.ground.template));
        let set_up = match self.setup_of(app, &key, &mut built.pins).await? {
            Some(base) => {
                log.line("==> setup: nothing that it reads has changed; what it left before is used again").await;
                base
            }
            None => {
                self.lay_source(source, &below, inputs.is_some(), built).await?;
                let base = self.set_up(build, &built.base.clone(), term, log, built).await?;
                built.setup = Some(NewAppSetup { key, base: base.clone() });
                base
            }
        };
        if inputs.is_some() {
            return self.lay_source(source, &set_up, false, built).await;
        }
        built.base = set_up;
        Ok(())
    }

    /// What a setup left before, kept.
    async fn setup_of(&self, app: &AppRecord, key: &str, pins: &mut Vec<Pin>) -> Result<Option<Base>, Failure> {
        let find = || async {
            let found = self.store.app_setup_find(&app.team_id, &app.id, key, now_ms()).await;
            found.map_err(|e| failed(&store_failure("looking for a former setup", &e)))
        };
        let Some(base) = find().await? else { return Ok(None) };
        let pin = self.node.pin_base(&base);
        // Forgotten in between, it may have been collected before the pin.
        if find().await?.as_ref() != Some(&base) {
            return Ok(None);
        }
        pins.push(pin);
        Ok(Some(base))
    }

    async fn lay_source(&self, source: &Source, below: &Base, only_inputs: bool, built: &mut Built) -> Result<(), Failure> {
        let patterns = source.setup_inputs().filter(|_| only_inputs);
        let keep = patterns.map(|patterns| -> sandbar_node::staging::Keep { Box::new(move |path| any_matches(&patterns, path)) });
        let laid = source.staged.layer(WORKSPACE, keep).await.map_err(|error| failed(&runtime_failure("laying the source down", &error)))?;
        built.own.push(laid.0.root_id.clone());
        built.pins.push(laid.1);
        built.base = on_top(laid.0, below);
        Ok(())
    }

    /// Runs the setup commands on these files; returns what there is then.
    async fn set_up(self: &Arc<Self>, build: &Build, on: &Base, term: &Term, log: &mut Log, built: &mut Built) -> Result<Base, Failure> {
        let manifest = &build.source.parsed.manifest;
        let (id, runtime) = self.build_sandbox(build, manifest, on).await?;
        term.within(steps::run(&runtime, "setup", &manifest.setup.commands, &Extra::default(), term.until, log)).await?;
        drop(runtime);
        // Nothing that was left running writes any more, and what was written is taken without a copy.
        let still = async {
            self.pause(&build.who, &id, false).await?;
            self.hibernate(&build.who, &id).await?;
            self.capture(&build.who, &id).await
        };
        let Captured { base, pin, .. } = still.await.map_err(|error| failed(&error))?;
        built.own.extend(base.layers.iter().filter(|layer| !on.layers.contains(layer)).map(|layer| layer.root_id.clone()));
        built.pins.push(pin);
        self.end_app_sandbox(&id).await;
        Ok(base)
    }

    /// One layer in place of many, where there would be too many of them.
    async fn flatten(&self, built: &mut Built) -> Result<(), Failure> {
        if built.base.layers.len() < all_limits::LAYERS_MAX {
            return Ok(());
        }
        let flattened = self.node.flatten(&built.base).await.map_err(|error| failed(&runtime_failure("making the layers one", &error)))?;
        built.own.extend(flattened.0.layers.iter().map(|layer| layer.root_id.clone()));
        built.base = flattened.0;
        built.pins.push(flattened.1);
        Ok(())
    }

    /// Lets a version prove itself in a sandbox of its own, of which nothing is kept.
    async fn validate(self: &Arc<Self>, build: &Build, on: &Base, term: &Term, log: &mut Log) -> Result<(), Failure> {
        let manifest = &build.source.parsed.manifest;
        let Some(validation) = &manifest.validation else { return Ok(()) };
        let given = self.app_given(&build.app, manifest).await.map_err(|error| failed(&error))?;
        if !given.missing.is_empty() {
            log.line(&format!("==> nobody gave the app {}; it is validated without", given.missing.join(", "))).await;
        }
        let extra = Extra { redactor: given.redactor(), env: given.env };
        let (id, runtime) = self.build_sandbox(build, manifest, on).await?;
        term.within(steps::run(&runtime, "validation", &validation.commands, &extra, term.until, log)).await?;
        if !validation.probes.is_empty() {
            term.within(probe(&runtime, manifest, &extra, term.until.min(Instant::now() + PROBE_MAX), log)).await?;
        }
        drop(runtime);
        self.end_app_sandbox(&id).await;
        Ok(())
    }

    async fn build_sandbox(self: &Arc<Self>, build: &Build, manifest: &Manifest, on: &Base) -> Result<(String, Arc<Runtime>), Failure> {
        let made = self.make_sandbox_on(&build.app, &build.version, manifest, SandboxKind::Build, None, on.clone()).await;
        let record = made.map_err(|error| failed(&error))?;
        match self.look(&record.id).await {
            Ok(Some((record, Some(runtime)))) => Ok((record.id.clone(), runtime)),
            Ok(_) => Err(Failure("the processes of the build's sandbox ended".to_owned())),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Names in rows what was built.
    async fn name_built(&self, build: &Build, built: Built) -> Result<(), Failure> {
        let (id, number) = (&build.app.id, build.version.number);
        let ready = self.store.app_version_ready(id, number, built.base.clone(), built.setup.clone(), build.activate, now_ms()).await;
        match ready {
            Ok((_, pruned)) => {
                self.pruned(id, pruned);
                // Layers of the way that no row names, such as those that were made one.
                self.node.release(built.own);
                self.collect_soon.notify_one();
                Ok(())
            }
            Err(error) => {
                self.give_up_build(built);
                Err(failed(&store_failure("saving the version", &error)))
            }
        }
    }

    async fn build_failed(&self, id: &str, number: i64, reason: &str) {
        let reason: String = reason.chars().take(limits::APP_REASON_MAX_BYTES).collect();
        match self.store.app_version_failed(id, number, &reason, now_ms()).await {
            Ok(pruned) => self.pruned(id, pruned),
            Err(error) => tracing::error!(app = id, version = number, %error, "that a build failed is not remembered"),
        }
    }

    async fn end_build_sandboxes(self: &Arc<Self>, id: &str, number: i64) {
        match self.store.app_sandboxes_of(id).await {
            Ok(rows) => {
                for row in rows.into_iter().filter(|row| row.kind == SandboxKind::Build && row.version == number) {
                    self.end_app_sandbox(&row.sandbox_id).await;
                }
            }
            Err(error) => tracing::warn!(app = id, %error, "sandboxes of a build are left; they will be looked for again"),
        }
    }

    /// What a build that failed made, nobody needs. What rows name all the same stays.
    fn give_up_build(&self, built: Built) {
        self.node.release(built.own);
        drop(built.pins);
        self.collect_soon.notify_one();
    }
}

impl Term {
    async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = tokio::time::timeout_at(self.until.into(), work) => {
                done.unwrap_or_else(|_| Err(Failure(format!("the build may take {} s, which have passed", BUILD_MAX.as_secs()))))
            }
            () = self.stop.asked.cancelled() => Err(self.stop.failure()),
        }
    }
}

/// Starts the app and waits until each probe is answered as it has to be.
async fn probe(runtime: &Arc<Runtime>, manifest: &Manifest, extra: &Extra, until: Instant, log: &mut Log) -> Result<(), Failure> {
    let probes = manifest.validation.as_ref().map(|validation| validation.probes.as_slice()).unwrap_or_default();
    let mut context_id = None;
    if let Some(start) = &manifest.start
        && let Some(command) = &start.command
    {
        log.line(&format!("==> starting the app for the probes: {command}")).await;
        let env = shell::whole(&extra.env, &shell::said(manifest, Some(&start.block), &Env::new()), []);
        let ttl = until.saturating_duration_since(Instant::now()) + PROBE_WITHIN;
        let create = context(shell::argv(command), shell::folder(start.block.cwd.as_deref()), env, ttl.as_secs().max(1));
        let created = runtime.client.create_context(&create).await;
        context_id = Some(created.map_err(|error| Failure(format!("the app cannot be started for the probes: {error}")))?.id);
    }
    for probe in probes {
        let name = probe.name.clone().unwrap_or_else(|| format!("{}{}", probe.port, probe.path));
        loop {
            let answer = warm::answer(runtime, probe.port, &probe.path, PROBE_WITHIN).await;
            if answer == Ok(probe.expected_status) {
                log.line(&format!("==> probe {name} passed")).await;
                break;
            }
            let (runs, printed) = match &context_id {
                Some(id) => match runtime.client.get_context(id).await {
                    Ok(context) => {
                        (context.running, warm::last_lines(&extra.redactor.printed(&context.output.output_raw.unwrap_or_default(), context.running)))
                    }
                    Err(_) => (false, String::new()),
                },
                None => (true, String::new()),
            };
            if !runs {
                return Err(Failure(format!("the app ended before probe {name} passed{printed}")));
            }
            if Instant::now() >= until {
                return Err(Failure(unanswered(&name, probe.expected_status, &answer, &printed)));
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
    Ok(())
}

/// Of a probe that did not pass in time: what it was answered with last, and what the app printed last.
fn unanswered(name: &str, expected: u16, answer: &Result<u16, String>, printed: &str) -> String {
    let last = match answer {
        Ok(status) => format!("the last answer had status {status}"),
        Err(why) => why.clone(),
    };
    format!("probe {name} was not answered with status {expected} within {} s: {last}{printed}", PROBE_MAX.as_secs())
}

fn failed(error: &ApiError) -> Failure {
    Failure(error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_fails_says_what_it_was_answered_with() {
        for (answer, printed, end) in [
            (Ok(404), "", ": the last answer had status 404"),
            (Ok(500), "; it printed last: no database", ": the last answer had status 500; it printed last: no database"),
            (Err("there was no answer within 5 s".to_owned()), "", ": there was no answer within 5 s"),
        ] {
            assert_eq!(unanswered("3000/", 200, &answer, printed), format!("probe 3000/ was not answered with status 200 within 120 s{end}"));
        }
    }
}
