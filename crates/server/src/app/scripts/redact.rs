//! Secrets that a run was given do not stand in what is kept of it: in their place stands `[secret NAME]`.

use std::borrow::Cow;

use sandbar_scripts::{Outcome, Recording};
use serde_json::value::RawValue;

/// Names and values.
#[derive(Debug, Default)]
pub(super) struct Redactor(Vec<(String, String)>);

impl Redactor {
    /// The longest values first, so that one which is part of another does not spoil it.
    pub fn new(secrets: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut secrets: Vec<_> = secrets.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        secrets.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        Self(secrets)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A text without the values, also as they stand in JSON within it.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for (name, value) in &self.0 {
            let escaped = serde_json::to_string(value).unwrap_or_default();
            // One quotation mark from each end: the value may have its own there.
            let escaped = escaped.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default();
            for form in [value.as_str(), escaped] {
                if !form.is_empty() && text.contains(form) {
                    text = Cow::Owned(text.replace(form, &mark(name)));
                }
            }
        }
        text
    }

    /// JSON without the values in any of its texts.
    pub fn json(&self, json: Box<RawValue>) -> Box<RawValue> {
        self.rewritten(json, |text| self.text(text).into_owned())
    }

    /// JSON with the values again where they were taken out.
    pub fn restored(&self, json: Box<RawValue>) -> Box<RawValue> {
        self.rewritten(json, |text| self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&mark(name), value)))
    }

    /// All that a run came to and that is kept.
    pub fn outcome(&self, outcome: &mut Outcome) {
        if self.is_empty() {
            return;
        }
        for line in &mut outcome.logs {
            if let Cow::Owned(text) = self.text(&line.text) {
                line.text = text;
            }
        }
        if let Err(failure) = &mut outcome.result {
            failure.message = self.text(&failure.message).into_owned();
            failure.stack = failure.stack.take().map(|stack| self.text(&stack).into_owned());
        }
    }

    pub fn recording(&self, recording: Recording) -> Recording {
        self.each(recording, |json| self.json(json), |text| self.text(text).into_owned())
    }

    /// A recording as it was before it was kept.
    pub fn restored_recording(&self, recording: Recording) -> Recording {
        self.each(recording, |json| self.restored(json), str::to_owned)
    }

    fn each(&self, mut recording: Recording, json: impl Fn(Box<RawValue>) -> Box<RawValue>, text: impl Fn(&str) -> String) -> Recording {
        if self.is_empty() {
            return recording;
        }
        for op in &mut recording.ops {
            op.args = json(std::mem::take(&mut op.args));
            if let Some(answer) = &mut op.answer {
                answer.value = answer.value.take().map(&json);
                if let Some(error) = &mut answer.error {
                    error.message = text(&error.message);
                }
            }
        }
        recording
    }

    /// Rewrites each text within JSON and leaves all else as it stands, the order of fields too: a replay compares.
    fn rewritten(&self, json: Box<RawValue>, rewrite: impl Fn(&str) -> String) -> Box<RawValue> {
        if self.is_empty() {
            return json;
        }
        let (mut out, mut rest) = (String::with_capacity(json.get().len()), json.get());
        while let Some(begin) = rest.find('"') {
            let Some(length) = literal_length(&rest[begin..]) else { break };
            let literal = &rest[begin..begin + length];
            out.push_str(&rest[..begin]);
            let rewritten = serde_json::from_str::<String>(literal).ok().and_then(|text| Some(rewrite(&text)).filter(|rewritten| *rewritten != text));
            match rewritten.and_then(|text| serde_json::to_string(&text).ok()) {
                Some(text) => out.push_str(&text),
                None => out.push_str(literal),
            }
            rest = &rest[begin + length..];
        }
        out.push_str(rest);
        RawValue::from_string(out).unwrap_or_default()
    }
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

fn mark(name: &str) -> String {
    format!("[secret {name}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn values_are_taken_out_wherever_they_stand_and_put_back() {
        let redactor = Redactor::new([("KEY".to_owned(), "s3cr3t".to_owned()), ("LONG".to_owned(), "s3cr3t-and \"more\"".to_owned())]);
        assert_eq!(redactor.text("a s3cr3t b"), "a [secret KEY] b");
        assert_eq!(redactor.text("s3cr3t-and \"more\""), "[secret LONG]", "the longer one first");
        assert_eq!(redactor.text(r#""s3cr3t-and \"more\"""#), r#""[secret LONG]""#, "a quotation mark at its end");
        assert_eq!(redactor.text(r#"{"a":"s3cr3t-and \"more\""}"#), r#"{"a":"[secret LONG]"}"#, "as it stands in JSON");
        let json = redactor.json(raw(r#"{"h":{"authorization":"Bearer s3cr3t"},"s3cr3t":[1,"\u0073\u0033cr3t"]}"#));
        assert_eq!(json.get(), r#"{"h":{"authorization":"Bearer [secret KEY]"},"[secret KEY]":[1,"[secret KEY]"]}"#);
        assert_eq!(redactor.restored(json).get(), r#"{"h":{"authorization":"Bearer s3cr3t"},"s3cr3t":[1,"s3cr3t"]}"#);
        assert_eq!(Redactor::default().json(raw(r#"{"b": 1}"#)).get(), r#"{"b": 1}"#, "without secrets nothing is touched");
    }
}
