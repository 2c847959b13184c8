use proptest::prelude::*;

use super::*;

const KEY: &str = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nshort\nAQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----\n";

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

#[test]
fn secrets_are_marked_wherever_they_are_cut() {
    let whole = "a hunter2222 b hunter22 hunter2 c";
    let redactor = Redactor::new([("SHORT", "hunter22"), ("LONG", "hunter2222"), ("TINY", "a b")]);
    let expected = "a [secret LONG] b [secret SHORT] hunter2 c";
    assert_eq!(redactor.text(whole), expected);
    for cut in 0..whole.len() {
        let mut pieces = redactor.clone();
        let mut out = pieces.push(&whole.as_bytes()[..cut]);
        out.extend(pieces.push(&whole.as_bytes()[cut..]));
        out.extend(pieces.finish());
        assert_eq!(text(out), expected, "{cut}");
    }
    assert_eq!(Redactor::new([("A", "abc")]).text("abc"), "abc", "too short to be told from other words");
    assert!(!format!("{redactor:?}").contains("hunter"));
}

#[test]
fn a_secret_is_found_however_it_is_spelt() {
    let redactor = Redactor::new([("KEY", KEY), ("ODD", "a\"b\\c\td")]);
    for (printed, expected) in [
        (format!("key: {KEY}done"), "key: [secret KEY]done"),
        (format!("key: {}\ndone", KEY.trim_end()), "key: [secret KEY]done"),
        (KEY.replace('\n', "\r\n"), "[secret KEY]"),
        (serde_json::json!({ "key": KEY }).to_string(), "{\"key\":\"[secret KEY]\"}"),
        (serde_json::json!({ "odd": "a\"b\\c\td" }).to_string(), "{\"odd\":\"[secret ODD]\"}"),
        // Its lines among others: what is long enough to be a secret of its own.
        ("1: MIIEvQIBADANBgkqhkiG9w0B\n2: short\n".to_owned(), "1: [secret KEY]\n2: short\n"),
        ("-----BEGIN KEY-----\nsomebody else's\n".to_owned(), "-----BEGIN KEY-----\nsomebody else's\n"),
    ] {
        assert_eq!(redactor.text(&printed), expected, "{printed}");
    }
}

#[test]
fn halves_at_a_cut_are_taken_out() {
    let redactor = Redactor::new([("KEY", "s3cr3t-hunter"), ("OTHER", "hunterhunter!")]);
    for (part, begin, end, expected) in [
        ("r3t-hunter and more", true, false, "[secret KEY] and more"),
        ("r3t-hunter and more", false, false, "r3t-hunter and more"),
        ("hunter! and", true, false, "[secret OTHER] and"),
        ("ter and", true, false, "ter and"),
        ("more s3cr3t-hun", false, true, "more [secret KEY]"),
        ("more s3cr3t-hun", false, false, "more s3cr3t-hun"),
        ("more s3c", false, true, "more s3c"),
        ("cr3t-hunt", true, true, "[secret KEY]"),
        ("s3cr3t-hunter", true, true, "[secret KEY]"),
        ("", true, true, ""),
    ] {
        assert_eq!(redactor.part(part, begin, end), expected, "{part}");
    }
    // The same in pieces of one byte.
    let mut stream = redactor.clone();
    let mut out = stream.push(b"a s3cr3t-");
    out.extend(stream.cut());
    for byte in b"unter! b" {
        out.extend(stream.push(&[*byte]));
    }
    out.extend(stream.finish());
    assert_eq!(text(out), "a [secret KEY][secret OTHER] b");
    let dropped = "[sandbar: 20 bytes of earlier output dropped]\n";
    assert_eq!(redactor.printed(&format!("{dropped}t-hunter s3cr3"), true), format!("{dropped}[secret KEY] [secret KEY]"));
    assert_eq!(redactor.printed("t-hunter s3cr3", false), "t-hunter s3cr3");
}

#[test]
fn lines_are_answered_one_by_one() {
    let mut lines = LineRedactor::new(&Redactor::new([("KEY", KEY), ("PIN", "12345678")]));
    let mut told = Vec::new();
    for (lane, line, more) in [
        ("out", "-----BEGIN KEY-----", false),
        ("err", "a warning 1234", true),
        ("out", "MIIEvQIBADANBgkqhkiG9w0B", false),
        ("err", "5678 goes on", false),
        ("out", "short", false),
        ("out", "AQEFAASCBKcwggSjAgEAAoIB", false),
        ("out", "-----END KEY-----", false),
        ("out", "123", true),
        ("out", "45678.", false),
        ("out", "short", false),
    ] {
        told.push(lines.line(lane, line, more));
    }
    let key = "[secret KEY]";
    assert_eq!(told, [key, "a warning [secret PIN]", key, "[secret PIN] goes on", key, key, key, "123", "[secret PIN].", "short"]);
}

#[test]
fn what_is_made_to_look_like_a_secret_is_not_looked_through_for_ever() {
    let many: Vec<(String, String)> = (0..64).map(|n| (format!("S{n}"), format!("{}{n:02}", "a".repeat(30_000)))).collect();
    let mut redactor = Redactor::new(many.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut out = Vec::new();
    for _ in 0..64 {
        out.extend(redactor.push(&[b'a'; 16 << 10]));
    }
    out.extend(redactor.finish());
    let out = text(out);
    assert!(out.ends_with(TOO_ALIKE) && out.matches(TOO_ALIKE).count() == 1, "{}", out.len());
    assert_eq!((redactor.push(b"more"), redactor.held()), (Vec::new(), 0));
}

proptest! {
    #[test]
    fn what_comes_out_does_not_depend_on_the_pieces(whole in "[ab\n]{0,60}", secret in "[ab\n]{4,8}", other in "[ab]{4,8}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
        let redactor = Redactor::new([("ONE", secret.as_str()), ("TWO", other.as_str())]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
        cuts.sort_unstable();
        let (mut pieces, mut out, mut at) = (redactor.clone(), Vec::new(), 0);
        for cut in cuts.into_iter().chain([whole.len()]) {
            out.extend(pieces.push(&whole.as_bytes()[at..cut]));
            at = cut;
        }
        out.extend(pieces.finish());
        let marked = redactor.text(&whole);
        prop_assert_eq!(text(out), marked.clone());
        prop_assert!(!marked.contains(&secret) && !marked.contains(&other));
    }

    #[test]
    fn no_half_of_a_secret_is_left_at_a_cut(secret in "[a-d]{8,16}", at in 1usize..8, after in "[x-z]{0,5}") {
        let redactor = Redactor::new([("ONE", secret.as_str())]);
        let rest = redactor.part(&format!("{}{after}", &secret[at..]), true, false);
        prop_assert!(secret.len() - at < SECRET_MIN_BYTES || rest == format!("[secret ONE]{after}"), "{}", rest);
        let begin = redactor.part(&format!("{after}{}", &secret[..at]), false, true);
        prop_assert!(at < SECRET_MIN_BYTES || begin == format!("{after}[secret ONE]"), "{}", begin);
    }

    #[test]
    fn lines_have_no_more_of_a_secret_than_its_first_bytes(lines in proptest::collection::vec("[ab]{0,6}", 1..12), secret in "[ab]{4}\n[ab]{4}") {
        let mut redactor = LineRedactor::new(&Redactor::new([("ONE", secret.as_str())]));
        let told: Vec<String> = lines.iter().map(|line| redactor.line((), line, false)).collect();
        let told = told.join("\n");
        prop_assert!(!told.contains(&secret), "{}", told);
    }
}
