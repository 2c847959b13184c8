//! `sandbar script dead-letters` as clap reads it.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List runs that were given up, newest first; `script show` shows the last run of one
    #[command(visible_alias = "list")]
    Ls {
        /// Only those of this script
        #[arg(long, value_name = "NAME")]
        script: Option<String>,
        /// At most this many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Try them again with the version that is live now
    Redrive {
        /// Ids of dead letters
        #[arg(required_unless_present_any = ["script", "all"])]
        ids: Vec<String>,
        /// All of this script
        #[arg(long, value_name = "NAME", conflicts_with = "ids")]
        script: Option<String>,
        /// All of every script
        #[arg(long, conflicts_with_all = ["ids", "script"])]
        all: bool,
    },
    /// Forget them
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// Ids of dead letters
        #[arg(required_unless_present_any = ["script", "all"])]
        ids: Vec<String>,
        /// All of this script
        #[arg(long, value_name = "NAME", conflicts_with = "ids")]
        script: Option<String>,
        /// All of every script
        #[arg(long, conflicts_with_all = ["ids", "script"])]
        all: bool,
    },
}
