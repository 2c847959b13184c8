//! Volumes of apps: how large one may be, where it is inside, and what is told of one that is full.

use super::manifest::{Volume, WORKSPACE};
use crate::{limits, quantity};

/// The first part of a target path that leads into a volume; the second is its name.
pub const VOLUMES: &str = "volumes";
const GIB: u64 = 1 << 30;

impl Volume {
    /// The most bytes of files that it may hold.
    pub fn size_limit_bytes(&self) -> u64 {
        self.storage_gb.map_or(limits::VOLUME_SIZE_DEFAULT_BYTES, |storage| storage.times(GIB))
    }
}

/// Where a file goes inside that is sent for a `targetPath`: below the workspace, or with `volumes/NAME/...` into that volume.
/// None: there is no such volume.
pub fn target_place(target: &str, volumes: &[Volume]) -> Option<String> {
    let mut parts = target.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(VOLUMES), Some(name), rest) => {
            let at = &volumes.iter().find(|volume| volume.name == name)?.mount_path;
            Some(rest.map_or_else(|| at.clone(), |rest| format!("{at}/{rest}")))
        }
        _ if target.is_empty() => Some(WORKSPACE.to_owned()),
        _ => Some(format!("{WORKSPACE}/{target}")),
    }
}

/// Why processes were ended that went on writing into a volume that is full. `name` is that of the manifest.
pub fn full_text(name: &str, bytes: u64, limit_bytes: u64) -> String {
    let (bytes, limit) = (quantity::readable_bytes(bytes), quantity::readable_bytes(limit_bytes));
    format!("volume {name:?} is full: it holds {bytes}, and {limit} is its limit (storageGb); delete files of it, or deploy a higher limit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::manifest::{Manifest, parse};

    fn manifest() -> Manifest {
        let text = "schemaVersion: 1\nvolumes:\n  - {name: data, mountPath: /data, storageGb: 0.5}\n  - {name: up_loads, mountPath: /workspace/in}\n";
        parse(text).expect("is right").manifest
    }

    #[test]
    fn target_paths_lead_below_the_workspace_or_into_a_volume() {
        let manifest = manifest();
        for (target, place) in [
            ("", Some("/workspace")),
            ("in.csv", Some("/workspace/in.csv")),
            ("a/b/c.csv", Some("/workspace/a/b/c.csv")),
            ("volumes", Some("/workspace/volumes")),
            ("volumes/data", Some("/data")),
            ("volumes/data/in.csv", Some("/data/in.csv")),
            ("volumes/data/a/b.csv", Some("/data/a/b.csv")),
            ("volumes/up_loads/x", Some("/workspace/in/x")),
            ("volumes/other/x", None),
            ("data/volumes/x", Some("/workspace/data/volumes/x")),
        ] {
            assert_eq!(target_place(target, &manifest.volumes).as_deref(), place, "{target}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_manifest() {
        let sizes: Vec<u64> = manifest().volumes.iter().map(Volume::size_limit_bytes).collect();
        assert_eq!(sizes, [GIB / 2, limits::VOLUME_SIZE_DEFAULT_BYTES]);
        assert!(
            full_text("data", 3 << 20, 1 << 20).starts_with("volume \"data\" is full: it holds 3.00 MiB, and 1.00 MiB"),
            "{}",
            full_text("data", 3 << 20, 1 << 20)
        );
    }
}
