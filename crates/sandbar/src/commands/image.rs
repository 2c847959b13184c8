//! `sandbar image`.

use std::{
    collections::HashMap,
    io::{IsTerminal, Read},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use reqwest::{Body, Method, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
};

use crate::{
    cli::{BootstrapArgs, Global, ImageCommand, Output, PullArgs},
    client::{Client, Refusal, segment},
    output::{self, cell, time},
};

const IMAGES: &str = "/api/v1/images";
const PIECE_BYTES: usize = 256 << 10;
/// A password that is read beyond this many bytes is none.
const PASSWORD_MAX_BYTES: u64 = 64 << 10;
/// A line of progress that has no end.
const LINE_MAX_BYTES: usize = 4 << 20;

pub async fn run(global: &Global, command: ImageCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        ImageCommand::Ls => {
            let list = client.get(IMAGES).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let row = |image: &Value| {
                        let id = image["id"].as_str().unwrap_or_default();
                        let size = image["size_bytes"].as_u64().filter(|bytes| *bytes > 0).map(output::size).unwrap_or_default();
                        vec![cell(&image["names"]), short(id), cell(&image["layers"]), size, cell(&image["source"]), time(&image["created_at"])]
                    };
                    let rows: Vec<_> = list["images"].as_array().into_iter().flatten().map(row).collect();
                    output::table(&["NAME", "ID", "LAYERS", "SIZE", "SOURCE", "CREATED"], &rows);
                }
            }
        }
        ImageCommand::Pull(args) => pull(&client, global.output, args).await?,
        ImageCommand::Build { file, name, no_cache } => {
            let mut spec = read_spec(&file)?;
            if let Some(name) = name {
                spec["name"] = name.into();
            }
            if no_cache {
                spec["no_cache"] = true.into();
            }
            let response = client.send(client.request(Method::POST, &format!("{IMAGES}/build")).json(&spec)).await?;
            follow(response, global.output).await?;
        }
        ImageCommand::Import { source, name } => {
            let (body, length) = archive(&source).await?;
            import(&client, global.output, name.as_deref(), body, length).await?;
        }
        ImageCommand::Bootstrap(args) => {
            let body = bootstrap(&args)?;
            import(&client, global.output, Some(&args.name), body, None).await?;
        }
        ImageCommand::Export { name, file } => export(&client, &name, &file).await?,
        ImageCommand::Rm { names, force } => {
            let force = if force { "&force=true" } else { "" };
            return super::delete_each(&client, global.output, names, |name| format!("{IMAGES}?name={}{force}", segment(name))).await;
        }
    }
    Ok(0)
}

async fn pull(client: &Client, form: Output, args: PullArgs) -> anyhow::Result<()> {
    let mut body = json!({ "name": args.name, "plain_http": args.plain_http });
    if let Some(local) = args.local_name {
        body["local_name"] = local.into();
    }
    if let Some(username) = args.username {
        if !args.password_stdin {
            bail!("--username needs --password-stdin: a password on the command line could be read by everybody here");
        }
        let mut password = String::new();
        std::io::stdin().take(PASSWORD_MAX_BYTES).read_to_string(&mut password).context("cannot read the password")?;
        body["username"] = username.into();
        body["password"] = password.trim_end_matches(['\n', '\r']).into();
    }
    let response = client.send(client.request(Method::POST, &format!("{IMAGES}/pull")).json(&body)).await?;
    follow(response, form).await
}

