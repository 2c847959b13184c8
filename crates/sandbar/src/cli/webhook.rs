//! `sandbar webhook` as clap reads it.

use clap::{Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// List what was posted and what is to be, newest first; also of a sandbox that is gone
    #[command(visible_alias = "ls")]
    Deliveries {
        /// Id of the sandbox
        sandbox: String,
        /// Only those
        #[arg(long, value_enum)]
        status: Option<DeliveryStatus>,
        /// At most this many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one event: what came of it, and what is posted
    Get {
        /// Id of the sandbox
        sandbox: String,
        /// Id of the event
        event: String,
    },
    /// Post events once more, after those that wait
    Redeliver {
        /// Id of the sandbox
        sandbox: String,
        /// Ids of the events
        #[arg(required = true)]
        events: Vec<String>,
    },
    /// Post a test event now and say what came of it; the exit code is 1 when it was not taken
    Test {
        /// Id of the sandbox
        sandbox: String,
    },
}

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeliveryStatus {
    Pending,
    Delivered,
    Failed,
}

impl DeliveryStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}
