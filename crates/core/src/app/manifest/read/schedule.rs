//! Schedules.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    super::{
        Budget, Quotas, Rate, Retention, START,
        diagnostic::Code,
        schedule::{RuntimePolicy, Schedule, Target, When},
        yaml::Data,
    },
    checks::Names,
    command::{command_name, command_text},
    parts,
    spot::{Fields, Out, Spot, meant},
};
use crate::{
    app::inputs::InputSchema,
    limits::{self as all, app_runs as runs, apps as limits},
    script::{self, cron, draft},
};

const KEYS: &[&str] = &[
    "name",
    "cron",
    "rate",
    "once",
    "scheduleExpression",
    "scheduleType",
    "timezone",
    "enabled",
    "startAt",
    "endAt",
    "maxRuns",
    "runtimePolicy",
    "action",
    "actionName",
    "command",
    "target",
    "requiresStart",
    "budget",
    "resources",
    "quotas",
    "retentionPolicy",
    "env",
    "input",
    "missedRunPolicy",
    "missedRunsMax",
    "startingDeadlineSeconds",
    "concurrencyPolicy",
    "jitterSeconds",
];
const WHEN: [&str; 4] = ["cron", "rate", "once", "scheduleExpression"];
const TARGETS: [&str; 4] = ["action", "actionName", "command", "target"];
const QUOTAS: [(&str, Code, &str); 4] = [
    ("idleTimeoutSeconds", Code::UnsupportedKey, "has no meaning here: the sandbox of a run ends with the run"),
    ("maxCommands", Code::UnsupportedKey, "has no meaning here: a run is one command"),
    ("maxOpenPorts", Code::UnsupportedKey, "has no meaning here: only declared ports are open"),
    ("maxSnapshots", Code::UnsupportedKey, "has no meaning here: a run takes no snapshots"),
];

pub fn schedules(fields: &Fields<'_>, out: &mut Out, names: &Names, inputs: Option<&InputSchema>) -> Vec<Schedule> {
    let mut seen: Vec<String> = Vec::new();
    let schedules = fields.each("schedules", out, limits::APP_SCHEDULES_MAX, |spot, out| schedule(spot, out, names, inputs, &mut seen));
    schedules.into_iter().flatten().collect()
}

fn schedule(spot: &Spot<'_>, out: &mut Out, names: &Names, inputs: Option<&InputSchema>, seen: &mut Vec<String>) -> Option<Schedule> {
    let fields = spot.fields(out, KEYS)?;
    let name = fields.require("name", out).and_then(|spot| {
        let name = command_name(&spot, out, limits::APP_SCHEDULE_NAME_MAX_CHARS)?;
        if seen.iter().any(|before| before == name) {
            spot.wrong(out, Code::DuplicateName, format!("{name:?} is the name of another schedule"));
        }
        seen.push(name.to_owned());
        Some(name.to_owned())
    });
    let policy = policy(&fields, out);
    let when = when(&fields, out, &policy.timezone);
    let (start_at, end_at) = (moment(&fields, "startAt", out), moment(&fields, "endAt", out));
    if let (Some(start), Some(end), Some(spot)) = (start_at, end_at, fields.get("endAt"))
        && end <= start
    {
        spot.wrong(out, Code::OutOfRange, "must be after startAt");
    }
    let requires_start = fields.get("requiresStart").and_then(|spot| spot.boolean(out));
    if let Some(spot) = fields.get("requiresStart").filter(|_| requires_start == Some(true) && !names.has_start_command) {
        spot.wrong(out, Code::RequiresStartWithoutStart, "there is no start.command that could be started");
    }
    let max_runs = fields.get("maxRuns").filter(|spot| !matches!(spot.node.data, Data::Null));
    let target = target(&fields, out, names);
    let schedule = Schedule {
        name: name.unwrap_or_default(),
        when: when.unwrap_or_else(|| When::Cron(String::new())),
        policy,
        enabled: fields.boolean("enabled", out, true),
        start_at,
        end_at,
        max_runs: max_runs.and_then(|spot| spot.integer(out, 1, limits::APP_SCHEDULE_RUNS_MAX)),
        // Of one that is wrong the rest is looked at all the same.
        target: target.unwrap_or_else(|| Target::Command { command: String::new() }),
        requires_start,
        runtime_policy: fields.one_of("runtimePolicy", out, RuntimePolicy::named, RuntimePolicy::NAMES).unwrap_or_default(),
        resources: fields.get("resources").map(|spot| parts::resources(&spot, out)).unwrap_or_default(),
        budget: fields.get("budget").and_then(|spot| {
            let fields = spot.fields(out, &["maxUsd"])?;
            Some(Budget { max_usd: fields.require("maxUsd", out)?.amount(out, limits::APP_BUDGET_MAX_USD)? })
        }),
        quotas: fields.get("quotas").and_then(|spot| {
            let fields = spot.fields_refusing(out, &["maxDurationSeconds", "maxSpendUsd"], &QUOTAS)?;
            Some(Quotas {
                max_duration_seconds: fields.integer("maxDurationSeconds", out, 1, limits::APP_COMMAND_TIMEOUT_MAX_S),
                max_spend_usd: fields.get("maxSpendUsd").and_then(|spot| spot.amount(out, limits::APP_BUDGET_MAX_USD)),
            })
        }),
        retention_policy: fields.get("retentionPolicy").and_then(|spot| {
            let fields = spot.fields(out, &["keepLast"])?;
            Some(Retention { keep_last: fields.require("keepLast", out)?.integer(out, 1, runs::RUN_STOPPED_KEPT_MAX)? })
        }),
        env: parts::env(&fields, out),
        input: input(&fields, out),
    };
    if schedule.runtime_policy == RuntimePolicy::UseExistingRunning && fields.get("resources").is_some() {
        fields.conflict("resources", out, "the app sandbox has its resources already");
    }
    if schedule.runtime_policy != RuntimePolicy::RunAndStop && fields.get("retentionPolicy").is_some() {
        fields.conflict("retentionPolicy", out, "goes with runtimePolicy run_and_stop: no other keeps sandboxes");
    }
    if schedule.target == Target::Start {
        if schedule.runtime_policy == RuntimePolicy::UseExistingRunning {
            fields.conflict("runtimePolicy", out, "the start command of an app that is online runs already; let the schedule run an action or a service");
        }
        if schedule.requires_start == Some(true) {
            fields.conflict("requiresStart", out, "the schedule runs the start command itself");
        }
    }
    if matches!(schedule.target, Target::Action { .. })
        && schedule.input.is_some() == fields.get("input").is_some()
        && let Some(wrong) = inputs.and_then(|inputs| inputs.apply(schedule.input.as_ref()).err())
    {
        for violation in wrong {
            let (code, message) = (Code::InvalidValue, format!("is not as inputs.schema wants it: {violation}"));
            match fields.get("input") {
                Some(spot) => spot.wrong(out, code, message),
                None => out.push(format!("{}.input", fields.path), fields.at, Code::Missing, message),
            }
        }
    }
    Some(schedule)
}

