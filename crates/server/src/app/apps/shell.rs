//! How a command of an app is handed to the agent of its sandbox. What its variables are is said by [`sandbar_core::app::shell`].

use sandbar_core::app::shell::Env;
use sandbar_procd_api::{Cmd, ContextType, CreateContext};

/// A command that nobody waits for. After `ttl_s` seconds the agent ends it by itself; 0: never.
pub(super) fn context(argv: Vec<String>, folder: String, env: Env, ttl_s: u64) -> CreateContext {
    CreateContext {
        kind: ContextType::Cmd,
        repl: None,
        cmd: Some(Cmd { command: argv }),
        wait_until_done: false,
        cwd: Some(folder),
        env_vars: env,
        pty_size: None,
        idle_timeout_sec: 0,
        ttl_sec: ttl_s,
        untold: false,
        followed: false,
        kept: None,
    }
}
