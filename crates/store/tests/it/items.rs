use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use sandbar_core::script::{
    collection::{CollectionRecord, CollectionSpec},
    item::{self, ItemRecord},
    query::{Context, Filter, Names, Query, QueryText},
};
use sandbar_store::{ItemQuery, NewScriptEvent, Store, StoreError};
use serde_json::{Map, Value, json};

use crate::{Fresh, team};

fn spec(value: Value) -> CollectionSpec {
    let spec: CollectionSpec = serde_json::from_value(value).expect("a spec");
    spec.check().expect("a good one");
    spec
}

fn collection(slug: &str, spec: CollectionSpec) -> CollectionRecord {
    CollectionRecord {
        id: format!("c-{slug}"),
        team_id: "team".into(),
        slug: slug.into(),
        spec,
        items: 0,
        item_bytes: 0,
        created_at_ms: 1,
        updated_at_ms: 1,
        generation: 1,
    }
}

fn doc(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

fn an_item(id: &str, fields: Value) -> ItemRecord {
    ItemRecord { id: id.into(), owner_id: None, doc: doc(fields), created_at_ms: 10, updated_at_ms: 10, generation: 1 }
}

fn event(id: &str, target: &str) -> NewScriptEvent {
    NewScriptEvent {
        id: id.into(),
        team_id: "team".into(),
        target: target.into(),
        data: r#"{"id":"x"}"#.into(),
        depth: 0,
        cause_run_id: None,
        subject: "{}".into(),
        created_at_ms: 10,
    }
}

fn created(item: ItemRecord) -> (ItemRecord, NewScriptEvent) {
    let event = event(&format!("e-{}", item.id), "items:posts:created");
    (item, event)
}

async fn made(store: &Store, slug: &str, fields: Value) -> CollectionRecord {
    let collection = collection(slug, spec(json!({ "fields": fields })));
    store.collection_insert(&collection).await.expect("inserts");
    collection
}

async fn get(store: &Store, slug: &str) -> CollectionRecord {
    store.collection_get("team", slug).await.expect("reads").expect("is there")
}

async fn targets(store: &Store) -> Vec<String> {
    let mut targets: Vec<String> = store.script_events_list("team", None, 1000).await.expect("lists").into_iter().map(|e| e.event.target).collect();
    targets.sort();
    targets
}

#[tokio::test]
async fn collections_are_a_teams_own() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    store.team_insert(&team("other", "user")).await.expect("another team");
    let posts = made(&store, "posts", json!([{"name": "title", "type": "string"}])).await;
    assert!(matches!(store.collection_insert(&posts).await, Err(StoreError::Exists { .. })));
    store.collection_insert(&CollectionRecord { id: "c-other".into(), team_id: "other".into(), ..posts.clone() }).await.expect("another team's");
    assert_eq!(store.collections_list("team").await.expect("lists"), std::slice::from_ref(&posts));
    let mut next = posts.clone();
    next.spec.description = Some("What we write".into());
    let changed = store.collection_update(&next, 5).await.expect("changes");
    assert_eq!(changed, CollectionRecord { generation: 2, updated_at_ms: 5, ..next.clone() });
    assert!(matches!(store.collection_update(&next, 6).await, Err(StoreError::Stale { .. })), "it was read before that");
    assert!(matches!(store.collection_delete("team", "none", false).await, Err(StoreError::NotFound { .. })));
    assert!(store.collection_delete("team", "posts", false).await.expect("deletes"));
    assert_eq!(store.collection_get("team", "posts").await.expect("reads"), None);
    assert!(store.collection_get("other", "posts").await.expect("reads").is_some());
    store.team_delete("other").await.expect("a team goes with its collections");
}

