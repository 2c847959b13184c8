use serde_json::json;

use super::*;

fn taken(body: &Value) -> (Draft, Vec<Violation>) {
    let mut draft = Draft::new();
    let wrong = draft.take(body.as_object().unwrap(), &Draft::new());
    (draft, wrong)
}

#[test]
fn a_whole_script_is_read() {
    let (draft, wrong) = taken(&json!({
        "name": "digest", "trigger": "cron", "pattern": "0 9 * * *", "code": "return 1", "language": "typescript", "timeoutMs": 50, "active": false,
        "trusted": true, "access": "key", "runAs": "serviceAccount:mailer", "capabilities": ["email", "db:read:posts"], "fetchAllow": [],
        "concurrency": 1, "memoryMb": 128, "cpuMs": 100, "retry": {"maxAttempts": 5}, "deterministic": true, "description": null,
        "schedule": {"timezone": "Europe/Berlin", "missedRunPolicy": "run_all", "concurrencyPolicy": "queue", "startingDeadlineSeconds": null},
    }));
    assert_eq!(wrong, []);
    assert_eq!(draft.lacks(), []);
    assert_eq!((draft.trigger, draft.active, draft.spec.timeout_ms), (Some(Trigger::Cron), false, Some(50)));
    assert_eq!(draft.code.author, Some(Some(AuthorKind::Operator)));
    assert_eq!(draft.spec.run_as, RunAs::ServiceAccount("mailer".to_owned()));
    assert_eq!((draft.spec.retry.max_attempts, draft.spec.retry.max_age_seconds), (5, 86_400), "what is not named stays");
}

#[test]
fn each_wrong_field_is_named_with_what_is_allowed() {
    let cases = [
        (json!({"name": "Post"}), "name: must match"),
        (json!({"name": "1x"}), "name: must match"),
        (json!({"name": "a".repeat(65)}), "at most 64"),
        (json!({"name": "ä"}), "name: must match"),
        (json!({"name": "abcdef12-aaaa-4aaa-8aaa-aaaaaaaaaaaa"}), "like an id"),
        (json!({"name": null}), "name: must be a text, not null"),
        (json!({"trigger": "webhook"}), "trigger: must be one of http, event, cron"),
        (json!({"pattern": ""}), "pattern: must not be empty"),
        (json!({"pattern": 5}), "pattern: must be a text"),
        (json!({"pattern": "a".repeat(257)}), "at most 256"),
        (json!({"code": "  \n"}), "code: must not be empty"),
        (json!({"code": ["return 1"]}), "code: must be a text, not a list"),
        (json!({"code": "x".repeat((1 << 20) + 1)}), "at most 1048576"),
        (json!({"timeoutMs": 49}), "timeoutMs: must be a whole number from 50 to 60000"),
        (json!({"timeoutMs": 60001}), "from 50 to 60000"),
        (json!({"timeoutMs": 99.5}), "from 50 to 60000"),
        (json!({"timeoutMs": "100"}), "from 50 to 60000"),
        (json!({"active": "yes"}), "active: must be true or false"),
        (json!({"authorKind": "me"}), "authorKind: must be one of operator, tenant"),
        (json!({"authorKind": "tenant", "trusted": true}), "trusted: says other"),
        (json!({"access": "everybody"}), "access: must be one of admin, authenticated, public, key"),
        (json!({"runAs": "root"}), "runAs: must be caller, system or serviceAccount:NAME"),
        (json!({"runAs": "serviceAccount:A b"}), "runAs: must be"),
        (json!({"capabilities": ["db:write"]}), "capabilities: \"db:write\" is no capability"),
        (json!({"capabilities": "fetch"}), "must be a list"),
        (json!({"fetchAllow": ["https://x.io/"]}), "is no entry of a fetch allow-list"),
        (json!({"concurrency": 0}), "concurrency: must be a whole number from 1 to 100"),
        (json!({"memoryMb": 15}), "from 16 to 512"),
        (json!({"cpuMs": 0}), "from 1 to 60000"),
        (json!({"retry": {"maxAttempts": 0}}), "retry: maxAttempts must be"),
        (json!({"retry": {"times": 1}}), "retry: times is not known"),
        (json!({"retry": 3}), "retry: must be an object"),
        (json!({"schedule": {"missedRunPolicy": "never"}}), "schedule: missedRunPolicy must be one of skip, run_once, run_all"),
        (json!({"schedule": {"jitterSeconds": -1}}), "schedule: jitterSeconds must be"),
        (json!({"deterministic": 1}), "deterministic: must be true or false"),
        (json!({"timeout_ms": 100}), "timeout_ms: is no field of a function; there are name, trigger"),
        (json!({"description": "x".repeat(1025)}), "description: has 1025 bytes"),
    ];
    for (body, expected) in cases {
        let (_, wrong) = taken(&body);
        assert!(wrong.iter().any(|violation| violation.to_string().contains(expected)), "{expected}: {wrong:?}");
    }
}

