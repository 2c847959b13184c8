//! `procd keep`: the keeper of one command; see the module above.
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use sandbar_linux::process::{self, Command, Ended, Used};

use super::{Asked, LINK, ORDER_BYTES, Order, Told, refused};
use crate::context::start::OOM_SCORE_ADJ;
use crate::stats::{self, Of};
use crate::tree;

/// What is begun while all others are being stopped is looked for so often.
const STOP_ROUNDS_MAX: usize = 16;
/// Between two tries to end all: at first, and at most.
const AGAIN_FIRST: Duration = Duration::from_millis(5);
const AGAIN_MAX: Duration = Duration::from_millis(500);

/// Keeps the command that the agent asks for.
pub fn run() -> ExitCode {
    let Some(link) = process::inherited(LINK) else {
        eprintln!("procd keep is for the agent alone");
        return ExitCode::FAILURE;
    };
    let Ok(children) = process::become_init() else { return ExitCode::FAILURE };
    process::block_signals();
    // Whoever hears of what is wrong here is the agent, which finds the link at its end.
    match keep(UnixStream::from(link), &children) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn keep(mut link: UnixStream, children: &OwnedFd) -> io::Result<()> {
    let asked = Asked::read(&mut link)?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let fds = [(stdin.as_fd(), 0), (stdout.as_fd(), 1), (stderr.as_fd(), 2)];
    let command = Command { path: &asked.file, argv: &asked.argv, env: &asked.env, cwd: c".", fds: &fds, terminal: false, oom_score_adj: OOM_SCORE_ADJ };
    let pid = match process::spawn(&command) {
        Ok(pid) => pid,
        Err(error) => return link.write_all(&refused(&error).encode()),
    };
    drop(asked);
    // The streams end with those that write to them, and its folder can be taken away. Where that cannot be, it is waited for less long.
    let _ = process::close_standard();
    let _ = std::env::set_current_dir("/");
    link.write_all(&Told::Started(pid).encode())?;
    Kept { pid, used: Used::default(), is_told: false, is_ending: false, again: AGAIN_FIRST }.follow(&mut link, children)
}

/// A command, and what is known of all below it.
struct Kept {
    pid: i32,
    used: Used,
    is_told: bool,
    is_ending: bool,
    again: Duration,
}

impl Kept {
    fn follow(&mut self, link: &mut UnixStream, children: &OwnedFd) -> io::Result<()> {
        loop {
            // Empty the descriptor first: a child that ends after that makes it readable again.
            let mut buffer = [0_u8; 128 * 8];
            while rustix::io::read(children, &mut buffer).is_ok() {}
            let ended = self.reap();
            let is_last = !has_children();
            if let Some(ended) = ended {
                self.is_told = true;
                link.write_all(&Told::Ended { ended, used: self.used, is_last }.encode())?;
            }
            if self.is_told && is_last {
                return link.write_all(&Told::Gone(self.used).encode());
            }
            if self.is_ending {
                end_all();
                self.again = (self.again * 2).min(AGAIN_MAX);
            }
            if is_said(link, children, self.is_ending.then_some(self.again))? {
                let mut order = [0; ORDER_BYTES];
                // At the end of the link nothing is wanted of us any more: what is left goes to whoever reaps us.
                link.read_exact(&mut order)?;
                match Order::decode(order) {
                    Some(Order::Signal(number)) => self.signal(i32::from(number)),
                    Some(Order::End) => self.is_ending = true,
                    Some(Order::Leave) => {
                        // Who ends meanwhile is waited for by nobody, and so is counted once.
                        self.reap();
                        let used = self.used.plus(stats::of_rest(Of::Left(own_pid())));
                        return link.write_all(&Told::Gone(used).encode());
                    }
                    None => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        }
    }

    /// Waits for all that has ended. How the command did, when it is among them.
    fn reap(&mut self) -> Option<Ended> {
        let mut found = None;
        while let Some(reaped) = process::reap() {
            self.used = self.used.plus(reaped.used);
            if reaped.pid == self.pid && !self.is_told {
                found = Some(reaped.ended);
            }
        }
        found
    }

    fn signal(&self, number: i32) {
        let others = tree::below(&tree::look(), own_pid()).into_iter().filter(|process| process.group != self.pid && !process.is_dead);
        tree::signal(others, number);
    }
}

/// Kills all below us. They are stopped before, so that none begins others meanwhile.
fn end_all() {
    let living = || tree::below(&tree::look(), own_pid()).into_iter().filter(|process| !process.is_dead);
    let mut stopped = HashSet::new();
    for _ in 0..STOP_ROUNDS_MAX {
        let new: Vec<_> = living().filter(|process| stopped.insert(process.pid)).collect();
        if new.is_empty() {
            break;
        }
        tree::signal(new, Signal::STOP.as_raw());
    }
    tree::signal(living(), Signal::KILL.as_raw());
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

/// Waits for an end, an order, or until the time is over; true when there is an order, or the end of the link.
fn is_said(link: &UnixStream, children: &OwnedFd, within: Option<Duration>) -> io::Result<bool> {
    let within = within.and_then(|within| Timespec::try_from(within).ok());
    let mut fds = [PollFd::new(link, PollFlags::IN), PollFd::new(children, PollFlags::IN)];
    match poll(&mut fds, within.as_ref()) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
