//! `make run`: a server, and its main job before your eyes.

use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    cli::{DemoArgs, Output},
    client::{Client, sandbox_path, segment},
    credentials::{self, Credentials},
    local_server::new_token,
    logging,
    output::{self, line},
    serve, settings,
};

/// Starts a server with the settings given, shows the job, and serves on until Ctrl-C.
pub async fn run(form: Output, args: DemoArgs) -> anyhow::Result<u8> {
    // A line of log for each step would drown the steps.
    let quiet = settings::Layer { log_level: Some("warn".into()), ..settings::Layer::default() };
    let mut settings = settings::load(args.serve.layer, args.serve.config.as_deref(), quiet)?;
    logging::start(&settings)?;
    let url = format!("http://{}", settings.listen);
    // The key of the last time, so that the command line and open programs go on working.
    let known = credentials::load().ok().flatten().filter(|stored| stored.url == url).map(|stored| stored.token);
    let token = match settings.bootstrap_token.clone().or(known) {
        Some(token) => token,
        None => new_token()?,
    };
    settings.bootstrap_token = Some(token.clone());
    let begun = Instant::now();
    let server = serve::start(&settings).await?;
    let url = format!("http://{}", server.address()?);
    let stop = server.stop_token();
    let serving = tokio::spawn(serve::run(server));
    let client = Client::new(&url, &token)?;
    // The port is open from the start: this is answered once the server serves.
    client.get("/readyz").await?;
    let ready_ms = begun.elapsed().as_secs_f64() * 1000.0;
    // The one of the last time has been looked at.
    let remembered = settings.data_dir.join(REMEMBERED);
    if let Ok(former) = std::fs::read_to_string(&remembered) {
        let _ = client.delete(&sandbox_path(former.trim(), "")).await;
    }
    let shown = show(&client, form).await;
    if let Ok(shown) = &shown {
        std::fs::write(&remembered, &shown.sandbox_id).with_context(|| format!("cannot write {}", remembered.display()))?;
    }
    if shown.is_err() || args.once {
        if let Ok(shown) = &shown {
            client.delete(&sandbox_path(&shown.sandbox_id, "")).await?;
        }
        stop.cancel();
        serving.await??;
        let shown = shown?;
        if form == Output::Json {
            output::json(&json!({"url": url, "ready_ms": ready_ms, "steps": shown.steps, "public_url": shown.public_url}));
        }
        return Ok(0);
    }
    let shown = shown?;
    let stored = credentials::store(&Credentials { url: url.clone(), token: token.clone() }).is_ok();
    match form {
        Output::Json => output::json(&json!({"url": url, "token": token, "ready_ms": ready_ms, "steps": shown.steps, "public_url": shown.public_url})),
        Output::Table => {
            line("");
            line(&format!("Published   {}   (the sandbox pauses after an hour; an access wakes it)", shown.public_url));
            line(&format!("Serving on  {url}   (ready after {ready_ms:.0} ms; API description at {url}/docs)"));
            line(&format!("API key     {token}"));
            if stored {
                line("This key is stored, so the command line works as it is:  sandbar sandbox create");
            }
            line("Ctrl-C ends the server; sandboxes go on and are taken over at the next start.");
        }
    }
    serving.await??;
    Ok(0)
}

/// Names the sandbox that was shown last, in the data directory.
const REMEMBERED: &str = "demo-sandbox";

/// What was shown.
struct Shown {
    sandbox_id: String,
    public_url: String,
    steps: Vec<Value>,
}

/// The job: claim, keep state, read a file back, run a command, publish a service and call it.
async fn show(client: &Client, form: Output) -> anyhow::Result<Shown> {
    let mut steps = Steps { form, done: Vec::new() };
    let claim = json!({"template": "default", "config": {"ttl": 3600}});
    let made =
        steps.time("claim a sandbox from the template \"default\"", client.post("/api/v1/sandboxes", &claim), |made| output::cell(&made["sandbox_id"])).await?;
    let id = made["sandbox_id"].as_str().context("the claim's reply has no sandbox_id")?.to_owned();
    let done = async {
        job(client, &mut steps, &id).await?;
        publish(client, &mut steps, &id).await
    };
    match done.await {
        Ok(public_url) => Ok(Shown { sandbox_id: id, public_url, steps: steps.done }),
        Err(error) => {
            let _ = client.delete(&sandbox_path(&id, "")).await;
            Err(error)
        }
    }
}

