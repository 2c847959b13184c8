//! Quotas of teams: counts and sums are judged by the store where they change, rates here.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sandbar_api::ErrorCode;
use sandbar_core::quota::{Bucket, Dimension, Rate};
use sandbar_store::{QuotaRecord, Store, StoreError, TeamUse};

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// The interval of a rate that is set without one.
pub const INTERVAL_DEFAULT_MS: u64 = 1000;

/// All quotas, and how full the reserves of rates are.
pub struct Quotas {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    set: HashMap<(String, Dimension), QuotaRecord>,
    buckets: HashMap<(String, Dimension), Bucket>,
}

/// One quota as a client sees it.
#[derive(Debug, Clone)]
pub struct QuotaView {
    pub dimension: Dimension,
    pub set: Option<QuotaRecord>,
    pub current: Option<u64>,
}

impl Quotas {
    pub async fn start(store: &Store) -> Result<Self, StoreError> {
        let set = store.quotas_all().await?.into_iter().map(|quota| ((quota.team_id.clone(), quota.dimension), quota)).collect();
        Ok(Self { state: Mutex::new(State { set, ..State::default() }) })
    }

    /// Takes one of a rate, or says in how many milliseconds there will be one.
    pub fn admit(&self, team_id: &str, dimension: Dimension, now_ms: i64) -> Result<(), (QuotaRecord, u64)> {
        let mut state = self.lock();
        if state.set.is_empty() {
            return Ok(());
        }
        let key = (team_id.to_owned(), dimension);
        let Some(quota) = state.set.get(&key).cloned() else { return Ok(()) };
        let rate = Rate { limit: quota.limit, interval_ms: quota.interval_ms.unwrap_or(INTERVAL_DEFAULT_MS), burst: quota.burst.unwrap_or(quota.limit) };
        if rate.limit == 0 {
            return Err((quota, rate.interval_ms));
        }
        state.buckets.entry(key).or_default().take(rate, now_ms).map_err(|wait_ms| (quota, wait_ms))
    }

    /// All that are set of one kind.
    pub fn of(&self, dimension: Dimension) -> Vec<QuotaRecord> {
        self.lock().set.values().filter(|quota| quota.dimension == dimension).cloned().collect()
    }

    fn get(&self, team_id: &str, dimension: Dimension) -> Option<QuotaRecord> {
        self.lock().set.get(&(team_id.to_owned(), dimension)).cloned()
    }

    fn put(&self, quota: QuotaRecord) {
        let key = (quota.team_id.clone(), quota.dimension);
        let mut state = self.lock();
        state.buckets.remove(&key);
        state.set.insert(key, quota);
    }

    fn remove(&self, team_id: &str, dimension: Dimension) {
        let key = (team_id.to_owned(), dimension);
        let mut state = self.lock();
        state.buckets.remove(&key);
        state.set.remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Whether the team may claim now.
    pub fn admit_claim(&self, who: &Principal) -> Result<(), ApiError> {
        self.admit(&who.team_id, Dimension::SandboxClaims, ErrorCode::ClaimStartThrottled)
    }

    /// Whether the team may ask anything now.
    pub fn admit_request(&self, team_id: &str) -> Result<(), ApiError> {
        self.admit(team_id, Dimension::ApiRequests, ErrorCode::QuotaExceeded)
    }

    fn admit(&self, team_id: &str, dimension: Dimension, code: ErrorCode) -> Result<(), ApiError> {
        self.quotas.admit(team_id, dimension, now_ms()).map_err(|(quota, wait_ms)| {
            let interval_ms = quota.interval_ms.unwrap_or(INTERVAL_DEFAULT_MS);
            let burst = quota.burst.unwrap_or(quota.limit);
            let message =
                format!("the team's quota of {} is {} in {interval_ms} ms, {burst} at once; try again in {wait_ms} ms", dimension.as_str(), quota.limit);
            ApiError::new(code, message).retry_after(wait_ms.div_ceil(1000).clamp(1, 3600) as u32)
        })
    }

    /// Whether there is such a team.
    pub async fn check_team(&self, id: &str) -> Result<(), ApiError> {
        let found = self.store.team_get(id).await.map_err(|e| store_failure("reading the team", &e))?;
        found.map(drop).ok_or_else(|| ApiError::not_found("team", id))
    }

    /// A team's quotas, in the order asked for.
    pub async fn quotas(&self, team_id: &str, dimensions: &[Dimension]) -> Result<Vec<QuotaView>, ApiError> {
        let used: TeamUse = self.store.team_use(team_id).await.map_err(|e| store_failure("reading what the team has", &e))?;
        let view = |dimension: &Dimension| {
            let set = self.quotas.get(team_id, *dimension);
            let metered = set.as_ref().filter(|set| set.dimension.is_metered()).map(|set| self.usage.egress.used(set, now_ms()));
            QuotaView { dimension: *dimension, current: metered.or_else(|| used.of(*dimension)), set }
        };
        Ok(dimensions.iter().map(view).collect())
    }

    /// Sets a quota. What the team already has beyond it stays.
    pub async fn put_quota(&self, quota: QuotaRecord) -> Result<QuotaView, ApiError> {
        let (team_id, dimension) = (quota.team_id.clone(), quota.dimension);
        self.store.quota_put(&quota, now_ms()).await.map_err(|e| store_failure("setting the quota", &e))?;
        self.quotas.put(quota);
        self.enforce(dimension);
        Ok(self.quotas(&team_id, &[dimension]).await?.remove(0))
    }

    /// Lifts a quota of a team.
    pub async fn delete_quota(&self, team_id: &str, dimension: Dimension) -> Result<(), ApiError> {
        self.store.quota_delete(team_id, dimension).await.map_err(|e| store_failure("lifting the quota", &e))?;
        self.quotas.remove(team_id, dimension);
        self.enforce(dimension);
        Ok(())
    }

    /// Counts what sandboxes have sent, and stops or lets go those of teams that this concerns.
    pub fn measure_egress(&self) {
        self.usage.egress.look(&self.sandboxes.live(), || self.quotas.of(Dimension::NetworkEgressBytes), now_ms());
    }

    /// A quota that has changed is in force when the change is answered, not only from the next look on.
    fn enforce(&self, dimension: Dimension) {
        if dimension.is_metered() {
            self.measure_egress();
        }
    }
}
