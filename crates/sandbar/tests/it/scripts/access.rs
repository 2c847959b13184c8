//! Who may call a function.

use serde_json::json;

use super::{call, data, data_of_key, make, path, refused};
use crate::it::{api::member, harness::shared};

#[test]
fn each_kind_of_access_lets_in_whom_it_says() {
    let server = shared();
    let api = server.api();
    let code = "return ctx.user";
    for access in ["admin", "authenticated", "public", "key"] {
        make(&api, &format!("a-{access}"), code, json!({ "access": access }));
    }
    let made = data(&api.post(&path("a-key", "/keys"), json!({ "name": "shop" })), 201);
    let key = made["key"].as_str().expect("shown once").to_owned();
    assert!(key.starts_with("sk_"));
    let listed = data(&api.get(&path("a-key", "/keys")), 200);
    assert_eq!((&listed[0]["name"], listed[0].get("key")), (&json!("shop"), None));
    let developer = data_of_key(&api, &["developer"]);
    let stranger = member(&server, "a-stranger@example.com");
    let (keyed, nobody) = (api.with_token(&key), api.anonymous());
    // admin, authenticated, public, key
    let rows = [
        ("admin", &api, [200, 200, 200, 200]),
        ("developer", &developer, [403, 200, 200, 403]),
        ("key", &keyed, [401, 401, 200, 200]),
        ("nobody", &nobody, [401, 401, 200, 401]),
        // An admin elsewhere, who has no function of these names.
        ("stranger", &stranger, [404, 404, 404, 404]),
    ];
    for (who, api, statuses) in rows {
        for (access, status) in ["admin", "authenticated", "public", "key"].into_iter().zip(statuses) {
            let reply = api.post(&path(&format!("a-{access}"), "/invoke"), json!({}));
            assert_eq!(reply.status, status, "{who} {access}: {}", reply.text());
        }
    }
    let anonymous = json!({ "id": null, "email": null, "roles": [] });
    assert_eq!(call(&nobody, "a-public", json!({}))["value"], anonymous);
    assert_eq!(call(&keyed, "a-key", json!({}))["value"], anonymous);
    assert_eq!(call(&developer, "a-authenticated", json!({}))["value"]["roles"], json!(["developer"]));
    let by_header = nobody.try_send("POST", &path("a-key", "/invoke"), &[("x-function-key", &key)], b"{}").unwrap();
    assert_eq!(by_header.status, 200, "{}", by_header.text());
    // By its id, a stranger's public function can be called by everybody; they are nobody there.
    let id = data(&api.get(&path("a-public", "")), 200)["id"].as_str().unwrap().to_owned();
    assert_eq!(call(&stranger, &id, json!({}))["value"], anonymous);
    refused(&nobody.post(&path("a-public", "/invoke?version=1"), json!({})), 403);
    refused(&api.with_token("sk_0123").post(&path("a-key", "/invoke"), json!({})), 401);

    assert_eq!(api.delete(&path("a-key", &format!("/keys/{}", made["id"].as_str().unwrap()))).value(), json!({ "ok": true }));
    refused(&keyed.post(&path("a-key", "/invoke"), json!({})), 401);
}

#[test]
fn a_name_that_two_teams_have_is_not_clear() {
    let server = shared();
    let api = server.api();
    let other = member(&server, "a-other@example.com");
    make(&api, "a-same", "return 'one'", json!({ "access": "public" }));
    let second = make(&other, "a-same", "return 'two'", json!({ "access": "public" }));
    assert!(refused(&api.anonymous().post(&path("a-same", "/invoke"), json!({})), 409).contains("use its id"));
    assert_eq!(call(&api, "a-same", json!({}))["value"], "one");
    assert_eq!(call(&other, "a-same", json!({}))["value"], "two");
    assert_eq!(call(&api.anonymous(), second["id"].as_str().unwrap(), json!({}))["value"], "two");
}
