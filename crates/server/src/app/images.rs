//! Images: what this machine has to make sandboxes from. Everybody may see them; only the operator changes them, since all
//! teams share them.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use sandbar_api::{
    ErrorCode,
    image::{ImageBuildRequest, ImageInfo, ImagePullRequest},
    sandbox::Resources,
};
use sandbar_core::{
    egress::{self, Policy},
    image::{HOST, ImageName},
    limits, validate,
};
use sandbar_node::{
    Limits, error_text,
    image::{BuildFile, BuildSpec, Credentials, ImageError, ImageView, Progress, Pull},
};
use sandbar_store::TemplateRecord;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    app::{
        App, SharedApp,
        auth::Principal,
        sandboxes::{spec, store_failure, violations},
        streams::{keep, packed},
    },
    error::ApiError,
    http::time::rfc3339,
};

/// Progress that waits for its reader.
const PROGRESS_MAX: usize = 256;
/// Wait before an image that could not be pulled for a template is tried again; doubled up to the second figure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// How often it is looked whether a template still wants what is pulled for it.
const WANTED_EVERY: Duration = Duration::from_secs(5);
/// Names of which it is known how their pull went.
const ATTEMPTS_MAX: usize = 1000;

/// Pulls and builds under way, and how those for templates went.
pub struct ImageJobs {
    /// Of what the operator asks for.
    places: Arc<Semaphore>,
    /// Of what templates ask for, which must not hold the operator up.
    template_places: Arc<Semaphore>,
    attempts: Mutex<HashMap<String, Attempt>>,
}

/// A pull that a template asked for.
#[derive(Debug, Clone)]
struct Attempt {
    is_under_way: bool,
    failures: u32,
    next_try: Instant,
    error: Option<String>,
}

/// Why a template's image is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// It is being pulled.
    Pulling,
    /// It could not be pulled; it will be tried again.
    Failed(String),
    /// Nobody pulls it.
    Missing(String),
}

/// A pull or build under way: what happens, and how it ends.
pub struct Job {
    pub progress: mpsc::Receiver<Progress>,
    pub outcome: tokio::task::JoinHandle<Result<ImageInfo, ApiError>>,
}

impl Default for ImageJobs {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { places: places(limits::IMAGE_JOBS_MAX), template_places: places(limits::TEMPLATE_PULLS_MAX), attempts: Mutex::default() }
    }
}

