use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::limits::apps as limits;

fn key(seed: u8) -> Key {
    Key::from_seed(&[seed; 32]).expect("a key")
}

fn receipt(sequence: u64, previous_sha256: Option<String>) -> Receipt {
    Receipt {
        version: VERSION,
        id: format!("rcpt_{sequence}"),
        team_id: "team_1".to_owned(),
        app_id: "app_1".to_owned(),
        app_name: "shop".to_owned(),
        app_version: 3,
        run_id: format!("run_{sequence}"),
        kind: Kind::Action,
        name: Some("report".to_owned()),
        caused_by: CausedBy {
            cause: run::RunCause::Schedule,
            user_id: Some("user_1".to_owned()),
            key_id: Some("key_1".to_owned()),
            schedule_id: Some("sch_1".to_owned()),
            tick_at_ms: Some(1_800_000_000_000),
        },
        sandbox_id: Some("sb_1".to_owned()),
        manifest_sha256: "a".repeat(64),
        source_sha256: "e".repeat(64),
        ground: Some(Ground {
            template_id: "default".to_owned(),
            snapshot_id: Some("snap_1".to_owned()),
            image: format!("sha256:{}", "f".repeat(64)),
            layers: vec!["root_2".to_owned(), "root_1".to_owned()],
        }),
        command: Some("bun run report".to_owned()),
        input_sha256: Some("b".repeat(64)),
        created_at_ms: 1_800_000_000_000,
        started_at_ms: Some(1_800_000_000_100),
        commanded_at_ms: Some(1_800_000_000_200),
        finished_at_ms: 1_800_000_001_000,
        usage: Usage {
            duration_ms: Some(900),
            collecting_ms: Some(4),
            cpu_us: Some(5),
            memory_peak_bytes: Some(6),
            disk_bytes: Some(7),
            network_sent_bytes: Some(8),
            network_received_bytes: Some(9),
            network_partial: true,
            sources: Sources {
                cpu: Some(Source::Command),
                memory: Some(Source::RunSandbox),
                disk: Some(Source::RunSandbox),
                network: Some(Source::AppSandbox),
            },
        },
        status: Status::Succeeded,
        exit_code: Some(0),
        reason: Some("it was done".to_owned()),
        artifacts: vec![Artifact { path: "artifacts/report.json".to_owned(), sha256: "c".repeat(64), size_bytes: 10, captured_at_ms: Some(11) }],
        denied_total: Some(2),
        denied: vec![Denial { destination: "example.com:443".to_owned(), rule: "block-all".to_owned(), count: 2 }],
        price: Some(Prices { currency: "EUR".to_owned(), run_micros: 5, cpu_hour_micros: 1, ..Prices::default() }.bill(&Usage::default())),
        chain: "app_1".to_owned(),
        sequence,
        previous_sha256,
        key_id: String::new(),
    }
}

fn chain(length: u64) -> Vec<Signed> {
    let mut chain: Vec<Signed> = Vec::new();
    for sequence in 1..=length {
        chain.push(sign(&receipt(sequence, chain.last().map(|last| last.sha256.clone())), &key(1)));
    }
    chain
}

fn problems(chain: &[Signed], trusted: Option<&PublicKey>) -> Vec<(usize, Problem)> {
    all_problems(chain, &[], trusted, Demand::Each)
}

fn all_problems(chain: &[Signed], checkpoints: &[SignedCheckpoint], trusted: Option<&PublicKey>, demand: Demand) -> Vec<(usize, Problem)> {
    report(chain, checkpoints, trusted, demand).problems.into_iter().map(|problem| (problem.index, problem.problem)).collect()
}

fn report(chain: &[Signed], checkpoints: &[SignedCheckpoint], trusted: Option<&PublicKey>, demand: Demand) -> Report {
    let mut verifier = Verifier::new(trusted.copied(), demand);
    chain.iter().for_each(|signed| verifier.push(Item::Receipt(Box::new(signed.clone()))));
    // Wherever in a file they stand.
    checkpoints.iter().for_each(|checkpoint| verifier.push(Item::Checkpoint(checkpoint.clone())));
    verifier.end()
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Document {
    receipts: Vec<Signed>,
    checkpoints: Vec<SignedCheckpoint>,
}

/// Reads a text that comes in pieces of so many bytes.
fn read_in(text: &str, piece: usize) -> Result<Document, ReadError> {
    let (mut reader, mut document) = (Reader::default(), Document::default());
    for bytes in text.as_bytes().chunks(piece) {
        reader.feed(bytes, &mut |item| match item {
            Item::Receipt(signed) => document.receipts.push(*signed),
            Item::Checkpoint(checkpoint) => document.checkpoints.push(checkpoint),
        })?;
    }
    reader.end().map(|()| document)
}

fn read(text: &str) -> Result<Document, ReadError> {
    let whole = read_in(text, usize::MAX);
    assert_eq!(read_in(text, 7), whole, "however it comes");
    whole
}

/// Every place in a value where something other than an object or list stands.
fn leaves(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| leaves(value, format!("{path}/{name}"), out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| leaves(value, format!("{path}/{at}"), out)),
        _ => out.push(path),
    }
}

