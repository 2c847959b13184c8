//! `sandbar app ...`

use clap::Subcommand;

use super::AppLifecycleCommand;

#[derive(Debug, Subcommand)]
pub enum AppCommand {
    #[command(flatten)]
    Lifecycle(AppLifecycleCommand),
}
