//! From packed layers to an image: unpacked beside the others, checked against the digests that its configuration names,
//! and put in place whole.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
};

use sandbar_core::image::{ImageName, is_digest};
use sandbar_tree::{Limits, UnpackedLayer};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{HALF, ImageError, ImageRecord, ImageView, Images, LayerRecord, config::Config, failed};
use crate::{room::free_bytes, roots::Roots};

/// Layers of one image; more than this and a sandbox's own would not fit the kernel's overlay.
pub const LAYERS_MAX: usize = 128;
const ENTRIES_MAX: u64 = 4_000_000;
/// Of one layer, unpacked.
const LAYER_MAX_BYTES: u64 = 64 << 30;
/// What is left of the disk for everybody else.
const DISK_RESERVE_BYTES: u64 = 256 << 20;

/// What happens while an image is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// What will come: how many layers, and their packed bytes.
    Layers { count: usize, bytes: u64 },
    /// So much of a layer was downloaded.
    Downloaded { digest: String, bytes: u64, total: u64 },
    /// A layer is being unpacked.
    Unpacking { digest: String },
    /// A layer is in place, or was there before.
    Ready { digest: String, was_there: bool },
    /// A step of a build begins.
    Step { step: usize, of: usize, command: String },
    /// What a step prints.
    Output { is_error: bool, data: String },
}

/// Where progress goes. Nobody has to read it.
pub(super) type Report = mpsc::Sender<Progress>;

/// A packed layer: a part of an open file.
pub(super) struct Blob {
    pub file: File,
    pub offset: u64,
    pub length: u64,
    /// Of the packed bytes, when that has still to be checked.
    pub digest: Option<String>,
}

/// What an image is made of.
pub(super) struct Parts {
    pub config: String,
    pub source: String,
    pub manifest_digest: Option<String>,
}

impl Parts {
    /// The digests of the plain layers, bottom first.
    pub fn diff_ids(&self) -> Result<Vec<String>, ImageError> {
        let config = Config::parse(&self.config)?;
        config.check_platform()?;
        if config.diff_ids.len() > LAYERS_MAX {
            return Err(ImageError::Malformed(format!("it has {} layers; at most {LAYERS_MAX} are possible", config.diff_ids.len())));
        }
        match config.diff_ids.iter().find(|id| !is_digest(id)) {
            Some(odd) => Err(ImageError::Malformed(format!("{odd:?} is no digest of a layer; sha256 is known"))),
            None => Ok(config.diff_ids),
        }
    }
}

/// Keeps layers from being collected until an image names them.
pub(super) struct Hold {
    images: Images,
    diff_ids: Vec<String>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.images.lock();
        for id in &self.diff_ids {
            if let Some(count) = state.held.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(id);
                }
            }
        }
    }
}

impl Images {
    pub(super) fn hold(&self, diff_ids: &[String]) -> Hold {
        let mut state = self.lock();
        for id in diff_ids {
            *state.held.entry(id.clone()).or_default() += 1;
        }
        drop(state);
        Hold { images: self.clone(), diff_ids: diff_ids.to_vec() }
    }

    /// The layer, if it is here already. Hold it first.
    pub(super) fn find_layer(&self, diff_id: &str) -> Option<LayerRecord> {
        let known = self.lock().index.images.values().flat_map(|record| &record.layers).find(|layer| layer.diff_id == diff_id).cloned();
        // Without an image that names it: left by one that was cut off after this layer.
        known.or_else(|| {
            let path = self.layer(diff_id);
            path.is_dir().then(|| measured(diff_id, &path).ok()).flatten()
        })
    }

    /// Unpacks a layer and puts it in place.
    pub(super) fn unpack_layer(&self, blob: Blob, diff_id: &str, roots: &Roots) -> Result<LayerRecord, ImageError> {
        let half = self.half()?;
        let result = self.unpack_into(blob, diff_id, &half).and_then(|()| self.place(&half, diff_id));
        if result.is_err() {
            roots.trash(&half, "half-layer");
        }
        result
    }

