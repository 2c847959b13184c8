//! Any bytes are a manifest or are refused with places in order; and what a manifest is stored as says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbar_core::app::manifest::{Manifest, parse, parse_bytes};

fuzz_target!(|bytes: &[u8]| {
    match parse_bytes(bytes) {
        Ok(parsed) => {
            assert_eq!(parse(&parsed.normalised.to_string()).as_ref(), Ok(&parsed));
            let stored: Manifest = serde_json::from_value(parsed.normalised).expect("what was written is read");
            assert_eq!(stored, parsed.manifest);
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            assert!(wrong.is_sorted_by_key(|diagnostic| (diagnostic.line, diagnostic.column)));
        }
    }
});
