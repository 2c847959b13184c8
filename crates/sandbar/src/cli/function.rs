//! `sandbar function ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where a function is meant, its id or its slug is taken.
#[derive(Debug, Subcommand)]
pub enum FunctionCommand {
    /// Publish a service of a sandbox as a function, and print where it is served
    Create {
        #[command(flatten)]
        source: SourceArgs,
        /// Name; its slug becomes a part of the host [default: that of the service]
        #[arg(long)]
        name: Option<String>,
        /// Instances that are kept ready
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        min_warm: u32,
        /// Wait until it answers
        #[arg(long)]
        wait: bool,
    },
    /// List functions
    #[command(visible_alias = "list")]
    Ls,
    /// Show one function with its revisions and aliases
    Get {
        /// The function
        function: String,
    },
    /// Publish a new revision, and promote it when it is ready
    Publish {
        /// The function
        function: String,
        #[command(flatten)]
        source: SourceArgs,
        /// Leave production where it is
        #[arg(long)]
        no_promote: bool,
        /// Wait until production answers
        #[arg(long)]
        wait: bool,
    },
    /// Let production, or another alias, point to a revision
    Promote {
        /// The function
        function: String,
        /// Number of the revision
        revision: i64,
        /// Another alias than production; it has a host of its own
        #[arg(long, default_value = "production")]
        alias: String,
        /// Wait until it answers
        #[arg(long)]
        wait: bool,
    },
    /// Let production point to the revision before the one that it points to
    Rollback {
        /// The function
        function: String,
        /// Another revision than the one before
        #[arg(long, value_name = "NUMBER")]
        to: Option<i64>,
        /// Wait until it answers
        #[arg(long)]
        wait: bool,
    },
    /// Divide production's requests among revisions
    Split {
        /// The function
        function: String,
        /// Revisions and their parts, such as 1=90 2=10
        #[arg(required = true, value_name = "REVISION=WEIGHT", value_parser = weight)]
        weights: Vec<(i64, i64)>,
        /// Keep a client with the revision that it got first
        #[arg(long)]
        sticky: bool,
    },
    /// Print what the processes of the sandbox that serves it printed
    Logs {
        /// The function
        function: String,
        /// Lines from the end
        #[arg(short = 'n', long, value_name = "N")]
        tail: Option<u32>,
        /// Go on until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Show what serves it, and what happened to that last
    Runtime {
        /// The function
        function: String,
        /// Replace its instances first; no request is lost
        #[arg(long)]
        restart: bool,
    },
    /// Delete functions, or one revision or alias
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// The functions
        #[arg(required = true)]
        functions: Vec<String>,
        /// Only this revision
        #[arg(long, value_name = "NUMBER", conflicts_with = "alias")]
        revision: Option<i64>,
        /// Only this alias
        #[arg(long)]
        alias: Option<String>,
    },
}

/// What is published.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// The sandbox
    #[arg(required_unless_present = "spec")]
    pub sandbox: Option<String>,
    /// Its service
    #[arg(required_unless_present = "spec")]
    pub service: Option<String>,
    /// Instead of a sandbox, the `revision_spec` as YAML or JSON in this file (`-` = standard input)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sandbox", "service"])]
    pub spec: Option<PathBuf>,
}

fn weight(text: &str) -> Result<(i64, i64), String> {
    let parsed = text.split_once('=').and_then(|(number, weight)| Some((number.parse().ok()?, weight.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?} is not REVISION=WEIGHT, such as 2=10"))
}
