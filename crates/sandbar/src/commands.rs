//! What the client side of the command line does: one file per noun.

pub mod app;
mod app_lifecycle;
mod app_receipts;
pub mod app_runs;
mod app_schedules;
pub mod collection;
pub mod copy;
pub mod credential;
mod dead_letters;
pub mod event;
pub mod exec;
pub mod executor;
pub mod function;
pub mod given;
pub mod image;
pub mod item;
pub mod key;
pub mod login;
mod network;
mod outbox;
mod preview;
pub mod receipt;
pub mod sandbox;
pub mod sandbox_function;
pub mod script;
mod service;
pub mod snapshot;
pub mod ssh;
pub mod ssh_key;
pub mod storage;
pub mod template;
pub mod volume;
pub mod webhook;

use serde_json::json;

use crate::{cli::Output, client::Client, output};

/// Deletes each for itself: one that is not there keeps no other. The exit code says whether all went.
async fn delete_each(client: &Client, form: Output, names: Vec<String>, path: impl Fn(&str) -> String) -> anyhow::Result<u8> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        match client.delete(&path(&name)).await {
            Ok(_) => {
                if form == Output::Table {
                    output::line(&output::printable(&name));
                }
                done.push(name);
            }
            Err(error) => {
                eprintln!("sandbar: {}", output::shown(&format!("{name}: {error:#}")));
                failed.push(json!({"id": name, "error": format!("{error:#}")}));
            }
        }
    }
    if form == Output::Json {
        output::json(&json!({"deleted": done, "failed": failed}));
    }
    Ok(u8::from(!failed.is_empty()))
}
