//! What a request of the Model Context Protocol asks for: JSON-RPC 2.0 in the body of a POST.
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::{ProtocolRule, ProtocolWhat, Verdict};

/// A longer body is refused: what is not read cannot be judged.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Calls of one batch.
const CALLS_MAX: usize = 256;
/// Characters of a tool's name in a verdict.
const TOOL_SHOWN_CHARS: usize = 64;
/// JSON-RPC's code for a tool that may not be called.
const DENIED: i32 = -32003;

/// Which tools may be called. Denied goes before allowed; an empty list of allowed ones allows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tools {
    pub allowed: Vec<String>,
    pub denied: Vec<String>,
}

/// Why a body is not passed on.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub verdict: Verdict,
    /// What the client is answered, with status 200. None: it is no JSON-RPC, and no answer of it is one.
    pub reply: Option<Value>,
}

/// Looks at the body of a request; None lets it pass. `body` was sent as it is, without an encoding.
pub fn judge(rules: &[&ProtocolRule], body: &[u8]) -> Option<Refused> {
    let rule = rules.first()?;
    if body.iter().all(u8::is_ascii_whitespace) {
        // A GET that listens to events, or a DELETE that ends a session.
        return None;
    }
    let unread = |why: &str| Some(Refused { verdict: Verdict::deny(format!("{} ({why})", rule.label)), reply: None });
    let Ok(read) = serde_json::from_slice::<Json>(body) else {
        return unread("the body is no JSON-RPC");
    };
    let calls = match read {
        Json::Array(calls) if calls.len() > CALLS_MAX => return unread("more than 256 calls at once"),
        Json::Array(calls) => calls,
        one => vec![one],
    };
    for (at, call) in calls.iter().enumerate() {
        let Ok(method) = call.member("method") else {
            return unread("`method` in two spellings");
        };
        // An answer to the server has none.
        let Some(Json::Text(method)) = method else { continue };
        if method != "tools/call" {
            continue;
        }
        let Ok(Some(Json::Text(tool))) = call.member("params").and_then(|params| params.map_or(Ok(None), |params| params.member("name"))) else {
            return unread("a call of a tool without one name");
        };
        let refusing = |rule: &&&ProtocolRule| matches!(&rule.what, ProtocolWhat::Mcp(tools) if !tools.allow(tool));
        if let Some(rule) = rules.iter().find(refusing) {
            let verdict = Verdict::deny(format!("{} (tool {})", rule.label, tool.chars().take(TOOL_SHOWN_CHARS).collect::<String>()));
            return Some(Refused { verdict, reply: Some(reply(rule, body, at)) });
        }
    }
    None
}

fn reply(rule: &ProtocolRule, body: &[u8], at: usize) -> Value {
    let sent: Value = serde_json::from_slice(body).unwrap_or_default();
    let call = if sent.is_array() { sent.get(at) } else { Some(&sent) };
    let id = call.and_then(|call| call.get("id")).cloned().unwrap_or_default();
    let message = format!("the network policy does not allow this tool: {}", rule.label);
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": DENIED, "message": message } })
}

impl Tools {
    fn allow(&self, tool: &str) -> bool {
        let has = |list: &[String]| list.iter().any(|entry| entry == tool);
        !has(&self.denied) && (self.allowed.is_empty() || has(&self.allowed))
    }
}

/// JSON with all that it says: a map would keep one of two equal keys, and whoever reads the body next may take the
/// other. Some readers do not mind the case of keys, either.
enum Json {
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    Text(String),
    Other,
}

impl Json {
    /// A member of an object; an error when it is there more than once, or spelt otherwise.
    fn member(&self, name: &str) -> Result<Option<&Self>, ()> {
        let Self::Object(members) = self else { return Ok(None) };
        // Some readers fold letters beyond ASCII into those of a name.
        if members.iter().any(|(key, _)| !key.is_ascii()) {
            return Err(());
        }
        let mut found = members.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((key, value)), None) if key == name => Ok(Some(value)),
            (Some(_), _) => Err(()),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    entries.push(entry);
                }
                Ok(Json::Array(entries))
            }
            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
                Ok(Json::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
                Ok(Json::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
                Ok(Json::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
                Ok(Json::Other)
            }
        }
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::TlsMode;

    fn rule(allowed: &[&str], denied: &[&str]) -> ProtocolRule {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let what = ProtocolWhat::Mcp(Tools { allowed: list(allowed), denied: list(denied) });
        ProtocolRule { label: "r".into(), domains: Default::default(), ports: vec![], tls: TlsMode::Unsaid, only: None, what }
    }

    #[test]
    fn tools_are_told_apart() {
        let rule = rule(&["read", "list"], &["list"]);
        let passes = |body: &str| judge(&[&rule], body.as_bytes()).is_none();
        let call = |tool: &str| format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"name":"x"}}}}}}"#);
        for body in [call("read"), r#"{"method":"tools/list","id":1}"#.into(), r#"{"id":1,"result":{}}"#.into(), format!("[{}]", call("read")), " ".into()] {
            assert!(passes(&body), "{body}");
        }
        for tool in ["list", "write", "Read", "read "] {
            let refused = judge(&[&rule], call(tool).as_bytes()).expect("refused");
            let reply = refused.reply.expect("an answer");
            assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(7), &json!(DENIED)), "{tool}");
        }
        let batch = judge(&[&rule], format!(r#"[{},{{"id":"b","method":"tools/call","params":{{"name":"write"}}}}]"#, call("read")).as_bytes());
        assert_eq!(batch.and_then(|refused| refused.reply).map(|reply| reply["id"].clone()), Some(json!("b")));
    }

    #[test]
    fn what_is_read_in_two_ways_is_refused() {
        let rule = rule(&["read"], &[]);
        let bodies = [
            "no json",
            r#"{"method":"tools/call"}"#,
            r#"{"method":"tools/call","params":{}}"#,
            r#"{"method":"tools/call","params":{"name":7}}"#,
            r#"{"method":"tools/call","params":["read"]}"#,
            r#"{"method":"tools/list","method":"tools/call","params":{"name":"write"}}"#,
            r#"{"Method":"tools/call","params":{"name":"write"}}"#,
            r#"{"method":"tools/call","params":{"name":"read","name":"write"}}"#,
            r#"{"method":"tools/call","params":{"name":"read","NAME":"write"}}"#,
            r#"{"method":"tools/call","params":{"name":"read"},"Params":{"name":"write"}}"#,
            "{\"method\":\"tools/call\",\"params\":{\"name\":\"read\"},\"param\u{17f}\":{\"name\":\"write\"}}",
        ];
        for body in bodies {
            assert_eq!(judge(&[&rule], body.as_bytes()).map(|refused| refused.reply), Some(None), "{body}");
        }
        let many = format!("[{}]", vec![r#"{"method":"ping"}"#; CALLS_MAX + 1].join(","));
        assert!(judge(&[&rule], many.as_bytes()).is_some());
    }
}
