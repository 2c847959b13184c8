//! The command line as clap reads it.

mod app;
mod app_lifecycle;
mod app_runs;
mod app_schedules;
mod collection;
mod credential;
mod dead_letters;
mod event;
mod executor;
mod function;
mod image;
mod item;
mod outbox;
mod preview;
mod receipt;
mod sandbox;
mod sandbox_function;
mod script;
mod service;
mod webhook;

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use app::{AppCommand, AppVersionsCommand, DeployArgs, InitArgs, InitTemplate, ValidateArgs};
pub use app_lifecycle::{AppLifecycleCommand, AppServiceCommand};
pub use app_runs::{AppRunArgs, AppRunsCommand, ReceiptsArgs, ReceiptsCommand, RunsCommand};
pub use app_schedules::SchedulesCommand;
pub use collection::{CollectionArgs, CollectionCommand};
pub use credential::{CredentialCommand, SecretArgs};
pub use dead_letters::DeadLettersCommand;
pub use event::EventCommand;
pub use executor::ExecutorArgs;
pub use function::{FunctionCommand, SourceArgs};
pub use image::{BootstrapArgs, ImageCommand, PullArgs};
pub use item::ItemCommand;
pub use outbox::OutboxCommand;
pub use preview::{PreviewArgs, PreviewCommand};
pub use receipt::{ReceiptCommand, VerifyArgs};
pub use sandbox::{CopyArgs, CreateArgs, EventsArgs, ExecArgs, ListArgs, LogsArgs, NetArgs, RunArgs, SandboxCommand, ShellArgs, SshArgs};
pub use sandbox_function::{FunctionInvokeArgs, SandboxFunctionCommand};
pub use script::{PutArgs, RunFileArgs, ScriptAliasCommand, ScriptCommand, ScriptInvokeArgs, ScriptKeyCommand, ScriptSecretCommand};
pub use service::ServiceCommand;
pub use webhook::WebhookCommand;

use crate::settings::Layer;

/// Isolated Linux sandboxes on one machine.
#[derive(Debug, Parser)]
#[command(name = "sandbar", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Address of the server; else SANDBAR_URL, SANDBOX0_BASE_URL, what `sandbar login` stored, http://127.0.0.1:8700
    #[arg(long, global = true, value_name = "URL", help_heading = "Everywhere")]
    pub url: Option<String>,
    /// API key; else SANDBAR_TOKEN, SANDBOX0_TOKEN, what `sandbar login` stored
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Everywhere")]
    pub token: Option<String>,
    /// What to print
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM", help_heading = "Everywhere")]
    pub output: Output,
}

