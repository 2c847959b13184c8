//! Images: what lies below a sandbox's own layer. One is built in (`host`); others are pulled, imported or built, and
//! stand below `DATA/images`:
//!
//! ```text
//! index.json         which images there are, by the digest of their configuration, and what they are called
//! layers/<digest>    layers, unpacked once, by the digest of their plain tar; ids on disk are those inside
//! downloads/<digest> layers on their way here, to be gone on with after an interruption
//! half-*             what was not finished; swept at the start
//! ```
//!
//! The index is replaced as a whole and last, after the layers are safe on disk, so a crash leaves nothing half: at the
//! worst a layer that no image names, which the next collection removes.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::image::{ImageName, ImageNameError, is_digest};
use sandbar_linux::launch::Bind;
use sandbar_tree::{ArchiveError, TreeError};

mod archive;
mod build;
mod config;
mod export;
mod host;
mod index;
mod install;
mod pull;
mod registry;

pub use build::{BuildFile, BuildSpec};
pub use index::{ImageRecord, LayerRecord};
pub use install::{LAYERS_MAX, Progress};
pub use pull::{Credentials, Pull};
pub use sandbar_core::image::HOST;

use crate::roots::{Roots, list_names, make_private_dir};
use index::Index;

/// Files of fresh layers that are made durable one by one; more are by a single call for the whole disk.
const SAVED_ONE_BY_ONE_MAX: u64 = 500;
/// What names of unfinished folders begin with.
const HALF: &str = "half-";

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {0:?} is not on this machine; `sandbar image ls` lists those that are")]
    Unknown(String),
    #[error(transparent)]
    Name(#[from] ImageNameError),
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the index of images {path} cannot be read: {text}")]
    Index { path: PathBuf, text: String },
    #[error("the registry: {0}")]
    Registry(String),
    #[error("the registry sends less than 64 KiB in a minute")]
    Slow,
    #[error("the registry has no such image ({0})")]
    NoSuchImage(String),
    #[error("the registry wants credentials, or other ones (--username, --password-stdin): {0}")]
    Credentials(String),
    #[error("the image is not as it should be: {0}")]
    Malformed(String),
    #[error("layer {digest}: {error}")]
    Layer { digest: String, error: ArchiveError },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the image needs more than the {left} bytes that may be used of the disk; `sandbar du` says what takes it")]
    NoRoom { left: u64 },
    #[error("{0}")]
    Refused(String),
    #[error("step {step} of {of} ended with exit code {code}: {command}")]
    Step { step: usize, of: usize, code: i32, command: String },
    #[error("the sandbox of the build: {0}")]
    Sandbox(String),
    #[error("nobody waits for it any more")]
    Abandoned,
    #[error("the server is stopping")]
    Stopped,
}

impl ImageError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            Self::Layer { error, .. } | Self::Archive(error) => error.is_disk_full(),
            Self::Tree(error) => error.is_disk_full(),
            _ => false,
        }
    }

    /// Whether it is the server's fault and not that of what it was given.
    pub fn is_internal(&self) -> bool {
        match self {
            Self::Index { .. } | Self::Io { .. } | Self::Tree(_) => true,
            Self::Layer { error, .. } | Self::Archive(error) => matches!(error, ArchiveError::Tree(_)),
            _ => false,
        }
    }
}

/// What a launch needs of an image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Read-only layers, top first.
    pub lowers: Vec<PathBuf>,
    /// Folders of the host that are shown read-only.
    pub binds: Vec<Bind>,
    /// Environment of the image, weakest of all.
    pub env: Vec<(String, String)>,
}

/// An image, and what it is called.
#[derive(Debug, Clone)]
pub struct ImageView {
    pub record: ImageRecord,
    pub names: Vec<String>,
}

/// The images of this machine. Clones are the same.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
    host: Image,
    around: host::Around,
    state: Arc<Mutex<State>>,
    /// One at a time writes the index.
    saving: Arc<Mutex<()>>,
    pulls: pull::Flights,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    /// What launches need, made of the index.
    ready: HashMap<String, Image>,
    /// Folders of layers, and downloads, that an image under way counts on.
    held: HashMap<String, usize>,
}

