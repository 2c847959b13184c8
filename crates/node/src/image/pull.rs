//! Images from registries. Layers are downloaded side by side, each to a file that is gone on with after an interruption,
//! checked, and unpacked in order.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::StreamExt;
use oci_client::{
    Client, Reference,
    client::{BlobResponse, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    manifest::{OciDescriptor, OciImageManifest},
    secrets::RegistryAuth,
};
use sandbar_core::image::{ImageName, is_digest};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncSeekExt, AsyncWriteExt},
    sync::{OwnedMutexGuard, Semaphore},
};

use super::{
    ImageError, ImageView, Images,
    archive::check_names,
    config::CONFIG_MAX_BYTES,
    failed, hex_of,
    install::{Blob, LAYERS_MAX, Parts, Progress, Report},
};
use crate::{Node, roots::Roots};

/// Layers of one image that are downloaded at a time.
const DOWNLOADS_MAX: usize = 3;
/// Times that a download is gone on with; a wait of the second figure times the attempt comes before each.
const ATTEMPTS: (u32, Duration) = (5, Duration::from_millis(500));
/// A registry that sends nothing for this long is gone.
const READ_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// Progress of a download is told each time so much more is there.
const TELL_EVERY_BYTES: u64 = 1 << 20;
const ERROR_MAX_CHARS: usize = 500;

/// What is to be pulled, and how.
#[derive(Debug, Clone)]
pub struct Pull {
    pub name: ImageName,
    /// What it is to be called here; its own name, if absent.
    pub local_name: Option<ImageName>,
    pub credentials: Option<Credentials>,
    /// By plain HTTP. Registries on loopback addresses are asked so in any case.
    pub plain_http: bool,
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
        let pulled = tokio::select! {
            pulled = images.pull(&pull, &roots, &report) => pulled,
            () = report.closed() => Err(ImageError::Abandoned),
            () = self.inner.stop.cancelled() => Err(ImageError::Stopped),
        };
        self.inner.tasks.spawn_blocking(move || roots.empty_trash());
        pulled
    }
}

