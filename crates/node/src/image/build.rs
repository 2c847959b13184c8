//! Images that are built here: setup commands are run once, in a sandbox on another image, and what they left becomes a
//! layer on top of that image's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use sandbar_core::{egress::Policy, image::ImageName, sandbox::Base};
use sandbar_linux::launch::{Lower, overlay_view};
use sandbar_procd_api::{Assign, Cmd, ContextType, CreateContext, Stream};
use serde_json::json;

use super::{
    HOST, ImageError, ImageRecord, ImageView, Images, LayerRecord,
    archive::check_names,
    config::{Config, NewConfig, digest_of},
    install::{Hold, LAYERS_MAX, Progress, Report, now_ms},
};
use crate::{
    Limits, Node, Root, Runtime, RuntimeSpec,
    client::{AttachedFrame, ProcdError},
    error_text,
    layers::path_of,
};

/// A step that takes longer is ended.
const STEP_MAX: Duration = Duration::from_secs(3600);
/// What the recipe's digest is of; changed when builds change.
const RECIPE_VERSION: u32 = 1;

/// How an image is to be built.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    pub name: ImageName,
    /// The name of the image to begin with.
    pub base: String,
    /// On top of the base's, for the steps and for the image.
    pub env: BTreeMap<String, String>,
    /// Where steps run and the image's programs begin; made if it is missing.
    pub working_dir: Option<String>,
    /// Written before the first step.
    pub files: Vec<BuildFile>,
    /// Commands for `/bin/sh`, one after the other; the first that fails ends the build.
    pub run: Vec<String>,
    pub limits: Limits,
    pub policy: Policy,
    /// Whether an image that was built from the very same is taken instead.
    pub reuse: bool,
}

/// A file of a build.
#[derive(Debug, Clone)]
pub struct BuildFile {
    /// Absolute.
    pub path: String,
    pub contents: Bytes,
    pub mode: u32,
}

impl Node {
    /// Builds an image. Given up when nobody reads the report any more.
    pub async fn image_build(&self, spec: BuildSpec, report: Report) -> Result<ImageView, ImageError> {
        check_names(std::slice::from_ref(&spec.name), false)?;
        let images = &self.inner.images;
        let content = images.resolve(&spec.base)?;
        let base = Base { image: content.clone(), layers: Vec::new() };
        let _pin = self.pin_base(&base);
        let below = if content == HOST { None } else { Some(images.view(&content)?.record) };
        if below.as_ref().is_some_and(|record| record.layers.len() >= LAYERS_MAX) {
            return Err(ImageError::Refused(format!("image {:?} has {LAYERS_MAX} layers already, which is the most", spec.base)));
        }
        let recipe = recipe(&content, &spec);
        if let Some((known, hold)) = spec.reuse.then(|| images.built_from(&recipe)).flatten() {
            let (images, name) = (images.clone(), spec.name.clone());
            return blocking(move || {
                let added = images.add(known, Some(&name));
                drop(hold);
                added
            })
            .await;
        }
        let root = self.create_root().await.map_err(|error| ImageError::Sandbox(error_text(&error)))?;
        let ran = self.run_in(&spec, &base, &root, &report).await;
        let built = match ran {
            Ok(()) => self.keep_layer(&spec, below.as_ref(), &root, recipe).await,
            Err(error) => Err(error),
        };
        self.remove_root(&root);
        built
    }