fn other(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_i64().unwrap_or(0) + 1),
        Value::String(text) if text == "action" => json!("start"),
        Value::String(text) if text == "succeeded" => json!("failed"),
        Value::String(text) if text == "command" => json!("app_sandbox"),
        Value::String(text) if text == "run_sandbox" => json!("command"),
        Value::String(text) if text == "app_sandbox" => json!("command"),
        Value::String(text) if text == "schedule" => json!("api"),
        Value::Bool(value) => json!(!value),
        Value::String(text) => json!(format!("{text}x")),
        _ => Value::Null,
    }
}

#[test]
fn what_was_signed_is_verified() {
    let signed = sign(&receipt(1, None), &key(1));
    assert_eq!(verify(&signed, None), Ok(()));
    assert_eq!(verify(&signed, Some(&key(1).public_key())), Ok(()));
    let found = verify(&signed, Some(&key(2).public_key()));
    assert!(matches!(found, Err(VerifyError::OtherKey { .. })), "{found:?}");
}

#[test]
fn every_changed_field_is_noticed() {
    let signed = sign(&receipt(2, Some("d".repeat(64))), &key(1));
    let document = serde_json::to_value(&signed.receipt).expect("JSON");
    let mut paths = Vec::new();
    leaves(&document, String::new(), &mut paths);
    assert_eq!(paths.len(), 63, "{paths:?}");
    for path in paths {
        let mut altered = document.clone();
        let place = altered.pointer_mut(&path).expect("a place");
        *place = other(place);
        let receipt: Receipt = serde_json::from_value(altered).unwrap_or_else(|error| panic!("{path}: {error}"));
        let version = receipt.version;
        let kept = Signed { receipt: receipt.clone(), ..signed.clone() };
        let found = verify(&kept, None);
        assert!(matches!(found, Err(VerifyError::Altered { .. } | VerifyError::Version(_))), "{path}: {found:?}");
        let hashed = Signed { sha256: receipt.sha256(), receipt, ..signed.clone() };
        let found = verify(&hashed, None);
        assert!(matches!(found, Err(VerifyError::Signature | VerifyError::Version(_))), "{path}: {found:?}");
        assert_eq!(matches!(found, Err(VerifyError::Version(_))), version != VERSION);
    }
}

#[test]
fn fields_that_were_left_out_added_or_emptied_are_noticed() {
    let signed = sign(&receipt(2, Some("d".repeat(64))), &key(1));
    let document = serde_json::to_value(&signed).expect("JSON");
    for (name, value) in document["receipt"].as_object().expect("an object") {
        let mut altered = document.clone();
        altered["receipt"][name] = Value::Null;
        if let Ok(signed) = serde_json::from_value::<Signed>(altered) {
            assert!(verify(&signed, None).is_err(), "{name}");
        } else {
            assert!(!value.is_null());
        }
        if value.is_array() {
            let mut altered = document.clone();
            altered["receipt"][name] = json!([]);
            assert!(verify(&serde_json::from_value(altered).expect("a receipt"), None).is_err(), "{name}");
        }
    }
    let mut more = document;
    more["receipt"]["more"] = json!(1);
    assert!(serde_json::from_value::<Signed>(more).is_err());
}

#[test]
fn another_signature_or_key_is_noticed() {
    let signed = sign(&receipt(1, None), &key(1));
    for signature in [String::new(), "00".repeat(64), "zz".to_owned(), signed.signature.replacen(|_: char| true, "0", 1) + "00"] {
        let found = verify(&Signed { signature, ..signed.clone() }, None);
        assert_eq!(found, Err(VerifyError::Signature));
    }
    let found = verify(&Signed { public_key: key(2).public_key(), ..signed.clone() }, None);
    assert_eq!(found, Err(VerifyError::Signature));
    // Somebody else's whole receipt is right by itself, and not by who knows the key.
    let forged = sign(&signed.receipt, &key(2));
    assert_eq!(verify(&forged, None), Ok(()));
    assert!(matches!(verify(&forged, Some(&key(1).public_key())), Err(VerifyError::OtherKey { .. })));
}

