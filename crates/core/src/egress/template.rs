//! Texts with places for a secret's values: `Bearer {{ .token }}`.
use std::collections::BTreeMap;
use std::fmt;

/// Of one template.
const TEMPLATE_BYTES_MAX: usize = 4096;
/// Of a value's name.
const KEY_BYTES_MAX: usize = 128;

/// A text that a source's values are put into.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(String),
}

/// Why a text is no template, or cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("is longer than {TEMPLATE_BYTES_MAX} bytes")]
    Long,
    #[error("has a `{{{{` without `}}}}`")]
    Unclosed,
    #[error("can only name values, such as {{{{ .token }}}}; `{{{{{0}}}}}` does something else")]
    Action(String),
    #[error("names the value `{0}`, which the credential source does not have")]
    Missing(String),
}

impl Template {
    /// Only `{{ .name }}` is known of the template language that clients may know.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::Long);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
            let name = action.trim().strip_prefix('.').filter(|name| is_key(name));
            let name = name.ok_or_else(|| TemplateError::Action(action.chars().take(40).collect()))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Value(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The names of the values that it needs.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text with the values in their places. A value that is not there is an error, not an empty text.
    pub fn render(&self, values: &BTreeMap<String, String>) -> Result<String, TemplateError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Value(name) => text.push_str(values.get(name).ok_or_else(|| TemplateError::Missing(name.clone()))?),
            }
        }
        Ok(text)
    }
}

/// Names with dashes are not the template language's, but they are headers' and harm nobody.
fn is_key(name: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// As it was written: what is put into it is not here.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Value(name) => write!(f, "{{{{ .{name} }}}}"),
        })
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in() {
        let values = BTreeMap::from([("token".to_owned(), "t0p".to_owned()), ("a-b".to_owned(), "{{ .token }}".to_owned())]);
        let table =
            [("Bearer {{ .token }}", "Bearer t0p"), ("{{.token}}{{  .token }}", "t0pt0p"), ("plain", "plain"), ("", ""), ("}} {{.a-b}}", "}} {{ .token }}")];
        for (text, want) in table {
            assert_eq!(Template::parse(text).and_then(|template| template.render(&values)).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_else_a_template_could_be_is_refused() {
        for text in ["{{ token }}", "{{ . }}", "{{ .a.b }}", "{{ range .x }}{{ end }}", "{{ printf .x }}", "{{- .x -}}", "{{ .a | b }}", "{{}}"] {
            assert!(matches!(Template::parse(text), Err(TemplateError::Action(_))), "{text}");
        }
        assert_eq!(Template::parse("a {{ .x"), Err(TemplateError::Unclosed));
        assert_eq!(Template::parse(&"x".repeat(TEMPLATE_BYTES_MAX + 1)), Err(TemplateError::Long));
        let missing = Template::parse("{{ .x }}").and_then(|template| template.render(&BTreeMap::new()));
        assert_eq!(missing, Err(TemplateError::Missing("x".to_owned())));
    }
}
