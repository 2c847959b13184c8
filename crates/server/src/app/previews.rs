//! Previews: who makes them, what opens them, and what keeps a port closed for a while. The gateway serves them.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    preview::{Admission, BOOTSTRAP_PATH, NewPreview, PreviewRecord, split_credential},
    public_host,
    sandbox::{Desired, Observed, SandboxRecord},
};
use sandbar_store::StoreError;

use crate::{
    app::{
        App, SharedApp,
        auth::{Principal, token},
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

mod gates;
mod known;

pub use gates::Gate;

/// Random bytes of what opens a preview.
const SECRET_BYTES: usize = 32;

/// What is known of previews between requests: rows that were read a moment ago, and closed ports. Rows are the truth.
#[derive(Default)]
pub struct Previews {
    known: known::Known,
    gates: gates::Gates,
}

/// A preview that was just made.
#[derive(Debug)]
pub struct MadePreview {
    pub record: PreviewRecord,
    /// Works once.
    pub url: String,
}

impl App {
    /// Makes a preview of a port. One that wakes nothing is bound to the runtime that runs now, which is woken for it if it
    /// sleeps and may be woken.
    pub async fn create_preview(&self, who: &Principal, sandbox_id: &str, new: NewPreview) -> Result<MadePreview, ApiError> {
        if new.port == limits::FUNCTION_SERVICE_PORT {
            return Err(ApiError::new(ErrorCode::Forbidden, format!("port {} is reserved and has no previews", new.port)));
        }
        // Nobody is woken for somebody else.
        let mut sandbox = self.get(who, sandbox_id).await?;
        self.check_room()?;
        if public_host::sandbox_label(sandbox_id, new.port.into()).len() > limits::LABEL_MAX_CHARS {
            return Err(ApiError::unavailable("the sandbox has no public host: its id is too long for one"));
        }
        if !new.wakes {
            self.access(who, sandbox_id).await?;
            sandbox = self.get(who, sandbox_id).await?;
            if !is_awake(&sandbox) {
                return Err(ApiError::conflict("the sandbox was paused at the same time; try again"));
            }
        }
        let secret = random_secret()?;
        let now = now_ms();
        let record = PreviewRecord {
            id: sandbar_node::random_id("pv-"),
            sandbox_id: sandbox.id,
            team_id: who.team_id.clone(),
            user_id: who.user_id.clone(),
            key_id: who.key_id.clone(),
            port: new.port,
            protocol: new.protocol,
            path: new.path,
            wakes: new.wakes,
            runtime_generation: sandbox.runtime_generation,
            bootstrap_sha256: Some(token::sha256_hex(&secret)),
            session_sha256: None,
            created_at_ms: now,
            opened_at_ms: None,
            expires_at_ms: now + new.ttl_ms,
        };
        let record = self.store.preview_insert(&record).await.map_err(|e| store_failure("storing the preview", &e))?;
        tracing::info!(sandbox = record.sandbox_id, preview = record.id, port = record.port, user = record.user_id, "a preview was made");
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("token", &format!("{}.{secret}", record.id)).append_pair("next", &record.path).finish();
        let url = format!("{}{BOOTSTRAP_PATH}?{query}", self.preview_host(&record));
        Ok(MadePreview { record, url })
    }

    /// One's own previews of a sandbox that are good.
    pub async fn previews(&self, who: &Principal, sandbox_id: &str) -> Result<Vec<PreviewRecord>, ApiError> {
        let sandbox = self.get(who, sandbox_id).await?;
        let now = now_ms();
        let mut previews = self.store.previews_list(sandbox_id, &who.team_id, &who.user_id, now).await.map_err(|e| store_failure("listing previews", &e))?;
        previews.retain(|preview| !matches!(preview.admit(&sandbox, is_awake(&sandbox), now), Admission::Over(_)));
        Ok(previews)
    }

    /// One of one's own previews.
    pub async fn preview(&self, who: &Principal, sandbox_id: &str, id: &str) -> Result<PreviewRecord, ApiError> {
        self.get(who, sandbox_id).await?;
        let found = self.store.preview_get(id).await.map_err(|e| store_failure("reading the preview", &e))?;
        let is_own = |preview: &PreviewRecord| preview.sandbox_id == sandbox_id && preview.is_of(&who.team_id, &who.user_id);
        found.filter(|preview| is_own(preview) && preview.expires_at_ms > now_ms()).ok_or_else(|| ApiError::not_found("preview", id))
    }

    /// Lets a preview be good for so long from now. One of a former runtime is deleted.
    pub async fn renew_preview(&self, who: &Principal, sandbox_id: &str, id: &str, ttl_ms: i64) -> Result<PreviewRecord, ApiError> {
        let preview = self.preview(who, sandbox_id, id).await?;
        let sandbox = self.get(who, sandbox_id).await?;
        let now = now_ms();
        if let Admission::Over(why) = preview.admit(&sandbox, is_awake(&sandbox), now) {
            self.forget_preview(id).await?;
            return Err(ApiError::conflict(format!("{why}; make a new one")));
        }
        let renewed = self.store.preview_renew(id, now + ttl_ms, now).await;
        self.previews.known.forget(id);
        renewed.map_err(|e| store_failure("renewing the preview", &e))
    }

    /// Deletes one of one's own previews. What is open through it is cut soon.
    pub async fn delete_preview(&self, who: &Principal, sandbox_id: &str, id: &str) -> Result<(), ApiError> {
        self.preview(who, sandbox_id, id).await?;
        self.forget_preview(id).await
    }

    async fn forget_preview(&self, id: &str) -> Result<(), ApiError> {
        let deleted = self.store.preview_delete(id).await;
        self.previews.known.forget(id);
        match deleted {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_failure("deleting the preview", &error)),
        }
    }

    /// Where a preview leads, without what lets one in.
    pub fn preview_target(&self, preview: &PreviewRecord) -> String {
        format!("{}{}", self.preview_host(preview), preview.path)
    }

    fn preview_host(&self, preview: &PreviewRecord) -> String {
        self.config.public_url(&public_host::sandbox_label(&preview.sandbox_id, preview.port.into()))
    }

    /// Opens a preview of a port with what its URL said: what its cookie is to say from now on. `None` when it does not open it.
    pub(crate) async fn open_preview(&self, sandbox_id: &str, port: u16, said: &str) -> Result<Option<(PreviewRecord, String)>, ApiError> {
        let Some((id, secret)) = split_credential(said) else { return Ok(None) };
        // Who only tries changes nothing.
        let hash = token::sha256_hex(secret);
        let is_good = |preview: &PreviewRecord| {
            (preview.sandbox_id.as_str(), preview.port) == (sandbox_id, port)
                && preview.expires_at_ms > now_ms()
                && preview.bootstrap_sha256.as_ref() == Some(&hash)
        };
        if !self.known_preview(id).await?.is_some_and(|preview| is_good(&preview)) {
            return Ok(None);
        }
        let session = random_secret()?;
        let hashes = (hash, token::sha256_hex(&session));
        let opened = self.store.preview_open((sandbox_id, port), id, &hashes.0, &hashes.1, now_ms()).await;
        self.previews.known.forget(id);
        let opened = opened.map_err(|e| store_failure("opening the preview", &e))?;
        Ok(opened.map(|preview| {
            tracing::info!(sandbox = sandbox_id, preview = id, port, "a preview was opened");
            let cookie = format!("{id}.{session}");
            (preview, cookie)
        }))
    }

    /// The preview of a port that a cookie opens.
    pub(crate) async fn preview_of(&self, sandbox_id: &str, port: u16, cookie: &str) -> Result<Option<Arc<PreviewRecord>>, ApiError> {
        let Some((id, secret)) = split_credential(cookie) else { return Ok(None) };
        let found = self.known_preview(id).await?;
        let hash = token::sha256_hex(secret);
        Ok(found.filter(|preview| {
            preview.sandbox_id == sandbox_id
                && preview.port == port
                && preview.expires_at_ms > now_ms()
                // How alike two hashes are tells nothing of what they are of.
                && preview.session_sha256.as_deref() == Some(&*hash)
        }))
    }

    async fn known_preview(&self, id: &str) -> Result<Option<Arc<PreviewRecord>>, ApiError> {
        let epoch = match self.previews.known.get(id) {
            Ok(preview) => return Ok(Some(preview)),
            Err(epoch) => epoch,
        };
        let found = self.store.preview_get(id).await.map_err(|e| store_failure("reading the preview", &e))?.map(Arc::new);
        if let Some(preview) = &found {
            self.previews.known.put(Arc::clone(preview), epoch);
        }
        Ok(found)
    }

    /// Whether a port has a preview that is good: then its public host gets a certificate, too.
    pub(crate) async fn has_preview(&self, sandbox_id: &str, port: u16) -> Result<bool, ApiError> {
        self.store.preview_is_at(sandbox_id, port, now_ms()).await.map_err(|e| store_failure("looking for previews", &e))
    }
}

/// Resolves when a preview is not good any more, for what stays open beyond a request. Notices a deletion within
/// [`known::FRESH_FOR`] and a pause.
pub(crate) async fn over(app: SharedApp, preview: Arc<PreviewRecord>) {
    let mut expires_at_ms = preview.expires_at_ms;
    loop {
        let left = Duration::from_millis(u64::try_from(expires_at_ms - now_ms()).unwrap_or(0));
        tokio::time::sleep(left.min(known::FRESH_FOR)).await;
        let found = match app.known_preview(&preview.id).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            // A database that is busy ends nothing, unless the time is up.
            Err(_) if expires_at_ms > now_ms() => continue,
            Err(_) => return,
        };
        expires_at_ms = found.expires_at_ms;
        match app.look(&found.sandbox_id).await {
            Ok(Some((sandbox, runtime))) => {
                if let Admission::Over(_) = found.admit(&sandbox, runtime.is_some(), now_ms()) {
                    return;
                }
            }
            Ok(None) => return,
            // A store that does not answer keeps nothing open for longer.
            Err(_) if expires_at_ms <= now_ms() => return,
            Err(_) => {}
        }
    }
}

