//! `sandbar credential`.

use std::{io::Read, path::Path};

use anyhow::{Context, bail};
use sandbar_core::{credential::is_name, limits::CREDENTIAL_NAME_MAX_CHARS};
use serde_json::{Map, Value, json};

use crate::{
    cli::{CredentialCommand, Global, Output, SecretArgs},
    client::{Client, segment},
    output::{self, cell, time},
};

const SOURCES: &str = "/api/v1/credential-sources";
/// The server takes no more in one request.
const SECRET_MAX_BYTES: u64 = 1 << 20;

pub async fn run(global: &Global, command: CredentialCommand) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    match command {
        CredentialCommand::Ls => {
            let list = client.get(SOURCES).await?;
            match global.output {
                Output::Json => output::json(&list),
                Output::Table => {
                    let row =
                        |s: &Value| vec![cell(&s["name"]), cell(&s["resolverKind"]), cell(&s["currentVersion"]), cell(&s["status"]), time(&s["updatedAt"])];
                    let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
                    output::table(&["NAME", "KIND", "VERSION", "STATUS", "UPDATED"], &rows);
                }
            }
        }
        CredentialCommand::Add { name, secret } => show(global, &client.post(SOURCES, &body(&name, secret)?).await?),
        CredentialCommand::Get { name } => show(global, &client.get(&path(named(&name)?)).await?),
        CredentialCommand::Rotate { name, secret } => show(global, &client.put(&path(named(&name)?), &body(&name, secret)?).await?),
        CredentialCommand::Rm { names } => {
            names.iter().try_for_each(|name| named(name).map(drop))?;
            return super::delete_each(&client, global.output, names, path).await;
        }
    }
    Ok(0)
}

/// A name that a source could have: any other would be another path.
fn named(name: &str) -> anyhow::Result<&str> {
    if is_name(name) {
        return Ok(name);
    }
    bail!("{name:?} is no name of a credential source: {CREDENTIAL_NAME_MAX_CHARS} letters, digits, '.', '_' and '-' at most, and a letter or digit first")
}

fn path(name: &str) -> String {
    format!("{SOURCES}/{}", segment(name))
}

fn show(global: &Global, source: &Value) {
    match global.output {
        Output::Json => output::json(source),
        Output::Table => output::record(&[
            ("name", cell(&source["name"])),
            ("kind", cell(&source["resolverKind"])),
            ("version", cell(&source["currentVersion"])),
            ("status", cell(&source["status"])),
            ("created", time(&source["createdAt"])),
            ("updated", time(&source["updatedAt"])),
        ]),
    }
}

/// What is sent: the kind is told by which secret was given.
fn body(name: &str, secret: SecretArgs) -> anyhow::Result<Value> {
    let SecretArgs { values, username, password, certificate, key, ca, ssh_key, passphrase } = secret;
    let mut from = From::default();
    let (kind, member, spec) = if let (Some(username), Some(password)) = (username, password) {
        ("static_username_password", "staticUsernamePassword", json!({ "username": username, "password": from.line(&password)? }))
    } else if let (Some(certificate), Some(key)) = (certificate, key) {
        let mut spec = json!({ "certificatePem": from.text(&certificate)?, "privateKeyPem": from.text(&key)? });
        if let Some(ca) = ca {
            spec["caPem"] = from.text(&ca)?.into();
        }
        ("static_tls_client_certificate", "staticTLSClientCertificate", spec)
    } else if let Some(ssh_key) = ssh_key {
        let mut spec = json!({ "privateKeyPem": from.text(&ssh_key)? });
        if let Some(passphrase) = passphrase {
            spec["passphrase"] = from.line(&passphrase)?.into();
        }
        ("static_ssh_private_key", "staticSSHPrivateKey", spec)
    } else if !values.is_empty() {
        let mut read = Map::new();
        for value in values {
            let (name, source) = value.split_once('=').context("--value has to be NAME=FROM, such as token=env:GITHUB_TOKEN")?;
            read.insert(name.to_owned(), from.line(source)?.into());
        }
        ("static_headers", "staticHeaders", json!({ "values": read }))
    } else {
        bail!("say what is to be kept: --value, --username with --password, --certificate with --key, or --ssh-key (see --help)");
    };
    Ok(json!({ "name": name, "resolverKind": kind, "spec": { member: spec } }))
}

