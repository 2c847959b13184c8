//! Collections: what their items are made of, and what makes a description of that a valid one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    access::Rule,
    item,
    query::{Filter, Names},
};
use crate::{limits, validate::Violation};

/// What a collection's owner decides.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CollectionSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub fields: Vec<Field>,
    /// Who may do what; nobody but admins without any.
    #[serde(default)]
    pub permissions: Vec<Rule>,
    /// Whether each item knows who made it, as `ownerId`.
    #[serde(default)]
    pub owner_scoped: bool,
}

/// A collection.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectionRecord {
    pub id: String,
    pub team_id: String,
    pub slug: String,
    pub spec: CollectionSpec,
    /// How many there are, and the bytes of their fields as JSON.
    pub items: u64,
    pub item_bytes: u64,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub generation: i64,
}

/// A field of a collection's items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: FieldType,
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
    /// No two items have the same value.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unique: bool,
    /// What a new item has that says nothing; `$now` for a datetime is the moment in which it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Characters of a string or text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// The only values that there are, of a string or an integer.
    #[serde(default, rename = "enum", skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// Up to some thousand characters; can be unique.
    String,
    /// As long as an item can be.
    Text,
    /// Without a fraction, as far as JavaScript counts exactly.
    Integer,
    Number,
    Boolean,
    /// Kept in UTC with milliseconds.
    Datetime,
    /// Whatever JSON there is.
    Json,
}

/// Names that rows have of themselves, in both spellings that queries know.
pub const SYSTEM_FIELDS: [&str; 7] = ["id", "createdAt", "created_at", "updatedAt", "updated_at", "ownerId", "owner_id"];

impl FieldType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Datetime => "datetime",
            Self::Json => "json",
        }
    }

    fn can_be_unique(self) -> bool {
        matches!(self, Self::String | Self::Integer | Self::Datetime)
    }
}

/// Whether a text can be a collection's slug: lower-case letters, digits, `_` and `-`, a letter first.
pub fn is_slug(text: &str) -> bool {
    text.len() <= limits::COLLECTION_NAME_MAX_CHARS
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// What a slug has to be, in words.
pub fn slug_rule() -> String {
    format!("has to be 1 to {} lower-case letters, digits, '_' and '-', and begin with a letter", limits::COLLECTION_NAME_MAX_CHARS)
}

fn is_field_name(text: &str) -> bool {
    text.len() <= limits::COLLECTION_NAME_MAX_CHARS
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text != "__proto__"
}

impl CollectionSpec {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Every problem of a description, each with its path.
    ///
    /// # Errors
    /// At least one violation.
    pub fn check(&self) -> Result<(), Vec<Violation>> {
        let mut found = Vec::new();
        for (path, text, max) in [("name", &self.name, limits::NAME_MAX_CHARS), ("description", &self.description, limits::TEXT_MAX_CHARS)] {
            if text.as_ref().is_some_and(|text| text.chars().count() > max) {
                found.push(Violation::new(path, format!("may have at most {max} characters")));
            }
        }
        if self.fields.len() > limits::FIELDS_PER_COLLECTION_MAX {
            found.push(Violation::new("fields", format!("may be at most {}", limits::FIELDS_PER_COLLECTION_MAX)));
        }
        if self.permissions.len() > limits::RULES_PER_COLLECTION_MAX {
            found.push(Violation::new("permissions", format!("may be at most {}", limits::RULES_PER_COLLECTION_MAX)));
        }
        if !found.is_empty() {
            return Err(found);
        }
        let mut names = BTreeSet::new();
        for (n, field) in self.fields.iter().enumerate() {
            let path = format!("fields[{n}]");
            field.check(&path, &mut found);
            if !names.insert(field.name.as_str()) {
                found.push(Violation::new(format!("{path}.name"), format!("{:?} is the name of another field", field.name)));
            }
        }
        if found.is_empty() {
            for (n, rule) in self.permissions.iter().enumerate() {
                rule.check(&format!("permissions[{n}]"), self, &mut found);
            }
        }
        found.truncate(limits::VIOLATIONS_NAMED_MAX);
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    /// Reads a filter that may name all fields.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn filter(&self, filter: &Value) -> Result<Filter, super::query::QueryError> {
        Filter::parse(filter, &Names { spec: self, readable: None })
    }

    /// Whether items that fit into `self` may not fit into `next` as they are.
    pub fn may_break(&self, next: &Self) -> bool {
        let removed = self.fields.iter().any(|field| next.field(&field.name).is_none());
        let narrowed = next.fields.iter().any(|now| match self.field(&now.name) {
            None => now.required,
            Some(before) => before.narrowed_by(now),
        });
        removed || narrowed
    }

    /// The fields of which each value is there once.
    pub fn unique(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| field.unique)
    }
}