fn words(wrong: &[Violation]) -> String {
    wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn patterns_and_schedules_belong_to_triggers() {
    for (body, expected) in [
        (json!({"pattern": "x"}), "pattern: must be null for the trigger http: it is for the triggers event and cron"),
        (json!({"trigger": "event"}), "pattern: is required for the trigger event, for example items:posts:*"),
        (json!({"trigger": "cron"}), "pattern: is required for the trigger cron, for example */5 * * * *"),
        (json!({"trigger": "event", "pattern": ""}), "pattern: must not be empty"),
        (json!({"trigger": "soon", "pattern": "x"}), "trigger: must be one of http, event, cron"),
        (json!({"schedule": {"timezone": "Europe/Berlin"}}), "schedule: is for the trigger cron; the trigger of this function is http"),
        (
            json!({"trigger": "event", "pattern": "a", "schedule": {"jitterSeconds": 1}}),
            "schedule: is for the trigger cron; the trigger of this function is event",
        ),
        (json!({"timezone": "UTC"}), "timezone: is a field of schedule: {\"schedule\": {\"timezone\": ...}}"),
        (json!({"trigger": "http", "pattern": null, "schedule": null}), ""),
        // As GET shows it.
        (json!({"schedule": {"timezone": "UTC", "missedRunPolicy": "run_once"}}), ""),
        (json!({"trigger": "event", "pattern": "items:*"}), ""),
    ] {
        assert_eq!(words(&taken(&body).1), expected, "{body}");
    }
}

#[test]
fn what_another_trigger_has_no_use_for_goes_by_itself() {
    let (cron, wrong) = taken(&json!({"trigger": "cron", "pattern": "@daily", "schedule": {"timezone": "Europe/Berlin"}}));
    assert_eq!(wrong, []);
    let changed = |body: &Value| {
        let mut draft = cron.clone();
        let wrong = draft.take(body.as_object().unwrap(), &cron);
        (draft.pattern, draft.spec.schedule == Schedule::default(), words(&wrong))
    };
    for (body, pattern, expected) in [
        (json!({"trigger": "http"}), None, ""),
        (json!({"trigger": "http", "pattern": "@daily", "schedule": {"timezone": "Europe/Berlin"}}), None, ""),
        (json!({"trigger": "event", "pattern": "items:*"}), Some("items:*"), ""),
        (json!({"trigger": "event"}), None, "pattern: is required for the trigger event, for example items:posts:*"),
        (
            json!({"trigger": "http", "pattern": "@hourly"}),
            Some("@hourly"),
            "pattern: must be null for the trigger http: it is for the triggers event and cron",
        ),
        (json!({"trigger": "http", "schedule": {"jitterSeconds": 5}}), None, "schedule: is for the trigger cron; the trigger of this function is http"),
    ] {
        assert_eq!(changed(&body), (pattern.map(str::to_owned), true, expected.to_owned()), "{body}");
    }
    assert_eq!(changed(&json!({"pattern": "@hourly"})), (Some("@hourly".to_owned()), false, String::new()));
    assert_eq!(changed(&json!({"schedule": null})), (Some("@daily".to_owned()), true, String::new()));
}

#[test]
fn what_the_server_sets_is_named() {
    for field in READ_ONLY {
        let said = words(&taken(&json!({ field: "x" })).1);
        assert!(said.starts_with(&format!("{field}: is set by the server and cannot be set; what can be set is name, trigger")), "{said}");
    }
}
