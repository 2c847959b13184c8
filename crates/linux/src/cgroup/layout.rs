//! Which hierarchies this machine has, read from `/proc/self/mounts` and `/proc/self/cgroup`.
use std::{
    fs,
    path::{Path, PathBuf},
};

use super::CgroupError;

/// The v1 controllers that limits need or that count something for us.
const WANTED: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];

/// Without these there are no limits.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];

/// One v1 mount; `cpu` and `cpuacct` often share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V1Mount {
    pub dir: PathBuf,
    pub controllers: Vec<&'static str>,
}

/// Where groups go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Directory of the v2 tree below which ours begin.
    pub base: PathBuf,
    /// Whether limits are v2's. Else they are in `v1`.
    pub v2_limits: bool,
    /// Whether this process stands in `base` itself and must move, since a v2 group with processes cannot share out controllers.
    pub leave_base: bool,
    pub v1: Vec<V1Mount>,
}

impl Layout {
    pub fn read(mounts: &str, own: &str) -> Result<Self, CgroupError> {
        let mut v1: Vec<V1Mount> = Vec::new();
        let mut v2_root = None;
        for line in mounts.lines() {
            let mut fields = line.split(' ');
            let (Some(_), Some(dir), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let dir = PathBuf::from(unescape(dir));
            match kind {
                "cgroup2" if v2_root.is_none() => v2_root = Some(dir),
                "cgroup" => {
                    let has = |name: &&str| options.split(',').any(|option| option == *name);
                    let controllers: Vec<&'static str> = WANTED.into_iter().filter(has).collect();
                    // A hierarchy may be mounted twice; the first place is enough.
                    if !controllers.is_empty() && !v1.iter().any(|m| m.controllers == controllers) {
                        v1.push(V1Mount { dir, controllers });
                    }
                }
                _ => {}
            }
        }
        let root = v2_root.ok_or(CgroupError::NoUnified)?;
        if let Some(missing) = NEEDED.into_iter().find(|c| !v1.iter().any(|m| m.controllers.contains(c))) {
            // Not by v1, so it must be by v2; a mixture of both is not worth telling apart.
            let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            if let Some(lacking) = NEEDED.into_iter().find(|c| !offered.split_whitespace().any(|o| o == *c)) {
                return Err(CgroupError::NoController(if v1.is_empty() { lacking } else { missing }));
            }
            let (base, leave_base) = delegated(&root, own);
            return Ok(Self { base, v2_limits: true, leave_base, v1: Vec::new() });
        }
        Ok(Self { base: root, v2_limits: false, leave_base: false, v1 })
    }
}

/// The service's own group when systemd delegated one to us, else the root of the hierarchy.
fn delegated(root: &Path, own: &str) -> (PathBuf, bool) {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let dir = root.join(path);
    let is_service = |dir: &Path| dir.extension().is_some_and(|e| e == "service");
    if is_service(&dir) && only_we(&dir) {
        return (dir, true);
    }
    match dir.parent() {
        // After an earlier start moved us, or when systemd put us there itself (DelegateSubgroup=server).
        Some(parent) if dir.ends_with(super::v2::SERVER) && is_service(parent) => (parent.to_owned(), false),
        _ => (root.to_owned(), false),
    }
}

fn only_we(dir: &Path) -> bool {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    procs.split_whitespace().eq([std::process::id().to_string()])
}

/// Undoes the octal escapes of blanks in `/proc/mounts`.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
