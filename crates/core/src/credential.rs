//! Credential sources: secrets that sandboxes use and never see. A source is written once, in full, and can only be
//! replaced; nothing in here ever shows what it holds, neither a violation nor `Debug`.
//!
//! A source has a [`Kind`], and a network policy's binding projects it onto requests in one of the ways of
//! [`Projection`] that fit the kind. What is read here is well-formed; whether a certificate or a key can be used is found
//! out where the libraries for that are.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{egress, limits, validate::Violation};

/// What a source holds. The wire calls it `resolverKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Headers,
    ClientCertificate,
    UsernamePassword,
    SshPrivateKey,
}

/// How a binding puts a source into what a sandbox sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    HttpHeaders,
    PlaceholderSubstitution,
    TlsClientCertificate,
    UsernamePassword,
    SshProxy,
}

/// The secret itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// Values by the name that templates know them by.
    Headers(BTreeMap<String, String>),
    ClientCertificate {
        certificate_pem: String,
        private_key_pem: String,
        /// Who certifies the server, in place of the public authorities.
        ca_pem: Option<String>,
    },
    UsernamePassword {
        username: String,
        password: String,
    },
    SshPrivateKey {
        private_key_pem: String,
        passphrase: Option<String>,
    },
}

/// The secrets that a policy refers to, by the name of their source. One that is missing cannot be used.
pub type Materials = Arc<BTreeMap<String, Arc<Material>>>;

/// What a network policy says about the use of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// By which the policy's rules know it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The source's name.
    pub source: String,
    /// The name of a [`Projection`].
    pub projection: String,
}

/// A binding that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    #[error("credential binding {binding:?} names the source {name:?}, which this team does not have")]
    Missing { binding: String, name: String },
    #[error("credential binding {binding:?} is {projection}, which its source {name:?} of kind {kind} does not fit; it takes {takes}")]
    Unfit { binding: String, projection: String, name: String, kind: Kind, takes: String },
}

/// A source as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub name: String,
    pub material: Material,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Headers, Self::ClientCertificate, Self::UsernamePassword, Self::SshPrivateKey];

    /// The name on the wire and in storage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "static_headers",
            Self::ClientCertificate => "static_tls_client_certificate",
            Self::UsernamePassword => "static_username_password",
            Self::SshPrivateKey => "static_ssh_private_key",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The member of `spec` that holds a source of this kind.
    pub fn member(self) -> &'static str {
        match self {
            Self::Headers => "staticHeaders",
            Self::ClientCertificate => "staticTLSClientCertificate",
            Self::UsernamePassword => "staticUsernamePassword",
            Self::SshPrivateKey => "staticSSHPrivateKey",
        }
    }

    /// Whether a source of this kind can be projected so.
    pub fn fits(self, projection: Projection) -> bool {
        projection.kinds().contains(&self)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Projection {
    const ALL: [Self; 5] = [Self::HttpHeaders, Self::PlaceholderSubstitution, Self::TlsClientCertificate, Self::UsernamePassword, Self::SshProxy];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpHeaders => "http_headers",
            Self::PlaceholderSubstitution => "placeholder_substitution",
            Self::TlsClientCertificate => "tls_client_certificate",
            Self::UsernamePassword => "username_password",
            Self::SshProxy => "ssh_proxy",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|projection| projection.as_str() == text)
    }

    /// The kinds of sources that can be projected so.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::HttpHeaders | Self::PlaceholderSubstitution => &[Kind::Headers, Kind::UsernamePassword],
            Self::TlsClientCertificate => &[Kind::ClientCertificate],
            Self::UsernamePassword => &[Kind::UsernamePassword],
            Self::SshProxy => &[Kind::SshPrivateKey],
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Material({})", self.kind())
    }
}

