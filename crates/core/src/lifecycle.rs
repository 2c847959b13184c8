//! The life of a sandbox as decisions: a record and a moment go in, a new record and the wanted effects come out.
//!
//! ```text
//!            claim                          observed
//!              |
//!              v      Started                       pause: Freeze            hibernate_at: Hibernate
//!          Starting ----------> Active <------------------------> Frozen -------------------------> Hibernated
//!           |    ^                |  |      resume: Thaw            |                                 |   |
//!           |    |                |  |  RuntimeLost                 |  RuntimeLost                    |   |
//!           |    |                |  +------------------------------+-------------------> Hibernated  |   |
//!           |    |                |                                 |                                 |   |
//!           |    +----------------|---------------------------------|---- resume: Launch -------------+   |
//!           |    |                |                                 |                                     |
//!           v    | resume: Launch v  hard_ttl: Destroy with root    v                                     v
//!         Failed-+----------> Cleaned <-----------------------------+-------------------------------------+
//!
//!  desired:   Active --pause, ttl--> Paused     Active | Paused --hard_ttl--> Cleaned     any --delete--> Deleted
//!             Paused | Cleaned --resume--> Active
//! ```
//!
//! Intent (`desired`) moves at once, by the functions of this module; truth (`observed`) moves by [`observe`], when an
//! effect is done or something happened by itself. `desired_generation` advances with each accepted transition and
//! `observed_generation` follows when the state that was asked for came true. [`next_effect`] says what closes the gap
//! from any pair of both, so that a server that was killed between an intent and its effect goes on where it was.
//!
//! Nothing here reads a clock: `now_ms` is an argument, milliseconds since 1970 UTC.

mod deadline;
mod wire;

use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};

pub use deadline::{Deadline, next_deadline, on_deadline};
pub use wire::{Profile, Status, WireStatus, is_paused, listed_status, power_state, status, statuses_named, wire_status};

use crate::{
    limits,
    sandbox::{Base, Desired, Mount, Observed, SandboxRecord, reason},
    validate::Violation,
};

/// What has to be done to make the intent true. Each is idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make a runtime over the sandbox's root, or over a fresh one when it has none. Report `Started` or `LaunchFailed`.
    Launch,
    /// Freeze the runtime. Report `Frozen`.
    Freeze,
    /// Thaw the runtime. Report `Thawed`.
    Thaw,
    /// End the runtime, keep the root. Report `Hibernated`.
    Hibernate,
    /// End the runtime, and with `root` delete its files. Report `Cleaned`, or delete the row of a deleted sandbox.
    Destroy { root: bool },
}

/// What was seen of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It answers.
    Started,
    Frozen,
    Thawed,
    /// Its processes ended as wanted.
    Hibernated,
    /// Its processes and files are gone as wanted.
    Cleaned,
    /// It could not be started. `code` is one of [`reason`].
    LaunchFailed {
        code: &'static str,
        text: String,
    },
    /// It ended by itself or did not outlive a restart. `code` is one of [`reason`].
    RuntimeLost {
        code: &'static str,
        text: String,
    },
}

/// A decision: the record to store and what to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub record: SandboxRecord,
    /// In this order.
    pub effects: Vec<Effect>,
    /// False when the record is as it was: nothing needs to be stored.
    pub changed: bool,
}

/// Why something was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifecycleError {
    /// The client asked for something that no state allows (400).
    #[error(transparent)]
    Invalid(#[from] Violation),
    /// It is being deleted (404 to the client, for whom it is gone).
    #[error("the sandbox is being deleted")]
    Deleted,
    /// Its runtime was cleaned (409).
    #[error("the sandbox was cleaned and has no runtime; resume it first")]
    Cleaned,
    /// It could not be started (409).
    #[error("the sandbox failed ({0}); resume it to start it again")]
    Failed(String),
}

/// What a new sandbox is made of.
#[derive(Debug, Clone)]
pub struct Claim {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    pub template_id: String,
    pub template: TemplateSpec,
    /// Validated and normalised by [`crate::validate::claim`].
    pub config: SandboxConfig,
    pub mounts: Vec<Mount>,
    /// Begin with these files instead of the template's.
    pub base: Option<Base>,
}

