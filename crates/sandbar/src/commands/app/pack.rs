//! A folder as an archive: what the ignore files leave of it.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use anyhow::{Context, bail};
use flate2::{Compression, write::GzEncoder};
use ignore::WalkBuilder;
use sandbar_core::limits::deploys as limits;
use tar::{Builder, EntryType, Header};

/// Files with patterns of what is left out, besides `.gitignore`.
const IGNORE_FILE: &str = ".sandbarignore";

/// A packed folder, at its beginning.
pub struct Packed {
    pub file: File,
    pub length: u64,
    pub entries: u64,
    /// Before packing.
    pub bytes: u64,
}

/// Packs a folder. Blocks for the disk.
///
/// # Errors
/// What cannot be read, and what is neither file, folder nor link, by name.
pub fn pack(dir: &Path) -> anyhow::Result<Packed> {
    let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
    let spool = spool()?;
    let mut tar = Builder::new(GzEncoder::new(BufWriter::new(spool), Compression::fast()));
    let (mut entries, mut bytes) = (0, 0);
    for entry in walk(&dir) {
        let entry = entry.context("cannot list the folder")?;
        let path = entry.path();
        let Ok(name) = path.strip_prefix(&dir) else { continue };
        if name.as_os_str().is_empty() {
            continue;
        }
        entries += 1;
        if entries > limits::APP_SOURCE_ENTRIES_MAX {
            bail!("{} has more than {} files; name what is not needed in {IGNORE_FILE}", dir.display(), limits::APP_SOURCE_ENTRIES_MAX);
        }
        bytes += append(&mut tar, path, name).with_context(|| format!("cannot pack {}", path.display()))?;
        if bytes > limits::APP_SOURCE_MAX_BYTES {
            bail!("{} has more than {} bytes; name what is not needed in {IGNORE_FILE}", dir.display(), limits::APP_SOURCE_MAX_BYTES);
        }
    }
    let mut file = tar.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    let length = file.stream_position()?;
    file.rewind()?;
    if length > limits::APP_SOURCE_ARCHIVE_MAX_BYTES {
        bail!("packed, {} has {length} bytes; the server takes {}", dir.display(), limits::APP_SOURCE_ARCHIVE_MAX_BYTES);
    }
    Ok(Packed { file, length, entries, bytes })
}

/// All that is not left out, in an order that is always the same.
fn walk(dir: &Path) -> ignore::Walk {
    // What stands above counts within a repository, as it does for git, and nowhere else.
    let in_repository = dir.ancestors().any(|above| above.join(".git").exists());
    let mut walk = WalkBuilder::new(dir);
    walk.hidden(false)
        .ignore(false)
        .git_ignore(true)
        .git_exclude(true)
        // What somebody leaves out everywhere says nothing of this app, and the same folder is the same for everybody.
        .git_global(false)
        .parents(in_repository)
        .require_git(false)
        .follow_links(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .filter_entry(|entry| entry.file_name() != ".git");
    walk.build()
}

/// Adds what a path is; returns the bytes of its contents.
fn append(tar: &mut Builder<impl Write>, path: &Path, name: &Path) -> anyhow::Result<u64> {
    let metadata = path.symlink_metadata()?;
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, name, io::empty())?;
        return Ok(0);
    }
    if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = path.read_link()?;
        if target.as_os_str().as_bytes().is_empty() {
            bail!("it is a link to nothing");
        }
        if target.is_absolute() {
            bail!("it is a link to an absolute path, which is elsewhere in a sandbox; name it in {IGNORE_FILE}");
        }
        tar.append_link(&mut header, name, &target)?;
        return Ok(0);
    }
    if !metadata.is_file() {
        bail!("it is neither file, folder nor link; name it in {IGNORE_FILE}");
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    header.set_entry_type(EntryType::Regular);
    header.set_size(length);
    let mut contents = Exactly { file: file.take(length), left: length };
    tar.append_data(&mut header, name, &mut contents)?;
    Ok(length)
}

/// A file as long as it was said to be: one that becomes shorter meanwhile would shift all that follows.
struct Exactly {
    file: io::Take<File>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.left -= read as u64;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        Ok(read)
    }
}

/// A file without a name, for as long as it is open.
fn spool() -> anyhow::Result<File> {
    let dir = std::env::temp_dir();
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags(rustix::fs::OFlags::TMPFILE.bits().cast_signed());
    options.open(&dir).with_context(|| format!("cannot make a file in {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::symlink};

    use super::*;

    fn names(dir: &Path) -> BTreeMap<String, String> {
        let packed = pack(dir).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed.file));
        let read = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            if let Some(target) = entry.link_name().unwrap() {
                text = format!("-> {}", target.display());
            }
            (entry.path().unwrap().display().to_string(), text)
        };
        tar.entries().unwrap().map(read).collect()
    }

    #[test]
    fn what_ignore_files_name_is_left_out_and_nothing_else() {
        let top = std::env::temp_dir().join(format!("sandbar-pack-{}", std::process::id()));
        let dir = top.join("app");
        let _ = fs::remove_dir_all(&top);
        for folder in [".git", "src", "node_modules/a", "empty"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        for (name, text) in [
            (".git/HEAD", "x"),
            (".gitignore", "node_modules/\n*.log\n!keep.log\n"),
            (".sandbarignore", "secret.txt\n"),
            (".env", "hidden"),
            ("secret.txt", "s"),
            ("a.log", "l"),
            ("keep.log", "l"),
            ("node_modules/a/index.js", "n"),
            ("src/main.py", "m"),
            ("src/.gitignore", "made.py"),
            ("src/made.py", "made"),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        // Outside of a repository what stands above says nothing.
        fs::write(top.join(".gitignore"), "*\n").unwrap();
        symlink("src/main.py", dir.join("link")).unwrap();
        fs::remove_dir_all(dir.join(".git")).unwrap();
        let found = names(&dir);
        let expected = [".env", ".gitignore", ".sandbarignore", "empty", "keep.log", "link", "src", "src/.gitignore", "src/main.py"];
        let clean: Vec<&str> = found.keys().map(|name| name.trim_end_matches('/')).collect();
        assert_eq!(clean, expected);
        assert_eq!((found["link"].as_str(), found["src/main.py"].as_str()), ("-> src/main.py", "m"));
        fs::create_dir_all(dir.join(".git")).unwrap();
        fs::write(dir.join(".git/HEAD"), "x").unwrap();
        assert!(names(&dir).keys().all(|name| !name.starts_with(".git/")), "a repository is never sent");
        fs::remove_dir_all(top).unwrap();
    }
}
