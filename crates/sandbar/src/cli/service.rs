//! `sandbar sandbox service` as clap reads it.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// List the services of a sandbox
    #[command(visible_aliases = ["ls", "list"])]
    Get {
        /// The sandbox
        id: String,
    },
    /// Replace all services by those in a file
    #[command(visible_alias = "put")]
    Update {
        /// The sandbox
        id: String,
        /// JSON or YAML: a list of services, or what `get -o json` prints (`-` = standard input)
        #[arg(short = 'f', long, value_name = "FILE")]
        services_file: PathBuf,
    },
    /// Remove all services
    Clear {
        /// The sandbox
        id: String,
    },
    /// Remove one service: the others are read and written again, so let nobody else change them meanwhile
    #[command(visible_aliases = ["rm", "remove"])]
    Delete {
        /// The sandbox
        id: String,
        /// Id of the service
        service: String,
    },
}
