//! Manifests that are right and manifests that are not, each of these with all that is wrong with it.
//!
//! An invalid one says at its end, in comments, what is expected: `# expect: LINE PATH CODE`, in the order of places.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::PathBuf};

use proptest::prelude::*;
use sandbar_core::app::manifest::{Code, Manifest, locate, name_of_folder, parse, parse_bytes, schema};
use serde_json::Value;

/// What of a manifest only the parser tells.
const BEYOND_SCHEMA: [Code; 20] = [
    Code::InvalidYaml,
    Code::TooLarge,
    Code::DuplicateKey,
    Code::DuplicateName,
    Code::DuplicatePort,
    Code::ReservedName,
    Code::RequiresStartWithoutStart,
    Code::UnknownService,
    Code::DependencyCycle,
    Code::ScheduleTargetMissing,
    Code::UndeclaredPort,
    Code::InvalidSchema,
    Code::UnknownVolume,
    // Some of these a schema tells, too.
    Code::Conflict,
    Code::InvalidPattern,
    Code::InvalidValue,
    Code::UnsafePath,
    Code::InvalidName,
    Code::OutOfRange,
    Code::Missing,
];
/// Of those, the ones that a schema tells in these files all the same.
const WITHIN_SCHEMA: [&str; 22] = [
    "auth-policy",
    "boolean",
    "command-empty",
    "command-long",
    "command-missing",
    "command-names",
    "concurrency",
    "egress",
    "image",
    "image-without-ref",
    "name-missing",
    "ports",
    "port-fields",
    "public-with-policy",
    "readiness",
    "resources",
    "restart",
    "runtime-two",
    "schedule-all-at-once",
    "schedule-names",
    "schedule-when",
    "timeout",
];

fn manifests(folder: &str) -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(folder);
    let mut manifests: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    manifests.sort();
    manifests
}

fn validator() -> jsonschema::Validator {
    jsonschema::options().should_validate_formats(true).build(&schema()).unwrap()
}

/// What a program that knows YAML and not this product makes of a text.
fn as_json(text: &str) -> Option<Value> {
    serde_norway::from_str(text).ok()
}

#[test]
fn what_is_right_is_read_and_stays_the_same() {
    let manifests = manifests("valid");
    assert!(manifests.len() >= 30, "{}", manifests.len());
    for (name, text) in manifests {
        let parsed = parse(&text).unwrap_or_else(|wrong| panic!("{name}: {wrong:#?}"));
        assert_eq!(parsed.hash.len(), 64);
        let again = parse(&parsed.normalised.to_string()).unwrap_or_else(|wrong| panic!("{name}: {wrong:#?}\n{:#}", parsed.normalised));
        assert_eq!(again, parsed, "{name}: its JSON says the same");
        let stored: Manifest = serde_json::from_value(parsed.normalised).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stored, parsed.manifest, "{name}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let manifests = manifests("invalid");
    assert!(manifests.len() >= 60, "{}", manifests.len());
    let mut told = BTreeSet::new();
    let mut failures = String::new();
    for (name, text) in manifests {
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
        let found = match parse(&text) {
            Ok(_) => Vec::new(),
            Err(wrong) => wrong,
        };
        told.extend(found.iter().map(|diagnostic| diagnostic.code.as_str()));
        let lines: Vec<_> = found.iter().map(|diagnostic| format!("{} {} {}", diagnostic.line, diagnostic.path, diagnostic.code.as_str())).collect();
        if lines != expected || lines.is_empty() {
            failures += &format!("{name}: expected {expected:#?}, found {found:#?}\n");
        }
        for diagnostic in &found {
            assert!(diagnostic.column > 0 && !diagnostic.message.is_empty() && diagnostic.message.len() < 1000, "{name}: {diagnostic}");
        }
    }
    assert_eq!(failures, "");
    let untold: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).filter(|code| !told.contains(code)).collect();
    assert_eq!(untold, [""; 0], "every code has a manifest that shows it");
}

#[test]
fn the_schema_agrees_as_far_as_a_schema_can() {
    let validator = validator();
    for (name, text) in manifests("valid") {
        let Some(value) = as_json(&text) else { panic!("{name} is no YAML") };
        let wrong: Vec<_> = validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(wrong, [""; 0], "{name}");
        let normalised = parse(&text).unwrap().normalised;
        assert!(validator.is_valid(&normalised), "{name}: what is stored is a manifest, too");
    }
    let mut disagreed = Vec::new();
    for (name, text) in manifests("invalid") {
        // What a schema within the manifest may say is not for the schema of manifests.
        let wrong = parse(&text).unwrap_err().into_iter().filter(|diagnostic| !diagnostic.path.starts_with("$.inputs.schema."));
        let sure = wrong.map(|diagnostic| diagnostic.code).any(|code| !BEYOND_SCHEMA.contains(&code)) || WITHIN_SCHEMA.contains(&name.as_str());
        let Some(value) = as_json(&text) else { continue };
        if sure && validator.is_valid(&value) {
            disagreed.push(name);
        }
    }
    assert_eq!(disagreed, [""; 0], "the schema lets these pass");
}

