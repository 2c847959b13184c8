//! The configuration of an image.
//! Source: OCI image specification, `config.md`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ImageError;

/// Bytes of a configuration or manifest; larger ones were never seen and are somebody's mischief.
pub(super) const CONFIG_MAX_BYTES: u64 = 4 << 20;
/// Environment variables of an image.
const ENV_MAX: usize = 1000;

/// What we understand of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    pub architecture: String,
    pub os: String,
    pub env: Vec<(String, String)>,
    /// Of the layers, bottom first.
    pub diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<WireConfig>,
    rootfs: WireRootfs,
}

#[derive(Default, Deserialize)]
struct WireConfig {
    #[serde(default, rename = "Env")]
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct WireRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// What a configuration that we write says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct NewConfig {
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    /// Of each layer, bottom first: how it came to be.
    pub history: Vec<String>,
    pub diff_ids: Vec<String>,
}

impl Config {
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let wire: Wire = serde_json::from_str(text).map_err(|error| ImageError::Malformed(format!("its configuration cannot be read: {error}")))?;
        let env = wire.config.unwrap_or_default().env.unwrap_or_default();
        let pairs = env.iter().take(ENV_MAX).filter_map(|pair| pair.split_once('='));
        let pairs = pairs.filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'));
        Ok(Self {
            architecture: wire.architecture,
            os: wire.os,
            env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            diff_ids: wire.rootfs.diff_ids.unwrap_or_default(),
        })
    }

    /// Refuses what this machine cannot run.
    pub fn check_platform(&self) -> Result<(), ImageError> {
        let (os, architecture) = platform();
        let fits = |said: &str, ours: &str| said.is_empty() || said == ours;
        if fits(&self.os, os) && fits(&self.architecture, architecture) {
            return Ok(());
        }
        Err(ImageError::Malformed(format!("it is for {}/{} and this machine is {os}/{architecture}", self.os, self.architecture)))
    }
}

impl NewConfig {
    /// The text of an OCI configuration. The same content has the same text.
    pub fn render(&self) -> String {
        let (os, architecture) = platform();
        let history: Vec<Value> = self.history.iter().map(|by| json!({ "created_by": by })).collect();
        let mut config = json!({ "Env": self.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>() });
        if let Some(dir) = &self.working_dir {
            config["WorkingDir"] = json!(dir);
        }
        json!({ "architecture": architecture, "os": os, "config": config, "rootfs": { "type": "layers", "diff_ids": self.diff_ids }, "history": history })
            .to_string()
    }
}

/// `os` and `architecture`, as images say it.
pub(super) fn platform() -> (&'static str, &'static str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ("linux", architecture)
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