impl Material {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Headers(_) => Kind::Headers,
            Self::ClientCertificate { .. } => Kind::ClientCertificate,
            Self::UsernamePassword { .. } => Kind::UsernamePassword,
            Self::SshPrivateKey { .. } => Kind::SshPrivateKey,
        }
    }

    /// What a template gets for `{{ .key }}`: of headers the value of that name, of a login `username` and `password`.
    pub fn value(&self, key: &str) -> Option<&str> {
        match (self, key) {
            (Self::Headers(values), _) => values.get(key).map(String::as_str),
            (Self::UsernamePassword { username, .. }, "username") => Some(username),
            (Self::UsernamePassword { password, .. }, "password") => Some(password),
            (Self::UsernamePassword { .. } | Self::ClientCertificate { .. } | Self::SshPrivateKey { .. }, _) => None,
        }
    }

    /// The `spec` that [`Self::from_spec`] reads again. It is the secret: it may only go where it is sealed.
    pub fn to_spec(&self) -> Value {
        let member = match self {
            Self::Headers(values) => json!({ "values": values }),
            Self::ClientCertificate { certificate_pem, private_key_pem, ca_pem } => {
                json!({ "certificatePem": certificate_pem, "privateKeyPem": private_key_pem, "caPem": ca_pem })
            }
            Self::UsernamePassword { username, password } => json!({ "username": username, "password": password }),
            Self::SshPrivateKey { private_key_pem, passphrase } => json!({ "privateKeyPem": private_key_pem, "passphrase": passphrase }),
        };
        json!({ self.kind().member(): member })
    }

    /// Reads the `spec` of a source of a kind.
    ///
    /// # Errors
    /// Everything that is wrong with it, by the names of its fields.
    pub fn from_spec(kind: Kind, spec: &Value) -> Result<Self, Vec<Violation>> {
        let mut reader = Reader::default();
        let material = reader.material(kind, spec);
        material.filter(|_| reader.out.is_empty()).ok_or(reader.out)
    }
}

impl Definition {
    /// Reads `{name, resolverKind, spec}`. Nothing of the secret is repeated in what is said about it.
    ///
    /// # Errors
    /// Everything that is wrong with it, by the names of its fields.
    pub fn read(body: &Value) -> Result<Self, Vec<Violation>> {
        let mut reader = Reader::default();
        let read = reader.definition(body);
        read.filter(|_| reader.out.is_empty()).ok_or(reader.out)
    }
}

impl Binding {
    /// Whether it can be used with its source, which is of this kind, if it is there.
    pub fn check(&self, kind: Option<Kind>) -> Result<(), BindingError> {
        let (binding, name) = (self.reference.clone(), self.source.clone());
        let Some(kind) = kind else { return Err(BindingError::Missing { binding, name }) };
        let takes = Projection::parse(&self.projection).map_or(&[] as &[Kind], Projection::kinds);
        if takes.contains(&kind) {
            return Ok(());
        }
        let takes = takes.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ");
        Err(BindingError::Unfit { binding, projection: self.projection.clone(), name, kind, takes })
    }
}

/// What a template's network policy binds with a sandbox's on top. What is no binding is passed over: whoever compiles the
/// policy refuses it.
pub fn bindings(template: Option<&Value>, own: Option<&Value>) -> Vec<Binding> {
    let merged = egress::merge(template.unwrap_or(&Value::Null), own.unwrap_or(&Value::Null));
    let read = |binding: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Binding { reference: text(&binding["ref"])?, source: text(&binding["sourceRef"])?, projection: text(&binding["projection"]["type"])? })
    };
    merged.get("credentialBindings").and_then(Value::as_array).into_iter().flatten().filter_map(read).collect()
}

