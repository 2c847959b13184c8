//! `sandbar executor`.

use std::{net::SocketAddr, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc};

use anyhow::Context;
use sandbar_scripts::{Workers, WorkersConfig};
use sandbar_server::executor::{self, ExecutorConfig, PORT_DEFAULT};
use tokio_util::sync::CancellationToken;

use crate::{cli::ExecutorArgs, output};

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: ExecutorArgs) -> anyhow::Result<u8> {
    use tokio::signal::unix::{SignalKind, signal};
    let address = args.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], args.port.unwrap_or(PORT_DEFAULT))));
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}; choose another address or port with --listen"))?;
    let workers = Workers::new(WorkersConfig::new(cache_dir()));
    workers.warm();
    let (stop, mut terminate, mut interrupt) = (CancellationToken::new(), signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        }
    });
    output::line(&format!("listening on http://{}", listener.local_addr()?));
    let config = ExecutorConfig { main_origins: args.main_origin, concurrency: args.concurrency.into() };
    let served = executor::serve(listener, config, Arc::new(workers.clone()), stop).await;
    workers.shutdown().await;
    served.map(|()| 0).map_err(|error| anyhow::anyhow!("{}", sandbar_node::error_text(&error)))
}

/// Where the compiled engine is kept for the next worker. Without a place each compiles it.
fn cache_dir() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".cache"));
    let dir = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home)?.join("sandbar/scripts");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).is_ok().then_some(dir)
}
