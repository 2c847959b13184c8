//! The host's side of one engine at the other end of a stream: QuickJS in a worker process, or Bun in a sandbox.
//!
//! Nothing that comes from there is believed: an engine that says what it cannot have meant ([`bounds`]) is given up as a
//! whole, since whoever got so far may say anything about the other calls it has.
//!
//! ```text
//! run ──Run, Settle, Cancel──▶ out ──▶ stream ──▶ engine
//!  ▲                                                 │
//!  └──steps of the call, as many bytes as there is room for◀──┘
//! ```

mod bounds;
mod drive;
mod recorder;
mod room;
mod tape;
#[cfg(test)]
mod tests;

pub use recorder::Recorder;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Call, Failure, Host, Outcome, Recording,
    frame::{self, Check, Checked, FRAME_BYTES_MAX, HEADER_BYTES, Kind, SyntaxError},
};
pub(crate) use bounds::cut_syntax_error;
use drive::{Drive, Source};
use room::{Held, Rooms};

/// From the start of an engine until it can be sent calls. The first start on a machine compiles the engine.
pub const READY_MAX: Duration = Duration::from_secs(120);
/// From [`Kind::Cancel`] to the last step of that call. Engines give way to everybody else on their machine, and one that is
/// merely slow takes all calls of its team along when it is given up.
pub const CANCEL_MAX: Duration = Duration::from_secs(5);
/// An engine ends what runs too long by itself, and better. It has so much more time for it.
pub const WALL_GRACE: Duration = Duration::from_millis(250);
/// For compiling, without running, one script.
pub const CHECK_MAX: Duration = Duration::from_secs(15);

/// Steps of all calls that were read and that nobody has looked at yet.
const UNREAD_BYTES_MAX: usize = FRAME_BYTES_MAX;
const UNREAD_STEPS_MAX: usize = 32;
/// A call whose owner does not look at its steps for so long holds up all others.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// Frames on their way out.
const OUT_FRAMES_MAX: usize = 16;
/// Bytes are counted in these.
const ROOM_UNIT: usize = 1 << 10;

/// What a call came to, and what it asked for meanwhile.
#[derive(Debug, Clone)]
pub struct Ran {
    pub outcome: Outcome,
    pub recording: Recording,
}

impl Ran {
    /// It did not even begin.
    pub fn failed(call: &Call, failure: Failure) -> Self {
        Self { outcome: Outcome::failed(failure), recording: Recording { seed: hex::encode(call.seed), ..Recording::default() } }
    }
}

/// What came of running a recording again.
#[derive(Debug, Clone)]
pub struct Replayed {
    pub ran: Ran,
    /// What the script asked for this time and not then, or then and not this time; timers aside. A bounded number of sentences.
    pub diverged: Vec<String>,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the engine ended before it was ready")]
    Ended,
    #[error("the engine was not ready within {} s", READY_MAX.as_secs())]
    Late,
    #[error("the engine began with something else than that it is ready")]
    NotReady,
    #[error("cannot read from the engine")]
    Read(#[source] std::io::Error),
}

/// Why a script was not found good.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Syntax(SyntaxError),
    /// Nothing is known about the script.
    #[error("{0}")]
    Engine(String),
    /// Nor here: too much is under way. Another time it is known.
    #[error("{0}")]
    Busy(String),
}

/// What is kept until the engine has let go of a call.
pub type Hold = Box<dyn std::fmt::Debug + Send + Sync>;

/// One engine. Clones are the same one; with the last of them it is let go of.
#[derive(Debug, Clone)]
pub struct Link {
    own: Arc<Own>,
}

/// What nobody but clones of a link has.
#[derive(Debug)]
struct Own {
    out: mpsc::Sender<Outgoing>,
    rooms: Rooms,
    shared: Arc<Shared>,
}

/// A frame, counted until it is written.
#[derive(Debug)]
struct Outgoing {
    frame: Vec<u8>,
    _held: Option<Held>,
}

