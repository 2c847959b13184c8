//! `sandbar app ...`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// Write a manifest to begin with
    Init(InitArgs),
    /// Say everything that is wrong with a manifest; needs no server
    Validate(ValidateArgs),
    /// Print the JSON Schema of manifests, for editors
    Schema,
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
