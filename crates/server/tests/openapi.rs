//! The description of the API is kept: a change of the wire shows in review as a change of `openapi.json` beside this
//! file. Write it anew with `UPDATE_SNAPSHOTS=1 cargo test -p sandbar-server --test openapi`.

use std::{collections::HashSet, fs, path::Path};

#[test]
fn the_description_of_the_api_is_the_one_that_was_reviewed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.json");
    let now = sandbar_server::http::document().to_pretty_json().expect("the document is JSON") + "\n";
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &now).expect("the snapshot can be written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    if let Some((n, (old, new))) = kept.lines().zip(now.lines()).enumerate().find(|(_, (old, new))| old != new) {
        panic!("openapi.json differs from line {} on:\n- {old}\n+ {new}\nif that is meant, run with UPDATE_SNAPSHOTS=1", n + 1);
    }
    assert_eq!(kept.lines().count(), now.lines().count(), "openapi.json has another length; if that is meant, run with UPDATE_SNAPSHOTS=1");
}

#[test]
fn every_operation_is_documented_and_named_once() {
    let document = serde_json::to_value(sandbar_server::http::document()).expect("json");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 30, "routes are missing: {}", paths.len());
    let mut ids = HashSet::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let name = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().expect("id")), "{name} has the id of another");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name} has no summary");
            assert!(operation["tags"].as_array().is_some_and(|tags| tags.len() == 1), "{name} has no tag");
            for parameter in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                let known = operation["parameters"].as_array().into_iter().flatten().any(|p| p["name"] == parameter && p["in"] == "path");
                assert!(known, "{name} does not describe {{{parameter}}}");
            }
        }
    }
    // Each reference leads somewhere.
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(schemas.contains_key(reference), "{reference} is not defined");
    }
}

#[test]
fn routes_of_scripts_fail_in_their_own_shape() {
    let document = serde_json::to_value(sandbar_server::http::document()).expect("json");
    let mut wrong = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths").iter().filter(|(path, _)| path.starts_with("/api/") && !path.starts_with("/api/v1"))
    {
        for (method, operation) in operations.as_object().expect("operations") {
            let failures = operation["responses"].as_object().expect("responses").iter().filter(|(status, _)| status.starts_with(['4', '5']));
            for (status, response) in failures {
                let schema = response["content"]["application/json"]["schema"]["$ref"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
                // A function that failed says so in the shape of its result.
                if schema != "Failed" && !(status == "500" && schema == "InvokeResult") {
                    wrong.push(format!("{method} {path} {status}: {schema:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
