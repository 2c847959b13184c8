//! Pseudo-terminals.
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, OutputModes, Winsize};

/// Both sides of a new pseudo-terminal, closed on exec.
#[derive(Debug)]
pub struct Pty {
    /// Nonblocking.
    pub controller: OwnedFd,
    pub terminal: OwnedFd,
}

/// Opens a pseudo-terminal of this size through `/dev/ptmx`.
///
/// # Errors
/// When there is no `/dev/ptmx` or no more terminals are to be had.
pub fn open(rows: u16, cols: u16) -> Result<Pty, Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&controller)?;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&controller, flags)?;
    resize(&controller, rows, cols)?;
    rustix::io::ioctl_fionbio(&controller, true)?;
    Ok(Pty { controller, terminal })
}

/// Sets the size; the foreground process group is told by SIGWINCH.
///
/// # Errors
/// As the ioctl.
pub fn resize(pty: impl AsFd, rows: u16, cols: u16) -> Result<(), Errno> {
    rustix::termios::tcsetwinsize(pty, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })
}

/// Turns off echo and the `\r` before `\n`: for programs that are driven, not typed to.
///
/// # Errors
/// As tcgetattr and tcsetattr.
pub fn quiet(terminal: impl AsFd) -> Result<(), Errno> {
    let terminal = terminal.as_fd();
    let mut modes = rustix::termios::tcgetattr(terminal)?;
    modes.local_modes &= !(LocalModes::ECHO | LocalModes::ECHONL);
    modes.output_modes &= !OutputModes::ONLCR;
    rustix::termios::tcsetattr(terminal, OptionalActions::Now, &modes)
}
