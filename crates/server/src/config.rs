//! What the operator decides. Parsing of flags, environment and TOML is the binary's.

use std::{net::SocketAddr, path::PathBuf};

use sandbar_core::{
    app::receipt::Prices,
    egress::Prefix,
    public_host,
    script::{fetch_allow::FetchAllow, mail::SmtpConfig, provider::ProviderSetting},
};
use sandbar_node::NodeConfig;

const HTTPS_PORT: u16 = 443;

/// Settings of a running server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// The first admin key; made and printed once when absent.
    pub bootstrap_token: Option<String>,
    /// Public hosts are below this name.
    pub public_domain: String,
    /// Where public hosts are served besides [`Self::listen`], and nothing else is.
    pub gateway_listen: Option<SocketAddr>,
    /// TLS of the gateway's own listener by files.
    pub tls: Option<TlsConfig>,
    /// TLS of that listener by certificates that are ordered.
    pub acme: Option<AcmeConfig>,
    /// Where people come in by SSH.
    pub ssh_listen: SshListen,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Prefix>,
    /// Whether `/auth/register` makes new users.
    pub registration: bool,
    /// Idle sandboxes kept ready for the built-in template.
    pub pool_min_idle: u32,
    /// Registries from which templates may have their images pulled by themselves: hosts, `default`, or `*`.
    pub image_registries: Vec<String>,
    /// Who runs scripts, and what they may ask for.
    pub scripts: ScriptsConfig,
    /// Runs of apps at once, at least one.
    pub app_runs_at_once: u32,
    /// What runs of apps cost, for their receipts and budgets.
    pub prices: Option<Prices>,
    /// This machine's part.
    pub node: NodeConfig,
}

/// Who runs scripts, and what they may ask for.
#[derive(Debug, Clone, Default)]
pub struct ScriptsConfig {
    pub provider: ProviderSetting,
    /// An executor, without a slash at the end.
    pub exec_url: Option<String>,
    /// What an executor that does not know grants shows us when it asks back.
    pub rpc_token: Option<String>,
    /// Where executors reach us when no request says it, without a slash at the end.
    pub self_url: Option<String>,
    /// Where `ctx.fetch` may go.
    pub fetch_allow: FetchAllow,
    /// `bun-worker` runs everybody's code.
    pub trust_all_authors: bool,
    /// Takes mail; without one it is kept in files.
    pub smtp: Option<SmtpConfig>,
    /// Whom mail is from, as `NAME <USER@HOST>` or `USER@HOST`.
    pub mail_from: Option<String>,
    /// The program of `bun-worker`.
    pub bun: Option<PathBuf>,
    /// Where the compiled engine is kept, if not below the data directory.
    pub cache_dir: Option<PathBuf>,
}

/// Where people come in by SSH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshListen {
    Off,
    /// There, unless somebody else listens there.
    IfFree(SocketAddr),
    At(SocketAddr),
}

/// A certificate with its key, as PEM files. They are read again when they change.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// An authority that issues certificates by ACME.
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// The URL of its directory.
    pub directory: String,
    /// Whom it may write to: a `mailto:` URL.
    pub contact: Option<String>,
    /// Certificates for new hosts within a week.
    pub orders_per_week: u32,
    /// Roots to believe when it is asked, a PEM file, in place of the usual ones.
    pub ca: Option<PathBuf>,
}

impl Config {
    /// Where a public label is reached.
    pub fn public_url(&self, label: &str) -> String {
        let listen = self.gateway_listen.unwrap_or(self.listen);
        let tls = self.gateway_listen.is_some() && (self.tls.is_some() || self.acme.is_some());
        // Authorities come to this port, so whatever ours is, it is reached by that one.
        let port = if self.acme.is_some() { HTTPS_PORT } else { listen.port() };
        public_host::url(label, &self.public_domain, tls, port)
    }
}
