//! `sandbar item ...`

use clap::Subcommand;

/// Shown with `ls`.
const EXAMPLES: &str = "\
Operators are _eq _neq _in _nin _gt _gte _lt _lte _null _contains _starts_with _ends_with; $and, $or and
$not join filters; $user.id, $now and such as $now-1d are values.

Examples:
  sandbar item ls posts --filter '{\"status\": \"live\"}' --sort -createdAt
  sandbar item ls posts --filter '{\"views\": {\"_gte\": 10}, \"createdAt\": {\"_gt\": \"$now-1d\"}}'";

#[derive(Debug, Subcommand)]
pub enum ItemCommand {
    /// List items, the newest first
    #[command(visible_alias = "list", after_help = EXAMPLES)]
    Ls {
        /// The collection
        collection: String,
        /// Which ones: JSON, @FILE, or - for standard input
        #[arg(long, value_name = "JSON")]
        filter: Option<String>,
        /// Fields with commas, a '-' before those that descend
        #[arg(long, value_name = "FIELDS", allow_hyphen_values = true)]
        sort: Option<String>,
        /// 1 to 200
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// How many are skipped
        #[arg(long, default_value_t = 0)]
        offset: u32,
        /// Say how many there are in all, too
        #[arg(long)]
        total: bool,
    },
    /// Show one item
    Get {
        /// The collection
        collection: String,
        /// Id of the item
        id: String,
    },
    /// Make an item, or several from a list
    Create {
        /// The collection
        collection: String,
        /// The fields: JSON, @FILE, or - for standard input
        #[arg(short, long, value_name = "JSON")]
        data: String,
    },
    /// Give fields of an item other values; null takes one away
    Update {
        /// The collection
        collection: String,
        /// Id of the item
        id: String,
        /// The fields: JSON, @FILE, or - for standard input
        #[arg(short, long, value_name = "JSON")]
        data: String,
    },
    /// Delete items
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// The collection
        collection: String,
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}
