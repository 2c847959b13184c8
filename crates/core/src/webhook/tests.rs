use proptest::prelude::*;
use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};

use super::*;
use crate::{
    lifecycle::{self, Claim, Observation},
    sandbox::Observed,
};

fn running() -> SandboxRecord {
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
    lifecycle::observe(&lifecycle::claim(claim, 0), Observation::Started, 0).record
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    assert!("sandbox.gone".parse::<Kind>().is_err());
}

#[test]
fn the_body_has_its_fields_in_order() {
    let text = body("evt_1", Kind::Ready, "2026-01-01T00:00:00Z", "sb-1", "team", &json!({ "http_port": 1 }));
    let wanted = r#"{"event_id":"evt_1","event_type":"sandbox.ready","timestamp":"2026-01-01T00:00:00Z","sandbox_id":"sb-1","team_id":"team","payload":{"http_port":1}}"#;
    assert_eq!(text, wanted);
}

#[test]
fn changes_of_a_row_become_events() {
    use Kind::{Deleted, Killed, Paused, Ready, Resumed};
    let running = running();
    let sleeping = SandboxRecord { observed: Observed::Hibernated, desired: Desired::Paused, ..running.clone() };
    let cleaned = SandboxRecord { observed: Observed::Cleaned, desired: Desired::Cleaned, ..running.clone() };
    let forked = SandboxRecord { reason_code: Some(reason::FORKED.to_owned()), ..sleeping.clone() };
    let table: &[(Option<&SandboxRecord>, &SandboxRecord, &str, &[Kind])] = &[
        (None, &running, "sandbox.ready", &[Ready]),
        (Some(&running), &sleeping, "sandbox.paused", &[Paused]),
        (Some(&sleeping), &running, "sandbox.resumed", &[Resumed]),
        (Some(&cleaned), &running, "sandbox.resumed", &[Ready, Resumed]),
        (Some(&forked), &running, "sandbox.resumed", &[Ready, Resumed]),
        (Some(&running), &sleeping, "sandbox.runtime_lost", &[Killed]),
        (Some(&running), &cleaned, "sandbox.cleaned", &[Killed]),
        (Some(&running), &sleeping, "sandbox.volume_detached", &[Killed]),
        (Some(&sleeping), &running, "sandbox.volume_detached", &[]),
        (Some(&running), &running, "sandbox.deleted", &[Killed, Deleted]),
        (Some(&sleeping), &sleeping, "sandbox.deleted", &[Deleted]),
        (Some(&running), &running, "sandbox.updated", &[]),
        (Some(&running), &sleeping, "sandbox.hibernated", &[]),
        (Some(&sleeping), &sleeping, "sandbox.failed", &[]),
        (None, &forked, "sandbox.forked", &[]),
    ];
    for (former, record, kind, wanted) in table {
        let found = of_change(*former, record, kind, "code", "why");
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), *wanted, "{kind}");
        assert!(!found.iter().any(|(_, payload)| payload.to_string().contains("hush")), "{kind}: the environment is told");
    }
    let ready = &of_change(None, &running, "sandbox.ready", "", "")[0].1;
    assert_eq!(*ready, json!({ "http_port": 49_983, "sandbox_id": "sb-1" }));
    let deleted = of_change(Some(&running), &running, "sandbox.deleted", reason::USER_REQUEST, "asked");
    assert_eq!((&deleted[0].1["reason"], &deleted[1].1), (&json!("shutdown"), &json!({ "reason": "pod_deleted" })));
    assert_eq!(of_change(Some(&running), &sleeping, "sandbox.runtime_lost", reason::OUT_OF_MEMORY, "")[0].1["reason"], "out_of_memory");
}

#[test]
fn what_an_answer_means() {
    let answered = |status| Outcome::Answered { status, retry_after_ms: None };
    for status in [200, 202, 204, 299] {
        assert_eq!(next(answered(status), 1, 0.0, 1_000_000, 0), Next::Delivered, "{status}");
    }
    for status in [408, 425, 429, 500, 502, 503, 599] {
        assert_eq!(next(answered(status), 1, 0.0, 1_000_000, 0), Next::Retry { at_ms: 500 }, "{status}");
    }
    for status in [100, 199, 301, 302, 307, 308, 400, 401, 403, 404, 409, 410, 422] {
        assert_eq!(next(answered(status), 1, 0.0, 1_000_000, 0), Next::Failed, "{status}");
    }
    assert_eq!(next(Outcome::Unreached, 1, 0.0, 1_000_000, 0), Next::Retry { at_ms: 500 });
    assert_eq!(next(Outcome::Refused, 1, 0.0, 1_000_000, 0), Next::Failed);
    // It ends with the window.
    assert_eq!(next(Outcome::Unreached, 1, 0.0, 501, 0), Next::Retry { at_ms: 500 });
    assert_eq!(next(Outcome::Unreached, 1, 0.0, 500, 0), Next::Failed);
}

