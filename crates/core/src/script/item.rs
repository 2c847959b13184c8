//! Items: what their fields may hold, the form in which that is kept, and how they are shown.
//!
//! A field that is null is not kept: there is no difference between null and missing, and a row shows every field.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value, json};

use super::{
    collection::{CollectionSpec, Field, FieldType},
    moment,
};
use crate::{limits, validate::Violation};

/// An item of a collection.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRecord {
    pub id: String,
    /// Who made it, in a collection whose items have owners.
    pub owner_id: Option<String>,
    pub doc: Map<String, Value>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    /// Grows with each write; a stale writer is refused.
    pub generation: i64,
}

/// The whole numbers that JavaScript tells apart.
const EXACT_MAX: i64 = (1 << 53) - 1;

/// Whether a text can be an item's id: letters, digits, `_`, `-`, `.` and `:`, a letter or digit first. `query` is a route.
pub fn is_id(text: &str) -> bool {
    text.len() <= limits::ITEM_ID_MAX_CHARS
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'))
        && text != "query"
}

/// What an id has to be, in words.
pub fn id_rule() -> String {
    format!("has to be 1 to {} letters, digits, '_', '-', '.' and ':', begin with a letter or digit, and not be \"query\"", limits::ITEM_ID_MAX_CHARS)
}

/// The fields of a new item: what was given, else the defaults.
///
/// # Errors
/// At least one violation.
pub fn new(spec: &CollectionSpec, mut given: Map<String, Value>, now_ms: i64) -> Result<Map<String, Value>, Vec<Violation>> {
    for field in &spec.fields {
        if let Some(default) = &field.default
            && !given.contains_key(&field.name)
        {
            let default = match (field.kind, default) {
                (FieldType::Datetime, Value::String(text)) if text == "$now" => moment::iso(now_ms).into(),
                (_, default) => default.clone(),
            };
            given.insert(field.name.clone(), default);
        }
    }
    changed(spec, &Map::new(), given)
}

/// The fields of an item of which some are given anew; null takes a value away.
///
/// # Errors
/// At least one violation.
pub fn changed(spec: &CollectionSpec, before: &Map<String, Value>, given: Map<String, Value>) -> Result<Map<String, Value>, Vec<Violation>> {
    let mut found = Vec::new();
    let mut doc = before.clone();
    for (name, value_given) in given {
        match spec.field(&name) {
            None => found.push(Violation::new(
                shown(&name),
                format!("is no field of this collection; its fields are {}", listed(spec.fields.iter().map(|f| f.name.as_str()))),
            )),
            Some(_) if value_given.is_null() => drop(doc.remove(&name)),
            Some(field) => match value(field, value_given) {
                Ok(value) => drop(doc.insert(name, value)),
                Err(message) => found.push(Violation::new(name, message)),
            },
        }
        if found.len() >= limits::VIOLATIONS_NAMED_MAX {
            return Err(found);
        }
    }
    let missing = spec.fields.iter().filter(|field| field.required && !doc.contains_key(&field.name));
    for field in missing {
        if !found.iter().any(|violation| violation.path == field.name) {
            found.push(Violation::new(&field.name, "is required"));
        }
    }
    if found.is_empty() { Ok(doc) } else { Err(found) }
}

/// The fields of an item after its collection changed: values of fields that are gone go with them.
///
/// # Errors
/// The first violation: the item does not fit any more.
pub fn revised(spec: &CollectionSpec, before: &Map<String, Value>, now_ms: i64) -> Result<Map<String, Value>, Violation> {
    let kept: Map<String, Value> = before.iter().filter(|(name, _)| spec.field(name).is_some()).map(|(name, value)| (name.clone(), value.clone())).collect();
    let fill = spec.fields.iter().filter(|field| field.required && !kept.contains_key(&field.name)).cloned().collect();
    // Only what is required is filled in: elsewhere nothing is an answer, too.
    let filled = CollectionSpec { fields: fill, ..CollectionSpec::default() };
    let first = |found: Vec<Violation>| found.into_iter().next().unwrap_or_else(|| Violation::new("", "does not fit"));
    let mut doc = new(&filled, Map::new(), now_ms).map_err(first)?;
    doc.extend(
        changed(
            &CollectionSpec { fields: spec.fields.iter().filter(|f| kept.contains_key(&f.name)).cloned().collect(), ..CollectionSpec::default() },
            &Map::new(),
            kept,
        )
        .map_err(first)?,
    );
    Ok(doc)
}

