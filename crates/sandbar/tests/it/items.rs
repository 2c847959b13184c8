//! Collections and their items, over HTTP and by the command line: who may do what, what can be asked, and what is refused.

use std::process::Command;

use serde_json::{Value, json};

use super::{
    api::member,
    harness::{Server, TOKEN, shared},
    http::{Api, Reply, encode},
};

const COLLECTIONS: &str = "/api/collections";
const PAGE: &str = include_str!("../../../../docs/collections.md");

fn server() -> Server {
    Server::start_with(&[("SANDBAR_REGISTRATION", "true"), ("SANDBAR_POOL_MIN_IDLE", "0")])
}

/// `data` of a success.
#[track_caller]
fn data(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    reply.value()["data"].clone()
}

/// The message of a failure as these routes write it.
#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    let body = reply.value();
    assert_eq!(body["error"]["code"], code, "{}", reply.text());
    assert!(body.get("success").is_none(), "{}", reply.text());
    body["error"]["message"].as_str().unwrap_or_else(|| panic!("no message: {}", reply.text())).to_owned()
}

#[track_caller]
fn make(api: &Api, slug: &str, spec: Value) -> Value {
    let mut body = spec;
    body["slug"] = slug.into();
    data(&api.post(COLLECTIONS, body), 201)
}

fn items(slug: &str) -> String {
    format!("/api/items/{slug}")
}

fn item(slug: &str, id: &str) -> String {
    format!("/api/items/{slug}/{id}")
}

/// As a member of a team that is not one's first.
fn in_team(api: &Api, team: &str, method: &str, path: &str, body: &Value) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    api.try_send(method, path, &[("x-team-id", team)], body.as_bytes()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

fn key(api: &Api, role: &str) -> Api {
    let made = api.post("/api-keys", json!({ "name": "test", "roles": [role] })).ok(201);
    api.with_token(made["key"].as_str().expect("the key's text"))
}

fn ids(rows: &Value) -> Vec<&str> {
    rows.as_array().expect("rows").iter().map(|row| row["id"].as_str().expect("an id")).collect()
}

#[test]
fn who_may_not_write_is_told_so_before_anything_that_was_sent_is_read() {
    let server = shared();
    let api = server.api();
    make(&api, "unread", json!({ "fields": [{ "name": "title", "type": "string" }] }));
    let developer = key(&api, "developer");
    for body in [&b"no JSON"[..], b"", b"[]", b"{\"nothing\": 1}"] {
        for (method, path) in [("POST", items("unread")), ("PATCH", item("unread", "x")), ("POST", format!("{}/query", items("unread")))] {
            refused(&developer.send(method, &path, body), 403, "FORBIDDEN");
        }
    }
    // Of a body that is announced and never comes, nothing is waited for.
    let large = developer.open("POST", &items("unread"), &[], Some(1 << 20)).expect("a connection");
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(large), &mut answer).expect("an answer");
    assert!(answer.contains("403"), "{answer}");
}