/// What schedules of scripts say, too, is read by what reads theirs.
fn policy(fields: &Fields<'_>, out: &mut Out) -> script::Schedule {
    let mut policy = script::Schedule::default();
    for spot in draft::SCHEDULE_FIELDS.into_iter().filter_map(|field| Some((field, fields.get(field)?))) {
        let (field, spot) = spot;
        let value = spot.node.to_json().unwrap_or(Value::Null);
        if let Some(Err(message)) = draft::take_schedule_field(&mut policy, field, &value) {
            let code = match spot.node.data {
                Data::Int(..) if field != "timezone" => Code::OutOfRange,
                Data::Text(_) if !field.ends_with('s') && !field.ends_with("Max") => Code::InvalidValue,
                _ => Code::InvalidType,
            };
            spot.wrong(out, code, message);
            continue;
        }
        if field == "timezone"
            && let Err(message) = cron::Schedule::parse("* * * * *", &policy.timezone)
        {
            spot.wrong(out, Code::InvalidValue, message);
            policy.timezone = script::Schedule::default().timezone;
        }
    }
    policy
}

fn when(fields: &Fields<'_>, out: &mut Out, timezone: &str) -> Option<When> {
    let said: Vec<&str> = WHEN.into_iter().filter(|key| fields.get(key).is_some()).collect();
    let Some((_, more)) = said.split_first() else {
        fields.wrong(out, Code::Missing, "needs one of cron, rate or once");
        return None;
    };
    for key in more {
        fields.conflict(key, out, "only one of cron, rate, once and scheduleExpression can be said");
    }
    if fields.get("scheduleExpression").is_none() && fields.get("scheduleType").is_some() {
        fields.conflict("scheduleType", out, "goes with scheduleExpression");
    }
    // Each is looked at, also where only one can be.
    let mut read = said.into_iter().map(|key| when_of(key, fields, out, timezone));
    let first = read.next()?;
    read.for_each(drop);
    first
}

fn when_of(key: &str, fields: &Fields<'_>, out: &mut Out, timezone: &str) -> Option<When> {
    let spot = fields.get(key)?;
    if key != "scheduleExpression" {
        return moments(&spot, key, out, timezone);
    }
    let kinds = &WHEN[..3];
    let kind = fields.require("scheduleType", out)?.one_of(out, |text| kinds.iter().find(|kind| **kind == text), kinds)?;
    moments(&spot, kind, out, timezone)
}

