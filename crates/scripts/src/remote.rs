//! The wire between a server and an executor that runs its scripts.
//!
//! ```text
//! server   → executor   POST {executor}/run                          RunRequest → 200 RunReply (400 with one when the body is wrong)
//! executor → server     POST {mainOrigin}/api/_internal/sandbox-rpc  RpcRequest → 200 RpcReply, whatever came of the op
//! ```
//!
//! Other programs speak it, too. What they do not know of is optional, both ways.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{FailureCode, LogLine, Op, Usage, json};

/// What an op rejects with when an executor was not told whom to ask.
pub const NO_BRIDGE: &str = "ctx.* host bridges require SANDBOX_RPC_TOKEN + SELF_URL to be configured on the main app";

/// Run this.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRequest {
    pub code: String,
    #[serde(default = "null")]
    pub data: Box<RawValue>,
    #[serde(default, deserialize_with = "perhaps")]
    pub user: RemoteUser,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<f64>,
    /// Where the server is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_origin: Option<String>,
    /// What the executor shows there, and never the script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc_token: Option<String>,
    /// Ours: what stack traces call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ours: milliseconds of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// Whose name it runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteUser {
    pub id: Option<String>,
    pub email: Option<String>,
    pub roles: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReply {
    pub ok: bool,
    /// `null` is a value.
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub value: Option<Box<RawValue>>,
    /// Texts; of other executors perhaps something else.
    #[serde(default, deserialize_with = "perhaps")]
    pub logs: Vec<serde_json::Value>,
    #[serde(default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Ours: the same as `logs` with all that is known.
    #[serde(default, deserialize_with = "if_known", skip_serializing_if = "Option::is_none")]
    pub log_lines: Option<Vec<LogLine>>,
    /// Ours, as are the rest.
    #[serde(default, deserialize_with = "if_known", skip_serializing_if = "Option::is_none")]
    pub error_name: Option<String>,
    #[serde(default, deserialize_with = "if_known", skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    #[serde(default, deserialize_with = "if_known", skip_serializing_if = "Option::is_none")]
    pub code: Option<FailureCode>,
    #[serde(default, deserialize_with = "if_known", skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// An op of a script.
#[derive(Debug, Serialize, Deserialize)]
pub struct RpcRequest {
    pub op: String,
    #[serde(default = "null", deserialize_with = "tidy")]
    pub args: Box<RawValue>,
    /// Whose name the executor says it is in. Not believed: who asks is known by the token.
    #[serde(default, deserialize_with = "perhaps")]
    pub auth: RpcAuth,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RpcAuth {
    pub user_id: Option<String>,
    pub email: Option<String>,
    pub roles: Vec<String>,
    pub tenant_id: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RpcReply {
    pub ok: bool,
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    pub value: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Ours.
    #[serde(default, deserialize_with = "if_known", skip_serializing_if = "Option::is_none")]
    pub code: Option<FailureCode>,
}

/// Arguments as ops take them. Some executors send those of the call in their order instead.
pub fn named_args(op: Op, args: &RawValue) -> Box<RawValue> {
    let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(args.get()) else { return args.to_owned() };
    let names: &[&str] = match op {
        Op::Fetch => &["url", "init"],
        Op::DbList => &["slug", "query"],
        Op::DbOne => &["slug", "id"],
        Op::SecretsGet => &["name"],
        Op::Sleep => &["ms"],
        // It takes one object as it is.
        Op::EmailSend => return list.first().map_or_else(|| args.to_owned(), |&first| first.to_owned()),
    };
    let named: Vec<String> =
        names.iter().zip(list).filter(|(_, value)| value.get() != "null").map(|(name, value)| format!("\"{name}\":{}", value.get())).collect();
    RawValue::from_string(format!("{{{}}}", named.join(","))).unwrap_or_else(|_| args.to_owned())
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// JSON that any reader takes, whatever others send.
fn tidy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<RawValue>, D::Error> {
    json::tidy(Box::<RawValue>::deserialize(deserializer)?).map_err(|fault| serde::de::Error::custom(format!("what it has {fault}")))
}

/// A value that is there, also when it is `null`.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    tidy(deserializer).map(Some)
}

/// What others have under this name is perhaps something else, and then nothing to us.
fn if_known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(|value| serde_json::from_value(value).ok())
}

/// `null` is nothing, too.
fn perhaps<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Text, or JSON as text.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(|value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_value_and_nothing_is_none() {
        for (json, value) in [(r#"{"ok":true}"#, None), (r#"{"ok":true,"value":null}"#, Some("null")), (r#"{"ok":true,"value":[1]}"#, Some("[1]"))] {
            let reply: RunReply = serde_json::from_str(json).unwrap();
            assert_eq!(reply.value.as_ref().map(|value| value.get()), value, "{json}");
            let reply: RpcReply = serde_json::from_str(json).unwrap();
            assert_eq!(reply.value.as_ref().map(|value| value.get()), value, "{json}");
        }
    }

    #[test]
    fn json_of_others_is_what_any_reader_takes() {
        let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
        for (json, value) in [(r#""\ud83d""#, Some(r#""\ufffd""#)), ("1e308", Some("1e308")), ("[1e999]", None), (&deep, None)] {
            let args = serde_json::from_str::<RpcRequest>(&format!(r#"{{"op":"fetch","args":{json}}}"#)).map(|request| request.args);
            assert_eq!(args.as_deref().map(RawValue::get).ok(), value, "{json}");
            let reply = serde_json::from_str::<RunReply>(&format!(r#"{{"ok":true,"value":{json}}}"#));
            assert_eq!(reply.as_ref().ok().and_then(|reply| reply.value.as_deref()).map(RawValue::get), value, "{json}");
        }
    }

    #[test]
    fn what_others_mean_by_our_names_does_not_matter() {
        let reply: RunReply =
            serde_json::from_str(r#"{"ok":false,"logs":null,"error":{"a":1},"code":"ERR_X","usage":7,"stack":[],"errorName":null,"logLines":"x","more":1}"#)
                .unwrap();
        assert_eq!((reply.error.as_deref(), reply.code, reply.usage, reply.stack, reply.log_lines), (Some(r#"{"a":1}"#), None, None, None, None));
        let request: RpcRequest = serde_json::from_str(r#"{"op":"fetch","auth":null}"#).unwrap();
        assert_eq!((request.auth, request.args.get()), (RpcAuth::default(), "null"));
        let run: RunRequest = serde_json::from_str(r#"{"code":"","user":null}"#).unwrap();
        assert_eq!(run.user, RemoteUser::default());
    }

    #[test]
    fn a_run_as_others_send_it_is_read() {
        let json = r#"{"code":"return 1","data":{"a":1},"user":{"id":null,"email":null,"roles":[]},"timeoutMs":5000,"mainOrigin":"http://a","rpcToken":"t"}"#;
        let run: RunRequest = serde_json::from_str(json).unwrap();
        assert_eq!(
            (run.data.get(), run.timeout_ms, run.main_origin.as_deref(), run.user),
            (r#"{"a":1}"#, Some(5000.0), Some("http://a"), RemoteUser::default())
        );
        let run: RunRequest = serde_json::from_str(r#"{"code":""}"#).unwrap();
        assert_eq!(run.data.get(), "null");
        assert!(serde_json::from_str::<RunRequest>("{}").is_err());
    }

    #[test]
    fn arguments_in_order_get_their_names() {
        for (op, given, named) in [
            (Op::Fetch, r#"["https://a.test",{"method":"POST"}]"#, r#"{"url":"https://a.test","init":{"method":"POST"}}"#),
            (Op::Fetch, r#"["https://a.test"]"#, r#"{"url":"https://a.test"}"#),
            (Op::Fetch, r#"{"url":"x"}"#, r#"{"url":"x"}"#),
            (Op::DbList, r#"["posts",null]"#, r#"{"slug":"posts"}"#),
            (Op::DbOne, r#"["posts","1"]"#, r#"{"slug":"posts","id":"1"}"#),
            (Op::EmailSend, r#"[{"to":"a"}]"#, r#"{"to":"a"}"#),
            (Op::EmailSend, r#"{"to":"a"}"#, r#"{"to":"a"}"#),
            (Op::EmailSend, "[]", "[]"),
            (Op::SecretsGet, r#"["K"]"#, r#"{"name":"K"}"#),
            (Op::DbOne, "7", "7"),
        ] {
            let given = RawValue::from_string(given.to_owned()).unwrap();
            assert_eq!(named_args(op, &given).get(), named);
        }
    }
}