#[test]
fn items_are_made_read_changed_and_deleted() {
    let server = shared();
    let api = server.api();
    let slug = "crud";
    let made = make(
        &api,
        slug,
        json!({"fields": [
            {"name": "title", "type": "string", "required": true},
            {"name": "state", "type": "string", "enum": ["draft", "live"], "default": "draft"},
            {"name": "views", "type": "integer"},
            {"name": "due", "type": "datetime"},
            {"name": "tags", "type": "json"},
        ]}),
    );
    assert_eq!((&made["slug"], &made["items"], &made["ownerScoped"]), (&json!(slug), &json!(0), &json!(false)));
    refused(&api.post(COLLECTIONS, json!({"slug": slug, "fields": []})), 409, "CONFLICT");

    let row = data(&api.post(&items(slug), json!({"title": "One", "due": "2026-05-01T12:00:00+02:00", "tags": ["a", {"b": null}]})), 201);
    let id = row["id"].as_str().expect("an id");
    assert_eq!(row["createdAt"], row["updatedAt"]);
    assert!(row["createdAt"].as_str().is_some_and(|at| at.len() == "2026-05-01T10:00:00.000Z".len() && at.ends_with('Z')), "{row}");
    let wanted = json!({
        "id": id, "createdAt": row["createdAt"], "updatedAt": row["updatedAt"],
        "title": "One", "state": "draft", "views": null, "due": "2026-05-01T10:00:00.000Z", "tags": ["a", {"b": null}],
    });
    assert_eq!(row, wanted);
    assert_eq!(data(&api.get(&item(slug, id)), 200), wanted);

    let changed = api.json("PATCH", &item(slug, id), &json!({"state": "live", "due": null, "views": 3}));
    assert_eq!(changed.value()["ok"], true);
    let row = data(&changed, 200);
    assert_eq!((&row["state"], &row["due"], &row["views"], &row["title"]), (&json!("live"), &Value::Null, &json!(3), &json!("One")));
    // A row can be sent back as it is.
    let mut again = row.clone();
    again["views"] = json!(4);
    assert_eq!(data(&api.json("PATCH", &item(slug, id), &again), 200)["views"], 4);

    let rows = data(&api.post(&items(slug), json!([{"id": "a", "title": "A"}, {"id": "b", "title": "B"}])), 201);
    assert_eq!(ids(&rows), ["a", "b"]);
    // All or none.
    let message = refused(&api.post(&items(slug), json!([{"id": "c", "title": "C"}, {"id": "a", "title": "A"}])), 409, "CONFLICT");
    assert!(message.contains("id"), "{message}");
    let message = refused(&api.post(&items(slug), json!([{"id": "c", "title": "C"}, {"views": 1}])), 400, "BAD_REQUEST");
    assert_eq!(message, "item 1: title: is required");
    refused(&api.get(&item(slug, "c")), 404, "NOT_FOUND");

    let counted = api.get(&format!("{}?meta=total&limit=1&sort=title", items(slug)));
    assert_eq!((ids(&data(&counted, 200)), &counted.value()["meta"]["total"]), (vec!["a"], &json!(3)));
    assert_eq!(data(&api.get(COLLECTIONS), 200).as_array().unwrap().iter().find(|c| c["slug"] == slug).expect("is listed")["items"], 3);

    assert_eq!(api.delete(&item(slug, "b")).value(), json!({"ok": true}));
    assert_eq!(refused(&api.delete(&item(slug, "b")), 404, "NOT_FOUND"), "Item \"b\" not found in \"crud\"");
    let message = refused(&api.delete(&format!("{COLLECTIONS}/{slug}")), 409, "CONFLICT");
    assert!(message.contains("2 items") && message.contains("force=true"), "{message}");
    assert_eq!(api.delete(&format!("{COLLECTIONS}/{slug}?force=true")).value(), json!({"ok": true}));
    assert_eq!(refused(&api.get(&items(slug)), 404, "NOT_FOUND"), "Collection \"crud\" not found");
}

