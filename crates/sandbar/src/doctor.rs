//! `sandbar doctor`: what this machine offers, what is missing, and what that means.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use sandbar_linux::probe::{self, Feature};
use serde_json::{Value, json};

use crate::{
    bench,
    cli::{DoctorArgs, Output},
    output, settings,
};

/// Writes whose median is the latency shown.
const WRITES: usize = 50;
/// Above this a commit is felt in every claim.
const FDATASYNC_SLOW_MS: f64 = 5.0;

/// Exit code 1 when something is missing that the server cannot do without.
pub fn run(args: &DoctorArgs, form: Output) -> anyhow::Result<u8> {
    // Where the folder is not there yet, its file system is that of the nearest one above.
    let dir = existing(&args.data_dir);
    let mut checks: Vec<Check> = probe::features(&dir).into_iter().map(Check::from).collect();
    checks.push(fdatasync(&dir));
    checks.push(program("python3", &["python3"], "apt-get install python3"));
    checks.push(program("node", &["node", "nodejs"], "apt-get install nodejs"));
    checks.push(program("bash", &["bash"], "apt-get install bash"));
    checks.push(program("mmdebstrap", &["mmdebstrap"], "apt-get install mmdebstrap, which `sandbar image bootstrap` runs").renamed("mmdebstrap for images"));
    checks.push(memory_checkpoint());
    checks.push(port(args.listen));
    checks.push(ssh_port());
    let missing = checks.iter().filter(|c| c.required && !c.ok).count();
    let strength = strength(&checks);
    match form {
        Output::Json => output::json(&json!({"ok": missing == 0, "checks": checks.iter().map(Check::json).collect::<Vec<_>>(), "isolation": strength})),
        Output::Table => {
            output::table(&["", "CHECK", "NEED", "FOUND"], &checks.iter().map(Check::cells).collect::<Vec<_>>());
            for check in checks.iter().filter(|c| !c.ok && !c.remedy.is_empty()) {
                output::line(&format!("\n{} ({}): {}", check.name, if check.required { "required" } else { "optional" }, check.remedy));
            }
            output::line(&format!("\nIsolation: {strength}"));
            output::line(&match missing {
                0 => "Ready: `sandbar serve` will start.".to_owned(),
                n => format!("Not ready: {n} required {} missing.", if n == 1 { "check is" } else { "checks are" }),
            });
        }
    }
    Ok(u8::from(missing > 0))
}

struct Check {
    name: String,
    ok: bool,
    required: bool,
    detail: String,
    remedy: String,
}

impl From<Feature> for Check {
    fn from(f: Feature) -> Self {
        Self { name: f.name.to_string(), ok: f.ok, required: f.required, detail: f.detail, remedy: f.remedy.to_string() }
    }
}

impl Check {
    fn optional(name: &str, ok: bool, detail: String, remedy: &str) -> Self {
        Self { name: name.into(), ok, required: false, detail, remedy: remedy.into() }
    }

    fn renamed(self, name: &str) -> Self {
        let detail = if self.ok { self.detail } else { "not in /usr/bin or /usr/local/bin: no images can be made of Debian packages".to_owned() };
        Self { name: name.to_owned(), detail, ..self }
    }

    fn cells(&self) -> Vec<String> {
        let mark = if self.ok {
            "ok"
        } else if self.required {
            "MISSING"
        } else {
            "no"
        };
        vec![mark.into(), self.name.clone(), if self.required { "required" } else { "optional" }.into(), self.detail.clone()]
    }

    fn json(&self) -> Value {
        json!({"name": self.name, "ok": self.ok, "required": self.required, "detail": self.detail, "remedy": if self.ok { "" } else { &self.remedy }})
    }
}

fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|path| path.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

fn fdatasync(dir: &Path) -> Check {
    match bench::fdatasync(dir, WRITES) {
        Ok(samples) => {
            let ms = samples.median();
            let slow = if ms > FDATASYNC_SLOW_MS { "; slow, and every acknowledged change waits for it" } else { "" };
            Check::optional("fdatasync latency", true, format!("{ms:.3} ms median of {} at {}{slow}", samples.len(), dir.display()), "")
        }
        Err(error) => Check {
            name: "fdatasync latency".into(),
            ok: false,
            required: true,
            detail: format!("{error:#}"),
            remedy: "give a data folder that can be written with --data-dir".into(),
        },
    }
}

