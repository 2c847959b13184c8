//! Our account with an authority, and one order with it, from the name to the certificate (RFC 8555, RFC 8737).

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use sandbar_core::certificates::Setback;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{AcmeError, Challenges, http::Http, kept::Kept};

/// How long it is asked again whether the authority has done a step.
const STEP: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(60));
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
const LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";
/// These are no word about the order: the authority is broken, or has lost count of its requests.
const NO_ANSWER: [&str; 2] = ["urn:ietf:params:acme:error:serverInternal", "urn:ietf:params:acme:error:badNonce"];

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error("the authority")]
    Authority(#[from] Error),
    #[error("the authority offers no challenge tls-alpn-01")]
    NoChallenge,
    #[error("the authority did not confirm that the name leads here: {0}")]
    Unconfirmed(String),
    #[error("the authority left the order in the state {0:?}")]
    State(OrderStatus),
    #[error("making a key")]
    Key(#[from] rcgen::Error),
    #[error("the certificate cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the certificate cannot be used: {0}")]
    Unfit(&'static str),
    #[error("the account's file is damaged; without it a new account is made")]
    Account(#[source] serde_json::Error),
    #[error(transparent)]
    Files(#[from] AcmeError),
    #[error("it was not there after {0:?}")]
    Late(Duration),
    #[error("the orders for new hosts are used up for the moment")]
    Spent(Duration),
}

impl OrderError {
    pub fn setback(&self) -> Setback {
        match self {
            Self::Authority(Error::Api(problem)) => match problem.r#type.as_deref() {
                Some(LIMITED) => Setback::Limited,
                Some(kind) if NO_ANSWER.contains(&kind) => Setback::Away,
                Some(_) | None => Setback::Refused,
            },
            Self::NoChallenge | Self::Unconfirmed(_) | Self::State(_) | Self::Unfit(_) | Self::Tls(_) | Self::Late(_) => Setback::Refused,
            Self::Authority(Error::Timeout(_)) => Setback::Refused,
            Self::Authority(_) | Self::Key(_) | Self::Account(_) | Self::Files(_) | Self::Spent(_) => Setback::Away,
        }
    }
}

/// One authority.
pub(super) struct Authority {
    pub directory: String,
    pub contact: Option<String>,
    pub http: Http,
    pub kept: Kept,
    /// Asked for by one at a time, so that only one is made.
    pub account: Mutex<Option<Account>>,
}

/// Our account as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptAccount {
    contact: Option<String>,
    credentials: AccountCredentials,
}

impl Authority {
    /// Our account; made when there is none yet.
    pub async fn account(&self) -> Result<Account, OrderError> {
        let mut account = self.account.lock().await;
        if let Some(account) = account.as_ref() {
            return Ok(account.clone());
        }
        let found = match self.kept_account().await? {
            Some(kept) => self.restore(kept).await?,
            None => self.register().await?,
        };
        Ok(account.insert(found).clone())
    }

    /// Asks for a certificate. Returns its key and chain as PEM.
    pub async fn order(&self, account: &Account, host: &str, challenges: &Challenges) -> Result<String, OrderError> {
        let names = [Identifier::Dns(host.to_owned())];
        let mut order = match account.new_order(&NewOrder::new(&names)).await {
            Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
                tracing::warn!("the authority does not know our account any more; a new one is made");
                let account = self.register().await?;
                *self.account.lock().await = Some(account.clone());
                account.new_order(&NewOrder::new(&names)).await?
            }
            order => order?,
        };
        confirm(&mut order, host, challenges).await?;
        let key = KeyPair::generate()?;
        let mut wanted = CertificateParams::new(vec![host.to_owned()])?;
        wanted.distinguished_name = DistinguishedName::new();
        order.finalize_csr(wanted.serialize_request(&key)?.der()).await?;
        let chain = order.poll_certificate(&STEP).await?;
        Ok(format!("{}{chain}", key.serialize_pem()))
    }

    async fn kept_account(&self) -> Result<Option<KeptAccount>, OrderError> {
        let kept = self.kept.clone();
        let bytes = blocking(move || kept.account()).await?;
        bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(OrderError::Account)
    }

    async fn restore(&self, kept: KeptAccount) -> Result<Account, OrderError> {
        // What is made of the credentials takes them.
        let again = serde_json::to_vec(&KeptAccount { contact: self.contact.clone(), credentials: kept.credentials }).map_err(OrderError::Account)?;
        let credentials = serde_json::from_slice::<KeptAccount>(&again).map_err(OrderError::Account)?.credentials;
        let account = Account::builder_with_http(Box::new(self.http.clone())).from_credentials(credentials).await?;
        if kept.contact != self.contact {
            account.update_contacts(&self.contacts()).await?;
            self.keep(again).await?;
        }
        Ok(account)
    }

    async fn register(&self) -> Result<Account, OrderError> {
        let new = NewAccount { contact: &self.contacts(), terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = Account::builder_with_http(Box::new(self.http.clone())).create(&new, self.directory.clone(), None).await?;
        self.keep(serde_json::to_vec(&KeptAccount { contact: self.contact.clone(), credentials }).map_err(OrderError::Account)?).await?;
        tracing::info!(directory = self.directory, "there is an account for certificates now");
        Ok(account)
    }

    async fn keep(&self, account: Vec<u8>) -> Result<(), OrderError> {
        let kept = self.kept.clone();
        Ok(blocking(move || kept.put_account(&account)).await?)
    }

    fn contacts(&self) -> Vec<&str> {
        self.contact.as_deref().into_iter().collect()
    }
}

/// Shows the authority that the name leads here. The answer to its question stands until this returns.
async fn confirm(order: &mut Order, host: &str, challenges: &Challenges) -> Result<(), OrderError> {
    let mut posed = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization.challenge(ChallengeType::TlsAlpn01).ok_or(OrderError::NoChallenge)?;
        posed.push(challenges.pose(host, proof(host, challenge.key_authorization().digest().as_ref())?));
        challenge.set_ready().await?;
    }
    match order.poll_ready(&STEP).await? {
        OrderStatus::Ready => Ok(()),
        OrderStatus::Invalid => Err(OrderError::Unconfirmed(refusal(order).await.unwrap_or_else(|| "it did not say why".to_owned()))),
        state @ (OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Valid) => Err(OrderError::State(state)),
    }
}

/// Why the authority found a challenge unmet.
async fn refusal(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        let failed = state.challenges.iter().find(|challenge| challenge.status == ChallengeStatus::Invalid);
        if let Some(error) = failed.and_then(|challenge| challenge.error.as_ref()) {
            return Some(error.to_string());
        }
    }
    None
}

