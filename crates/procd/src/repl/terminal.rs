//! REPLs behind a prompt token: watching for it, typing line by line, and taking echo, prompt and control sequences
//! out of what is shown to those who did not ask for a terminal.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::drive::Asker;
use super::{CONTINUATION, Ready};
use crate::agent::Agent;
use crate::limits::CHUNK_BYTES_MAX;
use crate::run::Run;

/// Silence after a prompt that makes it the last one.
const PROMPT_SILENCE: Duration = Duration::from_millis(50);
/// Silence that ends the wait for a prompt between two lines.
const LINE_SILENCE: Duration = Duration::from_millis(200);
/// Silence that counts as ready where there is no prompt token.
const DELAY_SILENCE: Duration = Duration::from_millis(300);
/// A first prompt that does not come is not waited for longer than this.
const FIRST_PROMPT_MAX: Duration = Duration::from_secs(20);
/// Typed lines whose echo is still expected.
const ECHOES_MAX: usize = 4096;

/// What is known of the terminal's text.
#[derive(Debug)]
pub struct Screen {
    token: Option<String>,
    delay: Duration,
    clean: bool,
    prompts: Cell<u64>,
    continuations: Cell<u64>,
    last: Cell<Instant>,
    /// The end of the text that may be the begin of a token, or a line that is not complete.
    held: RefCell<String>,
    echoes: RefCell<VecDeque<String>>,
}

impl Screen {
    /// An empty screen.
    pub fn new(ready: &Ready, clean: bool) -> Self {
        let (token, delay) = match ready {
            Ready::Token(token) => (Some(token.clone()), Duration::ZERO),
            Ready::Delay(delay) => (None, *delay),
        };
        Self {
            token,
            delay,
            clean,
            prompts: Cell::new(0),
            continuations: Cell::new(0),
            last: Cell::new(Instant::now()),
            held: RefCell::default(),
            echoes: RefCell::default(),
        }
    }

    /// Takes text from the terminal; `show` gets what is to be kept.
    pub fn push(&self, text: &str, mut show: impl FnMut(&str)) {
        self.last.set(Instant::now());
        if !self.clean {
            show(text);
        }
        let mut held = self.held.borrow_mut();
        held.push_str(text);
        loop {
            let line = held.find('\n').map(|at| (at, 1, 0));
            let prompt = self.token.as_deref().and_then(|t| held.find(t).map(|at| (at, t.len(), 1)));
            let more = held.find(CONTINUATION).map(|at| (at, CONTINUATION.len(), 2));
            let Some((at, length, what)) = [line, prompt, more].into_iter().flatten().min() else { break };
            let before: String = held.drain(..at + length).collect();
            let before = &before[..at];
            match what {
                0 => self.line(before, true, &mut show),
                1 => {
                    self.prompts.set(self.prompts.get() + 1);
                    self.line(before, false, &mut show);
                }
                _ => {
                    self.continuations.set(self.continuations.get() + 1);
                    self.line(before, false, &mut show);
                }
            }
        }
        if held.len() > CHUNK_BYTES_MAX {
            let all = std::mem::take(&mut *held);
            self.line(&all, false, &mut show);
        }
    }

    /// Shows what is held back.
    pub fn flush(&self, mut show: impl FnMut(&str)) {
        let all = std::mem::take(&mut *self.held.borrow_mut());
        self.line(&all, false, &mut show);
    }

    fn line(&self, text: &str, complete: bool, show: &mut impl FnMut(&str)) {
        if !self.clean {
            return;
        }
        let plain = strip_controls(text);
        if complete {
            let mut echoes = self.echoes.borrow_mut();
            let position = echoes.iter().take(8).position(|e| e.trim_end() == plain.trim_end());
            if let Some(position) = position {
                echoes.drain(..=position);
                return;
            }
        }
        if complete {
            show(&(plain + "\n"));
        } else if !plain.is_empty() {
            show(&plain);
        }
    }

    fn marks(&self) -> u64 {
        self.prompts.get() + self.continuations.get()
    }
}

/// Text without carriage returns, escape sequences and bells.
fn strip_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' | '\u{7}' => {}
            '\u{8}' => drop(out.pop()),
            '\u{1b}' => match chars.next() {
                Some('[') => {
                    for c in chars.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&c) {
                            break;
                        }
                    }
                }
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                Some('(' | ')') => drop(chars.next()),
                Some(_) | None => {}
            },
            c => out.push(c),
        }
    }
    out
}

