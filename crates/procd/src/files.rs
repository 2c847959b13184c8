//! Files of the sandbox: reading, writing, listing, moving. Paths are those of the sandbox; relative ones begin at the
//! default working directory. Nothing here waits for a FIFO or a device.
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use hyper::{Request, Response, StatusCode};
use sandbar_procd_api::{ErrorCode, FileInfo, FileList, FileType, Move, Written};
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::body::Body;
use crate::error::Failure;
use crate::http::{Query, done, json, with_status};
use crate::limits::{DISCARD_BYTES_MAX, FILE_CHUNK_BYTES, LIST_ENTRIES_MAX};

pub(crate) mod replace;
mod tree;

use replace::Replacement;

type Answer = Result<Response<Body>, Failure>;

/// The absolute path that a request names.
///
/// # Errors
/// `invalid_request` when it names none.
pub fn path_of(agent: &Agent, path: Option<&str>) -> Result<String, Failure> {
    let path = path.unwrap_or("");
    if path.is_empty() {
        return Err(no_path());
    }
    if path.contains('\0') {
        return Err(Failure::new(ErrorCode::InvalidRequest, "path contains NUL"));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", agent.cwd().trim_end_matches('/')) })
}

fn no_path() -> Failure {
    Failure::new(ErrorCode::InvalidRequest, "path is required")
}

fn query_path(agent: &Agent, request: &Request<Incoming>) -> Result<String, Failure> {
    path_of(agent, Query::of(request).get("path"))
}

fn not_a_file(path: &str, metadata: &Metadata) -> Failure {
    let what = if metadata.is_dir() { "is a directory" } else { "is not a regular file" };
    Failure::new(ErrorCode::PathNotFile, format!("{path} {what}"))
}

// ------------------------------------------------------------------- reading

/// Streams a file or a range of it.
///
/// # Errors
/// `file_not_found`, `path_not_file`, `range_not_satisfiable`, `permission_denied`.
pub async fn read(agent: &Rc<Agent>, request: Request<Incoming>) -> Answer {
    let query = Query::of(&request);
    let beneath = query.get("beneath").map(str::to_owned);
    let path = match &beneath {
        // As it stands: it is not to begin anywhere else.
        Some(_) => query.get("path").filter(|path| !path.is_empty() && !path.contains('\0')).map(str::to_owned).ok_or_else(no_path)?,
        None => query_path(agent, &request)?,
    };
    let range = request.headers().get(RANGE).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let name = path.clone();
    let opened = agent
        .io
        .run(move || match beneath {
            Some(folder) => open_beneath(Path::new(&folder), Path::new(&name)),
            None => open(Path::new(&name)),
        })
        .await;
    let (file, metadata) = opened.map_err(|e| Failure::file(&e, &path, ErrorCode::FileNotFound))?;
    let Some(file) = file else { return Err(not_a_file(&path, &metadata)) };
    let size = metadata.len();
    // Files of /proc say that they are empty; they are read to their end instead.
    let first = if size == 0 {
        let file = file.clone();
        let first = agent.io.run(move || chunk(&file, 0, FILE_CHUNK_BYTES)).await;
        first.map_err(|e| Failure::file(&e, &path, ErrorCode::FileNotFound))?
    } else {
        Bytes::new()
    };
    let endless = !first.is_empty();
    let (status, from, to) = match range.as_deref().filter(|_| !endless).and_then(|r| parse_range(r, size)) {
        None => (StatusCode::OK, 0, size),
        Some(Ok((from, to))) => (StatusCode::PARTIAL_CONTENT, from, to),
        Some(Err(())) => {
            let message = format!("the range is outside of the {size} bytes of {path}");
            return Err(Failure::new(ErrorCode::RangeNotSatisfiable, message));
        }
    };
    let body = if from == to && !endless {
        Body::Full(Some(Bytes::new()))
    } else {
        let (send, receive) = mpsc::channel(2);
        let until = if endless { u64::MAX } else { to };
        tokio::task::spawn_local(stream(agent.clone(), file, from, until, endless, send));
        Body::Stream(receive)
    };
    let mut response = with_status(Response::new(body), status);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if !endless {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(to - from));
    }
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::try_from(format!("bytes {from}-{}/{size}", to - 1))
    {
        headers.insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

/// Opens a regular file; `None` for anything else, which is never waited for.
fn open(path: &Path) -> io::Result<(Option<Arc<File>>, Metadata)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Ok((None, metadata));
    }
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    // Another one may stand in its place by now.
    let metadata = file.metadata()?;
    Ok((metadata.is_file().then(|| Arc::new(file)), metadata))
}