impl Field {
    fn check(&self, path: &str, found: &mut Vec<Violation>) {
        let mut wrong = |at: &str, message: String| found.push(Violation::new(format!("{path}.{at}"), message));
        if !is_field_name(&self.name) {
            let max = limits::COLLECTION_NAME_MAX_CHARS;
            wrong("name", format!("has to be 1 to {max} letters, digits and '_', not begin with a digit, and not be \"__proto__\""));
        } else if SYSTEM_FIELDS.contains(&self.name.as_str()) {
            wrong("name", format!("{:?} is what every item has of itself", self.name));
        }
        if self.unique && !self.kind.can_be_unique() {
            wrong("unique", format!("is for fields of type string, integer and datetime, and this is of type {}", self.kind.as_str()));
        }
        if let Some(max) = self.max_length {
            let top = match self.kind {
                FieldType::String => Some(limits::STRING_FIELD_MAX_CHARS),
                FieldType::Text => u32::try_from(limits::ITEM_MAX_BYTES).ok(),
                FieldType::Integer | FieldType::Number | FieldType::Boolean | FieldType::Datetime | FieldType::Json => None,
            };
            match top {
                Some(top) if (1..=top).contains(&max) => {}
                Some(top) => wrong("maxLength", format!("has to be from 1 to {top} for the type {}", self.kind.as_str())),
                None => wrong("maxLength", format!("is for fields of type string and text, and this is of type {}", self.kind.as_str())),
            }
        }
        if let Some(choices) = &self.choices {
            let bare = Self { choices: None, ..self.clone() };
            if !matches!(self.kind, FieldType::String | FieldType::Integer) {
                wrong("enum", format!("is for fields of type string and integer, and this is of type {}", self.kind.as_str()));
            } else if choices.is_empty() || choices.len() > limits::FIELD_CHOICES_MAX {
                wrong("enum", format!("has to name 1 to {} values", limits::FIELD_CHOICES_MAX));
            } else if let Some(message) = choices.iter().find_map(|choice| item::value(&bare, choice.clone()).err()) {
                wrong("enum", format!("has a value that does not fit: {message}"));
            }
        }
        match &self.default {
            None => {}
            Some(Value::String(text)) if text == "$now" && self.kind == FieldType::Datetime => {}
            Some(_) if self.unique => wrong("default", "cannot be there for a field that is unique".to_owned()),
            Some(default) => {
                if let Err(message) = item::value(self, default.clone()) {
                    wrong("default", message);
                }
            }
        }
    }

    fn narrowed_by(&self, now: &Self) -> bool {
        let length = |field: &Self| match field.kind {
            FieldType::String => field.max_length.unwrap_or(limits::STRING_FIELD_MAX_CHARS),
            FieldType::Text | FieldType::Integer | FieldType::Number | FieldType::Boolean | FieldType::Datetime | FieldType::Json => {
                field.max_length.unwrap_or(u32::MAX)
            }
        };
        let chosen = match (&self.choices, &now.choices) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(now)) => !before.iter().all(|choice| now.contains(choice)),
        };
        self.kind != now.kind || now.required && !self.required || now.unique && !self.unique || length(now) < length(self) || chosen
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests;
