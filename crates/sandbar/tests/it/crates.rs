//! The crate graph: nouns <- decisions <- effects <- wiring. An edge that is not in the table fails.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who may use whom. Everything else is forbidden.
const EDGES: &[(&str, &[&str])] = &[
    ("sandbar-api", &[]),
    ("sandbar-core", &["sandbar-api"]),
    ("sandbar-linux", &[]),
    ("sandbar-procd-api", &[]),
    ("sandbar-scripts", &["sandbar-core", "sandbar-linux"]),
    ("sandbar-procd", &["sandbar-procd-api", "sandbar-linux"]),
    ("sandbar-ssh", &[]),
    ("sandbar-store", &["sandbar-api", "sandbar-core"]),
    ("sandbar-tree", &[]),
    ("sandbar-node", &["sandbar-core", "sandbar-linux", "sandbar-procd-api", "sandbar-ssh", "sandbar-tree"]),
    ("sandbar-server", &["sandbar-api", "sandbar-core", "sandbar-procd-api", "sandbar-ssh", "sandbar-store", "sandbar-node", "sandbar-scripts"]),
    ("sandbar", &["sandbar-api", "sandbar-core", "sandbar-linux", "sandbar-procd-api", "sandbar-store", "sandbar-node", "sandbar-scripts", "sandbar-server"]),
];

fn crates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn manifests() -> Vec<(PathBuf, toml::Table)> {
    let dirs = fs::read_dir(crates_dir()).unwrap().map(|entry| entry.unwrap().path());
    dirs.filter_map(|dir| {
        let text = fs::read_to_string(dir.join("Cargo.toml")).ok()?;
        Some((dir, text.parse().expect("a manifest")))
    })
    .collect()
}

#[test]
fn every_edge_between_crates_is_an_allowed_one() {
    let mut seen = BTreeSet::new();
    let known: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    for (_, manifest) in manifests() {
        let name = manifest["package"]["name"].as_str().unwrap();
        let (_, allowed) = EDGES
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} is a new crate: give it a line in the table and in ARCHITECTURE.md"));
        seen.insert(name.to_owned());
        let mut tables = vec![&manifest];
        if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
            tables.extend(targets.values().filter_map(toml::Value::as_table));
        }
        for table in tables {
            for kind in ["dependencies", "build-dependencies"] {
                let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) else { continue };
                for (key, value) in dependencies {
                    let used = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
                    assert!(!known.contains(used) || allowed.contains(&used), "{name} must not use {used} ({kind})");
                    assert!(value.get("path").is_none() || known.contains(used), "{name} uses {used}, which is not in the table");
                }
            }
        }
    }
    let expected: BTreeSet<String> = known.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(seen, expected, "the table and the folders differ");
}

#[test]
fn only_the_linux_crate_says_unsafe() {
    for (dir, manifest) in manifests() {
        if manifest["package"]["name"].as_str() == Some("sandbar-linux") {
            continue;
        }
        let mut roots: Vec<PathBuf> = ["src/lib.rs", "src/main.rs"].iter().map(|name| dir.join(name)).filter(|path| path.exists()).collect();
        assert!(!roots.is_empty(), "{} has no source", dir.display());
        roots.extend(fs::read_dir(dir.join("src/bin")).into_iter().flatten().flatten().map(|entry| entry.path()));
        for root in roots {
            let text = fs::read_to_string(&root).unwrap();
            assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", root.display());
        }
    }
}
