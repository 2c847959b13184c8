//! What is to be posted to webhooks, and what came of it.
//!
//! A delivery is written in the transaction of the change that it tells of. Per sandbox they are posted one after the
//! other, in the order of their numbers: `webhook.next_at_ms` is the moment of the oldest that waits.

use rusqlite::{Connection, OptionalExtension, Row, named_params, types::Type};
use sandbar_core::{
    limits,
    sandbox::SandboxRecord,
    webhook::{self, Class, Kind},
};

use crate::{Store, StoreError};

/// An event that is to be posted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDelivery {
    pub event_id: String,
    pub kind: Kind,
    /// The bytes that are posted.
    pub body: String,
}

/// Where a sandbox's events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRecord {
    pub sandbox_id: String,
    pub team_id: String,
    /// Empty once it was taken away.
    pub url: String,
    /// Sealed.
    pub secret: Option<String>,
    pub since_ms: i64,
    pub dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It waits for its turn, or for another try.
    Pending,
    Delivered,
    /// Given up.
    Failed,
}

/// An event and what came of posting it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRecord {
    pub seq: i64,
    pub event_id: String,
    pub event_type: String,
    /// Only where one is asked for by its id.
    pub body: Option<String>,
    pub state: DeliveryState,
    pub created_at_ms: i64,
    pub attempts: u32,
    pub last_attempt_at_ms: Option<i64>,
    pub last_status: Option<u16>,
    pub last_error: Option<String>,
    pub last_answer: Option<String>,
    pub done_at_ms: Option<i64>,
    /// Of the oldest that waits; the others wait for that one.
    pub next_attempt_at_ms: Option<i64>,
}

/// A delivery whose moment has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    pub seq: i64,
    pub sandbox_id: String,
    pub team_id: String,
    pub receiver: String,
    pub event_id: String,
    pub body: String,
    pub attempts: u32,
    pub give_up_at_ms: i64,
    pub url: String,
    /// Sealed.
    pub secret: Option<String>,
}

/// What was seen of one attempt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attempt {
    pub at_ms: i64,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub answer: Option<String>,
}

/// What an attempt led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Delivered,
    Failed,
    Retry { at_ms: i64 },
}

/// What became of events from inside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub enqueued: u64,
    /// Given up for want of room, these or older ones.
    pub dropped: u64,
}

impl DeliveryState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Failed].into_iter().find(|state| state.as_str() == text)
    }
}

