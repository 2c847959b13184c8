//! The agent's side of a keeper.
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use sandbar_linux::process::{self, Ended, Used};
use sandbar_procd_api::Kept;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{ASKED_BYTES_MAX, Asked, LINK, NAME, Order, TOLD_BYTES, Told, refusal};
use crate::agent::Agent;
use crate::context::start::{Program, create_failed, not_started};
use crate::error::Failure;
use crate::limits::{KILL_GRACE, START_MAX};
use crate::run::Run;
use crate::tree;

/// More likely to stay than its command when memory is short.
const OOM_SCORE_ADJ: i16 = 0;

/// The keeper of a command.
pub struct Keeper {
    pub pid: i32,
    pub kept: Kept,
    orders: RefCell<Option<OwnedWriteHalf>>,
    /// Nothing is left below it, when it has told so.
    is_last: Cell<bool>,
    is_gone: Cell<bool>,
}

/// A command with its keeper, and where that tells of it.
pub struct Started {
    pub pid: i32,
    pub keeper: Keeper,
    pub told: OwnedReadHalf,
}

/// Starts a command below a keeper. `fds` are the first three descriptors of both.
///
/// # Errors
/// `create_failed`.
pub async fn start(program: &Program, kept: Kept, fds: [BorrowedFd<'_>; 3]) -> Result<Started, Failure> {
    let asked = Asked::encode(&program.file, &program.argv, &program.env);
    if asked.len() > ASKED_BYTES_MAX {
        return Err(not_started(program, &process::SpawnError::Exec(rustix::io::Errno::TOOBIG)));
    }
    let no_keeper = |error: std::io::Error| create_failed(format!("no keeper for {:?}: {error}", program.name));
    let (ours, theirs) = StdStream::pair().map_err(no_keeper)?;
    ours.set_nonblocking(true).map_err(no_keeper)?;
    let ours = UnixStream::from_std(ours).map_err(no_keeper)?;
    let [stdin, stdout, stderr] = fds;
    let command = process::Command {
        path: c"/proc/self/exe",
        argv: &[c"procd".to_owned(), std::ffi::CString::new(NAME).unwrap_or_default()],
        env: &[],
        cwd: &program.cwd,
        fds: &[(stdin, 0), (stdout, 1), (stderr, 2), (theirs.as_fd(), LINK)],
        terminal: false,
        oom_score_adj: OOM_SCORE_ADJ,
    };
    let keeper = process::spawn(&command).map_err(|error| not_started(program, &error))?;
    drop(theirs);
    let (mut told, mut orders) = ours.into_split();
    let first = tokio::time::timeout(START_MAX, async {
        orders.write_all(&asked).await.ok()?;
        next(&mut told).await
    });
    let first = first.await.ok().flatten();
    match first {
        Some(Told::Started(pid)) => {
            let keeper = Keeper { pid: keeper, kept, orders: RefCell::new(Some(orders)), is_last: Cell::new(false), is_gone: Cell::new(false) };
            Ok(Started { pid, keeper, told })
        }
        Some(Told::Refused(step, errno)) => Err(not_started(program, &refusal(step, errno))),
        Some(Told::Ended { .. } | Told::Gone(_)) | None => {
            kill(keeper);
            Err(create_failed(format!("{:?} was not started: its keeper ended, or did not answer", program.name)))
        }
    }
}

/// Kills a keeper that does not do its work, with all that is below it now.
fn kill(keeper: i32) {
    // First, so that it starts nothing any more.
    let _ = process::signal_one(keeper, Signal::STOP.as_raw());
    tree::signal(tree::below(&tree::look(), keeper), Signal::KILL.as_raw());
    let _ = process::signal_one(keeper, Signal::KILL.as_raw());
}

async fn next(told: &mut OwnedReadHalf) -> Option<Told> {
    let mut bytes = [0; TOLD_BYTES];
    told.read_exact(&mut bytes).await.ok()?;
    Told::decode(&bytes)
}

impl Keeper {
    /// Whether it has gone, or has been let go.
    pub fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// Whether something may be left below it.
    pub fn has_rest(&self) -> bool {
        !self.is_gone.get() && !self.is_last.get()
    }

    /// A signal for all that are not in the command's group.
    pub fn signal(&self, number: i32) {
        if let Ok(number) = u8::try_from(number) {
            self.order(Order::Signal(number));
        }
    }

    /// Has it count what is left and go: that goes on, and is nobody's.
    pub fn let_go(&self) {
        self.order(Order::Leave);
    }

    /// Lets go of what is left, and of the keeper.
    pub fn leave(&self) {
        self.is_gone.set(true);
        *self.orders.borrow_mut() = None;
    }

    fn order(&self, order: Order) {
        // One that was stopped hears nothing.
        let _ = process::signal_one(self.pid, Signal::CONT.as_raw());
        if let Some(orders) = &*self.orders.borrow() {
            // It is full only when nobody reads it: then the keeper does not work, and is ended in another way.
            let _ = orders.try_write(&order.encode());
        }
    }

    /// Kills all that is left. Returns whether nothing is.
    pub async fn end(&self, run: &Run) -> bool {
        if self.is_gone() {
            return true;
        }
        self.order(Order::End);
        if tokio::time::timeout(KILL_GRACE, run.until(|| self.is_gone())).await.is_ok() {
            return true;
        }
        kill(self.pid);
        tokio::time::timeout(KILL_GRACE, run.until(|| self.is_gone())).await.is_ok()
    }
}

/// Takes what a keeper tells of a command, until it has gone.
pub async fn watch(agent: Rc<Agent>, run: Rc<Run>, mut told: OwnedReadHalf) {
    let Some(keeper) = &run.keeper else { return };
    while let Some(said) = next(&mut told).await {
        match said {
            Told::Ended { ended, used, is_last } => {
                keeper.is_last.set(is_last);
                agent.ended(&run, ended, used);
            }
            Told::Gone(used) => run.recount(used),
            Told::Started(_) | Told::Refused(..) => break,
        }
    }
    if run.end().is_none() {
        // The command is ours now, unless its keeper has waited for it and could not tell.
        let session = run.pid;
        tree::signal(tree::look().into_iter().filter(|process| process.session == session), Signal::KILL.as_raw());
        if tokio::time::timeout(Duration::from_millis(500), run.until(|| run.end().is_some())).await.is_err() {
            agent.ended(&run, Ended::Signaled(Signal::KILL.as_raw()), Used::default());
        }
    }
    // With it goes our end of the link, which a context that is kept in the list would hold on to.
    keeper.leave();
    run.state.notify_waiters();
}
