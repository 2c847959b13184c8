//! The shape of schemas: how large they are when what `$ref` repeats is counted again, and the defaults in them.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::limits::apps as limits;

/// What is wrong with a schema, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaProblem {
    /// Names and indices from the schema's root on.
    pub place: Vec<String>,
    pub message: String,
}

/// Keywords whose value is a schema.
const ONE: [&str; 12] = [
    "additionalProperties",
    "additionalItems",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas. `items` may be one in draft 7.
const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
/// Keywords whose value is an object of schemas.
const MAPS: [&str; 6] = ["$defs", "definitions", "dependentSchemas", "dependencies", "patternProperties", "properties"];
/// Keywords that make what a schema is depend on more than its text.
const REFUSED: [&str; 8] = ["$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "$vocabulary", "id"];
const DRAFTS: [&str; 4] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2020-12/schema#",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-07/schema#",
];

/// Everything that is wrong with a schema's shape; else its weight.
pub fn check(schema: &Value) -> Result<usize, Vec<SchemaProblem>> {
    let problem = |message: String| vec![SchemaProblem { place: Vec::new(), message }];
    if depth(schema) > limits::APP_INPUT_SCHEMA_DEPTH_MAX {
        return Err(problem(format!("has more than {} objects and lists in one another", limits::APP_INPUT_SCHEMA_DEPTH_MAX)));
    }
    if bytes(schema) > limits::APP_INPUT_SCHEMA_MAX_BYTES {
        return Err(problem(format!("has more than {} bytes", limits::APP_INPUT_SCHEMA_MAX_BYTES)));
    }
    let mut walk = Walk { root: schema, weights: HashMap::new(), entered: HashSet::new(), problems: Vec::new() };
    let weight = walk.weight(schema, &mut Vec::new(), 0);
    if weight > limits::APP_INPUT_SCHEMA_WEIGHT_MAX {
        walk.wrong(&[], format!("is more than {} schemas, with what $ref repeats", limits::APP_INPUT_SCHEMA_WEIGHT_MAX));
    }
    if walk.problems.is_empty() { Ok(weight) } else { Err(walk.problems) }
}

struct Walk<'a> {
    root: &'a Value,
    /// Of targets of `$ref`.
    weights: HashMap<String, usize>,
    entered: HashSet<String>,
    problems: Vec<SchemaProblem>,
}

impl Walk<'_> {
    fn wrong(&mut self, place: &[String], message: impl Into<String>) {
        if self.problems.len() < limits::APP_INPUT_PROBLEMS_MAX {
            self.problems.push(SchemaProblem { place: place.to_vec(), message: message.into() });
        }
    }

    fn weight(&mut self, schema: &Value, place: &mut Vec<String>, refs: usize) -> usize {
        let Value::Object(fields) = schema else {
            if !schema.is_boolean() {
                self.wrong(place, "must be a schema: an object, or true or false");
            }
            return 1;
        };
        let mut weight = 1_usize;
        for (key, value) in fields {
            place.push(key.clone());
            weight = weight.saturating_add(self.keyword(key, value, place, refs));
            place.pop();
        }
        weight
    }

    fn keyword(&mut self, key: &str, value: &Value, place: &mut Vec<String>, refs: usize) -> usize {
        match (key, value) {
            ("$schema", _) => {
                if place.len() > 1 || !value.as_str().is_some_and(|name| DRAFTS.contains(&name)) {
                    self.wrong(place, "must be draft 2020-12 or draft 7, and stand at the root");
                }
                0
            }
            ("$ref", Value::String(target)) => self.reference(target, place, refs),
            _ if REFUSED.contains(&key) => {
                self.wrong(place, "is not allowed here: a schema refers to its own parts by \"$ref\": \"#/$defs/NAME\"");
                0
            }
            (_, Value::Array(items)) if LISTS.contains(&key) => self.each(items.iter().enumerate().map(|(at, item)| (at.to_string(), item)), place, refs),
            (_, Value::Object(fields)) if MAPS.contains(&key) => {
                // `dependencies` of draft 7 may be lists of names.
                let schemas = fields.iter().filter(|(_, value)| key != "dependencies" || !value.is_array());
                self.each(schemas.map(|(name, value)| (name.clone(), value)), place, refs)
            }
            // What is no schema there, the metaschema says.
            (_, Value::Object(_)) if ONE.contains(&key) => self.weight(value, place, refs),
            // Each of them is looked at.
            ("enum" | "required", Value::Array(items)) => items.len() / 8,
            _ => 1,
        }
    }

    fn each<'v>(&mut self, schemas: impl Iterator<Item = (String, &'v Value)>, place: &mut Vec<String>, refs: usize) -> usize {
        let mut weight = 0_usize;
        for (name, schema) in schemas {
            place.push(name);
            weight = weight.saturating_add(self.weight(schema, place, refs));
            place.pop();
        }
        weight
    }

    fn reference(&mut self, target: &str, place: &mut [String], refs: usize) -> usize {
        let Some(schema) = resolve(self.root, target) else {
            self.wrong(place, "must name a part of this schema, such as #/$defs/NAME");
            return 1;
        };
        if let Some(weight) = self.weights.get(target) {
            return *weight;
        }
        if refs >= limits::APP_INPUT_SCHEMA_DEPTH_MAX {
            self.wrong(place, format!("is the end of more than {} of them in a row", limits::APP_INPUT_SCHEMA_DEPTH_MAX));
            return 1;
        }
        if !self.entered.insert(target.to_owned()) {
            self.wrong(place, "leads back to itself, and a schema that holds itself is not allowed here");
            return 1;
        }
        let mut inner = tokens(target);
        let weight = self.weight(schema, &mut inner, refs + 1);
        self.entered.remove(target);
        self.weights.insert(target.to_owned(), weight);
        weight
    }
}