#[derive(Debug)]
struct Shared {
    calls: Mutex<Calls>,
    gone: CancellationToken,
    /// Set before `gone` is.
    why: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Calls {
    last: u32,
    open: HashMap<u32, mpsc::Sender<Incoming>>,
}

/// A frame that nobody has looked at. Dropping it makes room for more.
#[derive(Debug)]
struct Incoming {
    kind: Kind,
    payload: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// The place of one call among those of an engine, until it is dropped.
#[derive(Debug)]
struct Seat {
    link: Link,
    id: u32,
    steps: mpsc::Receiver<Incoming>,
    _hold: Option<Hold>,
}

impl Link {
    /// Waits until the engine is ready. The task ends when the engine is gone, however that came: whoever has its process ends it then.
    ///
    /// # Errors
    /// When it is not ready in time, or begins with something else.
    pub async fn open<R, W>(read: R, write: W) -> Result<(Self, JoinHandle<()>), LinkError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let mut read = BufReader::with_capacity(64 << 10, read);
        let mut bytes = [0; HEADER_BYTES];
        match timeout(READY_MAX, read.read_exact(&mut bytes)).await {
            Err(_) => return Err(LinkError::Late),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(LinkError::Ended),
            Ok(Err(error)) => return Err(LinkError::Read(error)),
            Ok(Ok(_)) => {}
        }
        if frame::header(bytes) != Some((Kind::Ready, 0, 0)) {
            return Err(LinkError::NotReady);
        }
        let (out, frames) = mpsc::channel(OUT_FRAMES_MAX);
        let shared = Arc::new(Shared { calls: Mutex::default(), gone: CancellationToken::new(), why: OnceLock::new() });
        // It has not what links have, or they would never end.
        let task = tokio::spawn(tend(Arc::clone(&shared), read, write, frames));
        Ok((Self { own: Arc::new(Own { out, rooms: Rooms::of_engine(), shared }) }, task))
    }

    /// Runs a script and answers what it asks for by `host`. It ends at its wall deadline or when it is cancelled, at the latest.
    pub async fn run(&self, call: Call, host: &dyn Host, cancel: &CancellationToken) -> Ran {
        self.run_holding(None, call, host, cancel).await
    }

    /// The same; `hold` is dropped when the engine has let go of the call, also when that is after whoever waits for this has gone.
    pub async fn run_holding(&self, hold: Option<Hold>, call: Call, host: &dyn Host, cancel: &CancellationToken) -> Ran {
        let (ran, _) = Drive::new(self, &call, Source::host(host), hold).run(call, cancel).await;
        ran
    }

    /// Runs a script and tells it what it was told before: the clock, what is random, and the answers in their order.
    pub async fn replay(&self, hold: Option<Hold>, mut call: Call, recording: &Recording, cancel: &CancellationToken) -> Replayed {
        tape::prepare(&mut call, recording);
        let clock = call.clock.clone();
        let (mut ran, diverged) = Drive::new(self, &call, Source::tape(recording), hold).run(call, cancel).await;
        // An engine says nothing of a clock that it was given.
        ran.recording.clock = ran.recording.clock.or(clock);
        Replayed { ran, diverged }
    }

    /// Whether a script can be compiled.
    ///
    /// # Errors
    /// Where it is wrong; or why that is not known.
    pub async fn check(&self, code: &str, name: &str) -> Result<(), CheckError> {
        let gone = || CheckError::Engine(self.why_gone());
        let mut seat = self.seat(None).ok_or_else(gone)?;
        let check = frame::pack(Kind::Check, seat.id, &Check { code: code.to_owned(), name: name.to_owned() });
        let check = check.ok_or_else(|| CheckError::Engine("the script is too large for the engine".to_owned()))?;
        let answer = timeout(CHECK_MAX, async {
            self.own.out.send(Outgoing { frame: check, _held: None }).await.ok()?;
            seat.steps.recv().await
        });
        let Ok(answer) = answer.await else {
            self.end("the engine did not check a script in time");
            return Err(gone());
        };
        let answer = answer.ok_or_else(gone)?;
        let Some(checked) = (answer.kind == Kind::Checked).then(|| serde_json::from_slice::<Checked>(&answer.payload).ok()).flatten() else {
            self.end("the engine answered a check with something else");
            return Err(gone());
        };
        checked.error.map_or(Ok(()), |error| Err(CheckError::Syntax(cut_syntax_error(error))))
    }

