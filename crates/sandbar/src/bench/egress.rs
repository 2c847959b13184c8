//! Rows about the way out of a sandbox: one client asks small servers on this machine directly, from inside a sandbox under
//! several policies, and through mitmproxy. The ways to one server take turns, so that whatever else the machine does
//! meets all of them.

mod client;
mod mitmproxy;
mod servers;
mod ways;

use std::{net::IpAddr, path::Path};

use anyhow::Context;
use sandbar_linux::net;

use client::Work;
pub use client::{ClientArgs, run as client};
use mitmproxy::Mitmproxy;
use servers::{STREAM_BYTES, Servers};
use ways::{Asking, Way};

use super::{
    Report, finish,
    guests::Guests,
    or_interrupted,
    rows::Counts,
    start,
    stats::{Row, Samples, Target},
};
use crate::cli::BenchArgs;

const CONNECTIONS: &str = "egress connections";
const STREAMS: &str = "egress streams";
const DATAGRAMS: &str = "egress datagrams";
const REQUESTS: &str = "egress requests";
const TLS: &str = "egress TLS";
/// What ending TLS may add to a request, and to a connection with its two handshakes.
const TLS_ADDED_MS_MAX: f64 = 1.0;
/// Whole handshakes are a part of the requests, and mitmproxy's a part of those: they take long.
const HANDSHAKES_PART: usize = 3;
const MITMPROXY_PART: usize = 10;

