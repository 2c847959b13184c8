//! `sandbar app ...`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{AppLifecycleCommand, AppRunsCommand};

#[derive(Debug, Subcommand)]
pub enum AppCommand {
    #[command(flatten)]
    Lifecycle(AppLifecycleCommand),
    #[command(flatten)]
    Runs(AppRunsCommand),
    /// Write a manifest to begin with
    Init(InitArgs),
    /// Say everything that is wrong with a manifest; needs no server
    Validate(ValidateArgs),
    /// Print the JSON Schema of manifests, for editors
    Schema,
    /// Send a folder to the server as a new version of an app, and follow its build
    Deploy(DeployArgs),
    /// List the apps
    Ls,
    /// Show an app
    Get {
        /// Its name
        name: String,
    },
    /// Delete apps with their versions; runs, receipts and volumes stay
    #[command(visible_alias = "delete")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Delete their volumes, too, with all files in them
        #[arg(long)]
        volumes: bool,
    },
    /// List the volumes of an app, with what their files take
    Volumes {
        /// Its name
        name: String,
    },
    /// Print the manifest of a version of an app as it was written
    Manifest {
        /// The app
        name: String,
        /// The version [default: the live one]
        #[arg(value_name = "VERSION", value_parser = super::number::<i64>)]
        number: Option<i64>,
    },
    /// List the versions of an app, or cancel a build
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Versions {
        /// Its name
        #[arg(required = true)]
        name: Option<String>,
        #[command(subcommand)]
        command: Option<AppVersionsCommand>,
    },
    /// Show which variables an app asks for and was given, or give it some
    Env {
        /// The app
        name: String,
        /// Variables with their values; with a name alone the value comes from this command's own environment
        #[arg(value_name = "NAME[=VALUE]")]
        set: Vec<String>,
        /// Forget a variable; can be repeated
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
    },
    /// Make another version that is ready the live one
    Rollback {
        /// The app
        name: String,
        /// The version [default: the newest that is ready before the live one]
        #[arg(value_name = "VERSION", value_parser = super::number::<i64>)]
        number: Option<i64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum AppVersionsCommand {
    /// End the build of a version; what is live stays as it is
    Cancel {
        /// The app
        name: String,
        /// The version [default: the one that is being built]
        #[arg(value_name = "VERSION", value_parser = super::number::<i64>)]
        number: Option<i64>,
    },
}

#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The folder of the app, with sandbar.yaml or openpond.yaml. What .gitignore and .sandbarignore name is left out, and .git
    #[arg(default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the app [default: that of the manifest, else of the folder]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What is new in this version
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Do not make it the live version
    #[arg(long)]
    pub no_activate: bool,
    /// Start the app anew when the version is ready
    #[arg(long, conflicts_with = "no_activate")]
    pub restart: bool,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder of the app; it is made when it is not there
    #[arg(default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// What the app is [default: what the files of the folder look like]
    #[arg(long, value_enum, value_name = "KIND")]
    pub template: Option<InitTemplate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitTemplate {
    /// A web application that npm starts
    Node,
    /// A web application in Python
    Python,
    /// Files that are served as they are
    Static,
    /// No process of its own: commands that run and end, one of them every night
    Jobs,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The manifest, or the folder where sandbar.yaml or openpond.yaml is; - for standard input
    #[arg(default_value = ".", value_name = "FILE|DIR")]
    pub path: PathBuf,
    /// Print JSON, as with --output json
    #[arg(long)]
    pub json: bool,
}
