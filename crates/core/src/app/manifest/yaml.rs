//! YAML as a tree of values, each with its place.
//!
//! Stricter than YAML is: one document, no tags, no key twice, keys are words. Aliases are followed, and what they repeat counts
//! again, so that a small text cannot become a large tree. What is only forbidden is noted, and the reading goes on; what is no YAML ends it.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

use super::diagnostic::{Code, Diagnostic};
use crate::limits::apps as limits;

/// A place in the text, both numbers from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub line: u32,
    pub column: u32,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub at: At,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub enum Data {
    Null,
    Bool(bool),
    /// With the text as it stands there.
    Int(i64, String),
    Float(f64, String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub struct Key {
    pub at: At,
    pub text: String,
}

/// Reads a text. What is no YAML ends the reading; what is noted besides does not.
pub fn load(text: &str) -> Result<(Node, Vec<Diagnostic>), Diagnostic> {
    if text.len() > limits::MANIFEST_MAX_BYTES {
        let message = format!("has {} bytes; at most {} are allowed", text.len(), limits::MANIFEST_MAX_BYTES);
        return Err(Diagnostic { path: "$".to_owned(), code: Code::TooLarge, message, line: 1, column: 1 });
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) = event.map_err(|error| invalid(at(*error.marker()), error.info()))?;
        builder.take(event, at(span.start))?;
        if builder.documents > 1 {
            break;
        }
    }
    let start = At { line: 1, column: 1 };
    Ok((builder.root.unwrap_or(Node { at: start, data: Data::Null }), builder.noted))
}

impl Node {
    /// As JSON. None when it holds a number that JSON does not have.
    pub fn to_json(&self) -> Option<Value> {
        Some(match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Int(value, _) => Value::from(*value),
            Data::Float(value, _) => Value::Number(Number::from_f64(*value)?),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Self::to_json).collect::<Option<_>>()?),
            Data::Map(entries) => {
                let fields: Option<Map<_, _>> = entries.iter().map(|(key, value)| Some((key.text.clone(), value.to_json()?))).collect();
                Value::Object(fields?)
            }
        })
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "true or false",
            Data::Int(..) => "a number",
            Data::Float(..) => "a number with a fraction",
            Data::Text(_) => "a text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    fn size(&self) -> usize {
        1 + match &self.data {
            Data::List(items) => items.iter().map(Self::size).sum(),
            Data::Map(entries) => entries.iter().map(|(_, value)| value.size()).sum(),
            Data::Null | Data::Bool(_) | Data::Int(..) | Data::Float(..) | Data::Text(_) => 0,
        }
    }

    fn text_bytes(&self) -> usize {
        match &self.data {
            Data::Text(text) | Data::Int(_, text) | Data::Float(_, text) => text.len(),
            Data::List(items) => items.iter().map(Self::text_bytes).sum(),
            Data::Map(entries) => entries.iter().map(|(key, value)| key.text.len() + value.text_bytes()).sum(),
            Data::Null | Data::Bool(_) => 0,
        }
    }

    fn depth(&self) -> usize {
        match &self.data {
            Data::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Data::Map(entries) => 1 + entries.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            Data::Null | Data::Bool(_) | Data::Int(..) | Data::Float(..) | Data::Text(_) => 0,
        }
    }
}

/// `$.a`, or `$["a b"]` of a key that is no plain word.
pub fn below(path: &str, key: &str) -> String {
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let shown: String = key.chars().take(64).collect();
    if plain { format!("{path}.{shown}") } else { format!("{path}[{}]", Value::from(shown)) }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// Of texts that aliases repeat.
    repeated_bytes: usize,
    documents: usize,
    root: Option<Node>,
    noted: Vec<Diagnostic>,
}