/// Where secrets come from. Standard input can be read once.
#[derive(Default)]
struct From {
    stdin_is_read: bool,
}

impl From {
    /// Without the line end that editors and shells append.
    fn line(&mut self, from: &str) -> anyhow::Result<String> {
        let text = self.text(from)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }

    fn text(&mut self, from: &str) -> anyhow::Result<String> {
        if let Some(variable) = from.strip_prefix("env:") {
            return std::env::var(variable).with_context(|| format!("there is no text in the environment variable {variable}"));
        }
        if from == "-" {
            if std::mem::replace(&mut self.stdin_is_read, true) {
                bail!("only one secret can come from standard input");
            }
            return bounded(std::io::stdin().lock()).context("cannot read standard input");
        }
        // Not repeated: it may be the secret itself, from somebody who did not know.
        let open = || std::fs::File::open(Path::new(from));
        let file = open().context("a secret's file cannot be opened; FROM is env:VARIABLE, the path of a file, or - for standard input")?;
        bounded(file).context("a secret's file cannot be read")
    }
}

fn bounded(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(SECRET_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_MAX_BYTES {
        bail!("it is larger than {SECRET_MAX_BYTES} bytes");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn built(args: &[&str]) -> anyhow::Result<Value> {
        let cli = Cli::try_parse_from(["sandbar", "credential", "add", "x"].iter().chain(args))?;
        let Command::Credential(CredentialCommand::Add { name, secret }) = cli.command else { panic!("parsed as something else") };
        body(&name, secret)
    }

    #[test]
    fn names_that_are_paths_are_not_asked_for() {
        for name in ["", ".", "..", "a/b", "-x"] {
            assert!(named(name).is_err(), "{name}");
        }
        assert_eq!(named("a.b-c_1").unwrap(), "a.b-c_1");
    }

    #[test]
    fn each_kind_has_its_flags() {
        let dir = std::env::temp_dir().join(format!("sandbar-cli-credential-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let file = dir.join("secret");
        std::fs::write(&file, "hush\r\n").expect("writes");
        let file = file.to_str().expect("a path");
        let token = format!("token={file}");
        let kinds = [
            (vec!["--value", &token, "--value", "path=env:PATH"], "static_headers"),
            (vec!["--username", "u", "--password", file], "static_username_password"),
            (vec!["--certificate", file, "--key", file, "--ca", file], "static_tls_client_certificate"),
            (vec!["--ssh-key", file, "--passphrase", file], "static_ssh_private_key"),
        ];
        for (args, kind) in kinds {
            assert_eq!(built(&args).expect(kind)["resolverKind"], kind);
        }
        assert_eq!(built(&["--value", &token]).expect("values")["spec"]["staticHeaders"]["values"]["token"], "hush", "without its line end");
        assert_eq!(built(&["--ssh-key", file]).expect("a key")["spec"]["staticSSHPrivateKey"]["privateKeyPem"], "hush\r\n", "as it is");
        for args in [
            &[][..],
            &["--username", "u"],
            &["--password", file],
            &["--certificate", file],
            &["--passphrase", file],
            &["--value", "token"],
            &["--ssh-key", file, "--value", &token],
            &["--username", "u", "--password", "-", "--value", "a=-"],
        ] {
            assert!(built(args).is_err(), "{args:?}");
        }
        let refused = format!("{:#}", built(&["--value", "token=ghp_secret"]).expect_err("no file"));
        assert!(refused.contains("env:VARIABLE") && !refused.contains("ghp_secret"), "{refused}");
        let _ = std::fs::remove_dir_all(dir);
    }
}
