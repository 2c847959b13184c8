//! A network policy as users write it, as far as it is looked at. Unknown fields are the store's to keep.
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Absent and null mean the same.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicy {
    /// `allow-all` (also when empty) or `block-all`.
    #[serde(deserialize_with = "or_default")]
    pub mode: String,
    #[serde(deserialize_with = "or_default")]
    pub egress: EgressPolicy,
    #[serde(deserialize_with = "or_default")]
    pub credential_bindings: Vec<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressPolicy {
    #[serde(deserialize_with = "or_default")]
    pub allowed_cidrs: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub allowed_domains: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub allowed_ports: Vec<PortRule>,
    #[serde(deserialize_with = "or_default")]
    pub denied_cidrs: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub denied_domains: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub denied_ports: Vec<PortRule>,
    #[serde(deserialize_with = "or_default")]
    pub traffic_rules: Vec<TrafficRule>,
    #[serde(deserialize_with = "or_default")]
    pub protocol_rules: Vec<ProtocolRule>,
    #[serde(deserialize_with = "or_default")]
    pub credential_rules: Vec<Value>,
    pub proxy: Option<ProxyPolicy>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficRule {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `allow` or `deny`.
    #[serde(deserialize_with = "or_default")]
    pub action: String,
    #[serde(deserialize_with = "or_default")]
    pub domains: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cidrs: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<PortRule>,
    #[serde(deserialize_with = "or_default")]
    pub app_protocols: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortRule {
    pub port: i64,
    /// `tcp`, `udp` or empty for both.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    /// The last port of a range.
    pub end_port: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProtocolRule {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `http` or `mcp`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(deserialize_with = "or_default")]
    pub domains: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<PortRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyPolicy {
    /// `socks5`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// `host:port`.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
}