/// The same of a path relative to a folder of which no part is a link, and that does not lead out of the folder: `ELOOP`, `EXDEV`.
fn open_beneath(folder: &Path, path: &Path) -> io::Result<(Option<Arc<File>>, Metadata)> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve)?);
    let metadata = file.metadata()?;
    Ok((metadata.is_file().then(|| Arc::new(file)), metadata))
}

fn chunk(file: &File, at: u64, limit: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; limit];
    let mut filled = 0;
    while filled < limit {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

async fn stream(agent: Rc<Agent>, file: Arc<File>, from: u64, to: u64, endless: bool, send: mpsc::Sender<io::Result<Bytes>>) {
    let mut at = from;
    while at < to {
        let file = file.clone();
        let limit = (to - at).min(FILE_CHUNK_BYTES as u64) as usize;
        let read = agent.io.run(move || chunk(&file, at, limit)).await;
        let read = match read {
            Ok(bytes) if bytes.is_empty() && endless => return,
            Ok(bytes) if bytes.is_empty() => Err(io::Error::other("the file became shorter")),
            read => read,
        };
        let failed = read.is_err();
        at += read.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if send.send(read).await.is_err() || failed {
            return;
        }
    }
}

/// A single range of bytes; `None` for a header that is none and is ignored, `Some(Err)` when nothing of the file is
/// in it.
fn parse_range(header: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = header.trim().strip_prefix("bytes=")?.trim().split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let suffix: u64 = last.parse().ok()?;
        return Some(if suffix == 0 || size == 0 { Err(()) } else { Ok((size.saturating_sub(suffix), size)) });
    }
    let first: u64 = first.parse().ok()?;
    let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    if last < first {
        return None;
    }
    Some(if first >= size { Err(()) } else { Ok((first, last.saturating_add(1).min(size))) })
}

// ------------------------------------------------------------------- writing

/// Replaces a file by the body in one step, or makes a directory.
///
/// # Errors
/// `path_not_file`, `path_exists`, `directory_not_found`, `disk_full`, `permission_denied`.
pub async fn write(agent: &Rc<Agent>, request: Request<Incoming>) -> Answer {
    let query = Query::of(&request);
    let path = path_of(agent, query.get("path"))?;
    if query.is_true("mkdir") {
        return make_directory(agent, path, query.is_true("recursive")).await;
    }
    let mode = match query.get("mode") {
        Some(text) => match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Some(mode),
            Ok(_) | Err(_) => return Err(Failure::new(ErrorCode::InvalidRequest, "mode is not in octal, like 0644")),
        },
        None => None,
    };
    let mut body = request.into_body();
    let written = replace(agent, &path, mode, &mut body).await;
    if written.is_err() {
        discard(&mut body).await;
    }
    json(&Written { bytes: written? })
}

async fn replace(agent: &Rc<Agent>, path: &str, mode: Option<u32>, body: &mut Incoming) -> Result<u64, Failure> {
    let fail = |e: &io::Error| Failure::file(e, path, ErrorCode::DirectoryNotFound);
    let name = path.to_owned();
    let begun = agent.io.run(move || Replacement::begin(Path::new(&name), mode)).await;
    let replacement = Arc::new(begun.map_err(|e| fail(&e))?);
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::new(ErrorCode::InvalidRequest, format!("the upload broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len() as u64;
        let replacement = replacement.clone();
        agent.io.run(move || (&replacement.file).write_all(&data)).await.map_err(|e| fail(&e))?;
    }
    agent.io.run(move || replacement.commit()).await.map_err(|e| fail(&e))?;
    Ok(bytes)
}

/// A refused upload is read on for a while: whoever still writes would see a broken connection instead of the answer.
async fn discard(body: &mut Incoming) {
    let mut left = DISCARD_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        if read > left {
            return;
        }
        left -= read;
    }
}

async fn make_directory(agent: &Rc<Agent>, path: String, recursive: bool) -> Answer {
    let name = path.clone();
    let made = agent.io.run(move || if recursive { std::fs::create_dir_all(name) } else { std::fs::create_dir(name) }).await;
    made.map_err(|e| Failure::file(&e, &path, ErrorCode::DirectoryNotFound))?;
    Ok(with_status(done()?, StatusCode::CREATED))
}

/// Removes whatever is there; nothing being there is no error.
///
/// # Errors
/// `invalid_request` for the root, `permission_denied`.
pub async fn remove(agent: &Rc<Agent>, request: Request<Incoming>) -> Answer {
    let path = query_path(agent, &request)?;
    let name = path.clone();
    let removed = agent.io.run(move || tree::remove(Path::new(&name))).await;
    removed.map_err(|e| Failure::file(&e, &path, ErrorCode::FileNotFound))?;
    done()
}

