//! Rows of previews that were read a moment ago, since a page asks for hundreds of files through one. What is changed here is
//! forgotten at once, what is changed by deletion of something else within [`FRESH_FOR`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::{limits, preview::PreviewRecord};

/// A row is believed for so long.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Known(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    rows: HashMap<String, (Instant, Arc<PreviewRecord>)>,
    /// Advances with every change, so that a row that was read before one is not kept after it.
    epoch: u64,
}

impl Known {
    /// A row, or what [`Self::put`] has to be told with the one that is read instead.
    pub fn get(&self, id: &str) -> Result<Arc<PreviewRecord>, u64> {
        let inner = self.lock();
        match inner.rows.get(id) {
            Some((read, preview)) if read.elapsed() < FRESH_FOR => Ok(Arc::clone(preview)),
            Some(_) | None => Err(inner.epoch),
        }
    }

    pub fn put(&self, preview: Arc<PreviewRecord>, epoch: u64) {
        let mut inner = self.lock();
        if inner.epoch != epoch {
            return;
        }
        if inner.rows.len() >= limits::PREVIEWS_KNOWN_MAX {
            inner.rows.clear();
        }
        inner.rows.insert(preview.id.clone(), (Instant::now(), preview));
    }

    /// After a change is on the disk.
    pub fn forget(&self, id: &str) {
        let mut inner = self.lock();
        inner.epoch += 1;
        inner.rows.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sandbar_core::preview::Protocol;

    use super::*;

    fn preview(port: u16) -> Arc<PreviewRecord> {
        Arc::new(PreviewRecord {
            id: "pv-a".into(),
            sandbox_id: "sb-a".into(),
            team_id: "team".into(),
            user_id: "user".into(),
            key_id: None,
            port,
            protocol: Protocol::Http,
            path: "/".into(),
            wakes: false,
            runtime_generation: 1,
            bootstrap_sha256: None,
            session_sha256: None,
            created_at_ms: 0,
            opened_at_ms: None,
            expires_at_ms: 1,
        })
    }

    #[test]
    fn a_row_that_was_read_before_a_change_is_not_kept() {
        let known = Known::default();
        let epoch = known.get("pv-a").expect_err("nothing is known");
        known.forget("pv-a");
        known.put(preview(1), epoch);
        let epoch = known.get("pv-a").expect_err("it is old");
        known.put(preview(2), epoch);
        assert_eq!(known.get("pv-a").expect("known").port, 2);
        known.forget("pv-a");
        assert!(known.get("pv-a").is_err());
    }
}
