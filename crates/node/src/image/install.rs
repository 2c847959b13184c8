//! From packed layers to an image: unpacked beside the others, checked against the digests that its configuration names,
//! and put in place whole.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use sandbar_core::image::{ImageName, is_digest};
use sandbar_tree::{Limits, UnpackedLayer};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{HALF, ImageError, ImageRecord, ImageView, Images, LayerRecord, config::Config, failed, hex_of};
use crate::{room::free_bytes, roots::Roots};

/// Layers of one image; more than this and a sandbox's own would not fit the kernel's overlay.
pub const LAYERS_MAX: usize = 128;
const ENTRIES_MAX: u64 = 4_000_000;
/// Of one layer, unpacked.
pub(super) const LAYER_MAX_BYTES: u64 = 64 << 30;
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
#[derive(Clone)]
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
#[must_use]
pub(super) struct Hold {
    images: Images,
    names: Vec<String>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.images.lock();
        for id in &self.names {
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
    /// Holds folders of layers and downloads, by digest or name.
    pub(super) fn hold<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Hold {
        let names: Vec<String> = names.into_iter().map(|name| hex_of(name).to_owned()).collect();
        let mut state = self.lock();
        for name in &names {
            *state.held.entry(name.clone()).or_default() += 1;
        }
        drop(state);
        Hold { images: self.clone(), names }
    }

    /// The layer on top of those `below`, if it is here already, and what keeps it.
    pub(super) fn find_layer(&self, diff_id: &str, below: &[LayerRecord]) -> Option<(LayerRecord, Hold)> {
        for folder in [hex_of(diff_id).to_owned(), chained(diff_id, below)] {
            let hold = self.hold([folder.as_str()]);
            let path = self.layer(&folder);
            // What the index says of it is of no use when it is gone.
            if !path.is_dir() {
                continue;
            }
            let known = self.lock().index.images.values().flat_map(|record| &record.layers).find(|layer| layer.folder() == folder).cloned();
            if let Some(layer) = known.or_else(|| measured(diff_id, &folder, &path).ok()) {
                return Some((layer, hold));
            }
        }
        None
    }

    /// Unpacks a layer on top of those `below`, and puts it in place if `check` lets it.
    pub(super) fn unpack_layer(
        &self,
        blob: Blob,
        diff_id: &str,
        below: &[LayerRecord],
        roots: &Roots,
        check: impl FnOnce(&Path) -> Result<(), ImageError>,
    ) -> Result<(LayerRecord, Hold), ImageError> {
        let half = self.half()?;
        let result = self.unpack_into(blob, diff_id, below, &half).and_then(|folder| {
            check(&half.join("layer"))?;
            self.place(&half, diff_id, &folder)
        });
        roots.trash(&half, "half-layer");
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

    /// Returns the name of the folder that it belongs into.
    fn unpack_into(&self, mut blob: Blob, diff_id: &str, below: &[LayerRecord], half: &Path) -> Result<String, ImageError> {
        let left = self.room()?;
        let limits = Limits { entries_max: ENTRIES_MAX, bytes_max: LAYER_MAX_BYTES.min(left) };
        blob.file.seek(SeekFrom::Start(blob.offset)).map_err(failed("read", half))?;
        let mut packed = Hashed { from: blob.file.take(blob.length), hash: blob.digest.is_some().then(Sha256::new) };
        let unpacked = sandbar_tree::unpack_layer(BufReader::with_capacity(256 << 10, &mut packed), &half.join("layer"), &limits);
        let UnpackedLayer { diff_sha256, unpacked, implicit } = match unpacked {
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
        if implicit.is_empty() {
            return Ok(diff_sha256);
        }
        let stack: Vec<PathBuf> = below.iter().rev().map(|layer| self.layer(layer.folder())).chain([self.around.bottom.clone()]).collect();
        sandbar_tree::adopt_folders(&half.join("layer"), &implicit, &stack).map_err(|error| ImageError::Layer { digest: diff_id.to_owned(), error })?;
        Ok(chained(diff_id, below))
    }

    /// Gives a finished layer its folder. What is left of `half` is the caller's.
    pub(super) fn place(&self, half: &Path, diff_id: &str, folder: &str) -> Result<(LayerRecord, Hold), ImageError> {
        let hold = self.hold([folder]);
        let path = self.layer(folder);
        match fs::rename(half.join("layer"), &path) {
            Ok(()) => {}
            // Somebody else was first with the same.
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {}
            Err(error) => return Err(failed("put in place", &path)(error)),
        }
        Ok((measured(diff_id, folder, &path)?, hold))
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

/// The folder of a layer that is what it is only on top of others.
fn chained(diff_id: &str, below: &[LayerRecord]) -> String {
    let names: Vec<&str> = below.iter().map(LayerRecord::folder).chain([diff_id]).collect();
    hex::encode(Sha256::digest(names.join("/")))
}

fn measured(diff_id: &str, folder: &str, path: &Path) -> Result<LayerRecord, ImageError> {
    let measured = sandbar_tree::measure(path)?;
    let folder = (folder != hex_of(diff_id)).then(|| folder.to_owned());
    Ok(LayerRecord { diff_id: diff_id.to_owned(), folder, files: measured.inodes, bytes: measured.bytes })
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