/// Form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: nothing but JSON on standard output.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Run scripts for a server that is elsewhere
    Executor(ExecutorArgs),
    /// Say what this machine offers for isolation, what is missing and how to get it
    Doctor(DoctorArgs),
    /// Remember the server's address and a key
    Login,
    /// Make and use sandboxes
    #[command(subcommand, visible_alias = "sb")]
    Sandbox(SandboxCommand),
    /// Publish services of sandboxes under addresses that stay
    #[command(subcommand, visible_alias = "fn")]
    Function(FunctionCommand),
    /// JavaScript that runs on the server: called, on events, or at moments
    #[command(subcommand)]
    Script(ScriptCommand),
    /// Programs with what starts them, runs in them and is served by them, described in sandbar.yaml
    #[command(subcommand)]
    App(AppCommand),
    /// Look at the signed records of what ran
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Say what items are made of, and who may do what with them
    #[command(subcommand)]
    Collection(CollectionCommand),
    /// Read and write items of collections
    #[command(subcommand)]
    Item(ItemCommand),
    /// Make and revoke API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Keep secrets that sandboxes use and never see
    #[command(subcommand, visible_alias = "cred")]
    Credential(CredentialCommand),
    /// Add, list and remove the keys with which you come into sandboxes by SSH
    #[command(subcommand)]
    SshKey(SshKeyCommand),
    /// Keep the files of sandboxes, and put them back
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// See what is posted to a sandbox's webhook, and post it again
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Publish events for scripts, and see which there were
    #[command(subcommand)]
    Event(EventCommand),
    /// Files that outlive sandboxes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Make and look at templates
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Pull, import and build images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Say what takes the server's disk
    Du {
        /// Name the largest things, too
        #[arg(short, long)]
        all: bool,
    },
    /// Remove from the server's disk what nothing needs any more
    Gc {
        /// Also images that no template names and nothing was made from
        #[arg(long)]
        images: bool,
    },
    /// Measure the server against the floors of this machine
    Bench(BenchArgs),
    /// Kill what a stopped server left running and delete its data folder
    Purge(PurgeArgs),
    /// Start a server and show the main job: claim, keep state, read a file, publish a service
    #[command(hide = true)]
    Demo(DemoArgs),
    /// The small server that the gateway is measured with
    #[command(hide = true)]
    BenchUpstream {
        /// Where it listens
        listen: std::net::SocketAddr,
    },
    /// The client that the way out of a sandbox is measured with
    #[command(hide = true)]
    BenchClient(crate::bench::ClientArgs),
    /// The process that runs scripts for the server that started it
    #[command(hide = true)]
    ScriptEngine {
        /// Where the compiled engine is kept
        #[arg(long, value_name = "DIR")]
        cache_dir: Option<PathBuf>,
        /// Take the types out of one source, and end
        #[arg(long, conflicts_with = "cache_dir")]
        strip: bool,
    },
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// TOML file of settings [default: /etc/sandbar/sandbar.toml when it exists]
    #[arg(long, env = "SANDBAR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub layer: Layer,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The server's folder; probes of disk features happen where it is or will be
    #[arg(long, env = "SANDBAR_DATA_DIR", default_value = "/var/lib/sandbar", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The address that the server is to listen on
    #[arg(long, env = "SANDBAR_LISTEN", default_value = "127.0.0.1:8700", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
}