/// Serves the sandbox's folder at a public URL, and asks there for the file.
async fn publish(client: &Client, steps: &mut Steps, id: &str) -> anyhow::Result<String> {
    let service = json!({
        "id": "files",
        "port": 8000,
        "runtime": {"type": "cmd", "command": ["python3", "-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", "/workspace"]},
        "ingress": {"public": true, "routes": [{"id": "files", "path_prefix": "/", "resume": true}]},
    });
    let (path, services) = (sandbox_path(id, "/services"), json!({"services": [service]}));
    let services = steps.time("publish a service of it", client.put(&path, &services), |services| output::cell(&services["services"][0]["public_url"])).await?;
    let url = services["services"][0]["public_url"].as_str().context("the service has no public_url")?.to_owned();
    let call = async || Ok(Value::from(client.public(&url, "/hello.txt").await?));
    let body = |body: &Value| output::cell(body).trim().to_owned();
    let first = steps.time("GET /hello.txt there (starts the service)", call(), body).await?;
    ensure!(first == "x is 20\n", "the service answered {first}");
    steps.time("the same again", call(), body).await?;
    Ok(url)
}

async fn job(client: &Client, steps: &mut Steps, id: &str) -> anyhow::Result<()> {
    let contexts = sandbox_path(id, "/contexts");
    let repl =
        steps.time("start a Python REPL", client.post(&contexts, &json!({"type": "repl", "repl": {"alias": "python"}})), |c| output::cell(&c["id"])).await?;
    let exec = format!("{contexts}/{}/exec", segment(repl["id"].as_str().context("the context has no id")?));
    let answer = |v: &Value| output::cell(&v["output_raw"]).trim().to_owned();
    steps.time("in it:  x = 20", client.post(&exec, &json!({"data": "x = 20"})), |_| "kept".into()).await?;
    let sum = steps.time("in it:  print(x + 22)", client.post(&exec, &json!({"data": "print(x + 22)"})), answer).await?;
    ensure!(answer(&sum).contains("42"), "the REPL did not keep its state: {sum}");
    let code = "_ = open('/workspace/hello.txt', 'w').write(f'x is {x}\\n')";
    steps.time("in it:  write /workspace/hello.txt", client.post(&exec, &json!({"data": code})), |_| "written".into()).await?;
    let read = async {
        let request = client.request(reqwest::Method::GET, &sandbox_path(id, "/files")).query(&[("path", "/workspace/hello.txt")]);
        Ok(Value::from(client.send(request).await?.text().await?))
    };
    let file = steps.time("read it back by the files API", read, |v| output::cell(v).trim().to_owned()).await?;
    ensure!(file == "x is 20\n", "the file came back as {file}");
    let command = json!({"type": "cmd", "cmd": {"command": ["uname", "-sn"]}, "wait_until_done": true});
    steps.time("run a command:  uname -sn", client.post(&contexts, &command), |c| output::cell(&c["stdout"]).trim().to_owned()).await?;
    Ok(())
}

struct Steps {
    form: Output,
    done: Vec<Value>,
}

impl Steps {
    async fn time(&mut self, name: &str, step: impl Future<Output = anyhow::Result<Value>>, show: impl FnOnce(&Value) -> String) -> anyhow::Result<Value> {
        let begun = Instant::now();
        let value = step.await.with_context(|| format!("could not {name}"))?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        let result = show(&value);
        if self.form == Output::Table {
            line(&format!("{ms:8.2} ms  {name:<46}  {}", output::printable(&result)));
        }
        self.done.push(json!({"step": name, "ms": ms, "result": result}));
        Ok(value)
    }
}
