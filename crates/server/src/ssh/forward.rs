//! Connections from the client into the sandbox (`-L`, `-D`, `-W`).
//!
//! What is the sandbox's own is connected to from here. Everything else is connected to from inside, by a process of the agent's:
//! the sandbox's policy of the network judges it like all that leaves the sandbox, and names are resolved as they are there.

use std::{io, net::IpAddr};

use bytes::{Bytes, BytesMut};
use sandbar_node::{
    Runtime,
    client::{ProcessFrame, ProcessInput, ProcessOutput},
};
use sandbar_procd_api::process::{CONNECTED, Start};
use sandbar_ssh::{Channel, Open, Refusal, Stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{client::Client, session::AGENT};

const READ_BYTES: usize = 32 << 10;
const HOST_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4096;
/// What a process said of why it does not connect.
const TEXT_BYTES_MAX: usize = 512;

/// A connection to a host and port, as they are inside.
pub(super) async fn tcp(client: &Client, open: Open, host: &str, port: u16) {
    if host.len() > HOST_BYTES_MAX || host.contains('\0') {
        return open.refuse(Refusal::ConnectFailed, "that is no host");
    }
    let runtime = tokio::select! {
        runtime = client.runtime() => runtime,
        () = open.closed() => return,
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return open.refuse(Refusal::ConnectFailed, error.message()),
    };
    if is_own(client, host) {
        let connected = tokio::select! {
            connected = runtime.connect(port) => connected,
            text = hopeless(&open, &runtime) => Err(io::Error::other(text)),
        };
        return match connected {
            Ok(stream) => carry(open, &runtime, stream).await,
            Err(error) => open.refuse(Refusal::ConnectFailed, error.to_string()),
        };
    }
    let arguments = [AGENT.to_vec(), b"connect".to_vec(), host.as_bytes().to_vec(), port.to_string().into_bytes()];
    inside(client, open, &runtime, &arguments).await;
}

/// A connection to a socket in the sandbox's file system.
pub(super) async fn unix(client: &Client, open: Open, path: &str) {
    if path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return open.refuse(Refusal::ConnectFailed, "that is no path");
    }
    let runtime = tokio::select! {
        runtime = client.runtime() => runtime,
        () = open.closed() => return,
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return open.refuse(Refusal::ConnectFailed, error.message()),
    };
    inside(client, open, &runtime, &[AGENT.to_vec(), b"connect".to_vec(), path.as_bytes().to_vec()]).await;
}

/// Whether a host is the sandbox itself.
fn is_own(client: &Client, host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        // On any other address of its loopback something else may listen.
        Ok(address) => matches!(address.to_canonical(), IpAddr::V4(v4) if v4 == std::net::Ipv4Addr::LOCALHOST) || address == std::net::Ipv6Addr::LOCALHOST,
        Err(_) => name == "localhost" || name == client.sandbox(),
    }
}

/// Carries bytes until both directions have ended, the client goes, or the sandbox stops.
async fn carry(open: Open, runtime: &Runtime, stream: TcpStream) {
    let Some(channel) = open.accept() else { return };
    stream.set_nodelay(true).ok();
    let (mut read, mut write) = stream.into_split();
    let out = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if channel.write(Stream::Out, buffer.split().freeze()).await.is_err() {
                break;
            }
        }
        channel.end();
    };
    let inward = async {
        while let Some(data) = channel.read().await {
            if write.write_all(&data).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
    };
    tokio::select! {
        _ = async { tokio::join!(out, inward) } => {}
        () = stopped(&channel, runtime) => {}
    }
}

/// Why nothing comes of it any more; returns when that is so.
async fn hopeless(open: &Open, runtime: &Runtime) -> &'static str {
    tokio::select! {
        () = open.closed() => "the client has left",
        () = runtime.frozen() => "the sandbox was paused",
        () = runtime.ended() => "the sandbox has ended",
    }
}

async fn stopped(channel: &Channel, runtime: &Runtime) {
    tokio::select! {
        () = channel.closed() => {}
        () = runtime.frozen() => {}
        () = runtime.ended() => {}
    }
}

/// Lets a process inside connect, and carries its streams.
async fn inside(client: &Client, open: Open, runtime: &Runtime, arguments: &[Vec<u8>]) {
    let start = Start { cwd: Some("/".to_owned()), ..Start::default() };
    let connects = async {
        let (input, mut output) = client.start(runtime, arguments, &start).await.map_err(|error| error.message().to_owned())?;
        let first = connected(&mut output).await?;
        Ok((first, input, output))
    };
    // The process ends with its streams.
    let connected = tokio::select! {
        connected = connects => connected,
        text = hopeless(&open, runtime) => Err(text.to_owned()),
    };
    let (first, input, output) = match connected {
        Ok(connected) => connected,
        Err(text) => return open.refuse(Refusal::ConnectFailed, text),
    };
    let Some(channel) = open.accept() else { return };
    tokio::select! {
        () = pipe(&channel, first, input, output) => {}
        () = stopped(&channel, runtime) => {}
    }
}

/// Waits for the word that there is a connection; what follows it belongs to that. Else why there is none.
async fn connected(output: &mut ProcessOutput) -> Result<Bytes, String> {
    let mut text = Vec::new();
    loop {
        match output.next().await {
            Ok(ProcessFrame::Stdout(data)) if data.first() == Some(&CONNECTED) => return Ok(data.slice(1..)),
            Ok(ProcessFrame::Stdout(_)) => return Err("something else than a connection answered".to_owned()),
            Ok(ProcessFrame::Stderr(data)) => {
                text.extend_from_slice(&data);
                text.truncate(TEXT_BYTES_MAX);
            }
            Ok(ProcessFrame::Exit(_)) => {
                let text: String = String::from_utf8_lossy(&text).trim().chars().filter(|c| !c.is_control()).collect();
                return Err(if text.is_empty() { "it cannot be connected to".to_owned() } else { text });
            }
            Err(_) => return Err("the sandbox does not answer any more".to_owned()),
        }
    }
}

async fn pipe(channel: &Channel, first: Bytes, input: ProcessInput, mut output: ProcessOutput) {
    let out = async {
        if channel.write(Stream::Out, first).await.is_err() {
            return;
        }
        loop {
            match output.next().await {
                Ok(ProcessFrame::Stdout(data)) => {
                    if channel.write(Stream::Out, data).await.is_err() {
                        return;
                    }
                }
                Ok(ProcessFrame::Stderr(_)) => {}
                Ok(ProcessFrame::Exit(_)) | Err(_) => return channel.end(),
            }
        }
    };
    let inward = async {
        while let Some(data) = channel.read().await {
            input.write(data).await;
        }
        input.end();
        std::future::pending::<()>().await;
    };
    // It ends when both of its directions have.
    tokio::select! {
        () = out => {}
        () = inward => {}
    }
}