/// Renames; copies and removes where a rename cannot reach.
///
/// # Errors
/// `file_not_found`, `directory_not_found`, `path_exists`.
pub async fn rename(agent: &Rc<Agent>, movement: Move) -> Answer {
    let source = path_of(agent, Some(&movement.source))?;
    let destination = path_of(agent, Some(&movement.destination))?;
    let (from, to) = (source.clone(), destination.clone());
    let exists = agent.io.run(move || std::fs::symlink_metadata(from).map(drop)).await;
    exists.map_err(|e| Failure::file(&e, &source, ErrorCode::FileNotFound))?;
    let from = source.clone();
    let moved = agent.io.run(move || tree::rename(Path::new(&from), Path::new(&to))).await;
    moved.map_err(|e| Failure::file(&e, &format!("{source} to {destination}"), ErrorCode::DirectoryNotFound))?;
    done()
}

// ------------------------------------------------------------------- looking

/// What a path is; a link is itself, not its target.
///
/// # Errors
/// `file_not_found`.
pub async fn stat(agent: &Rc<Agent>, request: Request<Incoming>) -> Answer {
    let path = query_path(agent, &request)?;
    let name = path.clone();
    let found = agent.io.run(move || info(&name)).await;
    json(&found.map_err(|e| Failure::file(&e, &path, ErrorCode::FileNotFound))?)
}

/// What is in a directory, by name.
///
/// # Errors
/// `directory_not_found`, `path_not_directory`.
pub async fn list(agent: &Rc<Agent>, request: Request<Incoming>) -> Answer {
    let path = query_path(agent, &request)?;
    let name = path.clone();
    let listed = agent.io.run(move || entries(&name)).await;
    json(&listed.map_err(|e| Failure::file(&e, &path, ErrorCode::DirectoryNotFound))?)
}

fn entries(path: &str) -> io::Result<FileList> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        if entries.len() >= LIST_ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {LIST_ENTRIES_MAX} entries")));
        }
        let full = entry?.path();
        // Gone meanwhile is no error.
        if let Ok(metadata) = std::fs::symlink_metadata(&full) {
            entries.push(describe(&full, &metadata));
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(FileList { entries })
}

fn info(path: &str) -> io::Result<FileInfo> {
    let trimmed = path.trim_end_matches('/');
    let path = Path::new(if trimmed.is_empty() { "/" } else { trimmed });
    Ok(describe(path, &std::fs::symlink_metadata(path)?))
}

fn describe(path: &Path, metadata: &Metadata) -> FileInfo {
    let kind = metadata.file_type();
    let is_link = kind.is_symlink();
    FileInfo {
        name: path.file_name().map_or_else(|| "/".to_owned(), |n| n.to_string_lossy().into_owned()),
        path: path.to_string_lossy().into_owned(),
        kind: if is_link {
            FileType::Symlink
        } else if kind.is_dir() {
            FileType::Dir
        } else if kind.is_file() {
            FileType::File
        } else {
            FileType::Other
        },
        size: metadata.len(),
        mode: format!("{:04o}", metadata.mode() & 0o7777),
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        is_link,
        link_target: is_link.then(|| std::fs::read_link(path).ok().map(|t| t.to_string_lossy().into_owned())).flatten(),
        is_lossy: path.to_str().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

    use super::{describe, parse_range};

    #[test]
    fn a_path_that_is_no_utf_8_is_marked() {
        let root = std::fs::metadata("/").unwrap();
        for (path, shown, is_lossy) in [(&b"/a\xff"[..], "/a\u{fffd}", true), (b"/\xff/a", "/\u{fffd}/a", true), ("/é\u{fffd}".as_bytes(), "/é\u{fffd}", false)]
        {
            let info = describe(Path::new(OsStr::from_bytes(path)), &root);
            assert_eq!((info.path.as_str(), info.is_lossy), (shown, is_lossy));
        }
    }

    #[test]
    fn ranges() {
        for (header, want) in [
            ("bytes=0-3", Some(Ok((0, 4)))),
            ("bytes=5-", Some(Ok((5, 10)))),
            ("bytes=-3", Some(Ok((7, 10)))),
            ("bytes=-30", Some(Ok((0, 10)))),
            ("bytes=8-99", Some(Ok((8, 10)))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=-0", Some(Err(()))),
            ("bytes=4-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(parse_range(header, 10), want, "{header}");
        }
    }
}