    pub fn is_gone(&self) -> bool {
        self.own.shared.gone.is_cancelled()
    }

    /// Lets go of the engine: calls under way end with this reason, and its stream is closed.
    pub fn end(&self, why: impl Into<String>) {
        self.own.shared.end(why.into());
    }

    fn why_gone(&self) -> String {
        self.own.shared.why.get().cloned().unwrap_or_else(|| "the engine ended".to_owned())
    }

    /// None when the engine is gone.
    fn seat(&self, hold: Option<Hold>) -> Option<Seat> {
        let (sender, steps) = mpsc::channel(UNREAD_STEPS_MAX);
        let mut calls = self.own.shared.calls();
        let id = loop {
            calls.last = calls.last.checked_add(1).unwrap_or(1);
            if !calls.open.contains_key(&calls.last) {
                break calls.last;
            }
        };
        calls.open.insert(id, sender);
        drop(calls);
        let seat = Seat { link: self.clone(), id, steps, _hold: hold };
        // After it is in the list, which is emptied when an engine is gone.
        (!self.is_gone()).then_some(seat)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.shared.end("the engine is not used any more".to_owned());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.link.own.shared.calls().open.remove(&self.id);
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: String) {
        let _ = self.why.set(why);
        self.gone.cancel();
        // Whoever waits for a step sees that there will be none.
        self.calls().open.clear();
    }
}

async fn tend<R, W>(shared: Arc<Shared>, mut read: R, write: W, frames: mpsc::Receiver<Outgoing>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let why = tokio::select! {
        why = receive(&mut read, &shared) => why,
        why = send(write, frames) => why,
        () = shared.gone.cancelled() => String::new(),
    };
    shared.end(why);
}

async fn send<W: AsyncWrite + Unpin>(mut write: W, mut frames: mpsc::Receiver<Outgoing>) -> String {
    while let Some(outgoing) = frames.recv().await {
        if let Err(error) = write.write_all(&outgoing.frame).await {
            return format!("the engine ended (cannot write to it: {error})");
        }
    }
    "the engine is not used any more".to_owned()
}

/// Until the engine is gone; says why.
async fn receive<R: AsyncRead + Unpin>(read: &mut R, shared: &Shared) -> String {
    let room = Arc::new(Semaphore::new(UNREAD_BYTES_MAX / ROOM_UNIT));
    loop {
        let mut bytes = [0; HEADER_BYTES];
        if let Err(error) = read.read_exact(&mut bytes).await {
            return ended(&error);
        }
        let Some((kind @ (Kind::Step | Kind::Checked), call, length)) = frame::header(bytes) else {
            return "the engine sent something that is no frame".to_owned();
        };
        let units = length.div_ceil(ROOM_UNIT) as u32;
        let Ok(permit) = timeout(UNREAD_MAX, Arc::clone(&room).acquire_many_owned(units)).await else {
            return "what the engine says is not looked at".to_owned();
        };
        let Ok(permit) = permit else { return "the engine ended".to_owned() };
        // It grows with what comes: a length alone takes no memory.
        let mut payload = Vec::new();
        match (&mut *read).take(length as u64).read_to_end(&mut payload).await {
            Ok(_) if payload.len() == length => {}
            Ok(_) => return ended(&std::io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return ended(&error),
        }
        let call = {
            let calls = shared.calls();
            if call > calls.last {
                return "the engine speaks of a call that it was not sent".to_owned();
            }
            // One that is over already: its last words crossed ours.
            calls.open.get(&call).cloned()
        };
        if let Some(call) = call
            && let Err(mpsc::error::SendTimeoutError::Timeout(_)) = call.send_timeout(Incoming { kind, payload, _room: permit }, UNREAD_MAX).await
        {
            return "what the engine says is not looked at".to_owned();
        }
    }
}

fn ended(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => "the engine ended unexpectedly".to_owned(),
        _ => format!("the engine ended (cannot read from it: {error})"),
    }
}
