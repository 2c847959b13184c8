//! What a process is yet to read: queued, bounded, and written as it reads.
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use rustix::io::Errno;
use sandbar_procd_api::ErrorCode;
use tokio::io::unix::AsyncFd;

use super::{Run, finished, input_full};
use crate::error::Failure;
use crate::limits::*;
use crate::repl::Mode;

#[derive(Debug, Default)]
pub(super) struct Input {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Bytes of the first message that are written.
    written: usize,
    writing: bool,
    /// Nothing comes after what is queued.
    ended: bool,
}

impl Run {
    /// # Errors
    /// `input_buffer_full` when it has not read what it got before, `process_finished`, `write_failed` when it has
    /// closed its stdin.
    pub fn write(self: &Rc<Self>, data: &[u8]) -> Result<(), Failure> {
        if self.exit.borrow().is_some() {
            return Err(finished());
        }
        let fd = self.stdin.borrow().clone();
        let Some(fd) = fd else {
            return Err(Failure::new(ErrorCode::WriteFailed, "the process has closed its input"));
        };
        self.activity.set(Instant::now());
        let mut input = self.input.borrow_mut();
        let mut data = data;
        if input.messages.is_empty() {
            // Mostly there is room at once, and no task is needed.
            while !data.is_empty() {
                match rustix::io::write(fd.get_ref(), data) {
                    Ok(n) => data = &data[n..],
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(_) => {
                        drop(input);
                        if !self.pty {
                            *self.stdin.borrow_mut() = None;
                        }
                        return Err(Failure::new(ErrorCode::WriteFailed, "the process has closed its input"));
                    }
                }
            }
        } else if input.messages.len() >= INPUT_MESSAGES_MAX || input.bytes + data.len() > INPUT_BYTES_MAX {
            return Err(input_full());
        }
        if data.is_empty() {
            return Ok(());
        }
        input.bytes += data.len();
        input.messages.push_back(data.to_vec());
        if !input.writing {
            input.writing = true;
            let run = self.clone();
            tokio::task::spawn_local(async move { run.feed(fd).await });
        }
        Ok(())
    }

    async fn feed(self: Rc<Self>, fd: Rc<AsyncFd<OwnedFd>>) {
        loop {
            let ready = tokio::select! {
                ready = fd.writable() => ready,
                () = self.until(|| self.exit.borrow().is_some()) => break,
            };
            let Ok(mut guard) = ready else { break };
            let mut input = self.input.borrow_mut();
            let written = input.written;
            let Some(message) = input.messages.front() else { break };
            match rustix::io::write(fd.get_ref(), &message[written..]) {
                Ok(n) => {
                    let length = message.len();
                    input.written += n;
                    input.bytes = input.bytes.saturating_sub(n);
                    if input.written >= length {
                        input.messages.pop_front();
                        input.written = 0;
                    }
                    if input.messages.is_empty() {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(_) => {
                    *input = Input::default();
                    if !self.pty {
                        *self.stdin.borrow_mut() = None;
                    }
                    return;
                }
            }
        }
        self.input.borrow_mut().writing = false;
        self.close_ended();
    }

    /// Lets a command find the end of its stdin, after what is queued for it. A terminal or REPL has no such end.
    pub fn end_input(&self) {
        if self.pty || !matches!(self.mode, Mode::Command) {
            return;
        }
        self.input.borrow_mut().ended = true;
        self.close_ended();
    }

    fn close_ended(&self) {
        let input = self.input.borrow();
        if input.ended && input.messages.is_empty() {
            *self.stdin.borrow_mut() = None;
        }
    }

    /// Takes back the input that a driver's code has not read.
    pub fn take_leftovers(&self) -> Vec<u8> {
        let Some(reader) = &self.stdin_reader else { return Vec::new() };
        let mut left = Vec::new();
        if rustix::io::ioctl_fionread(reader).unwrap_or(0) > 0 {
            left = sandbar_linux::process::drain_pipe(reader, INPUT_BYTES_MAX).unwrap_or_default();
        }
        let mut input = self.input.borrow_mut();
        let written = input.written;
        for (i, message) in std::mem::take(&mut input.messages).into_iter().enumerate() {
            left.extend_from_slice(&message[if i == 0 { written } else { 0 }..]);
        }
        input.bytes = 0;
        input.written = 0;
        left
    }
}
