//! Values with their paths, read as what they must be. What is wrong is noted, and the reading goes on.

use super::super::{
    diagnostic::{Code, Diagnostic},
    yaml::{At, Data, Key, Node, below},
};
use crate::{app::amount::Amount, limits::apps as limits, validate::spelling};

/// Of those that a mapping may have.
const KEYS_SHOWN: usize = 5;
/// So many times what a list may hold is looked at.
const LIST_READ_TIMES: usize = 10;

/// What was found to be wrong.
pub struct Out {
    diagnostics: Vec<Diagnostic>,
}

impl Out {
    pub fn new(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }

    pub fn push(&mut self, path: impl Into<String>, at: At, code: Code, message: impl Into<String>) {
        // Twice as many as are told: those of a lower place may come later.
        if self.diagnostics.len() < 2 * limits::MANIFEST_DIAGNOSTICS_MAX {
            self.diagnostics.push(Diagnostic { path: path.into(), code, message: message.into(), line: at.line, column: at.column });
        }
    }

    /// All of it in the order of places. What has a tag is told once: it may be something else without it.
    pub fn finish(mut self) -> Result<(), Vec<Diagnostic>> {
        let tagged: Vec<String> = self.diagnostics.iter().filter(|one| one.code == Code::InvalidYaml && one.path != "$").map(|one| one.path.clone()).collect();
        let is_in = |path: &str, tagged: &str| path.strip_prefix(tagged).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.diagnostics.retain(|one| one.code == Code::InvalidYaml || !tagged.iter().any(|tagged| is_in(&one.path, tagged)));
        self.diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        self.diagnostics.truncate(limits::MANIFEST_DIAGNOSTICS_MAX);
        if self.diagnostics.is_empty() { Ok(()) } else { Err(self.diagnostics) }
    }
}

/// A value and where it is.
#[derive(Debug, Clone)]
pub struct Spot<'a> {
    pub path: String,
    pub node: &'a Node,
}

/// A mapping whose keys are known.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    pub path: String,
    pub at: At,
    entries: &'a [(Key, Node)],
}

impl<'a> Spot<'a> {
    pub fn wrong(&self, out: &mut Out, code: Code, message: impl Into<String>) {
        out.push(self.path.as_str(), self.node.at, code, message);
    }

