//! `sandbar event` as clap reads it.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Publish an event: scripts whose pattern matches are run for it
    Publish {
        /// One segment or more with colons between them, such as `shop:orders`
        channel: String,
        /// One segment, such as `paid`
        event: String,
        /// What scripts are told: JSON, `@file`, or `-` for standard input
        #[arg(long, default_value = "null")]
        data: String,
        /// The same key again is the same event, and no script is run twice
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// List the events of the last days, newest first, and how many scripts were told
    Ls {
        /// At most this many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}
