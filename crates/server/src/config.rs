//! What the operator decides. Parsing of flags, environment and TOML is the binary's.

use std::{net::SocketAddr, path::PathBuf};

use sandbar_node::NodeConfig;

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
    /// Whether `/auth/register` makes new users.
    pub registration: bool,
    /// Idle sandboxes kept ready for the built-in template.
    pub pool_min_idle: u32,
    /// Registries from which templates may have their images pulled by themselves: hosts, `default`, or `*`.
    pub image_registries: Vec<String>,
    /// This machine's part.
    pub node: NodeConfig,
}