#[test]
fn queries_find_what_they_ask_for() {
    let server = shared();
    let api = server.api();
    let slug = "queries";
    make(
        &api,
        slug,
        json!({"fields": [{"name": "title", "type": "string"}, {"name": "views", "type": "integer"}, {"name": "live", "type": "boolean"}, {"name": "at", "type": "datetime"}, {"name": "extra", "type": "json"}]}),
    );
    let now = 1_777_629_600_000i64;
    data(
        &api.post(
            &items(slug),
            json!([
                {"id": "a", "title": "Apple pie", "views": 10, "live": true, "at": now, "extra": "x"},
                {"id": "b", "title": "banana", "views": 20, "live": false, "at": now + 1, "extra": 5},
                {"id": "c", "title": "cherry 100%", "views": 30, "extra": {"deep": true}},
                {"id": "d"},
            ]),
        ),
        201,
    );
    for (filter, wanted) in [
        (json!({}), "abcd"),
        (json!({"title": "banana"}), "b"),
        (json!({"title": {"_contains": "an"}}), "b"),
        (json!({"title": {"_contains": "%"}}), "c"),
        (json!({"title": {"_starts_with": "a"}}), ""),
        (json!({"title": {"_starts_with": "A", "_ends_with": "pie"}}), "a"),
        (json!({"title": {"_neq": "banana"}}), "ac"),
        (json!({"title": {"_in": ["banana", "Apple pie", "x' OR 1=1 --"]}}), "ab"),
        (json!({"title": {"_nin": ["banana"]}}), "ac"),
        (json!({"title": "x' OR '1'='1"}), ""),
        (json!({"views": {"_gt": 10, "_lte": 30}}), "bc"),
        (json!({"views": null}), "d"),
        (json!({"views": {"_null": false}, "live": {"_null": true}}), "c"),
        (json!({"live": true}), "a"),
        (json!({"at": {"_gte": "2026-05-01T10:00:00.001Z"}}), "b"),
        (json!({"at": {"_lt": "$now+52000w"}}), "ab"),
        (json!({"created_at": {"_gt": "$now-1d"}, "createdAt": {"_lte": "$now"}}), "abcd"),
        (json!({"created_at": {"_gt": "$now"}}), ""),
        (json!({"extra": 5}), "b"),
        (json!({"extra": {"_gt": "a"}}), "a"),
        (json!({"extra": {"_neq": 5}}), "ac"),
        (json!({"id": {"_in": ["a", "d"]}}), "ad"),
        (json!({"$or": [{"id": "a"}, {"views": 30}]}), "ac"),
        (json!({"$not": {"$or": [{"id": "a"}, {"views": 30}]}}), "bd"),
        (json!({"$and": [{"views": {"_gt": 5}}, {"$not": {"live": true}}]}), "bc"),
    ] {
        let by_body = data(&api.post(&format!("{}/query", items(slug)), json!({"filter": filter, "sort": "id"})), 200);
        assert_eq!(ids(&by_body).concat(), wanted, "{filter}");
        let by_string = data(&api.get(&format!("{}?filter={}&sort=id", items(slug), encode(&filter.to_string()))), 200);
        assert_eq!(by_string, by_body, "{filter}");
    }
    for (query, wanted) in [
        ("sort=-views", "cbad"),
        ("sort=views,id", "dabc"),
        ("sort=-live,-id", "abdc"),
        ("sort=-title&limit=2", "cb"),
        ("sort=id&limit=2&offset=3", "d"),
        ("sort=id&limit=0", "a"),
        ("sort=id&limit=100000", "abcd"),
        ("sort=id&offset=1000000", ""),
    ] {
        assert_eq!(ids(&data(&api.get(&format!("{}?{query}", items(slug))), 200)).concat(), wanted, "{query}");
    }
}

