//! Rows about the gateway: the same small server asked directly, behind nginx, and in a sandbox behind the gateway.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use super::{
    floors::Floors,
    guests::Guests,
    stats::{Row, Samples, Target},
};
use crate::{client::sandbox_path, local_server::free_address};

/// Connections of the rows about requests per second.
const CONNECTIONS: usize = 16;
const UP_WITHIN: Duration = Duration::from_secs(20);
/// What is asked and served, so that the way there is all that differs.
pub(super) const BODY: &str = "hello from the upstream\n";
const PORT: u16 = 9000;
/// This very program, inside.
pub(super) const PROGRAM: &str = "/workspace/sandbar";

/// Serves [`BODY`] until it is ended.
pub async fn upstream(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(answer(stream, |_| {}));
    }
}

/// Answers one request after the other, whose heads it shows.
pub(super) async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, see: impl Fn(&[u8])) {
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{BODY}", BODY.len());
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
        if head.ends_with(b"\r\n\r\n") {
            see(&head);
            head.clear();
            if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

/// Added latency and throughput.
pub async fn proxying(guests: &Guests, dir: &Path, n: usize, for_time: Duration) -> anyhow::Result<Vec<Row>> {
    let direct = free_address()?;
    let mut children =
        vec![Command::new(std::env::current_exe()?).args(["bench-upstream", &direct.to_string()]).stdin(Stdio::null()).kill_on_drop(true).spawn()?];
    let behind_nginx = nginx(dir, direct)?;
    let (nginx_address, nginx_folder) = match behind_nginx {
        Some((child, address, folder)) => {
            children.push(child);
            (Some(address), Some(folder))
        }
        None => (None, None),
    };
    let measured = measure(guests, direct, nginx_address, n, for_time).await;
    for mut child in children {
        let _ = child.kill().await;
    }
    if let Some(folder) = nginx_folder {
        let _ = std::fs::remove_dir_all(folder);
    }
    measured
}

async fn measure(guests: &Guests, direct: SocketAddr, nginx: Option<SocketAddr>, n: usize, for_time: Duration) -> anyhow::Result<Vec<Row>> {
    let id = guests.claim().await?;
    upload(guests, &id).await?;
    let at_gateway = serve(guests, &id).await?;
    let at_direct = Asked { address: direct, host: "localhost".into() };
    at_direct.up().await?;
    at_gateway.up().await?;
    let floor = at_direct.times(n).await?;
    let times = at_gateway.times(n).await?;
    let mut rows = vec![Row::times("upstream asked directly", &floor, None, Target::None)];
    let rate_direct = at_direct.rate(for_time).await?;
    let mut note = format!("directly {rate_direct:.0}/s");
    if let Some(address) = nginx {
        let at_nginx = Asked { address, host: "localhost".into() };
        at_nginx.up().await?;
        rows.push(Row::times("upstream behind nginx", &at_nginx.times(n).await?, Some((floor.median(), "directly")), Target::None));
        note.push_str(&format!(", nginx {:.0}/s", at_nginx.rate(for_time).await?));
    } else {
        note.push_str(", nginx is not installed");
    }
    rows.push(Row::times("upstream behind the gateway", &times, Some((floor.median(), "directly")), Target::None));
    let added = |share: f64| (times.percentile(share) - floor.percentile(share)).max(0.0);
    let mut row = Row::figure("gateway: latency added", "ms", n, added(0.5), Target::Times { p50: 0.2, p99: 1.0 });
    (row.p95, row.p99) = (Some(added(0.95)), Some(added(0.99)));
    rows.push(row.note("difference of the percentiles"));
    let rate = at_gateway.rate(for_time).await?;
    let mut row = Row::figure("gateway: requests per second", "/s", CONNECTIONS, rate, Target::None).note(note);
    row.floor = Some((rate_direct, "directly"));
    rows.push(row);
    guests.delete(&id).await?;
    Ok(rows)
}

/// First access to a service: its process is started, up, and has answered.
pub async fn first_access(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Vec<Row>> {
    let mut samples = Samples::default();
    let id = guests.claim().await?;
    upload(guests, &id).await?;
    for _ in 0..n {
        let asked = serve(guests, &id).await?;
        let begun = Instant::now();
        asked.times(1).await?;
        samples.push(begun.elapsed());
        guests.client.put(&sandbox_path(&id, "/services"), &json!({"services": []})).await?;
        // The former process ends behind the answer.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    guests.delete(&id).await?;
    Ok(vec![Row::times("service: first access starts it", &samples, Some((floors.spawn_ms, "spawn")), Target::None)])
}

/// Puts this program into a sandbox.
pub(super) async fn upload(guests: &Guests, id: &str) -> anyhow::Result<()> {
    let program = tokio::fs::read(std::env::current_exe()?).await?;
    let request = guests.client.request(Method::POST, &sandbox_path(id, "/files")).query(&[("path", PROGRAM), ("mode", "0755")]);
    guests.client.send(request.body(program)).await?;
    Ok(())
}

/// Serves the upstream in a sandbox, and tells whom to ask for it.
pub(super) async fn serve(guests: &Guests, id: &str) -> anyhow::Result<Asked> {
    let service = json!({
        "id": "bench",
        "port": PORT,
        "runtime": {"type": "cmd", "command": [PROGRAM, "bench-upstream", format!("127.0.0.1:{PORT}")]},
        "ingress": {"public": true, "routes": [{"id": "bench", "path_prefix": "/", "resume": true}]},
    });
    let services = guests.client.put(&sandbox_path(id, "/services"), &json!({"services": [service]})).await?;
    Asked::of(guests, services["services"][0]["public_url"].as_str().context("the service has no public_url")?)
}

/// nginx as a reverse proxy with kept connections, where there is one.
fn nginx(dir: &Path, upstream: SocketAddr) -> anyhow::Result<Option<(Child, SocketAddr, PathBuf)>> {
    let Some(program) = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists()) else { return Ok(None) };
    let listen = free_address()?;
    let folder = dir.join(format!("sandbar-bench-nginx-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let config = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {0}/nginx.pid;\nerror_log {0}/error.log;\nevents {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\nclient_body_temp_path {0}/body;\nproxy_temp_path {0}/proxy;\nfastcgi_temp_path {0}/fastcgi;\nuwsgi_temp_path {0}/uwsgi;\nscgi_temp_path {0}/scgi;\nkeepalive_requests 10000000;\nupstream up {{ server {upstream}; keepalive 32; keepalive_requests 10000000; }}\nserver {{ listen {listen}; location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}\n}}\n",
        folder.display()
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, config)?;
    let child = Command::new(program)
        .arg("-p")
        .arg(&folder)
        .arg("-c")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(Some((child, listen, folder)))
}

/// Somebody who is asked for `/`.
pub(super) struct Asked {
    pub address: SocketAddr,
    pub host: String,
}

impl Asked {
    /// Whoever serves a public URL, at the address of the server that is measured.
    pub fn of(guests: &Guests, url: &str) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(url)?;
        ensure!(url.scheme() == "http", "{url} is not served by this machine");
        let (host, port) = (url.host_str().context("no host")?, url.port_or_known_default().unwrap_or(80));
        let server = reqwest::Url::parse(guests.client.base())?;
        let ip = server.host_str().and_then(|host| host.parse().ok()).unwrap_or(Ipv4Addr::LOCALHOST.into());
        Ok(Self { address: SocketAddr::new(ip, port), host: format!("{host}:{port}") })
    }

    pub async fn up(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match self.times(1).await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > UP_WITHIN => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// One request after the other on one connection.
    pub async fn times(&self, n: usize) -> anyhow::Result<Samples> {
        let mut connection = self.connect().await?;
        let mut samples = Samples::default();
        for _ in 0..n {
            let begun = Instant::now();
            connection.ask().await?;
            samples.push(begun.elapsed());
        }
        Ok(samples)
    }

    /// Requests per second on several connections.
    async fn rate(&self, for_time: Duration) -> anyhow::Result<f64> {
        let done = AtomicUsize::new(0);
        let begun = Instant::now();
        let workers = (0..CONNECTIONS).map(|_| async {
            let mut connection = self.connect().await?;
            while begun.elapsed() < for_time {
                connection.ask().await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        futures_util::future::try_join_all(workers).await?;
        Ok(done.into_inner() as f64 / begun.elapsed().as_secs_f64())
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", self.host).into_bytes();
        Ok(Connection { stream, request, answer: Vec::with_capacity(4096) })
    }
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    async fn ask(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        while !self.answer.ends_with(BODY.as_bytes()) {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the connection ended");
            }
            ensure!(self.answer.len() < 64 << 10, "another answer than that of the upstream");
        }
        ensure!(self.answer.starts_with(b"HTTP/1.1 200"), "not 200: {}", String::from_utf8_lossy(&self.answer));
        Ok(())
    }
}