/// The certificate that answers an authority's question for a host (RFC 8737, 3).
fn proof(host: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, OrderError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Not by the way that checks key against certificate: it refuses the extension that all this is about.
    let key = ring::default_provider().key_provider.load_private_key(key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

/// Runs what waits for the disk where that holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, AcmeError> + Send + 'static) -> Result<T, AcmeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(AcmeError::Stopping))
}

#[cfg(test)]
mod tests {
    use instant_acme::Problem;

    use super::*;

    #[test]
    fn what_an_authority_counts_is_known_by_its_words() {
        let problem = |kind: &str| {
            let problem: Problem = serde_json::from_value(serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}") })).expect("a problem");
            OrderError::Authority(Error::Api(problem))
        };
        for (error, setback) in [
            (problem("rateLimited"), Setback::Limited),
            (problem("serverInternal"), Setback::Away),
            (problem("badNonce"), Setback::Away),
            (problem("rejectedIdentifier"), Setback::Refused),
            (OrderError::Unconfirmed(String::new()), Setback::Refused),
            (OrderError::Authority(Error::Timeout(None)), Setback::Refused),
            (OrderError::Authority(Error::Other("no connection".into())), Setback::Away),
            (OrderError::Spent(Duration::ZERO), Setback::Away),
        ] {
            assert_eq!(error.setback(), setback, "{error}");
        }
    }
}