/// Shows what happens until it is done.
async fn follow(response: Response, form: Output) -> anyhow::Result<()> {
    let mut lines = Lines { pieces: Box::pin(response.bytes_stream()), buffer: BytesMut::new() };
    let mut shown = Shown { bar: ProgressBar::hidden(), here: HashMap::new(), quiet: form == Output::Json };
    while let Some(line) = lines.next().await? {
        match line["type"].as_str() {
            Some("done") => {
                shown.bar.finish_and_clear();
                match form {
                    Output::Json => output::json(&line["image"]),
                    Output::Table => output::line(line["image"]["id"].as_str().unwrap_or_default()),
                }
                return Ok(());
            }
            Some("error") => {
                shown.bar.finish_and_clear();
                let status = line["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
                return Err(Refusal { status, code: cell(&line["code"]), message: cell(&line["message"]), details: None, request_id: None }.into());
            }
            _ => shown.show(&line),
        }
    }
    bail!("the server ended the connection before it was done; its log may say why")
}

/// What a person sees of it.
struct Shown {
    bar: ProgressBar,
    /// Bytes by layer.
    here: HashMap<String, u64>,
    quiet: bool,
}

impl Shown {
    fn show(&mut self, line: &Value) {
        if self.quiet {
            return;
        }
        let say = |text: String| {
            // Beside the bar where there is one.
            if std::io::stderr().is_terminal() { self.bar.suspend(|| eprintln!("{text}")) } else { eprintln!("{text}") }
        };
        let digest = short(line["digest"].as_str().unwrap_or_default());
        match line["type"].as_str() {
            Some("layers") => {
                let bytes = line["bytes"].as_u64().unwrap_or(0);
                say(format!("layers: {}, packed: {}", cell(&line["count"]), output::size(bytes)));
                self.bar = output::progress(Some(bytes), "downloading");
            }
            Some("downloaded") => {
                self.here.insert(cell(&line["digest"]), line["bytes"].as_u64().unwrap_or(0));
                self.bar.set_position(self.here.values().sum());
            }
            Some("ready") => {
                let how = if line["was_there"] == true { "is here already" } else { "is unpacked" };
                say(format!("layer {digest} {how}"));
            }
            Some("step") => {
                let command = cell(&line["command"]);
                let (first, more) = command.split_once('\n').map_or((command.as_str(), ""), |(first, _)| (first, " ..."));
                say(format!("step {} of {}: {}{more}", cell(&line["step"]), cell(&line["of"]), output::printable(first)));
            }
            Some("output") => {
                // What a build prints is its own; control characters but line ends and tabs are shown and not obeyed.
                let data = cell(&line["data"]);
                let data = data.replace('\r', "");
                let text: String = data.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }).collect();
                eprint!("{text}");
            }
            _ => {}
        }
    }
}

/// JSON by the line.
struct Lines<S> {
    pieces: std::pin::Pin<Box<S>>,
    buffer: BytesMut,
}

impl<S: Stream<Item = reqwest::Result<Bytes>>> Lines<S> {
    async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).context("the server sent a line that is no JSON");
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                bail!("the server sent a line without an end");
            }
            match self.pieces.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece.context("the connection broke off")?),
                None => return Ok(None),
            }
        }
    }
}

async fn import(client: &Client, form: Output, name: Option<&str>, body: Body, length: Option<u64>) -> anyhow::Result<()> {
    let query = name.map(|name| format!("?name={}", segment(name))).unwrap_or_default();
    let mut request = client.request(Method::POST, &format!("{IMAGES}/import{query}")).header("content-type", "application/x-tar");
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    let imported = client.data(request.body(body)).await?;
    match form {
        Output::Json => output::json(&imported),
        Output::Table => {
            for image in imported["images"].as_array().into_iter().flatten() {
                output::line(&format!("{}  {}", cell(&image["names"]), cell(&image["id"])));
            }
        }
    }
    Ok(())
}

