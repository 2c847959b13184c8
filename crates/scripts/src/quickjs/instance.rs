//! One call in the guest: its start, its answers, its end.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use wasmtime::{AsContextMut, Memory, Store, TypedFunc, UpdateDeadline};

use super::{
    Engine, MEMORY_BYTES_MAX,
    clock::GuestClock,
    imports::{Ending, Logs, Ops, State},
    limits::{Budget, MemoryCap, Tick},
    random::Stream,
    verdict,
};
use crate::{
    Failure,
    frame::{Checked, Done, Run, Settle, Step, SyntaxError},
};

/// What compiling alone may take.
const CHECK_WALL: Duration = Duration::from_secs(10);
const CHECK_MEMORY_BYTES: usize = 256 << 20;

/// A call that waits for answers of its host. One thread at a time.
pub struct Instance {
    engine: Engine,
    guest: Guest,
}

/// An instance of the module, and what it exports.
struct Guest {
    store: Store<State>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    instance: wasmtime::Instance,
}

/// A buffer in the guest, which is the guest's to free.
type Given = (u32, u32);

pub(super) fn check(engine: &Engine, code: &str, name: &str) -> Checked {
    let budget = Budget::new(CHECK_WALL, CHECK_WALL, Arc::default());
    let state = State::new(budget, MemoryCap::new(CHECK_MEMORY_BYTES), GuestClock::new(None), Stream::new(&[]), Logs::new(0, 0), Ops::new(0, 0), 0);
    let nowhere = |message: &str| Checked { error: Some(SyntaxError { message: message.into(), line: 1, column: 1 }) };
    let mut guest = match Guest::new(engine, state) {
        Ok(guest) => guest,
        Err(failure) => return nowhere(&failure.message),
    };
    let entered = guest.enter(engine, |guest| guest.compile(code, name));
    match (guest.store.data_mut().ending.take(), entered) {
        (None, Ok(_)) => Checked { error: None },
        (Some(Ending::Thrown(description)), _) => Checked { error: Some(verdict::of_syntax(&description, code)) },
        (Some(_), Ok(_)) | (_, Err(_)) => nowhere("the code is too large or nested too deep"),
    }
}

pub(super) fn start(engine: &Engine, run: Run, cancel: Arc<AtomicBool>) -> (Option<Instance>, Step) {
    let budget = Budget::new(Duration::from_millis(run.timeout_ms), Duration::from_millis(run.cpu_ms), cancel);
    let cap = MemoryCap::new(usize::try_from(run.memory_bytes).map_or(MEMORY_BYTES_MAX, |bytes| bytes.min(MEMORY_BYTES_MAX)));
    let logs = Logs::new(run.log_lines, run.log_bytes);
    let ops = Ops::new(run.ops_pending, run.ops);
    let state = State::new(budget, cap, GuestClock::new(run.clock), Stream::new(run.seed.as_bytes()), logs, ops, run.output_bytes);
    let user = match serde_json::to_string(&run.user) {
        Ok(user) => user,
        Err(error) => return (None, ended(failed(Failure::internal(error.to_string())))),
    };
    let mut instance = match Guest::new(engine, state) {
        Ok(guest) => Instance { engine: engine.clone(), guest },
        Err(failure) => return (None, ended(failed(failure))),
    };
    let entered = instance.guest.enter(engine, |guest| {
        if guest.compile(&run.code, &run.name)? {
            let (data, data_length) = guest.put(run.data.get())?;
            let (user, user_length) = guest.put(&user)?;
            guest.function::<(u32, u32, u32, u32), ()>("run")?.call(&mut guest.store, (data, data_length, user, user_length))?;
        }
        Ok(())
    });
    let step = instance.step(entered);
    (step.done.is_none().then_some(instance), step)
}

impl Instance {
    /// An op was answered. One that is not waited for is nothing.
    pub fn settle(&mut self, settle: Settle) -> Step {
        let state = self.guest.store.data_mut();
        if !state.ops.answered(settle.seq) {
            return Step::default();
        }
        if state.budget.look().is_some() {
            return self.step(Ok(()));
        }
        let entered = self.guest.enter(&self.engine, |guest| {
            let (ok, (text, length)) = match (&settle.error, &settle.value) {
                (Some(error), _) => (0, guest.put(&format!("{}\n{}", error.code.as_str(), error.message))?),
                (None, Some(value)) => (1, guest.put(value.get())?),
                (None, None) => (1, guest.put("null")?),
            };
            guest.function::<(u32, u32, u32, u32), ()>("settle")?.call(&mut guest.store, (settle.seq, ok, text, length))
        });
        self.step(entered)
    }

