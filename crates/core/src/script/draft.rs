//! A script as its owner describes it: the fields of a request, checked one by one.

use serde_json::{Map, Value};

use super::{
    Access, AuthorKind, ConcurrencyPolicy, Language, MissedRunPolicy, Retry, RunAs, Schedule, ScriptSpec, Trigger, capability, fetch_allow::FetchAllow,
};
use crate::{limits, validate::Violation};

#[cfg(test)]
mod tests;

/// What a script is or becomes, but for its code.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Draft {
    pub name: String,
    pub trigger: Option<Trigger>,
    pub pattern: Option<String>,
    pub active: bool,
    pub spec: ScriptSpec,
    pub code: CodeChange,
}

/// What a request says of the code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CodeChange {
    pub source: Option<String>,
    pub language: Option<Language>,
    /// Whether the author was named, and who it is.
    pub author: Option<Option<AuthorKind>>,
}

/// Fields of a reply that nobody sets.
pub const READ_ONLY: [&str; 8] = ["id", "version", "hash", "aliases", "secrets", "createdAt", "updatedAt", "nextRunAt"];
const SCHEDULE_FIELDS: [&str; 6] = ["timezone", "missedRunPolicy", "missedRunsMax", "startingDeadlineSeconds", "concurrencyPolicy", "jitterSeconds"];
const RETRY_FIELDS: [&str; 2] = ["maxAttempts", "maxAgeSeconds"];
const FIELDS: &str = "name, trigger, pattern, code, language, timeoutMs, active, authorKind, trusted, access, runAs, capabilities, fetchAllow, concurrency, memoryMb, cpuMs, retry, schedule, deterministic and description";

impl Draft {
    /// A script that nothing was said of.
    pub fn new() -> Self {
        Self { active: true, ..Self::default() }
    }

    /// Takes the fields of a request and says what is wrong with them. `before` is what the script was, or [`Draft::new`]: what a
    /// request does not name stays, but for what another trigger has no use for, which goes by itself.
    pub fn take(&mut self, fields: &Map<String, Value>, before: &Self) -> Vec<Violation> {
        let mut wrong = Vec::new();
        for (field, value) in fields {
            if let Err(message) = self.take_field(field, value) {
                wrong.push(Violation::new(field.as_str(), message));
            }
        }
        if let (Some(kind), Some(trusted)) = (fields.get("authorKind"), fields.get("trusted").and_then(Value::as_bool))
            && (kind == "operator") != trusted
        {
            wrong.push(Violation::new("trusted", "says other than authorKind; trusted is what authorKind operator is"));
        }
        // Without a trigger nobody knows what belongs to it.
        if !names(&wrong, "trigger") {
            let clashes = self.settle(fields, before);
            wrong.extend(clashes.into_iter().filter(|clash| !names(&wrong, &clash.path)).collect::<Vec<_>>());
        }
        wrong
    }

    /// What a whole script lacks.
    pub fn lacks(&self) -> Vec<Violation> {
        let mut wrong = Vec::new();
        if self.name.is_empty() {
            wrong.push(Violation::new("name", "is required"));
        }
        if self.code.source.is_none() {
            wrong.push(Violation::new("code", "is required"));
        }
        wrong
    }

    /// Brings what belongs to a trigger in line with it. Who sends back what was there says nothing by it. Whether a pattern is one is
    /// asked elsewhere.
    fn settle(&mut self, fields: &Map<String, Value>, before: &Self) -> Vec<Violation> {
        let (trigger, was) = (self.trigger.unwrap_or(Trigger::Http), before.trigger.unwrap_or(Trigger::Http));
        let mut wrong = Vec::new();
        if trigger != was && (!fields.contains_key("pattern") || trigger == Trigger::Http && self.pattern == before.pattern) {
            self.pattern = None;
        }
        match (trigger, &self.pattern) {
            (Trigger::Http, Some(_)) => wrong.push(Violation::new("pattern", "must be null for the trigger http: it is for the triggers event and cron")),
            (Trigger::Event, None) => wrong.push(Violation::new("pattern", "is required for the trigger event, for example items:posts:*")),
            (Trigger::Cron, None) => wrong.push(Violation::new("pattern", "is required for the trigger cron, for example */5 * * * *")),
            (Trigger::Http, None) | (Trigger::Event | Trigger::Cron, Some(_)) => {}
        }
        if trigger != Trigger::Cron {
            if fields.contains_key("schedule") && self.spec.schedule != before.spec.schedule {
                wrong.push(Violation::new("schedule", format!("is for the trigger cron; the trigger of this function is {}", trigger.as_str())));
            }
            self.spec.schedule = Schedule::default();
        }
        wrong
    }

