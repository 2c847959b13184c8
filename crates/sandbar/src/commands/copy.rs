//! `sandbar sandbox cp`: files and folders in and out, streamed.

use std::{
    collections::VecDeque,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::{
    cli::{CopyArgs, Output},
    client::{Client, Refusal, sandbox_path},
    output::{self, cell},
};

/// Files on their way at the same time.
const PARALLEL: usize = 8;
/// Entries of one tree, so that a loop of folders or a hostile sandbox ends.
const ENTRIES_MAX: usize = 1_000_000;
/// Folders within folders.
const DEPTH_MAX: usize = 200;
/// A piece of an upload.
const CHUNK_BYTES: usize = 64 << 10;

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Here(&'a str),
    Sandbox {
        id: &'a str,
        path: &'a str,
    },
    /// Standard input or output.
    Stream,
}

impl<'a> Place<'a> {
    /// `ID:/path` is in a sandbox unless something before the colon makes it a path.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((id, path)) if !id.is_empty() && !id.contains(['/', '.']) && !path.is_empty() => Self::Sandbox { id, path },
            _ => Self::Here(text),
        }
    }
}

/// What was copied.
#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
}

pub async fn run(client: &Client, form: Output, args: &CopyArgs) -> anyhow::Result<()> {
    let tally = match (Place::parse(&args.source), Place::parse(&args.destination)) {
        (Place::Here(source), Place::Sandbox { id, path }) => Remote { client, id }.upload(Path::new(source), path).await?,
        (Place::Stream, Place::Sandbox { id, path }) => Remote { client, id }.upload_stream(path).await?,
        (Place::Sandbox { id, path }, Place::Here(destination)) => Remote { client, id }.download(path, Path::new(destination)).await?,
        (Place::Sandbox { id, path }, Place::Stream) if form == Output::Table => Remote { client, id }.download_stream(path).await?,
        _ => bail!(
            "one of source and destination must be ID:/path, the other a path here (one with a colon as ./a:b) or `-` (as destination only without -o json)"
        ),
    };
    if form == Output::Json {
        output::json(&json!({"files": tally.files, "bytes": tally.bytes}));
    }
    Ok(())
}

struct Remote<'a> {
    client: &'a Client,
    id: &'a str,
}