    /// An empty folder that is swept when nobody finishes it.
    pub(super) fn half(&self) -> Result<PathBuf, ImageError> {
        let half = self.dir.join(crate::random_id(HALF));
        // The layer itself is to be 0755, which the unpacked root of it changes.
        fs::DirBuilder::new().mode(0o700).create(&half).map_err(failed("make", &half))?;
        let top = half.join("layer");
        fs::DirBuilder::new().mode(0o755).create(&top).map_err(failed("make", &top))?;
        Ok(half)
    }

    fn unpack_into(&self, mut blob: Blob, diff_id: &str, half: &std::path::Path) -> Result<(), ImageError> {
        let left = self.room()?;
        let limits = Limits { entries_max: ENTRIES_MAX, bytes_max: LAYER_MAX_BYTES.min(left) };
        blob.file.seek(SeekFrom::Start(blob.offset)).map_err(failed("read", half))?;
        let mut packed = Hashed { from: blob.file.take(blob.length), hash: blob.digest.is_some().then(Sha256::new) };
        let unpacked = sandbar_tree::unpack_layer(BufReader::with_capacity(256 << 10, &mut packed), &half.join("layer"), &limits);
        let UnpackedLayer { diff_sha256, unpacked } = match unpacked {
            Ok(done) => done,
            Err(error) if error.is_too_large() && limits.bytes_max == left => return Err(ImageError::NoRoom { left }),
            Err(error) => return Err(ImageError::Layer { digest: diff_id.to_owned(), error }),
        };
        if unpacked.left_out > 0 {
            tracing::debug!(layer = diff_id, count = unpacked.left_out, "devices and pipes of a layer were left out");
        }
        if let (Some(hash), Some(expected)) = (packed.finish().map_err(failed("read", half))?, &blob.digest)
            && hash != *expected
        {
            return Err(ImageError::Malformed(format!("layer {expected} has other contents, with the digest {hash}")));
        }
        if format!("sha256:{diff_sha256}") != diff_id {
            return Err(ImageError::Malformed(format!("a layer has the digest sha256:{diff_sha256}, and its configuration says {diff_id}")));
        }
        Ok(())
    }

    /// Gives a finished layer its name.
    pub(super) fn place(&self, half: &std::path::Path, diff_id: &str) -> Result<LayerRecord, ImageError> {
        let path = self.layer(diff_id);
        match fs::rename(half.join("layer"), &path) {
            Ok(()) => {}
            // Somebody else was first with the same.
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {
                return measured(diff_id, &path);
            }
            Err(error) => return Err(failed("put in place", &path)(error)),
        }
        let _ = fs::remove_dir(half);
        measured(diff_id, &path)
    }

    /// Bytes of the disk that an image may still take.
    pub(super) fn room(&self) -> Result<u64, ImageError> {
        match free_bytes(&self.dir).map_err(failed("look at", &self.dir))?.saturating_sub(DISK_RESERVE_BYTES) {
            0 => Err(ImageError::NoRoom { left: 0 }),
            left => Ok(left),
        }
    }

    /// Records an image whose layers are in place.
    pub(super) fn finish(&self, parts: Parts, layers: Vec<LayerRecord>, name: Option<&ImageName>) -> Result<ImageView, ImageError> {
        let record = ImageRecord {
            id: super::config::digest_of(parts.config.as_bytes()),
            on_host: false,
            layers,
            config: parts.config,
            source: parts.source,
            manifest_digest: parts.manifest_digest,
            recipe: None,
            created_at_ms: now_ms(),
        };
        self.add(record, name)
    }
}

pub(super) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn measured(diff_id: &str, path: &std::path::Path) -> Result<LayerRecord, ImageError> {
    let measured = sandbar_tree::measure(path)?;
    Ok(LayerRecord { diff_id: diff_id.to_owned(), files: measured.inodes, bytes: measured.bytes })
}

/// Adds up what is read, when asked to.
struct Hashed<R> {
    from: R,
    hash: Option<Sha256>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..read]);
        }
        Ok(read)
    }
}

impl<R: Read> Hashed<R> {
    /// The digest of all of it; what was not read by then is read now.
    fn finish(mut self) -> io::Result<Option<String>> {
        if self.hash.is_some() {
            io::copy(&mut self, &mut io::sink())?;
        }
        Ok(self.hash.map(|hash| format!("sha256:{}", hex::encode(hash.finalize()))))
    }
}
