//! From a request to a process: checks, environment, working directory, executable, pipes.
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;

use rustix::io::Errno;
use sandbar_linux::process::{self, SpawnError};
use sandbar_procd_api::{ContextType, CreateContext, ErrorCode};
use tokio::io::unix::AsyncFd;

use crate::agent::Agent;
use crate::error::Failure;
use crate::keep;
use crate::repl::{self, Candidate, HIDDEN_PTY, Mode};
use crate::run::{Pipes, Run};

pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Contexts are the kernel's first choice when memory is short, the agent its last.
pub const OOM_SCORE_ADJ: i16 = 500;

/// What is started, as the host is told.
#[derive(Debug)]
pub struct Plan {
    pub alias: Option<String>,
    pub command: Option<Vec<String>>,
    pub cwd: String,
    /// What `TERM` is, with a terminal.
    pub term: Option<String>,
    pub shown_env: BTreeMap<String, String>,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

/// The process cannot be made.
pub fn create_failed(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::CreateFailed, message)
}

/// Eight random hexadecimal digits.
pub fn random_hex() -> String {
    let mut bytes = [0_u8; 4];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Checks what needs no look at the system.
///
/// # Errors
/// `invalid_request`.
pub fn validate(spec: &CreateContext) -> Result<(), Failure> {
    match spec.kind {
        ContextType::Cmd => {
            if spec.repl.is_some() {
                return Err(invalid("repl is for contexts of type repl"));
            }
            let Some(first) = spec.cmd.as_ref().and_then(|c| c.command.first()) else {
                return Err(invalid("cmd.command is required for type cmd"));
            };
            if first.is_empty() {
                return Err(invalid("cmd.command names no executable"));
            }
        }
        ContextType::Repl => {
            if spec.cmd.is_some() {
                return Err(invalid("cmd is for contexts of type cmd"));
            }
        }
    }
    if spec.pty_size.is_some_and(|s| s.rows == 0 || s.cols == 0) {
        return Err(invalid("pty_size needs rows and cols above 0"));
    }
    if spec.kept.is_some() && (spec.kind != ContextType::Cmd || spec.pty_size.is_some()) {
        return Err(invalid("kept is for contexts of type cmd without a terminal"));
    }
    let nul = |text: &str| text.contains('\0');
    if spec.cmd.iter().flat_map(|c| &c.command).any(|a| nul(a)) || spec.cwd.as_deref().is_some_and(nul) || spec.env_vars.iter().any(|(k, v)| nul(k) || nul(v)) {
        return Err(invalid("command, cwd and env_vars must not contain NUL"));
    }
    Ok(())
}

fn overlay(under: &mut BTreeMap<String, String>, over: &BTreeMap<String, String>) {
    for (key, value) in over {
        let key = key.trim();
        if !key.is_empty() && !key.contains('=') && !key.contains('\0') && !value.contains('\0') {
            under.insert(key.to_owned(), value.clone());
        }
    }
}

/// The environment of a process that is given `own` variables: first what the host is told of it, then all of it.
pub fn environment(agent: &Agent, own: &BTreeMap<String, String>) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let assign = agent.assign.borrow();
    let mut shown = BTreeMap::new();
    overlay(&mut shown, &assign.env);
    overlay(&mut shown, own);
    let mut env =
        BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned()), ("HOME".to_owned(), "/root".to_owned()), ("LANG".to_owned(), "C.UTF-8".to_owned())]);
    if !assign.sandbox_id.is_empty() {
        env.insert("SANDBAR_SANDBOX_ID".to_owned(), assign.sandbox_id.clone());
    }
    overlay(&mut env, &agent.trust_env.borrow());
    overlay(&mut env, &assign.base_env);
    overlay(&mut env, &shown);
    (shown, env)
}

