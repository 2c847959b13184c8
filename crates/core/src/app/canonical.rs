//! One text for one JSON value: no spaces, and keys in order, as RFC 8785 has them (by their UTF-16 units).
//!
//! Numbers are as serde_json writes them. Of whole ones that is one text everywhere; documents that are signed have no others.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The text of a value.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// SHA-256 of the text, in lower-case hex.
pub fn sha256(value: &Value) -> String {
    hex::encode(Sha256::digest(text(value)))
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            out.push('{');
            for (at, (key, value)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::String(text) => write_text(text, out),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_is_between() {
        let value: Value = serde_json::from_str(r#"{ "b": [1, {"z": null, "a": true}], "a": "\u00e4\n\"", "\ud83d\ude00": 1, "\ufb33": 2 }"#).expect("JSON");
        assert_eq!(text(&value), "{\"a\":\"ä\\n\\\"\",\"b\":[1,{\"a\":true,\"z\":null}],\"😀\":1,\"\u{fb33}\":2}");
        assert_eq!(sha256(&json!({})), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
