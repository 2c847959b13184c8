use proptest::prelude::*;
use serde_json::json;

use super::*;

fn violations(schema: &Value, input: &Value) -> Vec<String> {
    let schema = InputSchema::compile(schema).expect("a schema");
    schema.apply(Some(input)).expect_err("violations").iter().map(ToString::to_string).collect()
}

fn refusal(schema: &Value) -> String {
    let problems = InputSchema::compile(schema).expect_err("a refusal");
    problems.iter().map(|problem| format!("/{}: {}", problem.place.join("/"), problem.message)).collect::<Vec<_>>().join("; ")
}

#[test]
fn inputs_get_their_defaults() {
    let schema = InputSchema::compile(&json!({
        "type": "object",
        "required": ["month", "format"],
        "properties": {
            "month": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
            "format": {"enum": ["csv", "json"], "default": "csv"},
            "page": {"$ref": "#/$defs/page"},
            "rows": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}},
        },
        "$defs": {"page": {"type": "object", "default": {}, "properties": {"size": {"type": "integer", "default": 20}}}},
    }))
    .expect("a schema");
    let filled = schema.apply(Some(&json!({"month": "2026-11", "rows": [{}, {"n": 5}]})));
    assert_eq!(filled, Ok(json!({"month": "2026-11", "format": "csv", "page": {"size": 20}, "rows": [{"n": 1}, {"n": 5}]})));
    let wrong = schema.apply(None).expect_err("a violation");
    assert_eq!(wrong, [Violation::new("input.month", "is required")]);
}

#[test]
fn violations_have_paths_and_not_the_values() {
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "rows": {"type": "array", "maxItems": 2, "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}},
            "token": {"type": "string", "maxLength": 3},
        },
    });
    let found = violations(&schema, &json!({"rows": [{"id": "x"}, {}], "token": "geheim", "a b": 1}));
    assert_eq!(found.len(), 4, "{found:?}");
    for wanted in ["input.rows[0].id: ", "input.rows[1].id: is required", "input.token: ", "input.a b: is not known to the schema"] {
        assert!(found.iter().any(|text| text.starts_with(wanted)), "{wanted}: {found:?}");
    }
    assert!(!found.join(" ").contains("geheim"), "{found:?}");
    assert!(violations(&schema, &json!([]))[0].starts_with("input: must be an object"));
}

#[test]
fn schemas_that_are_none_or_reach_out_are_refused() {
    for (schema, wanted) in [
        (json!(true), "must have the type object"),
        (json!({"type": "array"}), "must have the type object"),
        (json!({"type": "object", "properties": {"a": {"type": "nothing"}}}), "/properties/a/type: "),
        (json!({"type": "object", "properties": {"a": 5}}), "/properties/a: must be a schema"),
        (json!({"type": "object", "properties": {"a": {"$ref": "https://example.com/x.json"}}}), "/properties/a/$ref: must name a part"),
        (json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}), "must name a part"),
        (json!({"type": "object", "properties": {"a": {"$ref": "#"}}}), "must name a part"),
        (json!({"type": "object", "$id": "http://169.254.169.254/"}), "/$id: is not allowed"),
        (json!({"type": "object", "$schema": "http://example.com/schema"}), "/$schema: must be"),
        (json!({"type": "object", "properties": {"a": {"$dynamicRef": "#x"}}}), "is not allowed"),
        (json!({"type": "object", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}), "leads back to itself"),
        (json!({"type": "object", "properties": {"a": {"pattern": "("}}}), ""),
        (json!({"type": "object", "properties": {"a": {"pattern": "(a)\\1"}}}), ""),
        (json!({"type": "object", "properties": {"a": {"pattern": "(?=a)b"}}}), ""),
        (json!({"type": "object", "properties": {"a": {"pattern": "(a{1000}){1000}"}}}), ""),
        (json!({"type": "object", "description": "x".repeat(70_000)}), "more than 65536 bytes"),
    ] {
        let found = refusal(&schema);
        assert!(found.contains(wanted), "{found}");
    }
    // All of it at once.
    let found = refusal(&json!({"type": "array", "properties": {"a": {"type": "text"}, "b": {"minLength": "x"}, "c": {"type": ["null", "any"]}}}));
    for wanted in ["must have the type object", "/properties/a/type: must be string", "/properties/b/minLength: ", "/properties/c/type"] {
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
    let deep = (0..40).fold(json!({}), |inner, _| json!({"not": inner}));
    assert!(refusal(&json!({"type": "object", "not": deep})).contains("in one another"));
    // A property may be called as keywords are.
    assert!(InputSchema::compile(&json!({"type": "object", "properties": {"id": {"type": "string"}, "$ref": {"type": "string"}}})).is_ok());
    assert!(InputSchema::compile(&json!({"type": "object", "$schema": "http://json-schema.org/draft-07/schema#", "definitions": {}})).is_ok());
}

#[test]
fn references_that_multiply_are_refused() {
    let mut defs = Map::new();
    defs.insert("s0".to_owned(), json!({"type": "string"}));
    for at in 1..=25 {
        let before = json!({"$ref": format!("#/$defs/s{}", at - 1)});
        defs.insert(format!("s{at}"), json!({"allOf": [before, before]}));
    }
    let found = refusal(&json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/s25"}}, "$defs": defs}));
    assert!(found.contains("with what $ref repeats"), "{found}");
}

#[test]
fn inputs_are_bounded() {
    let schema = InputSchema::compile(&json!({"type": "object", "properties": {"a": {"items": {"properties": {"b": {"default": "x".repeat(10_000)}}}}}}))
        .expect("a schema");
    let many = json!({"a": vec![json!({}); 1000]});
    assert!(schema.apply(Some(&many)).expect_err("too much")[0].message.contains("defaults"));
    assert!(schema.apply(Some(&json!({"a": "x".repeat(2 << 20)}))).expect_err("too much")[0].message.contains("at most"));
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    assert!(schema.apply(Some(&json!({"a": deep}))).expect_err("too deep")[0].message.contains("in one another"));
    let heavy: Map<_, _> = (0..300).map(|at| (format!("p{at}"), json!({"type": "string"}))).collect();
    let schema = InputSchema::compile(&json!({"type": "object", "properties": {"a": {"items": {"properties": heavy}}}})).expect("a schema");
    assert!(schema.apply(Some(&json!({"a": vec![0; 100_000]}))).expect_err("too dear")[0].message.contains("too many values"));
}

#[test]
fn an_expression_takes_time_as_the_text_is_long() {
    let schema = InputSchema::compile(&json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})).expect("a schema");
    let text = "a".repeat(100_000) + "b";
    assert_eq!(schema.apply(Some(&json!({"a": text}))).expect_err("a violation").len(), 1);
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec!["type", "properties", "items", "$ref", "allOf", "default", "required", "enum", "pattern", "a", "$defs", "not", "#/a"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        keys.clone().prop_map(Value::from),
        Just(json!("#/$defs/a")),
        Just(json!("object"))
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_schema_is_made_ready_or_refused(mut schema in any_json(), input in any_json()) {
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("type".to_owned(), json!("object"));
        }
        if let Ok(schema) = InputSchema::compile(&schema) {
            let _ = schema.apply(Some(&input));
        }
    }
}
