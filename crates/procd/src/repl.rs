//! The languages that a REPL context can speak, and how each is driven.
//!
//! A *driver* runs the interpreter on three pipes, with two more for control: code goes in as frames, a byte comes
//! back when the code has ended, so the end is known and the output is the code's own. A *terminal* REPL is an
//! interactive program behind a prompt token; that is the way for the rest, and for everybody who asks for a terminal.
use std::collections::BTreeMap;
use std::time::Duration;

use sandbar_procd_api::{ErrorCode, PtySize, Repl, ReplConfig};

use crate::error::Failure;

pub mod drive;
pub mod terminal;

/// Shown by a terminal REPL when it waits for input.
pub const PROMPT: &str = "_S0_> ";
/// Shown when it waits for the rest of a block.
pub const CONTINUATION: &str = "__S0_CONT__ ";
/// The terminal of a REPL that did not ask for one.
pub const HIDDEN_PTY: PtySize = PtySize { rows: 100, cols: 500 };

const PYTHON: &str = include_str!("repl/python.py");
const PYTHON_BOOT: &str = "import os\nn=int(os.read(3,8))\ns=b''\nwhile len(s)<n:s+=os.read(3,n-len(s))\nexec(compile(s,'<sandbar>','exec'),{'__name__':'sandbar','__builtins__':__builtins__})";
const NODE: &str = include_str!("repl/node.js");
const BASH: &str = include_str!("repl/bash.sh");
const SH: &str = include_str!("repl/sh.sh");
const ZSH: &str = include_str!("repl/zsh.sh");
const PYTHON_PS: &str = "import sys; sys.ps1='_S0_> '; sys.ps2='__S0_CONT__ '";
const NODE_REPL: &str = "require('repl').start({prompt:'_S0_> '})";

/// How code travels to a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Eight decimal digits of length, then the code.
    Length,
    /// The code, then a NUL. NULs in the code are left out: no shell can hold them.
    Nul,
    /// A line with the number of lines, then the lines.
    Lines,
}

impl Framing {
    /// The frame of one piece of code.
    pub fn frame(self, code: &str) -> Vec<u8> {
        match self {
            Self::Length => {
                let mut frame = format!("{:08}", code.len()).into_bytes();
                frame.extend_from_slice(code.as_bytes());
                frame
            }
            Self::Nul => {
                let mut frame: Vec<u8> = code.bytes().filter(|b| *b != 0).collect();
                frame.push(0);
                frame
            }
            Self::Lines => {
                let body: Vec<u8> = code.trim_end_matches('\n').bytes().filter(|b| *b != 0).collect();
                let lines = body.iter().filter(|b| **b == b'\n').count() + 1;
                let mut frame = format!("{lines}\n").into_bytes();
                frame.extend_from_slice(&body);
                frame.push(b'\n');
                frame
            }
        }
    }
}

/// When a terminal REPL counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// This text has appeared.
    Token(String),
    /// This long after the start, and whenever it is silent.
    Delay(Duration),
}

/// How the process of a context is talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Command,
    Driver { framing: Framing, boot: Option<&'static str> },
    Terminal { ready: Ready, clean: bool },
}

/// One way to start a REPL.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub program: String,
    pub args: Vec<String>,
    pub mode: Mode,
}

/// A REPL, resolved from its alias or configuration.
#[derive(Debug, Clone)]
pub struct Language {
    pub name: String,
    pub candidates: Vec<Candidate>,
    /// Set last, over everything that the user set.
    pub env: BTreeMap<String, String>,
}