#[test]
fn chains_hold_from_wherever_they_begin() {
    let chain = chain(4);
    let trusted = key(1).public_key();
    assert_eq!(problems(&chain, Some(&trusted)), []);
    assert_eq!(problems(&chain[2..], None), []);
    assert_eq!(problems(&[], None), []);
}

#[test]
fn what_is_wrong_with_a_chain_is_said() {
    let whole = chain(4);
    let mut swapped = whole.clone();
    swapped.swap(1, 2);
    assert_eq!(problems(&swapped, None), [(2, Problem::Order { before: 3 })]);
    let found = all_problems(&swapped, &[], None, Demand::Chain);
    let wanted = [(1, Problem::Gap { before: 1, found: 3 }), (2, Problem::Order { before: 3 }), (3, Problem::Gap { before: 2, found: 4 })];
    assert_eq!(found, wanted);

    let mut twice = whole.clone();
    twice.insert(1, whole[0].clone());
    assert_eq!(problems(&twice, None)[0], (1, Problem::Order { before: 1 }));

    // One that was written anew, with the right key: those after it do not follow it.
    let mut replaced = whole.clone();
    let mut receipt = replaced[1].receipt.clone();
    receipt.exit_code = Some(7);
    replaced[1] = sign(&receipt, &key(1));
    let found = problems(&replaced, None);
    assert!(matches!(found[..], [(2, Problem::Link { .. })]), "{found:?}");

    let mut altered = whole.clone();
    altered[1].receipt.exit_code = Some(7);
    let found = problems(&altered, None);
    assert!(matches!(found[..], [(1, Problem::Receipt(VerifyError::Altered { .. })), (2, Problem::Link { .. })]), "{found:?}");

    let mut keys = whole.clone();
    keys[3] = sign(&keys[3].receipt, &key(2));
    let found = problems(&keys, None);
    assert!(matches!(found[..], [(3, Problem::KeyChanged { .. })]), "{found:?}");
    let found = problems(&keys, Some(&key(1).public_key()));
    assert!(matches!(found[..], [(3, Problem::Receipt(VerifyError::OtherKey { .. }))]), "{found:?}");

    let mut chains = whole.clone();
    let mut receipt = chains[1].receipt.clone();
    receipt.chain = "app_2".to_owned();
    chains[1] = sign(&receipt, &key(1));
    let found = problems(&chains, None);
    assert!(matches!(found[..], [(1, Problem::OtherChain { .. }), (2, Problem::OtherChain { .. })]), "{found:?}");

    let begin = [sign(&super::tests::receipt(1, Some("d".repeat(64))), &key(1))];
    assert!(matches!(problems(&begin, None)[..], [(0, Problem::First { .. })]));
    let begin = [sign(&super::tests::receipt(5, None), &key(1))];
    assert!(matches!(problems(&begin, None)[..], [(0, Problem::First { .. })]));
}

#[test]
fn who_demands_a_chain_is_told_of_gaps_and_others_how_many_are_missing() {
    let whole = chain(6);
    let some = [whole[1].clone(), whole[2].clone(), whole[5].clone()];
    let each = report(&some, &[], None, Demand::Each);
    assert_eq!((each.problems.len(), each.missing, each.receipts), (0, 2, 3));
    let ends = each.ends.expect("there are some");
    assert_eq!((ends.0.sequence, ends.1.sequence), (2, 6));
    let found = all_problems(&some, &[], None, Demand::Chain);
    assert_eq!(found, [(0, Problem::Begin { missing: 1 }), (2, Problem::Gap { before: 3, found: 6 })]);
    for chain in [&whole[..], &whole[..2]] {
        let whole = report(chain, &[], None, Demand::Chain);
        assert!(whole.is_right() && whole.missing == 0, "what came after it is not known: {whole:?}");
    }
    assert_eq!(report(&[], &[], None, Demand::Chain), Report::default());

    // The same from the newest on.
    let backwards: Vec<_> = whole.iter().rev().cloned().collect();
    let found = report(&backwards, &[], None, Demand::Chain);
    assert_eq!((found.is_right(), found.ends.map(|ends| (ends.0.sequence, ends.1.sequence))), (true, Some((1, 6))));
    let mut some = some;
    some.reverse();
    let found = all_problems(&some, &[], None, Demand::Chain);
    assert_eq!(found, [(0, Problem::Gap { before: 3, found: 6 }), (2, Problem::Begin { missing: 1 })]);
    let mut mixed = backwards;
    mixed.swap(3, 4);
    assert!(matches!(all_problems(&mixed, &[], None, Demand::Each)[..], [(3, Problem::Order { .. })]));
}

