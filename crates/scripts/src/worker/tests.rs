use std::{
    io::{Cursor, Write},
    sync::{Arc, Mutex},
    thread,
};

use proptest::prelude::*;

use super::{
    desk::{Desk, DeskError},
    fake::Fake,
};
use crate::frame::{self, Kind};

/// What a desk says to a whole stream of bytes, with one thread at work until nothing is left.
fn answer(bytes: &[u8]) -> (Result<(), DeskError>, Vec<u8>) {
    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);
    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let out = Out::default();
    let desk = Arc::new(Desk::new(Fake, out.clone()));
    let thread = {
        let desk = Arc::clone(&desk);
        thread::spawn(move || desk.work())
    };
    let read = desk.read(Cursor::new(bytes));
    thread.join().unwrap();
    let said = out.0.lock().unwrap().clone();
    (read, said)
}

/// The frames in what was said are whole, and each is a step or a verdict.
fn check_frames(mut said: &[u8]) -> usize {
    let mut count = 0;
    while !said.is_empty() {
        let (kind, _, length) = frame::header(said[..frame::HEADER_BYTES].try_into().unwrap()).unwrap();
        assert!(matches!(kind, Kind::Step | Kind::Checked));
        let payload = &said[frame::HEADER_BYTES..frame::HEADER_BYTES + length];
        serde_json::from_slice::<serde_json::Value>(payload).unwrap();
        said = &said[frame::HEADER_BYTES + length..];
        count += 1;
    }
    count
}

#[test]
fn a_host_that_is_none_is_not_served() {
    for (bytes, want) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "the host sent no frame"),
        (frame::encode(Kind::Step, 1, b"{}"), "the host sent what is ours to say"),
        ([frame::encode(Kind::Run, 1, b"{}"), frame::encode(Kind::Run, 1, b"{}")].concat(), "the host sent a call that is under way"),
    ] {
        let error = answer(&bytes).0.err().map(|error| error.to_string());
        // The first of two calls may have ended before the second came.
        assert!(error.as_deref() == Some(want) || want.contains("under way"), "{error:?}");
    }
    assert!(answer(b"").0.is_ok());
    assert!(answer(&frame::encode(Kind::Settle, 9, b"{}")).0.is_ok(), "it crossed the last step");
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![Kind::Run, Kind::Settle, Kind::Cancel, Kind::Check]);
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(br#"{"seq":1,"value":null}"#.to_vec()),
        Just(br#"{"code":"x","name":"y"}"#.to_vec()),
        prop::sample::select(vec!["echo", "wait", "panic", "walk", "undefined"]).prop_map(|code| {
            format!(
                r#"{{"code":"{code}","name":"n","data":{{}},"user":{{"id":null,"email":null}},"timeoutMs":1,"cpuMs":1,"memoryBytes":1,"outputBytes":1,"logLines":1,"logBytes":1,"opsPending":1,"ops":1,"seed":"","clock":null}}"#
            )
            .into_bytes()
        }),
    ];
    prop::collection::vec((kind, 0..4u32, payload), 0..30)
        .prop_map(|frames| frames.into_iter().flat_map(|(kind, call, payload)| frame::encode(kind, call, &payload)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_comes_from_the_host_is_answered_in_frames(bytes in frames()) {
        check_frames(&answer(&bytes).1);
    }

    #[test]
    fn bytes_that_are_no_frames_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_frames(&answer(&bytes).1);
    }
}
