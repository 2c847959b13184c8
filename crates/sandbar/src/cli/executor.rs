//! `sandbar executor` as clap reads it.

use std::net::SocketAddr;

use clap::Args;

#[derive(Debug, Args)]
pub struct ExecutorArgs {
    /// Address and port [default: 127.0.0.1 and PORT, else 8790]
    #[arg(long, env = "SANDBAR_EXECUTOR_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Servers that may be asked back, as http://HOST[:PORT], comma-separated, or * for any; needed when others than this machine
    /// reach it [default: any that a call names]
    #[arg(long, env = "SANDBAR_EXECUTOR_MAIN_ORIGIN", value_name = "URLS", value_delimiter = ',')]
    pub main_origin: Vec<String>,
    /// Calls at once
    #[arg(long, env = "SANDBAR_EXECUTOR_CONCURRENCY", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
    /// Only what makes it listen there: the port by its name of old
    #[arg(long, env = "PORT", value_name = "PORT", hide = true)]
    pub port: Option<u16>,
}
