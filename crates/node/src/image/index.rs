//! Which images there are: one file, replaced as a whole.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{ImageError, failed, hex_of};

pub(super) const FILE: &str = "index.json";

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The SHA-256 of `config`.
    pub id: String,
    /// Its layers lie on the built-in image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_host: bool,
    /// Bottom first.
    pub layers: Vec<LayerRecord>,
    /// Its OCI configuration, to the letter.
    pub config: String,
    /// Where it came from, for people.
    pub source: String,
    /// Of the manifest that it was pulled by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// What it was built from, as a digest: the same need not be built again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    pub created_at_ms: i64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The SHA-256 of its plain tar.
    pub diff_id: String,
    /// Its folder, when that depends on what lies below it: a layer that does not name all of its folders is unpacked anew
    /// for each stack that it lies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    pub files: u64,
    /// On disk.
    pub bytes: u64,
}

impl LayerRecord {
    /// The name of its folder.
    pub fn folder(&self) -> &str {
        self.folder.as_deref().unwrap_or_else(|| hex_of(&self.diff_id))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// By id.
    pub images: BTreeMap<String, ImageRecord>,
    /// Ids by name.
    pub names: BTreeMap<String, String>,
}

impl Index {
    /// An index that is not there is empty.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(failed("read", path)(source)),
        };
        serde_json::from_slice(&text).map_err(|error| ImageError::Index { path: path.to_owned(), text: error.to_string() })
    }

    /// Durable when it returns.
    pub fn write(&self, path: &Path) -> Result<(), ImageError> {
        let text = serde_json::to_vec(self).map_err(|error| ImageError::Index { path: path.to_owned(), text: error.to_string() })?;
        let new = path.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        write().map_err(failed("write", path))
    }

    /// What an image is called.
    pub fn names_of(&self, id: &str) -> Vec<String> {
        self.names.iter().filter(|(_, known)| *known == id).map(|(name, _)| name.clone()).collect()
    }
}