    /// Runs the steps over a root, and ends what they left running.
    async fn run_in(&self, spec: &BuildSpec, base: &Base, root: &Root, report: &Report) -> Result<(), ImageError> {
        let launched = RuntimeSpec { base: base.clone(), limits: spec.limits, mounts: Vec::new(), tmpfs: Vec::new(), warm: Vec::new() };
        let sandbox = |error: &dyn std::error::Error| ImageError::Sandbox(error_text(error));
        let runtime = self.launch(&launched, root.clone()).await.map_err(|error| sandbox(&error))?;
        let mut env: BTreeMap<String, String> = self.inner.images.get(&base.image)?.env.into_iter().collect();
        env.extend(spec.env.clone());
        let steps = async {
            runtime.set_policy(spec.policy.clone()).await.map_err(|error| sandbox(&error))?;
            let cwd = spec.working_dir.clone().unwrap_or_else(|| "/".to_owned());
            let assign = Assign { sandbox_id: "build".to_owned(), base_env: env, env: BTreeMap::new(), cwd: Some(cwd.clone()), ..Assign::default() };
            runtime.client.assign(&assign).await.map_err(|error| sandbox(&error))?;
            for file in &spec.files {
                let (body, mode) = (Full::new(file.contents.clone()), format!("{:04o}", file.mode & 0o7777));
                let written = runtime.client.write_file(&file.path, Some(&mode), Some(file.contents.len() as u64), body).await;
                written.map_err(|error| refused(error, &format!("{} cannot be written", file.path)))?;
            }
            for (index, command) in spec.run.iter().enumerate() {
                // Nobody has to read it.
                let _ = report.send(Progress::Step { step: index + 1, of: spec.run.len(), command: command.clone() }).await;
                step(&runtime, command, &cwd, (index + 1, spec.run.len()), report).await?;
            }
            Ok(())
        };
        let ran = tokio::select! {
            ran = steps => ran,
            () = runtime.ended() => Err(ImageError::Sandbox("it ended by itself".to_owned())),
            () = report.closed() => Err(ImageError::Abandoned),
            () = self.inner.stop.cancelled() => Err(ImageError::Stopped),
        };
        runtime.destroy().await.map_err(|error| sandbox(&error))?;
        self.remove_logs(&runtime.id);
        ran
    }

    /// What the steps wrote, as a layer, and the image that has it on top.
    async fn keep_layer(&self, spec: &BuildSpec, below: Option<&ImageRecord>, root: &Root, recipe: String) -> Result<ImageView, ImageError> {
        let images = self.inner.images.clone();
        let base = images.get(below.map_or(HOST, |record| &record.id))?;
        let own = root.uid_base();
        let lowers: Vec<Lower> = base.lowers.iter().map(Lower::shared).collect();
        let mut all = vec![Lower { path: self.inner.roots.upper(&root.id), base: own }];
        all.extend(lowers.iter().cloned());
        let (below, spec, roots) = (below.cloned(), spec.clone(), self.inner.roots.clone());
        blocking(move || {
            let half = images.half()?;
            let kept = || {
                let view = |layers: &[Lower]| overlay_view(layers, own).map_err(|error| ImageError::Sandbox(error_text(&error)));
                let (merged, lower) = (view(&all)?, view(&lowers)?);
                sandbar_tree::difference(&path_of(&lower), &path_of(&merged), &half.join("layer"), own, 0)?;
                let mut hash = Hashing::default();
                sandbar_tree::pack_layer(&half.join("layer"), &mut hash)?;
                let diff_id = hash.digest();
                // All folders that it has are named in it, so it is the same on whatever it lies.
                let (layer, _hold) = images.place(&half, &diff_id, super::hex_of(&diff_id))?;
                let _below = images.hold(below.iter().flat_map(|record| record.layers.iter().map(LayerRecord::folder)));
                let config = config_of(below.as_ref(), &spec, &diff_id)?;
                let record = ImageRecord {
                    id: digest_of(config.as_bytes()),
                    on_host: below.as_ref().is_none_or(|record| record.on_host),
                    layers: below.iter().flat_map(|record| record.layers.clone()).chain([layer]).collect(),
                    config,
                    source: format!("built on {}", spec.base),
                    manifest_digest: None,
                    recipe: Some(recipe),
                    created_at_ms: now_ms(),
                };
                images.add(record, Some(&spec.name))
            };
            let result = kept();
            roots.trash(&half, "half-layer");
            roots.empty_trash();
            result
        })
        .await
    }
}

impl Images {
    /// An image of this recipe whose layers are all here, and what keeps them.
    fn built_from(&self, recipe: &str) -> Option<(ImageRecord, Hold)> {
        let known = self.lock().index.images.values().find(|record| record.recipe.as_deref() == Some(recipe)).cloned()?;
        let hold = self.hold(known.layers.iter().map(LayerRecord::folder));
        // Held before it is looked for.
        known.layers.iter().all(|layer| self.layer(layer.folder()).is_dir()).then_some((known, hold))
    }
}

