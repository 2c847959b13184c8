//! Following changes of a directory.
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response};
use rustix::io::Errno;
use sandbar_linux::inotify::{Change, Inotify};
use sandbar_procd_api::{ErrorCode, WatchLine};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::body::Body;
use crate::error::Failure;
use crate::files::path_of;
use crate::http::{Query, ndjson};
use crate::limits::WATCHES_MAX;

type Lines = mpsc::Sender<io::Result<Bytes>>;

/// Answers with lines of events; the first says that nothing after it is missed. What cannot be watched is one error
/// line.
///
/// # Errors
/// `invalid_request` without a path.
pub fn start(agent: &Rc<Agent>, request: &Request<Incoming>) -> Result<Response<Body>, Failure> {
    let query = Query::of(request);
    let path = path_of(agent, query.get("path"))?;
    let recursive = query.is_true("recursive");
    let (send, receive) = mpsc::channel(16);
    tokio::task::spawn_local(async move {
        if let Err(failure) = follow(&send, &path, recursive).await {
            let line = WatchLine::Error { code: failure.0.code, message: failure.0.message };
            tell(&send, &line).await;
        }
    });
    Ok(ndjson(receive))
}

async fn tell(send: &Lines, line: &WatchLine) -> bool {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    send.send(Ok(text.into())).await.is_ok()
}

struct Watches {
    inotify: AsyncFd<Inotify>,
    by_number: HashMap<i32, PathBuf>,
}

impl Watches {
    fn add(&mut self, directory: &Path) -> Result<(), Errno> {
        if self.by_number.len() >= WATCHES_MAX {
            return Err(Errno::NOSPC);
        }
        let number = self.inotify.get_ref().add(directory)?;
        self.by_number.insert(number, directory.to_owned());
        Ok(())
    }

    /// Watches all directories below one, and returns what was in them already. What cannot be watched is left out.
    fn add_below(&mut self, directory: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![directory.to_owned()];
        while let Some(directory) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
                let path = entry.path();
                if is_dir && self.by_number.len() < WATCHES_MAX && self.add(&path).is_ok() {
                    open.push(path.clone());
                }
                if found.len() < WATCHES_MAX {
                    found.push(path);
                }
            }
        }
        found
    }

    fn forget_below(&mut self, directory: &Path) {
        let gone: Vec<i32> = self.by_number.iter().filter(|(_, path)| path.starts_with(directory)).map(|(number, _)| *number).collect();
        for number in gone {
            self.by_number.remove(&number);
            self.inotify.get_ref().remove(number);
        }
    }
}

async fn follow(send: &Lines, path: &str, recursive: bool) -> Result<(), Failure> {
    let trimmed = path.trim_end_matches('/');
    let root = PathBuf::from(if trimmed.is_empty() { "/" } else { trimmed });
    let metadata = std::fs::metadata(&root).map_err(|e| Failure::file(&e, path, ErrorCode::DirectoryNotFound))?;
    if !metadata.is_dir() {
        return Err(Failure::new(ErrorCode::PathNotDirectory, format!("{path} is not a directory")));
    }
    let failed = |e: Errno| Failure::new(ErrorCode::OperationFailed, format!("{path} cannot be watched: {e}"));
    let inotify = Inotify::new().map_err(failed)?;
    let inotify = crate::fd::watch(inotify).map_err(|e| Failure::new(ErrorCode::OperationFailed, e.to_string()))?;
    let mut watches = Watches { inotify, by_number: HashMap::new() };
    watches.add(&root).map_err(failed)?;
    if recursive {
        watches.add_below(&root);
    }
    if !tell(send, &WatchLine::Subscribed { path: root.to_string_lossy().into_owned() }).await {
        return Ok(());
    }
    // The first half of a move, which comes just before the second.
    let mut moved: Option<(u32, PathBuf)> = None;
    loop {
        let events = tokio::select! {
            ready = watches.inotify.readable() => {
                let Ok(mut guard) = ready else { return Ok(()) };
                let events = guard.get_inner().read().map_err(failed)?;
                if events.is_empty() {
                    guard.clear_ready();
                }
                events
            }
            () = send.closed() => return Ok(()),
        };
        let mut lines: Vec<(&str, PathBuf, Option<PathBuf>)> = Vec::new();
        for event in events {
            if event.change == Change::Overflow {
                lines.push(("invalidate", root.clone(), None));
                if recursive {
                    watches.add_below(&root);
                }
                continue;
            }
            let Some(directory) = watches.by_number.get(&event.watch).cloned() else { continue };
            if event.name.as_os_str().is_empty() {
                // The directory itself: its parent's watch tells of all but the root.
                let gone = matches!(event.change, Change::Gone | Change::MovedFrom);
                if gone && directory == root {
                    let what = if event.change == Change::Gone { "remove" } else { "rename" };
                    let path = root.to_string_lossy().into_owned();
                    tell(send, &WatchLine::Event { event: what.to_owned(), path, old_path: None }).await;
                    return Ok(());
                }
                if event.change == Change::Gone {
                    watches.by_number.remove(&event.watch);
                }
                continue;
            }
            let path = directory.join(&event.name);
            let what = match event.change {
                Change::Create | Change::MovedTo => "create",
                Change::Write => "write",
                Change::Remove | Change::Gone => "remove",
                Change::MovedFrom => "rename",
                Change::Attributes => "chmod",
                Change::Overflow => "invalidate",
            };
            let former = match event.change {
                Change::MovedTo => moved.take().filter(|(cookie, _)| *cookie == event.cookie).map(|(_, path)| path),
                Change::MovedFrom => {
                    moved = Some((event.cookie, path.clone()));
                    None
                }
                Change::Create | Change::Write | Change::Remove | Change::Gone | Change::Attributes | Change::Overflow => None,
            };
            lines.push((what, path.clone(), former));
            if recursive && event.is_dir {
                match event.change {
                    Change::Create | Change::MovedTo => {
                        if watches.add(&path).is_ok() {
                            // What was made before the watch stood.
                            lines.extend(watches.add_below(&path).into_iter().map(|p| ("create", p, None)));
                        }
                    }
                    Change::MovedFrom => watches.forget_below(&path),
                    Change::Write | Change::Remove | Change::Gone | Change::Attributes | Change::Overflow => {}
                }
            }
        }
        lines.dedup();
        for (event, path, former) in lines {
            let path = path.to_string_lossy().into_owned();
            let old_path = former.map(|former| former.to_string_lossy().into_owned());
            if !tell(send, &WatchLine::Event { event: event.to_owned(), path, old_path }).await {
                return Ok(());
            }
        }
    }
}
