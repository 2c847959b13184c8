//! Secrets that a run was given do not stand in what is kept of it: in their place stands `[secret NAME]`.

use sandbar_core::redact::{
    mark, spellings,
    swaps::{Over, Room, Swaps},
};
use sandbar_scripts::{Failure, LogLine, Op, Outcome, Recording, call::LOG_CUT};
use serde_json::value::RawValue;

#[cfg(test)]
mod tests;

/// Bytes by which what is kept of a run may grow: marks can be longer than what they stand for.
const GROWTH_MAX_BYTES: usize = 4 << 20;
/// Bytes that are compared for one run, which takes a fraction of a second.
const EFFORT_MAX_BYTES: usize = 1 << 30;
/// More than this is not looked through where others wait for the thread.
const AT_ONCE_MAX_BYTES: usize = 64 << 10;
/// In the place of what would become too large, or take too long to look through.
const TOO_LARGE: &str = "[too large to keep]";

/// Keeps secrets out of what is kept.
#[derive(Default)]
pub(super) struct Redactor {
    /// Names and values.
    secrets: Vec<(String, String)>,
    marked: Swaps,
}

/// What is kept of a run.
pub(super) struct Kept {
    /// As it is answered: its value is whole.
    pub outcome: Outcome,
    /// The value as it is kept.
    pub output: Option<String>,
    pub recording: Recording,
}

impl Redactor {
    pub fn new(secrets: impl IntoIterator<Item = (String, String)>) -> Self {
        let secrets: Vec<_> = secrets.into_iter().collect();
        let forms = secrets.iter().flat_map(|(name, value)| spellings(name, value)).collect::<Vec<_>>();
        Self { secrets, marked: Swaps::new(forms) }
    }

    /// Takes the secrets out of what a run came to; off this thread where that may take a while. `held` is let go when it is done,
    /// also when nobody waits for it any more.
    pub async fn keep(self, outcome: Outcome, recording: Recording, held: impl Send + 'static) -> Kept {
        if self.marked.is_empty() || size_of(&outcome, &recording) <= AT_ONCE_MAX_BYTES {
            return self.kept(outcome, recording);
        }
        let kept = tokio::task::spawn_blocking(move || {
            let _held = held;
            self.kept(outcome, recording)
        });
        kept.await.unwrap_or_else(|error| {
            tracing::error!(%error, "what a run came to could not be looked through, and is not kept");
            let outcome = Outcome::failed(Failure::internal("what came of the run could not be kept"));
            Kept { outcome, output: None, recording: Recording { incomplete: true, ..Recording::default() } }
        })
    }

    fn kept(&self, mut outcome: Outcome, mut recording: Recording) -> Kept {
        let mut room = Room::new(GROWTH_MAX_BYTES, EFFORT_MAX_BYTES);
        for LogLine { text, .. } in &mut outcome.logs {
            // First whole secrets: the end of one may look like the begin of another.
            self.mark_text(text, &mut room);
            self.cut_begun(text);
        }
        let output = match &mut outcome.result {
            Ok(value) => value.as_ref().map(|value| self.marked_json(value, &mut room).unwrap_or_else(|| value.get().to_owned())),
            Err(Failure { name, message, stack, .. }) => {
                for text in [name, message].into_iter().chain(stack) {
                    self.mark_text(text, &mut room);
                }
                None
            }
        };
        for op in &mut recording.ops {
            self.mark_json(&mut op.args, &mut room);
            let Some(answer) = &mut op.answer else { continue };
            if let Some(value) = &mut answer.value {
                self.mark_json(value, &mut room);
            }
            if let Some(error) = &mut answer.error {
                self.mark_text(&mut error.message, &mut room);
            }
        }
        recording.incomplete |= room.is_over;
        Kept { outcome, output, recording }
    }

    /// A sentence with JSON in it, without the values in any text of that.
    pub fn sentence(&self, text: String) -> String {
        let mut room = Room::new(GROWTH_MAX_BYTES, EFFORT_MAX_BYTES);
        rewritten(&self.marked, &text, &mut room).map_or_else(|Over| TOO_LARGE.to_owned(), |rewritten| rewritten.unwrap_or(text))
    }

    /// A recording as it was before it was kept; none if it would be larger than any can have been. What the secrets are now is what
    /// it was told.
    pub fn restored(&self, mut recording: Recording) -> Option<Recording> {
        let marks = Swaps::new(self.secrets.iter().map(|(name, value)| (mark(name), value.clone())));
        let mut room = Room::new(GROWTH_MAX_BYTES, EFFORT_MAX_BYTES);
        for op in &mut recording.ops {
            let told = op.answer.as_mut().and_then(|answer| answer.value.as_mut());
            let secret = if op.op == Op::SecretsGet { secret_name(&op.args) } else { None };
            match (told, secret) {
                (Some(value), Some(name)) if value.get() != "null" => {
                    if let Some((_, secret)) = self.secrets.iter().find(|(known, _)| *known == name) {
                        let secret = serde_json::value::to_raw_value(secret).ok()?;
                        room.grow(secret.get().len().saturating_sub(value.get().len())).ok()?;
                        *value = secret;
                    }
                }
                (Some(value), _) => restore(&marks, value, &mut room).ok()?,
                (None, _) => {}
            }
            restore(&marks, &mut op.args, &mut room).ok()?;
        }
        Some(recording)
    }