#[test]
fn the_schema_is_one() {
    assert!(jsonschema::meta::is_valid(&schema()));
}

#[test]
fn manifests_that_say_the_same_have_the_same_hash() {
    let one = parse("name: shop\nactions:\n  - name: a\n    command: make\n    requiresStart: false\n").unwrap();
    let other = parse("{actions: [{command: \"make\", name: a, cwd: ./.}], schemaVersion: 1, name: shop, runtime: {base: default}}").unwrap();
    assert_eq!(one.hash, other.hash);
    assert_ne!(one.hash, parse("name: shop\nactions:\n  - name: a\n    command: make all\n").unwrap().hash);
}

#[test]
fn texts_that_are_too_large_are_refused_at_once() {
    let wrong = parse(&format!("name: shop\n# {}", "x".repeat(300 << 10))).unwrap_err();
    assert_eq!(wrong.iter().map(|diagnostic| diagnostic.code).collect::<Vec<_>>(), [Code::TooLarge]);
    let wrong = parse(&format!("a: &a {}\nb: [{}]\n", "x".repeat(100 << 10), vec!["*a"; 1000].join(", "))).unwrap_err();
    assert_eq!(wrong.iter().map(|diagnostic| diagnostic.code).collect::<Vec<_>>(), [Code::TooLarge], "aliases repeat a long text");
    let many = (0..1000).map(|at| format!("key{at}: 1\n")).collect::<String>();
    assert_eq!(parse(&many).unwrap_err().len(), 200, "not all of a thousand are told");
}

#[test]
fn what_is_no_text_is_told() {
    let wrong = parse_bytes(b"name: shop\nversion: \"\xff\"\n").unwrap_err();
    assert_eq!((wrong[0].code, wrong[0].line, wrong[0].column), (Code::InvalidYaml, 2, 11));
    assert_eq!(parse_bytes(&vec![0xff; 300 << 10]).unwrap_err()[0].code, Code::TooLarge);
    assert_eq!(parse_bytes(b"name: shop\n").unwrap().manifest.name.as_deref(), Some("shop"));
}

#[test]
fn folders_give_names() {
    for (folder, name) in [("My Shop_2", Some("my-shop-2")), ("shop", Some("shop")), ("--", None), ("x", None), ("äöü", None), (".hidden", Some("hidden"))] {
        assert_eq!(name_of_folder(folder).as_deref(), name, "{folder}");
    }
    assert_eq!(name_of_folder(&"a ".repeat(100)).map(|name| name.len()), Some(79));
}

#[test]
fn a_misspelt_key_is_told_with_the_right_one() {
    let wrong = parse("acitons: []\n").unwrap_err();
    assert_eq!(wrong[0].to_string(), "1:1: $.acitons: unknown_key: is not known; did you mean actions?");
    let wrong = parse("schedules: [{name: a, cron: '@daily', action: x}]\n").unwrap_err();
    assert_eq!(wrong[0].message, "schedule action target does not exist: x");
}

#[test]
fn messages_say_what_is_allowed() {
    for (text, message) in [
        ("start: {command: }", "has no value; it must be a text"),
        ("start: {command: 5}", "must be a text, not a number; put it in quotes"),
        ("actions: build", "must be a list, not a text; a list stands in [ ], or has an entry in each line, after a hyphen"),
        ("start: {command: x, timeoutSeconds: '5'}", "must be a whole number, not a text; leave out the quotes"),
        ("start: {command: x, timeoutSeconds: 1.5}", "must be a whole number, not a number with a fraction"),
        ("start: {command: x, timeoutSeconds: 0}", "must be from 1 to 86400"),
        ("start: {command: x, restart: 5}", "must be one of never, on-failure, always, or a mapping with such a policy, not a number"),
        ("start: npm start", "must be a mapping with such keys as command, cwd, timeoutSeconds, requiresStart, ports, ..., not a text"),
        ("start: {command: x, readiness: /health}", "must be a mapping with such keys as path, port, command, timeoutSeconds, intervalMs, not a text"),
        ("env: [A=1]", "must be a mapping of names and values, not a list"),
        ("actions: {build: {command: x}}", "must be a list, not a mapping; an entry of a list begins with a hyphen"),
        ("actions: [{name: a, command: x, requiresStart: yes}]", "must be true or false, not a text; yes, no, on and off are texts"),
        ("schemaVersion: -1", "must be 1"),
        ("actions: [{name: a/b, command: x}]", "must be one line without / and \\, without spaces at its ends, and not . or .."),
        ("schedules: [{name: a/b, command: x, rate: 5 minutes}]", "must be one line without / and \\, without spaces at its ends, and not . or .."),
    ] {
        let wrong = parse(text).unwrap_err();
        assert_eq!((wrong.len(), wrong[0].message.as_str()), (1, message), "{text}: {wrong:#?}");
    }
}

