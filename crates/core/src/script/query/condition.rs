//! A condition on one value: an operator and what it compares with.

use serde_json::Value;

use super::{Context, QueryError};
use crate::{
    limits,
    script::{collection::FieldType, item, moment},
};

/// What a value is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Null(bool),
    Equal(Operand),
    NotEqual(Operand),
    In(Vec<Operand>),
    NotIn(Vec<Operand>),
    Order(Order, Operand),
    Part(Part, Operand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Contains,
    StartsWith,
    EndsWith,
}

/// What is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Value(Scalar),
    UserId,
    /// The moment of the query and so many milliseconds.
    Now(i64),
}

/// A value that can be compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Number(f64),
    Text(String),
    /// Milliseconds since 1970; in a field it is the text of it.
    Moment(i64),
}

const OPERATORS: &str = "_eq, _neq, _in, _nin, _gt, _gte, _lt, _lte, _null, _contains, _starts_with and _ends_with";

pub(super) fn known() -> String {
    format!("the operators are {OPERATORS}")
}

impl Test {
    pub(super) fn read(name: &str, kind: FieldType, operator: &str, value: &Value) -> Result<Self, QueryError> {
        let at = Position { name, kind, operator };
        Ok(match operator {
            "_eq" if value.is_null() => Self::Null(true),
            "_neq" if value.is_null() => Self::Null(false),
            "_eq" => Self::Equal(at.operand(value)?),
            "_neq" => Self::NotEqual(at.operand(value)?),
            "_in" => Self::In(at.operands(value)?),
            "_nin" => Self::NotIn(at.operands(value)?),
            "_gt" => Self::Order(Order::Greater, at.ordered(value)?),
            "_gte" => Self::Order(Order::GreaterOrEqual, at.ordered(value)?),
            "_lt" => Self::Order(Order::Less, at.ordered(value)?),
            "_lte" => Self::Order(Order::LessOrEqual, at.ordered(value)?),
            "_null" => match value {
                Value::Bool(wanted) => Self::Null(*wanted),
                _ => return Err(at.wrong("takes true or false")),
            },
            "_contains" => Self::Part(Part::Contains, at.part(value)?),
            "_starts_with" => Self::Part(Part::StartsWith, at.part(value)?),
            "_ends_with" => Self::Part(Part::EndsWith, at.part(value)?),
            _ => return Err(QueryError(format!("{name} does not know {:?}; {}", item::shown(operator), known()))),
        })
    }
}

/// Where something is read, for errors.
struct Position<'a> {
    name: &'a str,
    kind: FieldType,
    operator: &'a str,
}

