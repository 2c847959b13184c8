//! A filter as SQL. Nothing of a client stands in the text: values and the paths of fields are parameters.
//!
//! What cannot be told (`$user.id` of nobody) is NULL, which SQL keeps below NOT as the filter's own rules do. Everything else is
//! 0 or 1.

use std::collections::HashMap;

use rusqlite::types::Value;
use sandbar_core::script::{
    moment,
    query::{Context, Filter, Node, Operand, Order, Part, Place, Scalar, SortKey, Test},
};
use serde_json::json;

/// Text and parameters of one statement.
pub struct Sql<'a> {
    context: &'a Context,
    values: Vec<Value>,
    /// Parameters that are paths, by field.
    paths: HashMap<String, String>,
}

impl<'a> Sql<'a> {
    pub fn new(context: &'a Context) -> Self {
        Self { context, values: Vec::new(), paths: HashMap::new() }
    }

    /// The parameters so far.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// A new parameter.
    pub fn bind(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    /// The text of a condition.
    pub fn condition(&mut self, filter: &Filter) -> String {
        self.node(&filter.0)
    }

    /// The text of an order, in which no two items are equal.
    pub fn order(&mut self, keys: &[SortKey]) -> String {
        let mut order: Vec<String> = keys.iter().map(|key| format!("{} {}", self.value(&key.place), if key.descending { "DESC" } else { "ASC" })).collect();
        if order.is_empty() {
            order.push("created_at_ms DESC".to_owned());
        }
        order.push("id".to_owned());
        order.join(", ")
    }

    fn node(&mut self, node: &Node) -> String {
        match node {
            Node::All(nodes) => self.joined(nodes, " AND ", "1"),
            Node::Any(nodes) => self.joined(nodes, " OR ", "0"),
            Node::Not(node) => format!("(NOT {})", self.node(node)),
            Node::Field(place, test) => self.test(place, test),
        }
    }

    fn joined(&mut self, nodes: &[Node], with: &str, none: &str) -> String {
        match nodes {
            [] => none.to_owned(),
            nodes => format!("({})", nodes.iter().map(|node| self.node(node)).collect::<Vec<_>>().join(with)),
        }
    }

    fn test(&mut self, place: &Place, test: &Test) -> String {
        match test {
            Test::Null(true) => format!("(NOT {})", self.something(place)),
            Test::Null(false) => self.something(place),
            Test::Equal(operand) => self.compared(place, "=", operand.value(self.context)),
            Test::NotEqual(operand) => format!("({} AND NOT {})", self.something(place), self.compared(place, "=", operand.value(self.context))),
            Test::In(operands) => self.any_of(place, operands),
            Test::NotIn(operands) => format!("({} AND NOT {})", self.something(place), self.any_of(place, operands)),
            Test::Order(order, operand) => {
                let operator = match order {
                    Order::Less => "<",
                    Order::LessOrEqual => "<=",
                    Order::Greater => ">",
                    Order::GreaterOrEqual => ">=",
                };
                self.compared(place, operator, operand.value(self.context))
            }
            Test::Part(part, operand) => self.part(place, *part, operand),
        }
    }

    /// Whether there is a value.
    fn something(&mut self, place: &Place) -> String {
        match place {
            Place::Id | Place::CreatedAt | Place::UpdatedAt => "1".to_owned(),
            Place::OwnerId => "(owner_id IS NOT NULL)".to_owned(),
            Place::Field(name) => format!("(coalesce(json_type(doc, {}), 'null') <> 'null')", self.path(name)),
        }
    }

    /// The value.
    fn value(&mut self, place: &Place) -> String {
        match place {
            Place::Id => "id".to_owned(),
            Place::OwnerId => "owner_id".to_owned(),
            Place::CreatedAt => "created_at_ms".to_owned(),
            Place::UpdatedAt => "updated_at_ms".to_owned(),
            Place::Field(name) => format!("json_extract(doc, {})", self.path(name)),
        }
    }

    /// Whether a value is of a type, one of `json_type`'s, or a column's own.
    fn typed(&mut self, place: &Place, types: &str) -> String {
        match place {
            Place::Id | Place::OwnerId | Place::CreatedAt | Place::UpdatedAt => "1".to_owned(),
            Place::Field(name) => format!("json_type(doc, {}) IN ({types})", self.path(name)),
        }
    }

    fn compared(&mut self, place: &Place, operator: &str, scalar: Option<Scalar>) -> String {
        let Some(scalar) = scalar else { return "NULL".to_owned() };
        let (types, with) = match (place, scalar) {
            (Place::Field(_), Scalar::Bool(flag)) => return format!("coalesce({}, 0)", self.typed(place, if flag { "'true'" } else { "'false'" })),
            (Place::Field(_), Scalar::Number(number)) => (NUMBERS, self.number(number)),
            (Place::Field(_), Scalar::Moment(ms)) => (TEXTS, self.bind(moment::iso(ms).into())),
            (Place::Field(_) | Place::Id | Place::OwnerId, Scalar::Text(text)) => (TEXTS, self.bind(text.into())),
            (Place::CreatedAt | Place::UpdatedAt, Scalar::Moment(ms)) => (NUMBERS, self.bind(ms.into())),
            // A column of another type.
            (_, Scalar::Bool(_) | Scalar::Number(_) | Scalar::Text(_) | Scalar::Moment(_)) => return "0".to_owned(),
        };
        format!("coalesce({} AND {} {operator} {with}, 0)", self.typed(place, types), self.value(place))
    }

    /// Each type's values are one parameter, however many they are.
    fn any_of(&mut self, place: &Place, operands: &[Operand]) -> String {
        let (mut texts, mut numbers, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for operand in operands {
            match (place, operand.value(self.context)) {
                (_, None) => parts.push("NULL".to_owned()),
                (Place::Field(_), Some(Scalar::Number(number))) => numbers.push(json!(number)),
                (Place::Field(_), Some(Scalar::Moment(ms))) => texts.push(json!(moment::iso(ms))),
                (Place::Field(_) | Place::Id | Place::OwnerId, Some(Scalar::Text(text))) => texts.push(json!(text)),
                (Place::CreatedAt | Place::UpdatedAt, Some(Scalar::Moment(ms))) => numbers.push(json!(ms)),
                (_, scalar @ Some(_)) => parts.push(self.compared(place, "=", scalar)),
            }
        }
        for (types, values) in [(TEXTS, texts), (NUMBERS, numbers)] {
            if !values.is_empty() {
                let list = self.bind(serde_json::Value::from(values).to_string().into());
                parts.push(format!("coalesce({} AND {} IN (SELECT value FROM json_each({list})), 0)", self.typed(place, types), self.value(place)));
            }
        }
        parts.dedup();
        if parts.is_empty() { "0".to_owned() } else { format!("({})", parts.join(" OR ")) }
    }

    fn part(&mut self, place: &Place, part: Part, operand: &Operand) -> String {
        let text = match operand.value(self.context) {
            None => return "NULL".to_owned(),
            Some(Scalar::Text(text)) => text,
            Some(Scalar::Bool(_) | Scalar::Number(_) | Scalar::Moment(_)) => return "0".to_owned(),
        };
        if matches!(place, Place::CreatedAt | Place::UpdatedAt) {
            return "0".to_owned();
        }
        let holds = match (part, text.is_empty()) {
            // Every text has it.
            (_, true) => format!("{} IS NOT NULL", self.value(place)),
            (Part::Contains, false) => format!("instr({}, {}) > 0", self.value(place), self.bind(text.into())),
            (Part::StartsWith, false) => {
                let with = self.bind(text.into());
                format!("substr({}, 1, length({with})) = {with}", self.value(place))
            }
            (Part::EndsWith, false) => {
                let with = self.bind(text.into());
                format!("substr({}, -length({with})) = {with}", self.value(place))
            }
        };
        format!("coalesce({} AND {holds}, 0)", self.typed(place, TEXTS))
    }

    /// A number that the database reads as it reads those of items.
    fn number(&mut self, number: f64) -> String {
        let parameter = self.bind(json!(number).to_string().into());
        format!("json_extract({parameter}, '$')")
    }

    fn path(&mut self, name: &str) -> String {
        if let Some(parameter) = self.paths.get(name) {
            return parameter.clone();
        }
        let parameter = self.bind(format!("$.\"{name}\"").into());
        self.paths.insert(name.to_owned(), parameter.clone());
        parameter
    }
}

const TEXTS: &str = "'text'";
const NUMBERS: &str = "'integer', 'real'";