/// Finds the language of a request.
///
/// # Errors
/// `invalid_request` for an unknown alias or a configuration that contradicts itself.
pub fn resolve(repl: &Repl, pty: bool, user_term: Option<&str>) -> Result<Language, Failure> {
    let alias = repl.alias.trim();
    match &repl.repl_config {
        Some(config) => configured(alias, config, pty),
        None => built_in(if alias.is_empty() { "python" } else { alias }, pty, user_term),
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

fn configured(alias: &str, config: &ReplConfig, pty: bool) -> Result<Language, Failure> {
    let name = config.name.trim();
    if name.is_empty() {
        return Err(invalid("repl_config.name is empty"));
    }
    if !alias.is_empty() && alias != name {
        return Err(invalid(format!("repl.alias {alias:?} differs from repl_config.name {name:?}")));
    }
    if config.candidates.is_empty() || config.candidates.iter().any(|c| c.name.trim().is_empty()) {
        return Err(invalid("repl_config.candidates must name an executable each"));
    }
    let prompt = config.prompt.as_ref().and_then(|p| p.custom_prompt.clone()).filter(|p| !p.is_empty());
    let term = config.default_term.clone().filter(|t| !t.is_empty()).unwrap_or_else(|| "dumb".to_owned());
    let settings = config.ready.clone().unwrap_or_default();
    let ready = match settings.mode.as_deref().unwrap_or("prompt_token") {
        "" | "prompt_token" => {
            let token = settings.token.filter(|t| !t.is_empty()).or_else(|| prompt.clone());
            Ready::Token(token.unwrap_or_else(|| PROMPT.to_owned()))
        }
        "startup_delay" => Ready::Delay(Duration::from_millis(settings.startup_delay_ms.unwrap_or(200).min(60_000))),
        other => return Err(invalid(format!("repl_config.ready.mode {other:?} is neither prompt_token nor startup_delay"))),
    };
    let mut env = BTreeMap::from([("TERM".to_owned(), term.clone())]);
    for var in &config.env {
        let value = match var.value_from.as_deref() {
            None | Some("") => var.value.clone().unwrap_or_default(),
            Some("term") => term.clone(),
            Some("prompt") => prompt.clone().unwrap_or_else(|| PROMPT.to_owned()),
            Some(other) => return Err(invalid(format!("repl_config.env: value_from {other:?} is neither term nor prompt"))),
        };
        env.insert(var.name.clone(), value);
    }
    let mode = Mode::Terminal { ready, clean: !pty };
    let candidates = config.candidates.iter().map(|c| Candidate { program: c.name.trim().to_owned(), args: c.args.clone(), mode: mode.clone() }).collect();
    Ok(Language { name: name.to_owned(), candidates, env })
}

fn built_in(alias: &str, pty: bool, user_term: Option<&str>) -> Result<Language, Failure> {
    let term = user_term.filter(|t| !t.is_empty()).unwrap_or(if pty { "xterm-256color" } else { "dumb" });
    let mut env = BTreeMap::from([("TERM".to_owned(), term.to_owned())]);
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    let token = || Mode::Terminal { ready: Ready::Token(PROMPT.to_owned()), clean: !pty };
    let delay = || Mode::Terminal { ready: Ready::Delay(Duration::from_millis(200)), clean: !pty };
    let driver = |framing, boot| Mode::Driver { framing, boot };
    let make = |programs: &[&str], args: &[&str], mode: Mode| -> Vec<Candidate> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        programs.iter().map(|p| Candidate { program: (*p).to_owned(), args: args.clone(), mode: mode.clone() }).collect()
    };
    let candidates = match alias {
        "python" | "python3" => {
            set("PYTHONUNBUFFERED", "1");
            set("PYTHONDONTWRITEBYTECODE", "1");
            let programs = ["python3", "python"];
            if pty {
                make(&programs, &["-q", "-i", "-u", "-c", PYTHON_PS], token())
            } else {
                make(&programs, &["-u", "-c", PYTHON_BOOT], driver(Framing::Length, Some(PYTHON)))
            }
        }
        "node" | "nodejs" | "javascript" => {
            let programs = ["node", "nodejs"];
            if pty { make(&programs, &["-e", NODE_REPL], token()) } else { make(&programs, &["-e", NODE], driver(Framing::Length, None)) }
        }
        "bash" | "sh" | "zsh" => {
            if pty {
                set("PS1", PROMPT);
                set("PS2", CONTINUATION);
                set("PROMPT", PROMPT);
                let mut all = match alias {
                    "bash" => make(&["bash"], &["--norc", "--noprofile", "-i"], token()),
                    "zsh" => make(&["zsh"], &["--no-rcs", "-i"], token()),
                    _ => Vec::new(),
                };
                all.extend(make(&["sh"], &["-i"], token()));
                all
            } else {
                let mut all = match alias {
                    "bash" => make(&["bash"], &["--norc", "--noprofile", "-c", BASH, "bash"], driver(Framing::Nul, None)),
                    "zsh" => make(&["zsh"], &["--no-rcs", "-c", ZSH, "zsh"], driver(Framing::Nul, None)),
                    _ => Vec::new(),
                };
                all.extend(make(&["sh"], &["-c", SH, "sh"], driver(Framing::Lines, None)));
                all
            }
        }
        "ruby" | "irb" => {
            set("IRBRC", "/dev/null");
            let script = "require 'irb'; IRB.setup(nil); IRB.conf[:PROMPT][:S0]={PROMPT_I:\"_S0_> \",PROMPT_N:\"__S0_CONT__ \",PROMPT_S:\"__S0_CONT__ \",PROMPT_C:\"__S0_CONT__ \",RETURN:\"=> %s\\n\"}; IRB.conf[:PROMPT_MODE]=:S0; IRB.conf[:USE_MULTILINE]=false; IRB.conf[:USE_READLINE]=false; IRB.conf[:USE_AUTOCOMPLETE]=false; IRB::Irb.new.run";
            make(&["ruby"], &["-e", script], token())
        }
        "lua" => {
            set("LUA_INIT", "_PROMPT='_S0_> ' _PROMPT2='__S0_CONT__ '");
            make(&["lua", "lua5.4", "lua5.3", "lua5.2", "lua5.1", "luajit"], &["-i"], token())
        }
        "r" | "R" => make(&["R"], &["--no-save", "--no-restore", "--quiet", "--no-readline", "--interactive", "--no-init-file"], token()),
        "sqlite" | "sqlite3" => make(&["sqlite3"], &["-interactive", "-init", "/dev/null", "-cmd", ".prompt '_S0_> ' '__S0_CONT__ '"], token()),
        "php" => {
            let mut all = make(&["psysh"], &["--no-color"], delay());
            all.extend(make(&["php"], &["-a"], delay()));
            all
        }
        "perl" => {
            let mut all = make(&["reply"], &[], delay());
            set("PERLDB_OPTS", "ReadLine=0 NonStop=0");
            all.extend(make(&["perl"], &["-de0"], delay()));
            all
        }
        "redis-cli" | "redis" => make(&["redis-cli"], &[], delay()),
        "swift" => make(&["swift"], &["repl"], delay()),
        "kotlin" => make(&["kotlinc", "kotlin"], &[], delay()),
        other => return Err(invalid(format!("unsupported language {other:?}; send a repl_config to use it"))),
    };
    if matches!(alias, "r" | "R") {
        env.insert("R_PROMPT".to_owned(), PROMPT.to_owned());
    }
    Ok(Language { name: alias.to_owned(), candidates, env })
}
