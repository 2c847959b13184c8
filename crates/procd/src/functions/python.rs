//! Starting Python with our own program, which it reads from a file without a name together with what it is to do.
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Seek, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use sandbar_linux::process::{self, SpawnError};
use sandbar_procd_api::function::{FailureKind, FunctionFailure};

use crate::agent::Agent;
use crate::context::start::{OOM_SCORE_ADJ, environment, find_executable};

const RUNNER: &str = include_str!("runner.py");
/// Reads the whole of the descriptor that it is told and runs what is in it.
pub const BOOT: &str = "import os,sys\nd=b''\nwhile 1:\n p=os.read(int(sys.argv[1]),1<<20)\n if not p:break\n d+=p\nn=8+int(d[:8])\nexec(compile(d[8:n],'<sandbar>','exec'),{'__name__':'sandbar','DATA':d[n:]})";

/// A file in memory with the program and its task, read from its beginning.
///
/// # Errors
/// When there is no memory or no descriptor for it.
pub fn source_file(task: &[u8], flags: rustix::fs::MemfdFlags) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("sandbar", flags)?);
    write!(file, "{:08}{RUNNER}", RUNNER.len())?;
    file.write_all(task)?;
    file.rewind()?;
    Ok(file.into())
}

/// Starts Python; `fds` are its descriptors from 1 on. Returns its pid, which is also that of its session.
///
/// # Errors
/// `no_runtime` when there is no Python, `unavailable` when no process can be made.
pub fn start(agent: &Agent, way: &str, task: &serde_json::Value, own_env: &BTreeMap<String, String>, fds: &[BorrowedFd<'_>]) -> Result<i32, FunctionFailure> {
    let (_, mut env) = environment(agent, own_env);
    env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    let cwd = Some(agent.cwd()).filter(|cwd| std::path::Path::new(cwd).is_dir()).unwrap_or_else(|| "/".to_owned());
    let path = env.get("PATH").cloned().unwrap_or_default();
    let python = find_executable("python3", &path, &cwd)
        .map_err(|_| failure(FailureKind::NoRuntime, format!("the sandbox has no python3 in its PATH ({path}), which functions need")))?;
    let task = serde_json::to_vec(task).unwrap_or_default();
    let source = source_file(&task, rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| unavailable(&crate::error::describe(&e)))?;
    let strings =
        |texts: &mut dyn Iterator<Item = String>| texts.map(CString::new).collect::<Result<Vec<_>, _>>().map_err(|_| unavailable("a string holds NUL"));
    let argv = strings(&mut ["python3", "-u", "-c", BOOT, "0", way].into_iter().map(str::to_owned))?;
    let env = strings(&mut env.iter().map(|(name, value)| format!("{name}={value}")))?;
    let (python, cwd) = (strings(&mut std::iter::once(python))?.remove(0), strings(&mut std::iter::once(cwd))?.remove(0));
    let mut all = vec![(std::os::fd::AsFd::as_fd(&source), 0)];
    all.extend(fds.iter().zip(1..).map(|(fd, number)| (*fd, number)));
    let command = process::Command { path: &python, argv: &argv, env: &env, cwd: &cwd, fds: &all, terminal: false, oom_score_adj: OOM_SCORE_ADJ };
    process::spawn(&command).map_err(|e| match e {
        SpawnError::Clone(Errno::AGAIN) => unavailable("the sandbox has reached its limit of processes"),
        SpawnError::Exec(Errno::TOOBIG) => unavailable("its environment is too long"),
        SpawnError::Clone(_) | SpawnError::Exec(_) | SpawnError::WorkingDirectory(_) | SpawnError::Descriptors(_) => {
            unavailable(&crate::error::describe(&io::Error::from(e.errno())))
        }
    })
}

/// A failure with these words.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> FunctionFailure {
    FunctionFailure { kind, message: message.into() }
}

/// No process for a call.
pub fn unavailable(why: &str) -> FunctionFailure {
    failure(FailureKind::Unavailable, format!("no process for the function: {why}"))
}