    /// It is something else than what is wanted.
    pub fn is_no(&self, out: &mut Out, wanted: &str) {
        let hint = match &self.node.data {
            Data::Null => return self.wrong(out, Code::InvalidType, format!("has no value; it must be {wanted}")),
            Data::Int(..) | Data::Float(..) | Data::Bool(_) if wanted == "a text" => "; put it in quotes",
            Data::Text(text) if wanted == "true or false" && matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off") => {
                "; yes, no, on and off are texts"
            }
            Data::Map(_) if wanted == "a list" => "; an entry of a list begins with a hyphen",
            Data::Text(_) if wanted == "a list" => "; a list stands in [ ], or has an entry in each line, after a hyphen",
            Data::Text(text) if text.parse::<f64>().is_ok() && wanted.ends_with("number") => "; leave out the quotes",
            _ => "",
        };
        self.wrong(out, Code::InvalidType, format!("must be {wanted}, not {}{hint}", self.node.kind()));
    }

    /// A text that is not empty, of bounded length, without zero bytes.
    pub fn text(&self, out: &mut Out, max_chars: usize) -> Option<&'a str> {
        let Data::Text(text) = &self.node.data else {
            self.is_no(out, "a text");
            return None;
        };
        let chars = text.chars().count();
        if text.trim().is_empty() {
            self.wrong(out, Code::OutOfRange, "must not be empty");
        } else if chars > max_chars {
            self.wrong(out, Code::OutOfRange, format!("has {chars} characters; at most {max_chars} are allowed"));
        } else if text.contains('\0') {
            self.wrong(out, Code::InvalidValue, "must not hold a zero byte");
        } else {
            return Some(text);
        }
        None
    }

    /// A text without line breaks and other control characters, and without spaces at its ends.
    pub fn line(&self, out: &mut Out, max_chars: usize) -> Option<&'a str> {
        let text = self.text(out, max_chars)?;
        if text.chars().any(char::is_control) || text.trim() != text {
            self.wrong(out, Code::InvalidValue, "must be one line, without control characters and without spaces at its ends");
            return None;
        }
        Some(text)
    }

    /// The text that stands there, right or not; none of what is no text.
    pub fn as_text(&self) -> &'a str {
        match &self.node.data {
            Data::Text(text) => text,
            Data::Null | Data::Bool(_) | Data::Int(..) | Data::Float(..) | Data::List(_) | Data::Map(_) => "",
        }
    }

    pub fn boolean(&self, out: &mut Out) -> Option<bool> {
        let Data::Bool(value) = self.node.data else {
            self.is_no(out, "true or false");
            return None;
        };
        Some(value)
    }

    pub fn integer(&self, out: &mut Out, min: u32, max: u32) -> Option<u32> {
        let Data::Int(number, _) = self.node.data else {
            self.is_no(out, "a whole number");
            return None;
        };
        let number = u32::try_from(number).ok().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(out, Code::OutOfRange, format!("must be from {min} to {max}"));
        }
        number
    }

    /// More than nothing, at most so many.
    pub fn amount(&self, out: &mut Out, max: u32) -> Option<Amount> {
        let amount = match self.node.data {
            Data::Int(number, _) => u32::try_from(number).ok().map(Amount::whole),
            Data::Float(number, _) => Amount::of(number),
            _ => {
                self.is_no(out, "a number");
                return None;
            }
        };
        let amount = amount.filter(|amount| *amount > Amount::default() && *amount <= Amount::whole(max));
        if amount.is_none() {
            self.wrong(out, Code::OutOfRange, format!("must be more than 0, and at most {max}"));
        }
        amount
    }

    pub fn one_of<T>(&self, out: &mut Out, named: impl FnOnce(&str) -> Option<T>, all: &[&str]) -> Option<T> {
        let Data::Text(text) = &self.node.data else {
            self.is_no(out, "a text");
            return None;
        };
        let value = named(text);
        if value.is_none() {
            self.wrong(out, Code::InvalidValue, format!("must be one of {}{}", all.join(", "), meant(text, all.iter().copied())));
        }
        value
    }

    /// The items of a list. Of one that is too long the first, as many as can have been meant: what refers to one of them is right.
    pub fn list(&self, out: &mut Out, max: usize) -> Vec<Spot<'a>> {
        let Data::List(items) = &self.node.data else {
            self.is_no(out, "a list");
            return Vec::new();
        };
        if items.len() > max {
            self.wrong(out, Code::OutOfRange, format!("has {} entries; at most {max} are allowed", items.len()));
        }
        items.iter().take(max.saturating_mul(LIST_READ_TIMES)).enumerate().map(|(index, node)| Spot { path: format!("{}[{index}]", self.path), node }).collect()
    }

    /// What a place within names; the nearest around it where there is nothing.
    pub fn below(&self, place: &[String]) -> Spot<'a> {
        let mut spot = self.clone();
        for token in place {
            let inner = match &spot.node.data {
                Data::Map(entries) => entries.iter().find(|(key, _)| key.text == *token).map(|(_, node)| (below(&spot.path, token), node)),
                Data::List(items) => token.parse().ok().and_then(|at: usize| items.get(at)).map(|node| (format!("{}[{token}]", spot.path), node)),
                _ => None,
            };
            let Some((path, node)) = inner else { break };
            spot = Spot { path, node };
        }
        spot
    }

    pub fn fields(&self, out: &mut Out, known: &[&str]) -> Option<Fields<'a>> {
        self.fields_refusing(out, known, &[])
    }

    /// A mapping, of which some further keys have a message of their own.
    pub fn fields_refusing(&self, out: &mut Out, known: &[&str], refused: &[(&str, Code, &str)]) -> Option<Fields<'a>> {
        if !matches!(self.node.data, Data::Map(_)) {
            let (shown, more) = if known.len() > KEYS_SHOWN { (&known[..KEYS_SHOWN], ", ...") } else { (known, "") };
            self.is_no(out, &format!("a mapping with such keys as {}{more}", shown.join(", ")));
            return None;
        }
        let fields = self.mapping(out)?;
        for (key, _) in fields.entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            let (code, message) = match refused.iter().find(|(name, ..)| *name == key.text) {
                Some((_, code, message)) => (*code, (*message).to_owned()),
                None if key.text == "<<" => {
                    (Code::UnknownKey, "is not known here: mappings are not merged; repeat what they share, or let an alias stand for a value".to_owned())
                }
                None => match spelling::nearest(&key.text, known.iter().copied()) {
                    Some(near) => (Code::UnknownKey, format!("is not known; did you mean {near}?")),
                    None => (Code::UnknownKey, format!("is not known here; known are {}", known.join(", "))),
                },
            };
            out.push(below(&self.path, &key.text), key.at, code, message);
        }
        Some(fields)
    }

    /// A mapping of any keys.
    pub fn mapping(&self, out: &mut Out) -> Option<Fields<'a>> {
        let Data::Map(entries) = &self.node.data else {
            self.is_no(out, "a mapping");
            return None;
        };
        Some(Fields { path: self.path.clone(), at: self.node.at, entries })
    }
}

