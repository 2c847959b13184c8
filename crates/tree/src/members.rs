//! What is in a tar, without its contents: names are read with the same bounds as when it is unpacked.

use std::{fs::File, io::Seek};

use crate::unpack::{
    ArchiveError, Manners,
    header::{Extension, small_header, until_zero},
};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: MemberKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// Where its contents stand in the archive.
    File {
        offset: u64,
        length: u64,
    },
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Other,
}

/// Calls `each` for every entry of a plain tar until it says `false`.
pub fn members(archive: &File, mut each: impl FnMut(Member) -> bool) -> Result<(), ArchiveError> {
    let damaged = |error: std::io::Error| ArchiveError::Damaged(error.to_string());
    let mut top = archive;
    top.rewind().map_err(damaged)?;
    let length = top.metadata().map_err(damaged)?.len();
    let mut tar = tar::Archive::new(archive);
    let mut extension = Extension::default();
    for entry in tar.entries_with_seek().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        if small_header(&mut entry, Manners::Archive, &mut extension)? {
            continue;
        }
        let said = std::mem::take(&mut extension);
        let path = said.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let link = said.link.or_else(|| entry.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(ArchiveError::Damaged("it ends within an entry".to_owned()));
        }
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => MemberKind::File { offset, length: size },
            tar::EntryType::Symlink => MemberKind::Symlink(until_zero(link)),
            tar::EntryType::Link => MemberKind::HardLink(until_zero(link)),
            _ => MemberKind::Other,
        };
        if !each(Member { path, kind }) {
            break;
        }
    }
    Ok(())
}