/// One command, with all that it prints.
async fn step(runtime: &Arc<Runtime>, command: &str, cwd: &str, (step, of): (usize, usize), report: &Report) -> Result<(), ImageError> {
    let sandbox = |error: &dyn std::error::Error| ImageError::Sandbox(error_text(error));
    let create = CreateContext {
        kind: ContextType::Cmd,
        repl: None,
        cmd: Some(Cmd { command: ["/bin/sh", "-c", command].map(str::to_owned).to_vec() }),
        wait_until_done: false,
        cwd: Some(cwd.to_owned()),
        env_vars: BTreeMap::from([("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())]),
        pty_size: None,
        idle_timeout_sec: 0,
        ttl_sec: STEP_MAX.as_secs(),
        untold: false,
        followed: true,
        kept: None,
    };
    let created = runtime.client.create_context(&create).await;
    let context = created.map_err(|error| refused(error, &format!("step {step} of {of} cannot be started; the base needs a /bin/sh")))?;
    let (mut output, mut input) = runtime.client.attach(&context.id).await.map_err(|error| sandbox(&error))?.split();
    // Who asks questions is told that nobody answers. One that has ended by now asks none.
    let _ = input.end_input().await;
    while let Some(frame) = output.next().await.map_err(|error| sandbox(&error))? {
        match frame {
            AttachedFrame::Output { stream, data } => {
                let _ = report.send(Progress::Output { is_error: stream == Stream::Stderr, data }).await;
            }
            AttachedFrame::Lost(lost) => {
                let _ = report.send(Progress::Output { is_error: lost.stream == Stream::Stderr, data: lost.line() }).await;
            }
            AttachedFrame::Ready(_) => {}
            AttachedFrame::Done(done) if done.exit_code == 0 => {
                runtime.client.delete_context(&context.id).await.map_err(|error| sandbox(&error))?;
                return Ok(());
            }
            AttachedFrame::Done(done) => return Err(ImageError::Step { step, of, code: done.exit_code, command: command.chars().take(200).collect() }),
        }
    }
    Err(ImageError::Sandbox("its agent closed the connection".to_owned()))
}

/// What the sandbox refuses is about what it was asked to do; everything else is about the sandbox.
fn refused(error: ProcdError, what: &str) -> ImageError {
    match error {
        ProcdError::Api { body, .. } => ImageError::Refused(format!("{what}: {}", body.message)),
        other => ImageError::Sandbox(format!("{what}: {}", error_text(&other))),
    }
}

/// The base's configuration with what the build adds to it.
fn config_of(below: Option<&ImageRecord>, spec: &BuildSpec, diff_id: &str) -> Result<String, ImageError> {
    let history = spec.run.join("; ");
    let Some(below) = below else {
        let env = spec.env.clone().into_iter().collect();
        return Ok(NewConfig { env, working_dir: spec.working_dir.clone(), history: vec![history], diff_ids: vec![diff_id.to_owned()] }.render());
    };
    let unreadable = |error: serde_json::Error| ImageError::Malformed(format!("the base's configuration cannot be read: {error}"));
    let mut env: BTreeMap<String, String> = Config::parse(&below.config)?.env.into_iter().collect();
    env.extend(spec.env.clone());
    let mut config: serde_json::Value = serde_json::from_str(&below.config).map_err(unreadable)?;
    if !config["config"].is_object() {
        config["config"] = json!({});
    }
    config["config"]["Env"] = json!(env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>());
    if let Some(dir) = &spec.working_dir {
        config["config"]["WorkingDir"] = json!(dir);
    }
    // Layers may have been packed anew since the base came, so what is recorded counts.
    let diff_ids: Vec<_> = below.layers.iter().map(|layer| layer.diff_id.as_str()).chain([diff_id]).collect();
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    if let Some(steps) = config["history"].as_array_mut() {
        steps.push(json!({ "created_by": history }));
    }
    Ok(config.to_string())
}

/// What an image is built from, as a digest.
fn recipe(base: &str, spec: &BuildSpec) -> String {
    let files: Vec<_> = spec.files.iter().map(|file| json!([file.path, file.mode, digest_of(&file.contents)])).collect();
    digest_of(json!([RECIPE_VERSION, base, spec.env, spec.working_dir, files, spec.run]).to_string().as_bytes())
}

#[derive(Default)]
struct Hashing(sha2::Sha256);

impl Hashing {
    fn digest(self) -> String {
        use sha2::Digest;
        format!("sha256:{}", hex::encode(self.0.finalize()))
    }
}

impl std::io::Write for &mut Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        use sha2::Digest;
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ImageError::Stopped))
}