impl Images {
    /// Makes the host image unless it is there already, puts the agent into it, and reads which others there are.
    pub fn open(data_dir: &Path, agent: &[u8], roots: &Roots) -> Result<Self, ImageError> {
        let dir = data_dir.join("images");
        make_private_dir(&dir).map_err(|error| failed("make", &dir)(io::Error::other(error)))?;
        for name in list_names(&dir).iter().filter(|name| name.starts_with(HALF)) {
            roots.trash(&dir.join(name), name);
        }
        for path in [dir.join("layers"), dir.join("downloads")] {
            // Files in it have the ids of the inside, setuid bits too: nobody but the server may enter.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("make", &path))?;
        }
        let host = host::make(&dir, agent)?;
        let around = host::around(&dir, agent)?;
        let index = Index::read(&dir.join(index::FILE))?;
        let images = Self {
            dir,
            host,
            around,
            state: Arc::new(Mutex::new(State { index, ..State::default() })),
            saving: Arc::default(),
            pulls: pull::Flights::default(),
        };
        images.make_ready(&mut images.lock());
        Ok(images)
    }

    /// The content that a name means now; a content's own id means itself.
    pub fn resolve(&self, name: &str) -> Result<String, ImageError> {
        if name == HOST {
            return Ok(HOST.to_owned());
        }
        let state = self.lock();
        let unknown = || ImageError::Unknown(name.to_owned());
        if is_digest(name) {
            return state.index.images.contains_key(name).then(|| name.to_owned()).ok_or_else(unknown);
        }
        let name: ImageName = name.parse()?;
        state.index.names.get(&name.to_string()).cloned().ok_or_else(unknown)
    }

    /// The image with this content.
    pub fn get(&self, content: &str) -> Result<Image, ImageError> {
        if content == HOST {
            return Ok(self.host.clone());
        }
        self.lock().ready.get(content).cloned().ok_or_else(|| ImageError::Unknown(content.to_owned()))
    }

    /// What programs find in their environment; nothing for one that is not there.
    pub fn env(&self, content: &str) -> Vec<(String, String)> {
        if content == HOST { self.host.env.clone() } else { self.lock().ready.get(content).map(|image| image.env.clone()).unwrap_or_default() }
    }

    /// All images but the built-in one, sorted by name.
    pub fn list(&self) -> Vec<ImageView> {
        let state = self.lock();
        let view = |record: &ImageRecord| ImageView { record: record.clone(), names: state.index.names_of(&record.id) };
        let mut all: Vec<_> = state.index.images.values().map(view).collect();
        all.sort_by(|a, b| (a.names.is_empty(), &a.names, &a.record.id).cmp(&(b.names.is_empty(), &b.names, &b.record.id)));
        all
    }

    /// One of them.
    pub fn view(&self, content: &str) -> Result<ImageView, ImageError> {
        let state = self.lock();
        let record = state.index.images.get(content).cloned().ok_or_else(|| ImageError::Unknown(content.to_owned()))?;
        let names = state.index.names_of(content);
        Ok(ImageView { record, names })
    }

    /// Takes a name away; the content goes with the next collection, unless something else needs it. Returns the content.
    /// With a content's id all its names go.
    pub fn untag(&self, name: &str) -> Result<String, ImageError> {
        let content = self.resolve(name)?;
        if content == HOST {
            return Err(ImageError::Refused("the image \"host\" is built in and cannot be removed".to_owned()));
        }
        let by_id = is_digest(name);
        let exact = if by_id { None } else { Some(name.parse::<ImageName>()?.to_string()) };
        self.change(|index| index.names.retain(|known, id| *id != content || exact.as_ref().is_some_and(|exact| exact != known)))?;
        Ok(content)
    }

    /// Contents without a name.
    pub fn nameless(&self) -> Vec<String> {
        let state = self.lock();
        let named: HashSet<&String> = state.index.names.values().collect();
        state.index.images.keys().filter(|id| !named.contains(id)).cloned().collect()
    }

    /// Forgets a content unless it has a name. Its layers go with [`Self::sweep_layers`].
    pub(crate) fn forget(&self, content: &str) -> Result<bool, ImageError> {
        let mut gone = false;
        self.change(|index| {
            if !index.names.values().any(|id| id == content) {
                gone = index.images.remove(content).is_some();
            }
        })?;
        Ok(gone)
    }

    /// Moves layers to the trash that no image has and none under way counts on. Returns how many.
    pub(crate) fn sweep_layers(&self, roots: &Roots) -> usize {
        let dir = self.dir.join("layers");
        let state = self.lock();
        let used: HashSet<&str> = state.index.images.values().flat_map(|record| record.layers.iter().map(LayerRecord::folder)).collect();
        let mut swept = 0;
        // Under the lock: an image that is finished meanwhile waits.
        for name in list_names(&dir).iter().filter(|name| !used.contains(name.as_str()) && !state.held.contains_key(*name)) {
            roots.trash(&dir.join(name), name);
            swept += 1;
        }
        swept
    }

