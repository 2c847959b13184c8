//! Rows about apps: from a deploy to a page that answers, what starting costs beyond what the app itself takes, what a run adds to its
//! command, and how late the ticks of a thousand schedules are.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Report,
    floors::{self, Floors},
    guests::Guests,
    or_interrupted,
    rows::Counts,
    start,
    stats::{Row, Samples, Target},
};
use crate::{
    cli::BenchArgs,
    client::{Client, segment},
};

const DEPLOYS: &str = "app deploy and start";
const RUNS: &str = "app runs";
const SCHEDULES: &str = "app schedules";
/// A server whose own start is most of what it takes, as that of any app.
const SERVER: &str = "python3 -m http.server 3000 --bind 0.0.0.0 --directory site";
/// Starts that server, and says after how many milliseconds it answered.
const ALONE: &str = r#"
import os, socket, subprocess, sys, time
begun = time.monotonic()
server = subprocess.Popen(["sh", "-c", sys.argv[1]], stderr=subprocess.DEVNULL)
while True:
    try:
        with socket.create_connection(("127.0.0.1", 3000)) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if s.recv(12).endswith(b"200"):
                break
    except ConnectionError:
        time.sleep(0.0005)
print((time.monotonic() - begun) * 1000)
server.kill()
server.wait()
"#;
/// Schedules at once, and how many of them an app may have.
const SCHEDULES_AT_ONCE: usize = 1000;
const PER_APP: usize = 100;
/// Each comes once a minute, on a second of its own: that many come together.
const SECONDS: usize = 60;
/// What has not come by then is missed.
const WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(2);
const PARALLEL: usize = 16;

/// Against a server of its own.
pub async fn measure(args: &BenchArgs, counts: &Counts, report: &mut Report) -> anyhow::Result<()> {
    if ![DEPLOYS, RUNS, SCHEDULES].iter().any(|name| report.wants(name)) {
        return Ok(());
    }
    let server = start(args, super::POOL / 4, Vec::new()).await?;
    let guests = Guests::new(server.client.clone());
    let outcome = or_interrupted(served(&guests, args, counts, report)).await;
    let outcome = super::finish(outcome, guests.delete_all().await);
    server.destroy().await?;
    outcome
}

async fn served(guests: &Guests, args: &BenchArgs, counts: &Counts, report: &mut Report) -> anyhow::Result<()> {
    let (floors, _) = floors::measure(&guests.client, &args.dir, counts.execs).await?;
    report.add(DEPLOYS, async || deploys(guests, counts.hibernations).await).await;
    report.add(RUNS, async || runs(guests, &floors, counts.execs).await).await;
    report.add(SCHEDULES, async || schedules(&guests.client).await).await;
    Ok(())
}

/// A version that is new each time, made and started; and starts of one that is there.
async fn deploys(guests: &Guests, n: usize) -> anyhow::Result<Vec<Row>> {
    let client = &guests.client;
    let alone = alone(guests, n).await?;
    let manifest = format!("start:\n  command: {SERVER}\n  ports: [{{port: 3000}}]\n");
    let (mut builds, mut whole, mut starts) = (Samples::default(), Samples::default(), Samples::default());
    let app = App { client, name: "bench-web".to_owned() };
    for round in 0..n {
        let page = format!("<p>round {round}</p>");
        let begun = Instant::now();
        app.deploy(&manifest, &[("site/index.html", &page)]).await?;
        builds.push(begun.elapsed());
        app.start().await?;
        whole.push(begun.elapsed());
        app.post("/stop", &json!({"delete_sandbox": true})).await?;
    }
    for _ in 0..n {
        let begun = Instant::now();
        app.start().await?;
        starts.push(begun.elapsed());
        app.post("/stop", &json!({"delete_sandbox": true})).await?;
    }
    app.delete().await?;
    let floor = Some((alone.median(), "the app alone"));
    let beyond = starts.median() - alone.median();
    Ok(vec![
        Row::times("app: its server's own start", &alone, None, Target::None).note("in a sandbox, from spawn to the first answer"),
        Row::times("app: deploy until the version is ready", &builds, None, Target::None).note("two files, no setup commands"),
        Row::times("app: deploy and start until ready", &whole, floor, Target::None),
        Row::times("app: start until ready", &starts, floor, Target::None).note("in a new sandbox of the version's files"),
        Row::figure("app: start, beyond the app's own", "ms", n, beyond, Target::None).note("the difference of the medians"),
    ])
}