impl Previews {
    /// Whether a port of a sandbox may be reached now, by a preview or as a service.
    pub fn gate(&self, sandbox_id: &str, port: u16) -> Gate {
        self.gates.get(sandbox_id, port)
    }

    /// Whether somebody says which ports of it are open: it is an app's.
    pub fn has_gates(&self, sandbox_id: &str) -> bool {
        self.gates.has(sandbox_id)
    }

    /// Closes all ports of a sandbox that are not said to be open, until it is forgotten.
    pub fn keep_gates(&self, sandbox_id: &str) {
        self.gates.keep(sandbox_id);
    }

    /// Closes all of them, whatever is said of one, until they are kept anew.
    pub fn close_gates(&self, sandbox_id: &str, reason: &str) {
        self.gates.close(sandbox_id, reason);
    }

    /// Opens or closes a port of such a sandbox for everybody who comes from outside, until it is set again. In memory only: whoever
    /// closes a port closes it again when the server starts, before it serves.
    pub fn set_gate(&self, sandbox_id: &str, port: u16, gate: Gate) {
        self.gates.set(sandbox_id, port, gate);
    }

    /// Forgets a sandbox that is gone.
    pub fn forget_gates(&self, sandbox_id: &str) {
        self.gates.forget(sandbox_id);
    }
}

fn is_awake(sandbox: &SandboxRecord) -> bool {
    sandbox.desired == Desired::Active && sandbox.observed == Observed::Active
}

fn random_secret() -> Result<String, ApiError> {
    let mut bytes = [0u8; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| ApiError::internal("making a secret", &error))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}
