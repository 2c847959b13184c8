//! Commands to which all belongs that they start.
//!
//! Between the agent and such a command is its **keeper**, a small process of the same program. It is the reaper of
//! orphans for all that is below it, so whatever a command starts stays below the keeper, also what takes a session of
//! its own or is left by its parent: there it is found to be signalled, ended and counted. The keeper tells the agent
//! how the command ended, and goes when nothing is left below it, or when the agent lets go of what is left.
//!
//! Both speak over a socket pair, which is [`LINK`] in the keeper. What the command is comes there, too: nothing of it is
//! to be seen in the keeper's arguments.
//!
//! ```text
//! agent:  Asked  (Order)*  end
//! keeper: Started | Refused   Ended  Gone
//! ```
//!
//! A keeper has the rights of its command, which can kill it. What is left of the command's session is killed then, and the
//! command has ended by SIGKILL; one that does so before the keeper has told of it was not started, as far as the agent knows.
//! What it started besides is nobody's then. Children of a process that ignores SIGCHLD are not in the figures once they
//! have ended: the kernel counts what is waited for.
use std::ffi::CString;
use std::io;

use sandbar_linux::process::{Ended, SpawnError, Used};

pub mod agent;
pub mod keeper;

/// The name of the keeper's mode.
pub const NAME: &str = "keep";
/// The keeper's end of the socket pair.
const LINK: i32 = 3;
/// All that a keeper says has this size.
const TOLD_BYTES: usize = 32;
const ORDER_BYTES: usize = 2;
/// The kernel takes less as arguments and environment of a program.
const ASKED_BYTES_MAX: usize = 16 << 20;

/// What a keeper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The command runs, with this pid.
    Started(i32),
    /// There is none: step and error number.
    Refused(u8, i32),
    /// The command has ended, and whether nothing is left below the keeper. What was used is that of all that has ended so far.
    Ended { ended: Ended, used: Used, is_last: bool },
    /// All has ended, or is let go, and this is what it used until now.
    Gone(Used),
}

impl Told {
    fn encode(self) -> [u8; TOLD_BYTES] {
        let (kind, flag, number, used) = match self {
            Self::Started(pid) => (1, 0, pid, Used::default()),
            Self::Refused(step, errno) => (2, step, errno, Used::default()),
            Self::Ended { ended: Ended::Exited(code), used, is_last } => (3, u8::from(is_last), code, used),
            Self::Ended { ended: Ended::Signaled(signal), used, is_last } => (4, u8::from(is_last), signal, used),
            Self::Gone(used) => (5, 0, 0, used),
        };
        let mut bytes = [0; TOLD_BYTES];
        bytes[0] = kind;
        bytes[1] = flag;
        bytes[4..8].copy_from_slice(&number.to_be_bytes());
        bytes[8..16].copy_from_slice(&used.cpu_us.to_be_bytes());
        bytes[16..24].copy_from_slice(&used.memory_peak_bytes.to_be_bytes());
        bytes[24..32].copy_from_slice(&used.written_bytes.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; TOLD_BYTES]) -> Option<Self> {
        let flag = bytes[1];
        let number = i32::from_be_bytes(*bytes[4..].first_chunk()?);
        let long = |at: usize| bytes[at..].first_chunk().map(|b| u64::from_be_bytes(*b));
        let used = Used { cpu_us: long(8)?, memory_peak_bytes: long(16)?, written_bytes: long(24)? };
        Some(match bytes[0] {
            1 => Self::Started(number),
            2 => Self::Refused(flag, number),
            3 => Self::Ended { ended: Ended::Exited(number), used, is_last: flag != 0 },
            4 => Self::Ended { ended: Ended::Signaled(number), used, is_last: flag != 0 },
            5 => Self::Gone(used),
            _ => return None,
        })
    }
}

fn refused(error: &SpawnError) -> Told {
    let step = match error {
        SpawnError::Descriptors(_) => 0,
        SpawnError::Clone(_) => 1,
        SpawnError::WorkingDirectory(_) => 2,
        SpawnError::Exec(_) => 3,
    };
    Told::Refused(step, error.errno().raw_os_error())
}