#[test]
fn places_are_found_by_their_paths() {
    let text = "name: shop\nvolumes:\n  - name: data\n    mountPath: /data\nschedules:\n  - {name: a, budget: {maxUsd: 1}}\n";
    for (path, at) in [
        ("$.volumes[0].mountPath", (4, 16)),
        ("$.schedules[0].budget.maxUsd", (6, 32)),
        // Where there is no such place, what is around it.
        ("$.schedules[0].quotas.maxSpendUsd", (6, 5)),
        ("$.volumes[7]", (3, 3)),
        ("$", (1, 1)),
        ("nonsense[[", (1, 1)),
    ] {
        assert_eq!(locate(text, path), at, "{path}");
    }
    assert_eq!(locate("a: [", "$.a"), (1, 1));
}

#[test]
fn services_are_launched_after_what_they_depend_on() {
    let text = "services:\n  - {name: a, command: x, dependsOn: [c, b]}\n  - {name: b, command: x, dependsOn: [c]}\n  - {name: c, command: x}\n  - {name: d, command: x}\n";
    let names = |text: &str| parse(text).unwrap().manifest.launched_services().iter().map(|service| service.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(text), [""; 0]);
    assert_eq!(names(&format!("{text}launch: {{services: [a]}}\n")), ["c", "b", "a"]);
    assert_eq!(names(&format!("{text}launch: {{services: all}}\n")), ["c", "b", "a", "d"]);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(\\PC|[\n \t:#&*!|>'\"\\[\\]{},?-]){0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn a_manifest_with_something_changed_is_read_or_refused(at: prop::sample::Index, from: prop::sample::Index, length in 0usize..20, text in "\\PC{0,10}") {
        let manifests = manifests("valid");
        let whole: Vec<char> = at.get(&manifests).1.chars().collect();
        let from = from.index(whole.len());
        let changed: String = whole[..from].iter().copied().chain(text.chars()).chain(whole[(from + length).min(whole.len())..].iter().copied()).collect();
        match parse(&changed) {
            Ok(parsed) => prop_assert_eq!(parse(&parsed.normalised.to_string()), Ok(parsed)),
            Err(wrong) => {
                prop_assert!(!wrong.is_empty());
                prop_assert!(wrong.is_sorted_by_key(|diagnostic| (diagnostic.line, diagnostic.column)));
            }
        }
    }

    #[test]
    fn what_was_generated_survives(
        names in prop::collection::btree_set("[a-z]{1,8}", 1..6), command in "[ -~]{0,40}x", timeout in prop::option::of(1u32..=86_400), cpu in prop::option::of(1u32..8000),
        port in 3000u16..3100, rate in 10u32..100_000, paths in prop::collection::vec("[a-z*?]{1,6}(/[a-z*]{1,6}){0,2}", 0..4)
    ) {
        let names: Vec<_> = names.into_iter().filter(|name| name != "start").collect();
        prop_assume!(!names.is_empty());
        let actions: Vec<_> = names.iter().map(|name| serde_json::json!({"name": name, "command": command, "artifactPaths": paths})).collect();
        let mut value = serde_json::json!({
            "start": {"command": command, "ports": [{"port": port}]},
            "actions": actions,
            "schedules": [{"name": "one", "rate": format!("{rate} seconds"), "action": names[0]}],
        });
        if let Some(timeout) = timeout {
            value["start"]["timeoutSeconds"] = timeout.into();
        }
        if let Some(cpu) = cpu {
            value["resources"] = serde_json::json!({"cpu": f64::from(cpu) / 1000.0});
        }
        let parsed = parse(&value.to_string());
        prop_assert!(parsed.is_ok(), "{:?}", parsed);
        let parsed = parsed.unwrap();
        let yaml = serde_norway::to_string(&parsed.normalised).unwrap();
        prop_assert_eq!(parse(&yaml), Ok(parsed));
    }
}