/// How long the server takes without us, measured inside.
async fn alone(guests: &Guests, n: usize) -> anyhow::Result<Samples> {
    let id = guests.claim().await?;
    let made = guests.command(&id, &["sh", "-c", "mkdir -p /workspace/site && echo hello >/workspace/site/index.html"]).await?;
    ensure!(made["exit_code"] == 0, "the page could not be written");
    let mut samples = Samples::default();
    for _ in 0..n {
        let done = guests.command(&id, &["python3", "-c", ALONE, &format!("cd /workspace && exec {SERVER}")]).await?;
        let ms: f64 = done["stdout"].as_str().unwrap_or_default().trim().parse().with_context(|| format!("the server did not answer: {done}"))?;
        samples.push(Duration::from_secs_f64(ms / 1000.0));
    }
    guests.delete(&id).await?;
    Ok(samples)
}

/// The same command as an action, in the app's sandbox and in new ones, and as a command of a sandbox.
async fn runs(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Vec<Row>> {
    let id = guests.claim().await?;
    let mut commands = Samples::default();
    for _ in 0..n {
        let begun = Instant::now();
        ensure!(guests.command(&id, &["sh", "-c", "true"]).await?["exit_code"] == 0, "`true` failed");
        commands.push(begun.elapsed());
    }
    guests.delete(&id).await?;
    let app = App { client: &guests.client, name: "bench-runs".to_owned() };
    app.deploy("actions:\n  - name: nothing\n    command: \"true\"\n", &[]).await?;
    let (mut own, mut fresh) = (Samples::default(), Samples::default());
    app.start().await?;
    for (place, samples) in [("app", &mut own), ("fresh", &mut fresh)] {
        for _ in 0..n {
            let begun = Instant::now();
            let run = app.post("/runs?wait=60", &json!({"action": "nothing", "sandbox": place})).await?;
            ensure!(run["run"]["status"] == "succeeded", "a run did not succeed: {run}");
            samples.push(begun.elapsed());
        }
    }
    app.delete().await?;
    let floor = Some((commands.median(), "a command"));
    let adds = own.median() - commands.median();
    let note = format!("queued, run, logged, measured, receipt signed; fdatasync takes {:.2} ms", floors.fdatasync_ms);
    Ok(vec![
        Row::times("app: the command alone, over HTTP", &commands, None, Target::None),
        Row::times("app: action in the app's sandbox", &own, floor, Target::None).note(note),
        Row::figure("app: what an action adds", "ms", n, adds, Target::None).note("the difference of the medians"),
        Row::times("app: action in a fresh sandbox", &fresh, floor, Target::None).note("which is deleted after it"),
    ])
}

/// A thousand that come once a minute, spread over its seconds, each into a sandbox of its own.
async fn schedules(client: &Client) -> anyhow::Result<Vec<Row>> {
    let apps: Vec<App<'_>> = (0..SCHEDULES_AT_ONCE / PER_APP).map(|n| App { client, name: format!("bench-ticks-{n}") }).collect();
    for app in &apps {
        app.deploy("actions:\n  - name: nothing\n    command: \"true\"\n", &[]).await?;
    }
    let made = apps.iter().enumerate().flat_map(|(number, app)| {
        (0..PER_APP).map(move |n| {
            let second = (number * PER_APP + n) % SECONDS;
            let schedule = json!({"name": format!("s{n}"), "cron": format!("{second} * * * * *"), "action": "nothing", "maxRuns": 1,
                "runtimePolicy": "run_and_delete", "missedRunPolicy": "skip"});
            async move { app.post("/schedules", &schedule).await.map(drop) }
        })
    });
    stream::iter(made).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    let begun = Instant::now();
    let (mut decided, mut begins, mut failed) = (Samples::default(), Samples::default(), 0);
    for app in &apps {
        let runs = app.scheduled(PER_APP, begun + WITHIN).await?;
        for run in &runs {
            let due = moment(run, "scheduled_at")?;
            decided.push(since(due, moment(run, "created_at")?));
            begins.push(since(due, moment(run, "started_at")?));
            failed += usize::from(run["status"] != "succeeded");
        }
    }
    ensure!(failed == 0, "{failed} of {SCHEDULES_AT_ONCE} runs failed");
    for app in &apps {
        app.delete().await?;
    }
    let note = |samples: &Samples| format!("at most {:.0} ms; {} fire together", samples.percentile(1.0), SCHEDULES_AT_ONCE.div_ceil(SECONDS));
    Ok(vec![
        Row::times("app: lateness of ticks, 1,000 schedules", &decided, None, Target::None).note(note(&decided)),
        Row::times("app: tick to start of its run", &begins, None, Target::None).note(note(&begins)),
    ])
}

/// An app of ours.
struct App<'a> {
    client: &'a Client,
    name: String,
}

