//! `sandbar`: the server and its command line in one binary.
#![forbid(unsafe_code)]

// The standard ones panic when their reader has gone. These stand before all modules, and so in their place.
macro_rules! println {
    ($($text:tt)*) => { $crate::output::line(&format!($($text)*)) };
}
macro_rules! eprint {
    ($($text:tt)*) => { $crate::output::tell(format!($($text)*).as_bytes()) };
}
macro_rules! eprintln {
    () => { $crate::output::tell(b"\n") };
    ($($text:tt)*) => { $crate::output::tell((format!($($text)*) + "\n").as_bytes()) };
}

mod bench;
mod cli;
mod client;
mod commands;
mod credentials;
mod demo;
mod doctor;
mod local_server;
mod logging;
mod output;
mod purge;
mod serve;
mod settings;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use sandbar_scripts::worker;
use serde_json::json;

use cli::{Cli, Command, Output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // It has to be the only thread.
    if let Command::ScriptEngine { cache_dir, strip } = &cli.command {
        return if *strip { worker::strip::main() } else { worker::main(cache_dir.as_deref()) };
    }
    let json_wanted = cli.global.output == Output::Json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), json_wanted),
    };
    let result = runtime.block_on(run(cli));
    // A thread may still be reading the terminal; it must not keep the process.
    runtime.shutdown_background();
    match result.and_then(|code| output::check().map(|()| code)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, json_wanted),
    }
}

async fn run(cli: Cli) -> anyhow::Result<u8> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => {
            let settings = settings::load(args.layer, args.config.as_deref(), settings::Layer::default())?;
            logging::start(&settings)?;
            serve::run(serve::start(&settings).await?).await?;
            Ok(0)
        }
        Command::Executor(args) => commands::executor::run(args).await,
        Command::Doctor(args) => tokio::task::block_in_place(|| doctor::run(&args, global.output)),
        Command::Login => commands::login::run(&global).await,
        Command::Sandbox(command) => commands::sandbox::run(&global, command).await,
        Command::App(command) => commands::app::run(&global, command).await,
        Command::Script(command) => commands::script::run(&global, command).await,
        Command::Receipt(command) => commands::receipt::run(&global, command).await,
        Command::Collection(command) => commands::collection::run(&global, command).await,
        Command::Item(command) => commands::item::run(&global, command).await,
        Command::Key(command) => commands::key::run(&global, command).await,
        Command::Credential(command) => commands::credential::run(&global, command).await,
        Command::SshKey(command) => commands::ssh_key::run(&global, command).await,
        Command::Snapshot(command) => commands::snapshot::run(&global, command).await,
        Command::Function(command) => commands::function::run(&global, command).await,
        Command::Volume(command) => commands::volume::run(&global, command).await,
        Command::Event(command) => commands::event::run(&global, command).await,
        Command::Webhook(command) => commands::webhook::run(&global, command).await,
        Command::Template(command) => commands::template::run(&global, command).await,
        Command::Image(command) => commands::image::run(&global, command).await,
        Command::Du { all } => commands::storage::du(&global, all).await,
        Command::Gc { images } => commands::storage::gc(&global, images).await,
        Command::Bench(args) => bench::run(&global, &args).await,
        Command::Purge(args) => purge::run(&args, global.output),
        Command::BenchUpstream { listen } => bench::upstream(listen).await.map(|()| 0),
        Command::BenchClient(args) => tokio::task::block_in_place(|| bench::client(&args)).map(|()| 0),
        Command::Demo(args) => demo::run(global.output, args).await,
        Command::ScriptEngine { .. } => unreachable!("taken by main"),
        Command::Completions { shell } => {
            // Into memory first: a reader that has gone is no panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sandbar", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(0)
        }
        Command::Version => {
            match global.output {
                Output::Table => output::line(concat!("sandbar ", env!("CARGO_PKG_VERSION"))),
                Output::Json => output::json(&json!({"name": "sandbar", "version": env!("CARGO_PKG_VERSION")})),
            }
            Ok(0)
        }
    }
}

/// Exit codes: refused or failed; wrong usage, which is clap's, too; a script cannot run here at all.
const FAILED: u8 = 1;
const WRONG_USE: u8 = 2;
const NO_ENGINE: u8 = 3;

/// One line for people on standard error; for programs the same as JSON there.
fn fail(error: &anyhow::Error, json_wanted: bool) -> ExitCode {
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if json_wanted {
        let refusal = error.downcast_ref::<client::Refusal>();
        eprintln!(
            "{}",
            json!({"error": {"message": refusal.map_or(text, |r| r.message.clone()), "code": refusal.map(|r| &r.code), "status": refusal.map(|r| r.status), "request_id": refusal.and_then(|r| r.request_id.as_ref()), "details": refusal.and_then(|r| r.details.as_ref())}})
        );
    } else {
        // Names out of a sandbox stand in errors, too: line by line, they must not steer the terminal.
        let lines: Vec<String> = text.trim_end().lines().map(output::printable).collect();
        eprintln!("sandbar: {}", lines.join("\n  "));
    }
    ExitCode::from(match error {
        error if error.downcast_ref::<commands::given::WrongUse>().is_some() => WRONG_USE,
        error if error.downcast_ref::<commands::script::NoEngine>().is_some() => NO_ENGINE,
        error if error.downcast_ref::<commands::app_runs::GoesOn>().is_some() => commands::app_runs::NO_CODE,
        _ => FAILED,
    })
}
