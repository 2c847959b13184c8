//! `sandbar app schedules ...`

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// List the schedules of an app
    #[command(visible_alias = "list")]
    Ls {
        /// The app
        app: String,
    },
    /// Show a schedule
    Get {
        /// The app
        app: String,
        /// Its name, or its id
        schedule: String,
    },
    /// Make a schedule, written as in a manifest
    Add {
        /// The app
        app: String,
        /// JSON, or @FILE; @- for standard input
        spec: String,
    },
    /// Change what is named of a schedule
    Set {
        /// The app
        app: String,
        /// Its name, or its id
        schedule: String,
        /// The keys to change as JSON, or @FILE; null takes a key away
        changes: String,
    },
    /// Delete schedules; what they ran is kept
    #[command(visible_alias = "delete")]
    Rm {
        /// The app
        app: String,
        /// Their names
        #[arg(required = true, value_name = "SCHEDULE")]
        schedules: Vec<String>,
    },
    /// Run now what a schedule runs
    Run {
        /// The app
        app: String,
        /// Its name, or its id
        schedule: String,
        /// The same key makes one run
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Let a schedule come no more
    Stop {
        /// The app
        app: String,
        /// Its name, or its id
        schedule: String,
    },
    /// Let a schedule come again that was stopped
    Resume {
        /// The app
        app: String,
        /// Its name, or its id
        schedule: String,
    },
    /// Show what became of each time that a schedule came, the newest first
    Ticks {
        /// The app
        app: String,
        /// Its name, or its id
        schedule: String,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = super::number::<u32>)]
        limit: u32,
    },
}
