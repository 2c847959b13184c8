//! JSON that came out of a guest, before anybody else sees it.

use serde_json::value::RawValue;

/// Readers of JSON give up at 128; what a script returns or asks is wrapped a few times on its way.
pub(super) const DEPTH_MAX: usize = 100;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum JsonFault {
    TooDeep,
    NoJson,
}

/// JSON that any reader takes: it is JSON, not too deep, and halves of surrogate pairs, which JavaScript allows and UTF-8 does
/// not, are replaced.
pub(super) fn accept(bytes: &[u8]) -> Result<Box<RawValue>, JsonFault> {
    let mut text = String::from_utf8_lossy(bytes).into_owned().into_bytes();
    let (mut depth, mut in_string, mut at) = (0_usize, false, 0);
    let mut halves: Vec<usize> = Vec::new();
    while let Some(&byte) = text.get(at) {
        match (in_string, byte) {
            (true, b'\\') => match unit(&text, at) {
                Some(0xd800..0xdc00) if unit(&text, at + 6).is_some_and(|low| (0xdc00..0xe000).contains(&low)) => at += 11,
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
            _ => {}
        }
        at += 1;
    }
    for half in halves {
        text[half..half + 6].copy_from_slice(b"\\ufffd");
    }
    String::from_utf8(text).ok().and_then(|text| RawValue::from_string(text).ok()).ok_or(JsonFault::NoJson)
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
    }
}
