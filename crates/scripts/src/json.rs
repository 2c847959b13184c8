//! JSON that came out of an engine, before anybody else sees it: not too deep, no number that is none to other readers, and without
//! halves of surrogate pairs, which JavaScript allows and UTF-8 does not.

use serde_json::value::RawValue;

use crate::{Failure, FailureCode};

/// Readers of JSON give up at 128; what a script returns or asks is wrapped a few times on its way.
pub const DEPTH_MAX: usize = 100;
/// So many digits are a number in any case.
const DIGITS_FINITE: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonFault {
    #[error("is nested too deep: {DEPTH_MAX} levels are allowed")]
    TooDeep,
    #[error("has a number that is too large")]
    NotFinite,
    #[error("is no JSON")]
    NoJson,
}

impl JsonFault {
    /// Of the result of a call.
    pub(crate) fn failure(self) -> Failure {
        Failure { code: FailureCode::Unserializable, name: "UnserializableError".into(), message: format!("the result {self}"), stack: None }
    }
}

/// What is perhaps JSON, as JSON that any reader takes. Halves of surrogate pairs are replaced.
pub(crate) fn accept(bytes: &[u8]) -> Result<Box<RawValue>, JsonFault> {
    let mut text = String::from_utf8_lossy(bytes).into_owned().into_bytes();
    for half in halves(&text)? {
        text[half..half + 6].copy_from_slice(b"\\ufffd");
    }
    String::from_utf8(text).ok().and_then(|text| RawValue::from_string(text).ok()).ok_or(JsonFault::NoJson)
}

/// The same for what was read as JSON already. There is a copy only when something is replaced.
pub(crate) fn tidy(value: Box<RawValue>) -> Result<Box<RawValue>, JsonFault> {
    if halves(value.get().as_bytes())?.is_empty() { Ok(value) } else { accept(value.get().as_bytes()) }
}

/// Whether JSON has more levels of lists and objects than scripts are given or may return.
pub fn is_too_deep(json: &str) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    json.bytes().any(|byte| {
        match (in_string, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (true | false, _) => {}
        }
        depth > DEPTH_MAX
    })
}

/// Where escapes are halves of surrogate pairs.
fn halves(text: &[u8]) -> Result<Vec<usize>, JsonFault> {
    let (mut depth, mut in_string, mut at) = (0_usize, false, 0);
    let mut halves: Vec<usize> = Vec::new();
    while let Some(&byte) = text.get(at) {
        match (in_string, byte) {
            (true, b'\\') => match unit(text, at) {
                Some(0xd800..0xdc00) if unit(text, at + 6).is_some_and(|low| (0xdc00..0xe000).contains(&low)) => at += 11,
                Some(0xd800..0xe000) => {
                    halves.push(at);
                    at += 5;
                }
                _ => at += 1,
            },
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(JsonFault::TooDeep);
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (false, b'0'..=b'9') => {
                let rest = &text[at..];
                let length = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')).unwrap_or(rest.len());
                if !is_finite(&rest[..length]) {
                    return Err(JsonFault::NotFinite);
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(halves)
}

/// Of a number without its sign; whether it is one is for others to find.
fn is_finite(number: &[u8]) -> bool {
    if number.len() <= DIGITS_FINITE && !number.iter().any(|byte| matches!(byte, b'e' | b'E')) {
        return true;
    }
    std::str::from_utf8(number).ok().and_then(|number| number.parse::<f64>().ok()).is_none_or(f64::is_finite)
}

/// The code unit that an escape at this place stands for.
fn unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        let pair = r#""\ud83d\ude00""#;
        for (text, expected) in [
            (r#"{"a":[1,"]",null]}"#, Ok(r#"{"a":[1,"]",null]}"#)),
            (pair, Ok(pair)),
            (r#""\ud83d""#, Ok(r#""\ufffd""#)),
            (r#""\ude00\ud83d\ud83d\ude00""#, Ok(r#""\ufffd\ufffd\ud83d\ude00""#)),
            (r#""\\ud83d""#, Ok(r#""\\ud83d""#)),
            (r#""\\\ud83d""#, Ok(r#""\\\ufffd""#)),
            ("[-1e308,0.5E-400,\"1e999\"]", Ok("[-1e308,0.5E-400,\"1e999\"]")),
            (r#"{"n":1e999}"#, Err(JsonFault::NotFinite)),
            ("-2E+308", Err(JsonFault::NotFinite)),
            ("", Err(JsonFault::NoJson)),
            ("{", Err(JsonFault::NoJson)),
            ("1 2", Err(JsonFault::NoJson)),
        ] {
            assert_eq!(
                accept(text.as_bytes()).as_deref().map(RawValue::get).map_err(|fault| format!("{fault:?}")),
                expected.map_err(|fault| format!("{fault:?}")),
                "{text}"
            );
        }
        assert!(accept("[".repeat(DEPTH_MAX).as_bytes()).is_err_and(|fault| fault == JsonFault::NoJson));
        assert!(accept("[".repeat(DEPTH_MAX + 1).as_bytes()).is_err_and(|fault| fault == JsonFault::TooDeep));
        assert!(accept(format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)).as_bytes()).is_ok());
        assert!(accept(b"\"\xff\"").is_ok());
        assert!(accept("9".repeat(308).as_bytes()).is_ok());
        assert_eq!(accept("9".repeat(400).as_bytes()).unwrap_err(), JsonFault::NotFinite);
    }

    #[test]
    fn depth_is_that_of_lists_and_objects() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        for (json, deep) in [(nested(DEPTH_MAX), false), (nested(DEPTH_MAX + 1), true), (format!("\"{}\\\"{}\"", "[".repeat(200), "{".repeat(200)), false)] {
            assert_eq!(is_too_deep(&json), deep, "{json}");
        }
    }

    #[test]
    fn what_was_read_already_is_looked_at_the_same_way() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert_eq!(tidy(raw(r#"["\ud83d", "x"]"#)).unwrap().get(), r#"["\ufffd", "x"]"#);
        assert_eq!(tidy(raw("1e999")).unwrap_err(), JsonFault::NotFinite);
        let deep = format!("{}{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1));
        assert_eq!(tidy(raw(&deep)).unwrap_err().failure().message, "the result is nested too deep: 100 levels are allowed");
    }
}
