//! `sandbar sandbox function ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::pair;

#[derive(Debug, Subcommand)]
pub enum SandboxFunctionCommand {
    /// Make or replace a function from a file with Python
    Put {
        /// The sandbox
        sandbox: String,
        /// Name of the function
        name: String,
        /// The source; - for standard input
        file: PathBuf,
    },
    /// List the functions of a sandbox
    #[command(visible_alias = "list")]
    Ls {
        /// The sandbox
        sandbox: String,
    },
    /// Print the source of a function
    Get {
        /// The sandbox
        sandbox: String,
        /// Name of the function
        name: String,
    },
    /// Call a function and print the body of its answer; exit code 1 when its status is 400 or more
    Invoke(Box<FunctionInvokeArgs>),
    /// List the calls that nobody waited for, or show what came of one
    Invocations {
        /// The sandbox
        sandbox: String,
        /// Name of the function
        name: String,
        /// One of them
        invocation: Option<String>,
    },
    /// Remove functions
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// The sandbox
        sandbox: String,
        /// Names of functions
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct FunctionInvokeArgs {
    /// The sandbox
    pub sandbox: String,
    /// Name of the function
    pub name: String,
    /// Method that the handler is told
    #[arg(long, default_value = "POST")]
    pub method: String,
    /// Path that the handler is told
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Dotted name of the handler within the module
    #[arg(long, default_value = "handler")]
    pub handler: String,
    /// Header that the handler is told; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    pub headers: Vec<(String, String)>,
    /// Part of the query that the handler is told; may be repeated
    #[arg(long = "query", value_name = "NAME=VALUE", value_parser = pair)]
    pub query: Vec<(String, String)>,
    /// Take the body from standard input
    #[arg(long, conflicts_with_all = ["body", "body_base64"])]
    pub stdin: bool,
    /// The body
    #[arg(long, conflicts_with = "body_base64")]
    pub body: Option<String>,
    /// The body in base64
    #[arg(long)]
    pub body_base64: Option<String>,
    /// Milliseconds that the call may take, at most 120000
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u32>,
    /// Import the module anew for this call
    #[arg(long)]
    pub cold: bool,
    /// Do not wait: print the id under which the result will be kept
    #[arg(long = "async")]
    pub later: bool,
}
