//! Names and targets of entries: taken apart, and refused where they could lead elsewhere.

use std::ffi::CString;

use super::{ArchiveError, refused};

/// Bytes of one name in a path, by every Linux filesystem.
const NAME_MAX_BYTES: usize = 255;
pub(super) const PATH_MAX_BYTES: usize = 4096;
const DEPTH_MAX: usize = 200;

pub(super) fn is_a_target(target: &[u8]) -> Result<(), &'static str> {
    match target.len() {
        0 => Err("is a link to nothing"),
        1..PATH_MAX_BYTES => Ok(()),
        _ => Err("has a target that is too long"),
    }
}

/// Whether a link in a folder so deep stays in the archive's top, by what it says.
pub(super) fn stays_inside(depth: usize, target: &[u8]) -> Result<(), &'static str> {
    is_a_target(target)?;
    if target.starts_with(b"/") {
        return Err("is a link to an absolute path");
    }
    let mut depth = depth;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => depth = depth.checked_sub(1).ok_or("is a link that leads out of the archive")?,
            _ => depth += 1,
        }
    }
    Ok(())
}

/// A name, taken apart. Empty for the top itself.
pub(super) fn parts(name: &[u8]) -> Result<Vec<CString>, ArchiveError> {
    if name.len() > PATH_MAX_BYTES {
        return Err(refused(name, "has a path of more than 4096 bytes"));
    }
    if name.starts_with(b"/") {
        return Err(refused(name, "has an absolute path"));
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused(name, "has \"..\" in its path")),
            part if part.len() > NAME_MAX_BYTES => return Err(refused(name, "has a name of more than 255 bytes")),
            part => parts.push(CString::new(part).map_err(|_| refused(name, "has a zero byte in its path"))?),
        }
    }
    if parts.len() > DEPTH_MAX {
        return Err(refused(name, "is more than 200 folders deep"));
    }
    Ok(parts)
}

pub(super) fn named<'a>(parts: &'a [CString], name: &[u8]) -> Result<&'a CString, ArchiveError> {
    parts.last().ok_or_else(|| refused(name, "has no name"))
}