impl ImageJobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// All images of this machine, the built-in one first.
    pub fn images(&self) -> Vec<ImageInfo> {
        let host = ImageInfo {
            id: HOST.to_owned(),
            names: vec![HOST.to_owned()],
            source: "built in: this machine's /usr".to_owned(),
            size_bytes: 0,
            layers: 1,
            manifest_digest: None,
            created_at: None,
        };
        [host].into_iter().chain(self.node.images().list().into_iter().map(rendered)).collect()
    }

    /// Begins to pull an image.
    pub async fn pull_image(self: &Arc<Self>, who: &Principal, request: ImagePullRequest) -> Result<Job, ApiError> {
        self.auth.require_operator(who).await?;
        let name = image_name("name", &request.name)?;
        let local_name = request.local_name.as_deref().map(|name| image_name("local_name", name)).transpose()?;
        let credentials = match (request.username, request.password) {
            (Some(username), Some(password)) => Some(Credentials { username, password }),
            (None, None) => None,
            _ => return Err(ApiError::bad_request("username and password go together")),
        };
        let pull = Pull { name, local_name, credentials, plain_http: request.plain_http, is_trusted: true };
        self.begin(move |app, report| async move { app.node.image_pull(pull, report).await })
    }

    /// Begins to build an image.
    pub async fn build_image(self: &Arc<Self>, who: &Principal, request: ImageBuildRequest) -> Result<Job, ApiError> {
        self.auth.require_operator(who).await?;
        let found = validate::image_build(&request);
        if !found.is_empty() {
            return Err(violations(found));
        }
        let spec = build_spec(request)?;
        // Told before the job begins, with its own status.
        self.node.images().resolve(&spec.base).map_err(|error| failure("finding the base", &error))?;
        self.begin(move |app, report| async move { app.node.image_build(spec, report).await })
    }

    /// Makes images of an archive in a request's body.
    pub async fn import_images(self: &Arc<Self>, who: &Principal, name: Option<&str>, body: Body) -> Result<Vec<ImageInfo>, ApiError> {
        self.auth.require_operator(who).await?;
        let name = name.map(|name| image_name("name", name)).transpose()?;
        let place = self.image_place()?;
        let spool: File = self.node.image_spool().map_err(|error| failure("keeping the archive", &error))?;
        let archive = keep(self, spool, body).await?;
        let app = Arc::clone(self);
        // To its end, also when the client goes away now that all of it is here.
        let imported = self.sandboxes.tasks.spawn(async move {
            let imported = app.node.image_import(archive, name).await;
            app.images_changed();
            drop(place);
            imported
        });
        let imported = imported.await.unwrap_or(Err(ImageError::Stopped)).map_err(|error| failure("importing the archive", &error))?;
        Ok(imported.into_iter().map(rendered).collect())
    }

    /// An image as an archive, packed as fast as the client reads.
    pub async fn export_image(&self, who: &Principal, name: &str) -> Result<Body, ApiError> {
        self.auth.require_operator(who).await?;
        let content = self.node.image_check_export(name).map_err(|error| failure("finding the image", &error))?;
        let pin = self.node.pin(&content);
        let (node, name) = (self.node.clone(), name.to_owned());
        Ok(packed(move |out| {
            let packed = node.image_export(&content, &name, out);
            drop(pin);
            packed.map_err(|error| format!("the export of image {name} broke off: {}", error_text(&error)))
        }))
    }

    /// Takes a name of an image away; the content stays as long as sandboxes or snapshots need it. One that a template names
    /// goes only by force.
    pub async fn delete_image(&self, who: &Principal, name: &str, force: bool) -> Result<(), ApiError> {
        self.auth.require_operator(who).await?;
        let content = self.node.images().resolve(name).map_err(|error| failure("finding the image", &error))?;
        if content == HOST {
            return Err(ApiError::bad_request("the image \"host\" is built in and cannot be removed"));
        }
        if !force {
            let templates = self.store.templates_all().await.map_err(|e| store_failure("reading templates", &e))?;
            // By this very name; with the id of a content all its names go.
            let named = |image: &str| match name.parse::<ImageName>() {
                Ok(name) => image.parse() == Ok(name),
                Err(_) => self.node.images().resolve(image).is_ok_and(|image| image == content),
            };
            let names = |template: &&TemplateRecord| template.base.is_none() && named(spec::image_of(&template.spec));
            if let Some(template) = templates.iter().find(names) {
                return Err(ApiError::conflict(format!("template {:?} is made from it; force takes it away all the same", template.id)));
            }
        }
        let node = self.node.clone();
        let named = name.to_owned();
        let untagged = tokio::task::spawn_blocking(move || node.images().untag(&named)).await;
        untagged.unwrap_or(Err(ImageError::Stopped)).map_err(|error| failure("removing the image", &error))?;
        self.images_changed();
        Ok(())
    }

    /// Why a template's image is not there, and whether it comes by itself.
    pub fn image_absence(&self, image: &str, text: String) -> Absence {
        match self.image_jobs.lock().get(image) {
            Some(attempt) if attempt.is_under_way => Absence::Pulling,
            Some(Attempt { error: Some(error), .. }) => Absence::Failed(format!("it could not be pulled and will be tried again: {error}")),
            Some(_) | None if self.may_pull(image) => Absence::Pulling,
            Some(_) | None => Absence::Missing(text),
        }
    }

    /// Whether templates may have an image pulled by themselves.
    fn may_pull(&self, image: &str) -> bool {
        let allowed = &self.config.image_registries;
        let Ok(name) = image.parse::<ImageName>() else { return false };
        if name.to_string() == HOST {
            return false;
        }
        // The default registry goes by the name "default".
        let registry = name.registry.as_deref().unwrap_or("default");
        allowed.iter().any(|known| known == "*" || known == registry)
    }

    /// Pulls an image that templates name, if that is allowed and it is time to. Returns when to look again.
    pub(crate) fn pull_for_templates(self: &Arc<Self>, image: &str) -> Option<Instant> {
        if !self.may_pull(image) {
            return None;
        }
        let name: ImageName = image.parse().ok()?;
        let now = Instant::now();
        {
            let mut attempts = self.image_jobs.lock();
            if attempts.len() >= ATTEMPTS_MAX {
                attempts.retain(|_, attempt| attempt.is_under_way);
            }
            let fresh = Attempt { is_under_way: false, failures: 0, next_try: now, error: None };
            let attempt = attempts.entry(image.to_owned()).or_insert(fresh);
            if attempt.is_under_way {
                return None;
            }
            if attempt.next_try > now {
                return Some(attempt.next_try);
            }
            attempt.is_under_way = true;
        }
        let (app, image) = (Arc::clone(self), image.to_owned());
        // The operator who names a registry means it, wherever it is.
        let is_trusted = self.config.image_registries.iter().any(|known| Some(known) == name.registry.as_ref());
        self.sandboxes.tasks.spawn(async move {
            // Never closed.
            let _place = app.image_jobs.template_places.acquire().await;
            let (report, mut progress) = mpsc::channel(PROGRESS_MAX);
            let pull = Pull { name, local_name: None, credentials: None, plain_http: false, is_trusted };
            let (asked, named) = (Arc::clone(&app), image.clone());
            // It has the progress, and without a reader a pull is given up.
            let wanted = async move {
                let mut look = tokio::time::interval(WANTED_EVERY);
                loop {
                    tokio::select! {
                        line = progress.recv() => if line.is_none() { return },
                        _ = look.tick() => if !asked.is_wanted(&named).await { return },
                    }
                }
            };
            let (pulled, ()) = tokio::join!(app.node.image_pull(pull, report), wanted);
            app.pulled(&image, pulled.err());
        });
        None
    }

    /// Pulls an image that an app names, if that is allowed. Given up when nobody reads the report any more.
    pub(crate) async fn pull_for_app(&self, image: &str, report: mpsc::Sender<Progress>) -> Result<(), ApiError> {
        let name = image_name("runtime.image.ref", image)?;
        if !self.may_pull(image) {
            return Err(ApiError::conflict("images of its registry are not pulled by themselves; the operator can pull it"));
        }
        let is_trusted = self.config.image_registries.iter().any(|known| Some(known) == name.registry.as_ref());
        // Never closed.
        let _place = self.image_jobs.template_places.acquire().await;
        let pulled = self.node.image_pull(Pull { name, local_name: None, credentials: None, plain_http: false, is_trusted }, report).await;
        self.images_changed();
        pulled.map(drop).map_err(|error| failure("pulling the image", &error))
    }

    /// Whether a template still names an image.
    async fn is_wanted(&self, image: &str) -> bool {
        let templates = self.store.templates_all().await;
        templates.map_or(true, |templates| templates.iter().any(|template| spec::image_of(&template.spec) == image))
    }

    fn pulled(&self, image: &str, error: Option<ImageError>) {
        let mut attempts = self.image_jobs.lock();
        match error {
            None => {
                attempts.remove(image);
            }
            Some(error) => {
                let text = error_text(&error);
                tracing::warn!(image, error = text, "an image of a template could not be pulled");
                if let Some(attempt) = attempts.get_mut(image) {
                    attempt.is_under_way = false;
                    attempt.next_try = Instant::now() + BACKOFF.0.saturating_mul(1 << attempt.failures.min(16)).min(BACKOFF.1);
                    attempt.failures = attempt.failures.saturating_add(1);
                    attempt.error = Some(text);
                }
            }
        }
        drop(attempts);
        self.images_changed();
    }

    fn begin<F, W>(self: &Arc<Self>, work: F) -> Result<Job, ApiError>
    where
        F: FnOnce(SharedApp, mpsc::Sender<Progress>) -> W + Send + 'static,
        W: Future<Output = Result<ImageView, ImageError>> + Send,
    {
        let place = self.image_place()?;
        let (report, progress) = mpsc::channel(PROGRESS_MAX);
        let app = Arc::clone(self);
        let outcome = self.sandboxes.tasks.spawn(async move {
            let made = work(Arc::clone(&app), report).await;
            app.images_changed();
            drop(place);
            made.map(rendered).map_err(|error| failure("making the image", &error))
        });
        Ok(Job { progress, outcome })
    }

    fn image_place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.image_jobs.places).try_acquire_owned().map_err(|_| {
            ApiError::unavailable(format!("{} images are pulled, imported or built at this moment, which is the most; try again soon", limits::IMAGE_JOBS_MAX))
                .retry_after(5)
        })
    }

    /// Names mean other contents now, or none: pools follow, and what lost its last name may go.
    fn images_changed(&self) {
        self.node.release(self.node.images().nameless());
        self.templates_changed.notify_one();
        self.collect_soon.notify_one();
    }
}

