//! `python-runner MODULE HANDLER`: this program under another name, for running a handler by hand as the agent would.
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use super::python::{BOOT, source_file};
use crate::context::start::DEFAULT_PATH;

/// The name.
const NAME: &str = "python-runner";
const EXIT_USAGE: u8 = 64;
const EXIT_NO_PYTHON: u8 = 127;

/// Whether the program was started under this name.
pub fn is_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == NAME))
}

/// Becomes Python; returns only when that cannot be.
pub fn run() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [module, handler] = args.as_slice() else {
        eprintln!("usage: {NAME} MODULE HANDLER\nOne request as JSON on standard input, one line of JSON on standard output.");
        return ExitCode::from(EXIT_USAGE);
    };
    let source = match source_file(b"", rustix::fs::MemfdFlags::empty()) {
        Ok(source) => source,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut command = Command::new("python3");
    command.args(["-u", "-c", BOOT]).arg(source.as_raw_fd().to_string()).arg("hand").arg(module).arg(handler).env("PYTHONUNBUFFERED", "1");
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", DEFAULT_PATH);
    }
    let error = command.exec();
    eprintln!("{NAME}: python3 cannot be run: {error}");
    ExitCode::from(EXIT_NO_PYTHON)
}
