//! `sandbar sandbox` as clap reads it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{PreviewCommand, SandboxFunctionCommand, ServiceCommand, pair};

#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Claim a sandbox from a template
    Create(CreateArgs),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show one sandbox
    Get {
        /// The sandbox
        id: String,
    },
    /// Run a command and exit with its exit code; its streams are text, see `cp` for binary files
    Exec(ExecArgs),
    /// Run code in a REPL and print what it prints, errors of the code too
    Run(RunArgs),
    /// Open a shell in a terminal
    Shell(ShellArgs),
    /// Come in by SSH: runs the machine's ssh with the right address, user and host key
    Ssh(SshArgs),
    /// Copy files and folders in or out: one of the two is ID:/path
    Cp(CopyArgs),
    /// Print what its processes printed
    Logs(LogsArgs),
    /// Print what happened to it
    Events(EventsArgs),
    /// Print what it reached and what was refused
    Net(NetArgs),
    /// Pause it: no CPU time until it is resumed
    Pause {
        /// The sandbox
        id: String,
        /// Drop the processes at once and keep only the files
        #[arg(long)]
        hibernate: bool,
    },
    /// Make a new, paused sandbox with the files and configuration of this one
    Fork {
        /// The sandbox
        id: String,
    },
    /// Resume it
    Resume {
        /// The sandbox
        id: String,
    },
    /// Start its time to live anew
    Refresh {
        /// The sandbox
        id: String,
        /// Seconds from now, instead of the configured ttl
        #[arg(long, value_name = "SECONDS")]
        duration: Option<u32>,
    },
    /// Keep and call functions: handlers in Python, run once for each call
    #[command(subcommand, visible_alias = "fn")]
    Function(SandboxFunctionCommand),
    /// Show and change what a sandbox serves by HTTP
    #[command(subcommand, visible_alias = "services")]
    Service(ServiceCommand),
    /// Look at what listens inside, in a browser, without making it public
    #[command(subcommand, visible_alias = "previews")]
    Preview(PreviewCommand),
    /// Delete sandboxes and their files
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// The sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct SshArgs {
    /// The sandbox
    pub id: String,
    /// The private key, instead of those that ssh finds
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Options for ssh, for example --option '-L 8080:localhost:8080'; may be repeated
    #[arg(long = "option", value_name = "TEXT", allow_hyphen_values = true)]
    pub options: Vec<String>,
    /// Print the command instead of running it
    #[arg(long)]
    pub print: bool,
    /// A command to run; without it a shell
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Template to claim from
    #[arg(default_value = "default")]
    pub template: String,
    /// Environment of its processes; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Seconds until it is paused; 0 = never
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u32>,
    /// Seconds until its processes and files are cleaned; 0 = never
    #[arg(long, value_name = "SECONDS")]
    pub hard_ttl: Option<u32>,
    /// Do not wake it when it is used while paused
    #[arg(long)]
    pub no_auto_resume: bool,
    /// Refuse every connection to the outside
    #[arg(long)]
    pub block_network: bool,
    /// Memory limit, for example 512Mi
    #[arg(long, value_name = "QUANTITY")]
    pub memory: Option<String>,
    /// CPU limit, for example 2 or 500m
    #[arg(long, value_name = "QUANTITY")]
    pub cpu: Option<String>,
    /// The whole `config` object as JSON from this file (`-` = standard input); flags go on top
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those with this status: running, paused, failed, ...
    #[arg(long)]
    pub status: Option<String>,
    /// Only those of this template
    #[arg(long, value_name = "ID")]
    pub template: Option<String>,
    /// Only paused ones (`--paused=false`: only others)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub paused: Option<bool>,
    /// At most this many; without it all
    #[arg(long)]
    pub limit: Option<u32>,
    /// Leave out this many
    #[arg(long, default_value_t = 0)]
    pub offset: u32,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The sandbox
    pub id: String,
    /// Environment of the command; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Working directory
    #[arg(short = 'w', long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Program and arguments, after `--`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ShellArgs {
    /// The sandbox
    pub id: String,
    /// Environment of the command; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Working directory
    #[arg(short = 'w', long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// The shell
    #[arg(long, default_value = "bash")]
    pub shell: String,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The sandbox
    pub id: String,
    /// python, node, bash, sh, zsh, ruby, lua, perl, php, r or sqlite, as far as the sandbox has it
    pub language: String,
    /// The code; without it or with `-`, standard input
    pub code: Option<String>,
    /// Use this REPL, with its state
    #[arg(long, value_name = "CTX")]
    pub context: Option<String>,
    /// Leave the REPL running and say its id
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct CopyArgs {
    /// A path here, ID:/path, or `-` for standard input
    pub source: String,
    /// A path here, ID:/path, or `-` for standard output
    pub destination: String,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The sandbox
    pub id: String,
    /// Lines from the end
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u32>,
    /// Go on until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Of the runtime before this one
    #[arg(long)]
    pub previous: bool,
    /// Say when each line was printed
    #[arg(short, long)]
    pub timestamps: bool,
    /// Not older than this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub since: Option<u32>,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The sandbox
    pub id: String,
    /// After this event
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: u64,
    /// At most this many
    #[arg(long, default_value_t = 200)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct NetArgs {
    /// The sandbox
    pub id: String,
    /// Go on until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only what was decided so
    #[arg(long, value_parser = ["allow", "deny"])]
    pub decision: Option<String>,
    /// After this flow
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: u64,
    /// Only since then, in RFC 3339 such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// The newest, at most this many
    #[arg(long, default_value_t = 200, conflicts_with = "follow", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}
