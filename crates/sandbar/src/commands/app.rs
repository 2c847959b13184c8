//! `sandbar app`.

mod init;
mod validate;

use crate::{
    cli::{AppCommand, Global},
    client::Client,
    output,
};

pub async fn run(global: &Global, command: AppCommand) -> anyhow::Result<u8> {
    match command {
        AppCommand::Init(args) => init::run(global.output, &args),
        AppCommand::Validate(args) => validate::run(global.output, &args),
        AppCommand::Schema => {
            output::json(&sandbar_core::app::manifest::schema());
            Ok(0)
        }
        AppCommand::Lifecycle(command) => super::app_lifecycle::run(global, &Client::from_global(global)?, command).await,
        AppCommand::Runs(command) => super::app_runs::run(global, &Client::from_global(global)?, command).await,
    }
}
