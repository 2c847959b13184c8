//! `sandbar script` as clap reads it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sandbar_core::limits;

use super::{dead_letters::DeadLettersCommand, outbox::OutboxCommand};

const TIMEOUTS: std::ops::RangeInclusive<i64> = limits::SCRIPT_TIMEOUT_MIN_MS as i64..=limits::SCRIPT_TIMEOUT_MAX_MS as i64;
const MEMORIES: std::ops::RangeInclusive<i64> = limits::SCRIPT_MEMORY_MIN_MB as i64..=limits::SCRIPT_MEMORY_MAX_MB as i64;

/// Shown with `put`.
const PUT_EXAMPLES: &str = "\
The file holds the body of an async function of ctx; what it returns is its result. A name ending
in .ts is TypeScript. What is not said of a script that is there stays as it is.

Examples:
  sandbar script put hello.js --access public --timeout 1000
  sandbar script put enrich.ts --trigger event --pattern 'items:posts:created' --max-attempts 5
  sandbar script put digest.js --trigger cron --pattern '0 9 * * *' --timezone Europe/Berlin
  sandbar script put digest.js --config digest.yaml      # fields as in the API, such as timeoutMs
  sandbar -o json script get digest > digest.json && sandbar script put --config digest.json";

/// Shown with `run`.
const RUN_EXAMPLES: &str = "\
Nothing of a server is needed: ctx.db, ctx.email and ctx.secrets are refused, and ctx.fetch goes
only where --fetch-allow says.

Exit codes: 0 it returned, 1 it failed (it threw, ran out of time or memory, or cannot be compiled),
2 wrong usage (a flag, a file, data that is no JSON), 3 the engine did not start, 130 after Ctrl-C.

Examples:
  sandbar script run hello.js --data '{\"name\":\"Ada\"}'
  sandbar script run enrich.ts --data @event.json --fetch-allow api.example.com";

