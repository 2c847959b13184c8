//! Images from registries. Layers are downloaded side by side, each to a file that is gone on with after an interruption,
//! checked, and unpacked in order.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use sandbar_core::{
    egress::Protected,
    image::{ImageName, is_digest},
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncSeekExt, AsyncWriteExt},
    sync::{OwnedMutexGuard, Semaphore},
};

use super::{
    ImageError, ImageView, Images, LayerRecord,
    archive::check_names,
    failed, hex_of,
    install::{Blob, Hold, LAYER_MAX_BYTES, LAYERS_MAX, Parts, Progress, Report},
    registry::{Descriptor, Manifest, Registry, shown},
};
use crate::{Node, roots::Roots};

/// Layers of one image that are downloaded at a time.
const DOWNLOADS_MAX: usize = 3;
/// Times that a download is gone on with; a wait of the second figure times the attempt comes before each.
const ATTEMPTS: (u32, Duration) = (5, Duration::from_millis(500));
/// A registry from which less than so much of a layer comes in such a time holds everybody else up.
const SLOWEST: (u64, Duration) = (64 << 10, Duration::from_secs(60));
/// The room on the disk is looked at again each time so much more is there.
const LOOK_EVERY_BYTES: u64 = 64 << 20;
/// Progress of a download is told each time so much more is there.
const TELL_EVERY_BYTES: u64 = 1 << 20;

/// What is to be pulled, and how.
#[derive(Debug, Clone)]
pub struct Pull {
    pub name: ImageName,
    /// What it is to be called here; its own name, if absent.
    pub local_name: Option<ImageName>,
    pub credentials: Option<Credentials>,
    /// By plain HTTP. Registries on loopback addresses are asked so in any case.
    pub plain_http: bool,
    /// Whether somebody named the registry who may name any: else it is asked only if its address is not protected.
    pub is_trusted: bool,
}

/// For the registry alone; kept nowhere.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One download of a layer at a time, whichever images want it.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>);

