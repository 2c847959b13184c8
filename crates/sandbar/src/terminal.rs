//! The terminal that the command line sits at.

use std::io::{IsTerminal, Read};

use rustix::termios::{self, OptionalActions, Termios};
use tokio::sync::mpsc;

/// Chunks of input that may wait to be sent.
const INPUT_QUEUE_MAX: usize = 16;
const INPUT_CHUNK_BYTES: usize = 8 << 10;

/// Standard input in raw mode until dropped.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// `None` when standard input is no terminal.
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed ahead is for the command.
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// Rows and columns of the terminal, or of a common one.
pub fn size() -> (u16, u16) {
    termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| termios::tcgetwinsize(std::io::stdin()))
        .ok()
        .map(|size| (size.ws_row, size.ws_col))
        .filter(|(rows, cols)| *rows > 0 && *cols > 0)
        .unwrap_or((24, 80))
}

/// Standard input as chunks; the channel ends with it. A thread of its own reads, since a read cannot be taken back.
pub fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE_MAX);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; INPUT_CHUNK_BYTES];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Asks on the terminal, without echo when it is a secret; from a pipe just reads the line.
pub fn ask(question: &str, secret: bool) -> std::io::Result<String> {
    let stdin = std::io::stdin();
    let mut hidden = None;
    if stdin.is_terminal() {
        eprint!("{question}: ");
        if secret && let Ok(before) = termios::tcgetattr(&stdin) {
            let mut quiet = before.clone();
            quiet.local_modes.remove(termios::LocalModes::ECHO);
            if termios::tcsetattr(&stdin, OptionalActions::Flush, &quiet).is_ok() {
                hidden = Some(before);
            }
        }
    }
    let mut answer = String::new();
    let read = stdin.read_line(&mut answer);
    if let Some(before) = hidden {
        let _ = termios::tcsetattr(&stdin, OptionalActions::Flush, &before);
        eprintln!();
    }
    read.map(|_| answer.trim().to_owned())
}
