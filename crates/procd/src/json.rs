//! Answers that carry output: written straight from the log, which may be megabytes, into the JSON.
use serde::Serialize;

use crate::log::Position;
use crate::run::Run;

/// The JSON of `record` with the output between two positions added: `output_raw`, and `stdout` and `stderr` when
/// `streams` is set.
///
/// # Errors
/// When `record` is no JSON object.
pub fn with_output<T: Serialize>(record: &T, run: &Run, span: (Position, Position), streams: bool) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = serde_json::to_vec(record)?;
    json.pop();
    let log = run.log.borrow();
    let mut field = |name: &str, only: Option<usize>| {
        if json.last() != Some(&b'{') {
            json.push(b',');
        }
        json.extend_from_slice(format!("\"{name}\":\"").as_bytes());
        log.replay(span.0, span.1, only, |text| escape(text, &mut json));
        json.push(b'"');
    };
    field("output_raw", None);
    if streams {
        field("stdout", Some(0));
        field("stderr", Some(1));
    }
    json.push(b'}');
    Ok(json)
}

fn escape(text: &str, json: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        json.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => json.extend_from_slice(b"\\\""),
            b'\\' => json.extend_from_slice(b"\\\\"),
            b'\n' => json.extend_from_slice(b"\\n"),
            b'\r' => json.extend_from_slice(b"\\r"),
            b'\t' => json.extend_from_slice(b"\\t"),
            other => {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit & 15)];
                json.extend_from_slice(b"\\u00");
                json.extend_from_slice(&[hex(other >> 4), hex(*other)]);
            }
        }
    }
    json.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_read_back() {
        let text: String = (0..0x300).filter_map(char::from_u32).collect();
        let mut json = vec![b'"'];
        super::escape(&text, &mut json);
        json.push(b'"');
        assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
    }
}
