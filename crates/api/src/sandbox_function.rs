//! Functions of a sandbox: handlers in files, run once for each call.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// `POST /api/v1/sandboxes/{id}/functions/{name}/invoke`; an empty body is the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionInvokeRequest {
    /// `POST` when absent.
    #[serde(default)]
    pub method: Option<String>,
    /// `/` when absent.
    #[serde(default)]
    pub path: Option<String>,
    /// A value may be one text or a list.
    #[serde(default, deserialize_with = "lists")]
    pub query: BTreeMap<String, Vec<String>>,
    /// A value may be one text or a list.
    #[serde(default, deserialize_with = "lists")]
    pub headers: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub body_base64: Option<String>,
    /// Dotted names within the module; `handler` when absent.
    #[serde(default)]
    pub handler: Option<String>,
    /// 30 000 when absent or 0; at most 120 000.
    #[serde(default)]
    pub timeout_ms: Option<i64>,
    /// Import the module anew for this call.
    #[serde(default)]
    pub cold: Option<bool>,
    /// Answer at once, and keep the result.
    #[serde(default, rename = "async")]
    pub later: Option<bool>,
}

/// What a handler answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionInvokeResponse {
    /// The function's own; the call's is 200 whatever it is.
    pub status: u16,
    /// A value is one text, or a list where the handler gave several.
    #[serde(serialize_with = "one_or_many", deserialize_with = "lists")]
    pub headers: BTreeMap<String, Vec<String>>,
    pub body_base64: String,
    /// What it printed.
    #[serde(default)]
    pub logs: Vec<FunctionLogText>,
}

/// What a call printed to one stream: the beginning, at most 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionLogText {
    /// `stdout` or `stderr`.
    pub stream: String,
    pub text: String,
}

/// A call that goes on, or is over.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InvocationResponse {
    pub invocation_id: String,
    pub function: String,
    /// `running`, `succeeded` (the handler answered, whatever its status) or `failed`.
    pub status: String,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Of one that succeeded. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<FunctionInvokeResponse>,
    /// Of one that failed: what the call would have been answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::error::ErrorDetail>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InvocationListResponse {
    /// Newest first.
    pub invocations: Vec<InvocationResponse>,
    pub count: u64,
}

/// A function's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxFunctionResponse {
    pub name: String,
    pub path: String,
    pub size: u64,
    pub modified_at: String,
    /// Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxFunctionListResponse {
    pub functions: Vec<SandboxFunctionResponse>,
    pub count: u64,
}

/// `PUT /api/v1/sandboxes/{id}/functions/{name}` as JSON; otherwise the body is the source itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxFunctionPutRequest {
    pub source: String,
}

/// Clients read a single value as a text; several are a list.
fn one_or_many<S: Serializer>(map: &BTreeMap<String, Vec<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Values<'a> {
        One(&'a str),
        Many(&'a [String]),
    }
    serializer.collect_map(map.iter().map(|(name, list)| match list.as_slice() {
        [one] => (name, Values::One(one)),
        many => (name, Values::Many(many)),
    }))
}

/// Clients write one value as it is, or as a list of one.
fn lists<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "must be a text or a list of texts")]
    enum Values {
        One(String),
        Many(Vec<String>),
    }
    let map = Option::<BTreeMap<String, Option<Values>>>::deserialize(from)?.unwrap_or_default();
    let list = |values| match values {
        None => Vec::new(),
        Some(Values::One(value)) => vec![value],
        Some(Values::Many(values)) => values,
    };
    Ok(map.into_iter().map(|(name, values)| (name, list(values))).collect())
}