/// The record of a sandbox that is to be launched, with both deadlines armed.
pub fn claim(claim: Claim, now_ms: i64) -> SandboxRecord {
    let ttl_s = seconds(claim.config.ttl);
    let hard_ttl_s = seconds(claim.config.hard_ttl);
    SandboxRecord {
        id: claim.id,
        team_id: claim.team_id,
        user_id: claim.user_id,
        template_id: claim.template_id,
        template: claim.template,
        config: claim.config,
        mounts: claim.mounts,
        base: claim.base,
        desired: Desired::Active,
        desired_generation: 1,
        observed: Observed::Starting,
        observed_generation: 0,
        runtime_generation: 1,
        runtime_id: None,
        previous_runtime_id: None,
        root_id: None,
        uid_slot: None,
        pid: None,
        pid_start: None,
        reason_code: None,
        reason: None,
        ttl_s,
        hard_ttl_s,
        expires_at_ms: deadline::after(now_ms, ttl_s),
        hard_expires_at_ms: deadline::after(now_ms, hard_ttl_s),
        hibernate_at_ms: None,
        claimed_at_ms: now_ms,
        created_at_ms: now_ms,
        updated_at_ms: now_ms,
        version: 1,
    }
}

/// A new sandbox with the files and the configuration of another, paused and without processes. Its deadlines are its own.
pub fn fork(source: &SandboxRecord, id: String, user_id: String, config: SandboxConfig, base: Base, mounts: Vec<Mount>, now_ms: i64) -> SandboxRecord {
    let template = source.template.clone();
    let (team_id, template_id) = (source.team_id.clone(), source.template_id.clone());
    let mut record = claim(Claim { id, team_id, user_id, template_id, template, config, mounts, base: Some(base) }, now_ms);
    record.desired = Desired::Paused;
    record.observed = Observed::Hibernated;
    record.expires_at_ms = None;
    set_reason(&mut record, reason::FORKED, "it was forked and not resumed yet");
    settle(&mut record);
    record
}

/// Pauses. `code` and `text` say why. Pausing what is paused or cleaned changes nothing.
pub fn pause(record: &SandboxRecord, code: &'static str, text: &str, now_ms: i64) -> Result<Transition, LifecycleError> {
    match record.desired {
        Desired::Deleted => return Err(LifecycleError::Deleted),
        Desired::Paused | Desired::Cleaned => return Ok(unchanged(record)),
        Desired::Active => {}
    }
    if record.observed == Observed::Failed {
        return Err(LifecycleError::Failed(record.reason.clone().unwrap_or_default()));
    }
    let mut next = accept(record, Desired::Paused, now_ms);
    // What was lost keeps the reason of the loss, which is the better one.
    if next.observed.has_runtime() {
        set_reason(&mut next, code, text);
    }
    settle(&mut next);
    Ok(with_next_effect(next))
}

/// Resumes. The runtime generation goes up whether the runtime is thawed or made anew; resuming what runs changes
/// nothing. The ttl is armed again (a later deadline that a refresh gave is kept), the hard ttl is not, but for a
/// sandbox that was cleaned, for which all begins anew.
pub fn resume(record: &SandboxRecord, now_ms: i64) -> Result<Transition, LifecycleError> {
    if record.desired == Desired::Deleted {
        return Err(LifecycleError::Deleted);
    }
    if record.desired == Desired::Active && matches!(record.observed, Observed::Active | Observed::Starting) {
        return Ok(unchanged(record));
    }
    let was_cleaned = record.desired == Desired::Cleaned || record.observed == Observed::Cleaned;
    let mut effects = Vec::new();
    if was_cleaned && record.observed != Observed::Cleaned {
        effects.push(Effect::Destroy { root: true });
    }
    let mut next = accept(record, Desired::Active, now_ms);
    next.runtime_generation += 1;
    next.hibernate_at_ms = None;
    let armed = deadline::after(now_ms, next.ttl_s);
    next.expires_at_ms = if was_cleaned { armed } else { armed.max(next.expires_at_ms.filter(|at| *at > now_ms)) };
    if was_cleaned {
        next.hard_expires_at_ms = deadline::after(now_ms, next.hard_ttl_s);
        forget_runtime(&mut next);
        next.root_id = None;
        next.base = None;
        next.observed = Observed::Cleaned;
    }
    match next.observed {
        Observed::Frozen => effects.push(Effect::Thaw),
        Observed::Hibernated | Observed::Cleaned | Observed::Failed => {
            next.observed = Observed::Starting;
            effects.push(Effect::Launch);
        }
        // A pause was accepted but not done: it is simply taken back.
        Observed::Active | Observed::Starting => {}
    }
    clear_reason(&mut next);
    settle(&mut next);
    Ok(Transition { record: next, effects, changed: true })
}

/// Cleans: the runtime and its files go, the identity stays. Cleaning what is cleaned changes nothing.
pub fn clean(record: &SandboxRecord, code: &'static str, text: &str, now_ms: i64) -> Result<Transition, LifecycleError> {
    match record.desired {
        Desired::Deleted => return Err(LifecycleError::Deleted),
        Desired::Cleaned => return Ok(unchanged(record)),
        Desired::Active | Desired::Paused => {}
    }
    let mut next = accept(record, Desired::Cleaned, now_ms);
    next.expires_at_ms = None;
    next.hard_expires_at_ms = None;
    next.hibernate_at_ms = None;
    set_reason(&mut next, code, text);
    settle(&mut next);
    Ok(with_next_effect(next))
}

