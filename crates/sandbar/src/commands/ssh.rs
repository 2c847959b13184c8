//! `sandbar sandbox ssh`: the machine's own ssh, told where to go and which host key to expect.

use std::{io, os::unix::process::CommandExt, process::Command};

use anyhow::bail;
use serde_json::Value;

use crate::{
    cli::SshArgs,
    client::{Client, sandbox_path},
    output,
};

/// Becomes ssh; returns only when that cannot be, or is not wanted.
pub async fn run(client: &Client, args: SshArgs) -> anyhow::Result<u8> {
    let sandbox = client.get(&sandbox_path(&args.id, "")).await?;
    let server = client.get("/metadata").await?;
    let arguments = arguments(&args, &sandbox["ssh"], &server["ssh"], client.base())?;
    if args.print {
        output::line(&shown(&arguments));
        return Ok(0);
    }
    let error = Command::new("ssh").args(&arguments).exec();
    if error.kind() == io::ErrorKind::NotFound {
        bail!("there is no ssh on this machine; install OpenSSH's client, or run elsewhere:\n{}", shown(&arguments));
    }
    bail!("ssh cannot be run: {error}")
}

fn arguments(args: &SshArgs, ssh: &Value, server: &Value, base: &str) -> anyhow::Result<Vec<String>> {
    let (Some(host), Some(port)) = (ssh["host"].as_str(), ssh["port"].as_u64().and_then(|port| u16::try_from(port).ok())) else {
        bail!("the server is not reached by SSH: it was started with --ssh-listen off, or somebody else had the default port");
    };
    // What the server says becomes part of a command that runs here.
    if !is_plain(&args.id, "-+") {
        bail!("{:?} is no sandbox's id", args.id);
    }
    if !is_plain(host, "-.:[]") {
        bail!("the server says that its host is {host:?}, which is none");
    }
    // A server whose public domain is its own machine is reached where its API is.
    let local = host == "localhost" || host.ends_with(".localhost");
    let asked = reqwest::Url::parse(base).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host = asked.filter(|_| local).unwrap_or_else(|| host.to_owned());
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut arguments: Vec<String> = vec!["-p".into(), port.to_string()];
    if let Some(key) = server["host_key"].as_str() {
        if !is_plain(key, "-+/=@. ") {
            bail!("the server says that its host key is {key:?}, which is none");
        }
        // The API has said which key the server has; nothing is asked, and nothing is written down.
        for option in [
            format!("KnownHostsCommand=/bin/echo {} {key}", if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }),
            "UserKnownHostsFile=/dev/null".into(),
            "GlobalKnownHostsFile=/dev/null".into(),
            "StrictHostKeyChecking=yes".into(),
        ] {
            arguments.extend(["-o".to_owned(), option]);
        }
    }
    if let Some(identity) = &args.identity {
        arguments.extend(["-i".to_owned(), identity.to_string_lossy().into_owned(), "-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
    }
    for option in &args.options {
        arguments.extend(option.split_whitespace().map(str::to_owned));
    }
    arguments.extend(["--".to_owned(), format!("{}@{host}", args.id)]);
    if !args.command.is_empty() {
        arguments.push(args.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
    }
    Ok(arguments)
}

/// Whether a word is of letters and digits, at least at its beginning, and of these.
fn is_plain(word: &str, others: &str) -> bool {
    let begins = word.trim_start_matches('[').starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':');
    begins && word.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// A line that a shell reads as the same arguments.
fn shown(arguments: &[String]) -> String {
    std::iter::once("ssh".to_owned()).chain(arguments.iter().map(|argument| quoted(argument))).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(command: &[&str]) -> SshArgs {
        SshArgs {
            id: "sb-a".into(),
            identity: None,
            options: vec!["-L 1:localhost:2".into()],
            print: false,
            command: command.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    #[test]
    fn a_command_is_quoted_once_and_a_local_domain_is_where_the_api_is() {
        let ssh = json!({"host": "localhost", "port": 2222, "username": "-oProxyCommand=id"});
        let server = json!({"host_key": "ssh-ed25519 AAAA"});
        let made = arguments(&args(&["echo", "it's", "$HOME"]), &ssh, &server, "http://10.0.0.9:8700").unwrap();
        assert_eq!(made[3], "KnownHostsCommand=/bin/echo [10.0.0.9]:2222 ssh-ed25519 AAAA");
        assert_eq!(&made[made.len() - 5..], ["-L", "1:localhost:2", "--", "sb-a@10.0.0.9", r"echo 'it'\''s' '$HOME'"]);
        assert!(shown(&made).starts_with("ssh -p 2222 -o 'KnownHostsCommand=/bin/echo "));
        assert!(arguments(&args(&[]), &Value::Null, &server, "http://x").is_err());
    }

    #[test]
    fn what_the_server_says_gives_ssh_no_options() {
        let good = json!({"host_key": "ssh-ed25519 AAAA+/="});
        for (id, host, key, fits) in [
            ("sb-a", "sandbar.example", &good, true),
            ("sb-a+main", "[::1]", &good, true),
            ("-oProxyCommand=id", "sandbar.example", &good, false),
            ("sb-a", "-oProxyCommand=id", &good, false),
            ("sb-a", "a b", &good, false),
            ("sb-a", "a%h", &good, false),
            ("sb-a", "", &good, false),
            ("sb-a", "sandbar.example", &json!({"host_key": "ssh-ed25519 AAAA\nProxyCommand id"}), false),
            ("sb-a", "sandbar.example", &json!({"host_key": "$(id)"}), false),
        ] {
            let args = SshArgs { id: id.into(), ..args(&[]) };
            let made = arguments(&args, &json!({"host": host, "port": 2222}), key, "http://10.0.0.9:8700");
            assert_eq!(made.is_ok(), fits, "{id} {host} {key}");
        }
        assert!(arguments(&args(&[]), &json!({"host": "a", "port": 70_000}), &good, "http://x").is_err());
    }
}
