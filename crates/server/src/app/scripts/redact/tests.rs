use sandbar_scripts::{Level, OpRecord, Usage, recording::Answer};

use super::*;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn of(secrets: &[(&str, &str)]) -> Redactor {
    Redactor::new(secrets.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())))
}

fn outcome(result: Result<Option<Box<RawValue>>, Failure>, log: &str) -> Outcome {
    let logs = vec![LogLine { level: Level::Log, at_ms: 0, text: log.to_owned() }];
    Outcome { result, logs, usage: Usage::default(), clock: None }
}

fn asked(op: Op, args: &str, told: &str) -> OpRecord {
    let answer = Answer { nth: 0, took_us: 0, value: Some(raw(told)), error: None };
    OpRecord { seq: 1, op, args: raw(args), asked_us: 0, answer: Some(answer) }
}

fn recording(ops: Vec<OpRecord>) -> Recording {
    Recording { ops, ..Recording::default() }
}

fn marked_text(redactor: &Redactor, text: &str) -> String {
    redactor.kept(outcome(Ok(None), text), Recording::default()).outcome.logs.remove(0).text
}

fn marked_json(redactor: &Redactor, json: &str) -> String {
    redactor.kept(outcome(Ok(Some(raw(json))), ""), Recording::default()).output.unwrap()
}

fn told(recording: &Recording) -> &str {
    recording.ops[0].answer.as_ref().unwrap().value.as_ref().unwrap().get()
}

#[test]
fn a_secret_that_was_cut_in_two_does_not_stand_in_the_line() {
    let redactor = of(&[("K", "s3cr3t\"key")]);
    for (line, left) in [("it is s3cr3", "it is "), ("it is s3cr3t\"ke", "it is "), ("{\"a\":\"s3cr3t\\\"k", "{\"a\":\""), ("nothing of it", "nothing of it")] {
        assert_eq!(marked_text(&redactor, &format!("{line}{LOG_CUT}")), format!("{left}{LOG_CUT}"), "{line}");
        assert_eq!(marked_text(&redactor, line), line, "only where a line was cut off");
    }
    // One that ends as it begins was not cut.
    let whole = marked_text(&of(&[("K", "s3cr3ts")]), &format!("it is s3cr3ts{LOG_CUT}"));
    assert!(!whole.contains("s3cr3t"), "{whole}");
}