#[test]
fn each_may_what_the_rules_say() {
    let server = server();
    let admin = server.api();
    let nobody = admin.anonymous();
    let rules = json!({"ownerScoped": true, "fields": [{"name": "title", "type": "string"}, {"name": "state", "type": "string"}, {"name": "secret", "type": "string"}], "permissions": [
        {"role": "public", "action": "read", "filter": {"state": "live"}, "fields": ["title"]},
        {"role": "viewer", "action": "read", "fields": ["title", "state", "ownerId"]},
        {"role": "authenticated", "action": "create", "fields": ["title", "state"], "filter": {"ownerId": "$user.id", "state": {"_in": ["draft", "live"]}}},
        {"role": "developer", "action": "*", "filter": {"ownerId": "$user.id"}},
    ]});
    make(&admin, "posts", rules);
    make(&admin, "hidden", json!({"fields": []}));
    data(
        &admin.post(
            &items("posts"),
            json!([
                {"id": "draft", "title": "D", "state": "draft", "secret": "s1", "ownerId": null},
                {"id": "live", "title": "L", "state": "live", "secret": "s2", "ownerId": "somebody"},
            ]),
        ),
        201,
    );

    // On a machine with one team nobody needs to name it.
    let public = data(&nobody.get(&items("posts")), 200);
    assert_eq!(ids(&public), ["live"]);
    let fields: Vec<&String> = public[0].as_object().expect("a row").keys().collect();
    assert_eq!(fields, ["createdAt", "id", "title", "updatedAt"]);
    refused(&nobody.get(&item("posts", "draft")), 404, "NOT_FOUND");
    assert_eq!(refused(&nobody.get(&items("hidden")), 401, "UNAUTHORIZED"), "No read permission on \"hidden\"");
    assert_eq!(refused(&nobody.post(&items("posts"), json!({"title": "x"})), 401, "UNAUTHORIZED"), "No create permission on \"posts\"");
    refused(&nobody.json("PATCH", &item("posts", "live"), &json!({"title": "x"})), 401, "UNAUTHORIZED");
    refused(&nobody.delete(&item("posts", "live")), 401, "UNAUTHORIZED");
    refused(&nobody.get(COLLECTIONS), 401, "UNAUTHORIZED");
    // What cannot be read cannot be found out by asking for it, either.
    for query in [
        "filter=%7B%22secret%22%3A%22s2%22%7D",
        "filter=%7B%22%24not%22%3A%7B%22secret%22%3A%7B%22_starts_with%22%3A%22s%22%7D%7D%7D",
        "sort=secret",
        "sort=-state",
        "filter=%7B%22ownerId%22%3Anull%7D",
    ] {
        let message = refused(&nobody.get(&format!("{}?{query}", items("posts"))), 400, "BAD_REQUEST");
        assert!(message.ends_with("the fields are id, createdAt, updatedAt, title"), "{message}");
    }
    refused(&admin.with_token("s0_wrong").get(&items("posts")), 401, "UNAUTHORIZED");

    // Several teams from here on.
    let ann = member(&server, "ann@example.com");
    let bob = member(&server, "bob@example.com");
    let team = admin.get("/teams").ok(200)["teams"][0]["id"].as_str().expect("a team").to_owned();
    for (email, role) in [("ann@example.com", "developer"), ("bob@example.com", "viewer")] {
        admin.post(&format!("/teams/{team}/members"), json!({"email": email, "role": role})).ok(201);
    }
    let message = refused(&nobody.get(&items("posts")), 401, "UNAUTHORIZED");
    assert!(message.contains("X-Team-Id") && message.contains("team"), "{message}");
    assert_eq!(ids(&data(&nobody.get(&format!("{}?team={team}", items("posts"))), 200)), ["live"]);
    assert_eq!(ids(&data(&in_team(&nobody, &team, "GET", &items("posts"), &Value::Null), 200)), ["live"]);
    refused(&nobody.get(&format!("{}?team=00000000-0000-0000-0000-000000000000", items("posts"))), 404, "NOT_FOUND");
    // Another team's is not there.
    refused(&ann.get(&items("posts")), 404, "NOT_FOUND");

    let ann = |method: &str, path: &str, body: Value| in_team(&ann, &team, method, path, &body);
    let bob = |method: &str, path: &str, body: Value| in_team(&bob, &team, method, path, &body);
    let own = data(&ann("POST", &items("posts"), json!({"id": "ann", "title": "A", "state": "draft", "secret": "mine"})), 201);
    assert_eq!((&own["secret"], own["ownerId"].is_string()), (&json!("mine"), true), "a developer may all with what is theirs");
    let row = data(&bob("POST", &items("posts"), json!({"id": "bob", "title": "B", "state": "draft"})), 201);
    assert_eq!((row["ownerId"].is_string(), row.get("secret")), (true, None));
    for (body, part) in [
        (json!({"title": "x", "state": "draft", "secret": "x"}), "for the field \"secret\""),
        (json!({"title": "x", "state": "archived"}), "for an item such as it would be"),
        (json!({"title": "x"}), "for an item such as it would be"),
    ] {
        let message = refused(&bob("POST", &items("posts"), body), 403, "FORBIDDEN");
        assert!(message.starts_with("No create permission on \"posts\"") && message.ends_with(part), "{message}");
    }
    refused(&bob("POST", &items("posts"), json!({"title": "x", "state": "draft", "ownerId": own["ownerId"]})), 400, "BAD_REQUEST");

    // Bob reads all, and not all of it; Ann reads what is hers, and what is public.
    let seen = data(&bob("GET", &format!("{}?sort=id", items("posts")), Value::Null), 200);
    assert_eq!(ids(&seen), ["ann", "bob", "draft", "live"]);
    assert!(seen.as_array().unwrap().iter().all(|row| row.get("secret").is_none() && row.get("ownerId").is_some()));
    assert_eq!(ids(&data(&ann("GET", &format!("{}?sort=id", items("posts")), Value::Null), 200)), ["ann", "live"]);
    let counted = ann("GET", &format!("{}?meta=total", items("posts")), Value::Null);
    assert_eq!(counted.value()["meta"]["total"], 2);

    assert_eq!(data(&ann("PATCH", &item("posts", "ann"), json!({"secret": "new"})), 200)["secret"], "new");
    refused(&ann("PATCH", &item("posts", "ann"), json!({"ownerId": null})), 400, "BAD_REQUEST");
    refused(&ann("PATCH", &item("posts", "bob"), json!({"title": "x"})), 404, "NOT_FOUND");
    refused(&ann("PATCH", &item("posts", "live"), json!({"title": "x"})), 403, "FORBIDDEN");
    refused(&ann("DELETE", &item("posts", "live"), Value::Null), 403, "FORBIDDEN");
    refused(&ann("DELETE", &item("posts", "draft"), Value::Null), 404, "NOT_FOUND");
    refused(&bob("PATCH", &item("posts", "bob"), json!({"title": "x"})), 403, "FORBIDDEN");
    refused(&bob("DELETE", &item("posts", "bob"), Value::Null), 403, "FORBIDDEN");
    data(&ann("DELETE", &item("posts", "ann"), Value::Null), 200);
    // An admin may all, and give it away.
    assert_eq!(data(&in_team(&admin, &team, "PATCH", &item("posts", "bob"), &json!({"ownerId": own["ownerId"]})), 200)["ownerId"], own["ownerId"]);
    assert_eq!(ids(&data(&ann("GET", &format!("{}?sort=id", items("posts")), Value::Null), 200)), ["bob", "live"]);

    for (method, path, body) in [
        ("GET", COLLECTIONS.to_owned(), Value::Null),
        ("POST", COLLECTIONS.to_owned(), json!({"slug": "x", "fields": []})),
        ("GET", format!("{COLLECTIONS}/posts"), Value::Null),
        ("PATCH", format!("{COLLECTIONS}/posts"), json!({"permissions": []})),
        ("DELETE", format!("{COLLECTIONS}/posts?force=true"), Value::Null),
    ] {
        refused(&ann(method, &path, body), 403, "FORBIDDEN");
    }
    let viewer = key(&admin, "viewer");
    refused(&viewer.get(&items("hidden")), 403, "FORBIDDEN");
    refused(&viewer.get(COLLECTIONS), 403, "FORBIDDEN");
    // Without its rules nobody but admins is left.
    assert_eq!(admin.json("PATCH", &format!("{COLLECTIONS}/posts"), &json!({"permissions": []})).value(), json!({"ok": true}));
    refused(&bob("GET", &items("posts"), Value::Null), 403, "FORBIDDEN");
    assert_eq!(data(&admin.get(&items("posts")), 200).as_array().map(Vec::len), Some(3));
}