impl Images {
    async fn pull(&self, pull: &Pull, roots: &Roots, report: &Report) -> Result<ImageView, ImageError> {
        let local = pull.local_name.clone().unwrap_or_else(|| pull.name.clone());
        check_names(&[pull.name.clone(), local.clone()])?;
        let source = Registry::new(pull)?;
        let (manifest, manifest_digest) = source.client.pull_image_manifest(&source.reference, &source.auth).await.map_err(|error| registry(&error))?;
        check(&manifest)?;
        let parts = Parts { config: source.config(&manifest.config).await?, source: format!("pulled {}", pull.name), manifest_digest: Some(manifest_digest) };
        let diff_ids = parts.diff_ids()?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Malformed(format!("it has {} layers and its configuration names {}", manifest.layers.len(), diff_ids.len())));
        }
        let held: Vec<String> = diff_ids.iter().chain(manifest.layers.iter().map(|layer| &layer.digest)).cloned().collect();
        let _hold = self.hold(&held);
        let bytes = manifest.layers.iter().map(|layer| layer.size.unsigned_abs()).sum();
        tell(report, Progress::Layers { count: diff_ids.len(), bytes });
        let left = self.room()?;
        if bytes > left {
            return Err(ImageError::NoRoom { left });
        }
        let layers = self.layers(&source, &diff_ids, &manifest.layers, roots, report).await?;
        let images = self.clone();
        tokio::task::spawn_blocking(move || images.finish(parts, layers, Some(&local))).await.unwrap_or(Err(ImageError::Stopped))
    }

    /// Downloads what is missing side by side, and unpacks in order.
    async fn layers(
        &self,
        source: &Registry,
        diff_ids: &[String],
        packed: &[OciDescriptor],
        roots: &Roots,
        report: &Report,
    ) -> Result<Vec<super::LayerRecord>, ImageError> {
        let places = Arc::new(Semaphore::new(DOWNLOADS_MAX));
        // Ends all when this is dropped.
        let mut downloads = tokio::task::JoinSet::new();
        let mut arrivals = Vec::with_capacity(diff_ids.len());
        for (diff_id, layer) in diff_ids.iter().zip(packed) {
            let (images, diff_id) = (self.clone(), diff_id.clone());
            let found = tokio::task::spawn_blocking(move || images.find_layer(&diff_id)).await.ok().flatten();
            if let Some(found) = found {
                arrivals.push(Err(found));
                continue;
            }
            let (arrived, arrival) = tokio::sync::oneshot::channel();
            arrivals.push(Ok(arrival));
            let (images, source, layer, report, places) = (self.clone(), source.clone(), layer.clone(), report.clone(), Arc::clone(&places));
            downloads.spawn(async move {
                // The semaphore is never closed.
                let _place = places.acquire().await;
                let _ = arrived.send(images.download(&source, &layer, &report).await);
            });
        }
        let mut layers = Vec::with_capacity(diff_ids.len());
        for ((diff_id, layer), arrival) in diff_ids.iter().zip(packed).zip(arrivals) {
            let (record, was_there) = match arrival {
                Err(found) => (found, true),
                Ok(arrival) => {
                    let path = arrival.await.unwrap_or(Err(ImageError::Stopped))?;
                    tell(report, Progress::Unpacking { digest: layer.digest.clone() });
                    let (images, roots, diff_id) = (self.clone(), roots.clone(), diff_id.clone());
                    let unpacked = tokio::task::spawn_blocking(move || images.unpack_download(&path, &diff_id, &roots));
                    (unpacked.await.unwrap_or(Err(ImageError::Stopped))?, false)
                }
            };
            tell(report, Progress::Ready { digest: layer.digest.clone(), was_there });
            layers.push(record);
        }
        Ok(layers)
    }

    fn unpack_download(&self, path: &Path, diff_id: &str, roots: &Roots) -> Result<super::LayerRecord, ImageError> {
        // The same layer may be in an image twice, and may have been unpacked for another meanwhile.
        if let Some(found) = self.find_layer(diff_id) {
            let _ = fs::remove_file(path);
            return Ok(found);
        }
        let file = fs::File::open(path).map_err(failed("open", path))?;
        let length = file.metadata().map_err(failed("look at", path))?.len();
        let record = self.unpack_layer(Blob { file, offset: 0, length, digest: None }, diff_id, roots)?;
        let _ = fs::remove_file(path);
        Ok(record)
    }

    /// A packed layer as a file, whole and checked.
    async fn download(&self, source: &Registry, layer: &OciDescriptor, report: &Report) -> Result<PathBuf, ImageError> {
        let _one_at_a_time = self.pulls.enter(&layer.digest).await;
        let path = self.dir.join("downloads").join(hex_of(&layer.digest));
        let size = layer.size.unsigned_abs();
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
        Ok(path)
    }

    /// Fetches what a file still lacks of a layer.
    async fn go_on(&self, source: &Registry, layer: &OciDescriptor, size: u64, path: &Path, report: &Report) -> Result<(), ImageError> {
        let mut options = tokio::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).open(path).await.map_err(failed("open", path))?;
        let mut have = file.metadata().await.map_err(failed("look at", path))?.len();
        if have > size {
            have = 0;
        }
        if have == size && size > 0 {
            return Ok(());
        }
        // Never the addresses that a manifest names for a layer: only the registry was asked for.
        let layer = OciDescriptor { urls: None, ..layer.clone() };
        let response = source.client.pull_blob_stream_partial(&source.reference, &layer, have, None).await.map_err(|error| registry(&error))?;
        let mut stream = match response {
            BlobResponse::Full(stream) => {
                have = 0;
                stream
            }
            BlobResponse::Partial(stream) => stream,
        }
        .stream;
        file.set_len(have).await.map_err(failed("write", path))?;
        file.seek(std::io::SeekFrom::Start(have)).await.map_err(failed("write", path))?;
        let (mut told, mut failure) = (have, None);
        while let Some(piece) = stream.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                // What came before it is kept.
                Err(error) => {
                    failure = Some(ImageError::Registry(shown(&error.to_string())));
                    break;
                }
            };
            have += piece.len() as u64;
            if have > size {
                return Err(ImageError::Malformed(format!("layer {} is larger than the {size} bytes that its manifest says", layer.digest)));
            }
            file.write_all(&piece).await.map_err(failed("write", path))?;
            if have - told >= TELL_EVERY_BYTES || have == size {
                told = have;
                tell(report, Progress::Downloaded { digest: layer.digest.clone(), bytes: have, total: size });
            }
        }
        file.flush().await.map_err(failed("write", path))?;
        match failure {
            Some(error) => Err(error),
            None if have < size => Err(ImageError::Registry(format!("layer {} ended after {have} of {size} bytes", layer.digest))),
            None => Ok(()),
        }
    }
}