impl<'a> Fields<'a> {
    pub fn get(&self, key: &str) -> Option<Spot<'a>> {
        let (key, node) = self.entries.iter().find(|(known, _)| known.text == key)?;
        Some(Spot { path: below(&self.path, &key.text), node })
    }

    /// Where a key stands, for what is wrong with its being there.
    pub fn key_at(&self, key: &str) -> Option<At> {
        self.entries.iter().find(|(known, _)| known.text == key).map(|(key, _)| key.at)
    }

    pub fn entries(&self) -> impl Iterator<Item = (&'a Key, Spot<'a>)> + use<'a, '_> {
        self.entries.iter().map(|(key, node)| (key, Spot { path: below(&self.path, &key.text), node }))
    }

    /// One that must be there.
    pub fn require(&self, key: &str, out: &mut Out) -> Option<Spot<'a>> {
        let spot = self.get(key);
        if spot.is_none() {
            self.missing(key, out);
        }
        spot
    }

    pub fn missing(&self, key: &str, out: &mut Out) {
        out.push(below(&self.path, key), self.at, Code::Missing, "is required");
    }

    pub fn wrong(&self, out: &mut Out, code: Code, message: impl Into<String>) {
        out.push(self.path.as_str(), self.at, code, message);
    }

    /// Says of a key that it must not be there.
    pub fn conflict(&self, key: &str, out: &mut Out, message: &str) {
        out.push(below(&self.path, key), self.key_at(key).unwrap_or(self.at), Code::Conflict, message);
    }

    pub fn boolean(&self, key: &str, out: &mut Out, default: bool) -> bool {
        self.get(key).and_then(|spot| spot.boolean(out)).unwrap_or(default)
    }

    pub fn integer(&self, key: &str, out: &mut Out, min: u32, max: u32) -> Option<u32> {
        self.get(key).and_then(|spot| spot.integer(out, min, max))
    }

    pub fn one_of<T>(&self, key: &str, out: &mut Out, named: impl FnOnce(&str) -> Option<T>, all: &[&str]) -> Option<T> {
        self.get(key).and_then(|spot| spot.one_of(out, named, all))
    }

    /// Reads every item of a list that may be absent.
    pub fn each<T>(&self, key: &str, out: &mut Out, max: usize, mut read: impl FnMut(&Spot<'a>, &mut Out) -> T) -> Vec<T> {
        let items = self.get(key).map(|spot| spot.list(out, max)).unwrap_or_default();
        items.iter().map(|spot| read(spot, out)).collect()
    }
}

/// `; did you mean X?`, or nothing.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    spelling::nearest(word, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