#[tokio::test]
async fn items_and_their_events_are_one_commit() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let posts = made(&store, "posts", json!([{"name": "title", "type": "string", "unique": true}])).await;
    let first = an_item("a", json!({"title": "one"}));
    store.items_insert(&posts, vec![created(first.clone()), created(an_item("b", json!({})))]).await.expect("inserts");
    assert_eq!(store.item_get(&posts.id, "a").await.expect("reads"), Some(first.clone()));
    let counted = get(&store, "posts").await;
    assert_eq!((counted.items, counted.item_bytes, counted.generation), (2, r#"{"title":"one"}{}"#.len() as u64, 1));

    // All or nothing, events as well.
    let taken = vec![created(an_item("c", json!({}))), created(an_item("a", json!({})))];
    assert!(matches!(store.items_insert(&posts, taken).await, Err(StoreError::Exists { .. })));
    let same = vec![created(an_item("c", json!({"title": "two"}))), created(an_item("d", json!({"title": "two"})))];
    assert!(matches!(store.items_insert(&posts, same).await, Err(StoreError::Duplicate { field }) if field == "title"));
    assert_eq!(store.item_get(&posts.id, "c").await.expect("reads"), None);
    assert_eq!(get(&store, "posts").await, counted);
    assert_eq!(targets(&store).await, ["items:posts:created", "items:posts:created"]);

    let mut second = ItemRecord { doc: doc(json!({"title": "longer than one"})), updated_at_ms: 20, ..first.clone() };
    assert_eq!(store.item_update(&posts, &second, event("u1", "items:posts:updated")).await.expect("updates"), 2);
    assert!(matches!(store.item_update(&posts, &second, event("u2", "items:posts:updated")).await, Err(StoreError::Stale { what: "item", .. })));
    second.generation = 2;
    assert_eq!(store.item_get(&posts.id, "a").await.expect("reads"), Some(second.clone()));
    // The former value is free again.
    store.items_insert(&posts, vec![created(an_item("c", json!({"title": "one"})))]).await.expect("inserts");
    let clash = ItemRecord { doc: doc(json!({"title": "one"})), ..second.clone() };
    assert!(matches!(store.item_update(&posts, &clash, event("u3", "items:posts:updated")).await, Err(StoreError::Duplicate { .. })));

    assert!(matches!(store.item_delete(&posts, "a", 1, event("d1", "items:posts:deleted")).await, Err(StoreError::Stale { .. })));
    store.item_delete(&posts, "a", 2, event("d2", "items:posts:deleted")).await.expect("deletes");
    assert!(matches!(store.item_delete(&posts, "a", 2, event("d3", "items:posts:deleted")).await, Err(StoreError::NotFound { .. })));
    store.items_insert(&posts, vec![created(an_item("e", json!({"title": "longer than one"})))]).await.expect("its value is free");
    assert_eq!(
        targets(&store).await,
        ["items:posts:created", "items:posts:created", "items:posts:created", "items:posts:created", "items:posts:deleted", "items:posts:updated"]
    );
    let counted = get(&store, "posts").await;
    assert_eq!((counted.items, counted.item_bytes), (3, r#"{}{"title":"one"}{"title":"longer than one"}"#.len() as u64));

    // Items are written as their collection is now, or not at all.
    let stale = CollectionRecord { generation: 7, ..posts.clone() };
    assert!(matches!(store.items_insert(&stale, vec![created(an_item("z", json!({})))]).await, Err(StoreError::Stale { what: "collection", .. })));
    assert!(matches!(store.collection_delete("team", "posts", false).await, Err(StoreError::InUse { by, .. }) if by == [("items", 3)]));
    assert!(store.collection_delete("team", "posts", true).await.expect("deletes"));
    assert!(matches!(store.items_insert(&posts, vec![created(an_item("z", json!({})))]).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_large_collection_goes_bit_by_bit() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let posts = made(&store, "posts", json!([])).await;
    for n in 0..21 {
        let items = (0..100).map(|m| created(an_item(&format!("i{n}-{m}"), json!({})))).collect();
        store.items_insert(&posts, items).await.expect("inserts");
    }
    assert!(!store.collection_delete("team", "posts", true).await.expect("begins"));
    assert_eq!(get(&store, "posts").await.items, 100);
    assert!(store.collection_delete("team", "posts", true).await.expect("ends"));
    assert_eq!(store.collections_list("team").await.expect("lists"), []);
}

#[tokio::test]
async fn items_follow_a_change_of_their_collection_or_refuse_it() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let posts = made(&store, "posts", json!([{"name": "a", "type": "string"}, {"name": "b", "type": "integer"}])).await;
    store.items_insert(&posts, vec![created(an_item("x", json!({"a": "one", "b": 1}))), created(an_item("y", json!({"a": "one"})))]).await.expect("inserts");
    let change = async |fields: Value| {
        let mut next = get(&store, "posts").await;
        next.spec = spec(json!({ "fields": fields }));
        store.collection_update(&next, 5).await
    };
    for (fields, part) in [
        (json!([{"name": "a", "type": "integer"}]), r#"item "x" does not fit the change: a: "#),
        (json!([{"name": "b", "type": "integer", "required": true}]), r#"item "y" does not fit the change: b: is required"#),
        (json!([{"name": "a", "type": "string", "enum": ["two"]}]), "one of"),
    ] {
        let refused = change(fields.clone()).await.expect_err("refused").to_string();
        assert!(refused.contains(part), "{fields}: {refused}");
    }
    assert!(matches!(change(json!([{"name": "a", "type": "string", "unique": true}])).await, Err(StoreError::Duplicate { .. })));
    assert_eq!(get(&store, "posts").await.generation, 1, "nothing was changed");

    change(json!([{"name": "b", "type": "number", "unique": false}, {"name": "c", "type": "string", "required": true, "default": "new"}])).await.expect("fits");
    let docs = async || {
        let found = store.items_find(ItemQuery { collection_id: posts.id.clone(), limit: 10, ..ItemQuery::default() }).await.expect("finds");
        found.items.into_iter().map(|item| Value::Object(item.doc)).collect::<Vec<_>>()
    };
    assert_eq!(docs().await, [json!({"b": 1, "c": "new"}), json!({"c": "new"})]);
    let now = get(&store, "posts").await;
    assert_eq!(now.item_bytes, r#"{"b":1,"c":"new"}{"c":"new"}"#.len() as u64);
    // What became unique is.
    change(json!([{"name": "b", "type": "integer", "unique": true}, {"name": "c", "type": "string"}])).await.expect("fits");
    let now = get(&store, "posts").await;
    assert!(matches!(store.items_insert(&now, vec![created(an_item("z", json!({"b": 1})))]).await, Err(StoreError::Duplicate { .. })));
    change(json!([{"name": "b", "type": "integer"}, {"name": "c", "type": "string"}])).await.expect("widens");
    let now = get(&store, "posts").await;
    store.items_insert(&now, vec![created(an_item("z", json!({"b": 1})))]).await.expect("any number of them");
}

fn mixed() -> CollectionSpec {
    let names = [("s", "string"), ("n", "number"), ("i", "integer"), ("b", "boolean"), ("d", "datetime"), ("j", "json"), ("k", "json")];
    spec(json!({ "fields": names.map(|(name, kind)| json!({"name": name, "type": kind})), "ownerScoped": true }))
}

#[tokio::test]
async fn queries_sort_and_cut() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let all = collection("all", mixed());
    store.collection_insert(&all).await.expect("inserts");
    let rows = [("a", json!({"n": 2, "s": "b"}), 1), ("b", json!({"n": 1.5, "s": "B"}), 3), ("c", json!({"s": "ä"}), 3), ("d", json!({"n": 2}), 2)];
    let items = rows.into_iter().map(|(id, fields, at)| created(ItemRecord { created_at_ms: at, ..an_item(id, fields) })).collect();
    store.items_insert(&all, items).await.expect("inserts");
    let names = Names { spec: &all.spec, readable: None };
    for (query, wanted) in [
        (json!({}), "bcda"),
        (json!({"sort": "createdAt"}), "adbc"),
        (json!({"sort": "-n"}), "adbc"),
        (json!({"sort": "n,-id"}), "cbda"),
        (json!({"sort": ["s"]}), "dbac"),
        (json!({"sort": "-s", "limit": 2}), "ca"),
        (json!({"limit": 2, "offset": 1}), "cd"),
        (json!({"offset": 9}), ""),
        (json!({"filter": {"n": 2}, "sort": "-id"}), "da"),
    ] {
        let read = Query::read(&serde_json::from_value::<QueryText>(query.clone()).expect("a query"), &names).expect("reads");
        let asked = ItemQuery {
            collection_id: all.id.clone(),
            filters: read.filter.into_iter().collect(),
            sort: read.sort,
            limit: read.limit,
            offset: read.offset,
            count: true,
            ..ItemQuery::default()
        };
        let found = store.items_find(asked).await.expect("finds");
        assert_eq!(found.items.iter().map(|item| item.id.as_str()).collect::<String>(), wanted, "{query}");
        assert_eq!(found.total, Some(if query.get("filter").is_some() { 2 } else { 4 }), "{query}");
    }
}

#[tokio::test]
async fn what_is_found_has_a_bound() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let all = made(&store, "all", json!([{"name": "t", "type": "text"}])).await;
    let items = (0..30).map(|n| created(an_item(&format!("i{n}"), json!({"t": "x".repeat(250_000)})))).collect();
    store.items_insert(&all, items).await.expect("inserts");
    let ask = |limit| ItemQuery { collection_id: all.id.clone(), limit, ..ItemQuery::default() };
    assert!(matches!(store.items_find(ask(30)).await, Err(StoreError::Query(_))));
    assert_eq!(store.items_find(ask(20)).await.expect("finds").items.len(), 20);
}

const TEXTS: [&str; 13] = ["", "a", "A", "ab", "b", "ä", "a\"b\\", "%_", "1", "true", "\u{10ffff}", "\u{1}", "2026-05-01T10:00:00.000Z"];

/// Values that filters and items have in common, so that comparisons come out both ways.
fn scalar() -> impl Strategy<Value = Value> {
    let numbers = [
        json!(0),
        json!(-0.0),
        json!(1),
        json!(1.0),
        json!(1.5),
        json!(-3),
        json!(0.1),
        json!(0.30000000000000004),
        json!(1e300),
        json!(5e-324),
        json!(9_007_199_254_740_991_i64),
    ];
    prop_oneof![
        4 => prop::sample::select(&TEXTS[..]).prop_map(Value::from),
        4 => prop::sample::select(numbers.to_vec()),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => "\\PC{0,4}".prop_map(Value::from),
    ]
}

fn fields() -> impl Strategy<Value = Value> {
    let nested = prop_oneof![6 => scalar(), 1 => Just(Value::Null), 1 => Just(json!([1, "a"])), 1 => Just(json!({"a": 1}))];
    let moment = prop::sample::select(&[0i64, 1_777_629_600_000, 1_777_629_600_001, -1][..]);
    (
        prop::option::of(scalar().prop_map(|value| json!(value.as_str().map_or_else(|| value.to_string(), str::to_owned)))),
        prop::option::of(scalar().prop_filter("a number", Value::is_number)),
        prop::option::of(-2i64..3),
        prop::option::of(any::<bool>()),
        prop::option::of(moment),
        prop::option::of(nested.clone()),
        prop::option::of(nested),
    )
        .prop_map(|(s, n, i, b, d, j, k)| json!({"s": s, "n": n, "i": i, "b": b, "d": d, "j": j, "k": k}))
}

fn condition() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(&["s", "n", "i", "b", "d", "j", "k", "j", "k", "id", "ownerId", "createdAt", "updated_at"][..]);
    let operator = prop::sample::select(&["_eq", "_neq", "_in", "_nin", "_gt", "_gte", "_lt", "_lte", "_null", "_contains", "_starts_with", "_ends_with"][..]);
    let value = prop_oneof![
        6 => scalar(),
        1 => Just(Value::Null),
        1 => Just(json!("$user.id")),
        1 => Just(json!("$now")),
        1 => Just(json!("$now-1d")),
        1 => prop::sample::select(&["i1", "i10", "u1", "u2"][..]).prop_map(Value::from),
        1 => prop::sample::select(&[0i64, 1, 5, 1_777_629_600_000][..]).prop_map(Value::from),
    ];
    (field, operator, value.clone(), prop::collection::vec(value, 0..4), any::<bool>()).prop_map(|(field, operator, value, list, flag)| match operator {
        "_in" | "_nin" => json!({field: {operator: list.into_iter().filter(|value| !value.is_null()).collect::<Vec<_>>()}}),
        "_null" => json!({field: {operator: flag}}),
        _ => json!({field: {operator: value}}),
    })
}

fn any_filter() -> impl Strategy<Value = Value> {
    condition().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|filters| json!({"$and": filters})),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|filters| json!({"$or": filters})),
            inner.prop_map(|filter| json!({"$not": filter})),
        ]
    })
}

