//! A script that runs here, without a server, by the engine that servers use.

use std::{pin::Pin, time::Duration};

use anyhow::{Context, bail};
use sandbar_core::script::fetch_allow::FetchAllow;
use sandbar_node::outbound::Outbound;
use sandbar_scripts::{Call, CheckError, Host, Limits, Op, OpError, OpResult, StripError, User, Workers, WorkersConfig};
use sandbar_server::app::scripts::fetch_alone;
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use super::{language_of, print_result};
use crate::{
    cli::{Output, RunFileArgs},
    commands::given::{self, WrongUse},
};

const INTERRUPTED: u8 = 130;

/// There is one team here.
const TEAM: &str = "local";

/// Answers what a script asks for.
struct Local {
    outbound: Outbound,
    allow: FetchAllow,
}

/// The exit code is 1 when it failed, and says otherwise why it did not run.
pub async fn run(form: Output, args: RunFileArgs) -> anyhow::Result<u8> {
    if args.file.as_os_str() == "-" && args.data == "-" {
        return Err(WrongUse::error("code and --data cannot both come from standard input"));
    }
    let allow: FetchAllow = args.fetch_allow.parse().with_context(|| WrongUse("--fetch-allow".to_owned()))?;
    let name = args.file.file_name().and_then(|name| name.to_str()).unwrap_or("script").to_owned();
    let source = given::text_of(&args.file, super::FILE_MAX_BYTES)?;
    let data = RawValue::from_string(given::json_text("--data", &args.data, super::FILE_MAX_BYTES)?)?;
    let workers = Workers::new(WorkersConfig { spare: false, workers_max: 1, ..WorkersConfig::new(cache_dir()) });
    let code = match args.language.as_deref().unwrap_or(language_of(&args.file)) {
        "typescript" => match workers.strip(TEAM, &source).await {
            Ok(code) => code,
            Err(error @ (StripError::Syntax(_) | StripError::TooSlow)) => bail!("{name}: {error}"),
            Err(StripError::Engine(cause)) => return Err(NoEngine(cause).into()),
        },
        _ => source,
    };
    match workers.check(TEAM, &code, &name).await {
        Ok(()) => {}
        Err(error @ CheckError::Syntax(_)) => bail!("{name}: {error}"),
        Err(error @ (CheckError::Engine(_) | CheckError::Busy(_))) => return Err(NoEngine(error.to_string()).into()),
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let call = Call {
        code,
        name,
        data,
        user: User::default(),
        limits: Limits::of(Duration::from_millis(args.timeout.into()), None, u64::from(args.memory) << 20),
        seed,
        clock: None,
    };
    let cancel = CancellationToken::new();
    let began = std::time::Instant::now();
    let host = Local { outbound: Outbound::of_owner()?, allow };
    let ran = tokio::select! {
        ran = workers.run(TEAM, call, &host, &cancel) => ran,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("sandbar: interrupted");
            return Ok(INTERRUPTED);
        }
    };
    let took = began.elapsed();
    workers.shutdown().await;
    let (value, failure) = match ran.outcome.result {
        Ok(value) => (value, None),
        Err(failure) => (None, Some(failure)),
    };
    let mut result = json!({
        "ok": failure.is_none(),
        "logs": ran.outcome.logs.iter().map(|line| &line.text).collect::<Vec<_>>(),
        "durationMs": took.as_micros() as f64 / 1e3,
        "cpuMs": ran.outcome.usage.cpu_us as f64 / 1e3,
        "peakMemoryBytes": ran.outcome.usage.peak_memory_bytes,
        "provider": "quickjs",
    });
    if let Some(value) = value {
        result["value"] = serde_json::from_str(value.get())?;
    }
    if let Some(failure) = failure {
        result["error"] = failure.message.into();
        result["errorName"] = failure.name.into();
        result["stack"] = failure.stack.into();
        result["code"] = failure.code.as_str().into();
    }
    Ok(print_result(form, &result))
}

/// The engine does not start, whatever the script is.
#[derive(Debug)]
pub struct NoEngine(String);

impl std::fmt::Display for NoEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the engine does not start: {}", self.0)
    }
}

impl std::error::Error for NoEngine {}

impl Host for Local {
    fn op<'a>(&'a self, op: Op, args: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        match op {
            Op::Fetch => Box::pin(fetch_alone(&self.outbound, &self.allow, args)),
            Op::DbList | Op::DbOne | Op::EmailSend | Op::SecretsGet | Op::Sleep => {
                Box::pin(async move { Err(OpError::denied(format!("{} needs a server; this script runs without one", op.as_str()))) })
            }
        }
    }
}

/// Where the compiled engine is kept from one run to the next: the user's own cache, or nowhere.
fn cache_dir() -> Option<std::path::PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from).filter(|dir| dir.is_absolute());
    let base = base.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let dir = base.join("sandbar").join("script-engine");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).ok()?;
    Some(dir)
}
