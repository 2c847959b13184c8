//! `sandbar app start` and whatever else is done with an app that runs.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum AppLifecycleCommand {
    /// Bring an app online, and wait until it is ready
    Start {
        /// The app
        app: String,
        /// A service that starts, too; several by repeating it
        #[arg(long = "service", value_name = "NAME", conflicts_with = "all_services")]
        services: Vec<String>,
        /// All services start, too
        #[arg(long)]
        all_services: bool,
        /// Keep a sandbox that has another version than the live one
        #[arg(long)]
        keep: bool,
        /// Do not wait until it is ready
        #[arg(long)]
        no_wait: bool,
    },
    /// Take an app offline: its runs are cancelled, its sandbox is paused
    Stop {
        /// The app
        app: String,
        /// Delete the sandbox with its files
        #[arg(long)]
        delete_sandbox: bool,
    },
    /// Say how an app is, with its services and previews
    Status {
        /// The app
        app: String,
    },
    /// Print what the start command printed, or a service
    Logs {
        /// The app
        app: String,
        /// A service instead of the start command
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the URL of a private preview of an app, and open it in a browser where there is one
    Open {
        /// The app
        app: String,
        /// The port [default: the first that the app declares]
        #[arg(long, value_parser = super::number::<u16>)]
        port: Option<u16>,
        /// What the link leads to [default: the path that the app declares with the port]
        #[arg(long)]
        path: Option<String>,
        /// An endpoint of the Model Context Protocol by its name, or the first
        #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["port", "path"])]
        mcp: Option<String>,
        /// Seconds for which the preview is good, 30 to 3600 [default: 900]
        #[arg(long, value_name = "SECONDS", value_parser = super::number::<i64>)]
        ttl: Option<i64>,
        /// Only print the URL
        #[arg(long)]
        print: bool,
    },
    /// Start, stop and restart services of an app that is online
    #[command(subcommand)]
    Service(AppServiceCommand),
}

#[derive(Debug, Subcommand)]
pub enum AppServiceCommand {
    /// Start a service, with what it depends on, and wait until it is ready
    Start {
        /// The app
        app: String,
        /// The service
        service: String,
        /// Do not wait until it is ready
        #[arg(long)]
        no_wait: bool,
    },
    /// End a service; it stays so until it is started
    Stop {
        /// The app
        app: String,
        /// The service
        service: String,
    },
    /// End a service and start it, and wait until it is ready
    Restart {
        /// The app
        app: String,
        /// The service
        service: String,
        /// Do not wait until it is ready
        #[arg(long)]
        no_wait: bool,
    },
}
