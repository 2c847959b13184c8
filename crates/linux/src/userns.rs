//! User namespaces: a sandbox's ids are a range of the host's own, never host uid 0.
use std::{fs, io, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags};

/// How many user and group ids every sandbox gets.
pub const RANGE: u32 = 65_536;

/// The lowest base that is accepted. Ids below belong to the host's people and services.
pub const BASE_MIN: u32 = 100_000;

/// Maps ids 0..65536 of the user namespace of `pid` to `base..base + 65536` of the host.
///
/// # Errors
/// `InvalidInput` when the range would touch the host's ids or overflow; else what the kernel said.
pub fn write_maps(pid: u32, base: u32) -> io::Result<()> {
    check_base(base)?;
    let line = format!("0 {base} {RANGE}");
    fs::write(format!("/proc/{pid}/uid_map"), &line)?;
    fs::write(format!("/proc/{pid}/gid_map"), &line)
}

/// Whether a range that begins at `base` may be given to a sandbox.
///
/// # Errors
/// `InvalidInput` when not.
pub fn check_base(base: u32) -> io::Result<()> {
    // The last id must stay below u32::MAX, which means "no id".
    if base < BASE_MIN || base.checked_add(RANGE).is_none() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the id range {base}+{RANGE} must lie between {BASE_MIN} and 2^32"),
        ));
    }
    Ok(())
}

/// Opens a namespace (`user`, `net`, ...) of a process.
///
/// # Errors
/// What the kernel said.
pub fn open_namespace(pid: u32, kind: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        format!("/proc/{pid}/ns/{kind}"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_host_are_refused() {
        assert!(check_base(0).is_err());
        assert!(check_base(u32::MAX - 10).is_err());
        assert!(check_base(1_000_000).is_ok());
    }
}