    fn take_field(&mut self, field: &str, value: &Value) -> Result<(), String> {
        let spec = &mut self.spec;
        match field {
            "name" => {
                let name = text(value)?;
                if !is_name(name) {
                    return Err(format!("must match ^[a-z][a-z0-9_-]*$ and have at most {} characters", limits::SCRIPT_NAME_MAX_CHARS));
                }
                if is_uuid(name) {
                    return Err("must not look like an id".to_owned());
                }
                self.name = name.to_owned();
            }
            "trigger" => self.trigger = Some(one_of(value, Trigger::named, Trigger::ALL.map(Trigger::as_str).as_slice())?),
            "pattern" => self.pattern = nullable(value, bounded::<{ limits::SCRIPT_PATTERN_MAX_BYTES }>)?,
            "code" => {
                let code = text(value)?;
                if code.trim().is_empty() {
                    return Err("must not be empty: it is the body of an async function".to_owned());
                }
                if code.len() > limits::SCRIPT_CODE_MAX_BYTES {
                    return Err(format!("has {} bytes; at most {} are allowed", code.len(), limits::SCRIPT_CODE_MAX_BYTES));
                }
                self.code.source = Some(code.to_owned());
            }
            "language" => self.code.language = Some(one_of(value, Language::named, Language::ALL.map(Language::as_str).as_slice())?),
            "authorKind" => {
                self.code.author = Some(nullable(value, |value| one_of(value, AuthorKind::named, AuthorKind::ALL.map(AuthorKind::as_str).as_slice()))?)
            }
            "trusted" => {
                let trusted = boolean(value)?;
                self.code.author.get_or_insert(if trusted { Some(AuthorKind::Operator) } else { None });
            }
            "active" => self.active = boolean(value)?,
            "description" => spec.description = nullable(value, bounded::<{ limits::TEXT_MAX_CHARS }>)?,
            "timeoutMs" => spec.timeout_ms = nullable(value, |value| integer(value, limits::SCRIPT_TIMEOUT_MIN_MS, limits::SCRIPT_TIMEOUT_MAX_MS))?,
            "cpuMs" => spec.cpu_ms = nullable(value, |value| integer(value, 1, limits::SCRIPT_TIMEOUT_MAX_MS))?,
            "memoryMb" => spec.memory_mb = nullable(value, |value| integer(value, limits::SCRIPT_MEMORY_MIN_MB, limits::SCRIPT_MEMORY_MAX_MB))?,
            "concurrency" => spec.concurrency = nullable(value, |value| integer(value, 1, limits::SCRIPT_CONCURRENCY_MAX))?,
            "access" => spec.access = one_of(value, Access::named, Access::ALL.map(Access::as_str).as_slice())?,
            "runAs" => {
                spec.run_as = RunAs::named(text(value)?)
                    .ok_or_else(|| "must be caller, system or serviceAccount:NAME, where NAME matches ^[a-z][a-z0-9_-]*$".to_owned())?;
            }
            "capabilities" => spec.capabilities = nullable(value, capabilities)?,
            "fetchAllow" => spec.fetch_allow = nullable(value, fetch_allow)?,
            "deterministic" => spec.deterministic = boolean(value)?,
            "retry" => self.take_retry(value)?,
            "schedule" => self.take_schedule(value)?,
            field if READ_ONLY.contains(&field) => return Err(format!("is set by the server and cannot be set; what can be set is {FIELDS}")),
            field if SCHEDULE_FIELDS.contains(&field) => return Err(format!("is a field of schedule: {{\"schedule\": {{\"{field}\": ...}}}}")),
            field if RETRY_FIELDS.contains(&field) => return Err(format!("is a field of retry: {{\"retry\": {{\"{field}\": ...}}}}")),
            _ => return Err(format!("is no field of a function; there are {FIELDS}")),
        }
        Ok(())
    }

    fn take_retry(&mut self, value: &Value) -> Result<(), String> {
        let retry = &mut self.spec.retry;
        if value.is_null() {
            *retry = Retry::default();
            return Ok(());
        }
        each_field(value, |field, value| {
            match field {
                "maxAttempts" => retry.max_attempts = integer(value, 1, limits::SCRIPT_ATTEMPTS_MAX)?,
                "maxAgeSeconds" => retry.max_age_seconds = integer(value, 1, limits::SCRIPT_RETRY_AGE_MAX_S)?,
                _ => return Err("is not known; there are maxAttempts and maxAgeSeconds".to_owned()),
            }
            Ok(())
        })
    }

