//! `sandbar app ...`

use crate::{
    cli::{AppCommand, Global},
    client::Client,
};

pub async fn run(global: &Global, command: AppCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        AppCommand::Lifecycle(command) => super::app_lifecycle::run(global, &client, command).await,
    }
}