    /// Removes downloads that nobody goes on with. Returns their bytes.
    pub(crate) fn sweep_downloads(&self) -> u64 {
        let dir = self.dir.join("downloads");
        let held: HashSet<String> = self.lock().held.keys().cloned().collect();
        let mut bytes = 0;
        for name in list_names(&dir).iter().filter(|name| !held.contains(name.as_str())) {
            let path = dir.join(name);
            bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let _ = fs::remove_file(&path);
        }
        bytes
    }

    /// The agent as a file, to be executed as pid 1.
    pub fn agent_path(&self) -> PathBuf {
        host::agent_in(&self.host.lowers[0])
    }

    /// Folder of all this.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the layer with this folder is or will be.
    fn layer(&self, folder: &str) -> PathBuf {
        self.dir.join("layers").join(folder)
    }

    fn launchable(&self, record: &ImageRecord) -> Image {
        // A layer that an image has twice lies where it is on top: no overlay takes a folder twice.
        let mut seen = HashSet::new();
        let own: Vec<_> = record.layers.iter().rev().filter(|layer| seen.insert(layer.folder())).map(|layer| self.layer(layer.folder())).collect();
        let config = config::Config::parse(&record.config).unwrap_or_default();
        if record.on_host {
            let lowers = own.into_iter().chain(self.host.lowers.iter().cloned()).collect();
            let mut env = self.host.env.clone();
            env.extend(config.env);
            return Image { lowers, binds: self.host.binds.clone(), env };
        }
        let lowers = [self.around.top.clone()].into_iter().chain(own).chain([self.around.bottom.clone()]).collect();
        Image { lowers, binds: Vec::new(), env: config.env }
    }

    /// Adds an image whose layers are there and held, or gives one that is there its name.
    ///
    /// Layers that no image names yet are made durable first: whatever names one must find it whole after a power failure.
    fn add(&self, record: ImageRecord, name: Option<&ImageName>) -> Result<ImageView, ImageError> {
        let id = record.id.clone();
        let layers = record.layers.clone();
        if let Some(layer) = layers.iter().find(|layer| !self.layer(layer.folder()).is_dir()) {
            return Err(ImageError::Malformed(format!("its layer {} is not here", layer.diff_id)));
        }
        let fresh: Vec<&LayerRecord> = {
            let state = self.lock();
            let named: HashSet<&str> = state.index.images.values().flat_map(|known| known.layers.iter().map(LayerRecord::folder)).collect();
            layers.iter().filter(|layer| !named.contains(layer.folder())).collect()
        };
        self.save_layers(&fresh)?;
        self.change(|index| {
            // What was recorded may name folders that are gone.
            index.images.entry(id.clone()).or_insert(record).layers = layers;
            if let Some(name) = name {
                index.names.insert(name.to_string(), id.clone());
            }
        })?;
        self.view(&id)
    }

    fn save_layers(&self, fresh: &[&LayerRecord]) -> Result<(), ImageError> {
        if fresh.is_empty() {
            return Ok(());
        }
        let dir = self.dir.join("layers");
        let open = fs::File::open(&dir).map_err(failed("open", &dir))?;
        if fresh.iter().map(|layer| layer.files).sum::<u64>() > SAVED_ONE_BY_ONE_MAX {
            // This waits for what others wrote to the same disk, too.
            return rustix::fs::syncfs(&open).map_err(|errno| failed("save", &dir)(errno.into()));
        }
        for layer in fresh {
            sandbar_tree::sync(&self.layer(layer.folder()))?;
        }
        open.sync_all().map_err(failed("save", &dir))
    }

    /// Changes the index on disk and then here.
    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<(), ImageError> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = self.lock().index.clone();
        change(&mut index);
        index.write(&self.dir.join(index::FILE))?;
        let mut state = self.lock();
        state.index = index;
        self.make_ready(&mut state);
        Ok(())
    }

    /// Keeps what launches need in step with the index.
    fn make_ready(&self, state: &mut State) {
        state.ready = state.index.images.values().map(|record| (record.id.clone(), self.launchable(record))).collect();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digits of `sha256:<digits>`.
fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { what, path: path.to_owned(), source }
}