impl Position<'_> {
    fn wrong(&self, message: &str) -> QueryError {
        QueryError(format!("{} {} {message}", self.name, self.operator))
    }

    fn operands(&self, value: &Value) -> Result<Vec<Operand>, QueryError> {
        match value {
            Value::Array(values) if values.len() <= limits::FILTER_LIST_MAX => values.iter().map(|value| self.operand(value)).collect(),
            Value::Array(_) => Err(self.wrong(&format!("takes at most {} values", limits::FILTER_LIST_MAX))),
            _ => Err(self.wrong("takes a list")),
        }
    }

    fn ordered(&self, value: &Value) -> Result<Operand, QueryError> {
        match self.operand(value)? {
            Operand::Value(Scalar::Bool(_)) => Err(self.wrong("takes what has an order, and true and false have none")),
            operand => Ok(operand),
        }
    }

    fn part(&self, value: &Value) -> Result<Operand, QueryError> {
        match (self.kind, value) {
            (FieldType::String | FieldType::Text | FieldType::Json, Value::String(_)) => match self.operand(value)? {
                Operand::Now(_) => Err(self.wrong("takes a text, and $now is a moment")),
                operand => Ok(operand),
            },
            (FieldType::String | FieldType::Text | FieldType::Json, _) => Err(self.wrong("takes a text")),
            (kind, _) => Err(self.wrong(&format!("is for texts, and the field is of type {}", kind.as_str()))),
        }
    }

    fn operand(&self, value: &Value) -> Result<Operand, QueryError> {
        let text = match value {
            Value::String(text) => self.variable(text)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Ok(""),
        };
        let text = match text {
            Err(variable) => return self.fits(variable),
            Ok(text) => text,
        };
        let scalar = match (self.kind, value) {
            (FieldType::String | FieldType::Text | FieldType::Json, Value::String(_)) => Scalar::Text(self.bounded(text)?),
            (FieldType::Integer | FieldType::Number | FieldType::Json, Value::Number(number)) => {
                Scalar::Number(item::plain(number).as_f64().ok_or_else(|| self.wrong("takes a number"))?)
            }
            (FieldType::Boolean | FieldType::Json, Value::Bool(flag)) => Scalar::Bool(*flag),
            (FieldType::Datetime, value) => match moment::read(value) {
                Some(ms) => Scalar::Moment(ms),
                None => return Err(self.wrong("takes a moment such as 2026-05-01T10:00:00Z, milliseconds since 1970, or $now")),
            },
            (FieldType::Json, _) => return Err(self.wrong("takes a text, a number, true or false")),
            (kind, _) => return Err(self.wrong(&format!("takes a value of the field's type, {}", kind.as_str()))),
        };
        Ok(Operand::Value(scalar))
    }

    /// A text without its escape, or the variable that it is.
    fn variable<'t>(&self, text: &'t str) -> Result<Result<&'t str, Operand>, QueryError> {
        let Some(rest) = text.strip_prefix('$') else { return Ok(Ok(text)) };
        if rest.starts_with('$') {
            return Ok(Ok(rest));
        }
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Ok(Ok(text));
        }
        if rest == "user.id" {
            return Ok(Err(Operand::UserId));
        }
        match rest.strip_prefix("now").and_then(offset_ms) {
            Some(offset_ms) => Ok(Err(Operand::Now(offset_ms))),
            None => {
                let text = item::shown(text);
                Err(self.wrong(&format!("does not know {text:?}; there are $user.id, $now and $now-1d (s, m, h, d, w), and $$ for a text that begins with $")))
            }
        }
    }

    fn fits(&self, variable: Operand) -> Result<Operand, QueryError> {
        let fits = match (&variable, self.kind) {
            (_, FieldType::Json) | (Operand::UserId, FieldType::String | FieldType::Text) | (Operand::Now(_), FieldType::Datetime) => true,
            (Operand::UserId | Operand::Now(_) | Operand::Value(_), _) => false,
        };
        match (fits, &variable) {
            (true, _) => Ok(variable),
            (false, Operand::UserId) => Err(self.wrong(&format!("cannot take $user.id: it is a text, and the field is of type {}", self.kind.as_str()))),
            (false, _) => Err(self.wrong(&format!("cannot take $now: it is a moment, and the field is of type {}", self.kind.as_str()))),
        }
    }

    fn bounded(&self, text: &str) -> Result<String, QueryError> {
        if text.contains('\0') {
            return Err(self.wrong("takes no text with the character U+0000"));
        }
        match text.len() > limits::FILTER_TEXT_MAX_BYTES {
            true => Err(self.wrong(&format!("takes texts of at most {} bytes", limits::FILTER_TEXT_MAX_BYTES))),
            false => Ok(text.to_owned()),
        }
    }
}

/// What stands after `$now`: nothing, or such as `-1d`.
fn offset_ms(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+')?),
    };
    let unit_ms = match rest.chars().last()? {
        's' => 1000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        'w' => 7 * 86_400_000,
        _ => return None,
    };
    let digits = &rest[..rest.len() - 1];
    // Six digits of weeks are more than there are years.
    if !(1..=6).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok().map(|count| sign * count * unit_ms)
}

impl Operand {
    /// What it is for somebody at some moment; none for the id of nobody.
    pub fn value(&self, context: &Context) -> Option<Scalar> {
        match self {
            Self::Value(scalar) => Some(scalar.clone()),
            Self::UserId => context.user_id.clone().map(Scalar::Text),
            Self::Now(offset_ms) => Some(Scalar::Moment(context.now_ms.saturating_add(*offset_ms))),
        }
    }
}
