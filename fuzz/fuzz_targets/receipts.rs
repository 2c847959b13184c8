//! Any text is receipts or is refused; what was read is written and read again as the same, and looking at it fails on nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbar_core::app::receipt::{Demand, read, verify_chain};

fuzz_target!(|text: &str| {
    let Ok(document) = read(text) else { return };
    let lines: Vec<_> = document
        .checkpoints
        .iter()
        .map(|checkpoint| serde_json::to_string(checkpoint).expect("JSON"))
        .chain(document.receipts.iter().map(|receipt| serde_json::to_string(receipt).expect("JSON")))
        .collect();
    assert_eq!(read(&lines.join("\n")).as_ref(), Ok(&document));
    for demand in [Demand::Each, Demand::Chain] {
        let report = verify_chain(&document.receipts, &document.checkpoints, None, demand);
        assert!(report.problems.iter().all(|problem| problem.index < document.receipts.len()));
        assert!(report.problems.is_sorted_by_key(|problem| problem.index));
    }
});