/// Against a server of its own, which lets sandboxes reach this machine.
pub async fn measure(args: &BenchArgs, counts: &Counts, report: &mut Report) -> anyhow::Result<()> {
    if ![CONNECTIONS, STREAMS, DATAGRAMS, REQUESTS, TLS].iter().any(|name| report.wants(name)) {
        return Ok(());
    }
    let addresses = net::host_addresses()?;
    let own = addresses.into_iter().find_map(|address| match address {
        IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() => Some(v4),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    let Some(own) = own else {
        let row = Row::figure("egress", "", 0, 0.0, Target::None);
        report.rows.push(row.note("not measured: this machine has no IPv4 address besides loopback"));
        return Ok(());
    };
    let folder = Folder::make(args)?;
    let servers = Servers::start(own).await?;
    let roots = folder.0.join("roots.pem");
    std::fs::write(&roots, &servers.root_pem)?;
    let settings = ["--egress-allow", &own.to_string(), "--nameservers", &servers.dns.to_string(), "--egress-ca-file"].map(Into::into);
    let server = start(args, 1, settings.into_iter().chain([roots.clone().into_os_string()]).collect()).await?;
    let guests = Guests::new(server.client.clone());
    let outcome = or_interrupted(all(&guests, &servers, args, &folder.0, &roots, counts, report)).await;
    let outcome = finish(outcome, guests.delete_all().await);
    server.destroy().await?;
    outcome
}

/// Files of the run, removed with the value.
struct Folder(std::path::PathBuf);

impl Folder {
    fn make(args: &BenchArgs) -> anyhow::Result<Self> {
        let path = args.dir.join(format!("sandbar-bench-egress-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn all(guests: &Guests, servers: &Servers, args: &BenchArgs, folder: &Path, roots: &Path, counts: &Counts, report: &mut Report) -> anyhow::Result<()> {
    let asking = Asking::begin(guests, servers, roots).await?;
    let n = counts.requests;
    report.add(CONNECTIONS, async || connections(&asking, n).await).await;
    report.add(STREAMS, async || streams(&asking, counts.large_files).await).await;
    report.add(DATAGRAMS, async || datagrams(&asking, n).await).await;
    report.add(REQUESTS, async || requests(&asking, n).await).await;
    report
        .add(TLS, async || {
            let mitmproxy = Mitmproxy::start(args.mitmdump.as_deref(), servers.tls, folder, roots).await?;
            tls(&asking, mitmproxy.as_ref(), n).await
        })
        .await;
    Ok(())
}

async fn connections(asking: &Asking<'_>, n: usize) -> anyhow::Result<Vec<Row>> {
    let to = asking.servers.tcp;
    let names = [
        "egress: connect and echo, directly",
        "egress: connect and echo, allow-all",
        "egress: connect and echo, rule by address",
        "egress: connect and echo, rule by name",
    ];
    let ways = [Way::direct(to), Way::open(to), Way::by_address(to), Way::by_name(to)];
    let samples = asking.in_turns(Work::Connect, &ways.map(|way| (way, n))).await?;
    Ok(beside_the_first(names, &samples))
}

async fn streams(asking: &Asking<'_>, n: usize) -> anyhow::Result<Vec<Row>> {
    let to = asking.servers.tcp;
    let ways = [(Way::direct(to), n), (Way::open(to), n)];
    let rate = |samples: &Samples| STREAM_BYTES as f64 / 1e6 / (samples.median() / 1000.0);
    let mut rows = Vec::new();
    for (work, direct, carried) in [
        (Work::StreamOut, "egress: one stream out, directly", "egress: one stream out, proxy"),
        (Work::StreamIn, "egress: one stream in, directly", "egress: one stream in, proxy"),
    ] {
        let samples = asking.in_turns(work, &ways).await?;
        let [floor, through] = [&samples[0], &samples[1]].map(|samples| (rate(samples), samples.len()));
        rows.push(Row::figure(direct, "MB/s", floor.1, floor.0, Target::None).note(format!("{} MB at a time", STREAM_BYTES / 1_000_000)));
        let mut row = Row::figure(carried, "MB/s", through.1, through.0, Target::None);
        row.floor = Some((floor.0, "directly"));
        rows.push(row);
    }
    Ok(rows)
}

async fn datagrams(asking: &Asking<'_>, n: usize) -> anyhow::Result<Vec<Row>> {
    let to = asking.servers.udp;
    let samples = asking.in_turns(Work::Datagram, &[(Way::direct(to), n), (Way::open(to), n)]).await?;
    Ok(beside_the_first(["egress: UDP there and back, directly", "egress: UDP there and back, proxy"], &samples))
}

async fn requests(asking: &Asking<'_>, n: usize) -> anyhow::Result<Vec<Row>> {
    let to = asking.servers.http;
    let names = ["egress: HTTP request, directly", "egress: HTTP request, allow-all", "egress: HTTP request, judged by a rule"];
    let ways = [Way::direct(to), Way::open(to), Way::judged(to)];
    let samples = asking.in_turns(Work::Request, &ways.map(|way| (way, n))).await?;
    Ok(beside_the_first(names, &samples))
}

async fn tls(asking: &Asking<'_>, mitmproxy: Option<&Mitmproxy>, n: usize) -> anyhow::Result<Vec<Row>> {
    let to = asking.servers.tls;
    let mut rows = Vec::new();
    for (work, n, names, added) in [
        (
            Work::TlsRequest,
            n,
            ["egress: TLS request, directly", "egress: TLS request, passed by name", "egress: TLS request, made anew", "egress: TLS request, mitmproxy"],
            "TLS-terminating: latency added, request",
        ),
        (
            Work::TlsConnect,
            n / HANDSHAKES_PART,
            [
                "egress: TLS connection, directly",
                "egress: TLS connection, passed by name",
                "egress: TLS connection, made anew",
                "egress: TLS connection, mitmproxy",
            ],
            "TLS-terminating: latency added, connection",
        ),
    ] {
        let mut ways = vec![(Way::direct(to), n), (Way::by_name(to), n), (Way::made_anew(to), n)];
        ways.extend(mitmproxy.map(|mitmproxy| (Way::mitmproxy(mitmproxy), n.div_ceil(MITMPROXY_PART))));
        let samples = asking.in_turns(work, &ways).await?;
        rows.extend(beside_the_first(names, &samples));
        let over = |samples: &Samples, floor: &Samples, share| (samples.percentile(share) - floor.percentile(share)).max(0.0);
        let (direct, passed, anew) = (&samples[0], &samples[1], &samples[2]);
        let mut row = Row::figure(added, "ms", anew.len(), over(anew, direct, 0.5), Target::AtMost(TLS_ADDED_MS_MAX));
        (row.p95, row.p99) = (Some(over(anew, direct, 0.95)), Some(over(anew, direct, 0.99)));
        let by_mitmproxy = match samples.get(3) {
            Some(samples) => format!("mitmproxy adds {:.2} ms", over(samples, direct, 0.5)),
            None => "mitmproxy is not installed".to_owned(),
        };
        rows.push(row.note(format!("difference of the percentiles to directly; to passed {:.2} ms; {by_mitmproxy}", over(anew, passed, 0.5))));
    }
    Ok(rows)
}

/// Rows of times, all beside the median of the first.
fn beside_the_first<const N: usize>(names: [&'static str; N], samples: &[Samples]) -> Vec<Row> {
    let floor = samples.first().map(Samples::median);
    let row = |(place, (name, samples))| Row::times(name, samples, floor.filter(|_| place > 0).map(|floor| (floor, "directly")), Target::None);
    names.into_iter().zip(samples).enumerate().map(row).collect()
}
