//! Who may call a function.

use std::time::Duration;

use serde_json::json;

use super::{call, data, data_of_key, make, path, refused};
use crate::it::{
    api::member,
    harness::shared,
    http::{Api, eventually},
};

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
    let invoke = format!("/invoke?team={}", team_of(&api));
    // admin, authenticated, public, key
    let rows = [
        ("admin", &api, [200, 200, 200, 200]),
        ("developer", &developer, [403, 200, 200, 403]),
        // It opens its own function and no other.
        ("key", &keyed, [404, 404, 404, 200]),
        ("nobody", &nobody, [401, 401, 200, 401]),
        // An admin elsewhere, who has no function of these names.
        ("stranger", &stranger, [404, 404, 404, 404]),
    ];
    for (who, api, statuses) in rows {
        for (access, status) in ["admin", "authenticated", "public", "key"].into_iter().zip(statuses) {
            let reply = api.post(&path(&format!("a-{access}"), &invoke), json!({}));
            assert_eq!(reply.status, status, "{who} {access}: {}", reply.text());
        }
    }
    let anonymous = json!({ "id": null, "email": null, "roles": [] });
    assert_eq!(call(&keyed, "a-key", json!({}))["value"], anonymous);
    assert_eq!(call(&developer, "a-authenticated", json!({}))["value"]["roles"], json!(["developer"]));
    let by_header = nobody.try_send("POST", &path("a-key", "/invoke"), &[("x-function-key", &key)], b"{}").unwrap();
    assert_eq!(by_header.status, 200, "{}", by_header.text());
    // By its id, a stranger's public function can be called by everybody; they are nobody there.
    let id = data(&api.get(&path("a-public", "")), 200)["id"].as_str().unwrap().to_owned();
    assert_eq!(call(&stranger, &id, json!({}))["value"], anonymous);
    assert_eq!(call(&nobody, &id, json!({}))["value"], anonymous);
    refused(&nobody.post(&path(&id, "/invoke?version=1"), json!({})), 403);
    refused(&api.with_token("sk_0123").post(&path("a-key", "/invoke"), json!({})), 401);

    assert_eq!(api.delete(&path("a-key", &format!("/keys/{}", made["id"].as_str().unwrap()))).value(), json!({ "ok": true }));
    refused(&keyed.post(&path("a-key", "/invoke"), json!({})), 401);
}

#[test]
fn a_name_that_two_teams_have_is_asked_for_with_a_team() {
    let server = shared();
    let api = server.api();
    let other = member(&server, "a-other@example.com");
    make(&api, "a-same", "return 'one'", json!({ "access": "public" }));
    let second = make(&other, "a-same", "return 'two'", json!({ "access": "public" }));
    let nobody = api.anonymous();
    assert!(refused(&nobody.post(&path("a-same", "/invoke"), json!({})), 401).contains("X-Team-Id"));
    for (team, value) in [(team_of(&api), "one"), (team_of(&other), "two")] {
        let reply = nobody.post(&path("a-same", &format!("/invoke?team={team}")), json!({}));
        assert_eq!((reply.status, &reply.value()["value"]), (200, &json!(value)), "{}", reply.text());
        let reply = nobody.try_send("POST", &path("a-same", "/invoke"), &[("x-team-id", &team)], b"{}").unwrap();
        assert_eq!(reply.value()["value"], value, "{}", reply.text());
    }
    assert_eq!(call(&api, "a-same", json!({}))["value"], "one");
    assert_eq!(call(&other, "a-same", json!({}))["value"], "two");
    assert_eq!(call(&nobody, second["id"].as_str().unwrap(), json!({}))["value"], "two");
}

#[test]
fn a_key_opens_its_own_function_whoever_has_the_same_name() {
    let server = shared();
    let api = server.api();
    let thief = member(&server, "a-thief@example.com");
    let own = make(&api, "a-twin", "return 'own'", json!({ "access": "key" }));
    let bait = make(&thief, "a-twin", "return ctx.data", json!({ "access": "public" }));
    let made = data(&api.post(&path("a-twin", "/keys"), json!({})), 201);
    let keyed = api.with_token(made["key"].as_str().unwrap());
    assert_eq!(call(&keyed, "a-twin", json!({ "secret": 1 }))["value"], "own");
    assert_eq!(call(&keyed, own["id"].as_str().unwrap(), json!({}))["value"], "own");
    refused(&keyed.post(&path(bait["id"].as_str().unwrap(), "/invoke"), json!({})), 404);
    refused(&keyed.post(&path("a-twin-2", "/invoke"), json!({})), 404);
}