/// Puts defaults where nothing is, from the outside in. Err when they are more bytes than there is room for.
pub fn fill(root: &Value, schema: &Value, value: &mut Value, room: &mut usize) -> Result<(), ()> {
    let Value::Object(keywords) = schema else { return Ok(()) };
    if let Some(target) = reference(root, keywords) {
        fill(root, target, value, room)?;
    }
    for part in keywords.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        fill(root, part, value, room)?;
    }
    match value {
        Value::Object(fields) => {
            let properties = keywords.get("properties").and_then(Value::as_object);
            for (name, schema) in properties.into_iter().flatten() {
                if !fields.contains_key(name)
                    && let Some(default) = default(root, schema)
                {
                    *room = room.checked_sub(bytes(default) + name.len()).ok_or(())?;
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    fill(root, schema, value, room)?;
                }
            }
            if let Some(others) = keywords.get("additionalProperties").filter(|schema| schema.is_object()) {
                let known = |name: &str| properties.is_some_and(|properties| properties.contains_key(name));
                for (_, value) in fields.iter_mut().filter(|(name, _)| !known(name)) {
                    fill(root, others, value, room)?;
                }
            }
        }
        Value::Array(items) => {
            let first = keywords.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for (at, item) in items.iter_mut().enumerate() {
                if let Some(schema) = first.get(at).or_else(|| keywords.get("items")) {
                    fill(root, schema, item, room)?;
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

fn default<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let mut schema = schema.as_object()?;
    // Chains of them were found to end.
    for _ in 0..=limits::APP_INPUT_SCHEMA_DEPTH_MAX {
        if let Some(default) = schema.get("default") {
            return Some(default);
        }
        schema = reference(root, schema)?.as_object()?;
    }
    None
}

fn reference<'a>(root: &'a Value, keywords: &Map<String, Value>) -> Option<&'a Value> {
    resolve(root, keywords.get("$ref")?.as_str()?)
}

/// What `#/a/b` names. The whole schema is never meant: it would hold itself.
fn resolve<'a>(root: &'a Value, target: &str) -> Option<&'a Value> {
    let pointer = target.strip_prefix('#').filter(|pointer| pointer.starts_with('/') && !pointer.contains('%'))?;
    root.pointer(pointer).filter(|schema| schema.is_object() || schema.is_boolean())
}

fn tokens(target: &str) -> Vec<String> {
    super::tokens(target.trim_start_matches('#'))
}

/// Objects and lists in one another. Values come from parsers that bound their depth.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// About as many as its JSON has.
pub fn bytes(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| 1 + bytes(item)).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(name, value)| 4 + name.len() + bytes(value)).sum::<usize>(),
        Value::String(text) => 2 + text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
    }
}