#[test]
fn waits_double_up_to_a_cap_and_honour_the_receiver() {
    let wait = |attempts, jitter, retry_after_ms| match next(Outcome::Answered { status: 503, retry_after_ms }, attempts, jitter, i64::MAX, 0) {
        Next::Retry { at_ms } => at_ms,
        other => panic!("{other:?}"),
    };
    let doubled: Vec<_> = (1..=12).map(|attempts| wait(attempts, 0.0, None)).collect();
    assert_eq!(doubled, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000]);
    assert_eq!((wait(1, 1.0, None), wait(3, 0.5, None), wait(12, 1.0, None)), (750, 2500, 300_000));
    assert_eq!((wait(u32::MAX, 0.0, None), wait(0, 0.0, None)), (300_000, 500));
    assert_eq!((wait(1, 0.0, Some(60_000)), wait(12, 0.0, Some(60_000))), (60_000, 300_000), "no sooner than it asks");
    assert_eq!(wait(1, 0.0, Some(i64::MAX)), limits::WEBHOOK_RETRY_AFTER_MAX_MS, "within reason");
    assert_eq!(wait(1, 0.0, Some(-5)), 500);
}

#[test]
fn receivers_are_hosts_with_ports() {
    for (url, wanted) in [
        ("http://Example.com/a:1", "example.com:80"),
        ("https://example.com", "example.com:443"),
        ("https://example.com:/x", "example.com:443"),
        ("http://127.0.0.1:8080?x=1", "127.0.0.1:8080"),
        ("HTTP://[::1]/", "[::1]:80"),
        ("http://[2001:db8::1]:99/", "[2001:db8::1]:99"),
    ] {
        assert_eq!(receiver(url), wanted, "{url}");
    }
}

#[test]
fn ids_from_inside_cannot_be_ours() {
    assert!(is_event_id("job-1") && is_event_id(&"x".repeat(limits::WEBHOOK_EVENT_ID_MAX_BYTES)));
    for id in ["", "a b", "ä", "a\n", &deleted_id("sb-1"), &"x".repeat(limits::WEBHOOK_EVENT_ID_MAX_BYTES + 1)] {
        assert!(!is_event_id(id), "{id:?}");
    }
}

fn told(burst: &mut Burst) -> Vec<String> {
    let (changes, lost) = burst.take();
    assert_eq!(lost, 0);
    changes
        .into_iter()
        .map(|change| format!("{} {}{}", change.event, change.path, change.old_path.map(|old| format!(" from {old}")).unwrap_or_default()))
        .collect()
}

#[test]
fn a_burst_tells_each_change_once() {
    let mut burst = Burst::default();
    assert!(burst.is_empty());
    for _ in 0..1000 {
        burst.add("write", "/a", None);
    }
    burst.add("chmod", "/a", None);
    assert_eq!(told(&mut burst), ["write /a", "chmod /a"]);
    assert!(burst.is_empty());
    for n in 0..limits::WEBHOOK_BURST_FILES_MAX + 3 {
        burst.add("create", &format!("/{n}"), None);
    }
    let (changes, lost) = burst.take();
    assert_eq!((changes.len(), lost), (limits::WEBHOOK_BURST_FILES_MAX, 3));
}

#[test]
fn a_moved_file_is_told_once() {
    let mut burst = Burst::default();
    burst.add("rename", "/a", None);
    burst.add("create", "/b", Some("/a"));
    burst.add("rename", "/gone", None);
    assert_eq!(told(&mut burst), ["rename /b from /a", "rename /gone"]);
    // As the agent writes a file.
    for event in ["create", "write", "rename"] {
        burst.add(event, "/w/.sandbar-0a1b2c3d.tmp", None);
    }
    burst.add("create", "/w/file", Some("/w/.sandbar-0a1b2c3d.tmp"));
    assert_eq!(told(&mut burst), ["write /w/file"]);
}

#[test]
fn a_bucket_fills_with_time() {
    let mut bucket = Bucket::new(2, 10, 0);
    assert_eq!([bucket.take(0), bucket.take(0), bucket.take(0)], [true, true, false]);
    assert_eq!([bucket.take(99), bucket.take(100), bucket.take(100)], [false, true, false]);
    assert!(!bucket.take(-1_000_000), "a clock that was set back gives nothing");
}

proptest! {
    #[test]
    fn a_retry_is_later_and_within_the_window(attempts in 0u32..200, jitter in -1.0f64..2.0, window in 0i64..90_000_000, after in proptest::option::of(any::<i64>())) {
        if let Next::Retry { at_ms } = next(Outcome::Answered { status: 503, retry_after_ms: after }, attempts, jitter, window, 0) {
            prop_assert!((limits::WEBHOOK_BACKOFF_MS..window).contains(&at_ms));
            prop_assert!(at_ms <= limits::WEBHOOK_BACKOFF_MAX_MS.max(limits::WEBHOOK_RETRY_AFTER_MAX_MS));
        }
    }
}
