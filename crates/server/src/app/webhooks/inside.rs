//! What the agent tells, as events. It lives in the sandbox and is not trusted: all of it is bounded here once more.

use sandbar_core::{
    limits,
    sandbox::SandboxRecord,
    text::cut,
    webhook::{Change, Kind, is_event_id},
};
use sandbar_procd_api::{ContextState, ContextType, Event, EventKind};
use sandbar_store::NewDelivery;
use serde_json::{Map, Value, json};

use super::delivery;

/// What a webhook is told of an event inside; nothing of many.
pub(crate) fn of_event(record: &SandboxRecord, event: Event) -> Option<NewDelivery> {
    let at_ms = i64::try_from(event.at_ms).unwrap_or(i64::MAX);
    match event.kind {
        EventKind::ProcessStarted { context_id, kind, pid, alias, command, cwd, pty_size, term } => {
            let mut payload = process(&context_id, kind, Some(pid));
            payload.insert("command".into(), json!(command_of(command)));
            payload.insert("cwd".into(), bounded(&cwd.unwrap_or_default()).into());
            payload.insert("alias".into(), bounded(&alias.unwrap_or_default()).into());
            if let Some(size) = pty_size {
                payload.insert("pty_size".into(), json!(size));
            }
            if let Some(term) = term {
                payload.insert("term".into(), bounded(&term).into());
            }
            Some(delivery(None, Kind::ProcessStarted, at_ms, record, &payload.into()))
        }
        EventKind::ProcessExited { context_id, kind, exit_code, state, reason, pid, signal, duration_ms, stdout_preview, stderr_preview } => {
            let mut payload = process(&context_id, kind, pid);
            payload.insert("exit_code".into(), exit_code.into());
            payload.insert("duration_ms".into(), duration_ms.unwrap_or_default().into());
            payload.insert("stdout_preview".into(), cut(&stdout_preview, limits::WEBHOOK_PREVIEW_MAX_BYTES).into());
            payload.insert("stderr_preview".into(), cut(&stderr_preview, limits::WEBHOOK_PREVIEW_MAX_BYTES).into());
            payload.insert("state".into(), json!(state));
            if let Some(reason) = reason {
                payload.insert("reason".into(), bounded(&reason).into());
            }
            // An older agent does not tell the signal; then the state is all there is.
            let crashed = signal.is_some() || state == ContextState::Killed;
            let kind = if crashed { Kind::ProcessCrashed } else { Kind::ProcessExited };
            Some(delivery(None, kind, at_ms, record, &payload.into()))
        }
        EventKind::Published { event_id, payload } => {
            let fits = payload.to_string().len() <= limits::WEBHOOK_PAYLOAD_MAX_BYTES;
            let id = Some(event_id).filter(|id| is_event_id(id));
            fits.then(|| delivery(id, Kind::Agent, at_ms, record, &payload))
        }
        EventKind::OutOfMemory { .. } | EventKind::Heartbeat | EventKind::Unknown => None,
    }
}

/// What a webhook is told of a change of a file.
pub(crate) fn of_change(record: &SandboxRecord, change: &Change, at_ms: i64) -> NewDelivery {
    let mut payload = json!({ "event_type": bounded(&change.event), "path": bounded(&change.path) });
    if let Some(old_path) = &change.old_path {
        payload["old_path"] = bounded(old_path).into();
    }
    delivery(None, Kind::FileModified, at_ms, record, &payload)
}

fn process(context_id: &str, kind: ContextType, pid: Option<u32>) -> Map<String, Value> {
    let mut payload = Map::new();
    payload.insert("process_id".into(), bounded(context_id).into());
    payload.insert("process_type".into(), json!(kind));
    payload.insert("pid".into(), pid.unwrap_or_default().into());
    payload
}

fn command_of(command: Option<Vec<String>>) -> Vec<String> {
    let mut left = limits::WEBHOOK_FIELD_MAX_BYTES;
    let mut shown = Vec::new();
    // Each argument counts for one byte at least, so that many empty ones are bounded, too.
    for argument in command.unwrap_or_default() {
        if left == 0 {
            break;
        }
        let part = cut(&argument, left).to_owned();
        left = left.saturating_sub(part.len().max(1));
        shown.push(part);
    }
    shown
}