/// The bytes of an archive: a file, standard input, or a folder with an OCI layout, which is packed on the way.
async fn archive(source: &Path) -> anyhow::Result<(Body, Option<u64>)> {
    if source == Path::new("-") {
        return Ok((Body::wrap_stream(pieces(tokio::io::stdin(), None)), None));
    }
    let metadata = tokio::fs::metadata(source).await.with_context(|| format!("cannot open {}", source.display()))?;
    if !metadata.is_dir() {
        let file = tokio::fs::File::open(source).await.with_context(|| format!("cannot open {}", source.display()))?;
        let bar = output::progress(Some(metadata.len()), &source.display().to_string());
        return Ok((Body::wrap_stream(pieces(file, Some(bar))), Some(metadata.len())));
    }
    if !source.join("index.json").exists() && !source.join("manifest.json").exists() {
        bail!("{} is a folder without index.json: no OCI layout", source.display());
    }
    let (sender, receiver) = mpsc::channel(16);
    let source = source.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut tar = tar::Builder::new(std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone())));
        // What a link in a layout leads to is none of the image.
        tar.follow_symlinks(false);
        let packed = tar.append_dir_all("", &source).and_then(|()| tar.into_inner()).and_then(|mut out| std::io::Write::flush(&mut out));
        if let Err(error) = packed {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let stream = stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) });
    Ok((Body::wrap_stream(stream), None))
}

struct Pieces(mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pieces(source: impl AsyncRead + Unpin + Send + 'static, bar: Option<ProgressBar>) -> impl Stream<Item = std::io::Result<Vec<u8>>> + Send + 'static {
    stream::try_unfold((source, bar), |(mut source, bar)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let read = source.read(&mut piece).await?;
        piece.truncate(read);
        if let Some(bar) = &bar {
            bar.inc(read as u64);
        }
        Ok(if read == 0 { None } else { Some((piece, (source, bar))) })
    })
}

/// A root filesystem of Debian packages as a tar, as it is made.
fn bootstrap(args: &BootstrapArgs) -> anyhow::Result<Body> {
    let mut command = tokio::process::Command::new("mmdebstrap");
    command.arg(format!("--variant={}", args.variant)).arg("--format=tar");
    if !args.include.is_empty() {
        command.arg(format!("--include={}", args.include.join(",")));
    }
    if let Some(components) = &args.components {
        command.arg(format!("--components={components}"));
    }
    command.arg(&args.suite).arg("-").args(&args.mirror);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("mmdebstrap is missing on this machine: apt-get install mmdebstrap (on Ubuntu also debian-archive-keyring)")
        }
        Err(error) => return Err(error).context("mmdebstrap cannot be started"),
    };
    let out = child.stdout.take().context("mmdebstrap has no output")?;
    let stream = stream::try_unfold((out, child), |(mut out, mut child)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let read = out.read(&mut piece).await?;
        piece.truncate(read);
        if read > 0 {
            return Ok(Some((piece, (out, child))));
        }
        // Half a root must not be taken for a whole one.
        let status = child.wait().await?;
        if status.success() { Ok(None) } else { Err(std::io::Error::other(format!("mmdebstrap failed: {status}"))) }
    });
    Ok(Body::wrap_stream(stream))
}

async fn export(client: &Client, name: &str, file: &Path) -> anyhow::Result<()> {
    let response = client.send(client.request(Method::GET, &format!("{IMAGES}/export?name={}", segment(name)))).await?;
    let mut pieces = response.bytes_stream();
    if file == Path::new("-") {
        while let Some(piece) = pieces.next().await.filter(|_| !output::is_lost()) {
            output::write(&piece?);
        }
        return Ok(());
    }
    output::write_whole(file, pieces).await
}

/// A build's specification from a YAML or JSON file, with the contents of the files that it names.
fn read_spec(file: &Path) -> anyhow::Result<Value> {
    let mut spec = super::template::read(file)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    for entry in spec.get_mut("files").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(source) = entry.as_object_mut().and_then(|entry| entry.remove("source")) else { continue };
        let path = folder.join(source.as_str().context("files: source must be a path")?);
        let read = || -> std::io::Result<_> { Ok((std::fs::read(&path)?, std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path)?))) };
        let (bytes, mode) = read().with_context(|| format!("cannot read {}", path.display()))?;
        entry["base64"] = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes).into();
        if entry.get("mode").is_none() {
            entry["mode"] = format!("{:04o}", mode & 0o777).into();
        }
    }
    Ok(spec)
}

/// A digest for people.
fn short(id: &str) -> String {
    id.strip_prefix("sha256:").map_or(id, |hex| &hex[..hex.len().min(12)]).to_owned()
}