/// Deletes. When the effects are done the row can go. Deleting twice is an error, as the first made it gone.
pub fn delete(record: &SandboxRecord, now_ms: i64) -> Result<Transition, LifecycleError> {
    if record.desired == Desired::Deleted {
        return Err(LifecycleError::Deleted);
    }
    let mut next = accept(record, Desired::Deleted, now_ms);
    next.expires_at_ms = None;
    next.hard_expires_at_ms = None;
    next.hibernate_at_ms = None;
    Ok(with_next_effect(next))
}

/// Arms both deadlines again from now. `duration_s` > 0 stands in for the ttl this once; the hard ttl always comes from
/// the configuration. Works on a paused sandbox too, without waking it.
pub fn refresh(record: &SandboxRecord, duration_s: Option<i32>, now_ms: i64) -> Result<Transition, LifecycleError> {
    match record.desired {
        Desired::Deleted => return Err(LifecycleError::Deleted),
        Desired::Cleaned => return Err(LifecycleError::Cleaned),
        Desired::Active | Desired::Paused => {}
    }
    let duration_s = duration_s.unwrap_or(0);
    if duration_s < 0 {
        return Err(Violation::new("duration", "must be 0 or more seconds").into());
    }
    let duration_s = duration_s.unsigned_abs();
    if record.hard_ttl_s > 0 && duration_s > record.hard_ttl_s {
        return Err(Violation::new("duration", format!("{duration_s} s is more than the hard_ttl of {} s", record.hard_ttl_s)).into());
    }
    let mut next = record.clone();
    next.expires_at_ms = deadline::after(now_ms, if duration_s > 0 { duration_s } else { next.ttl_s });
    next.hard_expires_at_ms = deadline::after(now_ms, next.hard_ttl_s);
    next.updated_at_ms = now_ms;
    Ok(Transition { record: next, effects: Vec::new(), changed: true })
}

/// Takes over a configuration that [`crate::validate::update`] made. A deadline whose ttl was named (`ttl`, `hard_ttl`
/// are what the client sent) is armed again from now or switched off.
pub fn reconfigure(record: &SandboxRecord, config: SandboxConfig, ttl: Option<i32>, hard_ttl: Option<i32>, now_ms: i64) -> Result<Transition, LifecycleError> {
    if record.desired == Desired::Deleted {
        return Err(LifecycleError::Deleted);
    }
    let mut next = record.clone();
    next.config = config;
    next.updated_at_ms = now_ms;
    // A cleaned sandbox has nothing that could expire; its deadlines are armed when it is restored.
    let armed = record.desired != Desired::Cleaned;
    if ttl.is_some() {
        next.ttl_s = seconds(ttl);
        next.expires_at_ms = deadline::after(now_ms, next.ttl_s).filter(|_| armed);
    }
    if hard_ttl.is_some() {
        next.hard_ttl_s = seconds(hard_ttl);
        next.hard_expires_at_ms = deadline::after(now_ms, next.hard_ttl_s).filter(|_| armed);
    }
    let changed = next != *record;
    Ok(Transition { record: next, effects: Vec::new(), changed })
}

/// Takes in what was seen. The effects are those that the observation makes due (a pause that was accepted while the
/// runtime was starting, for one).
pub fn observe(record: &SandboxRecord, observation: Observation, now_ms: i64) -> Transition {
    let mut next = record.clone();
    match observation {
        Observation::Started | Observation::Thawed => {
            next.observed = Observed::Active;
            next.hibernate_at_ms = None;
            if next.desired == Desired::Active {
                clear_reason(&mut next);
            }
        }
        Observation::Frozen => {
            next.observed = Observed::Frozen;
            if next.desired == Desired::Paused {
                next.hibernate_at_ms = Some(now_ms.saturating_add(hibernate_after_ms(&next.template)));
            }
        }
        Observation::Hibernated => {
            next.observed = Observed::Hibernated;
            forget_runtime(&mut next);
        }
        Observation::Cleaned => {
            next.observed = Observed::Cleaned;
            forget_runtime(&mut next);
            next.root_id = None;
            next.base = None;
        }
        Observation::LaunchFailed { code, text } => {
            next.observed = Observed::Failed;
            forget_runtime(&mut next);
            set_reason(&mut next, code, &text);
        }
        Observation::RuntimeLost { code, text } => {
            next.observed = Observed::Hibernated;
            forget_runtime(&mut next);
            // Who paused it and why stays the better reason for one that was paused.
            if next.desired == Desired::Active || next.reason_code.is_none() {
                set_reason(&mut next, code, &text);
            }
        }
    }
    next.updated_at_ms = now_ms;
    settle(&mut next);
    with_next_effect(next)
}

