use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::script::collection::Field;

pub fn spec() -> CollectionSpec {
    let field = |name: &str, kind| Field { name: name.to_owned(), kind, required: false, unique: false, default: None, max_length: None, choices: None };
    CollectionSpec {
        fields: vec![
            field("title", FieldType::String),
            field("body", FieldType::Text),
            field("views", FieldType::Integer),
            field("score", FieldType::Number),
            field("live", FieldType::Boolean),
            field("due", FieldType::Datetime),
            field("extra", FieldType::Json),
        ],
        owner_scoped: true,
        ..CollectionSpec::default()
    }
}

fn item() -> ItemRecord {
    let doc = json!({"title": "Ärger $5", "views": 3, "score": 1.5, "live": true, "due": "2026-05-01T10:00:00.000Z", "extra": {"a": 1}});
    ItemRecord {
        id: "i1".into(),
        owner_id: Some("u1".into()),
        doc: doc.as_object().cloned().expect("an object"),
        created_at_ms: 1_000,
        updated_at_ms: 2_000,
        generation: 1,
    }
}

fn parse(filter: Value) -> Result<Filter, QueryError> {
    spec().filter(&filter)
}

fn holds(filter: Value, user: Option<&str>) -> bool {
    let context = Context { user_id: user.map(str::to_owned), now_ms: 1_777_629_600_000 };
    parse(filter.clone()).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&item(), &context)
}

#[test]
fn filters_hold_or_not() {
    for (filter, wanted) in [
        (json!({}), true),
        (json!({"title": "Ärger $5"}), true),
        (json!({"title": {"_eq": "ärger $5"}}), false),
        (json!({"title": {"_neq": "x"}}), true),
        (json!({"body": {"_neq": "x"}}), false),
        (json!({"body": {"_nin": ["x"]}}), false),
        (json!({"body": null}), true),
        (json!({"body": {"_neq": null}}), false),
        (json!({"body": {"_null": true}, "title": {"_null": false}}), true),
        (json!({"title": {"_contains": "ger"}}), true),
        (json!({"title": {"_starts_with": "Är", "_ends_with": "$5"}}), true),
        (json!({"title": {"_ends_with": ""}}), true),
        (json!({"title": {"_starts_with": "Ärger $5 and more"}}), false),
        (json!({"title": {"_in": ["a", "Ärger $5"]}}), true),
        (json!({"title": {"_in": []}}), false),
        (json!({"title": {"_nin": []}}), true),
        (json!({"title": {"_gt": "Z"}}), true),
        (json!({"views": {"_gte": 3, "_lt": 4}}), true),
        (json!({"views": {"_gt": 3}}), false),
        (json!({"views": {"_lt": 3.5}}), true),
        (json!({"score": 1.5}), true),
        (json!({"live": true}), true),
        (json!({"live": {"_neq": false}}), true),
        (json!({"live": {"_in": [false]}}), false),
        (json!({"due": "2026-05-01T12:00:00+02:00"}), true),
        (json!({"due": {"_eq": "$now"}}), true),
        (json!({"due": {"_gt": "$now-1d", "_lt": "$now+1s"}}), true),
        (json!({"due": {"_lt": "$now-1d"}}), false),
        (json!({"extra": {"_null": false}}), true),
        (json!({"extra": {"_eq": 1}}), false),
        (json!({"extra": {"_neq": 1}}), true),
        (json!({"extra": {"_gt": "a"}}), false),
        (json!({"id": "i1"}), true),
        (json!({"created_at": {"_lt": "$now"}, "createdAt": "1970-01-01T00:00:01Z"}), true),
        (json!({"updated_at": {"_gt": 1999}}), true),
        (json!({"$and": []}), true),
        (json!({"$or": []}), false),
        (json!({"$not": {}}), false),
        (json!({"$or": [{"views": 4}, {"$not": {"title": "x"}}]}), true),
        (json!({"$and": [{"views": 3}, {"live": false}]}), false),
    ] {
        assert_eq!(holds(filter.clone(), Some("u1")), wanted, "{filter}");
    }
}

