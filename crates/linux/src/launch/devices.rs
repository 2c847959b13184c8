//! The device nodes that every sandbox has, bound from the host. What stands at these paths there is checked each time:
//! a host on which something else took such a place would hand a file of its own into every sandbox.

use std::ffi::CStr;

use rustix::fs::{FileType, major, minor, stat};

/// By their place on the host, their name inside and their number.
pub(super) const DEVICES: &[(&CStr, &CStr, (u32, u32))] = &[
    (c"/dev/null", c"null", (1, 3)),
    (c"/dev/zero", c"zero", (1, 5)),
    (c"/dev/full", c"full", (1, 7)),
    (c"/dev/random", c"random", (1, 8)),
    (c"/dev/urandom", c"urandom", (1, 9)),
    (c"/dev/tty", c"tty", (5, 0)),
];

/// Whether the host's nodes are what their names say.
///
/// # Errors
/// The first that is not, in words, with the way to mend it.
pub fn check_devices() -> Result<(), String> {
    for (path, _, number) in DEVICES {
        let shown = path.to_string_lossy();
        let mend = format!("mend it: rm -f {shown}; mknod -m 666 {shown} c {} {}", number.0, number.1);
        let found = stat(*path).map_err(|error| format!("{shown} cannot be looked at ({error}); {mend}"))?;
        let is_node = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
        if !is_node || (major(found.st_rdev), minor(found.st_rdev)) != *number {
            return Err(format!("{shown} is not the device of that name; {mend}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_devices_of_a_healthy_host_are_accepted() {
        assert_eq!(super::check_devices(), Ok(()));
    }
}