impl Remote<'_> {
    fn request(&self, method: Method, rest: &str, query: &[(&str, &str)]) -> reqwest::RequestBuilder {
        self.client.request(method, &sandbox_path(self.id, rest)).query(query)
    }

    async fn find_stat(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.client.data(self.request(Method::GET, "/files/stat", &[("path", path)])).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.downcast_ref::<Refusal>().is_some_and(|r| r.status == 404 && r.code == "file_not_found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn mkdir(&self, path: &str) -> anyhow::Result<()> {
        self.client
            .data(self.request(Method::POST, "/files", &[("path", path), ("mkdir", "true"), ("recursive", "true")]))
            .await
            .map(drop)
            .with_context(|| format!("cannot make {path} in the sandbox"))
    }

    // --- up ---

    async fn upload(&self, source: &Path, target: &str) -> anyhow::Result<Tally> {
        let meta = std::fs::metadata(source).with_context(|| format!("cannot read {}", source.display()))?;
        // As cp does: into a folder that is there (or is meant by the slash), else under the name given.
        let into = target.ends_with('/') || self.find_stat(target).await?.is_some_and(|s| s["type"] == "dir");
        let target = if into { join(target, &file_name(source)?) } else { target.to_owned() };
        if !meta.is_dir() {
            let bar = output::progress(Some(meta.len()), &source.display().to_string());
            let bytes = self.put(source, &target, &bar).await?;
            bar.finish_and_clear();
            return Ok(Tally { files: 1, bytes });
        }
        let (folders, files, total) = walk(source)?;
        self.mkdir(&target).await?;
        for folder in &folders {
            self.mkdir(&join(&target, folder)).await?;
        }
        let bar = output::progress(Some(total), &format!("{} files", files.len()));
        let bytes = stream::iter(&files)
            .map(|file| {
                let (bar, target) = (&bar, &target);
                async move { self.put(&source.join(file), &join(target, file), bar).await }
            })
            .buffer_unordered(PARALLEL)
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await?;
        bar.finish_and_clear();
        Ok(Tally { files: files.len() as u64, bytes })
    }

    async fn put(&self, source: &Path, target: &str, bar: &ProgressBar) -> anyhow::Result<u64> {
        let file = tokio::fs::File::open(source).await.with_context(|| format!("cannot read {}", source.display()))?;
        let meta = file.metadata().await?;
        let mode = format!("{:04o}", meta.permissions().mode() & 0o777);
        let bar = bar.clone();
        let reader = ReaderStream::with_capacity(file, CHUNK_BYTES).inspect_ok(move |chunk| bar.inc(chunk.len() as u64));
        let request = self.request(Method::POST, "/files", &[("path", target), ("mode", &mode)]).header("content-type", "application/octet-stream");
        // The length makes a file that shrinks while we read it an error instead of a shorter file.
        let request = if meta.is_file() { request.header("content-length", meta.len()) } else { request };
        self.client.send(request.body(Body::wrap_stream(reader))).await.with_context(|| format!("cannot copy {} to {target}", source.display()))?;
        Ok(meta.len())
    }

    async fn upload_stream(&self, target: &str) -> anyhow::Result<Tally> {
        let bar = output::progress(None, target);
        let counted = bar.clone();
        let reader = ReaderStream::with_capacity(tokio::io::stdin(), CHUNK_BYTES).inspect_ok(move |chunk| counted.inc(chunk.len() as u64));
        let request = self.request(Method::POST, "/files", &[("path", target)]).header("content-type", "application/octet-stream");
        self.client.send(request.body(Body::wrap_stream(reader))).await.with_context(|| format!("cannot write {target}"))?;
        bar.finish_and_clear();
        Ok(Tally { files: 1, bytes: bar.position() })
    }

    // --- down ---

    async fn download(&self, source: &str, target: &Path) -> anyhow::Result<Tally> {
        let Some(stat) = self.find_stat(source).await? else { bail!("{source} does not exist in {}", self.id) };
        let target = if target.is_dir() || target.as_os_str().as_encoded_bytes().ends_with(b"/") {
            target.join(file_name(Path::new(source))?)
        } else {
            target.to_owned()
        };
        // A link is followed when it is named, as cp does; within a tree it is left out.
        let folder = stat["type"] == "dir" || (stat["type"] == "symlink" && self.list(source).await.is_ok());
        if !folder {
            let bar = output::progress(stat["size"].as_u64().filter(|_| stat["type"] == "file"), source);
            let bytes = self.take(source, &target, mode_of(&stat), &bar).await?;
            bar.finish_and_clear();
            return Ok(Tally { files: 1, bytes });
        }
        let (files, total) = self.walk(source, &target).await?;
        let bar = output::progress(Some(total), &format!("{} files", files.len()));
        let bytes = stream::iter(&files)
            .map(|(from, to, mode)| self.take(from, to, *mode, &bar))
            .buffer_unordered(PARALLEL)
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await?;
        bar.finish_and_clear();
        Ok(Tally { files: files.len() as u64, bytes })
    }

    async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let page = self.client.data(self.request(Method::GET, "/files/list", &[("path", path)])).await?;
        Ok(page["entries"].as_array().cloned().unwrap_or_default())
    }

    /// Makes the folders of a tree here; returns its files and their bytes.
    async fn walk(&self, source: &str, target: &Path) -> anyhow::Result<(Vec<(String, PathBuf, u32)>, u64)> {
        let (mut files, mut total, mut seen) = (Vec::new(), 0, 0);
        let mut queue = VecDeque::from([(source.to_owned(), target.to_owned(), 0)]);
        while let Some((from, to, depth)) = queue.pop_front() {
            std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
            for entry in self.list(&from).await.with_context(|| format!("cannot list {from}"))? {
                seen += 1;
                if seen > ENTRIES_MAX || depth > DEPTH_MAX {
                    bail!("{source} has more than {ENTRIES_MAX} entries or {DEPTH_MAX} folders within folders");
                }
                let name = cell(&entry["name"]);
                // Names come from inside the sandbox: none may lead out of the target.
                if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
                    continue;
                }
                let (from, to) = (join(&from, &name), to.join(&name));
                // The API tells names as text; one that is none cannot be asked for.
                if name.contains(char::REPLACEMENT_CHARACTER) {
                    left_out(&from, NOT_TEXT);
                    continue;
                }
                match entry["type"].as_str() {
                    Some("dir") => queue.push_back((from, to, depth + 1)),
                    Some("file") => {
                        total += entry["size"].as_u64().unwrap_or(0);
                        files.push((from, to, mode_of(&entry)));
                    }
                    _ => left_out(&from, NOT_COPIED),
                }
            }
        }
        Ok((files, total))
    }

    /// One file, under another name until it is whole; straight into what is no file, such as /dev/null or a pipe, which must never be replaced.
    async fn take(&self, source: &str, target: &Path, mode: u32, bar: &ProgressBar) -> anyhow::Result<u64> {
        let response = self.client.send(self.request(Method::GET, "/files", &[("path", source)])).await.with_context(|| format!("cannot read {source}"))?;
        let mut fresh = target.as_os_str().to_owned();
        fresh.push(format!(".part-{}", std::process::id()));
        let is_special = tokio::fs::metadata(target).await.is_ok_and(|metadata| !metadata.is_file());
        let mut fresh = Fresh { path: if is_special { target.to_owned() } else { PathBuf::from(fresh) }, is_partial: false };
        let fetch = async {
            let mut file = tokio::fs::OpenOptions::new()
                .write(true)
                .create_new(!is_special)
                .open(&fresh.path)
                .await
                .with_context(|| format!("cannot write {}", fresh.path.display()))?;
            fresh.is_partial = !is_special;
            let (mut stream, mut bytes) = (response.bytes_stream(), 0);
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.with_context(|| format!("{source} broke off after {bytes} bytes"))?;
                file.write_all(&chunk).await.with_context(|| format!("cannot write {}", fresh.path.display()))?;
                bytes += chunk.len() as u64;
                bar.inc(chunk.len() as u64);
            }
            file.flush().await?;
            if !is_special {
                file.set_permissions(std::fs::Permissions::from_mode(mode)).await?;
                tokio::fs::rename(&fresh.path, target).await.with_context(|| format!("cannot write {}", target.display()))?;
                fresh.is_partial = false;
            }
            anyhow::Ok(bytes)
        };
        fetch.await
    }

    async fn download_stream(&self, source: &str) -> anyhow::Result<Tally> {
        let response = self.client.send(self.request(Method::GET, "/files", &[("path", source)])).await?;
        let (mut stream, mut bytes) = (response.bytes_stream(), 0);
        while let Some(chunk) = stream.next().await.filter(|_| !output::is_lost()) {
            let chunk = chunk.with_context(|| format!("{source} broke off after {bytes} bytes"))?;
            output::write(&chunk);
            bytes += chunk.len() as u64;
        }
        Ok(Tally { files: 1, bytes })
    }
}

