//! `sandbar purge`: the end of a data folder and of everything that still runs for it.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use sandbar_linux::cgroup::Hierarchy;
use serde_json::json;

use crate::{
    cli::{Output, PurgeArgs},
    output,
};

/// A folder without one of these was never a server's: it is not ours to delete.
const MARKS: [&str; 2] = ["lock", "sandbar.db"];

pub fn run(args: &PurgeArgs, form: Output) -> anyhow::Result<u8> {
    if !args.yes {
        bail!("this deletes every sandbox below {}; say --yes to do it", args.data_dir.display());
    }
    let killed = purge(&args.data_dir)?;
    match form {
        Output::Json => output::json(&json!({"data_dir": args.data_dir, "runtimes": killed})),
        Output::Table => output::line(&format!("{} is gone, with {killed} runtimes", args.data_dir.display())),
    }
    Ok(0)
}

/// Kills the runtimes of a stopped server, removes their cgroups and the folder. Returns how many there were.
///
/// # Errors
/// A server uses the folder, it is no server's, or something does not go.
pub fn purge(data_dir: &Path) -> anyhow::Result<usize> {
    if !MARKS.iter().any(|mark| data_dir.join(mark).exists()) {
        bail!("{} is not a folder of a Sandbar server", data_dir.display());
    }
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join("lock"))
        .with_context(|| format!("cannot open the lock in {}", data_dir.display()))?;
    if lock.try_lock().is_err() {
        bail!("a server uses {}; stop it first", data_dir.display());
    }
    let hierarchy = Hierarchy::detect(&sandbar_node::instance_of(data_dir))?;
    let names = hierarchy.list()?;
    for name in &names {
        hierarchy.clear(name)?;
    }
    hierarchy.remove_if_empty();
    fs::remove_dir_all(data_dir).with_context(|| format!("cannot delete {}", data_dir.display()))?;
    Ok(names.len())
}
