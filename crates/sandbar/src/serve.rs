//! `sandbar serve`: from settings to a running server.

use std::time::Duration;

use anyhow::Context;
use sandbar_node::{NodeConfig, error_text};
use sandbar_server::{AcmeConfig, Config, Server, StartError, TlsConfig};

use crate::settings::ServeSettings;

/// procd, built by this crate's build script.
static PROCD: &[u8] = include_bytes!(env!("SANDBAR_PROCD"));

/// The settings in the server's terms.
pub fn config(settings: &ServeSettings) -> Config {
    Config {
        data_dir: settings.data_dir.clone(),
        listen: settings.listen,
        bootstrap_token: settings.bootstrap_token.clone(),
        public_domain: settings.public_domain.clone(),
        gateway_listen: settings.gateway_listen,
        tls: settings.tls.clone().map(|(certificate, key)| TlsConfig { certificate, key }),
        acme: settings.acme.clone().map(|acme| AcmeConfig {
            directory: acme.directory,
            contact: acme.contact,
            orders_per_week: acme.orders_per_week,
            ca: acme.ca,
        }),
        ssh_listen: settings.ssh_listen,
        trusted_proxies: settings.trusted_proxies.clone(),
        registration: settings.registration,
        pool_min_idle: settings.pool_min_idle,
        app_runs_at_once: settings.app_runs_at_once,
        image_registries: settings.image_registries.clone(),
        prices: settings.prices.clone(),
        scripts: settings.scripts.clone(),
        node: NodeConfig {
            data_dir: settings.data_dir.clone(),
            agent: PROCD,
            egress_allow: settings.egress_allow.clone(),
            nameservers: settings.nameservers.clone(),
            egress_ca_file: settings.egress_ca_file.clone(),
        },
    }
}

/// Starts the server, or says in one message what this machine lacks.
///
/// # Errors
/// A needed kernel feature is missing, or the data directory, port or database cannot be used.
pub async fn start(settings: &ServeSettings) -> anyhow::Result<Server> {
    raise_file_limit();
    std::fs::create_dir_all(&settings.data_dir).with_context(|| format!("cannot make the data directory {}", settings.data_dir.display()))?;
    let missing: Vec<String> = sandbar_linux::probe::features(&settings.data_dir)
        .into_iter()
        .filter(|feature| feature.required && !feature.ok)
        .map(|feature| format!("  - {}: {}\n    {}", feature.name, feature.detail, feature.remedy))
        .collect();
    if !missing.is_empty() {
        anyhow::bail!("this machine cannot wall sandboxes in, so none is started:\n{}\n(`sandbar doctor` shows every check)", missing.join("\n"));
    }
    Server::start(config(settings)).await.map_err(|error| {
        let what_to_do = if matches!(error, StartError::Listen { .. }) { "; choose another address or port with --listen" } else { "" };
        anyhow::anyhow!("{}{what_to_do}", error_text(&error))
    })
}

/// A sandbox costs the server about ten descriptors, and a shell's usual soft limit of 1024 would end at a hundred
/// sandboxes. Sandboxes have a limit of their own.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // A refusal leaves the limit as it was, which a small server can live with.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Runs a server until SIGTERM or SIGINT. Sandboxes outlive it.
pub async fn run(server: Server) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = server.stop_token();
    tracing::info!("serving on http://{}", server.address()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping; sandboxes go on"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping; sandboxes go on"),
        }
        stop.cancel();
        // Whoever asks twice does not want to wait.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(Duration::from_secs(30)) => {}
        }
        tracing::warn!("not waiting for the rest; the next start finishes it");
        std::process::exit(1);
    });
    server.run().await;
    Ok(())
}
