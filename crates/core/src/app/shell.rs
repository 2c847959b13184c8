//! How the commands of an app are run, whichever they are: by `sh`, in a folder of the workspace, with variables of which those that
//! were said nearer to the command win.

use std::collections::BTreeMap;

use super::manifest::{Block, Manifest, WORKSPACE};

/// Names and values.
pub type Env = BTreeMap<String, String>;

/// The name of the app.
pub const APP_VAR: &str = "SANDBAR_APP";
/// The number of its version.
pub const VERSION_VAR: &str = "SANDBAR_APP_VERSION";
/// Which process of the app it is. A server that starts anew finds it by that.
pub const ENTRY_VAR: &str = "SANDBAR_APP_ENTRY";
/// Which run a command is of. It is found by that.
pub const RUN_VAR: &str = "SANDBAR_RUN_ID";
/// The path of the file with a run's input, and the input itself.
pub const INPUT_VAR: &str = "SANDBAR_INPUT";
pub const INPUT_BASE64_VAR: &str = "SANDBAR_INPUT_BASE64";
/// The same as others have it: `{"input": ...}`.
pub const REPLAY_VAR: &str = "OPENPOND_REPLAY_PARAMS_BASE64";
/// The sandbox that it runs in. The agent sets it.
pub const SANDBOX_VAR: &str = "SANDBAR_SANDBOX_ID";

/// What a command finds set by us, whatever else is said.
pub const RESERVED: [&str; 8] = [APP_VAR, VERSION_VAR, ENTRY_VAR, RUN_VAR, INPUT_VAR, INPUT_BASE64_VAR, REPLAY_VAR, SANDBOX_VAR];

/// Whether nobody but the server may say what a variable is.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The arguments of what runs a command.
pub fn argv(command: &str) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()]
}

/// The same for a command that nobody can send anything to: it finds the end of its input, where it would wait for some.
pub fn argv_alone(command: &str) -> Vec<String> {
    ["sh", "-c", "exec sh -c \"$1\" </dev/null", "sh", command].map(str::to_owned).to_vec()
}

/// The folder that a command runs in.
pub fn folder(below: Option<&str>) -> String {
    below.map_or_else(|| WORKSPACE.to_owned(), |below| format!("{WORKSPACE}/{below}"))
}

/// The variables that are said for a command, and can be written down: the run's go before those of its action or service, these before
/// those of the launch, and these before those of the whole manifest.
pub fn said(manifest: &Manifest, block: Option<&Block>, run: &Env) -> Env {
    let layers = [Some(&manifest.env), Some(&manifest.launch.env), block.map(|block| &block.env), Some(run)];
    layers.into_iter().flatten().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// All variables of a command besides those that its sandbox gives to all. What the app was given for what it asks for has less weight
/// than what is said, and what only the server may say is `own`.
pub fn whole<'a>(given: &Env, said: &Env, own: impl IntoIterator<Item = (&'a str, String)>) -> Env {
    let others = given.iter().chain(said).filter(|(name, _)| !is_reserved(name)).map(|(name, value)| (name.clone(), value.clone()));
    others.chain(own.into_iter().map(|(name, value)| (name.to_owned(), value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::manifest::parse;

    fn env(layer: &str, names: &str) -> Env {
        names.split_whitespace().map(|name| (name.to_owned(), layer.to_owned())).collect()
    }

    #[test]
    fn what_is_nearer_to_a_command_goes_before() {
        // Each layer sets its own variable and those of all that are stronger.
        let text = "schemaVersion: 1\nenv: {TEMPLATE: template, LAUNCH: template, BLOCK: template, RUN: template}
launch: {env: {LAUNCH: launch, BLOCK: launch, RUN: launch}}
actions: [{name: a, command: b, env: {BLOCK: block, RUN: block}}]\n";
        let manifest = parse(text).unwrap().manifest;
        let block = &manifest.actions[0].block;
        let given = env("given", "GIVEN TEMPLATE LAUNCH BLOCK RUN");
        let run = env("run", "RUN");
        let table = [
            (Some(block), &run, [("GIVEN", "given"), ("TEMPLATE", "template"), ("LAUNCH", "launch"), ("BLOCK", "block"), ("RUN", "run")]),
            (Some(block), &Env::new(), [("GIVEN", "given"), ("TEMPLATE", "template"), ("LAUNCH", "launch"), ("BLOCK", "block"), ("RUN", "block")]),
            (None, &Env::new(), [("GIVEN", "given"), ("TEMPLATE", "template"), ("LAUNCH", "launch"), ("BLOCK", "launch"), ("RUN", "launch")]),
        ];
        for (block, run, expected) in table {
            let all = whole(&given, &said(&manifest, block, run), []);
            let expected: Env = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn what_is_ours_is_set_by_nobody_else() {
        let forged = env("forged", "SANDBAR_APP SANDBAR_RUN_ID SANDBAR_APP_ENTRY SANDBAR_URL A");
        let all = whole(&forged, &forged, [(APP_VAR, "demo".to_owned())]);
        let expected = [("A", "forged"), ("SANDBAR_APP", "demo"), ("SANDBAR_URL", "forged")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(all, Env::from(expected), "what a client of the server needs is not ours");
        assert!(RESERVED.iter().all(|name| is_reserved(name)) && !is_reserved("SANDBAR_TOKEN"));
    }

    #[test]
    fn commands_run_below_the_workspace() {
        assert_eq!((folder(None), folder(Some("web"))), ("/workspace".to_owned(), "/workspace/web".to_owned()));
        assert_eq!(argv("a | b"), ["sh", "-c", "a | b"]);
    }
}