    /// Where a line was cut off, a secret may have been cut in two.
    fn cut_begun(&self, text: &mut String) {
        let Some(line) = text.strip_suffix(LOG_CUT) else { return };
        let begun = |value: &str| (1..value.len()).rev().find(|&length| value.is_char_boundary(length) && line.ends_with(&value[..length]));
        let escaped = |value: &str| serde_json::to_string(value).ok().map(|json| json[1..json.len() - 1].to_owned());
        let longest = self.secrets.iter().flat_map(|(_, value)| [begun(value), escaped(value).and_then(|escaped| begun(&escaped))]).flatten().max();
        if let Some(length) = longest {
            *text = format!("{}{LOG_CUT}", &line[..line.len() - length]);
        }
    }

    fn mark_text(&self, text: &mut String, room: &mut Room) {
        let swapped = self.marked.swap(text, room).and_then(|swapped| {
            room.grow(swapped.as_ref().map_or(0, |swapped| swapped.len().saturating_sub(text.len())))?;
            Ok(swapped)
        });
        match swapped {
            Ok(None) => {}
            Ok(Some(swapped)) => *text = swapped,
            Err(Over) => *text = TOO_LARGE.to_owned(),
        }
    }

    fn mark_json(&self, json: &mut Box<RawValue>, room: &mut Room) {
        if let Some(marked) = self.marked_json(json, room) {
            *json = RawValue::from_string(marked).unwrap_or_default();
        }
    }

    /// JSON without the values in any of its texts, if they stand there.
    fn marked_json(&self, json: &RawValue, room: &mut Room) -> Option<String> {
        rewritten(&self.marked, json.get(), room).unwrap_or_else(|Over| Some(format!("\"{TOO_LARGE}\"")))
    }
}

/// The name of the secret that is asked for.
pub(super) fn secret_name(args: &RawValue) -> Option<String> {
    let args: serde_json::Value = serde_json::from_str(args.get()).ok()?;
    args.get("name")?.as_str().map(str::to_owned)
}

fn restore(marks: &Swaps, json: &mut Box<RawValue>, room: &mut Room) -> Result<(), Over> {
    if let Some(restored) = rewritten(marks, json.get(), room)? {
        *json = RawValue::from_string(restored).unwrap_or_default();
    }
    Ok(())
}

/// Swaps in each text within JSON and leaves all else as it stands, the order of fields too: a replay compares. None where nothing
/// was found.
fn rewritten(swaps: &Swaps, json: &str, room: &mut Room) -> Result<Option<String>, Over> {
    // The quotation marks are no part of a text.
    if swaps.is_empty() || json.len() < swaps.shortest() + 2 {
        return Ok(None);
    }
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(begin) = json[at..].find('"').map(|begin| at + begin) {
        let Some(length) = literal_length(&json[begin..]) else { break };
        at = begin + length;
        // A text is never longer than what spells it.
        if length < swaps.shortest() + 2 {
            continue;
        }
        let literal = &json[begin..at];
        let Some(text) = swaps.swap(&spelt(literal), room)? else { continue };
        let text = serde_json::to_string(&text).map_err(|_| Over)?;
        room.grow(text.len().saturating_sub(literal.len()))?;
        out.push_str(&json[copied..begin]);
        out.push_str(&text);
        copied = at;
    }
    if copied == 0 {
        return Ok(None);
    }
    out.push_str(&json[copied..]);
    Ok(Some(out))
}

/// The text that a literal spells. Half a surrogate is no text, and JSON may hold it all the same: a character stands for it that
/// says so.
fn spelt(literal: &str) -> std::borrow::Cow<'_, str> {
    let inner = &literal[1..literal.len() - 1];
    if !inner.contains('\\') {
        return inner.into();
    }
    let whole = serde_json::from_str::<String>(literal).or_else(|_| serde_json::from_str(&without_half_surrogates(literal)));
    whole.map_or(inner.into(), Into::into)
}

fn without_half_surrogates(literal: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(literal.len()), literal);
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let unit = |text: &str| text.strip_prefix("\\u")?.get(..4).and_then(|hex| u16::from_str_radix(hex, 16).ok());
        let length = match unit(rest) {
            Some(0xd800..=0xdbff) if matches!(unit(&rest[6..]), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            // What is escaped is a character of one byte; the literal goes on at least to its end.
            _ => 2.min(rest.len()),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Bytes of the text that begins with a quotation mark, both of these included.
fn literal_length(json: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn size_of(outcome: &Outcome, recording: &Recording) -> usize {
    let result = match &outcome.result {
        Ok(value) => value.as_ref().map_or(0, |value| value.get().len()),
        Err(failure) => failure.message.len() + failure.stack.as_ref().map_or(0, String::len),
    };
    let answered = |answer: &sandbar_scripts::recording::Answer| {
        answer.value.as_ref().map_or(0, |value| value.get().len()) + answer.error.as_ref().map_or(0, |error| error.message.len())
    };
    let ops = recording.ops.iter().map(|op| op.args.get().len() + op.answer.as_ref().map_or(0, answered));
    result + outcome.logs.iter().map(|line| line.text.len()).sum::<usize>() + ops.sum::<usize>()
}
