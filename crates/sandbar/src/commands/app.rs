//! `sandbar app`.

mod init;
mod validate;

use crate::{
    cli::{AppCommand, Global},
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
    }
}
