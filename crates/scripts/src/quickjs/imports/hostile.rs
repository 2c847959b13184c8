//! A guest in which somebody else has taken over: it calls whatever there is, with any numbers, over any memory.

use proptest::prelude::*;
use wasmtime::{Engine, Memory, MemoryType, Store, Val, ValType};

use super::*;

const LINES_MAX: usize = 5;
const LOG_BYTES_MAX: usize = 1000;
const OPS_MAX: usize = 6;
const PENDING_MAX: usize = 4;
const MEMORY_BYTES: u32 = 65536;

/// What is often in memory where a call looks.
const WORDS: &[&[u8]] = &[b"fetch", b"db.list", b"sleep", b"{}", b"[1,2,3]", b"null", b"\"x", b"\xff\xfe", b"https://a.b/c?d#e", b"..", b"{\"a\":{\"b\":[]}}"];

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..64u32, 0..MEMORY_BYTES, (MEMORY_BYTES - 64)..(MEMORY_BYTES + 64), any::<u32>(), Just(u32::MAX), Just(1 << 31)]
}

fn call() -> impl Strategy<Value = (prop::sample::Index, [u32; 6])> {
    (any::<prop::sample::Index>(), [number(), number(), number(), number(), number(), number()])
}

fn memory() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
    let word = prop_oneof![prop::sample::select(WORDS).prop_map(<[u8]>::to_vec), prop::collection::vec(any::<u8>(), 0..80)];
    prop::collection::vec((prop_oneof![0..64u32, 0..(MEMORY_BYTES - 80)], word), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_gets_traps_and_what_it_is_given_is_bounded(calls in prop::collection::vec(call(), 1..30), words in memory()) {
        let engine = Engine::default();
        let linker = linker(&engine).unwrap();
        let forever = std::time::Duration::MAX;
        let budget = Budget::new(forever, forever, std::sync::Arc::default());
        let (logs, ops) = (Logs::new(LINES_MAX, LOG_BYTES_MAX), Ops::new(PENDING_MAX, OPS_MAX));
        let state = State::new(budget, MemoryCap::new(1 << 20), GuestClock::new(None), Stream::new(&[1]), logs, ops, 100);
        let mut store = Store::new(&engine, state);
        let memory = Memory::new(&mut store, MemoryType::new(1, Some(1))).unwrap();
        for (at, word) in words {
            memory.write(&mut store, at as usize, &word).unwrap();
        }
        let imports: Vec<_> = linker.iter(&mut store).filter_map(|(_, _, import)| import.into_func()).collect();
        prop_assert!(imports.len() > 10);
        for (nth, (which, numbers)) in calls.iter().enumerate() {
            // The first call may come before there is a memory.
            if nth > 0 {
                store.data_mut().memory = Some(memory);
            }
            let import = which.get(&imports);
            let ty = import.ty(&store);
            let arguments: Vec<Val> = ty
                .params()
                .zip(numbers)
                .map(|(ty, number)| match ty {
                    ValType::I64 => Val::I64(i64::from(*number) << 20),
                    ValType::F64 => Val::F64(u64::from(*number)),
                    _ => Val::I32(*number as i32),
                })
                .collect();
            let mut results = vec![Val::I32(0); ty.results().len()];
            let _ = import.call(&mut store, &arguments, &mut results);
        }
        let state = store.data();
        prop_assert!(state.logs.lines.len() <= LINES_MAX + 1);
        prop_assert!(state.ops.asked.len() <= OPS_MAX && state.ops.waiting.len() <= PENDING_MAX);
        prop_assert!(state.ops.asked.iter().map(|asked| asked.args.get().len()).sum::<usize>() <= ARGS_BYTES_MAX);
        prop_assert!(!matches!(&state.ending, Some(Ending::Value(value)) if value.get().len() > 100));
    }
}
