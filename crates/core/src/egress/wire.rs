//! A network policy as users write it. A field that nobody knows is an error: what a misspelt one was meant to
//! restrict would be open.
use serde::{Deserialize, Deserializer};

/// Absent and null mean the same.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NetworkPolicy {
    /// `allow-all` (also when empty) or `block-all`.
    #[serde(deserialize_with = "or_default")]
    pub mode: String,
    #[serde(deserialize_with = "or_default")]
    pub egress: EgressPolicy,
    #[serde(deserialize_with = "or_default")]
    pub credential_bindings: Vec<CredentialBinding>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
    pub credential_rules: Vec<CredentialRule>,
    pub proxy: Option<ProxyPolicy>,
    /// Whether each refusal is listed, also of what an address alone decides.
    #[serde(deserialize_with = "or_default")]
    pub audit: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PortRule {
    pub port: i64,
    /// `tcp`, `udp` or empty for both.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    /// The last port of a range.
    pub end_port: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
    /// `terminate-reoriginate`, `passthrough` or empty.
    #[serde(deserialize_with = "or_default")]
    pub tls_mode: String,
    pub http_match: Option<HttpMatch>,
    pub http: Option<HttpPolicy>,
    pub mcp: Option<McpPolicy>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpMatch {
    #[serde(deserialize_with = "or_default")]
    pub methods: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub paths: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub path_prefixes: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub query: Vec<ValueMatch>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<ValueMatch>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ValueMatch {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub values: Vec<String>,
    /// `false`: it must not be there.
    pub present: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpPolicy {
    #[serde(deserialize_with = "or_default")]
    pub methods: Lists,
    #[serde(deserialize_with = "or_default")]
    pub paths: PathLists,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct McpPolicy {
    #[serde(deserialize_with = "or_default")]
    pub tools: Lists,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Lists {
    #[serde(deserialize_with = "or_default")]
    pub allowed: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub denied: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PathLists {
    #[serde(deserialize_with = "or_default")]
    pub allowed: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub denied: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub allowed_prefixes: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub denied_prefixes: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CredentialRule {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The `ref` of a binding.
    #[serde(deserialize_with = "or_default")]
    pub credential_ref: String,
    /// `http`, `https`, `grpc`, `tls`, `ssh`, `socks5`, `mqtt`, `redis`; empty: what the projection is for.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(deserialize_with = "or_default")]
    pub domains: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<PortRule>,
    pub http_match: Option<HttpMatch>,
    /// `terminate-reoriginate`, `passthrough` or empty.
    #[serde(deserialize_with = "or_default")]
    pub tls_mode: String,
    /// `fail-closed` (also when empty) or `fail-open`.
    #[serde(deserialize_with = "or_default")]
    pub failure_policy: String,
    /// `enabled` (also when empty) or `disabled`.
    #[serde(deserialize_with = "or_default")]
    pub rollout: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CredentialBinding {
    #[serde(rename = "ref", deserialize_with = "or_default")]
    pub name: String,
    /// The name of a credential source of the team.
    #[serde(deserialize_with = "or_default")]
    pub source_ref: String,
    #[serde(deserialize_with = "or_default")]
    pub projection: ProjectionSpec,
    pub cache_policy: Option<CachePolicy>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CachePolicy {
    /// A duration such as `5m`.
    #[serde(deserialize_with = "or_default")]
    pub ttl: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProjectionSpec {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    pub http_headers: Option<HttpHeaders>,
    pub placeholder_substitution: Option<PlaceholderSubstitution>,
    pub tls_client_certificate: Option<Nothing>,
    pub username_password: Option<Nothing>,
    pub ssh_proxy: Option<SshProxySpec>,
}

/// A projection without settings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpHeaders {
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<ProjectedHeader>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProjectedHeader {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub value_template: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PlaceholderSubstitution {
    #[serde(deserialize_with = "or_default")]
    pub replacements: Vec<PlaceholderReplacement>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PlaceholderReplacement {
    #[serde(deserialize_with = "or_default")]
    pub placeholder: String,
    #[serde(deserialize_with = "or_default")]
    pub value_template: String,
    /// Of `header`, `query`, `body`.
    #[serde(deserialize_with = "or_default")]
    pub locations: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SshProxySpec {
    #[serde(deserialize_with = "or_default")]
    pub sandbox_public_keys: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub upstream_username: String,
    #[serde(deserialize_with = "or_default")]
    pub known_hosts: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyPolicy {
    /// `socks5`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// `host:port`.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    /// The `ref` of a binding.
    #[serde(deserialize_with = "or_default")]
    pub credential_ref: String,
}