#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// The server's folder
    #[arg(long, env = "SANDBAR_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Do it: every sandbox of this folder and its files are lost
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// End the server when the job is done instead of serving on
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Fewer repetitions
    #[arg(long)]
    pub quick: bool,
    /// Only rows whose name contains one of these, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub only: Vec<String>,
    /// Where the server that it starts puts its temporary folder
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    pub dir: PathBuf,
    /// Idle sandboxes for the memory row, comma-separated
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 500], value_name = "COUNTS")]
    pub idle: Vec<u32>,
    /// mitmproxy's mitmdump, to measure beside [default: the one in PATH, if any]
    #[arg(long, env = "SANDBAR_BENCH_MITMDUMP", value_name = "FILE")]
    pub mitmdump: Option<PathBuf>,
    /// Bun, to measure script functions beside [default: the one in PATH, if any]
    #[arg(long, env = "SANDBAR_BENCH_BUN", value_name = "FILE")]
    pub bun: Option<PathBuf>,
    /// bench/native-quickjs, to measure script functions beside
    #[arg(long, env = "SANDBAR_BENCH_RQUICKJS", value_name = "FILE")]
    pub rquickjs: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; its text is shown this once
    Create {
        /// A name to know it by
        name: String,
        /// admin, builder, developer or viewer; several with commas [default: developer]
        #[arg(long, value_name = "ROLE", value_delimiter = ',')]
        role: Vec<String>,
        /// For how long it is good, for example 30d or 12h, or `never` [default: never]
        #[arg(long, value_name = "TIME")]
        expires_in: Option<String>,
    },
    /// List keys
    #[command(visible_alias = "list")]
    Ls,
    /// Revoke and delete a key
    #[command(visible_alias = "delete")]
    Rm {
        /// Id of the key, as `key ls` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum SshKeyCommand {
    /// Add a public key
    Add {
        /// The public key's file, for example ~/.ssh/id_ed25519.pub; - for standard input
        file: PathBuf,
        /// A name to know it by [default: the key's comment, or the file's name]
        #[arg(long)]
        name: Option<String>,
    },
    /// List your keys, and how the server's own is shown
    #[command(visible_alias = "list")]
    Ls {
        /// Those of all members of the team, for its admins
        #[arg(short, long)]
        all: bool,
    },
    /// Remove a key, an admin of the team anybody's: it lets nobody in any more
    #[command(visible_alias = "delete")]
    Rm {
        /// Id of the key, as `ssh-key ls` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List templates
    #[command(visible_alias = "list")]
    Ls,
    /// Show one template
    Get {
        /// Id of the template
        id: String,
    },
    /// Make a template from a YAML or JSON file with `template_id` and `spec`
    Create {
        /// The file; - for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Replace a template's specification by that of a YAML or JSON file
    Update {
        /// Id of the template
        id: String,
        /// The file, with `spec`; - for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a template whose sandboxes begin with the files that a sandbox has now
    FromSandbox {
        /// Id of the new template
        id: String,
        /// Id of the sandbox
        sandbox: String,
    },
    /// Delete a template; sandboxes keep what they were claimed with
    Rm {
        /// Id of the template
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep the files of a sandbox as they are now
    Create {
        /// Id of the sandbox
        sandbox: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// When it is deleted, such as 2027-01-31T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// List the snapshots of a sandbox, or all of the team
    #[command(visible_alias = "list")]
    Ls {
        /// Id of the sandbox; without it also those of sandboxes that are gone
        sandbox: Option<String>,
    },
    /// Delete a snapshot; what was made from it stays
    Rm {
        /// Id of the snapshot
        id: String,
    },
    /// Put the files of a snapshot in place of a paused sandbox's own
    Restore {
        /// Id of the sandbox
        sandbox: String,
        /// Id of the snapshot
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls,
    /// Make a volume
    Create {
        #[arg(long)]
        name: Option<String>,
        /// RWO (one sandbox at a time), ROX (many, read-only) or RWX (many)
        #[arg(long)]
        mode: Option<String>,
        /// The most it may hold, such as 10Gi
        #[arg(long)]
        size: Option<String>,
        /// Begin with the files of this volume snapshot
        #[arg(long, value_name = "ID")]
        from_snapshot: Option<String>,
    },
    /// Show one volume
    Get {
        /// Id of the volume
        id: String,
    },
    /// Delete a volume with its snapshots
    Rm {
        /// Id of the volume
        id: String,
        /// Also when sandboxes have it: their processes end
        #[arg(long)]
        force: bool,
    },
    /// Make a volume with the files that another has now
    Fork {
        /// Id of the volume
        id: String,
        #[arg(long)]
        name: Option<String>,
    },
    /// Keep the files of a volume as they are now
    Snapshot {
        /// Id of the volume
        id: String,
        #[arg(long)]
        name: Option<String>,
    },
    /// List the snapshots of a volume
    Snapshots {
        /// Id of the volume
        id: String,
    },
    /// Give a volume the files of one of its snapshots
    Restore {
        /// Id of the volume
        id: String,
        /// Id of the snapshot
        snapshot: String,
    },
    /// Unpack a tar (plain, gzip, zstd) or zip into a volume
    Import {
        /// Id of the volume
        id: String,
        /// The archive
        archive: PathBuf,
        /// The folder in the volume
        #[arg(long, default_value = "/")]
        path: String,
    },
    /// Pack a volume into a file that ends in .tar or .zip
    Export {
        /// Id of the volume
        id: String,
        /// The archive
        archive: PathBuf,
    },
}

/// Whether it may be so large is for the server to say.
fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "it is no whole number, or too large a one".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        super::Cli::command().debug_assert();
    }
}