#[tokio::test]
async fn the_database_and_the_evaluator_agree() {
    const ITEMS: usize = 150;
    const FILTERS: usize = 1500;
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let all = collection("all", mixed());
    store.collection_insert(&all).await.expect("inserts");
    let mut runner = TestRunner::default();
    let mut items = Vec::new();
    for n in 0..ITEMS {
        let given = fields().new_tree(&mut runner).expect("a value").current();
        let doc = item::new(&all.spec, doc(given.clone()), 0).unwrap_or_else(|found| panic!("{given}: {found:?}"));
        // As it is read back.
        let doc = serde_json::from_str(&serde_json::to_string(&doc).expect("text")).expect("json");
        let owner_id = [None, Some("u1".to_owned()), Some("u2".to_owned())][n % 3].clone();
        items.push(ItemRecord { owner_id, doc, created_at_ms: n as i64 % 7, updated_at_ms: n as i64, ..an_item(&format!("i{n}"), json!({})) });
    }
    for some in items.chunks(50) {
        store.items_insert(&all, some.iter().cloned().map(created).collect()).await.expect("inserts");
    }
    let (mut asked, mut decided) = (0, 0);
    while asked < FILTERS {
        let filter = any_filter().new_tree(&mut runner).expect("a filter").current();
        // Values of other types than the field's are refused; there are enough that are not.
        let Ok(read) = Filter::parse(&filter, &Names { spec: &all.spec, readable: None }) else { continue };
        asked += 1;
        let context = Context { user_id: [None, Some("u1".to_owned())][asked % 2].clone(), now_ms: 1_777_629_600_000 };
        let wanted: BTreeSet<&str> = items.iter().filter(|item| read.matches(item, &context)).map(|item| item.id.as_str()).collect();
        decided += usize::from(!wanted.is_empty() && wanted.len() < ITEMS);
        let query = ItemQuery { collection_id: all.id.clone(), filters: vec![read], context, limit: 1000, count: true, ..ItemQuery::default() };
        let found = store.items_find(query).await.unwrap_or_else(|error| panic!("{filter}: {error:?}"));
        let ids: BTreeSet<&str> = found.items.iter().map(|item| item.id.as_str()).collect();
        let differs: Vec<_> = ids.symmetric_difference(&wanted).map(|id| items.iter().find(|item| item.id == **id)).collect();
        assert!(differs.is_empty(), "{filter} for {differs:?}");
        assert_eq!(found.total, Some(wanted.len() as u64), "{filter}");
    }
    assert!(decided > FILTERS / 4, "only {decided} filters told items apart");
}

#[tokio::test]
async fn the_largest_filters_can_be_asked() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let all = collection("all", mixed());
    store.collection_insert(&all).await.expect("inserts");
    store.items_insert(&all, vec![created(an_item("a", json!({"s": "x"})))]).await.expect("inserts");
    let list: Vec<String> = (0..100).map(|n| format!("v{n}")).collect();
    let wide: Vec<Value> = (0..32).map(|_| json!({"s": {"_nin": list}})).collect();
    let filter = Filter::parse(&json!({ "$and": wide }), &Names { spec: &all.spec, readable: None }).expect("parses");
    let query = ItemQuery { collection_id: all.id.clone(), filters: vec![filter.clone(), Filter::any(vec![filter; 100])], limit: 1, ..ItemQuery::default() };
    assert_eq!(store.items_find(query).await.expect("finds").items.len(), 1);
}