impl Store {
    /// The webhook of a team's sandbox, which may be gone.
    pub async fn webhook_get(&self, team_id: &str, sandbox_id: &str) -> Result<Option<WebhookRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), sandbox_id.to_owned());
        self.engine
            .read("read a webhook", move |c| {
                let sql = "SELECT sandbox_id, team_id, url, secret, since_ms, dropped FROM webhook WHERE sandbox_id = ?1 AND team_id = ?2";
                let read = |row: &Row<'_>| {
                    Ok(WebhookRecord {
                        sandbox_id: row.get(0)?,
                        team_id: row.get(1)?,
                        url: row.get(2)?,
                        secret: row.get(3)?,
                        since_ms: row.get(4)?,
                        dropped: row.get(5)?,
                    })
                };
                Ok(c.prepare_cached(sql)?.query_row((id, team_id), read).optional()?)
            })
            .await
    }

    /// Up to which event those of a runtime were taken, and since when they are told; `None` without a webhook.
    pub async fn webhook_cursor(&self, sandbox_id: &str, runtime_id: &str) -> Result<Option<(u64, i64)>, StoreError> {
        let (id, runtime_id) = (sandbox_id.to_owned(), runtime_id.to_owned());
        self.engine
            .read("read how far events were taken", move |c| {
                let sql = "SELECT CASE WHEN runtime_id IS ?2 THEN event_seq ELSE 0 END, since_ms FROM webhook WHERE sandbox_id = ?1 AND url <> ''";
                Ok(c.prepare_cached(sql)?.query_row((id, runtime_id), |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
            })
            .await
    }

    /// Takes events from inside. With `upto`, a runtime and the number of its last event, it is remembered in the same
    /// step that this far nothing is to be taken again. `lost` are those that are known to be missing. Nothing is taken
    /// for a sandbox that is deleted or has no webhook.
    pub async fn webhook_take(
        &self,
        sandbox_id: &str,
        upto: Option<(&str, u64)>,
        lost: u64,
        now_ms: i64,
        deliveries: Vec<NewDelivery>,
    ) -> Result<Taken, StoreError> {
        let (id, upto) = (sandbox_id.to_owned(), upto.map(|(runtime, seq)| (runtime.to_owned(), seq)));
        self.engine
            .write("take events from inside", move |c| {
                let alive = c.prepare_cached("SELECT 1 FROM sandbox WHERE id = ?1 AND desired <> 'deleted'")?.exists([&id])?;
                if !alive {
                    return Ok(Taken::default());
                }
                if let Some((runtime, seq)) = &upto {
                    c.prepare_cached("UPDATE webhook SET runtime_id = ?2, event_seq = ?3 WHERE sandbox_id = ?1 AND url <> ''")?.execute((&id, runtime, seq))?;
                }
                if lost > 0 {
                    c.prepare_cached("UPDATE webhook SET dropped = dropped + ?2 WHERE sandbox_id = ?1")?.execute((&id, lost))?;
                }
                enqueue(c, &id, now_ms, &deliveries)
            })
            .await
    }

    /// Deliveries whose moment has come, at most one of each sandbox. `busy` are sandboxes of which one is under way,
    /// `full` are receivers (see [`Due::place`]) and teams that have as many as they may.
    pub async fn webhook_due(&self, now_ms: i64, limit: u32, busy: Vec<String>, full: Vec<String>) -> Result<Vec<Due>, StoreError> {
        self.engine
            .read("read due deliveries", move |c| {
                let sql = "SELECT d.seq, d.sandbox_id, d.team_id, w.receiver, d.event_id, d.body, d.attempts, d.give_up_at_ms, w.url, w.secret
                    FROM webhook w JOIN webhook_delivery d
                        ON d.seq = (SELECT min(seq) FROM webhook_delivery WHERE sandbox_id = w.sandbox_id AND state = 'pending')
                    WHERE w.next_at_ms <= :now
                        AND w.sandbox_id NOT IN (SELECT value FROM json_each(:busy))
                        AND w.team_id NOT IN (SELECT value FROM json_each(:full))
                        AND w.team_id || ' ' || w.receiver NOT IN (SELECT value FROM json_each(:full))
                    ORDER BY w.next_at_ms LIMIT :limit";
                let params =
                    named_params! {":now": now_ms, ":busy": serde_json::json!(busy).to_string(), ":full": serde_json::json!(full).to_string(), ":limit": limit};
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map(params, |row| {
                    Ok(Due {
                        seq: row.get(0)?,
                        sandbox_id: row.get(1)?,
                        team_id: row.get(2)?,
                        receiver: row.get(3)?,
                        event_id: row.get(4)?,
                        body: text(row, 5)?,
                        attempts: row.get(6)?,
                        give_up_at_ms: row.get(7)?,
                        url: row.get(8)?,
                        secret: row.get(9)?,
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// The next moment after `now_ms` at which a delivery is due.
    pub async fn webhook_next(&self, now_ms: i64) -> Result<Option<i64>, StoreError> {
        self.engine
            .read("read the next delivery", move |c| {
                Ok(c.prepare_cached("SELECT min(next_at_ms) FROM webhook WHERE next_at_ms > ?1")?.query_row([now_ms], |row| row.get(0))?)
            })
            .await
    }

    /// Notes what came of an attempt. One that is not waited for any more (it was given up meanwhile) is let be.
    pub async fn webhook_attempted(&self, sandbox_id: &str, seq: i64, attempt: &Attempt, ended: Ended) -> Result<(), StoreError> {
        let (id, attempt) = (sandbox_id.to_owned(), attempt.clone());
        self.engine
            .write("note a delivery", move |c| {
                let (state, done_at_ms) = match ended {
                    Ended::Delivered => (DeliveryState::Delivered, Some(attempt.at_ms)),
                    Ended::Failed => (DeliveryState::Failed, Some(attempt.at_ms)),
                    Ended::Retry { .. } => (DeliveryState::Pending, None),
                };
                let sql = "UPDATE webhook_delivery SET state = ?2, attempts = attempts + 1, last_attempt_at_ms = ?3, last_status = ?4, last_error = ?5,
                    last_answer = ?6, done_at_ms = ?7 WHERE seq = ?1 AND state = 'pending'";
                let row = (seq, state.as_str(), attempt.at_ms, attempt.status, &attempt.error, &attempt.answer, done_at_ms);
                let known = c.prepare_cached(sql)?.execute(row)? > 0;
                match ended {
                    Ended::Retry { at_ms } if known => schedule(c, &id, at_ms)?,
                    Ended::Retry { .. } | Ended::Delivered | Ended::Failed => schedule(c, &id, attempt.at_ms)?,
                }
                prune_one(c, &id)
            })
            .await
    }

    /// Keeps an event that was tried apart from the others.
    pub async fn webhook_log(
        &self,
        webhook: &WebhookRecord,
        delivery: &NewDelivery,
        created_at_ms: i64,
        attempt: &Attempt,
        ok: bool,
    ) -> Result<(), StoreError> {
        let (webhook, delivery, attempt) = (webhook.clone(), delivery.clone(), attempt.clone());
        self.engine
            .write("note a test", move |c| {
                let state = if ok { DeliveryState::Delivered } else { DeliveryState::Failed };
                insert(c, &webhook.sandbox_id, &webhook.team_id, created_at_ms, &delivery)?;
                let sql = "UPDATE webhook_delivery SET state = ?3, attempts = 1, last_attempt_at_ms = ?4, last_status = ?5, last_error = ?6, last_answer = ?7,
                    done_at_ms = ?4 WHERE sandbox_id = ?1 AND event_id = ?2";
                let id = &webhook.sandbox_id;
                c.prepare_cached(sql)?.execute((id, &delivery.event_id, state.as_str(), attempt.at_ms, attempt.status, &attempt.error, &attempt.answer))?;
                prune_one(c, id)
            })
            .await
    }

    /// Events of a team's sandbox, newest first, without their bodies; only those before a number, when one is given.
    pub async fn webhook_deliveries(
        &self,
        team_id: &str,
        sandbox_id: &str,
        state: Option<DeliveryState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), sandbox_id.to_owned());
        self.engine
            .read("list deliveries", move |c| {
                let sql = format!(
                    "{SELECT} WHERE d.sandbox_id = ?1 AND d.team_id = ?2 AND (?3 IS NULL OR d.state = ?3) AND (?4 IS NULL OR d.seq < ?4) ORDER BY d.seq DESC LIMIT ?5"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map((id, team_id, state.map(DeliveryState::as_str), before, limit), |row| delivery(row, false))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// One event of a team's sandbox, with its body.
    pub async fn webhook_delivery(&self, team_id: &str, sandbox_id: &str, event_id: &str) -> Result<Option<DeliveryRecord>, StoreError> {
        let (team_id, id, event_id) = (team_id.to_owned(), sandbox_id.to_owned(), event_id.to_owned());
        self.engine
            .read("read a delivery", move |c| {
                let sql = format!("{SELECT} WHERE d.sandbox_id = ?1 AND d.team_id = ?2 AND d.event_id = ?3");
                Ok(c.prepare_cached(&sql)?.query_row((id, team_id, event_id), |row| delivery(row, true)).optional()?)
            })
            .await
    }

    /// Posts an event again, after those that wait. One that waits already is let be.
    pub async fn webhook_redeliver(&self, team_id: &str, sandbox_id: &str, event_id: &str, now_ms: i64) -> Result<(), StoreError> {
        let (team_id, id, event_id) = (team_id.to_owned(), sandbox_id.to_owned(), event_id.to_owned());
        self.engine
            .write("post an event again", move |c| {
                let sql = "SELECT seq, state, body_bytes FROM webhook_delivery WHERE sandbox_id = ?1 AND team_id = ?2 AND event_id = ?3";
                let found: Option<(i64, String, usize)> =
                    c.prepare_cached(sql)?.query_row((&id, &team_id, &event_id), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
                let Some((seq, state, body_bytes)) = found else { return Err(StoreError::NotFound { what: "event", id: event_id }) };
                if state == DeliveryState::Pending.as_str() {
                    return Ok(());
                }
                let (waiting, bytes) = waiting(c, &id)?;
                if waiting >= limits::WEBHOOK_PENDING_MAX {
                    return Err(StoreError::TooMany { what: "events that wait for this webhook", max: limits::WEBHOOK_PENDING_MAX });
                }
                if bytes + body_bytes > limits::WEBHOOK_PENDING_MAX_BYTES {
                    return Err(StoreError::TooMany { what: "bytes of events that wait for this webhook", max: limits::WEBHOOK_PENDING_MAX_BYTES });
                }
                // Its waits begin anew, too.
                let sql = "UPDATE webhook_delivery SET seq = (SELECT max(seq) + 1 FROM webhook_delivery), state = 'pending', attempts = 0, done_at_ms = NULL,
                    give_up_at_ms = ?2 WHERE seq = ?1";
                c.prepare_cached(sql)?.execute((seq, now_ms + limits::WEBHOOK_WINDOW_MS))?;
                let sql = "UPDATE webhook SET next_at_ms = coalesce(next_at_ms, ?2) WHERE sandbox_id = ?1";
                c.prepare_cached(sql)?.execute((&id, now_ms))?;
                Ok(())
            })
            .await
    }

    /// How many events wait, of all sandboxes.
    pub async fn webhook_waiting(&self) -> Result<u64, StoreError> {
        self.engine
            .read("count deliveries", |c| {
                Ok(c.prepare_cached("SELECT count(*) FROM webhook_delivery WHERE state = 'pending'")?.query_row([], |row| row.get(0))?)
            })
            .await
    }

    /// Removes the oldest events of teams that have more than `rows` or `bytes` in one state, `limit` of each at most.
    /// Returns whether there are more.
    pub async fn webhook_prune_teams(&self, rows: usize, bytes: usize, limit: u32) -> Result<bool, StoreError> {
        let over = self.engine.read("count deliveries of teams", move |c| teams_over(c, rows, bytes)).await?;
        let mut more = false;
        for (team_id, state, upto) in over {
            more |= self.engine.write("remove deliveries of a team", move |c| remove_of_team(c, &team_id, &state, upto, limit)).await? >= limit as usize;
        }
        Ok(more)
    }

    /// Removes what was done with before `before_ms`, and webhooks of which nothing is left.
    pub async fn webhook_prune(&self, before_ms: i64, limit: u32) -> Result<usize, StoreError> {
        self.engine
            .write("remove old deliveries", move |c| {
                let sql = "DELETE FROM webhook_delivery WHERE seq IN (SELECT seq FROM webhook_delivery WHERE done_at_ms < ?1 ORDER BY done_at_ms LIMIT ?2)";
                let removed = c.prepare_cached(sql)?.execute((before_ms, limit))?;
                c.prepare_cached(
                    "DELETE FROM webhook WHERE next_at_ms IS NULL AND sandbox_id NOT IN (SELECT id FROM sandbox)
                        AND NOT EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.sandbox_id = webhook.sandbox_id)",
                )?
                .execute([])?;
                Ok(removed)
            })
            .await
    }
}

impl Due {
    /// What shares a bound on tries at once: the receiver, for each team apart.
    pub fn place(&self) -> String {
        format!("{} {}", self.team_id, self.receiver)
    }
}

const SELECT: &str = "SELECT d.seq, d.event_id, d.event_type, d.body, d.state, d.created_at_ms, d.attempts, d.last_attempt_at_ms, d.last_status, d.last_error,
    d.last_answer, d.done_at_ms,
    CASE WHEN d.state = 'pending' AND d.seq = (SELECT min(seq) FROM webhook_delivery o WHERE o.sandbox_id = d.sandbox_id AND o.state = 'pending')
        THEN (SELECT next_at_ms FROM webhook w WHERE w.sandbox_id = d.sandbox_id) END
    FROM webhook_delivery d";

fn delivery(row: &Row<'_>, with_body: bool) -> rusqlite::Result<DeliveryRecord> {
    let state: String = row.get(4)?;
    let unknown = || rusqlite::Error::FromSqlConversionFailure(4, Type::Text, "an unknown state".into());
    Ok(DeliveryRecord {
        seq: row.get(0)?,
        event_id: row.get(1)?,
        event_type: row.get(2)?,
        body: if with_body { Some(text(row, 3)?) } else { None },
        state: DeliveryState::named(&state).ok_or_else(unknown)?,
        created_at_ms: row.get(5)?,
        attempts: row.get(6)?,
        last_attempt_at_ms: row.get(7)?,
        last_status: row.get(8)?,
        last_error: row.get(9)?,
        last_answer: row.get(10)?,
        done_at_ms: row.get(11)?,
        next_attempt_at_ms: row.get(12)?,
    })
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let bytes: Vec<u8> = row.get(column)?;
    String::from_utf8(bytes).map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, error.into()))
}

/// Makes the webhook of a sandbox what its configuration says.
pub(crate) fn put(c: &Connection, record: &SandboxRecord) -> Result<(), StoreError> {
    let Some(webhook) = &record.config.webhook else { return take_away(c, record) };
    let sql = "INSERT INTO webhook (sandbox_id, team_id, url, receiver, secret, since_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT (sandbox_id) DO UPDATE SET since_ms = CASE url WHEN '' THEN excluded.since_ms ELSE since_ms END,
            url = excluded.url, receiver = excluded.receiver, secret = excluded.secret, next_at_ms = min(next_at_ms, excluded.since_ms)
        WHERE url <> excluded.url OR receiver <> excluded.receiver OR secret IS NOT excluded.secret";
    let receiver = webhook::receiver(&webhook.url);
    c.prepare_cached(sql)?.execute((&record.id, &record.team_id, &webhook.url, receiver, &webhook.secret, record.updated_at_ms))?;
    Ok(())
}

fn take_away(c: &Connection, record: &SandboxRecord) -> Result<(), StoreError> {
    // How far events were taken is forgotten, too: one that is set again begins with what happens from then on.
    let sql = "UPDATE webhook SET url = '', receiver = '', secret = NULL, next_at_ms = NULL, runtime_id = NULL, event_seq = 0
        WHERE sandbox_id = ?1 AND url <> ''";
    if c.prepare_cached(sql)?.execute([&record.id])? > 0 {
        let sql = "UPDATE webhook_delivery SET state = 'failed', last_error = 'the webhook was removed', done_at_ms = ?2
            WHERE sandbox_id = ?1 AND state = 'pending'";
        c.prepare_cached(sql)?.execute((&record.id, record.updated_at_ms))?;
        prune_one(c, &record.id)?;
    }
    Ok(())
}

/// Puts events in the queue of a sandbox's webhook, if it has one, and gives up what there is no room for.
pub(crate) fn enqueue(c: &Connection, sandbox_id: &str, now_ms: i64, deliveries: &[NewDelivery]) -> Result<Taken, StoreError> {
    let mut taken = Taken::default();
    if deliveries.is_empty() {
        return Ok(taken);
    }
    let sql = "SELECT team_id FROM webhook WHERE sandbox_id = ?1 AND url <> ''";
    let team: Option<String> = c.prepare_cached(sql)?.query_row([sandbox_id], |row| row.get(0)).optional()?;
    let Some(team_id) = team else { return Ok(taken) };
    let (mut count, mut bytes) = waiting(c, sandbox_id)?;
    for delivery in deliveries {
        let class = delivery.kind.class();
        if !forget_former(c, sandbox_id, delivery)? {
            continue;
        }
        let lifecycle = class == Class::Lifecycle;
        let max = if lifecycle { limits::WEBHOOK_LIFECYCLE_PENDING_MAX } else { limits::WEBHOOK_PENDING_MAX };
        let mut fits = true;
        while count >= max || bytes + delivery.body.len() > limits::WEBHOOK_PENDING_MAX_BYTES {
            match give_one_up(c, sandbox_id, class, count >= max)? {
                Some(freed) => {
                    count -= 1;
                    bytes = bytes.saturating_sub(freed);
                    taken.dropped += 1;
                }
                None => {
                    // What is small and must be told is told; all else has to fit.
                    fits = lifecycle;
                    break;
                }
            }
        }
        if !fits {
            taken.dropped += 1;
            continue;
        }
        insert(c, sandbox_id, &team_id, now_ms, delivery)?;
        count += 1;
        bytes += delivery.body.len();
        taken.enqueued += 1;
    }
    let sql = "UPDATE webhook SET dropped = dropped + ?2, next_at_ms = CASE WHEN ?3 > 0 THEN coalesce(next_at_ms, ?4) ELSE next_at_ms END
        WHERE sandbox_id = ?1";
    c.prepare_cached(sql)?.execute((sandbox_id, taken.dropped, taken.enqueued, now_ms))?;
    Ok(taken)
}

/// An id that is used again: while the former waits, a published event is the same one; else the former makes room. False
/// when there is nothing to be put in the queue.
fn forget_former(c: &Connection, sandbox_id: &str, delivery: &NewDelivery) -> Result<bool, StoreError> {
    if delivery.kind.class() == Class::Published {
        let sql = "SELECT 1 FROM webhook_delivery WHERE sandbox_id = ?1 AND event_id = ?2 AND state = 'pending'";
        if c.prepare_cached(sql)?.exists((sandbox_id, &delivery.event_id))? {
            return Ok(false);
        }
    }
    c.prepare_cached("DELETE FROM webhook_delivery WHERE sandbox_id = ?1 AND event_id = ?2")?.execute((sandbox_id, &delivery.event_id))?;
    Ok(true)
}

/// Gives up the oldest event of the least class that waits, of no higher class than `class`, and returns its size. Of the
/// lifecycle one goes only when there are too many, never for others' size.
fn give_one_up(c: &Connection, sandbox_id: &str, class: Class, too_many: bool) -> Result<Option<usize>, StoreError> {
    let most = match class {
        Class::Lifecycle if too_many => rank(Class::Lifecycle),
        Class::Lifecycle | Class::Published => rank(Class::Published),
        Class::Cheap => rank(Class::Cheap),
    };
    let sql = "SELECT seq, body_bytes FROM webhook_delivery WHERE sandbox_id = ?1 AND state = 'pending' AND class <= ?2 ORDER BY class, seq LIMIT 1";
    let oldest: Option<(i64, usize)> = c.prepare_cached(sql)?.query_row((sandbox_id, most), |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if let Some((seq, _)) = oldest {
        c.prepare_cached("DELETE FROM webhook_delivery WHERE seq = ?1")?.execute([seq])?;
    }
    Ok(oldest.map(|(_, bytes)| bytes))
}

fn insert(c: &Connection, sandbox_id: &str, team_id: &str, now_ms: i64, delivery: &NewDelivery) -> Result<(), StoreError> {
    let sql = "INSERT INTO webhook_delivery (sandbox_id, team_id, event_id, event_type, class, body, body_bytes, state, created_at_ms, give_up_at_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'pending', ?8, ?9)";
    let NewDelivery { event_id, kind, body } = delivery;
    let give_up_at_ms = now_ms.saturating_add(limits::WEBHOOK_WINDOW_MS);
    let row = (sandbox_id, team_id, event_id, kind.as_str(), rank(kind.class()), body.as_bytes(), body.len(), now_ms, give_up_at_ms);
    c.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

/// Events that wait, and their bytes.
fn waiting(c: &Connection, sandbox_id: &str) -> Result<(usize, usize), StoreError> {
    let sql = "SELECT count(*), coalesce(sum(body_bytes), 0) FROM webhook_delivery WHERE sandbox_id = ?1 AND state = 'pending'";
    Ok(c.prepare_cached(sql)?.query_row([sandbox_id], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// The next try of a sandbox's events: at `at_ms`, if one waits.
fn schedule(c: &Connection, sandbox_id: &str, at_ms: i64) -> Result<(), StoreError> {
    let sql = "UPDATE webhook SET next_at_ms = CASE WHEN url <> '' AND EXISTS
        (SELECT 1 FROM webhook_delivery WHERE sandbox_id = ?1 AND state = 'pending') THEN ?2 END WHERE sandbox_id = ?1";
    c.prepare_cached(sql)?.execute((sandbox_id, at_ms))?;
    Ok(())
}

/// Removes what of a sandbox is done with and too much to be kept, the oldest first. Not at each event: an eighth more may
/// gather.
fn prune_one(c: &Connection, sandbox_id: &str) -> Result<(), StoreError> {
    let sql = "SELECT count(*), coalesce(sum(body_bytes), 0) FROM webhook_delivery WHERE sandbox_id = ?1 AND state <> 'pending'";
    let (count, bytes): (usize, usize) = c.prepare_cached(sql)?.query_row([sandbox_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if count <= limits::WEBHOOK_KEPT_MAX / 8 * 9 && bytes <= limits::WEBHOOK_KEPT_MAX_BYTES / 8 * 9 {
        return Ok(());
    }
    let sql = "DELETE FROM webhook_delivery WHERE seq IN (SELECT seq FROM (
            SELECT seq, row_number() OVER latest AS place, sum(body_bytes) OVER latest AS bytes FROM webhook_delivery
            WHERE sandbox_id = ?1 AND state <> 'pending' WINDOW latest AS (ORDER BY seq DESC))
        WHERE place > ?2 OR bytes > ?3)";
    c.prepare_cached(sql)?.execute((sandbox_id, limits::WEBHOOK_KEPT_MAX, limits::WEBHOOK_KEPT_MAX_BYTES))?;
    Ok(())
}

/// Teams that have too much in one state, with that state, and up to which number it has to go.
fn teams_over(c: &Connection, rows: usize, bytes: usize) -> Result<Vec<(String, String, i64)>, StoreError> {
    let sql = "WITH much AS (SELECT team_id, state FROM webhook_delivery GROUP BY team_id, state HAVING count(*) > ?1 OR sum(body_bytes) > ?2)
        SELECT team_id, state, max(seq) FROM (
            SELECT d.team_id, d.state, d.seq, row_number() OVER latest AS place, sum(d.body_bytes) OVER latest AS bytes
            FROM much JOIN webhook_delivery d ON d.team_id = much.team_id AND d.state = much.state
            WINDOW latest AS (PARTITION BY d.team_id, d.state ORDER BY d.seq DESC))
        WHERE place > ?1 OR bytes > ?2 GROUP BY team_id, state";
    let mut statement = c.prepare_cached(sql)?;
    let found = statement.query_map((rows, bytes), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn remove_of_team(c: &Connection, team_id: &str, state: &str, upto: i64, limit: u32) -> Result<usize, StoreError> {
    let sql = "DELETE FROM webhook_delivery WHERE seq IN
        (SELECT seq FROM webhook_delivery WHERE team_id = ?1 AND state = ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4) RETURNING sandbox_id";
    let mut statement = c.prepare_cached(sql)?;
    let removed = statement.query_map((team_id, state, upto, limit), |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    for sandbox_id in removed.iter().filter(|_| state == DeliveryState::Pending.as_str()) {
        let sql = "UPDATE webhook SET dropped = dropped + 1, next_at_ms = CASE WHEN EXISTS
            (SELECT 1 FROM webhook_delivery WHERE sandbox_id = ?1 AND state = 'pending') THEN next_at_ms END WHERE sandbox_id = ?1";
        c.prepare_cached(sql)?.execute([sandbox_id])?;
    }
    Ok(removed.len())
}

fn rank(class: Class) -> i64 {
    match class {
        Class::Cheap => 0,
        Class::Published => 1,
        Class::Lifecycle => 2,
    }
}
