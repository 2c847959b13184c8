//! QuickJS in WebAssembly: each call in an instance of its own, made from an image in which the engine has started already.
//!
//! The guest is never suspended. What a script asks for becomes a promise at once and the guest returns; an answer is another
//! entry. So an [`Instance`] that waits is memory and nothing else, and may go on in another thread.
//!
//! The guest is C (`guests/quickjs`), and is built and committed on its own; what of it is JavaScript is handed to it when the
//! image is made, at the start of the process. What may go wrong in either stays in the instance.

mod clock;
mod image;
mod imports;
mod instance;
mod limits;
mod random;
mod verdict;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use wasmtime::{Cache, CacheConfig, Config, InstanceAllocationStrategy, InstancePre, OptLevel, PoolingAllocationConfig};

use crate::frame;

pub use instance::Instance;

use imports::State;
use limits::Ticker;

/// Calls that can be under way at a time in one process. Address space is set aside for each, memory is not.
pub const INSTANCES_MAX: u32 = 256;
/// The most that [`frame::Run::memory_bytes`] can grant.
pub const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Of the thread's own stack, while a script runs. It is more than what QuickJS takes of it before it finds the stack of the guest too
/// full (`image::STACK_BYTES`): only then can a script catch that it went too deep.
const WASM_STACK_BYTES: usize = 6 << 20;
/// What a thread in which scripts run needs.
pub const THREAD_STACK_BYTES: usize = 8 << 20;

/// Makes instances. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    pre: InstancePre<State>,
    ticker: Ticker,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot use the cache of compiled code at {path}: {reason}")]
    Cache { path: String, reason: String },
    #[error("cannot compile the guest: {0}")]
    Compile(String),
    #[error("cannot make the image of the guest: {0}")]
    Image(String),
    #[error("cannot start the thread that measures time")]
    Ticker(#[source] std::io::Error),
}

impl Engine {
    /// Compiles the guest, or finds it compiled in `cache_dir`, which nobody else may write: what lies there is run. Without
    /// a cache this takes seconds.
    pub fn open(cache_dir: Option<&Path>) -> Result<Self, EngineError> {
        let engine = wasmtime::Engine::new(&config(cache_dir)?).map_err(|error| EngineError::Compile(format!("{error:#}")))?;
        let pre = image::prepare(&engine)?;
        let ticker = Ticker::start(engine).map_err(EngineError::Ticker)?;
        Ok(Self(Arc::new(Inner { pre, ticker })))
    }

    /// Compiles and does not run. Lines and columns count from 1.
    pub fn check(&self, code: &str, name: &str) -> frame::Checked {
        instance::check(self, code, name)
    }

    /// Begins a call. There is no instance when it ended at once; the step then says how.
    pub fn start(&self, run: frame::Run, cancel: Arc<AtomicBool>) -> (Option<Instance>, frame::Step) {
        instance::start(self, run, cancel)
    }
}

fn config(cache_dir: Option<&Path>) -> Result<Config, EngineError> {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(INSTANCES_MAX).total_memories(INSTANCES_MAX).total_tables(INSTANCES_MAX).max_memory_size(MEMORY_BYTES_MAX);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(true)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(WASM_STACK_BYTES)
        // There are no such stacks here, but it must not be less.
        .async_stack_size(THREAD_STACK_BYTES)
        .parallel_compilation(false)
        .wasm_backtrace_max_frames(None)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    if let Some(path) = cache_dir {
        let failed = |reason: String| EngineError::Cache { path: path.display().to_string(), reason };
        std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
        let path = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        let mut cache = CacheConfig::new();
        cache.with_directory(path);
        config.cache(Some(Cache::new(cache).map_err(|error| failed(format!("{error:#}")))?));
    }
    Ok(config)
}
