//! Credential sources. What they hold goes in and never comes out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What can be known of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSourceMetadata {
    pub name: String,
    /// `static_headers`, `static_tls_client_certificate`, `static_username_password` or `static_ssh_private_key`.
    pub resolver_kind: String,
    /// 1 at first; each rotation adds 1.
    pub current_version: i64,
    /// `active`, or `unreadable` when it was sealed with a key that the server does not have any more.
    pub status: String,
    pub created_at: String,
    pub updated_at: String,
}

/// `POST /api/v1/credential-sources` and `PUT .../{name}`. A description only: what is sent is read by hand, so that no
/// message repeats any of it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct CredentialSourceWriteRequest {
    /// 1 to 128 letters, digits, `.`, `_` and `-`. A rotation may leave it out.
    pub name: String,
    /// See the metadata. It cannot be changed.
    pub resolver_kind: String,
    pub spec: CredentialSourceWriteSpec,
}

/// Exactly the member of the kind.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct CredentialSourceWriteSpec {
    pub static_headers: Option<StaticHeadersSourceSpec>,
    #[schema(rename = "staticTLSClientCertificate")]
    pub static_tls_client_certificate: Option<StaticTlsClientCertificateSourceSpec>,
    pub static_username_password: Option<StaticUsernamePasswordSourceSpec>,
    #[schema(rename = "staticSSHPrivateKey")]
    pub static_ssh_private_key: Option<StaticSshPrivateKeySourceSpec>,
}

/// Values by the name that templates know them by, as in `Bearer {{ .token }}`.
#[derive(ToSchema)]
pub struct StaticHeadersSourceSpec {
    pub values: BTreeMap<String, String>,
}

/// A certificate with which to log in to TLS servers.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct StaticTlsClientCertificateSourceSpec {
    /// The certificate, then those that certify it.
    pub certificate_pem: String,
    pub private_key_pem: String,
    /// Who certifies the server, in place of the public authorities.
    pub ca_pem: Option<String>,
}

/// A login. One of the two may be empty.
#[derive(ToSchema)]
pub struct StaticUsernamePasswordSourceSpec {
    pub username: String,
    pub password: String,
}

/// A key with which to log in to SSH servers.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct StaticSshPrivateKeySourceSpec {
    pub private_key_pem: String,
    pub passphrase: Option<String>,
}