fn moments(spot: &Spot<'_>, kind: &str, out: &mut Out, timezone: &str) -> Option<When> {
    let text = spot.text(out, all::SCRIPT_CRON_MAX_BYTES)?;
    let read = match kind {
        "cron" => {
            let pattern = text.trim();
            let pattern = pattern.strip_prefix("cron(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(pattern);
            cron::Schedule::parse(pattern, timezone).map(|_| When::Cron(pattern.to_owned()))
        }
        "rate" => text.parse::<Rate>().map(When::Rate),
        _ => instant(text).map(When::Once),
    };
    read.map_err(|message| spot.wrong(out, Code::InvalidValue, message)).ok()
}

fn moment(fields: &Fields<'_>, key: &str, out: &mut Out) -> Option<Timestamp> {
    let spot = fields.get(key)?;
    instant(spot.text(out, all::NAME_MAX_CHARS)?).map_err(|message| spot.wrong(out, Code::InvalidValue, message)).ok()
}

/// RFC 3339. The library reads more forms; what has the right length and these characters in their places is one of it.
fn instant(text: &str) -> Result<Timestamp, String> {
    let form = text.bytes().take(19).zip(*b"dddd-dd-ddTdd:dd:dd").all(|(byte, form)| if form == b'd' { byte.is_ascii_digit() } else { byte == form });
    text.parse().ok().filter(|_| form && text.len() > 19).ok_or_else(|| "must be a moment as RFC 3339 writes it, such as 2027-01-31T09:00:00Z".to_owned())
}

fn target(fields: &Fields<'_>, out: &mut Out, names: &Names) -> Option<Target> {
    let said: Vec<&str> = TARGETS.into_iter().filter(|key| fields.get(key).is_some()).collect();
    let Some((_, more)) = said.split_first() else {
        fields.wrong(out, Code::Missing, "needs one of action, command or target");
        return None;
    };
    for key in more {
        fields.conflict(key, out, "only one of action, actionName, command and target can be said");
    }
    let mut read = said.into_iter().map(|key| target_of(key, fields, out, names));
    let first = read.next()?;
    read.for_each(drop);
    first
}

fn target_of(key: &str, fields: &Fields<'_>, out: &mut Out, names: &Names) -> Option<Target> {
    let spot = fields.get(key)?;
    match key {
        "action" | "actionName" => action(&spot, out, names),
        "command" => Some(Target::Command { command: command_text(&spot, out)? }),
        _ => target_object(&spot, out, names),
    }
}

fn target_object(spot: &Spot<'_>, out: &mut Out, names: &Names) -> Option<Target> {
    let kinds: &[&str] = &["start", "action", "service", "command"];
    let kind = spot.mapping(out)?.require("kind", out)?.one_of(out, |text| kinds.iter().find(|kind| **kind == text), kinds)?;
    let keys: &[&str] = match *kind {
        "start" => &["kind"],
        "action" => &["kind", "name", "actionName"],
        "service" => &["kind", "name", "serviceName"],
        _ => &["kind", "command"],
    };
    let fields = spot.fields(out, keys)?;
    let named = |other: &str, out: &mut Out| {
        if fields.get("name").is_some() && fields.get(other).is_some() {
            fields.conflict(other, out, "says the same as name");
        }
        fields.get(other).or_else(|| fields.require("name", out))
    };
    match *kind {
        "start" => {
            if !names.has_start_command {
                spot.wrong(out, Code::ScheduleTargetMissing, format!("schedule start target does not exist: {START}"));
            }
            Some(Target::Start)
        }
        "action" => action(&named("actionName", out)?, out, names),
        "service" => {
            let spot = named("serviceName", out)?;
            let name = spot.text(out, limits::APP_COMMAND_NAME_MAX_CHARS)?;
            if !names.has_service(name) {
                spot.wrong(out, Code::ScheduleTargetMissing, format!("schedule service target does not exist: {name}{}", meant(name, names.service_names())));
            }
            Some(Target::Service { name: name.to_owned() })
        }
        _ => Some(Target::Command { command: fields.require("command", out).and_then(|spot| command_text(&spot, out))? }),
    }
}

fn action(spot: &Spot<'_>, out: &mut Out, names: &Names) -> Option<Target> {
    let name = spot.text(out, limits::APP_COMMAND_NAME_MAX_CHARS)?;
    if !names.actions.iter().any(|action| action == name) {
        spot.wrong(
            out,
            Code::ScheduleTargetMissing,
            format!("schedule action target does not exist: {name}{}", meant(name, names.actions.iter().map(String::as_str))),
        );
    }
    Some(Target::Action { name: name.to_owned() })
}

fn input(fields: &Fields<'_>, out: &mut Out) -> Option<Value> {
    let spot = fields.get("input")?;
    spot.mapping(out)?;
    let value = spot.node.to_json();
    if value.is_none() {
        spot.wrong(out, Code::InvalidValue, "holds a number that JSON does not have, such as .inf or .nan");
    }
    value
}