impl Flights {
    async fn enter(&self, digest: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, lock| lock.strong_count() > 0);
            let known = flights.get(digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::default();
                flights.insert(digest.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

impl Node {
    /// Pulls an image, or finds that it is here. Given up when nobody reads the report any more; what was downloaded by then
    /// is kept for the next time.
    pub async fn image_pull(&self, pull: Pull, report: Report) -> Result<ImageView, ImageError> {
        let images = self.inner.images.clone();
        let roots = self.inner.roots.clone();
        let protected = self.inner.egress.protected();
        let pulled = tokio::select! {
            pulled = images.pull(&pull, protected, &roots, &report) => pulled,
            () = report.closed() => Err(ImageError::Abandoned),
            () = self.inner.stop.cancelled() => Err(ImageError::Stopped),
        };
        self.inner.tasks.spawn_blocking(move || roots.empty_trash());
        pulled
    }
}

impl Images {
    async fn pull(&self, pull: &Pull, protected: Arc<Protected>, roots: &Roots, report: &Report) -> Result<ImageView, ImageError> {
        let local = pull.local_name.clone().unwrap_or_else(|| pull.name.clone());
        check_names(std::slice::from_ref(&local), local == pull.name)?;
        let source = Arc::new(Registry::new(pull, protected)?);
        let manifest = source.manifest(&pull.name).await?;
        let bytes = check(&manifest)?;
        let parts =
            Parts { config: source.config(&manifest.config).await?, source: format!("pulled {}", pull.name), manifest_digest: Some(manifest.digest.clone()) };
        let diff_ids = parts.diff_ids()?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Malformed(format!("it has {} layers and its configuration names {}", manifest.layers.len(), diff_ids.len())));
        }
        let downloads = self.hold(manifest.layers.iter().map(|layer| layer.digest.as_str()));
        tell(report, Progress::Layers { count: diff_ids.len(), bytes });
        let left = self.room()?;
        if bytes > left {
            return Err(ImageError::NoRoom { left });
        }
        let (layers, holds) = self.layers(&source, &diff_ids, &manifest.layers, roots, report).await?;
        let images = self.clone();
        let finished = tokio::task::spawn_blocking(move || {
            let finished = images.finish(parts, layers, Some(&local));
            // Here, since nobody may wait for this any more.
            drop((holds, downloads));
            finished
        });
        finished.await.unwrap_or(Err(ImageError::Stopped))
    }

    /// Downloads what is missing side by side, and unpacks in order.
    async fn layers(
        &self,
        source: &Arc<Registry>,
        diff_ids: &[String],
        packed: &[Descriptor],
        roots: &Roots,
        report: &Report,
    ) -> Result<(Vec<LayerRecord>, Vec<Hold>), ImageError> {
        let places = Arc::new(Semaphore::new(DOWNLOADS_MAX));
        // Ends all when this is dropped.
        let mut downloads = tokio::task::JoinSet::new();
        let mut arrivals = Vec::with_capacity(diff_ids.len());
        // Which folder a layer is in may depend on those below it, so only the beginning of the stack can be known by now.
        let (mut layers, mut holds) = (Vec::new(), Vec::new());
        for (diff_id, layer) in diff_ids.iter().zip(packed) {
            if layers.len() == arrivals.len()
                && let Some((found, hold)) = self.find(diff_id, &layers).await
            {
                layers.push(found);
                holds.push(hold);
                arrivals.push(None);
                continue;
            }
            let (arrived, arrival) = tokio::sync::oneshot::channel();
            arrivals.push(Some(arrival));
            let (images, source, layer, report, places) = (self.clone(), Arc::clone(source), layer.clone(), report.clone(), Arc::clone(&places));
            downloads.spawn(async move {
                // The semaphore is never closed.
                let _place = places.acquire().await;
                let _ = arrived.send(images.download(&source, &layer, &report).await);
            });
        }
        for ((diff_id, layer), arrival) in diff_ids.iter().zip(packed).zip(arrivals) {
            let digest = layer.digest.clone();
            let Some(arrival) = arrival else {
                tell(report, Progress::Ready { digest, was_there: true });
                continue;
            };
            let (path, flight) = arrival.await.unwrap_or(Err(ImageError::Stopped))?;
            let (record, hold) = match self.find(diff_id, &layers).await {
                // Another image has it too.
                Some(found) => {
                    let _ = fs::remove_file(&path);
                    found
                }
                None => {
                    tell(report, Progress::Unpacking { digest: digest.clone() });
                    let (images, roots, diff_id, below) = (self.clone(), roots.clone(), diff_id.clone(), layers.clone());
                    let unpacked = tokio::task::spawn_blocking(move || images.unpack_download(&path, &diff_id, &below, &roots));
                    unpacked.await.unwrap_or(Err(ImageError::Stopped))?
                }
            };
            drop(flight);
            tell(report, Progress::Ready { digest, was_there: false });
            layers.push(record);
            holds.push(hold);
        }
        Ok((layers, holds))
    }

    async fn find(&self, diff_id: &str, below: &[LayerRecord]) -> Option<(LayerRecord, Hold)> {
        let (images, diff_id, below) = (self.clone(), diff_id.to_owned(), below.to_vec());
        tokio::task::spawn_blocking(move || images.find_layer(&diff_id, &below)).await.ok().flatten()
    }

    fn unpack_download(&self, path: &Path, diff_id: &str, below: &[LayerRecord], roots: &Roots) -> Result<(LayerRecord, Hold), ImageError> {
        let file = fs::File::open(path).map_err(failed("open", path))?;
        let length = file.metadata().map_err(failed("look at", path))?.len();
        let unpacked = self.unpack_layer(Blob { file, offset: 0, length, digest: None }, diff_id, below, roots, |_| Ok(()));
        // What cannot be unpacked now cannot be later; what there was no room for is kept.
        if !matches!(unpacked, Err(ImageError::NoRoom { .. })) {
            let _ = fs::remove_file(path);
        }
        unpacked
    }

    /// A packed layer as a file, whole and checked. Nobody else downloads the same while the second is held.
    async fn download(&self, source: &Registry, layer: &Descriptor, report: &Report) -> Result<(PathBuf, OwnedMutexGuard<()>), ImageError> {
        let flight = self.pulls.enter(&layer.digest).await;
        let path = self.dir.join("downloads").join(hex_of(&layer.digest));
        let size = layer.size;
        let mut attempt = 0;
        loop {
            let error = match self.go_on(source, layer, size, &path, report).await {
                Ok(()) => break,
                Err(error) => error,
            };
            attempt += 1;
            if attempt >= ATTEMPTS.0 || !matches!(error, ImageError::Registry(_)) {
                return Err(error);
            }
            tracing::info!(layer = layer.digest, %error, attempt, "a download broke off and is gone on with");
            tokio::time::sleep(ATTEMPTS.1 * attempt).await;
        }
        let (checked, expected) = (path.clone(), layer.digest.clone());
        let digest = tokio::task::spawn_blocking(move || {
            let mut file = fs::File::open(&checked).map_err(failed("open", &checked))?;
            let mut hash = Sha256::new();
            std::io::copy(&mut file, &mut hash).map_err(failed("read", &checked))?;
            Ok(format!("sha256:{}", hex::encode(hash.finalize())))
        });
        let digest = digest.await.unwrap_or(Err(ImageError::Stopped))?;
        if digest != expected {
            // Nothing of it can be trusted.
            let _ = fs::remove_file(&path);
            return Err(ImageError::Malformed(format!("layer {expected} came with other contents, with the digest {digest}")));
        }
        Ok((path, flight))
    }

    /// Fetches what a file still lacks of a layer.
    async fn go_on(&self, source: &Registry, layer: &Descriptor, size: u64, path: &Path, report: &Report) -> Result<(), ImageError> {
        let mut have = tokio::fs::metadata(path).await.map_or(0, |metadata| metadata.len());
        if have > size {
            have = 0;
        }
        if have == size && size > 0 {
            return Ok(());
        }
        let (mut response, continues) = source.layer(layer, have).await?;
        if !continues {
            have = 0;
        }
        let mut options = tokio::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).open(path).await.map_err(failed("open", path))?;
        file.set_len(have).await.map_err(failed("write", path))?;
        file.seek(std::io::SeekFrom::Start(have)).await.map_err(failed("write", path))?;
        let (mut told, mut looked) = (have, have);
        let mut window = (have, Instant::now());
        let failure = loop {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break None,
                // What came before it is kept.
                Err(error) => break Some(ImageError::Registry(shown(&error))),
            };
            have += piece.len() as u64;
            if have > size {
                let _ = fs::remove_file(path);
                return Err(ImageError::Malformed(format!("layer {} is larger than the {size} bytes that its manifest says", layer.digest)));
            }
            file.write_all(&piece).await.map_err(failed("write", path))?;
            if have - told >= TELL_EVERY_BYTES || have == size {
                told = have;
                tell(report, Progress::Downloaded { digest: layer.digest.clone(), bytes: have, total: size });
            }
            if have - looked >= LOOK_EVERY_BYTES {
                looked = have;
                self.room()?;
            }
            if window.1.elapsed() > SLOWEST.1 {
                if have - window.0 < SLOWEST.0 {
                    break Some(ImageError::Slow);
                }
                window = (have, Instant::now());
            }
        };
        file.flush().await.map_err(failed("write", path))?;
        match failure {
            Some(error) => Err(error),
            None if have < size => Err(ImageError::Registry(format!("layer {} ended after {have} of {size} bytes", layer.digest))),
            None => Ok(()),
        }
    }
}

/// The packed bytes of all layers.
fn check(manifest: &Manifest) -> Result<u64, ImageError> {
    if manifest.layers.len() > LAYERS_MAX {
        return Err(ImageError::Malformed(format!("it has {} layers; at most {LAYERS_MAX} are possible", manifest.layers.len())));
    }
    let mut bytes = 0;
    for layer in manifest.layers.iter().chain([&manifest.config]) {
        if !is_digest(&layer.digest) {
            return Err(ImageError::Malformed(format!(
                "its manifest names {:?}, which is no sha256 digest",
                layer.digest.chars().take(100).collect::<String>()
            )));
        }
        if layer.size > LAYER_MAX_BYTES {
            return Err(ImageError::Malformed(format!("layer {} has {} bytes; at most {LAYER_MAX_BYTES} are possible", layer.digest, layer.size)));
        }
        bytes += layer.size;
    }
    Ok(bytes)
}

/// Drops what nobody reads fast enough.
fn tell(report: &Report, progress: Progress) {
    let _ = report.try_send(progress);
}