fn bounded(text: &str) -> &str {
    cut(text, limits::WEBHOOK_FIELD_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};
    use sandbar_core::lifecycle::{self, Claim};
    use sandbar_procd_api::PtySize;

    use super::*;

    fn record() -> SandboxRecord {
        let claim = Claim {
            id: "sb-1".into(),
            team_id: "team".into(),
            user_id: "user".into(),
            template_id: "default".into(),
            template: TemplateSpec::default(),
            config: SandboxConfig { env_vars: Some([("TOKEN".to_owned(), "hush".to_owned())].into()), ..SandboxConfig::default() },
            mounts: Vec::new(),
            base: None,
        };
        lifecycle::claim(claim, 0)
    }

    fn told(kind: EventKind) -> Option<(Kind, Value)> {
        let told = of_event(&record(), Event { seq: 1, at_ms: 1500, kind })?;
        let body: Value = serde_json::from_str(&told.body).expect("JSON");
        assert_eq!((&body["event_id"], &body["timestamp"]), (&json!(told.event_id), &json!("1970-01-01T00:00:01.5Z")));
        assert_eq!((&body["sandbox_id"], &body["team_id"], &body["event_type"]), (&json!("sb-1"), &json!("team"), &json!(told.kind.as_str())));
        assert!(!told.body.contains("hush"));
        Some((told.kind, body["payload"].clone()))
    }

    fn exited(exit_code: i32, state: ContextState, signal: Option<i32>) -> EventKind {
        EventKind::ProcessExited {
            context_id: "ctx-1".into(),
            kind: ContextType::Cmd,
            exit_code,
            state,
            reason: None,
            pid: Some(7),
            signal,
            duration_ms: Some(12),
            stdout_preview: "out".into(),
            stderr_preview: "err".into(),
        }
    }

    #[test]
    fn processes_are_told_field_by_field() {
        let started = EventKind::ProcessStarted {
            context_id: "ctx-1".into(),
            kind: ContextType::Repl,
            pid: 7,
            alias: Some("python".into()),
            command: None,
            cwd: Some("/workspace".into()),
            pty_size: Some(PtySize { rows: 2, cols: 3 }),
            term: Some("xterm".into()),
        };
        let wanted = json!({ "process_id": "ctx-1", "process_type": "repl", "pid": 7, "command": [], "cwd": "/workspace", "alias": "python", "pty_size": { "rows": 2, "cols": 3 }, "term": "xterm" });
        assert_eq!(told(started), Some((Kind::ProcessStarted, wanted)));
        let wanted = json!({ "process_id": "ctx-1", "process_type": "cmd", "pid": 7, "exit_code": 3, "duration_ms": 12, "stdout_preview": "out", "stderr_preview": "err", "state": "crashed" });
        assert_eq!(told(exited(3, ContextState::Crashed, None)), Some((Kind::ProcessExited, wanted)));
        for (code, state, signal, wanted) in [
            (0, ContextState::Stopped, None, Kind::ProcessExited),
            (139, ContextState::Crashed, Some(11), Kind::ProcessCrashed),
            (137, ContextState::Killed, Some(9), Kind::ProcessCrashed),
        ] {
            assert_eq!(told(exited(code, state, signal)).map(|(kind, _)| kind), Some(wanted), "{code}");
        }
        assert_eq!(told(EventKind::Heartbeat), None);
    }

    #[test]
    fn what_comes_from_inside_is_bounded() {
        let long = "x".repeat(1 << 20);
        let started = EventKind::ProcessStarted {
            context_id: long.clone(),
            kind: ContextType::Cmd,
            pid: 7,
            alias: Some(long.clone()),
            command: Some(std::iter::repeat_n(String::new(), 100_000).chain([long.clone()]).collect()),
            cwd: Some(long.clone()),
            pty_size: None,
            term: Some(long.clone()),
        };
        let told_size = |kind| told(kind).map_or(0, |(_, payload)| payload.to_string().len());
        assert!(told_size(started) < 10 * limits::WEBHOOK_FIELD_MAX_BYTES);
        let EventKind::ProcessExited { context_id, kind, exit_code, state, pid, signal, duration_ms, .. } = exited(1, ContextState::Crashed, None) else {
            return;
        };
        let large = EventKind::ProcessExited {
            context_id,
            kind,
            exit_code,
            state,
            pid,
            signal,
            duration_ms,
            reason: Some(long.clone()),
            stdout_preview: long.clone(),
            stderr_preview: long.clone(),
        };
        assert!(told_size(large) < 2 * limits::WEBHOOK_FIELD_MAX_BYTES + 2 * limits::WEBHOOK_PREVIEW_MAX_BYTES);
        assert_eq!(told(EventKind::Published { event_id: "a".into(), payload: long.into() }), None, "the agent lets no such thing pass");
    }

    #[test]
    fn nobody_inside_takes_the_ids_of_the_server() {
        let id = |event_id: &str| {
            let kind = EventKind::Published { event_id: event_id.into(), payload: json!({ "n": 1 }) };
            of_event(&record(), Event { seq: 1, at_ms: 1, kind }).expect("is told").event_id
        };
        assert_eq!(id("job-1"), "job-1");
        assert!(id("evt_sandbox_deleted_sb-1").starts_with("evt_") && id("evt_sandbox_deleted_sb-1") != "evt_sandbox_deleted_sb-1");
        assert!(is_event_id(&id("a\r\nb: c")));
    }
}
