//! A yardstick of `sandbar bench`: the same calls by QuickJS as native code, without a wall around it. A fresh runtime and
//! context for each call, as for ours.
//!
//!     native-quickjs COUNT CODE DATA ROW
//!
//! CODE is the body of an async function of `ctx`, DATA what `ctx.data` is, and ROW what `ctx.db` answers with; both JSON. Prints
//! JSON: nanoseconds of each call, what the last one returned, and the memory of this process.

use std::{env, error::Error, fs, time::Instant};

use rquickjs::{AsyncContext, AsyncRuntime, CatchResultExt, Function, Promise, prelude::Async};
use serde_json::{Value, json, value::RawValue};

/// As scripts have by default.
const MEMORY_BYTES: usize = 64 << 20;
const STACK_BYTES: usize = 256 << 10;
/// What a script sees: ops take and give JSON.
const PRELUDE: &str = "(host) => {
  const op = async (name, args) => JSON.parse(await host(name, JSON.stringify(args)));
  return { one: (slug, id) => op('db.one', { slug, id }), list: (slug, query) => op('db.list', { slug, query }) };
}";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [count, code, data, row] = arguments.as_slice() else { return Err("usage: native-quickjs COUNT CODE DATA ROW".into()) };
    let threads = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut times, mut value) = (Vec::new(), String::new());
    for _ in 0..count.parse::<usize>()? {
        let begun = Instant::now();
        value = threads.block_on(call(code, data, row))?;
        times.push(begun.elapsed().as_nanos() as u64);
    }
    let value: Value = serde_json::from_str(&value)?;
    println!("{}", json!({"times_ns": times, "value": value, "rss_bytes": rss_bytes()?}));
    Ok(())
}

/// One call, as JSON.
async fn call(code: &str, data: &str, row: &str) -> Result<String, Box<dyn Error>> {
    let runtime = AsyncRuntime::new()?;
    runtime.set_memory_limit(MEMORY_BYTES).await;
    runtime.set_max_stack_size(STACK_BYTES).await;
    let context = AsyncContext::full(&runtime).await?;
    let source = format!(
        "async (host) => {{ const ctx = {{ data: {data}, db: ({PRELUDE})(host) }}; return JSON.stringify(await (async (ctx) => {{{code}\n}})(ctx)); }}"
    );
    let row = row.to_owned();
    let value = context.async_with(async |ctx| {
        let host = Function::new(ctx.clone(), Async(move |name: String, args: String| answer(name, args, row.clone())));
        let called = async {
            let run: Function = ctx.eval(source)?;
            let promise: Promise = run.call((host?,))?;
            promise.into_future::<String>().await
        };
        called.await.catch(&ctx).map_err(|error| error.to_string())
    });
    Ok(value.await?)
}

/// Two rows to a list. The arguments are read, as any host has to.
async fn answer(name: String, args: String, row: String) -> rquickjs::Result<String> {
    tokio::task::yield_now().await;
    let _: &RawValue = serde_json::from_str(&args).map_err(|error| rquickjs::Error::new_from_js_message("arguments", "JSON", error.to_string()))?;
    Ok(if name == "db.list" { format!("[{row},{row}]") } else { row })
}

fn rss_bytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(kib.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}