fn refusal(step: u8, errno: i32) -> SpawnError {
    let errno = rustix::io::Errno::from_raw_os_error(errno);
    match step {
        0 => SpawnError::Descriptors(errno),
        1 => SpawnError::Clone(errno),
        2 => SpawnError::WorkingDirectory(errno),
        _ => SpawnError::Exec(errno),
    }
}

/// What the agent wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// A signal for all below the keeper that are not in the command's group, which has it from the agent.
    Signal(u8),
    /// SIGKILL for all below the keeper, until nothing is left.
    End,
    /// What is left goes on, and is nobody's.
    Leave,
}

impl Order {
    fn encode(self) -> [u8; ORDER_BYTES] {
        match self {
            Self::Signal(number) => [1, number],
            Self::End => [2, 0],
            Self::Leave => [3, 0],
        }
    }

    fn decode(bytes: [u8; ORDER_BYTES]) -> Option<Self> {
        match bytes {
            [1, number] => Some(Self::Signal(number)),
            [2, _] => Some(Self::End),
            [3, _] => Some(Self::Leave),
            _ => None,
        }
    }
}

/// The command of a keeper: file, arguments and environment. It has the keeper's working directory, and its first three descriptors.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    file: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Asked {
    fn encode(file: &CString, argv: &[CString], env: &[CString]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(file.as_bytes_with_nul());
        bytes.extend_from_slice(format!("{}\0", argv.len()).as_bytes());
        for text in argv.iter().chain(env) {
            bytes.extend_from_slice(text.as_bytes_with_nul());
        }
        let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn read(from: &mut impl io::Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ASKED_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes)?;
        Self::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut texts = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0).map(CString::new);
        let file = texts.next()?.ok()?;
        let count: usize = texts.next()?.ok()?.to_str().ok()?.parse().ok()?;
        let argv = texts.by_ref().take(count).collect::<Result<Vec<_>, _>>().ok()?;
        let env = texts.collect::<Result<Vec<_>, _>>().ok()?;
        (argv.len() == count).then_some(Self { file, argv, env })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_back() {
        let used = Used { cpu_us: 1, memory_peak_bytes: u64::MAX, written_bytes: 3 };
        for told in [
            Told::Started(77),
            Told::Refused(3, 7),
            Told::Ended { ended: Ended::Exited(255), used, is_last: true },
            Told::Ended { ended: Ended::Signaled(9), used, is_last: false },
            Told::Gone(used),
        ] {
            assert_eq!(Told::decode(&told.encode()), Some(told));
        }
        assert_eq!(Told::decode(&[9; TOLD_BYTES]), None);
        for order in [Order::Signal(15), Order::End, Order::Leave] {
            assert_eq!(Order::decode(order.encode()), Some(order));
        }
        assert_eq!(Order::decode([0, 0]), None);
        for step in 0..4 {
            assert_eq!(refused(&refusal(step, 7)), Told::Refused(step, 7));
        }
    }

    #[test]
    fn commands_come_back() {
        let c = |texts: &[&str]| texts.iter().map(|text| CString::new(*text).unwrap()).collect::<Vec<_>>();
        for (argv, env) in [(c(&["sh", "-c", "", "é\n"]), c(&["A=", "B=c d"])), (c(&["x"]), c(&[])), (c(&[]), c(&["A=b"]))] {
            let file = CString::new("/bin/sh").unwrap();
            let bytes = Asked::encode(&file, &argv, &env);
            let asked = Asked::read(&mut bytes.as_slice()).unwrap();
            assert_eq!((&asked.argv, &asked.env, &asked.file), (&argv, &env, &file));
            assert!(Asked::read(&mut &bytes[..bytes.len() - 1]).is_err());
        }
        for wrong in [&b""[..], b"/bin/sh\0", b"/bin/sh\0two\0", b"/bin/sh\x002\0one\0", b"/bin/sh\x000"] {
            assert_eq!(Asked::decode(wrong), None);
        }
        assert!(Asked::read(&mut &[255_u8; 8][..]).is_err());
    }
}
