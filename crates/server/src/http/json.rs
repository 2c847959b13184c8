//! What is wrong with JSON, in words of JSON. Who wrote it knows texts, numbers, lists and objects, and nothing of the types that
//! the server reads it into.

use serde::de::DeserializeOwned;

/// Levels of lists and objects that are read where JSON becomes anything but itself: serde_json's bound.
const LEVELS_MAX: usize = 127;
/// Of what was sent, as an error repeats it.
const SHOWN_CHARS_MAX: usize = 64;

/// Why JSON cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A predicate: `is not valid JSON: ...`.
    #[error("{0}")]
    Whole(String),
    #[error("{field}: {message}")]
    Field { field: String, message: String },
}

/// Reads JSON that has to be of a form.
///
/// # Errors
/// What is wrong, with the path of its field where it is not the whole, and what is allowed there.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    // Some programs put a mark before all text that they write.
    let mut json = serde_json::Deserializer::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| of_path(&error))?;
    json.end().map_err(|error| JsonError::Whole(format!("is not one JSON value: {error}")))?;
    Ok(value)
}

fn of_path(error: &serde_path_to_error::Error<serde_json::Error>) -> JsonError {
    let cause = error.inner();
    let text = cause.to_string();
    // The place is that of a byte; what follows a text in quotes may say the same.
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    if message == "recursion limit exceeded" {
        return JsonError::Whole(format!("is nested too deep: at most {LEVELS_MAX} levels of lists and objects are read"));
    }
    if cause.is_syntax() || cause.is_eof() {
        return JsonError::Whole(format!("is not valid JSON: {cause}"));
    }
    let parent = Some(error.path().to_string()).filter(|path| path != ".");
    // Of a field that is missing, or there twice, the path is that of its parent.
    let of_child = [("missing field `", "is required"), ("duplicate field `", "is given twice")].into_iter().find_map(|(start, said)| {
        let child = message.strip_prefix(start)?.strip_suffix('`')?;
        Some((child, said))
    });
    match (parent, of_child) {
        (Some(parent), Some((child, said))) => JsonError::Field { field: format!("{parent}.{child}"), message: said.to_owned() },
        (None, Some((child, said))) => JsonError::Field { field: child.to_owned(), message: said.to_owned() },
        (Some(field), None) => JsonError::Field { field, message: worded(message) },
        (None, None) => JsonError::Whole(worded(message)),
    }
}

/// A deserializer's sentence in other words. One that a type of ours says itself stays as it is.
fn worded(message: &str) -> String {
    for start in ["invalid type: ", "invalid value: "] {
        if let Some((given, expected)) = message.strip_prefix(start).and_then(|rest| rest.rsplit_once(", expected ")) {
            return format!("must be {}, not {}", wanted(expected), given_words(given));
        }
    }
    if let Some((length, expected)) = message.strip_prefix("invalid length ").and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("must be {}, not one of {length}", wanted(expected));
    }
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let known = names(rest);
        return if known.is_empty() { "is not known; there are no fields".to_owned() } else { format!("is not known; there are {}", known.join(", ")) };
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        return format!("must be one of {}", names(rest).join(", "));
    }
    if message.starts_with("data did not match any variant") {
        return "is of none of the forms that are allowed here".to_owned();
    }
    message.to_owned()
}

/// The names behind the first one, which is what was sent: it may have anything in it but these words.
fn names(rest: &str) -> Vec<&str> {
    let allowed = rest.rsplit_once("`, expected ").map_or("", |(_, allowed)| allowed);
    allowed.split('`').skip(1).step_by(2).collect()
}

fn wanted(expected: &str) -> String {
    let text = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number of 0 or more",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" | "str" | "a borrowed string" | "a character" | "identifier" | "field identifier" | "variant identifier" => "a text",
        "a map" | "map" => "an object",
        "a sequence" | "sequence" => "a list",
        "unit" => "null",
        "string or map" => "a text or an object",
        "any value" | "any valid JSON value" => "JSON",
        _ => "",
    };
    if !text.is_empty() {
        return text.to_owned();
    }
    let number = |start: &str| expected.strip_prefix(start).and_then(|rest| rest.split(' ').next()).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    if let Some(length) = ["a tuple of size ", "tuple of ", "an array of length "].into_iter().find_map(number) {
        return format!("a list of {length}");
    }
    if let Some(rest) = expected.strip_prefix("a nonzero ") {
        return format!("{}, but not 0", wanted(rest));
    }
    if ["struct ", "tuple struct "].into_iter().any(|start| expected.starts_with(start)) || expected.contains("tagged enum ") {
        return "an object".to_owned();
    }
    if expected.starts_with("enum ") {
        return "a text".to_owned();
    }
    expected.to_owned()
}