/// Whether a source may be called so: letters, digits, `.`, `_` and `-`, and the first is a letter or a digit.
pub fn is_name(name: &str) -> bool {
    (1..=limits::CREDENTIAL_NAME_MAX_CHARS).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

/// Reads JSON by hand, since serde's errors repeat what they found.
#[derive(Default)]
struct Reader {
    out: Vec<Violation>,
}

/// An object of which each member is taken once; what is left is unknown.
struct Fields<'a> {
    path: &'static str,
    object: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl Reader {
    fn definition(&mut self, body: &Value) -> Option<Definition> {
        let mut fields = self.object(body, "")?;
        let name = self.text(&mut fields, "name", 1..=usize::MAX, Text::Line).filter(|name| {
            let fits = is_name(name);
            if !fits {
                let max = limits::CREDENTIAL_NAME_MAX_CHARS;
                self.add(&fields, "name", format!("must be 1 to {max} letters, digits, \".\", \"_\" or \"-\", and begin with a letter or a digit"));
            }
            fits
        });
        let kind = self.text(&mut fields, "resolverKind", 1..=usize::MAX, Text::Line).and_then(|text| {
            let kind = Kind::parse(&text);
            if kind.is_none() {
                self.add(&fields, "resolverKind", format!("must be one of {}", Kind::ALL.map(Kind::as_str).join(", ")));
            }
            kind
        });
        let spec = fields.take("spec");
        if spec.is_none() {
            self.add(&fields, "spec", "is required".to_owned());
        }
        let material = kind.zip(spec).and_then(|(kind, spec)| self.material(kind, spec));
        self.finish(&fields);
        Some(Definition { name: name?, material: material? })
    }

    fn material(&mut self, kind: Kind, spec: &Value) -> Option<Material> {
        let mut members = self.object(spec, "spec")?;
        let member = members.take(kind.member());
        if member.is_none() {
            self.add(&members, kind.member(), format!("is required for {kind}"));
        }
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            if members.take(other.member()).is_some() {
                self.add(&members, other.member(), format!("does not belong to {kind}"));
            }
        }
        self.finish(&members);
        let path = match kind {
            Kind::Headers => "spec.staticHeaders",
            Kind::ClientCertificate => "spec.staticTLSClientCertificate",
            Kind::UsernamePassword => "spec.staticUsernamePassword",
            Kind::SshPrivateKey => "spec.staticSSHPrivateKey",
        };
        let mut fields = self.object(member?, path)?;
        let key_bytes = 1..=limits::CREDENTIAL_KEY_MAX_BYTES;
        let material = match kind {
            Kind::Headers => {
                let values = fields.take("values");
                if values.is_none() {
                    self.add(&fields, "values", "is required".to_owned());
                }
                values.and_then(|values| self.values(values)).map(Material::Headers)
            }
            Kind::ClientCertificate => {
                let certificate_pem = self.text(&mut fields, "certificatePem", 1..=limits::CREDENTIAL_CERTIFICATES_MAX_BYTES, Text::Pem);
                let private_key_pem = self.text(&mut fields, "privateKeyPem", key_bytes, Text::Pem);
                let ca_pem = self.optional(&mut fields, "caPem", limits::CREDENTIAL_CERTIFICATES_MAX_BYTES, Text::Pem);
                certificate_pem.zip(private_key_pem).map(|(certificate_pem, private_key_pem)| Material::ClientCertificate {
                    certificate_pem,
                    private_key_pem,
                    ca_pem,
                })
            }
            Kind::UsernamePassword => {
                let bytes = 0..=limits::CREDENTIAL_VALUE_MAX_BYTES;
                let username = self.text(&mut fields, "username", bytes.clone(), Text::Line);
                let password = self.text(&mut fields, "password", bytes, Text::Line);
                username.zip(password).and_then(|(username, password)| {
                    if username.is_empty() && password.is_empty() {
                        self.add(&fields, "password", "must not be empty when the user's name is".to_owned());
                        return None;
                    }
                    Some(Material::UsernamePassword { username, password })
                })
            }
            Kind::SshPrivateKey => {
                let private_key_pem = self.text(&mut fields, "privateKeyPem", key_bytes, Text::Pem);
                let passphrase = self.optional(&mut fields, "passphrase", limits::CREDENTIAL_PASSPHRASE_MAX_BYTES, Text::Any);
                private_key_pem.map(|private_key_pem| Material::SshPrivateKey { private_key_pem, passphrase })
            }
        };
        self.finish(&fields);
        material
    }

    fn values(&mut self, values: &Value) -> Option<BTreeMap<String, String>> {
        const PATH: &str = "spec.staticHeaders.values";
        let mut add = |path: String, message: String| self.out.push(Violation::new(path, message));
        let Some(values) = values.as_object() else {
            add(PATH.to_owned(), "must be an object".to_owned());
            return None;
        };
        if !(1..=limits::CREDENTIAL_VALUES_MAX).contains(&values.len()) {
            add(PATH.to_owned(), format!("has {} values; 1 to {} are allowed", values.len(), limits::CREDENTIAL_VALUES_MAX));
            return None;
        }
        let mut read = BTreeMap::new();
        for (at, (name, value)) in values.iter().enumerate() {
            // What stands in the name's place may be the secret, when somebody mixed them up.
            if !is_value_name(name) {
                let max = limits::CREDENTIAL_VALUE_NAME_MAX_CHARS;
                add(PATH.to_owned(), format!("the name of value {} must be 1 to {max} letters, digits, \"_\" or \"-\"", at + 1));
                continue;
            }
            let path = format!("{PATH}.{name}");
            match value.as_str() {
                None => add(path, "must be a text".to_owned()),
                Some(text) => match Text::Line.check(text, &(1..=limits::CREDENTIAL_VALUE_MAX_BYTES)) {
                    Some(message) => add(path, message),
                    None => drop(read.insert(name.clone(), text.to_owned())),
                },
            }
        }
        Some(read)
    }

    fn object<'a>(&mut self, value: &'a Value, path: &'static str) -> Option<Fields<'a>> {
        let object = value.as_object();
        if object.is_none() {
            self.out.push(Violation::new(if path.is_empty() { "body" } else { path }, "must be an object"));
        }
        object.map(|object| Fields { path, object, known: Vec::new() })
    }

    /// A text that has to be there.
    fn text(&mut self, fields: &mut Fields<'_>, name: &'static str, bytes: std::ops::RangeInclusive<usize>, text: Text) -> Option<String> {
        let Some(value) = fields.take(name) else {
            self.add(fields, name, "is required".to_owned());
            return None;
        };
        let Some(found) = value.as_str() else {
            self.add(fields, name, "must be a text".to_owned());
            return None;
        };
        if let Some(message) = text.check(found, &bytes) {
            self.add(fields, name, message);
            return None;
        }
        Some(found.to_owned())
    }

    /// A text that may be absent, which an empty one is too.
    fn optional(&mut self, fields: &mut Fields<'_>, name: &'static str, bytes_max: usize, text: Text) -> Option<String> {
        if fields.object.get(name).is_none_or(|value| value.is_null() || value.as_str() == Some("")) {
            fields.known.push(name);
            return None;
        }
        self.text(fields, name, 1..=bytes_max, text)
    }

    /// Refuses what nobody asked for: it may be a secret in the wrong place, or a misspelt field.
    fn finish(&mut self, fields: &Fields<'_>) {
        if fields.object.keys().any(|key| !fields.known.contains(&key.as_str())) {
            let path = if fields.path.is_empty() { "body" } else { fields.path };
            self.out.push(Violation::new(path, format!("has unknown fields; known are {}", fields.known.join(", "))));
        }
    }

    fn add(&mut self, fields: &Fields<'_>, name: &str, message: String) {
        let path = if fields.path.is_empty() { name.to_owned() } else { format!("{}.{name}", fields.path) };
        self.out.push(Violation::new(path, message));
    }
}

