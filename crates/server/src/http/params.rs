//! Query strings. Each getter refuses a value that it cannot read with the parameter's name, and ignores parameters
//! that nobody asks for.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};
use sandbar_core::{limits, service::percent_decoded};

use crate::error::ApiError;

/// The query string, decoded.
#[derive(Debug, Default, Clone)]
pub struct Params {
    pairs: Vec<(String, String)>,
    /// Names of values that are no UTF-8 in the query: what stands for their bytes is not what was sent.
    unreadable: Vec<String>,
}

impl Params {
    /// Decodes a query string without its `?`.
    pub fn parse(query: &str) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let is_text = |part: &str| String::from_utf8(percent_decoded(part.as_bytes())).is_ok();
        let bad = query.split('&').filter(|pair| !is_text(pair));
        let unreadable = bad.filter_map(|pair| form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name.into_owned())).collect();
        Self { pairs, unreadable }
    }

    /// Refuses a value that is no UTF-8: the names of several things would be read as one.
    pub fn readable(&self, name: &str) -> Result<(), ApiError> {
        if self.unreadable.iter().any(|bad| bad == name) {
            return Err(ApiError::bad_request(format!("{name}: is not UTF-8")));
        }
        Ok(())
    }

    /// The first value of a name. An empty one counts as absent, since SDKs send filters that are not set like that.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The first value of a name that says nothing when it is absent, but may not be empty: then something was left out by mistake.
    pub fn not_empty(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.pairs.iter().find(|(key, _)| key == name) {
            Some((_, value)) if value.is_empty() => Err(ApiError::bad_request(format!("{name}: is empty; give it a value or leave it out"))),
            found => Ok(found.map(|(_, value)| value.as_str())),
        }
    }

    /// A value that has to be there.
    pub fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.text(name).ok_or_else(|| ApiError::bad_request(format!("{name}: the query parameter is required")))
    }

    /// A whole number within a range.
    pub fn integer<T>(&self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, ApiError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::bad_request(format!("{name}: {} is not an integer from {} to {}", shown(text), range.start(), range.end()))),
        }
    }

    /// A whole number that is brought within a range when it lies outside; negative ones count as absent.
    pub fn clamped(&self, name: &str, max: usize) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<i128>() {
            Ok(number) if number < 0 => Ok(None),
            Ok(number) => Ok(Some(usize::try_from(number).unwrap_or(usize::MAX).min(max))),
            Err(_) => Err(ApiError::bad_request(format!("{name}: {} is not an integer", shown(text)))),
        }
    }

    /// A boolean in one of the forms that Go's `ParseBool` knows.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(text) => Err(ApiError::bad_request(format!("{name}: {} is not true or false", shown(text)))),
        }
    }

    /// A moment in RFC 3339, as milliseconds since 1970.
    pub fn time_ms(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<jiff::Timestamp>() {
            Ok(time) => Ok(Some(time.as_millisecond())),
            Err(_) => Err(ApiError::bad_request(format!("{name}: {} is not a time in RFC 3339", shown(text)))),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

/// A client's text as an error repeats it: quoted and cut.
pub fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut cut: String = text.chars().take(CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// A header of 1 to 255 visible characters.
pub fn bounded(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    visible(name, value.to_str().unwrap_or_default()).map(Some)
}

/// A text of 1 to 255 visible characters; `name` is where it stood.
pub fn visible(name: &str, text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    let is_visible = text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    if is_visible && (1..=limits::IDEMPOTENCY_KEY_MAX_CHARS).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(ApiError::bad_request(format!("{name}: has 1 to {} visible ASCII characters", limits::IDEMPOTENCY_KEY_MAX_CHARS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_first_holds() {
        let params = Params::parse("path=%2Fa+b%2Bc%26%C3%A9&path=other&empty=&flag");
        assert_eq!(params.text("path"), Some("/a b+c&é"));
        assert_eq!(params.text("empty"), None);
        assert_eq!(params.text("flag"), None);
        assert!(params.required("absent").is_err());
        let params = Params::parse("p=%FF%zz&q=%EF%BF%BD");
        assert_eq!(params.text("p"), Some("\u{fffd}%zz"));
        assert_eq!(params.readable("p").expect_err("a byte").status(), 400);
        for name in ["q", "absent"] {
            assert!(params.readable(name).is_ok(), "{name}");
        }
        assert!(Params::parse("a=1&p=x&p=%C3").readable("p").is_err(), "also one that does not hold");
    }

    #[test]
    fn numbers_have_ranges() {
        let limit = |query| Params::parse(query).integer("limit", 1..=200u32);
        assert_eq!(limit("").expect("absent"), None);
        assert_eq!(limit("limit=").expect("empty"), None);
        assert_eq!(limit("limit=200").expect("in range"), Some(200));
        for query in ["limit=0", "limit=201", "limit=-1", "limit=abc", "limit=1.0", "limit=99999999999999999999", "limit=%20", "limit=0x10"] {
            let error = limit(query).expect_err(query);
            assert_eq!(error.status(), 400);
            assert!(error.message().starts_with("limit: "), "{}", error.message());
        }
        let clamped = |query| Params::parse(query).clamped("n", 10);
        assert_eq!(clamped("n=99999999999999999999").expect("large"), Some(10));
        assert_eq!(clamped("n=-5").expect("negative"), None);
        assert!(clamped("n=x").is_err());
    }

    #[test]
    fn booleans_are_those_of_go() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(Params::parse(&format!("b={text}")).boolean("b").expect(text), Some(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(Params::parse(&format!("b={text}")).boolean("b").expect(text), Some(false));
        }
        for text in ["yes", "tRUE", "2", "on"] {
            assert!(Params::parse(&format!("b={text}")).boolean("b").is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_visible_and_short() {
        let longest = "k".repeat(limits::IDEMPOTENCY_KEY_MAX_CHARS);
        for (text, key) in [("a", Some("a")), (" a b ", Some("a b")), (&longest, Some(longest.as_str()))] {
            assert_eq!(visible("k", text).ok().as_deref(), key, "{text:?}");
        }
        for text in ["", "  ", "\u{e9}", "a\nb", "a\0", &format!("{longest}k")] {
            assert!(visible("k", text).is_err_and(|error| error.message().starts_with("k: ")), "{text:?}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(Params::parse("t=1970-01-01T00:00:01.5Z").time_ms("t").expect("valid"), Some(1500));
        assert_eq!(Params::parse("t=1970-01-01T01:00:00%2B01:00").time_ms("t").expect("valid"), Some(0));
        assert!(Params::parse("t=yesterday").time_ms("t").is_err());
    }
}
