//! `sandbar script outbox` as clap reads it.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum OutboxCommand {
    /// List mails, newest first
    Ls {
        /// At most this many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Print one mail as it would have been sent
    Get {
        /// Id of the mail
        id: String,
    },
}
