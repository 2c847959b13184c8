//! Which secret goes where. The secrets themselves are never in a policy, only the names of their sources.
use std::sync::Arc;

use super::request::HttpMatch;
use super::{App, Domains, PortRange, Template};

/// Headers that say how a request is delimited and where it goes: they are the proxy's, and no secret is put into them.
pub const FRAMING_HEADERS: &[&str] =
    &["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "proxy-connection", "expect"];

/// A secret for requests or connections to some domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRule {
    pub label: Arc<str>,
    /// Never empty: a secret is for somebody.
    pub(super) domains: Domains,
    pub(super) ports: Vec<PortRange>,
    pub(super) only: Option<HttpMatch>,
    pub(super) speaks: Speaks,
    pub(super) enabled: bool,
    /// What cannot have its secret goes without instead of being refused.
    pub fail_open: bool,
    pub binding: Arc<Binding>,
}

/// The protocols that a credential is used in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Speaks {
    pub http: bool,
    pub https: bool,
    /// TLS with anything inside.
    pub tls: bool,
    pub login: Option<App>,
}

/// How a source's values are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The name that rules use.
    pub name: String,
    /// The credential source.
    pub source: String,
    pub projection: Projection,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// Headers that take the place of the client's. Names are in lower case.
    HttpHeaders(Vec<(String, Template)>),
    Placeholders(Vec<Replacement>),
    ClientCertificate,
    UsernamePassword,
    SshProxy(SshProxy),
}

impl Projection {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::HttpHeaders(_) => "http_headers",
            Self::Placeholders(_) => "placeholder_substitution",
            Self::ClientCertificate => "tls_client_certificate",
            Self::UsernamePassword => "username_password",
            Self::SshProxy(_) => "ssh_proxy",
        }
    }
}

/// A text in a request that a secret takes the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    pub placeholder: String,
    pub template: Template,
    pub in_headers: bool,
    pub in_query: bool,
    pub in_body: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshProxy {
    /// Who may use it, inside: lines as in `authorized_keys`.
    pub sandbox_public_keys: Vec<String>,
    pub upstream_username: String,
    /// Lines as in `known_hosts`.
    pub known_hosts: Vec<String>,
}

/// A SOCKS5 server that all connections go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    pub credential: Option<Arc<Binding>>,
}

impl CredentialRule {
    pub(super) fn is_for_http(&self) -> bool {
        self.speaks.http
    }

    pub(super) fn is_for_https(&self) -> bool {
        self.speaks.https
    }

    pub(super) fn terminates(&self) -> bool {
        self.speaks.https || self.speaks.tls
    }

    pub(super) fn is_certificate(&self) -> bool {
        self.binding.projection == Projection::ClientCertificate
    }

    pub(super) fn is_login(&self, app: App) -> bool {
        self.speaks.login == Some(app)
    }
}