fn given_words(given: &str) -> String {
    let quoted = |start: &str| given.strip_prefix(start).and_then(|rest| rest.strip_suffix('`'));
    if let Some(number) = quoted("integer `").or(quoted("floating point `")) {
        return format!("the number {number}");
    }
    if let Some(flag) = quoted("boolean `") {
        return flag.to_owned();
    }
    if let Some(text) = given.strip_prefix("string ") {
        let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        return if cut.len() < text.len() { format!("the text {cut}…\"") } else { format!("the text {text}") };
    }
    match given {
        "map" => "an object",
        "sequence" => "a list",
        "null" | "unit value" => "null",
        _ => "something else",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[allow(dead_code)]
    struct Whole {
        limit: Option<u32>,
        small: Option<u8>,
        size: Option<usize>,
        signed: Option<i64>,
        ratio: Option<f64>,
        flag: Option<bool>,
        name: Option<String>,
        list: Option<Vec<Part>>,
        pair: Option<(u8, u8)>,
        map: Option<BTreeMap<String, String>>,
        kind: Option<Kind>,
        either: Option<Either>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Part {
        weight: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        First,
        SecondOne,
    }

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum Either {
        Text(String),
        Number(u8),
    }

    #[test]
    fn what_is_wrong_is_said_in_words_of_json() {
        for (json, said) in [
            (r#"{"limit":"5m"}"#, "limit: must be a whole number from 0 to 4294967295, not the text \"5m\""),
            (r#"{"limit":-1}"#, "limit: must be a whole number from 0 to 4294967295, not the number -1"),
            (r#"{"limit":1.5}"#, "limit: must be a whole number from 0 to 4294967295, not the number 1.5"),
            (r#"{"small":256}"#, "small: must be a whole number from 0 to 255, not the number 256"),
            (r#"{"size":-1}"#, "size: must be a whole number of 0 or more, not the number -1"),
            (r#"{"signed":true}"#, "signed: must be a whole number, not true"),
            (r#"{"ratio":[]}"#, "ratio: must be a number, not a list"),
            (r#"{"flag":"yes, expected no at line 9"}"#, "flag: must be true or false, not the text \"yes, expected no at line 9\""),
            (r#"{"name":{}}"#, "name: must be a text, not an object"),
            (r#"{"list":7}"#, "list: must be a list, not the number 7"),
            (r#"{"list":[7]}"#, "list[0]: must be an object, not the number 7"),
            (r#"{"list":[{}]}"#, "list[0].weight: is required"),
            (r#"{"list":[{"weight":null}]}"#, "list[0].weight: must be a whole number from 0 to 4294967295, not null"),
            (r#"{"list":[{"weight":1,"x":1}]}"#, "list[0].x: is not known; there are weight"),
            (r#"{"pair":[1]}"#, "pair: must be a list of 2, not one of 1"),
            (r#"{"map":{"a":1}}"#, "map.a: must be a text, not the number 1"),
            (r#"{"kind":"third"}"#, "kind: must be one of first, second_one"),
            (r#"{"either":null,"either":1}"#, "either: is given twice"),
            (r#"{"either":[]}"#, "either: is of none of the forms that are allowed here"),
            ("5", "must be an object, not the number 5"),
            ("\"x\"", "must be an object, not the text \"x\""),
        ] {
            let error = read::<Whole>(json.as_bytes()).expect_err(json).to_string();
            assert_eq!(error, said, "{json}");
        }
        let unknown = read::<Whole>(br#"{"limits":1}"#).expect_err("unknown").to_string();
        assert!(unknown.starts_with("limits: is not known; there are limit, small, size, "), "{unknown}");
        let long = read::<Whole>(format!(r#"{{"flag":"{}"}}"#, "x".repeat(1000)).as_bytes()).expect_err("long").to_string();
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn a_mark_before_the_text_is_none_of_it() {
        assert_eq!(read::<Whole>(b"\xef\xbb\xbf{\"limit\":1}").expect("JSON").limit, Some(1));
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (json, said) in [
            ("{", "is not valid JSON: EOF while parsing an object at line 1 column 1"),
            ("{\"limit\":1}x", "is not one JSON value: trailing characters at line 1 column 12"),
        ] {
            assert_eq!(read::<Whole>(json.as_bytes()).expect_err(json).to_string(), said);
        }
        let deep = read::<serde_json::Value>("[".repeat(100_000).as_bytes()).expect_err("deep").to_string();
        assert_eq!(deep, "is nested too deep: at most 127 levels of lists and objects are read");
        assert!(read::<serde_json::Value>(format!("{}{}", "[".repeat(LEVELS_MAX), "]".repeat(LEVELS_MAX)).as_bytes()).is_ok());
    }
}
