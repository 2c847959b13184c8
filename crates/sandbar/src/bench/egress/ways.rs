//! The ways from the client to a server, and the client sent over them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    client::Work,
    mitmproxy::Mitmproxy,
    servers::{CREDENTIAL, NAME, Servers},
};
use crate::{
    bench::{
        gateway::{PROGRAM, upload},
        guests::Guests,
        stats::Samples,
    },
    client::sandbox_path,
};

/// Turns of each way.
const ROUNDS: usize = 3;
/// Of the server that is measured.
const SOURCE: &str = "bench";
const ROOTS_INSIDE: &str = "/workspace/roots.pem";

/// Where the client runs and whom it calls.
pub struct Way {
    to: String,
    from: From,
    /// The authority that it trusts.
    roots: Roots,
    /// Whether each request of TLS is to come with the credential.
    credential: bool,
}

enum From {
    Host,
    /// A sandbox under this policy.
    Sandbox(Value),
}

enum Roots {
    /// Of the server.
    Server,
    File(PathBuf),
    /// Whom the sandbox is told to trust.
    Told,
}

impl Way {
    pub fn direct(to: SocketAddr) -> Self {
        Self { to: to.to_string(), from: From::Host, roots: Roots::Server, credential: false }
    }

    /// Everything is allowed.
    pub fn open(to: SocketAddr) -> Self {
        Self { from: From::Sandbox(json!({"mode": "allow-all"})), ..Self::direct(to) }
    }

    pub fn by_address(to: SocketAddr) -> Self {
        let rules = json!([{"action": "allow", "cidrs": [format!("{}/32", to.ip())]}]);
        Self { from: From::Sandbox(json!({"mode": "block-all", "egress": {"trafficRules": rules}})), ..Self::direct(to) }
    }

    pub fn by_name(to: SocketAddr) -> Self {
        Self::named(to, |_| {})
    }

    /// Each request of HTTP is judged.
    pub fn judged(to: SocketAddr) -> Self {
        let rules = json!([{"protocol": "http", "domains": [NAME], "tlsMode": "passthrough", "http": {"methods": {"allowed": ["GET"]}}}]);
        Self::named(to, |policy| policy["egress"]["protocolRules"] = rules)
    }

    /// TLS is ended, a credential put into each request, and TLS made anew.
    pub fn made_anew(to: SocketAddr) -> Self {
        let (header, _) = CREDENTIAL;
        let projection = json!({"type": "http_headers", "httpHeaders": {"headers": [{"name": header, "valueTemplate": "{{ .value }}"}]}});
        let way = Self::named(to, |policy| {
            policy["egress"]["credentialRules"] = json!([{"credentialRef": "bench", "domains": [NAME], "tlsMode": "terminate-reoriginate"}]);
            policy["credentialBindings"] = json!([{"ref": "bench", "sourceRef": SOURCE, "projection": projection}]);
        });
        Self { roots: Roots::Told, credential: true, ..way }
    }

    pub fn mitmproxy(mitmproxy: &Mitmproxy) -> Self {
        Self { roots: Roots::File(mitmproxy.roots.clone()), credential: true, ..Self::direct(mitmproxy.address) }
    }

    fn named(to: SocketAddr, more: impl FnOnce(&mut Value)) -> Self {
        let mut policy = json!({"mode": "block-all", "egress": {"trafficRules": [{"action": "allow", "domains": [NAME]}]}});
        more(&mut policy);
        Self { to: format!("{NAME}:{}", to.port()), from: From::Sandbox(policy), ..Self::direct(to) }
    }
}

/// A sandbox with the client in it, and the same client on the machine.
pub struct Asking<'a> {
    guests: &'a Guests,
    sandbox: String,
    pub servers: &'a Servers,
    roots: &'a Path,
}

impl<'a> Asking<'a> {
    pub async fn begin(guests: &'a Guests, servers: &'a Servers, roots: &'a Path) -> anyhow::Result<Self> {
        let (_, value) = CREDENTIAL;
        let source = json!({"name": SOURCE, "resolverKind": "static_headers", "spec": {"staticHeaders": {"values": {"value": value}}}});
        guests.client.post("/api/v1/credential-sources", &source).await?;
        let sandbox = guests.claim().await?;
        upload(guests, &sandbox).await?;
        let request = guests.client.request(Method::POST, &sandbox_path(&sandbox, "/files")).query(&[("path", ROOTS_INSIDE)]);
        guests.client.send(request.body(servers.root_pem.clone())).await?;
        Ok(Self { guests, sandbox, servers, roots })
    }

    /// The samples of each way, of which so many are wanted.
    pub async fn in_turns(&self, work: Work, ways: &[(Way, usize)]) -> anyhow::Result<Vec<Samples>> {
        let mut all: Vec<Vec<Duration>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for ((way, n), samples) in ways.iter().zip(&mut all) {
                let left = n.saturating_sub(samples.len());
                samples.extend(self.once(work, way, left.min(n.div_ceil(ROUNDS))).await?);
            }
        }
        Ok(all.into_iter().map(Samples::from_iter).collect())
    }

    async fn once(&self, work: Work, way: &Way, count: usize) -> anyhow::Result<Vec<Duration>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let work = work.to_possible_value().context("no such work")?;
        let mut arguments = vec!["bench-client".to_owned(), work.get_name().to_owned(), way.to.clone(), count.to_string()];
        let inside = matches!(way.from, From::Sandbox(_));
        let roots = match &way.roots {
            Roots::Server if inside => Some(ROOTS_INSIDE.to_owned()),
            Roots::Server => Some(self.roots.display().to_string()),
            Roots::File(path) => Some(path.display().to_string()),
            Roots::Told => None,
        };
        arguments.extend(roots.into_iter().flat_map(|path| ["--roots".to_owned(), path]));
        self.servers.take_credentials();
        let printed = match &way.from {
            From::Host => on_host(&arguments).await?,
            From::Sandbox(policy) => self.inside(policy, &arguments).await?,
        };
        let with_credential = self.servers.take_credentials();
        ensure!(with_credential == if way.credential { count } else { 0 }, "{with_credential} of {count} requests came with the credential");
        let times: Vec<u64> = serde_json::from_str(&printed).context("the client printed something else than times")?;
        ensure!(times.len() == count, "{} times instead of {count}", times.len());
        Ok(times.into_iter().map(Duration::from_nanos).collect())
    }

    async fn inside(&self, policy: &Value, arguments: &[String]) -> anyhow::Result<String> {
        self.guests.client.put(&sandbox_path(&self.sandbox, "/network"), policy).await?;
        let command: Vec<&str> = std::iter::once(PROGRAM).chain(arguments.iter().map(String::as_str)).collect();
        let done = self.guests.command(&self.sandbox, &command).await?;
        ensure!(done["exit_code"] == 0, "`{}` inside: {}", arguments.join(" "), done["stderr"].as_str().unwrap_or("failed"));
        Ok(done["stdout"].as_str().unwrap_or_default().to_owned())
    }
}

async fn on_host(arguments: &[String]) -> anyhow::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    let done = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    ensure!(done.status.success(), "`{}`: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}