fn file_name(path: &Path) -> anyhow::Result<String> {
    let absolute = if path.file_name().is_some() { path.to_owned() } else { path.canonicalize().unwrap_or_default() };
    absolute.file_name().map(|name| name.to_string_lossy().into_owned()).with_context(|| format!("{} has no name to copy it under", path.display()))
}

const NOT_COPIED: &str = "links and special files are not copied";
const NOT_TEXT: &str = "its name is not UTF-8";

fn left_out(path: &str, why: &str) {
    eprintln!("sandbar: {}: left out, {why}", output::printable(path));
}

/// A file on its way. What is not whole goes when its copy fails, or is given up because another one failed.
struct Fresh {
    path: PathBuf,
    is_partial: bool,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.is_partial {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

fn mode_of(info: &Value) -> u32 {
    info["mode"].as_str().and_then(|text| u32::from_str_radix(text, 8).ok()).map_or(0o644, |mode| mode & 0o777)
}

/// Folders, files (both relative) and the bytes of a tree. Links and special files are left out and named.
fn walk(root: &Path) -> anyhow::Result<(Vec<String>, Vec<String>, u64)> {
    let (mut folders, mut files, mut total) = (Vec::new(), Vec::new(), 0);
    let mut queue = VecDeque::from([(PathBuf::new(), 0)]);
    while let Some((relative, depth)) = queue.pop_front() {
        let dir = root.join(&relative);
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            let Some(text) = path.to_str() else {
                left_out(&dir.join(entry.file_name()).to_string_lossy(), NOT_TEXT);
                continue;
            };
            if folders.len() + files.len() >= ENTRIES_MAX || depth > DEPTH_MAX {
                bail!("{} has more than {ENTRIES_MAX} entries or {DEPTH_MAX} folders within folders", root.display());
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(text.to_owned());
                queue.push_back((path, depth + 1));
            } else if kind.is_file() {
                total += entry.metadata()?.len();
                files.push(text.to_owned());
            } else {
                left_out(&dir.join(entry.file_name()).to_string_lossy(), NOT_COPIED);
            }
        }
    }
    Ok((folders, files, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_here_unless_it_names_a_sandbox() {
        assert_eq!(Place::parse("sb-1:/a:b"), Place::Sandbox { id: "sb-1", path: "/a:b" });
        assert_eq!(Place::parse("./sb-1:/a"), Place::Here("./sb-1:/a"));
        assert_eq!(Place::parse("/x:y"), Place::Here("/x:y"));
        assert_eq!(Place::parse("plain"), Place::Here("plain"));
        assert_eq!(Place::parse("-"), Place::Stream);
    }

    #[test]
    fn names_join_with_one_slash() {
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/b/", "a"), "/b/a");
    }
}
