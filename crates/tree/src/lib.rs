//! File trees that strangers made, handled with the host's rights: copied, measured, hashed, packed and unpacked.
//!
//! Every step goes from an open folder to a name in it, without following links; nothing is ever opened that is not a
//! regular file, a folder or a link. A tree that changes meanwhile costs its own consistency and nothing else.
#![forbid(unsafe_code)]

use std::{ffi::CString, io, path::PathBuf};

mod copy;
mod difference;
mod dir;
mod hash;
mod layer;
mod listing;
mod measure;
mod members;
mod merge;
mod pack;
mod sync;
mod unpack;

pub use copy::{Copied, CopyOptions, copy};
pub use difference::difference;
pub use hash::hash;
pub use layer::{UnpackedLayer, adopt_folders, pack_layer, unpack_layer};
pub use listing::{Listed, listing, prune, read_at_top};
pub use measure::{Measured, measure};
pub use members::{Member, MemberKind, members};
pub use merge::merge;
pub use pack::{pack_tar, pack_zip};
pub use sync::sync;
pub use unpack::{ArchiveError, Limits, Unpacked, plain, unpack};

/// Folders in each other. What is deeper is refused, so that no tree costs more stack or descriptors than this.
pub const DEPTH_MAX: usize = 400;
/// Ids that a tree's owners may have, above its base.
pub const IDS: u32 = 65_536;

/// Why a tree could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("cannot {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: folders are nested more than {DEPTH_MAX} deep", path.display())]
    TooDeep { path: PathBuf },
    #[error("more than the allowed {max} bytes")]
    TooLarge { max: u64 },
}

impl TreeError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            Self::TooDeep { .. } | Self::TooLarge { .. } => false,
        }
    }
}

fn failed(what: &'static str, path: PathBuf) -> impl FnOnce(rustix::io::Errno) -> TreeError {
    move |errno| TreeError::Io { what, path, source: errno.into() }
}

/// Where a walk is, for errors only.
#[derive(Default)]
struct Trail(Vec<CString>);

impl Trail {
    fn path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.0.iter().map(|name| std::ffi::OsStr::from_bytes(name.as_bytes())).collect()
    }

    fn with(&self, name: &CString) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.path().join(std::ffi::OsStr::from_bytes(name.as_bytes()))
    }

    fn enter(&mut self, name: &CString) -> Result<(), TreeError> {
        if self.0.len() >= DEPTH_MAX {
            return Err(TreeError::TooDeep { path: self.with(name) });
        }
        self.0.push(name.clone());
        Ok(())
    }

    fn leave(&mut self) {
        self.0.pop();
    }
}
