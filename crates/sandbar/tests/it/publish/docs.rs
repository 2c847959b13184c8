//! The commands of the page about functions, as they stand there.

use std::process::Command;

use super::*;
use crate::it::harness::TOKEN;

const PAGE: &str = include_str!("../../../../../docs/functions.md");
const EXPECTED: &str = "# => ";

#[test]
fn the_page_about_functions_says_what_happens() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let script = PAGE.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("commands");
    let expected: Vec<&str> = script.lines().filter_map(|line| line.split_once(EXPECTED)).map(|(_, text)| text.trim()).collect();
    assert!(expected.len() > 6, "{expected:?}");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_sandbar"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let folder = server.data_dir().parent().unwrap().join("page");
    std::fs::create_dir_all(&folder).unwrap();
    let done = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(&folder)
        .env("PATH", path)
        .env("SANDBAR_URL", format!("http://{}", server.api().addr()))
        .env("SANDBAR_TOKEN", TOKEN)
        .output()
        .expect("bash");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{err}\n{}", server.log_tail());
    assert!(done.status.success(), "{err}");
    assert!(err.contains("no such thing"), "the reason is told: {err}");
}