/// What closes the gap between intent and truth, if anything does now. A lost runtime whose sandbox is wanted active
/// waits for the next access, so it closes by itself; a start that was interrupted (`Starting` without anybody
/// launching) is for the caller to report as `RuntimeLost`.
pub fn next_effect(record: &SandboxRecord) -> Option<Effect> {
    match (record.desired, record.observed) {
        (Desired::Active, Observed::Frozen) => Some(Effect::Thaw),
        (Desired::Active, Observed::Starting | Observed::Active | Observed::Hibernated | Observed::Cleaned | Observed::Failed) => None,
        (Desired::Paused, Observed::Active) => Some(Effect::Freeze),
        (Desired::Paused, Observed::Starting | Observed::Frozen | Observed::Hibernated | Observed::Cleaned | Observed::Failed) => None,
        (Desired::Cleaned, Observed::Cleaned) => None,
        (Desired::Cleaned, Observed::Starting | Observed::Active | Observed::Frozen | Observed::Hibernated | Observed::Failed) => {
            Some(Effect::Destroy { root: true })
        }
        (Desired::Deleted, Observed::Starting | Observed::Active | Observed::Frozen | Observed::Hibernated | Observed::Cleaned | Observed::Failed) => {
            Some(Effect::Destroy { root: true })
        }
    }
}

/// Milliseconds that a paused sandbox of this template stays frozen.
pub fn hibernate_after_ms(template: &TemplateSpec) -> i64 {
    let after_s = template.lifecycle.as_ref().and_then(|lifecycle| lifecycle.hibernate_after).unwrap_or(limits::HIBERNATE_AFTER_DEFAULT_S);
    i64::from(after_s) * 1000
}

fn seconds(ttl: Option<i32>) -> u32 {
    u32::try_from(ttl.unwrap_or(0)).unwrap_or(0)
}

fn unchanged(record: &SandboxRecord) -> Transition {
    Transition { record: record.clone(), effects: Vec::new(), changed: false }
}

fn accept(record: &SandboxRecord, desired: Desired, now_ms: i64) -> SandboxRecord {
    let mut next = record.clone();
    next.desired = desired;
    next.desired_generation += 1;
    next.updated_at_ms = now_ms;
    next
}

fn with_next_effect(record: SandboxRecord) -> Transition {
    let effects = next_effect(&record).into_iter().collect();
    Transition { record, effects, changed: true }
}

/// Lets the observed generation catch up once the state that was asked for is true.
fn settle(record: &mut SandboxRecord) {
    let true_now = match record.desired {
        Desired::Active => record.observed == Observed::Active,
        Desired::Paused => matches!(record.observed, Observed::Frozen | Observed::Hibernated | Observed::Cleaned),
        Desired::Cleaned => record.observed == Observed::Cleaned,
        Desired::Deleted => false,
    };
    if true_now {
        record.observed_generation = record.desired_generation;
    }
}

fn forget_runtime(record: &mut SandboxRecord) {
    if let Some(ended) = record.runtime_id.take() {
        record.previous_runtime_id = Some(ended);
    }
    record.pid = None;
    record.pid_start = None;
    record.hibernate_at_ms = None;
}

fn set_reason(record: &mut SandboxRecord, code: &str, text: &str) {
    let mut end = text.len().min(limits::REASON_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    record.reason_code = Some(code.to_owned());
    record.reason = Some(text[..end].to_owned());
}

fn clear_reason(record: &mut SandboxRecord) {
    record.reason_code = None;
    record.reason = None;
}

/// The sentence that goes with a reason's code when nobody knows more.
pub fn reason_text(code: &str) -> &'static str {
    match code {
        reason::USER_REQUEST => "a client asked for it",
        reason::TTL_EXPIRED => "its ttl passed",
        reason::HARD_TTL_EXPIRED => "its hard_ttl passed",
        reason::HIBERNATE_AFTER => "it was paused for long, so only its files are kept",
        reason::MEMORY_PRESSURE => "the machine needed its memory",
        reason::RESTARTED => "the machine or the server was restarted",
        reason::RUNTIME_EXITED => "its first process ended",
        reason::OUT_OF_MEMORY => "it ran out of memory",
        reason::LAUNCH_FAILED => "it could not be started",
        _ => "for a reason that this version does not know",
    }
}

#[cfg(test)]
mod tests;
