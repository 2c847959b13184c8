//! What a filter says of one item. None is what cannot be told, and stays that below `$not`.

use std::cmp::Ordering;

use serde_json::Value;

use super::{
    Context, Node, Place,
    condition::{Operand, Order, Part, Scalar, Test},
};
use crate::script::{item::ItemRecord, moment};

/// What an item has somewhere.
enum Held<'a> {
    Nothing,
    Text(&'a str),
    Number(f64),
    Bool(bool),
    Moment(i64),
    /// A list or an object: something, but equal to nothing.
    Other,
}

pub(super) fn node(node: &Node, item: &ItemRecord, context: &Context) -> Option<bool> {
    match node {
        Node::All(nodes) => all(nodes.iter().map(|node| self::node(node, item, context))),
        Node::Any(nodes) => all(nodes.iter().map(|node| self::node(node, item, context).map(|holds| !holds))).map(|none| !none),
        Node::Not(node) => self::node(node, item, context).map(|holds| !holds),
        Node::Field(place, test) => self::test(test, &held(place, item), context),
    }
}

/// False when one is, else unknown when one is.
fn all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut known = Some(true);
    for answer in answers {
        match answer {
            Some(true) => {}
            Some(false) => return Some(false),
            None => known = None,
        }
    }
    known
}

fn held<'a>(place: &Place, item: &'a ItemRecord) -> Held<'a> {
    match place {
        Place::Id => Held::Text(&item.id),
        Place::OwnerId => item.owner_id.as_deref().map_or(Held::Nothing, Held::Text),
        Place::CreatedAt => Held::Moment(item.created_at_ms),
        Place::UpdatedAt => Held::Moment(item.updated_at_ms),
        Place::Field(name) => match item.doc.get(name) {
            None | Some(Value::Null) => Held::Nothing,
            Some(Value::Bool(flag)) => Held::Bool(*flag),
            Some(Value::Number(number)) => number.as_f64().map_or(Held::Other, Held::Number),
            Some(Value::String(text)) => Held::Text(text),
            Some(Value::Array(_) | Value::Object(_)) => Held::Other,
        },
    }
}

fn test(test: &Test, held: &Held<'_>, context: &Context) -> Option<bool> {
    let something = !matches!(held, Held::Nothing);
    match test {
        Test::Null(wanted) => Some(*wanted != something),
        Test::Equal(operand) => equal(held, operand, context),
        Test::NotEqual(operand) => all([Some(something), equal(held, operand, context).map(|equal| !equal)].into_iter()),
        Test::In(operands) => all(operands.iter().map(|operand| equal(held, operand, context).map(|equal| !equal))).map(|none| !none),
        Test::NotIn(operands) => {
            let different = operands.iter().map(|operand| equal(held, operand, context).map(|equal| !equal));
            all(std::iter::once(Some(something)).chain(different))
        }
        Test::Order(order, operand) => {
            let ordering = compared(held, &operand.value(context)?);
            Some(ordering.is_some_and(|ordering| match order {
                Order::Less => ordering.is_lt(),
                Order::LessOrEqual => ordering.is_le(),
                Order::Greater => ordering.is_gt(),
                Order::GreaterOrEqual => ordering.is_ge(),
            }))
        }
        Test::Part(part, operand) => Some(match (held, operand.value(context)?) {
            (Held::Text(text), Scalar::Text(wanted)) => match part {
                Part::Contains => text.contains(&wanted),
                Part::StartsWith => text.starts_with(&wanted),
                Part::EndsWith => text.ends_with(&wanted),
            },
            _ => false,
        }),
    }
}

fn equal(held: &Held<'_>, operand: &Operand, context: &Context) -> Option<bool> {
    Some(compared(held, &operand.value(context)?) == Some(Ordering::Equal))
}

/// How two values of one type stand to each other.
fn compared(held: &Held<'_>, with: &Scalar) -> Option<Ordering> {
    match (held, with) {
        (Held::Text(text), Scalar::Text(with)) => Some((*text).cmp(with.as_str())),
        (Held::Text(text), Scalar::Moment(with)) => Some((*text).cmp(moment::iso(*with).as_str())),
        (Held::Number(number), Scalar::Number(with)) => number.partial_cmp(with),
        (Held::Moment(ms), Scalar::Moment(with)) => Some(ms.cmp(with)),
        (Held::Bool(flag), Scalar::Bool(with)) => (flag == with).then_some(Ordering::Equal),
        _ => None,
    }
}
