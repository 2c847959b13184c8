//! Inputs of runs: the schema that a manifest gives for them, and what becomes of one that is sent.
//!
//! Schemas and inputs are both a stranger's. So a schema refers to nothing outside itself and never to itself, its expressions are
//! matched in time that grows with the text alone, and what a validation may cost is known before it begins.

use std::fmt::Write as _;

use jsonschema::{Draft, PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

use crate::{limits::apps as limits, validate::Violation};

mod shape;

pub use shape::SchemaProblem;

/// Bytes of a compiled expression.
const PATTERN_MAX_BYTES: usize = 256 << 10;

/// A schema that inputs can be looked at with.
pub struct InputSchema {
    schema: Value,
    validator: Validator,
    weight: usize,
}

impl std::fmt::Debug for InputSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputSchema").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl InputSchema {
    /// Checks a schema, and makes it ready.
    pub fn compile(schema: &Value) -> Result<Self, Vec<SchemaProblem>> {
        let mut wrong = Vec::new();
        if schema.get("type").and_then(Value::as_str) != Some("object") {
            wrong.push(SchemaProblem { place: Vec::new(), message: "must have the type object, as the input of a run is one".to_owned() });
        }
        let weight = match shape::check(schema) {
            Ok(weight) => {
                wrong.extend(of_the_draft(schema));
                weight
            }
            // Nobody else looks at what it refers to.
            Err(more) => {
                wrong.extend(more);
                0
            }
        };
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let mut options = jsonschema::options().with_draft(draft(schema));
        options = options.should_validate_formats(true);
        let built = options.with_pattern_options(PatternOptions::regex().size_limit(PATTERN_MAX_BYTES).dfa_size_limit(PATTERN_MAX_BYTES)).build(schema);
        match built {
            Ok(validator) => Ok(Self { schema: schema.clone(), validator, weight }),
            Err(error) => Err(vec![problem(&error)]),
        }
    }

    /// The input with its defaults; none is an empty object.
    pub fn apply(&self, input: Option<&Value>) -> Result<Value, Vec<Violation>> {
        let mut input = input.cloned().unwrap_or_else(|| Value::Object(Map::new()));
        check_size(&input).map_err(|violation| vec![violation])?;
        let mut room = limits::APP_INPUT_MAX_BYTES;
        shape::fill(&self.schema, &self.schema, &mut input, &mut room)
            .map_err(|()| vec![Violation::new("input", format!("has more than {} bytes of defaults", limits::APP_INPUT_MAX_BYTES))])?;
        if values(&input).saturating_mul(self.weight) > limits::APP_INPUT_COST_MAX {
            return Err(vec![Violation::new("input", "holds too many values for a schema as large as this one")]);
        }
        let mut wrong = Vec::new();
        for error in self.validator.iter_errors(&input).take(limits::APP_INPUT_PROBLEMS_MAX) {
            let path = path(&input, error.instance_path().as_str());
            match error.kind() {
                ValidationErrorKind::Required { property } => {
                    wrong.push(Violation::new(below(&path, property.as_str().unwrap_or_default()), "is required"));
                }
                ValidationErrorKind::AdditionalProperties { unexpected } | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                    wrong.extend(unexpected.iter().map(|name| Violation::new(below(&path, name), "is not known to the schema")));
                }
                // What the value is, its sender knows; it may be a secret.
                _ => wrong.push(Violation::new(path, brief(&error.masked_with("it").to_string()))),
            }
        }
        wrong.truncate(limits::APP_INPUT_PROBLEMS_MAX);
        if wrong.is_empty() { Ok(input) } else { Err(wrong) }
    }
}

/// An input where the manifest has no schema: any object.
pub fn without_schema(input: Option<&Value>) -> Result<Value, Vec<Violation>> {
    let input = input.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    check_size(&input).map_err(|violation| vec![violation])?;
    Ok(input)
}

fn check_size(input: &Value) -> Result<(), Violation> {
    let wrong = |message: String| Err(Violation::new("input", message));
    if !input.is_object() {
        return wrong("must be an object".to_owned());
    }
    if shape::depth(input) > limits::APP_INPUT_DEPTH_MAX {
        return wrong(format!("has more than {} objects and lists in one another", limits::APP_INPUT_DEPTH_MAX));
    }
    let bytes = shape::bytes(input);
    if bytes > limits::APP_INPUT_MAX_BYTES {
        return wrong(format!("has {bytes} bytes; at most {} are allowed", limits::APP_INPUT_MAX_BYTES));
    }
    Ok(())
}

/// 2020-12, unless the schema says that it is of draft 7.
fn draft(schema: &Value) -> Draft {
    match schema.get("$schema").and_then(Value::as_str) {
        Some(name) if name.contains("draft-07") => Draft::Draft7,
        _ => Draft::Draft202012,
    }
}

/// What a schema says in other ways than its draft has them.
fn of_the_draft(schema: &Value) -> Vec<SchemaProblem> {
    let validator = match draft(schema) {
        Draft::Draft7 => jsonschema::draft7::meta::validator(),
        _ => jsonschema::draft202012::meta::validator(),
    };
    let mut wrong: Vec<SchemaProblem> = validator.iter_errors(schema).take(limits::APP_INPUT_PROBLEMS_MAX).map(|error| problem(&error)).collect();
    // A place is told once, whatever of it the draft says in how many ways.
    wrong.dedup_by(|one, before| one.place == before.place);
    wrong
}

fn problem(error: &ValidationError<'_>) -> SchemaProblem {
    let place = tokens(error.instance_path().as_str());
    let message = match place.last().map(String::as_str) {
        Some("type") => "must be string, number, integer, boolean, object, array or null, or a list of such".to_owned(),
        _ => brief(&error.masked().to_string()),
    };
    SchemaProblem { place, message }
}

fn values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(fields) => fields.values().map(values).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The parts of a JSON pointer.
fn tokens(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

/// `input.items[0].name` of a pointer.
fn path(input: &Value, pointer: &str) -> String {
    let mut path = "input".to_owned();
    let mut at = Some(input);
    for token in tokens(pointer) {
        match at {
            Some(Value::Array(items)) => {
                // Writing into a text does not fail.
                let _ = write!(path, "[{token}]");
                at = token.parse().ok().and_then(|index: usize| items.get(index));
            }
            _ => {
                path = below(&path, &token);
                at = at.and_then(|value| value.get(&token));
            }
        }
    }
    path
}

fn below(path: &str, name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).take(64).collect();
    format!("{path}.{name}")
}

fn brief(text: &str) -> String {
    let mut brief: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    if text.chars().nth(300).is_some() {
        brief.push_str("...");
    }
    brief
}

#[cfg(test)]
mod tests;