/// Starts the process of a context.
///
/// # Errors
/// `invalid_request`, `create_failed`.
pub async fn start(agent: &Rc<Agent>, id: &str, spec: &CreateContext) -> Result<(Plan, Rc<Run>), Failure> {
    let (shown_env, mut env) = environment(agent, &spec.env_vars);
    let cwd = working_directory(agent, spec.cwd.as_deref())?;
    let user_term = env.get("TERM").cloned();
    let (alias, command, candidate) = match spec.kind {
        ContextType::Cmd => {
            let argv = spec.cmd.as_ref().map(|c| c.command.clone()).unwrap_or_default();
            if spec.pty_size.is_some() {
                env.insert("TERM".to_owned(), user_term.unwrap_or_else(|| "xterm-256color".to_owned()));
            }
            let (program, args) = argv.split_first().ok_or_else(|| invalid("cmd.command is empty"))?;
            let candidate = Candidate { program: program.clone(), args: args.to_vec(), mode: Mode::Command };
            (None, Some(argv.clone()), candidate)
        }
        ContextType::Repl => {
            let repl = spec.repl.clone().unwrap_or_default();
            let language = repl::resolve(&repl, spec.pty_size.is_some(), user_term.as_deref())?;
            overlay(&mut env, &language.env);
            let path = env.get("PATH").cloned().unwrap_or_default();
            let found = language.candidates.iter().find(|c| find_executable(&c.program, &path, &cwd).is_ok());
            let Some(found) = found else {
                let tried: Vec<&str> = language.candidates.iter().map(|c| c.program.as_str()).collect();
                let message = format!("no interpreter for {:?} is installed; tried {}", language.name, tried.join(", "));
                return Err(create_failed(message));
            };
            (Some(language.name), None, found.clone())
        }
    };
    let term = env.get("TERM").filter(|_| spec.pty_size.is_some()).cloned();
    let path = env.get("PATH").cloned().unwrap_or_default();
    let file = find_executable(&candidate.program, &path, &cwd)?;
    let argv = std::iter::once(&candidate.program).chain(&candidate.args).map(|a| c_string(a.as_str())).collect::<Result<Vec<_>, _>>()?;
    let env = env.iter().map(|(k, v)| c_string(format!("{k}={v}"))).collect::<Result<Vec<_>, _>>()?;
    let program = Program { file: c_string(file)?, argv, env, cwd: c_string(cwd.as_str())?, name: candidate.program.clone() };
    let run = launch(agent, id, spec, candidate.mode, &program).await?;
    Ok((Plan { alias, command, cwd, term, shown_env }, run))
}

/// For the system.
///
/// # Errors
/// `invalid_request` when there is a NUL.
pub fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| invalid("a string contains NUL"))
}

/// The folder to start in.
///
/// # Errors
/// `create_failed` when the one that is asked for is none.
pub fn working_directory(agent: &Agent, asked: Option<&str>) -> Result<String, Failure> {
    let default = agent.cwd();
    let Some(asked) = asked.map(str::trim).filter(|c| !c.is_empty()) else {
        if !Path::new(&default).is_dir() && std::fs::create_dir_all(&default).is_err() {
            return Ok("/".to_owned());
        }
        return Ok(default);
    };
    let cwd = if asked.starts_with('/') { asked.to_owned() } else { format!("{}/{asked}", default.trim_end_matches('/')) };
    match std::fs::metadata(&cwd) {
        Ok(metadata) if metadata.is_dir() => Ok(cwd),
        Ok(_) => Err(create_failed(format!("the working directory {cwd:?} is not a directory"))),
        Err(e) => Err(create_failed(format!("the working directory {cwd:?}: {}", crate::error::describe(&e)))),
    }
}

/// The file of a program, which is a path or is looked for in `path`.
///
/// # Errors
/// `create_failed`.
pub fn find_executable(program: &str, path: &str, cwd: &str) -> Result<String, Failure> {
    let full = |name: &str| if name.starts_with('/') { name.to_owned() } else { format!("{}/{name}", cwd.trim_end_matches('/')) };
    let runs = |file: &str| std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let file = full(program);
        if runs(&file) {
            return Ok(file);
        }
        return Err(match std::fs::metadata(&file) {
            Ok(m) if m.is_dir() => create_failed(format!("{program:?} is a directory, not an executable")),
            Ok(_) => create_failed(format!("{program:?} is not executable")),
            Err(e) => create_failed(format!("executable {program:?}: {}", crate::error::describe(&e))),
        });
    }
    for directory in path.split(':') {
        let file = full(&if directory.is_empty() { program.to_owned() } else { format!("{directory}/{program}") });
        if runs(&file) {
            return Ok(file);
        }
    }
    Err(create_failed(format!("executable {program:?} not found in PATH")))
}

/// What is executed.
pub struct Program {
    pub file: CString,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    /// For messages.
    pub name: String,
}

/// There are no pipes to be had.
pub fn no_pipes(error: Errno) -> Failure {
    create_failed(format!("no pipe for the process: {error}"))
}

/// Our side of a pipe or terminal, in the event loop.
///
/// # Errors
/// `create_failed`.
pub fn ours(fd: OwnedFd) -> Result<Rc<AsyncFd<OwnedFd>>, Failure> {
    process::set_nonblocking(&fd).map_err(no_pipes)?;
    let fd = crate::fd::watch(fd).map_err(|e| create_failed(format!("the process cannot be watched: {e}")))?;
    Ok(Rc::new(fd))
}