    /// The call is not wanted any more, or its time is up while it waits: the end says which.
    pub fn cancel(mut self) -> Done {
        let state = self.guest.store.data_mut();
        let failure = match state.budget.look() {
            Some(stop) => verdict::stopped(state, stop),
            None => verdict::stopped(state, super::limits::Stop::Cancelled),
        };
        verdict::done(state, Err(failure))
    }

    /// What came of an entry.
    fn step(&mut self, entered: wasmtime::Result<()>) -> Step {
        let state = self.guest.store.data_mut();
        let done = verdict::of_run(state, entered);
        let asked = std::mem::take(&mut state.ops.asked);
        let logs = std::mem::take(&mut state.logs.lines);
        // Nobody will hear the answers to what was asked at the end.
        Step { logs, ops: if done.is_some() { Vec::new() } else { asked }, done }
    }
}

impl Guest {
    fn new(engine: &Engine, state: State) -> Result<Self, Failure> {
        let pre = &engine.0.pre;
        let mut store = Store::new(pre.module().engine(), state);
        store.limiter(|state| &mut state.cap);
        store.epoch_deadline_callback(|mut store| {
            Ok(match store.data_mut().budget.tick() {
                Tick::GoOn => UpdateDeadline::Continue(1),
                Tick::Trap => UpdateDeadline::Interrupt,
            })
        });
        let made = pre.instantiate(&mut store);
        let instance = match made {
            Ok(instance) => instance,
            Err(_) if store.data().cap.refused => return Err(verdict::out_of_memory(store.data().cap.most)),
            Err(error) => return Err(Failure::internal(format!("cannot make an instance of the engine: {error:#}"))),
        };
        let mut exports = || -> Option<_> {
            let memory = instance.get_memory(&mut store, "memory")?;
            let alloc = instance.get_typed_func(&mut store, "alloc").ok()?;
            Some((memory, alloc))
        };
        let Some((memory, alloc)) = exports() else { return Err(Failure::internal("the guest has no memory")) };
        store.data_mut().memory = Some(memory);
        Ok(Self { store, memory, alloc, instance })
    }

    /// Everything that runs the guest goes through here: time is measured and the ticker ticks.
    fn enter<T>(&mut self, engine: &Engine, run: impl FnOnce(&mut Self) -> wasmtime::Result<T>) -> wasmtime::Result<T> {
        let _running = engine.0.ticker.run();
        self.store.set_epoch_deadline(1);
        self.store.data_mut().budget.enter();
        let result = run(self);
        self.store.data_mut().budget.leave();
        result
    }

    fn function<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(&mut self, name: &str) -> wasmtime::Result<TypedFunc<P, R>> {
        self.instance.get_typed_func(self.store.as_context_mut(), name)
    }

    fn put(&mut self, text: &str) -> wasmtime::Result<Given> {
        let length = u32::try_from(text.len()).map_err(|_| wasmtime::Error::msg("more than the guest can address"))?;
        let at = self.alloc.call(&mut self.store, length)?;
        if at == 0 {
            self.store.data_mut().cap.refused = true;
            return Err(wasmtime::Error::msg("the guest has no room for what it is given"));
        }
        self.memory.write(&mut self.store, at as usize, text.as_bytes())?;
        Ok((at, length))
    }

    /// False when the code is wrong; the guest has then said so.
    fn compile(&mut self, code: &str, name: &str) -> wasmtime::Result<bool> {
        let (code, code_length) = self.put(code)?;
        let (name, name_length) = self.put(name)?;
        let compile = self.function::<(u32, u32, u32, u32), i32>("compile")?;
        Ok(compile.call(&mut self.store, (code, code_length, name, name_length))? == 0)
    }
}

fn failed(failure: Failure) -> Done {
    Done { value: None, failure: Some(failure), usage: Default::default(), clock: None }
}

fn ended(done: Done) -> Step {
    Step { done: Some(done), ..Step::default() }
}
