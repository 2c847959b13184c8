//! What a query asks of a collection: a filter, an order, and a part of what is found. Read once into a tree, which is then
//! either asked about an item ([`Filter::matches`]) or translated for the database; both mean the same.
//!
//! A filter is an object. Its keys are fields, each with one value (`{"status": "live"}`) or operators that all have to hold
//! (`{"views": {"_gte": 10, "_lt": 20}}`), and `$and`, `$or` (lists of filters) and `$not` (a filter); all keys have to hold.
//!
//! - A value that is null or missing matches nothing but `_null: true` and `_eq: null`, so neither `_neq` nor `_nin`.
//! - Values are compared with values of their own type; in a field of type `json` any other is neither equal nor less nor
//!   greater. Texts go by their bytes, upper and lower case apart.
//! - `$user.id` is who asks. For nobody, a condition with it holds neither as it is nor below a `$not`.
//! - `$now` is the moment of the query, `$now-1d` a day earlier (`s`, `m`, `h`, `d`, `w`).
//! - A text that begins with a dollar sign and a letter is written with two dollar signs.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    collection::{CollectionSpec, FieldType, SYSTEM_FIELDS},
    item::{ItemRecord, listed, shown},
};
use crate::limits;

mod condition;
mod matches;

pub use condition::{Operand, Order, Part, Scalar, Test};

/// Why a query cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(pub String);

/// What is asked of a collection.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    pub filter: Option<Filter>,
    pub sort: Vec<SortKey>,
    pub limit: u32,
    pub offset: u32,
}

/// A query as it is sent: in a body, in `ctx.db.list`, or put together from a query string.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryText {
    #[serde(default)]
    pub filter: Option<Value>,
    #[serde(default)]
    pub sort: Option<Value>,
    #[serde(default)]
    pub limit: Option<Value>,
    #[serde(default)]
    pub offset: Option<Value>,
}

/// A condition on items.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(pub Node);

/// A part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Field(Place, Test),
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Id,
    OwnerId,
    CreatedAt,
    UpdatedAt,
    /// A field of the collection; its name is letters, digits and `_`.
    Field(String),
}

/// What a query sorts by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    pub place: Place,
    pub descending: bool,
}

/// What conditions are about besides the item: who asks, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    pub user_id: Option<String>,
    pub now_ms: i64,
}

/// The names that a query may use. A field that may not be read is not there for it: whoever can filter or sort by a value
/// can find it out.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub spec: &'a CollectionSpec,
    /// All without it.
    pub readable: Option<&'a BTreeSet<String>>,
}

impl Names<'_> {
    fn place(&self, name: &str) -> Result<(Place, FieldType), QueryError> {
        let may = |name: &str| self.readable.is_none_or(|readable| readable.contains(name));
        match name {
            "id" => return Ok((Place::Id, FieldType::String)),
            "createdAt" | "created_at" => return Ok((Place::CreatedAt, FieldType::Datetime)),
            "updatedAt" | "updated_at" => return Ok((Place::UpdatedAt, FieldType::Datetime)),
            "ownerId" | "owner_id" if self.spec.owner_scoped && may("ownerId") => return Ok((Place::OwnerId, FieldType::String)),
            _ => {}
        }
        match self.spec.field(name).filter(|field| may(&field.name)) {
            Some(field) => Ok((Place::Field(field.name.clone()), field.kind)),
            None => {
                let own = SYSTEM_FIELDS.into_iter().filter(|name| !name.contains('_') && (*name != "ownerId" || self.spec.owner_scoped && may("ownerId")));
                let known = listed(own.chain(self.spec.fields.iter().map(|field| field.name.as_str()).filter(|name| may(name))));
                Err(QueryError(format!("there is no field {:?}; the fields are {known}", shown(name))))
            }
        }
    }
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it and what is allowed there.
    pub fn read(text: &QueryText, names: &Names<'_>) -> Result<Self, QueryError> {
        Ok(Self {
            filter: text.filter.as_ref().filter(|filter| !filter.is_null()).map(|filter| Filter::parse(filter, names)).transpose()?,
            sort: sort(text.sort.as_ref(), names)?,
            limit: whole("limit", text.limit.as_ref())?.map_or(limits::QUERY_LIMIT_DEFAULT, |limit| limit.clamp(1, limits::QUERY_LIMIT_MAX.into()) as u32),
            offset: match whole("offset", text.offset.as_ref())? {
                None => 0,
                Some(offset) => match u32::try_from(offset) {
                    Ok(offset) if offset <= limits::QUERY_OFFSET_MAX => offset,
                    _ => return Err(QueryError(format!("offset has to be from 0 to {}", limits::QUERY_OFFSET_MAX))),
                },
            },
        })
    }
}