/// A list or mapping that has not ended.
struct Open {
    at: At,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    /// Of what stands under a key that is none, nothing is taken.
    Map {
        entries: Vec<(Key, Node)>,
        seen: HashSet<String>,
        key: Option<Option<Key>>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: At) -> Result<(), Diagnostic> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.noted.push(invalid(at, "there is a second document, which is not looked at; a manifest is one"));
                }
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else { return Err(invalid(at, "an alias stands within what it repeats")) };
                let (size, depth) = (node.size(), node.depth());
                self.repeated_bytes = self.repeated_bytes.saturating_add(node.text_bytes());
                // Before the copy is made.
                self.count(size, depth, at)?;
                let node = self.anchors.get(&anchor).cloned();
                node.map_or(Ok(()), |node| self.put(node, 0))
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.no_tag(tag.is_some(), at);
                self.count(1, 0, at)?;
                let data = if style == ScalarStyle::Plain { plain(&text) } else { Data::Text(text.into_owned()) };
                self.put(Node { at, data }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_tag(tag.is_some(), at);
                self.count(1, 1, at)?;
                self.open.push(Open { at, anchor, kind: OpenKind::List(Vec::new()) });
                Ok(())
            }
            Event::MappingStart(anchor, tag) => {
                self.no_tag(tag.is_some(), at);
                self.count(1, 1, at)?;
                self.open.push(Open { at, anchor, kind: OpenKind::Map { entries: Vec::new(), seen: HashSet::new(), key: None } });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { at, anchor, kind }) = self.open.pop() else { return Err(invalid(at, "something ends that has not begun")) };
                let data = match kind {
                    OpenKind::List(items) => Data::List(items),
                    OpenKind::Map { entries, .. } => Data::Map(entries),
                };
                self.put(Node { at, data }, anchor)
            }
        }
    }

    fn count(&mut self, nodes: usize, depth: usize, at: At) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        let message = if self.repeated_bytes > limits::MANIFEST_MAX_BYTES {
            format!("aliases repeat more than {} bytes", limits::MANIFEST_MAX_BYTES)
        } else if self.nodes > limits::MANIFEST_NODES_MAX {
            format!("holds more than {} values, with what aliases repeat", limits::MANIFEST_NODES_MAX)
        } else if self.open.len() + depth > limits::MANIFEST_DEPTH_MAX {
            format!("has more than {} lists and mappings in one another", limits::MANIFEST_DEPTH_MAX)
        } else {
            return Ok(());
        };
        Err(Diagnostic { path: "$".to_owned(), code: Code::TooLarge, message, line: at.line, column: at.column })
    }

    /// A value is whole: it goes to where it stands.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Diagnostic> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let (mut twice, mut none) = (None, None);
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map { entries, seen, key }) => match key.take() {
                Some(None) => {}
                Some(Some(key)) => {
                    // Where nothing stands there is no place but the key's.
                    let node = if matches!(node.data, Data::Null) { Node { at: key.at, ..node } } else { node };
                    entries.push((key, node));
                }
                None => {
                    let text = match node.data {
                        Data::Text(text) | Data::Int(_, text) | Data::Float(_, text) => Some(text),
                        Data::Bool(value) => Some(value.to_string()),
                        Data::Null | Data::List(_) | Data::Map(_) => None,
                    };
                    match &text {
                        None => none = Some(node.at),
                        Some(text) if !seen.insert(text.clone()) => twice = Some((node.at, text.clone())),
                        Some(_) => {}
                    }
                    *key = Some(text.map(|text| Key { at: node.at, text }));
                }
            },
        }
        if let Some((At { line, column }, key)) = twice {
            let message = "stands twice in this mapping".to_owned();
            self.noted.push(Diagnostic { path: below(&self.path(1), &key), code: Code::DuplicateKey, message, line, column });
        }
        if let Some(at) = none {
            let message = "a key must be a word: in front of its colon stands nothing, a list or a mapping";
            self.noted.push(Diagnostic { path: self.path(1), code: Code::InvalidType, ..invalid(at, message) });
        }
        Ok(())
    }

    /// Of what comes next, or so many levels above it.
    fn path(&self, above: usize) -> String {
        let mut path = "$".to_owned();
        for open in self.open.iter().take(self.open.len().saturating_sub(above)) {
            match &open.kind {
                OpenKind::List(items) => path = format!("{path}[{}]", items.len()),
                OpenKind::Map { key: Some(Some(key)), .. } => path = below(&path, &key.text),
                OpenKind::Map { .. } => {}
            }
        }
        path
    }

    fn no_tag(&mut self, tagged: bool, at: At) {
        if tagged {
            self.noted.push(Diagnostic { path: self.path(0), ..invalid(at, "tags (such as !!str) are not allowed") });
        }
    }
}

/// A scalar without quotes, as the core schema of YAML 1.2 reads it.
fn plain(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Bool(true),
        "false" | "False" | "FALSE" => return Data::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Data::Float(f64::NAN, text.to_owned()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Data::Float(f64::INFINITY, text.to_owned()),
        "-.inf" | "-.Inf" | "-.INF" => return Data::Float(f64::NEG_INFINITY, text.to_owned()),
        _ => {}
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(octal) = text.strip_prefix("0o").and_then(|octal| i64::from_str_radix(octal, 8).ok().filter(|number| *number >= 0)) {
        return Data::Int(octal, text.to_owned());
    }
    if let Some(hex) = text.strip_prefix("0x").and_then(|hex| i64::from_str_radix(hex, 16).ok().filter(|number| *number >= 0)) {
        return Data::Int(hex, text.to_owned());
    }
    if digits(unsigned)
        && let Ok(number) = text.parse()
    {
        return Data::Int(number, text.to_owned());
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let is_number = (digits(whole) || (whole.is_empty() && fraction.is_some_and(digits)))
        && fraction.is_none_or(|fraction| fraction.is_empty() || digits(fraction))
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    match text.parse() {
        Ok(number) if is_number => Data::Float(number, text.to_owned()),
        _ => Data::Text(text.to_owned()),
    }
}

fn at(marker: Marker) -> At {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    At { line: number(marker.line()).max(1), column: number(marker.col()).saturating_add(1) }
}

fn invalid(at: At, message: &str) -> Diagnostic {
    let message = message.chars().filter(|c| !c.is_control()).take(300).collect();
    Diagnostic { path: "$".to_owned(), code: Code::InvalidYaml, message, line: at.line, column: at.column }
}