/// What sandboxes of the built-in image find is what this machine has.
fn program(name: &str, candidates: &[&str], install: &str) -> Check {
    let path = ["/usr/bin", "/usr/local/bin"].iter().flat_map(|dir| candidates.iter().map(move |c| Path::new(dir).join(c))).find(|p| p.exists());
    let ok = path.is_some();
    let detail =
        path.map_or_else(|| "not in /usr/bin or /usr/local/bin: sandboxes of the built-in image will not have it".to_owned(), |p| p.display().to_string());
    Check::optional(&format!("{name} for sandboxes"), ok, detail, &format!("on Debian: {install}"))
}

/// Whether the memory of paused sandboxes could go to disk. Processes that CRIU brings back have lost their Landlock domain,
/// which up to 4.1.1 it neither writes down nor restores, and one wall less is no way to resume; so no version is used, and
/// what was found is said.
fn memory_checkpoint() -> Check {
    let detail = match criu() {
        Err(why) => why,
        Ok((version, Err(why))) => format!("CRIU {version} does not work here: {why}"),
        Ok((version, Ok(()))) if version_of(&version) < CRIU_MIN => format!("CRIU {version} is older than {}.{}", CRIU_MIN.0, CRIU_MIN.1),
        Ok((version, Ok(()))) => format!("CRIU {version} works, but restores processes without their Landlock wall"),
    };
    Check::optional("memory checkpoints", false, format!("{detail}; a pause that keeps memory keeps it in memory"), "")
}

/// The first CRIU that works on kernels of today.
const CRIU_MIN: (u32, u32) = (4, 1);

/// The version of CRIU, and whether its own check passes.
fn criu() -> Result<(String, Result<(), String>), String> {
    let run = |argument: &str| std::process::Command::new("criu").arg(argument).stdin(std::process::Stdio::null()).output();
    let version = match run("--version") {
        Ok(done) => done,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err("no CRIU".to_owned()),
        Err(error) => return Err(format!("CRIU cannot be run: {error}")),
    };
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let version =
        text.lines().find_map(|line| line.strip_prefix("Version:")).map_or_else(|| "of unknown version".to_owned(), |version| version.trim().to_owned());
    let checked = match run("check") {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            Err(said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("its check failed").to_owned())
        }
        Err(error) => Err(error.to_string()),
    };
    Ok((version, checked))
}

fn version_of(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn port(listen: SocketAddr) -> Check {
    match TcpListener::bind(listen) {
        Ok(_) => Check { name: "API address".into(), ok: true, required: true, detail: format!("{listen} is free"), remedy: String::new() },
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Check::optional("API address", false, format!("{listen} is in use, perhaps by a running server"), "choose another with --listen if it is not")
        }
        Err(error) => Check {
            name: "API address".into(),
            ok: false,
            required: true,
            detail: format!("{listen}: {error}"),
            remedy: "choose another address with --listen".into(),
        },
    }
}

fn ssh_port() -> Check {
    let listen = settings::SSH_LISTEN_DEFAULT;
    match TcpListener::bind(listen) {
        Ok(_) => Check::optional("SSH address", true, format!("{listen} is free"), ""),
        Err(error) => Check::optional(
            "SSH address",
            false,
            format!("{listen}: {error}; without another address there is no SSH"),
            "choose another with --ssh-listen, or off",
        ),
    }
}

fn strength(checks: &[Check]) -> String {
    let missing = |required: bool| checks.iter().filter(|c| !c.ok && c.required == required).map(|c| c.name.as_str()).collect::<Vec<_>>();
    if !missing(true).is_empty() {
        return format!("none: without {} no sandbox is started.", missing(true).join(", "));
    }
    let landlock = checks.iter().any(|c| c.name.to_ascii_lowercase().contains("landlock") && c.ok);
    let walls = "own user, mount, pid, network, ipc, uts and cgroup namespaces, a range of 65,536 user ids that no host user has, a system-call filter, few capabilities, memory, cpu, process and file limits";
    let extra = if landlock { ", and Landlock as a second wall around files" } else { "; without Landlock there is no second wall around files" };
    format!("strong for a shared kernel: {walls}{extra}. It is not a virtual machine: a fault in the host's kernel that a sandbox can reach could break it.")
}
