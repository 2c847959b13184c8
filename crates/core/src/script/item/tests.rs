use proptest::prelude::*;

use super::*;

fn spec(fields: Value) -> CollectionSpec {
    serde_json::from_value(json!({ "fields": fields })).expect("a spec")
}

fn given(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

#[test]
fn values_fit_their_fields_or_not() {
    let field = |field: Value| serde_json::from_value::<Field>(field).expect("a field");
    for (of, value_given, kept) in [
        (json!({"name": "a", "type": "string"}), json!("ä"), Some(json!("ä"))),
        (json!({"name": "a", "type": "string", "maxLength": 2}), json!("äö"), Some(json!("äö"))),
        (json!({"name": "a", "type": "string", "maxLength": 2}), json!("äöü"), None),
        (json!({"name": "a", "type": "string"}), json!("x".repeat(4097)), None),
        (json!({"name": "a", "type": "string"}), json!("a\u{0}"), None),
        (json!({"name": "a", "type": "string"}), json!(5), None),
        (json!({"name": "a", "type": "string", "enum": ["x", "y"]}), json!("y"), Some(json!("y"))),
        (json!({"name": "a", "type": "string", "enum": ["x", "y"]}), json!("z"), None),
        (json!({"name": "a", "type": "text"}), json!("x".repeat(4097)), Some(json!("x".repeat(4097)))),
        (json!({"name": "a", "type": "integer"}), json!(3.0), Some(json!(3))),
        (json!({"name": "a", "type": "integer"}), json!(3.5), None),
        (json!({"name": "a", "type": "integer"}), json!(9_007_199_254_740_991_i64), Some(json!(9_007_199_254_740_991_i64))),
        (json!({"name": "a", "type": "integer"}), json!(9_007_199_254_740_992_i64), None),
        (json!({"name": "a", "type": "integer"}), json!(u64::MAX), None),
        (json!({"name": "a", "type": "integer"}), json!("3"), None),
        (json!({"name": "a", "type": "integer", "enum": [1.0, 2.0]}), json!(2.0), Some(json!(2))),
        (json!({"name": "a", "type": "number"}), json!(1.5), Some(json!(1.5))),
        (json!({"name": "a", "type": "number"}), json!(2.0), Some(json!(2))),
        (json!({"name": "a", "type": "boolean"}), json!(1), None),
        (json!({"name": "a", "type": "datetime"}), json!("2026-05-01"), Some(json!("2026-05-01T00:00:00.000Z"))),
        (json!({"name": "a", "type": "datetime"}), json!("soon"), None),
        (json!({"name": "a", "type": "json"}), json!({"a": [1.0, null, "x"]}), Some(json!({"a": [1, null, "x"]}))),
        (json!({"name": "a", "type": "json"}), json!({"a\u{0}": 1}), None),
    ] {
        assert_eq!(value(&field(of.clone()), value_given.clone()).ok(), kept, "{of} {value_given}");
    }
    let deep = (0..=limits::JSON_FIELD_DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
    assert!(value(&field(json!({"name": "a", "type": "json"})), deep).is_err());
}

#[test]
fn items_have_what_their_fields_ask_for() {
    let spec = spec(json!([
        {"name": "title", "type": "string", "required": true},
        {"name": "state", "type": "string", "required": true, "default": "draft"},
        {"name": "at", "type": "datetime", "default": "$now"},
        {"name": "views", "type": "integer"},
    ]));
    let doc = new(&spec, given(json!({"title": "a", "views": null})), 0).expect("fits");
    assert_eq!(Value::Object(doc.clone()), json!({"title": "a", "state": "draft", "at": "1970-01-01T00:00:00.000Z"}));
    let doc = changed(&spec, &doc, given(json!({"views": 2, "at": null}))).expect("fits");
    assert_eq!(Value::Object(doc.clone()), json!({"title": "a", "state": "draft", "views": 2}));
    for (input, paths) in [(json!({"title": null}), vec!["title"]), (json!({"state": null, "views": "x", "nope": 1}), vec!["nope", "views", "state"])] {
        let found = changed(&spec, &doc, given(input.clone())).expect_err("refused");
        assert_eq!(found.iter().map(|violation| violation.path.as_str()).collect::<Vec<_>>(), paths, "{input}");
    }
    assert_eq!(new(&spec, Map::new(), 0).expect_err("refused").len(), 1, "only the title has no default");
}

#[test]
fn rows_show_what_may_be_read() {
    let mut spec = spec(json!([{"name": "a", "type": "string"}, {"name": "b", "type": "integer"}]));
    let item =
        ItemRecord { id: "i".into(), owner_id: Some("u".into()), doc: given(json!({"a": "x", "gone": 1})), created_at_ms: 0, updated_at_ms: 1, generation: 1 };
    let own = json!({"id": "i", "createdAt": "1970-01-01T00:00:00.000Z", "updatedAt": "1970-01-01T00:00:00.001Z"});
    let row = |more: Value| {
        let mut row = given(own.clone());
        row.extend(given(more));
        Value::Object(row)
    };
    assert_eq!(rendered(&spec, &item, None), row(json!({"a": "x", "b": null})));
    assert_eq!(rendered(&spec, &item, Some(&BTreeSet::from(["b".to_owned(), "gone".to_owned()]))), row(json!({"b": null})));
    spec.owner_scoped = true;
    assert_eq!(rendered(&spec, &item, None), row(json!({"a": "x", "b": null, "ownerId": "u"})));
    assert_eq!(rendered(&spec, &item, Some(&BTreeSet::new())), own);
}

#[test]
fn items_follow_their_collection() {
    let before = given(json!({"a": "x", "b": 2}));
    for (fields, wanted) in [
        (json!([{"name": "a", "type": "string"}]), Some(json!({"a": "x"}))),
        (json!([{"name": "a", "type": "text"}, {"name": "b", "type": "number"}]), Some(json!({"a": "x", "b": 2}))),
        (json!([{"name": "b", "type": "string"}]), None),
        (json!([{"name": "a", "type": "string", "enum": ["y"]}]), None),
        (json!([{"name": "c", "type": "string", "required": true}]), None),
        (json!([{"name": "c", "type": "string", "required": true, "default": "new"}]), Some(json!({"c": "new"}))),
        (json!([{"name": "c", "type": "string", "default": "new"}]), Some(json!({}))),
    ] {
        assert_eq!(revised(&spec(fields.clone()), &before, 0).ok().map(Value::Object), wanted, "{fields}");
    }
}

#[test]
fn ids() {
    for id in ["a", "0", "a-b_c.d:e", "query1", &"x".repeat(128)] {
        assert!(is_id(id), "{id}");
    }
    for id in ["", "query", ".", "..", "-a", "a/b", "a b", "ä", &"x".repeat(129)] {
        assert!(!is_id(id), "{id}");
    }
}

proptest! {
    #[test]
    fn what_is_kept_fits_again_and_stays_as_it_is(number in any::<f64>(), whole in any::<i64>()) {
        let field: Field = serde_json::from_value(json!({"name": "a", "type": "number"})).expect("a field");
        for input in [json!(number), json!(whole)] {
            if let Ok(kept) = value(&field, input) {
                prop_assert_eq!(value(&field, kept.clone()), Ok(kept));
            }
        }
    }
}
