//! Programs inside are made to trust us where a policy lets us end their TLS or SSH.

use std::{fs, path::Path, sync::OnceLock, time::Duration};

use sandbar_core::egress::Policy;
use sandbar_procd_api::{PROTOCOL_TRUST, Trust};

use crate::{
    Node, Runtime,
    client::{ProcdClient, ProcdError},
};

/// A runtime that does not answer within this time is left as it is; whoever owns the sandbox waits.
const WITHIN: Duration = Duration::from_secs(10);
/// Where the machine's own public authorities are, for sandboxes that have none.
const HOST_BUNDLES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];
const BUNDLE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("its agent is of an older version, which does not know how; it does after the sandbox was hibernated and resumed")]
    Old,
    #[error("its agent did not do it")]
    Agent(#[from] ProcdError),
    #[error("its agent did not answer within {} s", WITHIN.as_secs())]
    Late,
}

impl Node {
    /// What programs have to trust for a policy; `None` when nothing is ended.
    pub fn trust_for(&self, policy: &Policy) -> Option<Trust> {
        let authority = self.inner.egress.authority();
        let hosts: Vec<String> = policy.ssh_domains().collect();
        let known_hosts = authority.known_hosts(hosts.iter().map(String::as_str));
        match policy.needs_trust() {
            false if known_hosts.is_empty() => None,
            false => Some(Trust { known_hosts, ..Trust::default() }),
            true => Some(Trust { ca_pem: authority.certificate_pem().to_owned(), ca_hash: authority.subject_hash(), roots_pem: None, known_hosts }),
        }
    }

    /// Makes programs of a runtime trust so. Those that run have the files, those that are started from now on the
    /// environment, too.
    pub async fn trust(&self, runtime: &Runtime, trust: Trust) -> Result<(), TrustError> {
        tokio::time::timeout(WITHIN, told(&runtime.client, trust)).await.unwrap_or(Err(TrustError::Late))
    }
}

pub(crate) async fn told(agent: &ProcdClient, mut trust: Trust) -> Result<(), TrustError> {
    if agent.protocol().await? < PROTOCOL_TRUST {
        return Err(TrustError::Old);
    }
    if agent.trust(&trust).await?.needs_roots {
        trust.roots_pem = Some(host_roots().to_owned());
        agent.trust(&trust).await?;
    }
    Ok(())
}

/// The public authorities that this machine trusts, as far as they are found. Read once.
fn host_roots() -> &'static str {
    static ROOTS: OnceLock<String> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let read = |path: &&str| fs::metadata(path).ok().filter(|meta| meta.len() <= BUNDLE_BYTES_MAX).and_then(|_| fs::read_to_string(Path::new(path)).ok());
        HOST_BUNDLES.iter().find_map(read).unwrap_or_default()
    })
}