#[test]
fn bad_input_is_refused_in_words() {
    let server = shared();
    let api = server.api();
    let slug = "strict";
    make(
        &api,
        slug,
        json!({"fields": [{"name": "title", "type": "string", "maxLength": 5, "unique": true}, {"name": "views", "type": "integer"}, {"name": "body", "type": "text"}]}),
    );
    data(&api.post(&items(slug), json!({"id": "one", "title": "one"})), 201);
    let list: Vec<Value> = (0..101).map(|n| json!({"views": n})).collect();
    let huge = "x".repeat(300_000);
    let (collection, collections, of, one) = (format!("{COLLECTIONS}/{slug}"), COLLECTIONS.to_owned(), items(slug), item(slug, "one"));
    for (method, path, body, status, part) in [
        ("POST", &collections, json!({"slug": "Bad Slug", "fields": []}), 400, "slug"),
        ("POST", &collections, json!({"slug": "x"}), 400, "fields: is required"),
        ("POST", &collections, json!({"slug": "x", "fields": [{"name": "id", "type": "string"}]}), 400, "fields[0].name"),
        ("POST", &collections, json!({"slug": "x", "fields": [{"name": "a", "type": "blob"}]}), 400, "fields[0].type"),
        ("POST", &collections, json!({"slug": "x", "fields": [], "permissions": [{"role": "all", "action": "read"}]}), 400, "permissions[0].role"),
        (
            "POST",
            &collections,
            json!({"slug": "x", "fields": [], "permissions": [{"role": "public", "action": "read", "filter": {"a": 1}}]}),
            400,
            "permissions[0].filter",
        ),
        ("POST", &collections, json!({"slug": "x", "fields": [], "color": 1}), 400, "color"),
        ("PATCH", &collection, json!({"slug": "y"}), 400, "slug"),
        ("PATCH", &collection, json!({"fields": [{"name": "title", "type": "integer"}]}), 409, "\"one\""),
        (
            "PATCH",
            &collection,
            json!({"fields": [{"name": "title", "type": "string"}, {"name": "views", "type": "integer", "required": true}]}),
            409,
            "views: is required",
        ),
        ("POST", &of, json!({"title": "toolong"}), 400, "title: may have at most 5 characters"),
        ("POST", &of, json!({"title": 5}), 400, "title: is of type string"),
        ("POST", &of, json!({"views": 1.5}), 400, "views: has to be an integer"),
        ("POST", &of, json!({"views": 9_007_199_254_740_993_i64}), 400, "views: has to be an integer"),
        ("POST", &of, json!({"nope": 1, "title": true}), 400, "nope: is no field of this collection"),
        ("POST", &of, json!({"title": "a\u{0}"}), 400, "U+0000"),
        ("POST", &of, json!({"createdAt": "2026-01-01"}), 400, "createdAt: is set by the server"),
        ("POST", &of, json!({"ownerId": "x"}), 400, "ownerScoped"),
        ("POST", &of, json!({"id": "a/b"}), 400, "id: has to be"),
        ("POST", &of, json!({"id": "query"}), 400, "id: has to be"),
        ("POST", &of, json!({"id": 5}), 400, "id: has to be"),
        ("POST", &of, json!({"id": "one"}), 409, "exists already"),
        ("POST", &of, json!({"title": "one"}), 409, "another item has the same title"),
        ("POST", &of, json!([]), 400, "1 to 100 items"),
        ("POST", &of, json!(list), 400, "1 to 100 items"),
        ("POST", &of, json!([1]), 400, "object"),
        ("POST", &of, json!("x"), 400, "object"),
        ("POST", &of, json!({"body": huge}), 413, "262144"),
        ("PATCH", &one, json!({"id": "two"}), 400, "id: cannot be changed"),
        ("PATCH", &one, json!({"updatedAt": "2026-01-01"}), 400, "updatedAt: cannot be changed"),
        ("PATCH", &one, json!([]), 400, "object"),
        ("POST", &format!("{of}/query"), json!({"where": {}}), 400, "where"),
        ("POST", &format!("{of}/query"), json!({"filter": {"title": {"_like": "x"}}}), 400, "_starts_with"),
        ("POST", &format!("{of}/query"), json!({"filter": {"$where": "1"}}), 400, "$and, $or and $not"),
        ("POST", &format!("{of}/query"), json!({"filter": {"title": "$user.email"}}), 400, "$user.id"),
        ("POST", &format!("{of}/query"), json!({"sort": "title; DROP TABLE item"}), 400, "there is no field"),
        ("POST", &format!("{of}/query"), json!({"offset": -1}), 400, "offset"),
        ("POST", &format!("{of}/query"), json!({"limit": "many"}), 400, "limit"),
        ("POST", &format!("{of}/query"), json!({"meta": "all"}), 400, "total"),
    ] {
        let reply = api.json(method, path, &body);
        let code = match status {
            400 => "BAD_REQUEST",
            409 => "CONFLICT",
            _ => "PAYLOAD_TOO_LARGE",
        };
        let message = refused(&reply, status, code);
        let shown: String = body.to_string().chars().take(200).collect();
        assert!(message.contains(part), "{method} {path} {shown}: {message}");
        assert!(message.len() < 2000, "{shown}: {} bytes of message", message.len());
    }
    for (path, part) in [
        ("?filter=%7B", "not valid JSON"),
        ("?filter=5", "object"),
        ("?filter=%7B%22x%22%3A1%7D", "there is no field"),
        ("?limit=1.5", "limit"),
        ("?meta=x", "total"),
    ] {
        let message = refused(&api.get(&format!("{of}{path}")), 400, "BAD_REQUEST");
        assert!(message.contains(part), "{path}: {message}");
    }
    for body in ["", "{", "\u{0}", "{}{}"] {
        refused(&api.send("POST", &of, body.as_bytes()), 400, "BAD_REQUEST");
    }
    for path in ["/api/items/none", "/api/items/No%20Slug", "/api/items/..%2Fx", "/api/items/none/x"] {
        assert!(refused(&api.get(path), 404, "NOT_FOUND").contains("not found"), "{path}");
    }
    refused(&api.get(&item(slug, "no%20id")), 404, "NOT_FOUND");
    assert_eq!(ids(&data(&api.get(&of), 200)), ["one"], "nothing of all that was done");
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    refused(&api.post(&of, json!({ "body": deep })), 400, "BAD_REQUEST");
}

