//! Whether certificates and keys can be used. What is said of them names the field and nothing that is in it.

use rustls::{
    RootCertStore,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use sandbar_core::{credential::Material, validate::Violation};
use sandbar_ssh::{HostKeys, PrivateKey, PrivateKeyError, PublicKey};
use serde_json::Value;

const CERTIFICATE: &str = "spec.staticTLSClientCertificate";
const SSH: &str = "spec.staticSSHPrivateKey";

/// The material as it is kept: a key without its passphrase, which would be kept beside it. Takes a while when there is one.
pub fn checked(material: Material) -> Result<Material, Vec<Violation>> {
    match &material {
        Material::Headers(_) | Material::UsernamePassword { .. } => Ok(material),
        Material::ClientCertificate { certificate_pem, private_key_pem, ca_pem } => {
            client_certificate(certificate_pem, private_key_pem, ca_pem.as_deref())?;
            Ok(material)
        }
        Material::SshPrivateKey { private_key_pem, passphrase } => {
            let private_key_pem = ssh_key(private_key_pem, passphrase.as_deref())?;
            Ok(Material::SshPrivateKey { private_key_pem, passphrase: None })
        }
    }
}

fn client_certificate(certificate_pem: &str, private_key_pem: &str, ca_pem: Option<&str>) -> Result<(), Vec<Violation>> {
    let chain = certificates(certificate_pem, "certificatePem");
    let key = private_key(private_key_pem);
    let roots = ca_pem.map(|pem| roots(&certificates(pem, "caPem")?)).transpose();
    match (chain, key, roots) {
        (Ok(chain), Ok(key), Ok(_)) => match CertifiedKey::new(chain, key).keys_match() {
            // Some kinds of keys do not say.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(()),
            Err(_) => Err(vec![refused(CERTIFICATE, "privateKeyPem", "does not belong to the first certificate of certificatePem")]),
        },
        (chain, key, roots) => Err([chain.err(), key.err(), roots.err()].into_iter().flatten().collect()),
    }
}

fn certificates(pem: &str, field: &str) -> Result<Vec<CertificateDer<'static>>, Violation> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|_| refused(CERTIFICATE, field, "is not whole: a block of PEM cannot be read"))?;
    if chain.is_empty() {
        return Err(refused(CERTIFICATE, field, "holds no certificate"));
    }
    for (at, certificate) in chain.iter().enumerate() {
        if ParsedCertificate::try_from(certificate).is_err() {
            let message = format!(
                "certificate {} cannot be read: an X.509 v3 certificate is needed; `openssl x509 -req` makes one of version 1 unless it is given extensions with -extfile",
                at + 1
            );
            return Err(refused(CERTIFICATE, field, &message));
        }
    }
    Ok(chain)
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, Violation> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|_| refused(CERTIFICATE, "caPem", "holds a certificate that is no authority's"))?;
    }
    Ok(roots)
}

fn private_key(pem: &str) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, Violation> {
    let refused = |message: &str| refused(CERTIFICATE, "privateKeyPem", message);
    if is_encrypted(pem) {
        return Err(refused("is encrypted; give it without a passphrase, it is kept sealed"));
    }
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| refused("holds no private key that can be read"))?;
    any_supported_type(&key).map_err(|_| refused("is of a kind that is not supported; RSA from 2048 bits, P-256, P-384 and Ed25519 are"))
}

/// The key without its passphrase.
fn ssh_key(pem: &str, passphrase: Option<&str>) -> Result<String, Vec<Violation>> {
    PrivateKey::opened(pem, passphrase).map_err(|error| {
        vec![match error {
            PrivateKeyError::NoPassphrase => refused(SSH, "passphrase", "is required: the key is encrypted"),
            PrivateKeyError::WrongPassphrase => refused(SSH, "passphrase", "does not open the key"),
            error => refused(SSH, "privateKeyPem", &error.to_string()),
        }]
    })
}

fn is_encrypted(pem: &str) -> bool {
    pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || pem.contains("Proc-Type: 4,ENCRYPTED")
}

/// Whether the lines of SSH in a policy's bindings can be read: what cannot would be for nobody, silently.
pub fn check_bindings(network: &Value) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    for (at, binding) in network["credentialBindings"].as_array().into_iter().flatten().enumerate() {
        let proxy = &binding["projection"]["sshProxy"];
        let mut look = |field: &str, check: &dyn Fn(&str) -> Option<String>| {
            for (entry, text) in proxy[field].as_array().into_iter().flatten().enumerate() {
                if let Some(message) = text.as_str().and_then(check) {
                    let path = format!("network.credentialBindings[{at}].projection.sshProxy.{field}[{entry}]");
                    found.push(Violation::new(path, format!("{message} (binding {})", binding["ref"])));
                }
            }
        };
        look("knownHosts", &|text| match HostKeys::check_lines(text) {
            Ok(()) => None,
            Err(0) => Some("has no line with a host's key".to_owned()),
            Err(line) => Some(format!("line {line} is not as in known_hosts: hosts, then the kind and the text of a key")),
        });
        look("sandboxPublicKeys", &|text| {
            let unreadable = text.lines().filter(|line| !line.trim().is_empty()).find_map(|line| PublicKey::from_line(line).err());
            let empty = text.trim().is_empty().then(|| "is empty".to_owned());
            empty.or_else(|| unreadable.map(|error| format!("is no public key of SSH: {error}")))
        });
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

fn refused(spec: &str, field: &str, message: &str) -> Violation {
    Violation::new(format!("{spec}.{field}"), message)
}

#[cfg(test)]
mod tests;