#[test]
fn nobody_is_equal_to_nobody() {
    for (filter, own, other, nobody) in [
        (json!({"ownerId": "$user.id"}), true, false, false),
        (json!({"owner_id": {"_neq": "$user.id"}}), false, true, false),
        (json!({"$not": {"ownerId": "$user.id"}}), false, true, false),
        (json!({"$not": {"$not": {"ownerId": "$user.id"}}}), true, false, false),
        (json!({"ownerId": {"_in": ["$user.id", "u1"]}}), true, true, true),
        (json!({"ownerId": {"_nin": ["$user.id", "x"]}}), false, true, false),
        (json!({"ownerId": {"_nin": ["$user.id", "u1"]}}), false, false, false),
        (json!({"$or": [{"ownerId": "$user.id"}, {"views": 3}]}), true, true, true),
        (json!({"title": {"_contains": "$user.id"}}), false, false, false),
    ] {
        for (user, wanted) in [(Some("u1"), own), (Some("u2"), other), (None, nobody)] {
            assert_eq!(holds(filter.clone(), user), wanted, "{filter} for {user:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_named_and_what_is_allowed() {
    let long = "x".repeat(limits::FILTER_TEXT_MAX_BYTES + 1);
    let mut deep = json!({"views": 1});
    for _ in 0..limits::FILTER_DEPTH_MAX {
        deep = json!({"$not": deep});
    }
    for (filter, part) in [
        (json!([]), "object"),
        (json!("x"), "object"),
        (json!({"nope": 1}), "the fields are id, createdAt, updatedAt, ownerId, title"),
        (json!({"$xor": []}), "$and, $or and $not"),
        (json!({"_and": []}), "there is no field"),
        (json!({"title": {"_like": "x"}}), "_eq, _neq"),
        (json!({"title": {}}), "operator"),
        (json!({"title": ["a"]}), "type"),
        (json!({"title": 5}), "string"),
        (json!({"title": {"_eq": {"a": 1}}}), "string"),
        (json!({"views": "5"}), "integer"),
        (json!({"views": {"_contains": "5"}}), "texts"),
        (json!({"live": {"_gt": true}}), "order"),
        (json!({"live": 1}), "boolean"),
        (json!({"due": "yesterday"}), "moment"),
        (json!({"due": {"_contains": "2026"}}), "texts"),
        (json!({"extra": {"_eq": []}}), "true or false"),
        (json!({"title": {"_null": "yes"}}), "true or false"),
        (json!({"title": {"_in": "x"}}), "list"),
        (json!({"title": {"_in": [null]}}), "string"),
        (json!({"views": {"_in": vec![1; limits::FILTER_LIST_MAX + 1]}}), "100"),
        (json!({"title": "$usr.id"}), "$user.id, $now"),
        (json!({"due": "$now-1y"}), "$now-1d"),
        (json!({"due": "$now-9999999d"}), "$now-1d"),
        (json!({"title": "$now"}), "moment"),
        (json!({"views": "$user.id"}), "text"),
        (json!({"title": "a\0b"}), "U+0000"),
        (json!({"title": long}), "bytes"),
        (json!({"$or": {}}), "list"),
        (json!({"$or": vec![json!({}); limits::FILTER_CONDITIONS_MAX + 1]}), "100 conditions"),
        (deep, "deeper than 8"),
    ] {
        let error = parse(filter.clone()).expect_err(&filter.to_string()).to_string();
        assert!(error.contains(part), "{filter}: {error}");
    }
    // A text of one's own may begin with a dollar sign.
    for (filter, text) in
        [(json!({"title": "$5"}), "$5"), (json!({"title": "$$user.id"}), "$user.id"), (json!({"title": "$"}), "$"), (json!({"title": "$$5"}), "$5")]
    {
        let wanted = Node::Field(Place::Field("title".into()), Test::Equal(Operand::Value(Scalar::Text(text.into()))));
        assert_eq!(parse(filter.clone()).expect("parses").0, wanted, "{filter}");
    }
}

#[test]
fn fields_that_may_not_be_read_are_not_there() {
    let spec = spec();
    let readable = BTreeSet::from(["title".to_owned()]);
    let names = Names { spec: &spec, readable: Some(&readable) };
    assert!(Filter::parse(&json!({"title": "x", "id": "y"}), &names).is_ok());
    for name in ["views", "ownerId", "owner_id"] {
        let error = Filter::parse(&json!({"$not": {"$or": [{name: null}]}}), &names).expect_err(name).to_string();
        assert!(error.ends_with("the fields are id, createdAt, updatedAt, title"), "{error}");
        let query = QueryText { sort: Some(json!(name)), ..QueryText::default() };
        assert!(Query::read(&query, &names).is_err(), "{name}");
    }
    let unowned = CollectionSpec { owner_scoped: false, ..spec.clone() };
    assert!(unowned.filter(&json!({"ownerId": "x"})).is_err());
}

#[test]
fn orders_and_parts() {
    let spec = spec();
    let names = Names { spec: &spec, readable: None };
    let read = |query: Value| Query::read(&serde_json::from_value(query).expect("a query"), &names);
    assert_eq!((read(json!({})).expect("empty").limit, read(json!({"filter": null, "limit": null})).expect("nulls").offset), (50, 0));
    for (limit, wanted) in [(json!(0), 1), (json!(-5), 1), (json!(200), 200), (json!(201), 200), (json!("7"), 7), (json!(3.0), 3)] {
        assert_eq!(read(json!({"limit": limit})).expect("a limit").limit, wanted);
    }
    let sorted = read(json!({"sort": "-createdAt, title"})).expect("sorts").sort;
    assert_eq!(sorted, read(json!({"sort": ["-created_at", "+title"]})).expect("sorts").sort);
    assert_eq!(sorted[0], SortKey { place: Place::CreatedAt, descending: true });
    for query in [
        json!({"sort": "nope"}),
        json!({"sort": "extra"}),
        json!({"sort": 5}),
        json!({"sort": [5]}),
        json!({"sort": "id,id,id,id,id,id"}),
        json!({"sort": "--id"}),
        json!({"offset": -1}),
        json!({"offset": 1_000_001}),
        json!({"offset": 1.5}),
        json!({"limit": "x"}),
        json!({"limit": true}),
        json!({"filter": []}),
    ] {
        assert!(read(query.clone()).is_err(), "{query}");
    }
    assert!(serde_json::from_value::<QueryText>(json!({"where": {}})).is_err(), "unknown keys are an error");
}

fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("$and".to_owned()),
        Just("$or".to_owned()),
        Just("$not".to_owned()),
        Just("title".to_owned()),
        Just("due".to_owned()),
        Just("extra".to_owned()),
        Just("_eq".to_owned()),
        Just("_in".to_owned()),
        Just("_gt".to_owned()),
        Just("_contains".to_owned()),
        ".{0,6}",
    ];
    let text = prop_oneof![Just("$now".to_owned()), Just("$user.id".to_owned()), "\\$now[+-][0-9]{1,7}[smhdwé]?", ".{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(10, 128, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect()))
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_json_makes_the_reader_panic(filter in any_json(), sort in any_json(), limit in any_json(), user in any::<bool>()) {
        let spec = spec();
        let names = Names { spec: &spec, readable: None };
        let context = Context { user_id: user.then(|| "u1".to_owned()), now_ms: i64::MAX };
        if let Ok(filter) = Filter::parse(&filter, &names) {
            filter.matches(&item(), &context);
        }
        let _ = Query::read(&QueryText { filter: Some(filter), sort: Some(sort), limit: Some(limit.clone()), offset: Some(limit) }, &names);
    }
}
