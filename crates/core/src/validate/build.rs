//! Requests to build an image.

use sandbar_api::image::ImageBuildRequest;

use super::{Violation, env_vars, network_policy};
use crate::{image::ImageName, limits};

/// Checks what a build is asked to do, but for its resources.
pub fn check(request: &ImageBuildRequest) -> Vec<Violation> {
    let mut out = Vec::new();
    for (field, name) in [("name", &request.name), ("base", &request.base)] {
        if let Err(error) = name.parse::<ImageName>()
            && !(field == "base" && crate::image::is_digest(name))
        {
            out.push(Violation::new(field, error.to_string()));
        }
    }
    out.extend(env_vars(&request.env, "env").err().unwrap_or_default());
    for name in request.env.keys().filter(|name| name.trim().is_empty() || name.contains('=')) {
        out.push(Violation::new("env", format!("{name:?} is no name of a variable")));
    }
    if let Some(dir) = &request.working_dir
        && !is_absolute(dir)
    {
        out.push(Violation::new("working_dir", "must be an absolute path without \"..\""));
    }
    for (field, count, max) in [("run", request.run.len(), limits::BUILD_STEPS_MAX), ("files", request.files.len(), limits::BUILD_FILES_MAX)] {
        if count > max {
            out.push(Violation::new(field, format!("has {count} entries; {max} are the limit")));
        }
    }
    if request.run.is_empty() && request.files.is_empty() {
        out.push(Violation::new("run", "there is nothing to build: give commands or files"));
    }
    for (n, command) in request.run.iter().enumerate().take(limits::BUILD_STEPS_MAX) {
        if command.trim().is_empty() || command.contains('\0') || command.len() > limits::ARGUMENT_MAX_BYTES {
            out.push(Violation::new(format!("run[{n}]"), format!("must be a command of 1 to {} bytes without NUL", limits::ARGUMENT_MAX_BYTES)));
        }
    }
    for (n, file) in request.files.iter().enumerate().take(limits::BUILD_FILES_MAX) {
        if !is_absolute(&file.path) {
            out.push(Violation::new(format!("files[{n}].path"), "must be an absolute path without \"..\""));
        }
        if is_ours(&file.path) {
            out.push(Violation::new(format!("files[{n}].path"), "belongs to the sandbox and not to its image"));
        }
        if file.text.is_some() == file.base64.is_some() {
            out.push(Violation::new(format!("files[{n}]"), "needs either text or base64"));
        }
        if file.mode.as_ref().is_some_and(|mode| mode_of(mode).is_none()) {
            out.push(Violation::new(format!("files[{n}].mode"), "must be an octal mode such as \"0755\""));
        }
    }
    if let Some(network) = &request.network {
        out.extend(network_policy(network, "network"));
    }
    out
}

/// A mode such as `0755`.
pub fn mode_of(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What every sandbox has of its own, whatever its image has there.
fn is_ours(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let first = [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default);
    matches!(first, ["proc" | "sys" | "dev" | "procd", ..] | ["etc", "hosts" | "hostname" | "resolv.conf", ""])
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && path.len() <= limits::PATH_MAX_BYTES && !path.contains('\0') && path.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(request: Value) -> Vec<String> {
        check(&serde_json::from_value(request).expect("a request")).into_iter().map(|violation| violation.path).collect()
    }

    #[test]
    fn what_a_build_may_say() {
        assert_eq!(
            paths(json!({ "name": "a", "base": "host", "run": ["true"], "files": [{ "path": "/a", "text": "", "mode": "0755" }], "working_dir": "/w" })),
            [""; 0]
        );
        assert_eq!(paths(json!({ "name": "A", "base": "", "run": [] })), ["name", "base", "run"]);
        let odd = json!({ "name": "a", "base": "b", "working_dir": "w", "run": [" ", "a\0"],
            "files": [{ "path": "a", "text": "" }, { "path": "/a/../b" }, { "path": "/a", "text": "", "base64": "", "mode": "9" }], "network": { "mode": "odd" } });
        assert_eq!(paths(odd), ["working_dir", "run[0]", "run[1]", "files[0].path", "files[1].path", "files[1]", "files[2]", "files[2].mode", "network.mode"]);
        let ours = |path: &str| json!({ "path": path, "text": "" });
        let own = json!({ "name": "a", "base": "b", "env": { "A=B": "" }, "files": [ours("/etc/hosts"), ours("//procd/./x"), ours("/etc/hosts.d")] });
        assert_eq!(paths(own), ["env", "files[0].path", "files[1].path"]);
        assert_eq!((mode_of("0644"), mode_of("+644"), mode_of("17777")), (Some(0o644), None, None));
    }
}
