//! Builds procd, static and small, and lets the program embed it.
//!
//! procd needs other flags than the rest (static, size before speed), so cargo is called once more, with a target
//! folder of its own that debug and release builds share.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = manifest_dir.parent().and_then(|p| p.parent()).expect("the crate is at crates/sandbar").to_owned();
    for part in ["crates/procd", "crates/procd-api", "crates/linux", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(part).display());
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target");
    let target = format!("{arch}-unknown-linux-gnu");
    let target_dir = workspace.join("target").join("procd");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .current_dir(&workspace)
        .args(["build", "--quiet", "--locked", "--package", "sandbar-procd", "--profile", "procd", "--target", &target])
        .arg("--target-dir")
        .arg(&target_dir)
        // Not those of the outer build: its flags, wrappers and features are not for procd.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_MAKEFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .status()
        .expect("cargo can be run again to build procd");
    assert!(status.success(), "procd, the agent inside sandboxes, did not build (see the errors above)");
    let program = target_dir.join(target).join("procd").join("sandbar-procd");
    println!("cargo::rustc-env=SANDBAR_PROCD={}", program.display());
}
