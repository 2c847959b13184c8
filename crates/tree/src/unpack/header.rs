//! What stands before an entry of a tar: long names, exact times, attributes.
//! Source: POSIX.1-2017, pax, "pax Extended Header".

use std::{ffi::CString, io::Read};

use super::{ArchiveError, Manners, damaged, refused};
use crate::layer;

/// Bytes of what stands before an entry: long names and attributes.
const EXTENSION_MAX_BYTES: u64 = 1 << 20;
/// Attributes of one entry.
const XATTRS_MAX: usize = 100;

/// An entry as far as it was said before it.
#[derive(Default)]
pub(crate) struct Extension {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(CString, Vec<u8>)>,
}

/// Reads what stands before an entry, if this is such.
pub(crate) fn small_header(entry: &mut tar::Entry<'_, impl Read>, manners: Manners, extension: &mut Extension) -> Result<bool, ArchiveError> {
    match entry.header().entry_type().as_byte() {
        b'x' => extended(&small(entry)?, manners, extension)?,
        b'g' => drop(small(entry)?),
        b'L' => extension.path = Some(until_zero(small(entry)?)),
        b'K' => extension.link = Some(until_zero(small(entry)?)),
        _ => return Ok(false),
    }
    Ok(true)
}

/// What stands before an entry, whole.
fn small(entry: &mut impl Read) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    entry.take(EXTENSION_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 > EXTENSION_MAX_BYTES {
        return Err(ArchiveError::Damaged(format!("an extended header has more than {EXTENSION_MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Records of `LENGTH KEY=VALUE` and an end of line; values may have such in them.
fn extended(mut bytes: &[u8], manners: Manners, extension: &mut Extension) -> Result<(), ArchiveError> {
    while !bytes.is_empty() {
        let (key, value, rest) = pax_record(bytes).ok_or_else(|| ArchiveError::Damaged("an extended header is malformed".to_owned()))?;
        bytes = rest;
        match key {
            b"path" => extension.path = Some(value.to_vec()),
            b"linkpath" => extension.link = Some(value.to_vec()),
            b"mtime" => extension.mtime = seconds(value),
            b"size" => extension.size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
            key if key.starts_with(b"GNU.sparse.") => return Err(refused(value, "is a sparse file, which is not unpacked; pack it without --sparse")),
            key => {
                let name = (manners == Manners::Layer).then(|| layer::kept_xattr(key)).flatten().and_then(|name| CString::new(name).ok());
                extension.xattrs.extend(name.map(|name| (name, value.to_vec())));
                // Also over several headers before one entry.
                if extension.xattrs.iter().map(|(_, value)| value.len()).sum::<usize>() as u64 > EXTENSION_MAX_BYTES || extension.xattrs.len() > XATTRS_MAX {
                    return Err(ArchiveError::Damaged(format!(
                        "an entry has more than {XATTRS_MAX} attributes, or more than {EXTENSION_MAX_BYTES} bytes of them"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Key, value and what follows.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// `1700000000.123` as seconds and nanoseconds.
fn seconds(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = part.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some((whole.parse().ok()?, digits.parse().ok()?))
}

pub(crate) fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