/// A value that is not null as a field keeps it, or why it does not fit.
pub fn value(field: &Field, given: Value) -> Result<Value, String> {
    let kept = match (field.kind, given) {
        (FieldType::String, Value::String(text)) => {
            bounded(&text, field.max_length.unwrap_or(limits::STRING_FIELD_MAX_CHARS))?;
            Value::String(text)
        }
        (FieldType::Text, Value::String(text)) => {
            bounded(&text, field.max_length.unwrap_or(u32::MAX))?;
            Value::String(text)
        }
        (FieldType::Integer, Value::Number(number)) => integer(&number).ok_or("has to be an integer from -9007199254740991 to 9007199254740991")?.into(),
        (FieldType::Number, Value::Number(number)) => Value::Number(plain(&number)),
        (FieldType::Boolean, Value::Bool(flag)) => Value::Bool(flag),
        (FieldType::Datetime, given @ (Value::String(_) | Value::Number(_))) => match moment::read(&given) {
            Some(ms) => moment::iso(ms).into(),
            None => return Err("has to be a moment such as 2026-05-01T10:00:00Z, or milliseconds since 1970".to_owned()),
        },
        (FieldType::Json, given) => nested(given, limits::JSON_FIELD_DEPTH_MAX)?,
        (kind, given) => return Err(format!("is of type {}, and {} is none", kind.as_str(), named(&given))),
    };
    match &field.choices {
        Some(choices) if !choices.iter().any(|choice| same(choice, &kept)) => Err(format!("has to be one of {}", listed_values(choices))),
        Some(_) | None => Ok(kept),
    }
}

/// A row as everybody sees it: what it has of itself, and the fields that may be read, null where there is nothing.
pub fn rendered(spec: &CollectionSpec, item: &ItemRecord, readable: Option<&BTreeSet<String>>) -> Value {
    let may = |name: &str| readable.is_none_or(|readable| readable.contains(name));
    let mut row = Map::new();
    row.insert("id".to_owned(), item.id.clone().into());
    row.insert("createdAt".to_owned(), moment::iso(item.created_at_ms).into());
    row.insert("updatedAt".to_owned(), moment::iso(item.updated_at_ms).into());
    if spec.owner_scoped && may("ownerId") {
        row.insert("ownerId".to_owned(), json!(item.owner_id));
    }
    for field in spec.fields.iter().filter(|field| may(&field.name)) {
        row.insert(field.name.clone(), item.doc.get(&field.name).cloned().unwrap_or(Value::Null));
    }
    Value::Object(row)
}

/// A number in the one form in which it is kept: a double, without a fraction as an integer where that is exact.
pub(super) fn plain(number: &Number) -> Number {
    match integer(number) {
        Some(whole) => whole.into(),
        None => number.as_f64().and_then(Number::from_f64).unwrap_or_else(|| number.clone()),
    }
}

fn integer(number: &Number) -> Option<i64> {
    let whole = match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole,
        // 3.0 is 3 for JavaScript, which writes it so.
        (None, Some(double)) if double.fract() == 0.0 && double.abs() <= EXACT_MAX as f64 => double as i64,
        (None, _) => return None,
    };
    (-EXACT_MAX..=EXACT_MAX).contains(&whole).then_some(whole)
}

fn nested(given: Value, depth: usize) -> Result<Value, String> {
    if depth == 0 {
        return Err(format!("nests deeper than {}", limits::JSON_FIELD_DEPTH_MAX));
    }
    Ok(match given {
        Value::Null | Value::Bool(_) => given,
        Value::Number(number) => Value::Number(plain(&number)),
        Value::String(text) => {
            bounded(&text, u32::MAX)?;
            Value::String(text)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| nested(item, depth - 1)).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            members.keys().try_for_each(|name| bounded(name, u32::MAX))?;
            Value::Object(members.into_iter().map(|(name, value)| Ok((name, nested(value, depth - 1)?))).collect::<Result<_, String>>()?)
        }
    })
}

/// Databases end a text at a zero.
fn bounded(text: &str, chars_max: u32) -> Result<(), String> {
    if text.contains('\0') {
        return Err("must not have the character U+0000".to_owned());
    }
    match text.len() > chars_max as usize && text.chars().count() > chars_max as usize {
        true => Err(format!("may have at most {chars_max} characters")),
        false => Ok(()),
    }
}

/// 2.0 is 2 for whoever writes a list of choices.
fn same(choice: &Value, kept: &Value) -> bool {
    match (choice, kept) {
        (Value::Number(choice), Value::Number(kept)) => plain(choice) == *kept,
        _ => choice == kept,
    }
}

fn named(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A client's name as an error repeats it.
pub(super) fn shown(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut cut: String = name.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
    if cut.len() < name.len() {
        cut.push('…');
    }
    cut
}

pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn listed_values(values: &[Value]) -> String {
    const SHOWN_MAX: usize = 20;
    let mut text = values.iter().take(SHOWN_MAX).map(|value| shown(&value.to_string())).collect::<Vec<_>>().join(", ");
    if values.len() > SHOWN_MAX {
        text.push_str(", …");
    }
    text
}

#[cfg(test)]
mod tests;