/// Whom to ask, as whom.
#[derive(Clone)]
struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    fn new(pull: &Pull) -> Result<Self, ImageError> {
        let reference: Reference = pull.name.to_string().parse().map_err(|error| ImageError::Registry(format!("{error}")))?;
        let host = reference.resolve_registry().to_owned();
        let plain = pull.plain_http || is_loopback(&host);
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::HttpsExcept(vec![host]) } else { ClientProtocol::Https },
            read_timeout: Some(READ_WITHIN),
            connect_timeout: Some(CONNECT_WITHIN),
            user_agent: concat!("sandbar/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = match &pull.credentials {
            Some(Credentials { username, password }) => RegistryAuth::Basic(username.clone(), password.clone()),
            None => RegistryAuth::Anonymous,
        };
        Ok(Self { client: Client::new(config), reference, auth })
    }

    /// The configuration's text; the client checks its digest.
    async fn config(&self, descriptor: &OciDescriptor) -> Result<String, ImageError> {
        let descriptor = OciDescriptor { urls: None, ..descriptor.clone() };
        let mut stream = self.client.pull_blob_stream(&self.reference, &descriptor).await.map_err(|error| registry(&error))?.stream;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| ImageError::Registry(shown(&error.to_string())))?);
            if bytes.len() as u64 > CONFIG_MAX_BYTES {
                return Err(ImageError::Malformed(format!("its configuration has more than {CONFIG_MAX_BYTES} bytes")));
            }
        }
        let digest = super::config::digest_of(&bytes);
        if digest != descriptor.digest {
            return Err(ImageError::Malformed(format!("its configuration {} came with other contents, with the digest {digest}", descriptor.digest)));
        }
        String::from_utf8(bytes).map_err(|_| ImageError::Malformed("its configuration is no text".to_owned()))
    }
}

fn check(manifest: &OciImageManifest) -> Result<(), ImageError> {
    if manifest.layers.len() > LAYERS_MAX {
        return Err(ImageError::Malformed(format!("it has {} layers; at most {LAYERS_MAX} are possible", manifest.layers.len())));
    }
    let mut all = manifest.layers.iter().chain([&manifest.config]);
    match all.find(|descriptor| !is_digest(&descriptor.digest) || descriptor.size < 0) {
        Some(odd) => Err(ImageError::Malformed(format!("its manifest names {:?} with {} bytes; sha256 digests are known", odd.digest, odd.size))),
        None => Ok(()),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Drops what nobody reads fast enough.
fn tell(report: &Report, progress: Progress) {
    let _ = report.try_send(progress);
}

fn registry(error: &OciDistributionError) -> ImageError {
    let text = match error {
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
            "it wants credentials, or other ones (--username, --password-stdin)".to_owned()
        }
        OciDistributionError::ImageManifestNotFoundError(text) => format!("no such image: {text}"),
        other => crate::error_text(other),
    };
    ImageError::Registry(shown(&text))
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(ERROR_MAX_CHARS).collect()
}