async fn launch(agent: &Rc<Agent>, id: &str, spec: &CreateContext, mode: Mode, program: &Program) -> Result<Rc<Run>, Failure> {
    let pty_size = match mode {
        Mode::Terminal { .. } => Some(spec.pty_size.unwrap_or(HIDDEN_PTY)),
        Mode::Command | Mode::Driver { .. } => spec.pty_size,
    };
    let (mut control, mut told) = (None, None);
    let (pid, pipes) = if let Some(size) = pty_size {
        let pty = sandbar_linux::pty::open(size.rows, size.cols).map_err(|e| create_failed(format!("no terminal for the process: {e}")))?;
        if matches!(mode, Mode::Terminal { clean: true, .. }) {
            sandbar_linux::pty::quiet(&pty.terminal).map_err(|e| create_failed(format!("the terminal: {e}")))?;
        }
        let controller = ours(pty.controller)?;
        let side = pty.terminal.as_fd();
        let pid = spawn(program, &[(side, 0), (side, 1), (side, 2)], true)?;
        let pipes = Pipes { outs: [Some(controller.clone()), None], stdin: Some(controller), stdin_reader: None, pty: true, keeper: None };
        (pid, pipes)
    } else {
        let (stdin_reader, stdin) = process::pipe().map_err(no_pipes)?;
        let (stdout, stdout_writer) = process::pipe().map_err(no_pipes)?;
        let (stderr, stderr_writer) = process::pipe().map_err(no_pipes)?;
        let (stdin, stdout, stderr) = (ours(stdin)?, ours(stdout)?, ours(stderr)?);
        let mut fds: Vec<(BorrowedFd<'_>, i32)> = vec![(stdin_reader.as_fd(), 0), (stdout_writer.as_fd(), 1), (stderr_writer.as_fd(), 2)];
        let is_driver = matches!(mode, Mode::Driver { .. });
        let theirs;
        if is_driver {
            let (code_reader, code) = process::pipe().map_err(no_pipes)?;
            let (done, done_writer) = process::pipe().map_err(no_pipes)?;
            process::set_nonblocking(&code).map_err(no_pipes)?;
            process::set_nonblocking(&done).map_err(no_pipes)?;
            let watch = |fd| crate::fd::watch(fd).map_err(|e| create_failed(format!("the process cannot be watched: {e}")));
            control = Some((watch(code)?, watch(done)?));
            theirs = (code_reader, done_writer);
            fds.push((theirs.0.as_fd(), 3));
            fds.push((theirs.1.as_fd(), 4));
        }
        let (pid, keeper) = match spec.kept {
            Some(kept) => {
                let started = keep::agent::start(program, kept, [stdin_reader.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()]).await?;
                told = Some(started.told);
                (started.pid, Some(started.keeper))
            }
            None => (spawn(program, &fds, false)?, None),
        };
        let stdin_reader = is_driver.then_some(stdin_reader);
        // Who waits for the end cannot send input, so a command that reads finds the end of its stdin and not silence.
        let stdin = (is_driver || !spec.wait_until_done).then_some(stdin);
        let pipes = Pipes { outs: [Some(stdout), Some(stderr)], stdin, stdin_reader, pty: false, keeper };
        (pid, pipes)
    };
    let run = Rc::new(Run::new(agent, id.to_owned(), spec.kind, mode, pid, pipes));
    run.expects.set(spec.followed && matches!(run.mode, Mode::Command));
    agent.add_process(run.clone());
    if let Some(told) = told {
        tokio::task::spawn_local(keep::agent::watch(agent.clone(), run.clone(), told));
    }
    for (slot, fd) in run.outs() {
        tokio::task::spawn_local(run.clone().pump(agent.clone(), slot, fd));
    }
    match (&run.mode, control) {
        (Mode::Driver { framing, boot }, Some((code, done))) => {
            tokio::task::spawn_local(run.clone().drive(agent.clone(), *framing, *boot, code, done));
        }
        (Mode::Terminal { .. }, _) => {
            tokio::task::spawn_local(run.clone().drive_terminal(agent.clone()));
        }
        (Mode::Command | Mode::Driver { .. }, _) => {}
    }
    Ok(run)
}

/// Makes the process.
///
/// # Errors
/// `create_failed`.
pub fn spawn(program: &Program, fds: &[(BorrowedFd<'_>, i32)], terminal: bool) -> Result<i32, Failure> {
    let command =
        process::Command { path: &program.file, argv: &program.argv, env: &program.env, cwd: &program.cwd, fds, terminal, oom_score_adj: OOM_SCORE_ADJ };
    process::spawn(&command).map_err(|error| not_started(program, &error))
}

/// Why there is no process, for the host.
pub fn not_started(program: &Program, error: &SpawnError) -> Failure {
    let name = &program.name;
    let system = crate::error::describe(&std::io::Error::from(error.errno()));
    create_failed(match error {
        SpawnError::Exec(Errno::TOOBIG) => format!("{name:?}: arguments and environment are too long"),
        SpawnError::Exec(_) => format!("executable {name:?} cannot be run: {system}"),
        SpawnError::WorkingDirectory(_) => format!("the working directory {:?}: {system}", program.cwd),
        SpawnError::Clone(Errno::AGAIN) => "the sandbox has reached its limit of processes".to_owned(),
        SpawnError::Clone(_) | SpawnError::Descriptors(_) => format!("no process for {name:?}: {system}"),
    })
}
