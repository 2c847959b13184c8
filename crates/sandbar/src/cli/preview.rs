//! `sandbar sandbox preview` as clap reads it.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum PreviewCommand {
    /// Make a preview of a port and print its URL, which works once
    Create(PreviewArgs),
    /// Make a preview of a port and open it in the browser of this machine; where there is none, print its URL
    Open(PreviewArgs),
    /// List your previews of a sandbox
    #[command(visible_alias = "list")]
    Ls {
        /// The sandbox
        id: String,
    },
    /// Revoke previews
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// The sandbox
        id: String,
        /// The previews
        #[arg(required = true)]
        previews: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// The sandbox
    pub id: String,
    /// The port that something listens on
    pub port: u16,
    /// What is opened first, for example /docs
    #[arg(long, default_value = "/")]
    pub path: String,
    /// For how long it is good: 30 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub ttl: u32,
    /// The server inside speaks TLS
    #[arg(long)]
    pub https: bool,
    /// Requests through it may wake the sandbox; it is good beyond a pause, too
    #[arg(long)]
    pub resume: bool,
}
