use serde_json::json;

use super::*;

fn spec(value: Value) -> CollectionSpec {
    serde_json::from_value(value).expect("a spec")
}

#[test]
fn what_is_wrong_has_a_path() {
    for (fields, path) in [
        (json!([{"name": "1a", "type": "string"}]), "fields[0].name"),
        (json!([{"name": "a\"b", "type": "string"}]), "fields[0].name"),
        (json!([{"name": "", "type": "string"}]), "fields[0].name"),
        (json!([{"name": "__proto__", "type": "string"}]), "fields[0].name"),
        (json!([{"name": "created_at", "type": "string"}]), "fields[0].name"),
        (json!([{"name": "id", "type": "string"}]), "fields[0].name"),
        (json!([{"name": "a", "type": "string"}, {"name": "a", "type": "text"}]), "fields[1].name"),
        (json!([{"name": "a", "type": "text", "unique": true}]), "fields[0].unique"),
        (json!([{"name": "a", "type": "boolean", "maxLength": 5}]), "fields[0].maxLength"),
        (json!([{"name": "a", "type": "string", "maxLength": 0}]), "fields[0].maxLength"),
        (json!([{"name": "a", "type": "string", "maxLength": 5000}]), "fields[0].maxLength"),
        (json!([{"name": "a", "type": "boolean", "enum": [true]}]), "fields[0].enum"),
        (json!([{"name": "a", "type": "string", "enum": []}]), "fields[0].enum"),
        (json!([{"name": "a", "type": "string", "enum": [1]}]), "fields[0].enum"),
        (json!([{"name": "a", "type": "integer", "default": "x"}]), "fields[0].default"),
        (json!([{"name": "a", "type": "string", "unique": true, "default": "x"}]), "fields[0].default"),
        (json!([{"name": "a", "type": "string", "enum": ["x"], "default": "y"}]), "fields[0].default"),
    ] {
        let found = spec(json!({ "fields": fields })).check().expect_err(&fields.to_string());
        assert_eq!(found[0].path, path, "{fields}");
    }
    let many: Vec<_> = (0..=limits::FIELDS_PER_COLLECTION_MAX).map(|n| json!({"name": format!("f{n}"), "type": "json"})).collect();
    assert!(spec(json!({ "fields": many })).check().is_err());
    for unknown in [
        json!({"fields": [{"name": "a", "type": "blob"}]}),
        json!({"fields": [], "x": 1}),
        json!({"fields": [{"name": "a", "type": "string", "nullable": true}]}),
        json!({}),
    ] {
        assert!(serde_json::from_value::<CollectionSpec>(unknown.clone()).is_err(), "{unknown}");
    }
}

#[test]
fn slugs() {
    for slug in ["posts", "a", "blog-posts_2"] {
        assert!(is_slug(slug), "{slug}");
    }
    for slug in ["", "Posts", "1a", "-a", "a:b", "a/b", "a.b", "ä", &"a".repeat(64)] {
        assert!(!is_slug(slug), "{slug}");
    }
}

#[test]
fn only_what_narrows_can_break_items() {
    let before = spec(json!({"fields": [{"name": "a", "type": "string", "enum": ["x", "y"]}, {"name": "b", "type": "string"}]}));
    for (fields, breaks) in [
        (json!([{"name": "b", "type": "string"}, {"name": "a", "type": "string"}]), false),
        (json!([{"name": "a", "type": "string", "enum": ["x", "y", "z"]}, {"name": "b", "type": "string", "default": "q"}]), false),
        (json!([{"name": "a", "type": "string"}, {"name": "b", "type": "string"}, {"name": "c", "type": "string"}]), false),
        (json!([{"name": "a", "type": "string"}, {"name": "b", "type": "string"}, {"name": "c", "type": "string", "required": true}]), true),
        (json!([{"name": "a", "type": "string", "enum": ["x"]}, {"name": "b", "type": "string"}]), true),
        (json!([{"name": "a", "type": "string"}]), true),
        (json!([{"name": "a", "type": "string"}, {"name": "b", "type": "text"}]), true),
        (json!([{"name": "a", "type": "string"}, {"name": "b", "type": "string", "maxLength": 10}]), true),
        (json!([{"name": "a", "type": "string"}, {"name": "b", "type": "string", "unique": true}]), true),
        (json!([{"name": "a", "type": "string"}, {"name": "b", "type": "string", "required": true}]), true),
    ] {
        assert_eq!(before.may_break(&spec(json!({ "fields": fields }))), breaks, "{fields}");
    }
}
