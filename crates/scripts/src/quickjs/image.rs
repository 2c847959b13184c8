//! The image that instances are made from: the guest's memory after its start, as data of the module.

use wasmtime::{InstancePre, Linker, Module, Store};

use super::{
    EngineError,
    imports::{self, State},
};

const GUEST: &[u8] = include_bytes!("guest.wasm");
const CTX: &str = include_str!("../ctx.js");
/// The first is what the guest calls, the others are its parts.
const PRELUDE: &str = concat!(
    "(host, makeCtx) => (",
    include_str!("prelude.js"),
    ")(host, makeCtx, [",
    include_str!("prelude/text.js"),
    ",",
    include_str!("prelude/url.js"),
    ",",
    include_str!("prelude/web.js"),
    ",",
    include_str!("prelude/timers.js"),
    "])"
);
/// Of the guest's own stack, which is 3 MiB (`guests/quickjs/build.sh`); the rest is for what QuickJS does beyond its own count.
const STACK_BYTES: u32 = 2 << 20;
const PAGE_BYTES: usize = 4096;
const WASM_PAGE_BYTES: usize = 65536;

/// The guest, started.
pub(super) fn prepare(engine: &wasmtime::Engine) -> Result<InstancePre<State>, EngineError> {
    let compiled = |error: wasmtime::Error| EngineError::Compile(format!("{error:#}"));
    let linker = imports::linker(engine).map_err(compiled)?;
    let started = Module::new(engine, with_memory(GUEST, &start(engine, &linker)?)?).map_err(compiled)?;
    linker.instantiate_pre(&started).map_err(compiled)
}

/// The memory of a guest that has started.
fn start(engine: &wasmtime::Engine, linker: &Linker<State>) -> Result<Vec<u8>, EngineError> {
    let failed = |error: wasmtime::Error| EngineError::Image(format!("{error:#}"));
    let module = Module::new(engine, GUEST).map_err(|error| EngineError::Compile(format!("{error:#}")))?;
    let mut store = Store::new(engine, State::for_image());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = linker.instantiate(&mut store, &module).map_err(failed)?;
    let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| EngineError::Image("it has no memory".into()))?;
    store.data_mut().memory = Some(memory);
    instance.get_typed_func::<(), ()>(&mut store, "_initialize").map_err(failed)?.call(&mut store, ()).map_err(failed)?;
    let alloc = instance.get_typed_func::<u32, u32>(&mut store, "alloc").map_err(failed)?;
    let boot = instance.get_typed_func::<(u32, u32, u32, u32, u32), i32>(&mut store, "boot").map_err(failed)?;
    let mut put = |text: &str| -> wasmtime::Result<(u32, u32)> {
        let at = alloc.call(&mut store, text.len() as u32)?;
        memory.write(&mut store, at as usize, text.as_bytes())?;
        Ok((at, text.len() as u32))
    };
    let (prelude, prelude_length) = put(PRELUDE).map_err(failed)?;
    let (ctx, ctx_length) = put(CTX).map_err(failed)?;
    match boot.call(&mut store, (prelude, prelude_length, ctx, ctx_length, STACK_BYTES)).map_err(failed)? {
        0 => Ok(memory.data(&store).to_vec()),
        code => Err(EngineError::Image(format!("its start ended with {code}"))),
    }
}