fn rendered(view: ImageView) -> ImageInfo {
    let ImageView { record, names } = view;
    ImageInfo {
        id: record.id,
        names,
        source: record.source,
        size_bytes: record.layers.iter().map(|layer| layer.bytes).sum(),
        layers: u32::try_from(record.layers.len()).unwrap_or(u32::MAX),
        manifest_digest: record.manifest_digest,
        created_at: Some(rfc3339(record.created_at_ms)),
    }
}

fn build_spec(request: ImageBuildRequest) -> Result<BuildSpec, ApiError> {
    let asked = Resources { memory: request.memory.clone(), ..Resources::default() };
    let asked = validate::resources(&asked, "").map_err(|found| {
        let at = |violation: validate::Violation| validate::Violation::new(violation.path.trim_start_matches('.'), violation.message);
        violations(found.into_iter().map(at).collect())
    })?;
    let policy = match &request.network {
        Some(network) => egress::compile_value(network)
            .map_err(|errors| ApiError::bad_request(errors.iter().map(|error| format!("network.{error}")).collect::<Vec<_>>().join("; ")))?,
        None => Policy::allow_all(),
    };
    let mut files = Vec::with_capacity(request.files.len());
    for (n, file) in request.files.into_iter().enumerate() {
        let contents = match (file.text, file.base64) {
            (Some(text), _) => Bytes::from(text),
            (None, bytes) => {
                let decoded = BASE64_STANDARD.decode(bytes.unwrap_or_default());
                Bytes::from(decoded.map_err(|error| ApiError::bad_request(format!("files[{n}].base64: {error}")))?)
            }
        };
        let mode = file.mode.as_deref().and_then(validate::mode_of).unwrap_or(0o644);
        files.push(BuildFile { path: file.path, contents, mode });
    }
    let env: BTreeMap<String, String> = validate::env_vars(&request.env, "env").map_err(violations)?;
    Ok(BuildSpec {
        name: image_name("name", &request.name)?,
        base: request.base,
        env,
        working_dir: request.working_dir,
        files,
        run: request.run,
        limits: Limits { memory_bytes: asked.memory_bytes, cpu_millis: 0, pids: limits::PIDS_DEFAULT, disk_bytes: asked.disk_bytes },
        policy,
        reuse: !request.no_cache,
    })
}

fn image_name(field: &str, text: &str) -> Result<ImageName, ApiError> {
    text.parse().map_err(|error| ApiError::bad_request(format!("{field}: {error}")))
}

fn failure(operation: &str, error: &ImageError) -> ApiError {
    let text = error_text(error);
    if error.is_disk_full() {
        return ApiError::new(ErrorCode::InsufficientStorage, format!("the server's disk is full: {text}")).retry_after(10);
    }
    match error {
        ImageError::Unknown(_) => ApiError::new(ErrorCode::NotFound, text),
        ImageError::NoSuchImage(_) => ApiError::new(ErrorCode::NotFound, text),
        ImageError::Registry(_) | ImageError::Slow => ApiError::unavailable(text),
        ImageError::Stopped | ImageError::Abandoned => ApiError::unavailable(text).retry_after(1),
        error if error.is_internal() => ApiError::internal(operation, &text),
        ImageError::Sandbox(_) => ApiError::unavailable(text),
        _ => ApiError::bad_request(text),
    }
}