#[derive(Debug, Subcommand)]
pub enum ScriptCommand {
    /// Make a script of a file, or change the one of its name
    #[command(visible_alias = "create", after_help = PUT_EXAMPLES)]
    Put(Box<PutArgs>),
    /// List scripts
    #[command(visible_alias = "list")]
    Ls,
    /// Show one script
    #[command(disable_version_flag = true)]
    Get {
        /// Id or name
        script: String,
        /// Print its code alone
        #[arg(long)]
        code: bool,
        /// Of this version
        #[arg(long, value_name = "N", requires = "code")]
        version: Option<u32>,
    },
    /// Delete scripts
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// Ids or names
        #[arg(required = true)]
        scripts: Vec<String>,
    },
    /// Run a file here, with the engine that servers use
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunFileArgs),
    /// Call a script with the trigger http
    #[command(disable_version_flag = true)]
    Invoke(ScriptInvokeArgs),
    /// Print what runs of a script logged, oldest first
    Logs {
        /// Id or name
        script: String,
        /// Go on with new runs
        #[arg(short, long)]
        follow: bool,
        /// At most this many runs, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// List runs, newest first
    Runs {
        /// Only those of this script
        script: Option<String>,
        /// queued, running, succeeded or failed
        #[arg(long)]
        status: Option<String>,
        /// http, async, event, cron or replay
        #[arg(long)]
        trigger: Option<String>,
        /// At most this many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a run with all that it was given, logged and asked for
    Show {
        /// The run's id
        run: String,
    },
    /// Run a run again with what it was told then, and say in what it differs
    #[command(disable_version_flag = true)]
    Replay {
        /// The run's id
        run: String,
        /// Under this version
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
    /// List versions of a script, newest first
    Versions {
        /// Id or name
        script: String,
    },
    /// Make a former version live
    #[command(disable_version_flag = true)]
    Rollback {
        /// Id or name
        script: String,
        /// This one; else the one before the one that is live
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
    /// Name versions
    #[command(subcommand)]
    Alias(ScriptAliasCommand),
    /// Keep secrets that a script is given
    #[command(subcommand)]
    Secret(ScriptSecretCommand),
    /// Make keys with which a script of access `key` can be called
    #[command(subcommand)]
    Key(ScriptKeyCommand),
    /// Mail that was kept because no mail server is set
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// List runs that are or were owed to scripts by events, schedules and calls that nobody waits for, newest first
    Jobs {
        /// Only those of this script
        script: Option<String>,
        /// pending, running, succeeded, dead or dropped
        #[arg(long)]
        state: Option<String>,
        /// At most this many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Runs that were given up
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// List what became of the ticks of a schedule, newest first
    Ticks {
        /// Id or name
        script: String,
        /// At most this many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

#[derive(Debug, Args)]
pub struct PutArgs {
    /// The code, or `-` for standard input
    #[arg(required_unless_present = "config")]
    pub file: Option<PathBuf>,
    /// A YAML or JSON file with fields as the API has them, also `code`, or `-`; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its name; else that of the record or of the file without its end
    #[arg(long)]
    pub name: Option<String>,
    /// http, event or cron
    #[arg(long)]
    pub trigger: Option<String>,
    /// Which events, or when
    #[arg(long)]
    pub pattern: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// javascript or typescript
    #[arg(long)]
    pub language: Option<String>,
    /// Who may call it: admin, authenticated, public or key
    #[arg(long)]
    pub access: Option<String>,
    /// In whose name it reads: caller, system or serviceAccount:NAME
    #[arg(long, value_name = "WHO")]
    pub run_as: Option<String>,
    /// Let it run, when it was kept from that
    #[arg(long)]
    pub active: bool,
    /// Keep it from running
    #[arg(long, conflicts_with = "active")]
    pub inactive: bool,
    /// Its author is trusted: it may run where code is not walled in
    #[arg(long)]
    pub trusted: bool,
    /// Who wrote the code: operator, which is --trusted, or tenant
    #[arg(long, value_name = "WHO", conflicts_with = "trusted")]
    pub author_kind: Option<String>,
    /// What it may ask for: fetch, db:read, db:read:SLUG, email or secrets; may be given several times
    #[arg(long = "capability", value_name = "WHAT", help_heading = "What it may")]
    pub capabilities: Vec<String>,
    /// It may ask for nothing
    #[arg(long, conflicts_with = "capabilities", help_heading = "What it may")]
    pub no_capabilities: bool,
    /// Hosts that ctx.fetch may ask, of those that the server allows, with commas between them; may be given several times
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', help_heading = "What it may")]
    pub fetch_allow: Vec<String>,
    /// ctx.fetch may ask no host
    #[arg(long, conflicts_with = "fetch_allow", help_heading = "What it may")]
    pub no_fetch: bool,
    /// Milliseconds that a call may take, 50 to 60000
    #[arg(long, value_name = "MS", help_heading = "How much")]
    pub timeout: Option<u32>,
    /// Milliseconds of the processor that it may have of these, 1 to 60000
    #[arg(long, value_name = "MS", help_heading = "How much")]
    pub cpu: Option<u32>,
    /// MiB that a call may have, 16 to 512
    #[arg(long, value_name = "MB", help_heading = "How much")]
    pub memory: Option<u32>,
    /// Calls at once, 1 to 100
    #[arg(long, value_name = "N", help_heading = "How much")]
    pub concurrency: Option<u32>,
    /// The clock stands still, and what is random follows from code and input
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "How much")]
    pub deterministic: Option<bool>,
    /// Tries of a run that nobody waits for, 1 to 20
    #[arg(long, value_name = "N", help_heading = "Runs that nobody waits for")]
    pub max_attempts: Option<u32>,
    /// Seconds after which it is not tried again, up to 604800
    #[arg(long, value_name = "SECONDS", help_heading = "Runs that nobody waits for")]
    pub max_age: Option<u32>,
    /// An IANA name
    #[arg(long, value_name = "ZONE", help_heading = "Schedules")]
    pub timezone: Option<String>,
    /// Of ticks that were missed: run_once, skip or run_all
    #[arg(long, value_name = "POLICY", help_heading = "Schedules")]
    pub missed_run_policy: Option<String>,
    /// How many run_all makes up for, 1 to 100
    #[arg(long, value_name = "N", help_heading = "Schedules")]
    pub missed_runs_max: Option<u32>,
    /// A tick that is later than this is skipped, 1 to 604800
    #[arg(long, value_name = "SECONDS", help_heading = "Schedules")]
    pub starting_deadline: Option<u32>,
    /// While the run before goes on: skip, allow, queue or replace
    #[arg(long, visible_alias = "overlap", value_name = "POLICY", help_heading = "Schedules")]
    pub concurrency_policy: Option<String>,
    /// Each tick is late by up to this, 0 to 3600
    #[arg(long, value_name = "SECONDS", help_heading = "Schedules")]
    pub jitter: Option<u32>,
}

#[derive(Debug, Args)]
pub struct RunFileArgs {
    /// The code, or `-` for standard input
    pub file: PathBuf,
    /// What ctx.data is: JSON, `@file`, or `-` for standard input
    #[arg(long, default_value = "{}")]
    pub data: String,
    /// Hosts that ctx.fetch may ask, with commas between them, also on this machine and in its network
    #[arg(long, env = "FUNCTIONS_FETCH_ALLOW", default_value = "", value_name = "HOSTS")]
    pub fetch_allow: String,
    /// Milliseconds that it may take, 50 to 60000
    #[arg(long, default_value_t = limits::SCRIPT_TIMEOUT_DEFAULT_MS, value_name = "MS", value_parser = clap::value_parser!(u32).range(TIMEOUTS))]
    pub timeout: u32,
    /// MiB that it may have, 16 to 512
    #[arg(long, default_value_t = limits::SCRIPT_MEMORY_DEFAULT_MB, value_name = "MB", value_parser = clap::value_parser!(u32).range(MEMORIES))]
    pub memory: u32,
    /// By the file's name unless said
    #[arg(long, value_parser = ["javascript", "typescript"])]
    pub language: Option<String>,
}

#[derive(Debug, Args)]
pub struct ScriptInvokeArgs {
    /// Name or id
    pub script: String,
    /// What ctx.data is: JSON, `@file`, or `-` for standard input
    #[arg(long, default_value = "{}")]
    pub data: String,
    /// Do not wait for what comes of it
    #[arg(long = "async")]
    pub is_async: bool,
    /// The version that this alias names
    #[arg(long)]
    pub alias: Option<String>,
    /// This version
    #[arg(long, value_name = "N", conflicts_with = "alias")]
    pub version: Option<u32>,
    /// The same key again is the same call
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ScriptAliasCommand {
    /// Let an alias point to a version, or to two by weight
    Set {
        /// Id or name
        script: String,
        /// The alias; `live` is what is called
        alias: String,
        /// A version, or VERSION=WEIGHT twice
        #[arg(required = true, num_args = 1..=2)]
        versions: Vec<String>,
    },
    /// Delete an alias
    Rm {
        /// Id or name
        script: String,
        /// The alias
        alias: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ScriptSecretCommand {
    /// List a script's secrets by name
    Ls {
        /// Id or name
        script: String,
    },
    /// Keep a secret, in place of the former one of the name
    Set {
        /// Id or name
        script: String,
        /// What ctx.secrets.get calls it
        name: String,
        /// env:VARIABLE, a file, or `-` for standard input; never the secret itself
        #[arg(default_value = "-", value_name = "FROM")]
        from: String,
    },
    /// Delete a secret
    Rm {
        /// Id or name
        script: String,
        /// The secret
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ScriptKeyCommand {
    /// List a script's keys
    Ls {
        /// Id or name
        script: String,
    },
    /// Make a key; it is shown once
    Create {
        /// Id or name
        script: String,
        /// What it is for
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Delete a key
    Rm {
        /// Id or name
        script: String,
        /// The key's id
        key: String,
    },
}