impl App<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/api/v1/apps/{}{rest}", segment(&self.name))
    }

    async fn post(&self, rest: &str, body: &Value) -> anyhow::Result<Value> {
        self.client.post(&self.path(rest), body).await
    }

    /// Returns when the version is ready.
    async fn deploy(&self, manifest: &str, files: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in [("sandbar.yaml", manifest)].iter().chain(files) {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes())?;
        }
        let request = self.client.request(Method::POST, &self.path("/versions")).header("content-type", "application/x-tar").body(tar.into_inner()?);
        let version = self.client.data(request).await?["version"].clone();
        let begun = Instant::now();
        while begun.elapsed() < WITHIN {
            let found = self.client.get(&self.path(&format!("/versions/{version}"))).await?;
            match found["state"].as_str() {
                Some("ready") => return Ok(()),
                Some("building") => tokio::time::sleep(POLL).await,
                _ => bail!("version {version} was not built: {found}"),
            }
        }
        bail!("version {version} is not built within {} s", WITHIN.as_secs())
    }

    /// Returns when it is ready; one without a start command is so at once.
    async fn start(&self) -> anyhow::Result<()> {
        let status = self.post("/start", &json!({"wait": true})).await?;
        ensure!(matches!(status["state"].as_str(), Some("ready" | "none")), "the app is not ready: {status}");
        Ok(())
    }

    async fn delete(&self) -> anyhow::Result<()> {
        self.client.delete(&self.path("")).await.map(drop)
    }

    /// The first so many of the runs of its schedules, when all have ended.
    async fn scheduled(&self, count: usize, until: Instant) -> anyhow::Result<Vec<Value>> {
        loop {
            let list = self.client.get(&self.path("/runs?limit=200")).await?;
            let runs: Vec<Value> = list["runs"].as_array().into_iter().flatten().filter(|run| run["finished_at"].is_string()).cloned().collect();
            if runs.len() >= count {
                return Ok(runs);
            }
            ensure!(Instant::now() < until, "{} of {count} ticks have run within {} s", runs.len(), WITHIN.as_secs());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn moment(run: &Value, field: &str) -> anyhow::Result<jiff::Timestamp> {
    run[field].as_str().with_context(|| format!("a run has no {field}: {run}"))?.parse().with_context(|| format!("{field} is no moment"))
}

fn since(due: jiff::Timestamp, then: jiff::Timestamp) -> Duration {
    Duration::from_millis((then.as_millisecond() - due.as_millisecond()).max(0).unsigned_abs())
}
