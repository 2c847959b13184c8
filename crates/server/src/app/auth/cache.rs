//! What was found out about tokens, for a while.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use sandbar_core::roles::Role;
use tokio::sync::watch;

use super::{Principal, token::Sha256};

/// Tokens remembered at once.
const TOKENS_MAX: usize = 4096;
/// How long a token is believed without looking.
const BELIEVED_MS: i64 = 30_000;

/// What a token opens.
pub struct Grant {
    pub expires_at_ms: i64,
    pub holder: Holder,
}

pub enum Holder {
    Key { principal: Principal, touched_at_ms: AtomicI64 },
    Login { user_id: String, family: String, teams: Vec<(String, Role)> },
}

impl Holder {
    pub fn key(principal: Principal, last_used_at_ms: Option<i64>) -> Self {
        Self::Key { principal, touched_at_ms: AtomicI64::new(last_used_at_ms.unwrap_or(0)) }
    }
}

impl Grant {
    /// The key whose use is to be noted now. Answers only one of many requests at once.
    pub fn due_touch(&self, now_ms: i64, every_ms: i64) -> Option<&str> {
        let Holder::Key { principal, touched_at_ms } = &self.holder else { return None };
        let touched = touched_at_ms.load(Ordering::Relaxed);
        let due = now_ms.saturating_sub(touched) >= every_ms && touched_at_ms.compare_exchange(touched, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        principal.key_id.as_deref().filter(|_| due)
    }

    fn user_id(&self) -> &str {
        match &self.holder {
            Holder::Key { principal, .. } => &principal.user_id,
            Holder::Login { user_id, .. } => user_id,
        }
    }
}

/// The answer to "is it known".
pub enum Seen {
    Known(Arc<Grant>),
    /// What is found now may only be remembered while this epoch lasts.
    Unknown {
        epoch: u64,
    },
}

#[derive(Default)]
struct Inner {
    /// Advances with each revocation, so that what was read before one is not remembered after it.
    epoch: u64,
    grants: HashMap<Sha256, (Arc<Grant>, i64)>,
}

/// The memory, and who is told of each revocation.
pub struct Cache {
    inner: Mutex<Inner>,
    changes: watch::Sender<()>,
}

impl Cache {
    pub fn new() -> Self {
        Self { inner: Mutex::default(), changes: watch::Sender::new(()) }
    }

    pub fn get(&self, hash: &Sha256, now_ms: i64) -> Seen {
        let inner = self.lock();
        match inner.grants.get(hash) {
            Some((grant, until)) if *until > now_ms => Seen::Known(Arc::clone(grant)),
            Some(_) | None => Seen::Unknown { epoch: inner.epoch },
        }
    }

    pub fn put(&self, hash: Sha256, grant: Arc<Grant>, epoch: u64, now_ms: i64) {
        let mut inner = self.lock();
        if inner.epoch != epoch {
            return;
        }
        if inner.grants.len() >= TOKENS_MAX {
            inner.grants.retain(|_, (_, until)| *until > now_ms);
        }
        if inner.grants.len() >= TOKENS_MAX {
            inner.grants.clear();
        }
        inner.grants.insert(hash, (grant, now_ms.saturating_add(BELIEVED_MS)));
    }

    /// Tells of everything that is revoked from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Tells that something was revoked of which nothing is remembered here.
    pub fn revoked(&self) {
        self.changes.send_replace(());
    }

    /// Forgets a key.
    pub fn forget_key(&self, key_id: &str) {
        self.forget(|grant| matches!(&grant.holder, Holder::Key { principal, .. } if principal.key_id.as_deref() == Some(key_id)));
    }

    /// Forgets a login.
    pub fn forget_login(&self, login: &str) {
        self.forget(|grant| matches!(&grant.holder, Holder::Login { family, .. } if family == login));
    }

    /// Forgets the tokens of a login that goes on by others: nothing that lasts has to be asked about.
    pub fn forget_tokens(&self, login: &str) {
        self.forget_quietly(|grant| matches!(&grant.holder, Holder::Login { family, .. } if family == login));
    }

    /// Forgets what a user might before something was added to it.
    pub fn forget_lesser(&self, user_id: &str) {
        self.forget_quietly(|grant| grant.user_id() == user_id);
    }

    /// Forgets all keys and logins of a user.
    pub fn forget_user(&self, user_id: &str) {
        self.forget(|grant| grant.user_id() == user_id);
    }

    /// Forgets all that opens a team.
    pub fn forget_team(&self, team: &str) {
        self.forget(|grant| match &grant.holder {
            Holder::Key { principal, .. } => principal.team_id == team,
            Holder::Login { teams, .. } => teams.iter().any(|(id, _)| id == team),
        });
    }

    fn forget(&self, which: impl Fn(&Grant) -> bool) {
        self.forget_quietly(which);
        self.revoked();
    }

    fn forget_quietly(&self, which: impl Fn(&Grant) -> bool) {
        let mut inner = self.lock();
        inner.epoch += 1;
        inner.grants.retain(|_, (grant, _)| !which(grant));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