/// The module with this memory instead of the data it came with.
fn with_memory(module: &[u8], memory: &[u8]) -> Result<Vec<u8>, EngineError> {
    const MEMORY: u8 = 5;
    const DATA: u8 = 11;
    const DATA_COUNT: u8 = 12;
    let strange = || EngineError::Image("it is no module of the expected form".into());

    let mut made = module.get(..8).ok_or_else(strange)?.to_vec();
    let mut rest = &module[8..];
    while let Some((&id, after)) = rest.split_first() {
        let (length, after) = read_leb(after).ok_or_else(strange)?;
        let (body, after) = after.split_at_checked(length).ok_or_else(strange)?;
        rest = after;
        match id {
            DATA_COUNT => {}
            MEMORY => {
                // One memory: flags, the least number of pages, perhaps the most.
                let [1, flags, limits @ ..] = body else { return Err(strange()) };
                let (_, most) = read_leb(limits).ok_or_else(strange)?;
                let mut body = vec![1, *flags];
                write_leb(&mut body, memory.len() / WASM_PAGE_BYTES);
                body.extend_from_slice(most);
                section(&mut made, id, &body);
            }
            DATA => section(&mut made, id, &data(memory)),
            _ => section(&mut made, id, body),
        }
    }
    Ok(made)
}

/// Active segments for every stretch of pages that are not all zero.
fn data(memory: &[u8]) -> Vec<u8> {
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    for (number, page) in memory.chunks(PAGE_BYTES).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            let from = number * PAGE_BYTES;
            match stretches.last_mut() {
                Some((_, to)) if *to == from => *to = from + page.len(),
                _ => stretches.push((from, from + page.len())),
            }
        }
    }
    let mut body = Vec::with_capacity(memory.len());
    write_leb(&mut body, stretches.len());
    for (from, to) in stretches {
        // Into memory 0, at `i32.const from`.
        body.extend_from_slice(&[0, 0x41]);
        write_signed_leb(&mut body, from);
        body.push(0x0b);
        write_leb(&mut body, to - from);
        body.extend_from_slice(&memory[from..to]);
    }
    body
}

fn section(into: &mut Vec<u8>, id: u8, body: &[u8]) {
    into.push(id);
    write_leb(into, body.len());
    into.extend_from_slice(body);
}

fn read_leb(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (nth, byte) in bytes.iter().enumerate().take(5) {
        value |= usize::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[nth + 1..]));
        }
    }
    None
}

fn write_leb(into: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// Of a value that is not negative: its last byte must not look so.
fn write_signed_leb(into: &mut Vec<u8>, mut value: usize) {
    while value >= 0x40 {
        into.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_what_its_sources_make() {
        use sha2::{Digest, Sha256};
        let lock = include_str!("guest.lock");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for file in ["build.sh", "shim.c", "hooks.c", "stack-limit.patch", "interrupt-line.patch"].map(|file| format!("guests/quickjs/{file}")) {
            let line = format!("{file} {}", hex::encode(Sha256::digest(std::fs::read(root.join(&file)).unwrap())));
            assert!(lock.lines().any(|known| known == line), "{file} is not what guest.wasm was built from: run guests/quickjs/build.sh");
        }
        let line = format!("guest.wasm {}", hex::encode(Sha256::digest(GUEST)));
        assert!(lock.lines().any(|known| known == line), "guest.wasm is not what guest.lock speaks of: run guests/quickjs/build.sh");
    }

    #[test]
    fn data_is_the_pages_that_are_not_zero() {
        let mut memory = vec![0; 5 * PAGE_BYTES];
        memory[PAGE_BYTES] = 1;
        memory[2 * PAGE_BYTES + 5] = 2;
        memory[5 * PAGE_BYTES - 1] = 3;
        let body = data(&memory);
        assert_eq!(body[..3], [2, 0, 0x41]);
        assert_eq!(body.len(), 1 + (2 + 2 + 1 + 2) + (2 + 3 + 1 + 2) + 3 * PAGE_BYTES, "two segments, three pages");
    }

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for value in [0, 1, 0x3f, 0x40, 0x7f, 0x80, 300, 1 << 20, u32::MAX as usize] {
            let mut bytes = Vec::new();
            write_leb(&mut bytes, value);
            assert_eq!(read_leb(&bytes), Some((value, &[][..])));
        }
        let mut bytes = Vec::new();
        write_signed_leb(&mut bytes, 0x40);
        assert_eq!(bytes, [0xc0, 0]);
    }
}
