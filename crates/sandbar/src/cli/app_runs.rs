//! `sandbar app run` and what is done with runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::SchedulesCommand;

#[derive(Debug, Subcommand)]
pub enum AppRunsCommand {
    /// Run an action of an app, print what it prints, and exit as it does
    Run(AppRunArgs),
    /// Look at runs, and cancel them
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Look at what an app runs by itself, and change it
    #[command(subcommand)]
    Schedules(SchedulesCommand),
    /// List the files that a run left, or fetch them
    Artifacts {
        /// Id of the run
        run: String,
        /// Fetch what was captured into this folder
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// List receipts of runs; with --output json as they were signed, for `sandbar receipt verify`
    Receipts(ReceiptsArgs),
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReceiptsArgs {
    #[command(subcommand)]
    pub command: Option<ReceiptsCommand>,
    /// Of this app alone
    pub app: Option<String>,
    /// Only those after this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = super::number::<u64>)]
    pub after: u64,
}

#[derive(Debug, Subcommand)]
pub enum ReceiptsCommand {
    /// Show one receipt; with --output json as it was signed
    Get {
        /// Id of the receipt, or of its run
        id: String,
    },
}

#[derive(Debug, Args)]
pub struct AppRunArgs {
    /// The app
    pub app: String,
    /// The action
    pub action: String,
    /// Input as JSON, or @FILE; @- for standard input
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,
    /// A file for a property of the input that is one; several by repeating it. Its type follows from its name, or is said: NAME=PATH;type=TYPE
    #[arg(long = "file", value_name = "NAME=PATH")]
    pub files: Vec<String>,
    /// In a sandbox of its own, made of the version's files, and not in the app's
    #[arg(long)]
    pub fresh: bool,
    /// What becomes of that sandbox: delete, stop or archive [default: delete]
    #[arg(long, value_name = "POLICY", requires = "fresh")]
    pub cleanup: Option<String>,
    /// A variable for the command; several by repeating it
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Seconds after which it is ended [default: as the action says]
    #[arg(long, value_name = "SECONDS", value_parser = super::number::<u64>)]
    pub timeout: Option<u64>,
    /// Who asks twice by the same key gets one run
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Print the id of the run and do not wait for it
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List the runs of an app, the newest first
    #[command(visible_alias = "list")]
    Ls {
        /// The app
        app: String,
        /// Of this action alone
        #[arg(long)]
        action: Option<String>,
        /// In this state alone
        #[arg(long)]
        status: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = super::number::<u32>)]
        limit: u32,
    },
    /// Show one run
    Get {
        /// Id of the run
        run: String,
    },
    /// Print what a run printed
    Logs {
        /// Id of the run
        run: String,
        /// Go on until it ends
        #[arg(short, long)]
        follow: bool,
    },
    /// End a run, or keep it from beginning
    Cancel {
        /// Id of the run
        run: String,
    },
}
