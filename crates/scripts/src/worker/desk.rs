//! Frames in, steps out, and many calls at a time. Each call is entered by one thread at a time, in the order of its frames.
//!
//! ```text
//!  read ──▶ queue of the call ──▶ work (calls that have something to do and nobody at it) ──▶ threads ──▶ say
//! ```

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    Failure, FailureCode, Usage,
    frame::{self, Check, Checked, Done, FRAME_BYTES_MAX, HEADER_BYTES, Kind, Run, Settle, Step, SyntaxError},
};

/// The host keeps to less ([`crate::link`]); who goes beyond is no host of ours.
const CALLS_MAX: usize = 4096;
const SETTLES_MAX: usize = 64;

/// What runs scripts: QuickJS, and in tests what is easier to steer.
pub(crate) trait Machine: Send + Sync + 'static {
    type Instance: Send + 'static;

    fn check(&self, code: &str, name: &str) -> Checked;
    /// An instance is there as long as the step is not the last.
    fn start(&self, run: Run, cancel: Arc<AtomicBool>) -> (Option<Self::Instance>, Step);
    fn settle(instance: &mut Self::Instance, settle: Settle) -> Step;
    fn cancel(instance: Self::Instance) -> Done;
}

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("cannot read from the host: {0}")]
    Read(#[source] io::Error),
    #[error("cannot write to the host: {0}")]
    Write(#[source] io::Error),
    #[error("the host sent {0}")]
    Host(&'static str),
}

pub(crate) struct Desk<M: Machine, W> {
    machine: M,
    calls: Mutex<HashMap<u32, Arc<Call<M::Instance>>>>,
    work: Mutex<Work<M::Instance>>,
    wake: Condvar,
    out: Mutex<W>,
}

struct Work<I> {
    jobs: VecDeque<Job<I>>,
    closed: bool,
}

enum Job<I> {
    Call(u32, Arc<Call<I>>),
    Check(u32, Vec<u8>),
}

struct Call<I> {
    cancel: Arc<AtomicBool>,
    state: Mutex<State<I>>,
}

struct State<I> {
    entries: VecDeque<Entry>,
    /// A thread is at it, or will be.
    taken: bool,
    /// Not there before the start, and while a thread is at it.
    instance: Option<I>,
}

enum Entry {
    Start(Vec<u8>),
    Settle(Vec<u8>),
    Cancel,
}

impl<M: Machine, W: Write> Desk<M, W> {
    pub fn new(machine: M, out: W) -> Self {
        let work = Work { jobs: VecDeque::new(), closed: false };
        Self { machine, calls: Mutex::default(), work: Mutex::new(work), wake: Condvar::new(), out: Mutex::new(out) }
    }

    /// Takes frames until the stream ends; then threads stop as soon as they can.
    pub fn read(&self, mut from: impl Read) -> Result<(), DeskError> {
        let ended = self.read_all(&mut from);
        lock(&self.work).closed = true;
        self.wake.notify_all();
        for call in lock(&self.calls).values() {
            call.cancel.store(true, Ordering::Relaxed);
        }
        ended
    }

    /// Does what there is to do, until the stream ends.
    pub fn work(&self) {
        loop {
            let mut work = lock(&self.work);
            let job = loop {
                if work.closed {
                    return;
                }
                match work.jobs.pop_front() {
                    Some(job) => break job,
                    None => work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(work);
            let said = match job {
                Job::Call(id, call) => self.attend(id, &call),
                Job::Check(id, payload) => self.check(id, &payload),
            };
            // The reader sees the end of the stream, too, and it is the reader who ends everything.
            if said.is_err() {
                return;
            }
        }
    }

    /// Sends a frame.
    pub fn say(&self, frame: &[u8]) -> Result<(), DeskError> {
        let mut out = lock(&self.out);
        out.write_all(frame).and_then(|()| out.flush()).map_err(DeskError::Write)
    }

    fn read_all(&self, from: &mut impl Read) -> Result<(), DeskError> {
        loop {
            let mut header = [0; HEADER_BYTES];
            match from.read_exact(&mut header) {
                Ok(()) => {}
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(DeskError::Read(error)),
            }
            let (kind, id, length) = frame::header(header).ok_or(DeskError::Host("no frame"))?;
            debug_assert!(length <= FRAME_BYTES_MAX);
            let mut payload = vec![0; length];
            from.read_exact(&mut payload).map_err(DeskError::Read)?;
            match kind {
                Kind::Run => self.begin(id, payload)?,
                Kind::Settle => self.enter(id, Entry::Settle(payload))?,
                Kind::Cancel => self.enter(id, Entry::Cancel)?,
                Kind::Check => self.add(Job::Check(id, payload)),
                Kind::Ready | Kind::Step | Kind::Checked => return Err(DeskError::Host("what is ours to say")),
            }
        }
    }

    fn begin(&self, id: u32, payload: Vec<u8>) -> Result<(), DeskError> {
        let state = State { entries: VecDeque::from([Entry::Start(payload)]), taken: true, instance: None };
        let call = Arc::new(Call { cancel: Arc::default(), state: Mutex::new(state) });
        let mut calls = lock(&self.calls);
        if calls.len() >= CALLS_MAX {
            return Err(DeskError::Host("too many calls"));
        }
        if calls.insert(id, Arc::clone(&call)).is_some() {
            return Err(DeskError::Host("a call that is under way"));
        }
        drop(calls);
        self.add(Job::Call(id, call));
        Ok(())
    }

    fn enter(&self, id: u32, entry: Entry) -> Result<(), DeskError> {
        // One that has ended: its last step crossed this.
        let Some(call) = lock(&self.calls).get(&id).cloned() else { return Ok(()) };
        let mut state = lock(&call.state);
        match entry {
            Entry::Cancel => {
                call.cancel.store(true, Ordering::Relaxed);
                // What is before it is of no use any more, a start that nobody began either.
                state.entries.clear();
            }
            Entry::Start(_) | Entry::Settle(_) if state.entries.len() >= SETTLES_MAX => return Err(DeskError::Host("too much for one call")),
            Entry::Start(_) | Entry::Settle(_) => {}
        }
        state.entries.push_back(entry);
        let free = !std::mem::replace(&mut state.taken, true);
        drop(state);
        if free {
            self.add(Job::Call(id, call));
        }
        Ok(())
    }

    fn add(&self, job: Job<M::Instance>) {
        lock(&self.work).jobs.push_back(job);
        self.wake.notify_one();
    }

    /// One entry of a call. The next one waits for its turn among the others' if there is one.
    fn attend(&self, id: u32, call: &Arc<Call<M::Instance>>) -> Result<(), DeskError> {
        let mut state = lock(&call.state);
        let (entry, instance) = (state.entries.pop_front(), state.instance.take());
        drop(state);
        let Some(entry) = entry else { return Ok(()) };
        // One that panics leaves nothing behind: its instance was moved in.
        let entered = catch_unwind(AssertUnwindSafe(|| self.run(entry, instance, &call.cancel)));
        let (instance, step) = entered.unwrap_or_else(|_| (None, failed("the engine panicked")));
        let over = step.done.is_some() || instance.is_none();
        let (frame, over) = match frame::pack(Kind::Step, id, &step) {
            Some(frame) => (frame, over),
            None => {
                let message = format!("what the script said at once is larger than {FRAME_BYTES_MAX} bytes");
                let step = ended(Failure { code: FailureCode::PayloadTooLarge, name: "RangeError".into(), message, stack: None });
                (frame::pack(Kind::Step, id, &step).unwrap_or_default(), true)
            }
        };
        if over {
            drop(instance);
            lock(&self.calls).remove(&id);
            return self.say(&frame);
        }
        self.say(&frame)?;
        let mut state = lock(&call.state);
        state.instance = instance;
        state.taken = !state.entries.is_empty();
        if state.taken {
            drop(state);
            self.add(Job::Call(id, Arc::clone(call)));
        }
        Ok(())
    }

    fn run(&self, entry: Entry, instance: Option<M::Instance>, cancel: &Arc<AtomicBool>) -> (Option<M::Instance>, Step) {
        match (entry, instance) {
            (Entry::Start(payload), _) => match serde_json::from_slice(&payload) {
                Ok(run) => {
                    drop(payload);
                    let (instance, step) = self.machine.start(run, Arc::clone(cancel));
                    unended(instance, step)
                }
                Err(error) => (None, failed(&format!("the call could not be read: {error}"))),
            },
            (Entry::Settle(payload), Some(mut instance)) => match serde_json::from_slice(&payload) {
                Ok(settle) => {
                    drop(payload);
                    let step = M::settle(&mut instance, settle);
                    unended(Some(instance), step)
                }
                Err(error) => (None, failed(&format!("an answer could not be read: {error}"))),
            },
            (Entry::Cancel, Some(instance)) => (None, Step { done: Some(M::cancel(instance)), ..Step::default() }),
            (Entry::Cancel, None) => {
                (None, ended(Failure { code: FailureCode::Cancelled, name: "CancelledError".into(), message: "cancelled".into(), stack: None }))
            }
            (Entry::Settle(_), None) => (None, failed("an answer came before the start")),
        }
    }

    fn check(&self, id: u32, payload: &[u8]) -> Result<(), DeskError> {
        let unknown = |message: &str| Checked { error: Some(SyntaxError { message: message.to_owned(), line: 1, column: 1 }) };
        let checked = match serde_json::from_slice::<Check>(payload) {
            Ok(Check { code, name }) => catch_unwind(AssertUnwindSafe(|| self.machine.check(&code, &name))).unwrap_or_else(|_| unknown("the engine panicked")),
            Err(_) => unknown("the script could not be read"),
        };
        self.say(&frame::pack(Kind::Checked, id, &checked).unwrap_or_default())
    }
}

/// An instance whose step was the last is let go of; one that is missing has ended.
fn unended<I>(instance: Option<I>, mut step: Step) -> (Option<I>, Step) {
    if instance.is_none() && step.done.is_none() {
        step.done = failed("the engine lost the call").done;
    }
    (instance.filter(|_| step.done.is_none()), step)
}

fn failed(message: &str) -> Step {
    ended(Failure::internal(message))
}

fn ended(failure: Failure) -> Step {
    Step { done: Some(Done { value: None, failure: Some(failure), usage: Usage::default(), clock: None }), ..Step::default() }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