impl Run {
    /// Prompts seen so far.
    pub fn prompts(&self) -> u64 {
        self.screen.as_ref().map_or(0, |s| s.prompts.get())
    }

    async fn silence(&self, screen: &Screen, length: Duration) {
        loop {
            let last = screen.last.get();
            tokio::time::sleep_until((last + length).into()).await;
            if screen.last.get() == last {
                return;
            }
        }
    }

    async fn mark(&self, mut condition: impl FnMut() -> bool) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if condition() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the program can be typed to.
    pub async fn first_prompt(&self) {
        let Some(screen) = &self.screen else { return };
        if screen.token.is_some() {
            let _ = tokio::time::timeout(FIRST_PROMPT_MAX, self.mark(|| screen.prompts.get() > 0)).await;
        } else {
            tokio::time::sleep(screen.delay).await;
            self.silence(screen, DELAY_SILENCE).await;
        }
    }

    /// Types code line by line and waits until it has run.
    pub async fn type_code(self: &Rc<Self>, code: &str) {
        let Some(screen) = &self.screen else { return };
        screen.echoes.borrow_mut().clear();
        let code = code.replace("\r\n", "\n");
        let lines: Vec<&str> = code.strip_suffix('\n').unwrap_or(&code).split('\n').collect();
        let mut prompts = screen.prompts.get();
        for (i, line) in lines.iter().enumerate() {
            prompts = screen.prompts.get();
            let marks = screen.marks();
            if !self.type_line(screen, line).await {
                return;
            }
            if i + 1 < lines.len() {
                tokio::select! {
                    () = self.mark(|| screen.marks() > marks) => {}
                    () = self.silence(screen, LINE_SILENCE) => {}
                }
            }
        }
        if screen.token.is_none() {
            return self.silence(screen, DELAY_SILENCE).await;
        }
        let mut closed = false;
        loop {
            let continuations = screen.continuations.get();
            self.mark(|| screen.prompts.get() > prompts || screen.continuations.get() > continuations).await;
            self.silence(screen, PROMPT_SILENCE).await;
            if screen.prompts.get() > prompts {
                return;
            }
            // A block that was not ended: an empty line ends it in most languages.
            if closed {
                return;
            }
            closed = true;
            if !self.type_line(screen, "").await {
                return;
            }
        }
    }

    async fn type_line(self: &Rc<Self>, screen: &Screen, line: &str) -> bool {
        if screen.clean && !line.is_empty() {
            let mut echoes = screen.echoes.borrow_mut();
            if echoes.len() < ECHOES_MAX {
                echoes.push_back(line.to_owned());
            }
        }
        screen.last.set(Instant::now());
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(b'\n');
        // A terminal takes 4 KiB at a time; what does not fit waits in the queue of the input.
        loop {
            match self.write(&bytes) {
                Ok(()) => return true,
                Err(failure) if failure.0.code == sandbar_procd_api::ErrorCode::InputBufferFull => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(_) => return false,
            }
        }
    }

    /// Answers an attached reader when the next prompt has come.
    pub fn answer_at_prompt(self: Rc<Self>, agent: Rc<Agent>, asker: Asker, prompts: u64) {
        tokio::task::spawn_local(async move {
            let Some(screen) = &self.screen else { return };
            let wait = async {
                if screen.token.is_some() {
                    self.mark(|| screen.prompts.get() > prompts).await;
                    self.silence(screen, PROMPT_SILENCE).await;
                } else {
                    self.silence(screen, DELAY_SILENCE).await;
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.until_finished() => return,
            }
            self.flush_screen(&agent);
            asker.0.answer(self.log.borrow().end(), asker.1);
            self.changed.notify_waiters();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_echo_and_escapes_go() {
        let screen = Screen::new(&Ready::Token(super::super::PROMPT.to_owned()), true);
        let mut text = String::new();
        screen.echoes.borrow_mut().push_back("print(2)".to_owned());
        for part in ["hi\r\n_S", "0_> ", "\x1b[?2004lprint(2)\r\n", "2\r\n", "no end_S0_> "] {
            screen.push(part, |t| text.push_str(t));
        }
        assert_eq!(text, "hi\n2\nno end");
        assert_eq!(screen.prompts.get(), 2);
    }
}