#[test]
fn values_are_taken_out_wherever_they_stand_and_put_back() {
    let redactor = of(&[("KEY", "s3cr3t"), ("LONG", "s3cr3t-and \"more\"")]);
    for (text, marked) in [
        ("a s3cr3t b", "a [secret KEY] b"),
        ("s3cr3t-and \"more\"", "[secret LONG]"),
        (r#""s3cr3t-and \"more\"""#, r#""[secret LONG]""#),
        (r#"{"a":"s3cr3t-and \"more\""}"#, r#"{"a":"[secret LONG]"}"#),
        ("nothing", "nothing"),
    ] {
        assert_eq!(marked_text(&redactor, text), marked);
    }
    let json = r#"{"h":{"authorization":"Bearer s3cr3t"},"s3cr3t":[1,"\u0073\u0033cr3t"]}"#;
    let kept = redactor.kept(outcome(Ok(None), ""), recording(vec![asked(Op::Fetch, json, json)]));
    let marked = r#"{"h":{"authorization":"Bearer [secret KEY]"},"[secret KEY]":[1,"[secret KEY]"]}"#;
    assert_eq!((kept.recording.ops[0].args.get(), told(&kept.recording), kept.recording.incomplete), (marked, marked, false));
    let restored = redactor.restored(kept.recording).unwrap();
    let whole = r#"{"h":{"authorization":"Bearer s3cr3t"},"s3cr3t":[1,"s3cr3t"]}"#;
    assert_eq!((restored.ops[0].args.get(), told(&restored)), (whole, whole));
    assert_eq!(marked_json(&Redactor::default(), r#"{"b": 1, "c": "[secret KEY]"}"#), r#"{"b": 1, "c": "[secret KEY]"}"#);
    assert_eq!(redactor.sentence(r#"asked: fetch {"s3cr3t":"s3cr3t-and \"more\""}"#.to_owned()), r#"asked: fetch {"[secret KEY]":"[secret LONG]"}"#);
}

#[test]
fn an_error_has_no_secret_in_its_name() {
    let failure = Failure { name: "Es3cr3t".to_owned(), stack: Some("at s3cr3t".to_owned()), ..Failure::internal("s3cr3t!") };
    let kept = of(&[("KEY", "s3cr3t")]).kept(outcome(Err(failure), ""), Recording::default());
    let failure = kept.outcome.result.unwrap_err();
    assert_eq!((failure.name.as_str(), failure.message.as_str(), failure.stack.as_deref()), ("E[secret KEY]", "[secret KEY]!", Some("at [secret KEY]")));
}

#[test]
fn a_literal_that_is_no_text_hides_no_secret() {
    let redactor = of(&[("KEY", "s3cr3t"), ("ODD", "a\"b\\c")]);
    for (json, marked) in [
        (r#"["s3cr3t\ud800"]"#, "[\"[secret KEY]\u{fffd}\"]"),
        (r#""\udc00\u0073\u0033cr3t""#, "\"\u{fffd}[secret KEY]\""),
        (r#""\\\ud800\ud83d\ude00 a\"b\\c""#, "\"\\\\\u{fffd}\u{1f600} [secret ODD]\""),
        (r#""\ud800\ud800 is kept""#, r#""\ud800\ud800 is kept""#),
    ] {
        assert_eq!(marked_json(&redactor, json), marked, "{json}");
    }
}

/// The value of each secret stands in the mark of another.
#[test]
fn marks_are_not_looked_through_again() {
    let names: Vec<String> = (0..20).map(|n| format!("{:0>4}{}", n, "0001".repeat(15))).collect();
    let redactor = Redactor::new(names.iter().enumerate().map(|(n, name)| (name.clone(), format!("{:0>4}", n + 1))));
    let marked = marked_text(&redactor, "0001");
    assert_eq!(marked, format!("[secret {}]", names[0]));
}

#[test]
fn what_would_grow_too_large_is_not_kept() {
    let name = "N".repeat(64);
    let redactor = of(&[(&name, "abcd")]);
    let many = "abcd".repeat(1 << 20);
    let kept = redactor.kept(outcome(Ok(Some(raw(&format!("\"{many}\"")))), &many), recording(vec![asked(Op::DbOne, &format!("[\"{many}\"]"), "\"abcd\"")]));
    assert_eq!(kept.outcome.logs[0].text, TOO_LARGE);
    assert_eq!((kept.output.as_deref(), kept.recording.ops[0].args.get()), (Some(r#""[too large to keep]""#), r#""[too large to keep]""#));
    assert_eq!(told(&kept.recording), format!("\"[secret {name}]\""), "what there is room for is kept");
    assert!(kept.recording.incomplete && kept.outcome.result.unwrap().unwrap().get().len() > many.len(), "it is answered whole");
}

#[test]
fn marks_that_a_script_wrote_itself_do_not_grow_without_end() {
    let redactor = of(&[("A", &"x".repeat(16 << 10))]);
    let many = format!("\"{}\"", "[secret A]".repeat(200_000));
    assert!(redactor.restored(recording(vec![asked(Op::DbOne, "{}", &many)])).is_none());
    assert!(redactor.restored(recording(vec![asked(Op::DbOne, &many, "1")])).is_none());
    let gets = || asked(Op::SecretsGet, r#"{"name":"A"}"#, r#""[secret A]""#);
    let restored = redactor.restored(recording(vec![gets()])).unwrap();
    assert_eq!(told(&restored).len(), (16 << 10) + 2);
    assert!(redactor.restored(recording((0..1000).map(|_| gets()).collect())).is_none());
}

#[test]
fn a_secret_that_was_asked_for_is_what_it_is_now() {
    let gets = |told: &str| recording(vec![asked(Op::SecretsGet, r#"{"name":"A"}"#, told)]);
    let redactor = of(&[("A", "now [secret A]")]);
    assert_eq!(told(&redactor.restored(gets(r#""[secret A]""#)).unwrap()), r#""now [secret A]""#);
    assert_eq!(told(&redactor.restored(gets("null")).unwrap()), "null", "there was none then");
    assert_eq!(told(&of(&[("B", "other")]).restored(gets(r#""[secret A]""#)).unwrap()), r#""[secret A]""#, "there is none now");
}

/// Sixty-four of the longest secrets and two million texts: what takes time is bounded, whatever it comes to.
#[test]
fn many_texts_and_many_secrets() {
    let secrets = (0..64).map(|n| (format!("S{n}"), format!("{n:0>4}\n{}", "s".repeat((16 << 10) - 5))));
    let redactor = Redactor::new(secrets);
    let json = format!("[{}\"\"]", "\"\",".repeat(2_000_000));
    assert_eq!(marked_json(&redactor, &json), json);
}

#[tokio::test]
async fn what_is_held_is_let_go_when_it_is_done() {
    for length in [1, AT_ONCE_MAX_BYTES + 1] {
        let (held, let_go) = tokio::sync::oneshot::channel::<()>();
        let value = raw(&format!("\"{}s3cr3t\"", "x".repeat(length)));
        let kept = of(&[("KEY", "s3cr3t")]).keep(outcome(Ok(Some(value)), ""), Recording::default(), held).await;
        assert!(kept.output.unwrap().ends_with("x[secret KEY]\"") && let_go.await.is_err());
    }
}