impl<'a> Fields<'a> {
    /// A member; null is none.
    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.object.get(name).filter(|value| !value.is_null())
    }
}

/// What a text may consist of.
#[derive(Clone, Copy)]
enum Text {
    /// What can stand in a header: no control characters.
    Line,
    /// At least one block of PEM.
    Pem,
    Any,
}

impl Text {
    /// What is wrong with a text.
    fn check(self, text: &str, bytes: &std::ops::RangeInclusive<usize>) -> Option<String> {
        if text.is_empty() && *bytes.start() > 0 {
            return Some("must not be empty".to_owned());
        }
        if text.len() > *bytes.end() {
            return Some(format!("has {} bytes; {} are the limit", text.len(), bytes.end()));
        }
        match self {
            Self::Line if text.chars().any(char::is_control) => Some("must not hold line ends or other control characters".to_owned()),
            Self::Pem if !text.contains("-----BEGIN ") || !text.contains("-----END ") => {
                Some("must be PEM, which begins with \"-----BEGIN\"; line ends have to be kept".to_owned())
            }
            Self::Line | Self::Pem | Self::Any => None,
        }
    }
}

fn is_value_name(name: &str) -> bool {
    (1..=limits::CREDENTIAL_VALUE_NAME_MAX_CHARS).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests;
