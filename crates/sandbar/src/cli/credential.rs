//! `sandbar credential ...`

use clap::{Args, Subcommand};

/// Shown with `add` and `rotate`.
const EXAMPLES: &str = "\
A secret comes from the environment (env:VARIABLE), from a file, or from standard input (-), and
never from the command line, which everybody on the machine can read.

Examples:
  sandbar credential add github --value token=env:GITHUB_TOKEN
  pass show db | sandbar credential add db --username app --password -
  sandbar credential add partner --certificate client.crt --key client.key --ca partner-ca.crt
  sandbar credential add deploy --ssh-key ~/.ssh/deploy --passphrase env:DEPLOY_PASSPHRASE
  sandbar credential rotate github --value token=/run/secrets/github";

#[derive(Debug, Subcommand)]
pub enum CredentialCommand {
    /// List sources: their names, kinds and versions
    #[command(visible_alias = "list")]
    Ls,
    /// Keep a secret that sandboxes use and never see
    #[command(visible_alias = "create", after_help = EXAMPLES)]
    Add {
        /// What network policies call it: letters, digits, ".", "_" and "-"
        name: String,
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// Show one source, without what it holds
    Get {
        /// The source
        name: String,
    },
    /// Put another secret in its place; live sandboxes use it at once
    #[command(visible_alias = "update", after_help = EXAMPLES)]
    Rotate {
        /// The source
        name: String,
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// Delete sources that no sandbox, template or function's revision binds
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// The sources
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// One kind of secret.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// A value for headers and placeholders, which templates know as {{ .NAME }}; may be given several times
    #[arg(long = "value", value_name = "NAME=FROM", help_heading = "Values", conflicts_with_all = ["username", "certificate", "ssh_key"])]
    pub values: Vec<String>,
    /// Who logs in
    #[arg(long, value_name = "NAME", requires = "password", help_heading = "Login", conflicts_with_all = ["certificate", "ssh_key"])]
    pub username: Option<String>,
    /// The password
    #[arg(long, value_name = "FROM", requires = "username", help_heading = "Login")]
    pub password: Option<String>,
    /// The client's certificate in PEM, then those that certify it
    #[arg(long, value_name = "FROM", requires = "key", help_heading = "TLS client certificate", conflicts_with = "ssh_key")]
    pub certificate: Option<String>,
    /// Its private key in PEM
    #[arg(long, value_name = "FROM", requires = "certificate", help_heading = "TLS client certificate")]
    pub key: Option<String>,
    /// Who certifies the server, in place of the public authorities
    #[arg(long, value_name = "FROM", requires = "certificate", help_heading = "TLS client certificate")]
    pub ca: Option<String>,
    /// The private key
    #[arg(long, value_name = "FROM", help_heading = "SSH key")]
    pub ssh_key: Option<String>,
    /// What opens it, when it is encrypted; it is kept sealed, and without one
    #[arg(long, value_name = "FROM", requires = "ssh_key", help_heading = "SSH key")]
    pub passphrase: Option<String>,
}