#[test]
fn who_is_no_admin_sees_what_came_of_a_call_and_not_how() {
    let server = shared();
    let api = server.api();
    let code = "console.log('inside'); if (ctx.data.fail) throw new Error('no'); return { got: ctx.data.n }";
    let id = make(&api, "a-shown", code, json!({ "access": "public" }))["id"].as_str().unwrap().to_owned();
    let developer = data_of_key(&api, &["developer"]);
    let (nobody, stranger) = (api.anonymous(), member(&server, "a-looks@example.com"));
    let failed = nobody.post(&path(&id, "/invoke"), json!({ "fail": true })).value();
    assert_eq!((&failed["error"], &failed["logs"]), (&json!("no"), &json!([])));
    assert!(failed.get("stack").is_none() && failed.get("logEntries").is_none(), "{failed}");
    let ended = |api: &Api, place: &str| {
        eventually("the call has run", Duration::from_secs(60), || {
            let run = data(&api.get(place), 200);
            if run["finishedAt"].is_string() { Ok(run) } else { Err(run.to_string()) }
        })
    };
    let queue = |api: &Api| {
        let reply = api.post(&path(&id, "/invoke?mode=async"), json!({ "n": 7 }));
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.header("location").unwrap().to_owned()
    };
    let place = queue(&nobody);
    for api in [&nobody, &stranger, &developer] {
        let run = ended(api, &place);
        assert_eq!((&run["status"], &run["result"]["value"]["got"], &run["result"]["logs"]), (&json!("succeeded"), &json!(7), &json!([])), "{run}");
        assert!(run.get("input").is_none() && run.get("ops").is_none(), "{run}");
    }
    let place = queue(&developer);
    let run = ended(&developer, &place);
    assert_eq!((&run["result"]["value"]["got"], &run["result"]["logs"]), (&json!(7), &json!(["inside"])), "{run}");
    assert!(run.get("input").is_none() && run.get("ops").is_none(), "{run}");
    assert!(ended(&api, &place)["ops"].is_array());
    for api in [&nobody, &stranger] {
        refused(&api.get(&place), 404);
    }
    // A call that was waited for is nobody's to ask for again but the admins'.
    let run_id = call(&nobody, &id, json!({}))["runId"].as_str().unwrap().to_owned();
    refused(&nobody.get(&format!("/api/invocations/{run_id}")), 404);
    refused(&developer.get(&format!("/api/invocations/{run_id}")), 404);
}

#[test]
fn a_function_key_sees_the_calls_of_its_function() {
    let server = shared();
    let api = server.api();
    let key_of = |name: &str| {
        make(&api, name, "console.log('inside'); return ctx.data.n", json!({ "access": "key" }));
        let made = data(&api.post(&path(name, "/keys"), json!({ "name": "shop" })), 201);
        (api.with_token(made["key"].as_str().expect("shown once")), made)
    };
    let ((keyed, made), (other, _)) = (key_of("a-keyed"), key_of("a-keyed-2"));
    let queue = |api: &Api| {
        let reply = api.post(&path("a-keyed", "/invoke?mode=async"), json!({ "n": 7 }));
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.header("location").unwrap().to_owned()
    };
    let ended = |api: &Api, place: &str| {
        eventually("the call has run", Duration::from_secs(60), || {
            let run = data(&api.get(place), 200);
            if run["finishedAt"].is_string() { Ok(run) } else { Err(run.to_string()) }
        })
    };
    // Its own, and those of members: what came of them, and nothing of how.
    for place in [queue(&keyed), queue(&api)] {
        let run = ended(&keyed, &place);
        assert_eq!((&run["status"], &run["result"]["value"], &run["result"]["logs"]), (&json!("succeeded"), &json!(7), &json!([])), "{run}");
        assert!(run.get("input").is_none() && run.get("ops").is_none(), "{run}");
    }
    let place = queue(&api);
    let header = |key: &str| api.anonymous().try_send("GET", &place, &[("x-function-key", key)], b"").unwrap();
    assert_eq!(header(made["key"].as_str().unwrap()).status, 200);
    refused(&header("sk_0123"), 401);
    // The key of another function opens as much as none.
    refused(&other.get(&place), 404);
    refused(&api.anonymous().get(&place), 404);
    refused(&keyed.get("/api/invocations/nowhere"), 404);
    assert_eq!(api.delete(&path("a-keyed", &format!("/keys/{}", made["id"].as_str().unwrap()))).value(), json!({ "ok": true }));
    refused(&keyed.get(&place), 401);
}

#[test]
fn an_idempotency_key_answers_only_who_used_it() {
    let server = shared();
    let api = server.api();
    let id = make(&api, "a-once", "return Math.random()", json!({ "access": "public" }))["id"].as_str().unwrap().to_owned();
    let ask = |api: &Api, more: &str| api.try_send("POST", &path(&id, &format!("/invoke{more}")), &[("idempotency-key", "one")], b"{}").unwrap();
    assert_eq!(ask(&api, "").status, 200);
    assert_eq!(ask(&api, "").header("idempotency-replayed"), Some("true"));
    for reply in [ask(&api.anonymous(), ""), ask(&member(&server, "a-once@example.com"), ""), ask(&api, "?version=1")] {
        assert!(refused(&reply, 409).contains("somebody else"), "{}", reply.text());
    }
}

fn team_of(api: &Api) -> String {
    api.get("/teams").ok(200)["teams"][0]["id"].as_str().expect("a team").to_owned()
}