    fn take_schedule(&mut self, value: &Value) -> Result<(), String> {
        let schedule = &mut self.spec.schedule;
        if value.is_null() {
            *schedule = Schedule::default();
            return Ok(());
        }
        each_field(value, |field, value| {
            match field {
                "timezone" => schedule.timezone = bounded::<64>(value)?,
                "missedRunPolicy" => {
                    schedule.missed_run_policy = one_of(value, MissedRunPolicy::named, MissedRunPolicy::ALL.map(MissedRunPolicy::as_str).as_slice())?;
                }
                "missedRunsMax" => schedule.missed_runs_max = integer(value, 1, limits::SCRIPT_MISSED_RUNS_MAX)?,
                "startingDeadlineSeconds" => {
                    schedule.starting_deadline_seconds = nullable(value, |value| integer(value, 1, limits::SCRIPT_STARTING_DEADLINE_MAX_S))?;
                }
                "concurrencyPolicy" => {
                    schedule.concurrency_policy = one_of(value, ConcurrencyPolicy::named, ConcurrencyPolicy::ALL.map(ConcurrencyPolicy::as_str).as_slice())?;
                }
                "jitterSeconds" => schedule.jitter_seconds = integer(value, 0, limits::SCRIPT_JITTER_MAX_S)?,
                _ => {
                    return Err(
                        "is not known; there are timezone, missedRunPolicy, missedRunsMax, startingDeadlineSeconds, concurrencyPolicy and jitterSeconds"
                            .to_owned(),
                    );
                }
            }
            Ok(())
        })
    }
}

/// Whether something is said already of a field.
fn names(wrong: &[Violation], field: &str) -> bool {
    wrong.iter().any(|violation| violation.path == field)
}

/// Whether a text can be the name of a script.
pub fn is_name(text: &str) -> bool {
    text.len() <= limits::SCRIPT_NAME_MAX_CHARS
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// Whether a text can be the slug of a collection, as far as a capability has to know.
pub(super) fn is_slug(text: &str) -> bool {
    (1..=limits::SCRIPT_NAME_MAX_CHARS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether a text can be the name of a script's secret.
pub fn is_secret_name(text: &str) -> bool {
    text.len() <= limits::SCRIPT_SECRET_NAME_MAX_CHARS
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.')
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().enumerate().all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("must be a text, not {}", kind_of(value)))
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("must be true or false, not {}", kind_of(value)))
}

fn integer(value: &Value, min: u32, max: u32) -> Result<u32, String> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
}

fn bounded<const MAX: usize>(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    match text.len() {
        0 => Err("must not be empty".to_owned()),
        len if len > MAX => Err(format!("has {len} bytes; at most {MAX} are allowed")),
        _ if text.contains('\0') => Err("must not hold a zero byte".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

fn nullable<T>(value: &Value, read: impl FnOnce(&Value) -> Result<T, String>) -> Result<Option<T>, String> {
    if value.is_null() { Ok(None) } else { read(value).map(Some) }
}

fn one_of<T>(value: &Value, named: impl FnOnce(&str) -> Option<T>, all: &[&str]) -> Result<T, String> {
    value.as_str().and_then(named).ok_or_else(|| format!("must be one of {}", all.join(", ")))
}

fn texts(value: &Value, max: usize) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("must be a list of texts or null, not {}", kind_of(value)))?;
    if list.len() > max {
        return Err(format!("has {} entries; at most {max} are allowed", list.len()));
    }
    list.iter().map(|value| text(value).map(str::to_owned)).collect()
}

fn capabilities(value: &Value) -> Result<Vec<String>, String> {
    let list = texts(value, limits::SCRIPT_CAPABILITIES_MAX)?;
    match list.iter().find(|capability| !capability::is_known(capability)) {
        Some(unknown) => Err(format!("{:?} is no capability; there are {}", cut(unknown), capability::KNOWN)),
        None => Ok(list),
    }
}

fn fetch_allow(value: &Value) -> Result<Vec<String>, String> {
    let list: Vec<String> = texts(value, limits::SCRIPT_OWN_FETCH_ALLOW_MAX)?.into_iter().map(|entry| entry.trim().to_owned()).collect();
    if let Some(long) = list.iter().find(|entry| entry.len() > limits::SCRIPT_OWN_FETCH_ALLOW_MAX_BYTES) {
        return Err(format!("an entry has {} bytes; at most {} are allowed", long.len(), limits::SCRIPT_OWN_FETCH_ALLOW_MAX_BYTES));
    }
    FetchAllow::of(list.iter().map(String::as_str)).map_err(|error| error.to_string())?;
    Ok(list)
}

fn each_field(value: &Value, mut take: impl FnMut(&str, &Value) -> Result<(), String>) -> Result<(), String> {
    let fields = value.as_object().ok_or_else(|| format!("must be an object, not {}", kind_of(value)))?;
    for (field, value) in fields {
        take(field, value).map_err(|message| format!("{} {message}", cut(field)))?;
    }
    Ok(())
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
