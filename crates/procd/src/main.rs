//! Pid 1 of a sandbox: starts its processes, keeps their output, hands out its files, reaps its orphans.
//!
//! One thread and no shared state: [`agent::Agent`] knows everything, a [`context::Context`] has a [`run::Run`] per
//! life of its process, the rest are the parts of these. Whatever the sandbox's own code does, this process goes on:
//! nothing here panics on input, everything that can grow is bounded ([`limits`]).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::process::ExitCode;
use std::rc::Rc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sandbar_procd_api::fds;
use tokio::net::UnixListener;

mod agent;
mod attach;
mod body;
mod connect;
mod context;
mod error;
mod events;
mod fd;
mod files;
mod functions;
mod http;
mod io;
mod journal;
mod json;
mod keep;
mod limits;
mod log;
mod process;
mod publish;
mod repl;
mod run;
mod sftp;
mod signals;
mod stats;
mod tree;
mod trust;
mod watch;

use agent::Agent;

fn main() -> ExitCode {
    // The same file under another name; see `functions::hand`.
    if functions::hand::is_asked_for() {
        return functions::hand::run();
    }
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match arguments.split_first() {
        Some((mode, rest)) if mode == connect::NAME => return connect::run(rest),
        Some((mode, _)) if mode == keep::NAME => return keep::keeper::run(),
        Some((mode, _)) if mode == sftp::NAME => return sftp::run(),
        _ => {}
    }
    // Before anything is opened that could take these numbers.
    let listen = sandbar_linux::process::inherited(fds::LISTEN);
    let log_a = sandbar_linux::process::inherited(fds::LOG_A).filter(is_file);
    let log_b = sandbar_linux::process::inherited(fds::LOG_B).filter(is_file);
    let oom = sandbar_linux::process::inherited(fds::OOM).filter(is_file);
    let Ok(children) = sandbar_linux::process::become_init() else {
        return ExitCode::from(101);
    };
    let Some(listener) = listener(listen) else {
        eprintln!("procd: descriptor 3 is no listening socket, and no --socket PATH is given");
        return ExitCode::from(102);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let Ok(runtime) = runtime else {
        return ExitCode::from(103);
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let agent = Agent::new(log_a, log_b, oom);
        tokio::task::spawn_local(reap(agent.clone(), children));
        serve(agent, listener).await;
    });
    ExitCode::from(104)
}

fn is_file(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_file())
}

/// The inherited socket; outside a sandbox one that is bound here.
fn listener(inherited: Option<OwnedFd>) -> Option<StdListener> {
    let is_socket = |fd: &OwnedFd| rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false);
    if let Some(fd) = inherited.filter(is_socket) {
        return Some(StdListener::from(fd));
    }
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "--socket" {
        return None;
    }
    StdListener::bind(args.next()?).ok()
}

async fn reap(agent: Rc<Agent>, children: OwnedFd) {
    let Ok(children) = crate::fd::watch(children) else { return };
    loop {
        // Empty the descriptor first: a child that ends after that makes it readable again.
        let mut buffer = [0_u8; 128 * 8];
        while rustix::io::read(children.get_ref(), &mut buffer).is_ok() {}
        agent.reap();
        match children.readable().await {
            Ok(mut guard) => {
                guard.clear_ready();
                while rustix::io::read(children.get_ref(), &mut buffer).is_ok() {}
                agent.reap();
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn serve(agent: Rc<Agent>, listener: StdListener) {
    let _ = listener.set_nonblocking(true);
    let Ok(listener) = UnixListener::from_std(listener) else { return };
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(limits::CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors, most likely: some will be free again.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        let agent = agent.clone();
        tokio::task::spawn_local(async move {
            let served = agent.clone();
            let service = service_fn(move |request| {
                let agent = served.clone();
                async move { Ok::<_, std::convert::Infallible>(http::serve(agent, request).await) }
            });
            let connection = http1::Builder::new().max_buf_size(limits::HEAD_BYTES_MAX).serve_connection(TokioIo::new(stream), service).with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let reset = agent.reset.notified();
            let ended = tokio::select! {
                _ = connection.as_mut() => true,
                () = reset => false,
            };
            if !ended {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            drop(place);
        });
    }
}
