//! Versions, aliases and rollbacks.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{call, data, make, path, refused};
use crate::it::harness::shared;

#[test]
fn each_new_code_is_a_version_and_old_ones_come_back() {
    let server = shared();
    let api = server.api();
    make(&api, "v-code", "return 1", json!({}));
    let patch = |body: Value| assert_eq!(api.json("PATCH", &path("v-code", ""), &body).value(), json!({ "ok": true }));
    let version = || data(&api.get(&path("v-code", "")), 200)["version"].clone();
    patch(json!({ "code": "return 1" }));
    patch(json!({ "timeoutMs": 1000 }));
    assert_eq!(version(), 1, "the same code is no new version");
    patch(json!({ "code": "return 2" }));
    patch(json!({ "trusted": true }));
    assert_eq!(version(), 3, "another author is another version");
    patch(json!({ "code": "return 3" }));
    let versions = data(&api.get(&path("v-code", "/versions")), 200);
    let seen: Vec<_> = versions.as_array().unwrap().iter().map(|v| (v["version"].clone(), v["authorKind"].clone(), v["aliases"].clone())).collect();
    let row = |version: u32, author: Value, aliases: Value| (json!(version), author, aliases);
    assert_eq!(
        seen,
        [row(4, json!(null), json!(["live"])), row(3, json!("operator"), json!([])), row(2, json!(null), json!([])), row(1, json!(null), json!([]))],
        "who wrote the code is asked with each code"
    );
    assert_eq!(data(&api.get(&path("v-code", "/versions/2")), 200)["code"], "return 2");
    refused(&api.get(&path("v-code", "/versions/9")), 404);
    refused(&api.get(&path("v-code", "/versions/x")), 404);

    assert_eq!(data(&api.post(&path("v-code", "/rollback"), json!({})), 200)["version"], 3);
    assert_eq!(call(&api, "v-code", json!({}))["value"], 2);
    assert_eq!(data(&api.post(&path("v-code", "/rollback"), json!({ "version": 1 })), 200)["version"], 1);
    assert_eq!(call(&api, "v-code", json!({}))["value"], 1);
    refused(&api.post(&path("v-code", "/rollback"), json!({})), 409);
    refused(&api.post(&path("v-code", "/rollback"), json!({ "version": 9 })), 404);
    patch(json!({ "code": "return 3" }));
    assert_eq!(version(), 5, "numbers are not given twice");
}

#[test]
fn aliases_name_versions_and_divide_calls() {
    let server = shared();
    let api = server.api();
    make(&api, "v-alias", "return 1", json!({}));
    api.json("PATCH", &path("v-alias", ""), &json!({ "code": "return 2" }));
    let put = |alias: &str, body: Value| api.put(&path("v-alias", &format!("/aliases/{alias}")), body);
    assert_eq!(data(&put("next", json!({ "version": 1 })), 200)["version"], 1);
    let invoke = |query: &str| api.post(&path("v-alias", &format!("/invoke{query}")), json!({}));
    assert_eq!(invoke("?alias=next").value()["value"], 1);
    assert_eq!(invoke("?version=1").value()["version"], 1);
    assert_eq!(invoke("").value()["value"], 2);
    refused(&invoke("?alias=none"), 404);
    refused(&invoke("?version=9"), 404);
    refused(&invoke("?version=0"), 400);
    refused(&invoke("?version=1&alias=next"), 400);
    for (body, status) in [
        (json!({}), 400),
        (json!({ "version": 1, "split": [] }), 400),
        (json!({ "split": [] }), 400),
        (json!({ "split": [{ "version": 1, "weight": 0 }] }), 400),
        (json!({ "split": [{ "version": 1, "weight": 1 }, { "version": 1, "weight": 1 }] }), 400),
        (json!({ "split": [{ "version": 1, "weight": 1 }, { "version": 9, "weight": 1 }] }), 404),
        (json!({ "version": 9 }), 404),
    ] {
        refused(&put("next", body), status);
    }
    refused(&put("Next", json!({ "version": 1 })), 400);
    let split = data(&put("live", json!({ "split": [{ "version": 1, "weight": 50 }, { "version": 2, "weight": 50 }] })), 200);
    assert_eq!(split["split"].as_array().map(Vec::len), Some(2));
    let keyed = |key: &str| api.try_send("POST", &path("v-alias", "/invoke"), &[("x-sticky-key", key)], b"{}").unwrap().value()["value"].clone();
    let seen: HashSet<String> = (0..24).map(|n| keyed(&n.to_string()).to_string()).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for n in 0..6 {
        assert_eq!(keyed(&n.to_string()), keyed(&n.to_string()), "the same key, the same version");
    }
    refused(&api.delete(&path("v-alias", "/aliases/live")), 409);
    assert_eq!(api.delete(&path("v-alias", "/aliases/next")).value(), json!({ "ok": true }));
    refused(&api.delete(&path("v-alias", "/aliases/next")), 404);
}
