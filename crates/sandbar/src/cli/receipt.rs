//! `sandbar receipt ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Say whether receipts are as they were signed; needs no server
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// One receipt, a JSON list of them, or one on each line; - for standard input
    pub file: PathBuf,
    /// The server's public key in hex, or a file with it; without it nobody knows whose the receipts are
    #[arg(long, value_name = "PUBKEY")]
    pub key: Option<String>,
    /// Demand a whole chain: none may be missing, from the first on or from where the server's checkpoint in the file says
    #[arg(long)]
    pub chain: bool,
    /// Print JSON, as with --output json
    #[arg(long)]
    pub json: bool,
}