#[test]
fn a_checkpoint_stands_for_what_was_given_up() {
    let whole = chain(4);
    let at = |sequence: u64| Checkpoint::new("app_1", sequence, &whole[sequence as usize - 1].sha256, 5);
    let checkpoint = sign_checkpoint(&at(2), &key(1));
    let trusted = key(1).public_key();
    assert_eq!(verify_checkpoint(&checkpoint, Some(&trusted)), Ok(()));
    for trusted in [None, Some(&trusted)] {
        assert_eq!(all_problems(&whole[2..], std::slice::from_ref(&checkpoint), trusted, Demand::Chain), []);
    }
    assert_eq!(all_problems(&whole[3..], std::slice::from_ref(&checkpoint), None, Demand::Chain), [(0, Problem::Begin { missing: 3 })]);

    let others = sign_checkpoint(&at(2), &key(2));
    let found = all_problems(&whole[2..], &[others], None, Demand::Chain);
    assert!(matches!(found[..], [(0, Problem::Checkpoint(VerifyError::OtherKey { .. }))]), "{found:?}");
    let elsewhere = sign_checkpoint(&Checkpoint { chain: "app_2".to_owned(), ..at(2) }, &key(1));
    assert_eq!(all_problems(&whole[2..], &[elsewhere], None, Demand::Chain), [(0, Problem::Begin { missing: 2 })]);
    let wrong = sign_checkpoint(&Checkpoint { sha256: "0".repeat(64), ..at(2) }, &key(1));
    let found = all_problems(&whole[2..], &[wrong], None, Demand::Chain);
    assert!(matches!(found[..], [(0, Problem::Link { .. })]), "{found:?}");

    // Nothing in it can be changed, and nothing else that was signed be taken for it.
    let document = serde_json::to_value(&checkpoint).expect("JSON");
    let mut paths = Vec::new();
    leaves(&document["checkpoint"], String::new(), &mut paths);
    assert_eq!(paths.len(), 6, "{paths:?}");
    for path in paths {
        let mut altered = document.clone();
        let place = altered["checkpoint"].pointer_mut(&path).expect("a place");
        *place = other(place);
        let altered: SignedCheckpoint = serde_json::from_value(altered).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(verify_checkpoint(&altered, None).is_err(), "{path}");
    }
    let taken = SignedCheckpoint { signature: whole[1].signature.clone(), ..checkpoint };
    assert_eq!(verify_checkpoint(&taken, None), Err(VerifyError::Signature));
}

#[test]
fn receipts_are_read_in_all_three_forms() {
    let chain = chain(3);
    let list = serde_json::to_string_pretty(&chain).expect("JSON");
    let lines: Vec<_> = chain.iter().map(|signed| serde_json::to_string(signed).expect("JSON")).collect();
    let of = |receipts: &[Signed]| Ok(Document { receipts: receipts.to_vec(), checkpoints: Vec::new() });
    assert_eq!(read(&list), of(&chain));
    assert_eq!(read(&lines.join("\n")), of(&chain));
    assert_eq!(read(&serde_json::to_string_pretty(&chain[0]).expect("JSON")), of(&chain[..1]));
    let checkpoint = sign_checkpoint(&Checkpoint::new("app_1", 1, &chain[0].sha256, 5), &key(1));
    let point = serde_json::to_string(&checkpoint).expect("JSON");
    let wanted = Document { receipts: chain[1..].to_vec(), checkpoints: vec![checkpoint] };
    assert_eq!(read(&[point.as_str(), &lines[1], &lines[2]].join("\n")), Ok(wanted.clone()));
    assert_eq!(read(&format!("[{},{point},{}]", lines[1], lines[2])), Ok(wanted));
    assert_eq!(read(&point), Err(ReadError::Empty));
    for text in [r#"{"checkpoint":1}"#, r#"{"checkpoint":{}}"#, r#"{"checkpoint":null}"#] {
        assert!(matches!(read(text), Err(ReadError::NoReceipt { number: 1, .. })), "{text}");
    }
    assert_eq!(read(" \n"), Err(ReadError::Empty));
    assert_eq!(read("[]"), Err(ReadError::Empty));
    for text in ["{}", "no", "[1]", "{\"receipt\":1}"] {
        assert!(matches!(read(text), Err(ReadError::NoReceipt { number: 1, .. })), "{text}");
    }
    let found = read(&format!("{}\n{{}}", lines[0]));
    assert!(matches!(found, Err(ReadError::NoReceipt { number: 2, .. })), "{found:?}");
}

