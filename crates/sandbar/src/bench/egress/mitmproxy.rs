//! The yardstick for TLS that is ended and made anew: mitmproxy, which does the same to the same requests. It stands
//! before the server as a reverse proxy, so it is spared the way out of a sandbox and finding out where a client wants to go.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::servers::CREDENTIAL;
use crate::local_server::free_address;

const PROGRAM: &str = "mitmdump";
/// It is a large program.
const UP_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A running one; it is killed with the value.
pub struct Mitmproxy {
    pub address: SocketAddr,
    /// Who certifies it, in PEM.
    pub roots: PathBuf,
    _child: Child,
}

impl Mitmproxy {
    /// `program`, or whichever is found; `None` where there is none. `folder` is ours, and `roots` certify the server.
    pub async fn start(program: Option<&Path>, server: SocketAddr, folder: &Path, roots: &Path) -> anyhow::Result<Option<Self>> {
        let found = || env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join(PROGRAM)).find(|path| path.is_file());
        let Some(program) = program.map(Path::to_owned).or_else(found) else { return Ok(None) };
        let address = free_address()?;
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let (name, value) = CREDENTIAL;
        let mut child = Command::new(&program)
            .args(["--quiet", "--mode", &format!("reverse:https://{server}")])
            .args(["--listen-host", &address.ip().to_string(), "--listen-port", &address.port().to_string()])
            .args(["--set", &option("confdir", folder), "--set", &option("ssl_verify_upstream_trusted_ca", roots)])
            .args(["--set", "keep_host_header=true", "--modify-headers", &format!("/~q/{name}/{value}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended at once: {status}", program.display());
            }
            if begun.elapsed() > UP_WITHIN {
                bail!("{} did not listen within {} s", program.display(), UP_WITHIN.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Some(Self { address, roots: folder.join("mitmproxy-ca-cert.pem"), _child: child }))
    }
}
