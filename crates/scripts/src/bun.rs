//! `bun-worker`: Bun, for code that its owner marked as trusted. What it runs is here; where it runs, in a sandbox, is its host's.
//!
//! A worker of Bun is no wall: what is taken from its globals can be imported again. So a process is never shared by two teams, and
//! it is the sandbox that keeps it from the machine.

/// What stands beside the program: names and texts.
pub const FILES: &[(&str, &str)] =
    &[("pool.js", include_str!("bun/pool.js")), ("worker.js", include_str!("bun/worker.js")), ("ctx.js", include_str!("ctx.js"))];

/// What Bun is started with, given the folder that has the files.
pub fn arguments(dir: &str) -> Vec<String> {
    // Nothing is ever fetched from a registry because a script imports it.
    vec!["--no-install".to_owned(), format!("{dir}/pool.js")]
}

/// Its environment. All that a process may use is a machine to it: its collector believes in so much memory, and not in the host's.
pub fn environment(memory_bytes: u64) -> Vec<(String, String)> {
    let memory = (memory_bytes / 4).to_string();
    [("TZ", "UTC"), ("NO_COLOR", "1"), ("DO_NOT_TRACK", "1"), ("BUN_RUNTIME_TRANSPILER_CACHE_PATH", "0"), ("BUN_JSC_forceRAMSize", &memory)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}