#[test]
fn what_is_read_and_told_is_bounded() {
    // Of one that never ends no more is kept than one may have.
    let mut reader = Reader::default();
    let mut fed = Ok(());
    let piece = [b'{'; 1 << 16];
    for _ in 0..=limits::RECEIPT_MAX_BYTES / piece.len() {
        fed = reader.feed(&piece, &mut |_| panic!("nothing is whole"));
    }
    assert_eq!(fed, Err(ReadError::TooLarge { number: 1 }));

    let whole = chain(2);
    let point = serde_json::to_string(&sign_checkpoint(&Checkpoint::new("app_1", 1, &whole[0].sha256, 5), &key(1))).expect("JSON");
    assert_eq!(read(&vec![point; limits::RECEIPT_CHECKPOINTS_MAX + 1].join("\n")), Err(ReadError::Checkpoints));

    let many = vec![whole[0].clone(); limits::RECEIPT_PROBLEMS_MAX + 3];
    let found = report(&many, &[], None, Demand::Each);
    assert_eq!((found.problems.len(), found.more_problems, found.receipts), (limits::RECEIPT_PROBLEMS_MAX, 2, many.len()));
}

#[test]
fn lists_are_lists() {
    let one = serde_json::to_string(&chain(1)[0]).expect("JSON");
    for (text, right) in [
        (format!("[{one}]"), true),
        (format!(" [ {one} ,\n{one}\n] \n"), true),
        (format!("{one}{one}"), true),
        (format!("[{one}{one}]"), false),
        (format!("[{one},]"), false),
        (format!("[{one}"), false),
        (format!("[,{one}]"), false),
        (format!("{one},{one}"), false),
        (format!("{one}]"), false),
        (format!("[{one}]{one}"), false),
        (format!("[[{one}]]"), false),
        (format!("[{one}],"), false),
    ] {
        assert_eq!(read(&text).is_ok(), right, "{text}");
    }
}

#[test]
fn keys_are_read_and_named() {
    let public = key(1).public_key();
    assert_eq!(public.to_string().parse(), Ok(public));
    assert_eq!(format!(" ed25519:{public}\n").parse(), Ok(public));
    assert_eq!(public.id().len(), 16);
    for text in ["", "ed25519:", "zz", &"a".repeat(63), &"a".repeat(66)] {
        assert_eq!(text.parse::<PublicKey>(), Err(KeyError::NoPublicKey), "{text}");
    }
    assert!(Key::from_pkcs8(b"no").is_err());
    // RFC 8032, section 7.1, test 1: the same seed is the same key everywhere.
    let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").expect("hex");
    let key = Key::from_seed(seed.as_slice().try_into().expect("32 bytes")).expect("a key");
    assert_eq!(key.public_key().to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
}

proptest! {
    #[test]
    fn any_receipt_survives_json_and_is_verified(name in proptest::option::of("\\PC{0,40}"), command in proptest::option::of(".{0,80}"), finished_at_ms: i64, cpu_us: Option<u64>, exit_code: Option<i32>, sequence in 2u64..) {
        let mut receipt = receipt(sequence, Some("d".repeat(64)));
        receipt.name = name;
        receipt.command = command;
        receipt.finished_at_ms = finished_at_ms;
        receipt.usage.cpu_us = cpu_us;
        receipt.denied_total = None;
        receipt.exit_code = exit_code;
        let signed = sign(&receipt, &key(3));
        let text = serde_json::to_string(&signed).expect("JSON");
        let read = read(&text).expect("a receipt");
        prop_assert_eq!(&read.receipts[0], &signed);
        prop_assert_eq!(verify(&read.receipts[0], Some(&key(3).public_key())), Ok(()));
    }

    #[test]
    fn a_changed_byte_is_never_a_receipt_of_the_same_key(at in 0usize..10_000, byte in 0u8..128) {
        let signed = sign(&receipt(2, Some("d".repeat(64))), &key(1));
        let mut bytes = serde_json::to_string(&signed).expect("JSON").into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        if let Ok(read) = read(&text) && read.receipts[0] != signed {
            prop_assert!(verify(&read.receipts[0], Some(&key(1).public_key())).is_err());
        }
    }

    #[test]
    fn any_text_is_receipts_or_none(text in "[\\[\\]{}\",:0-9a-z \n]{0,60}", cut in 0usize..4000) {
        let whole = serde_json::to_string(&chain(2)).expect("JSON");
        let _ = read(&text);
        let at = cut % whole.len();
        // What was cut off in the middle is no list.
        prop_assert!(read(&whole[..at]).is_err());
        let _ = read(&format!("{}{text}", &whole[..at]));
    }
}
