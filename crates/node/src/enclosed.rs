//! Enclosed programs: a program of the host in a small runtime of its own, without a network and without anything of the host's
//! but what every sandbox has. It is spoken with over its standard streams, and it and its runtime end when nobody holds them.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use sandbar_core::{egress, sandbox::Base};
use sandbar_linux::launch::Bind;
use sandbar_procd_api::process::Start;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Limits, Node, Runtime, RuntimeError, RuntimeSpec,
    client::{ProcdError, ProcessFrame, ProcessInput, ProcessOutput},
    error_text,
    image::HOST,
    launcher::Priority,
};

/// Where the program and its files are inside.
pub const PROGRAM_PATH: &str = "/opt/program";
/// On the way in each direction.
const STREAM_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 32 << 10;
/// Of what it prints to stderr, this much is logged; the rest is thrown away.
const STDERR_BYTES_MAX: usize = 16 << 10;

/// What is enclosed.
#[derive(Debug, Clone)]
pub struct Program {
    /// Of the log.
    pub name: &'static str,
    /// On the host; read-only inside, and shared by all of them.
    pub binary: PathBuf,
    /// Written beside the program: names and texts.
    pub files: &'static [(&'static str, &'static str)],
    /// Of the program itself, which stands before them.
    pub arguments: Vec<String>,
    pub env: Vec<(String, String)>,
    pub limits: Limits,
}

/// A program that runs.
#[derive(Debug)]
pub struct Enclosed {
    /// Its stdin and stdout; the end when it has ended.
    pub stream: DuplexStream,
    /// It ends when this is dropped.
    pub hold: DropGuard,
    /// Cancelled when it has ended.
    pub ended: CancellationToken,
}

impl Node {
    /// Starts a program in a runtime of its own.
    pub async fn enclose(&self, program: &Program) -> Result<Enclosed, RuntimeError> {
        let spec = RuntimeSpec {
            base: Base { image: HOST.to_owned(), layers: Vec::new() },
            limits: program.limits,
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            warm: Vec::new(),
        };
        let target = format!("{PROGRAM_PATH}/{}", program.name);
        let mut ground = self.ground(&spec)?;
        ground.binds.push(Bind { source: program.binary.clone(), target: target.trim_start_matches('/').into(), read_only: true, idmap: true });
        let root = self.create_root().await?;
        let runtime = match self.launch_on(ground, &spec, root.clone(), Priority::Claim).await {
            Ok(runtime) => runtime,
            Err(error) => {
                self.remove_root(&root);
                return Err(error);
            }
        };
        let (input, output) = match begin(&runtime, program, &target).await {
            Ok(process) => process,
            Err(error) => {
                self.destroy_with_root(&runtime).await;
                return Err(error);
            }
        };
        let (stream, far) = tokio::io::duplex(STREAM_BYTES);
        let (unwanted, ended) = (CancellationToken::new(), CancellationToken::new());
        let (node, name, hold, over) = (self.clone(), program.name, unwanted.clone().drop_guard(), ended.clone().drop_guard());
        self.inner.tasks.spawn(async move {
            let (read, write) = tokio::io::split(far);
            tokio::select! {
                () = pass_in(read, &input) => {}
                () = pass_out(write, output, name) => {}
                () = runtime.ended() => {}
                () = unwanted.cancelled() => {}
                () = node.inner.stop.cancelled() => {}
            }
            drop(over);
            node.destroy_with_root(&runtime).await;
        });
        Ok(Enclosed { stream, hold, ended })
    }
}

async fn begin(runtime: &Arc<Runtime>, program: &Program, target: &str) -> Result<(ProcessInput, ProcessOutput), RuntimeError> {
    let closed = egress::compile_value(&serde_json::json!({ "mode": "block-all" })).map_err(|_| RuntimeError::Network("the closed policy".to_owned()));
    runtime.set_policy(closed?).await?;
    for (name, text) in program.files {
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        let written = runtime.client.write_file(&format!("{PROGRAM_PATH}/{name}"), Some("0444"), Some(text.len() as u64), body).await;
        written.map_err(RuntimeError::Agent)?;
    }
    let arguments: Vec<Vec<u8>> = std::iter::once(target).chain(program.arguments.iter().map(String::as_str)).map(|text| text.as_bytes().to_vec()).collect();
    let start = Start { cwd: Some(PROGRAM_PATH.to_owned()), env_vars: program.env.iter().cloned().collect(), ..Start::default() };
    runtime.client.start_process(&arguments, &start).await.map_err(RuntimeError::Agent)
}

/// Passes on what is written to it until the writer ends, which ends its stdin.
async fn pass_in(mut from: ReadHalf<DuplexStream>, input: &ProcessInput) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        input.write(Bytes::copy_from_slice(&buffer[..count])).await;
    }
    input.end();
    // Its answers may be wanted yet.
    std::future::pending::<()>().await;
}

/// Passes on what it says until it has ended.
async fn pass_out(mut to: WriteHalf<DuplexStream>, mut output: ProcessOutput, name: &str) {
    let mut room = STDERR_BYTES_MAX;
    loop {
        match output.next().await {
            Ok(ProcessFrame::Stdout(data)) => {
                // Nobody listens any more: who dropped the stream drops the hold with it.
                let _ = to.write_all(&data).await;
            }
            Ok(ProcessFrame::Stderr(data)) => {
                let shown = &data[..data.len().min(room)];
                room -= shown.len();
                if !shown.is_empty() {
                    tracing::warn!(program = name, stderr = %String::from_utf8_lossy(shown).trim_end(), "an enclosed program complains");
                }
            }
            Ok(ProcessFrame::Exit(exit)) => {
                if exit.code != 0 {
                    tracing::warn!(program = name, code = exit.code, out_of_memory = exit.out_of_memory, "an enclosed program ended");
                }
                break;
            }
            Err(error) => {
                log_gone(name, &error);
                break;
            }
        }
    }
    let _ = to.shutdown().await;
}

fn log_gone(name: &str, error: &ProcdError) {
    tracing::warn!(program = name, error = error_text(error), "an enclosed program went away");
}
