//! Functions of a sandbox: their names, and what a call may ask for.

use std::collections::BTreeMap;

use sandbar_api::sandbox_function::FunctionInvokeRequest;

use super::Violation;
use crate::limits;

/// A call with every default filled in. The body is still base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoke {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, Vec<String>>,
    pub headers: BTreeMap<String, Vec<String>>,
    pub body_base64: String,
    pub handler: String,
    pub timeout_ms: u64,
    pub cold: bool,
}

/// Whether a function may be called so: it is the name of its file.
pub fn is_function_name(name: &str) -> bool {
    (1..=limits::FUNCTION_NAME_MAX_CHARS).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether it is identifiers of Python with dots between. ASCII only, which is what handlers are called.
pub fn is_handler(handler: &str) -> bool {
    let is_identifier = |part: &str| !part.starts_with(|c: char| c.is_ascii_digit()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    handler.len() <= limits::FUNCTION_HANDLER_MAX_CHARS && handler.split('.').all(|part| !part.is_empty() && is_identifier(part))
}

/// Checks what a call asks for, but for its body.
///
/// # Errors
/// Everything that is wrong with it.
pub fn invoke(request: FunctionInvokeRequest) -> Result<Invoke, Vec<Violation>> {
    let FunctionInvokeRequest { method, path, query, headers, body_base64, handler, timeout_ms, cold, later: _ } = request;
    let mut out = Vec::new();
    let or = |value: Option<String>, default: &str| value.filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned());
    let invoke = Invoke {
        method: or(method, "POST").to_ascii_uppercase(),
        path: or(path, "/"),
        query,
        headers,
        body_base64: body_base64.unwrap_or_default(),
        handler: or(handler, "handler"),
        timeout_ms: match timeout_ms.unwrap_or(0) {
            0 => limits::FUNCTION_TIMEOUT_DEFAULT_MS,
            ms => u64::try_from(ms).unwrap_or(u64::MAX),
        },
        cold: cold.unwrap_or(false),
    };
    if invoke.method.len() > limits::FUNCTION_METHOD_MAX_CHARS || !invoke.method.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        out.push(Violation::new("method", format!("must be a word of at most {} letters", limits::FUNCTION_METHOD_MAX_CHARS)));
    }
    if !invoke.path.starts_with('/') || invoke.path.len() > limits::FUNCTION_PATH_MAX_BYTES {
        out.push(Violation::new("path", format!("must begin with \"/\" and have at most {} bytes", limits::FUNCTION_PATH_MAX_BYTES)));
    }
    if !is_handler(&invoke.handler) {
        out.push(Violation::new("handler", format!("must be identifiers with dots between, at most {} characters", limits::FUNCTION_HANDLER_MAX_CHARS)));
    }
    if invoke.timeout_ms > limits::FUNCTION_TIMEOUT_MAX_MS {
        out.push(Violation::new("timeout_ms", format!("must be from 0 to {}", limits::FUNCTION_TIMEOUT_MAX_MS)));
    }
    if out.is_empty() { Ok(invoke) } else { Err(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names_and_nothing_else() {
        for name in ["main", "A-b_9", "-", "_", &"x".repeat(limits::FUNCTION_NAME_MAX_CHARS)] {
            assert!(is_function_name(name), "{name:?}");
        }
        for name in ["", ".", "..", "a.py", "a/b", "../main", "..%2f", "a b", "é", "a\0", "main\n", &"x".repeat(limits::FUNCTION_NAME_MAX_CHARS + 1)] {
            assert!(!is_function_name(name), "{name:?}");
        }
    }

    #[test]
    fn handlers_are_dotted_identifiers() {
        for handler in ["handler", "_h", "A.b9", "a.b.c"] {
            assert!(is_handler(handler), "{handler:?}");
        }
        for handler in ["", ".", "a.", ".a", "a..b", "9a", "a.9", "a-b", "a b", "a()", "é", &"a.".repeat(200)] {
            assert!(!is_handler(handler), "{handler:?}");
        }
    }

    #[test]
    fn what_a_call_may_ask_for() {
        let default = invoke(FunctionInvokeRequest::default()).expect("the default");
        assert_eq!(
            (default.method.as_str(), default.path.as_str(), default.handler.as_str(), default.timeout_ms, default.cold),
            ("POST", "/", "handler", 30_000, false)
        );
        let wrong = |json: serde_json::Value| {
            invoke(serde_json::from_value(json).expect("a request")).err().map(|all| all.into_iter().map(|v| v.path).collect::<Vec<_>>())
        };
        for (json, paths) in [
            (serde_json::json!({ "timeout_ms": 120_000, "method": "patch", "path": "/a?b", "handler": "A.b" }), None),
            (serde_json::json!({ "timeout_ms": 120_001 }), Some(vec!["timeout_ms"])),
            (serde_json::json!({ "timeout_ms": -1 }), Some(vec!["timeout_ms"])),
            (serde_json::json!({ "path": "a", "handler": "a b" }), Some(vec!["path", "handler"])),
            (serde_json::json!({ "method": "GET /" }), Some(vec!["method"])),
            (serde_json::json!({ "method": "", "path": "", "handler": "", "query": null, "headers": { "a": "b", "c": ["d"], "e": null } }), None),
        ] {
            assert_eq!(wrong(json.clone()), paths.map(|paths| paths.into_iter().map(str::to_owned).collect()), "{json}");
        }
    }
}