/// A whole number, also as text.
fn whole(name: &str, value: Option<&Value>) -> Result<Option<i64>, QueryError> {
    let number = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().filter(|double| double.fract() == 0.0).map(|double| double as i64)),
        Some(Value::String(text)) => text.parse().ok(),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
    };
    number.map(Some).ok_or_else(|| QueryError(format!("{name} has to be a whole number")))
}

/// `"-createdAt,title"` or `["-createdAt", "title"]`
fn sort(value: Option<&Value>, names: &Names<'_>) -> Result<Vec<SortKey>, QueryError> {
    let wrong = || QueryError("sort has to be fields in a text with commas or in a list, a '-' before those that descend".to_owned());
    let keys: Vec<&str> = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => text.split(',').map(str::trim).filter(|key| !key.is_empty()).take(limits::QUERY_SORT_MAX + 1).collect(),
        Some(Value::Array(keys)) => keys.iter().take(limits::QUERY_SORT_MAX + 1).map(|key| key.as_str().ok_or_else(wrong)).collect::<Result<_, _>>()?,
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return Err(wrong()),
    };
    if keys.len() > limits::QUERY_SORT_MAX {
        return Err(QueryError(format!("sort may name at most {} fields", limits::QUERY_SORT_MAX)));
    }
    let key = |text: &str| {
        let (name, descending) = text.strip_prefix('-').map_or((text.strip_prefix('+').unwrap_or(text), false), |name| (name, true));
        match names.place(name)? {
            (_, FieldType::Json) => Err(QueryError(format!("{name} is of type json, which has no order"))),
            (place, _) => Ok(SortKey { place, descending }),
        }
    };
    keys.into_iter().map(key).collect()
}

/// What is left of a filter's budget.
struct Reader<'a> {
    names: &'a Names<'a>,
    conditions: usize,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// What is wrong with it and what is allowed there.
    pub fn parse(filter: &Value, names: &Names<'_>) -> Result<Self, QueryError> {
        Reader { names, conditions: 0 }.node(filter, 0).map(Self)
    }

    /// What at least one of several lets through.
    pub fn any(mut filters: Vec<Self>) -> Self {
        match filters.len() {
            1 => filters.remove(0),
            _ => Self(Node::Any(filters.into_iter().map(|filter| filter.0).collect())),
        }
    }

    /// Whether an item is let through.
    pub fn matches(&self, item: &ItemRecord, context: &Context) -> bool {
        matches::node(&self.0, item, context) == Some(true)
    }
}

impl Reader<'_> {
    fn node(&mut self, filter: &Value, depth: usize) -> Result<Node, QueryError> {
        if depth >= limits::FILTER_DEPTH_MAX {
            return Err(QueryError(format!("the filter nests deeper than {}", limits::FILTER_DEPTH_MAX)));
        }
        let Value::Object(keys) = filter else {
            return Err(QueryError("a filter has to be an object such as {\"status\": {\"_eq\": \"live\"}}".to_owned()));
        };
        let mut nodes = Vec::with_capacity(keys.len().min(limits::FILTER_CONDITIONS_MAX));
        for (key, value) in keys {
            self.spend()?;
            match key.as_str() {
                "$and" => nodes.push(Node::All(self.list(key, value, depth)?)),
                "$or" => nodes.push(Node::Any(self.list(key, value, depth)?)),
                "$not" => nodes.push(Node::Not(Box::new(self.node(value, depth + 1)?))),
                _ if key.starts_with('$') => {
                    return Err(QueryError(format!("a filter does not know {:?}; it knows $and, $or and $not beside fields", shown(key))));
                }
                _ => self.field(key, value, &mut nodes)?,
            }
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn list(&mut self, key: &str, value: &Value, depth: usize) -> Result<Vec<Node>, QueryError> {
        match value {
            Value::Array(filters) => filters.iter().map(|filter| self.spend().and_then(|()| self.node(filter, depth + 1))).collect(),
            _ => Err(QueryError(format!("{key} has to be a list of filters"))),
        }
    }

    fn field(&mut self, name: &str, value: &Value, nodes: &mut Vec<Node>) -> Result<(), QueryError> {
        let (place, kind) = self.names.place(name)?;
        let shorthand = || Map::from_iter([("_eq".to_owned(), value.clone())]);
        let operators = match value {
            Value::Object(operators) => operators,
            _ => &shorthand(),
        };
        if operators.is_empty() {
            return Err(QueryError(format!("{name} has no operator; {}", condition::known())));
        }
        for (operator, value) in operators {
            self.spend()?;
            nodes.push(Node::Field(place.clone(), Test::read(name, kind, operator, value)?));
        }
        Ok(())
    }

    fn spend(&mut self) -> Result<(), QueryError> {
        self.conditions += 1;
        match self.conditions > limits::FILTER_CONDITIONS_MAX {
            true => Err(QueryError(format!("a filter may have at most {} conditions", limits::FILTER_CONDITIONS_MAX))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