#[test]
fn the_command_line_keeps_collections() {
    let server = shared();
    let api = server.api();
    let run = |args: &[&str]| {
        let done =
            Command::new(env!("CARGO_BIN_EXE_sandbar")).args(["--url", &format!("http://{}", api.addr()), "--token", TOKEN]).args(args).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let ok = |args: &[&str]| {
        let (success, out, err) = run(args);
        assert!(success, "{args:?}: {err}");
        out
    };
    let shown =
        ok(&["collection", "create", "cli", "--field", "title:string:required", "--field", "views:integer", "--allow", "public:read", "--name", "By hand"]);
    assert!(shown.contains("By hand") && shown.contains("title string required") && shown.contains("public read"), "{shown}");
    let file = std::env::temp_dir().join(format!("sandbar-it-item-{}.json", std::process::id()));
    std::fs::write(&file, r#"[{"id": "a", "title": "A", "views": 1}, {"id": "b", "title": "B", "views": 2}]"#).unwrap();
    assert_eq!(ok(&["item", "create", "cli", "--data", &format!("@{}", file.display())]), "a\nb\n");
    std::fs::remove_file(file).unwrap();
    let table = ok(&["item", "ls", "cli", "--filter", r#"{"views": {"_gt": 1}}"#, "--sort", "-title"]);
    assert!(table.lines().count() == 2 && table.contains("b   B"), "{table}");
    assert!(ok(&["item", "update", "cli", "a", "--data", r#"{"views": 7}"#]).contains('7'));
    let row: Value = serde_json::from_str(&ok(&["-o", "json", "item", "get", "cli", "a"])).expect("JSON");
    assert_eq!((&row["views"], &row["title"]), (&json!(7), &json!("A")));
    let (success, _, err) = run(&["item", "ls", "cli", "--filter", r#"{"nope": 1}"#]);
    assert!(!success && err.contains("there is no field"), "{err}");
    ok(&["collection", "update", "cli", "--description", "Made by a test"]);
    assert!(ok(&["collection", "get", "cli"]).contains("Made by a test"));
    assert_eq!(ok(&["item", "rm", "cli", "a"]), "a\n");
    assert!(!run(&["collection", "rm", "cli"]).0, "there is an item");
    ok(&["collection", "rm", "cli", "--force"]);
    assert!(!ok(&["collection", "ls"]).contains("cli "));
}

#[test]
fn the_collection_of_the_page_is_one() {
    let server = shared();
    let example = PAGE.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a collection");
    let mut example: Value = serde_json::from_str(example).expect("JSON");
    example["slug"] = "example".into();
    data(&server.api().post(COLLECTIONS, example), 201);
}
