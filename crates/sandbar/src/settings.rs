//! What `sandbar serve` is told: flags over environment over a TOML file over defaults.
//!
//! [`Layer`] is all of them at once: clap reads flags and `SANDBAR_...` into one, serde reads the file into another,
//! and [`Layer::over`] puts the first on top of the second. So every setting exists in the three places under one name.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use sandbar_core::{
    app::receipt::Prices,
    certificates::{ORDERS_PER_WEEK, ORDERS_PER_WEEK_MAX},
    egress::{Prefix, PrefixError},
    image::ImageName,
    limits::{
        POOL_MAX_IDLE, URL_MAX_BYTES,
        app_runs::{RUNS_AT_ONCE_DEFAULT, RUNS_AT_ONCE_MAX},
    },
};
use sandbar_server::{ScriptsConfig, SshListen};
use serde::{Deserialize, Deserializer, de::Error as _};

mod receipts;
mod scripts;

use receipts::PriceTable;
use scripts::{FetchHosts, Sandbox, SmtpUrl};

/// Read when no `--config` is given and the file is there.
pub const CONFIG_PATH_DEFAULT: &str = "/etc/sandbar/sandbar.toml";
/// Where people come in by SSH when nothing is said.
pub const SSH_LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2222);
/// A configuration file beyond this many bytes is a mistake.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// As in a resolv.conf: more would never be asked in time.
const NAMESERVERS_MAX: usize = 3;

/// The settings of a server, complete and checked.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// The first admin key; the server makes one when absent.
    pub bootstrap_token: Option<String>,
    /// Public hosts are below this name.
    pub public_domain: String,
    /// Where public hosts are served besides, and nothing else is.
    pub gateway_listen: Option<SocketAddr>,
    /// Certificate and key of that listener, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The authority that issues certificates for that listener.
    pub acme: Option<AcmeSettings>,
    /// Where people come in by SSH.
    pub ssh_listen: SshListen,
    /// Reverse proxies that say truly who asks.
    pub trusted_proxies: Vec<Prefix>,
    /// Whether strangers may make an account.
    pub registration: bool,
    /// Protected ranges that sandboxes may reach all the same.
    pub egress_allow: Vec<Prefix>,
    /// Where the names that sandboxes ask for are looked up; none: as the machine's /etc/resolv.conf says.
    pub nameservers: Option<Vec<SocketAddr>>,
    /// Servers to believe besides whom the machine believes, where TLS is ended for a sandbox.
    pub egress_ca_file: Option<PathBuf>,
    /// Idle sandboxes kept ready for the built-in template.
    pub pool_min_idle: u32,
    /// Registries from which templates may have their images pulled by themselves.
    pub image_registries: Vec<String>,
    /// Who runs scripts, and what they may ask for.
    pub scripts: ScriptsConfig,
    /// Runs of apps at once.
    pub app_runs_at_once: u32,
    /// What runs of apps cost, for their receipts and budgets.
    pub prices: Option<Prices>,
    /// Form of the log.
    pub log: LogFormat,
    /// A tracing filter: a level, or directives as in `info,sandbar_node=debug`.
    pub log_level: String,
}

/// An authority that issues certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// URL of its directory.
    pub directory: String,
    /// A `mailto:` URL.
    pub contact: Option<String>,
    /// Certificates for new hosts within a week.
    pub orders_per_week: u32,
    /// Roots to believe when it is asked, a PEM file.
    pub ca: Option<PathBuf>,
}

/// Form of the server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// One source of settings; what it does not name is left to the next one.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Folder of everything durable [default: /var/lib/sandbar]
    #[arg(long, env = "SANDBAR_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address and port of the API [default: 127.0.0.1:8700]
    #[arg(long, env = "SANDBAR_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// The first admin key; without it the server makes one and prints it once
    #[arg(long, env = "SANDBAR_BOOTSTRAP_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub bootstrap_token: Option<String>,
    /// Name below which public hosts live [default: localhost]
    #[arg(long, env = "SANDBAR_PUBLIC_DOMAIN", value_name = "NAME")]
    pub public_domain: Option<String>,
    /// Address and port of a second listener, for public hosts only [default: none, they are served with the API]
    #[arg(long, env = "SANDBAR_GATEWAY_LISTEN", value_name = "ADDR:PORT")]
    pub gateway_listen: Option<SocketAddr>,
    /// Certificate chain of the gateway's listener, a PEM file; read again when it changes
    #[arg(long, env = "SANDBAR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate, a PEM file
    #[arg(long, env = "SANDBAR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Directory of an authority that issues the certificates of public hosts (ACME), for example
    /// https://acme-v02.api.letsencrypt.org/directory; setting it agrees to its terms [default: none]
    #[arg(long, env = "SANDBAR_ACME_DIRECTORY", value_name = "URL")]
    pub acme_directory: Option<String>,
    /// Whom that authority may write to, as mailto:NAME@HOST
    #[arg(long, env = "SANDBAR_ACME_CONTACT", value_name = "URL")]
    pub acme_contact: Option<String>,
    /// Certificates for new hosts that are ordered within a week, of one team a quarter [default: 40]
    #[arg(long, env = "SANDBAR_ACME_ORDERS_PER_WEEK", value_name = "N")]
    pub acme_orders_per_week: Option<u32>,
    /// Roots to believe when that authority is asked, a PEM file [default: the usual ones]
    #[arg(long, env = "SANDBAR_ACME_CA", value_name = "FILE")]
    pub acme_ca: Option<PathBuf>,
    /// Address and port where people come into sandboxes by SSH, or off [default: 127.0.0.1:2222, unless that is taken]
    #[arg(long, env = "SANDBAR_SSH_LISTEN", value_name = "ADDR:PORT")]
    pub ssh_listen: Option<SshAddress>,
    /// Reverse proxies in front of the gateway whose X-Forwarded-For is believed, as comma-separated CIDRs
    #[arg(long, env = "SANDBAR_TRUSTED_PROXIES", value_name = "CIDRS")]
    pub trusted_proxies: Option<Cidrs>,
    /// Let strangers make an account by /auth/register [default: false]
    #[arg(long, env = "SANDBAR_REGISTRATION", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub registration: Option<bool>,
    /// Private ranges that sandboxes may reach, as comma-separated CIDRs
    #[arg(long, env = "SANDBAR_EGRESS_ALLOW", value_name = "CIDRS")]
    pub egress_allow: Option<Cidrs>,
    /// Name servers that sandboxes' questions go to, as comma-separated addresses, each with a port when it is not 53
    /// [default: those of /etc/resolv.conf]
    #[arg(long, env = "SANDBAR_NAMESERVERS", value_name = "ADDRS")]
    pub nameservers: Option<Nameservers>,
    /// Roots to believe besides the machine's, where a network policy has TLS looked into, a PEM file
    #[arg(long, env = "SANDBAR_EGRESS_CA_FILE", value_name = "FILE")]
    pub egress_ca_file: Option<PathBuf>,
    /// Idle sandboxes kept ready for the built-in template [default: 4]
    #[arg(long, env = "SANDBAR_POOL_MIN_IDLE", value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(POOL_MAX_IDLE)))]
    pub pool_min_idle: Option<u32>,
    /// Registries that templates may have their images pulled from by themselves, comma-separated: hosts, `default` for
    /// names without one, or `*` for all [default: none, only `sandbar image pull`]
    #[arg(long, env = "SANDBAR_IMAGE_REGISTRIES", value_name = "HOSTS")]
    pub image_registries: Option<Hosts>,
    /// Who runs scripts: auto, quickjs, remote-http or bun-worker (also FUNCTIONS_SANDBOX) [default: auto, which is remote-http
    /// when there is an executor, else quickjs]
    #[arg(long, env = "SANDBAR_FUNCTIONS_SANDBOX", value_name = "NAME")]
    pub functions_sandbox: Option<Sandbox>,
    /// Base URL of an executor for remote-http (also FUNCTIONS_EXEC_URL) [default: none]
    #[arg(long, env = "SANDBAR_FUNCTIONS_EXEC_URL", value_name = "URL")]
    pub functions_exec_url: Option<String>,
    /// What executors that do not know grants show when they ask back (also SANDBOX_RPC_TOKEN) [default: none, only grants]
    #[arg(long, env = "SANDBAR_SANDBOX_RPC_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub sandbox_rpc_token: Option<String>,
    /// Base URL at which executors reach this server (also SELF_URL) [default: its own address]
    #[arg(long, env = "SANDBAR_SELF_URL", value_name = "URL")]
    pub self_url: Option<String>,
    /// Hosts that ctx.fetch may ask, comma-separated: HOST with all below it, *.HOST for those below alone, either with :PORT, or *
    /// for all (also FUNCTIONS_FETCH_ALLOW) [default: none]
    #[arg(long, env = "SANDBAR_FUNCTIONS_FETCH_ALLOW", value_name = "HOSTS")]
    pub functions_fetch_allow: Option<FetchHosts>,
    /// Let bun-worker run everybody's code, not only what is marked as the operator's (also
    /// FUNCTIONS_SANDBOX_TRUST_ALL_AUTHORS) [default: false]
    #[arg(long, env = "SANDBAR_FUNCTIONS_SANDBOX_TRUST_ALL_AUTHORS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = scripts::boolean)]
    pub functions_sandbox_trust_all_authors: Option<bool>,
    /// Server that takes the mail of scripts: smtp://[USER:PASSWORD@]HOST[:PORT][?tls=required|opportunistic|none] or smtps://...
    /// [default: none, mail is kept in files]
    #[arg(long, env = "SANDBAR_SMTP_URL", value_name = "URL", hide_env_values = true)]
    pub smtp_url: Option<SmtpUrl>,
    /// Whom that mail is from, as USER@HOST or NAME <USER@HOST> [default: sandbar@ and the public domain]
    #[arg(long, env = "SANDBAR_MAIL_FROM", value_name = "ADDRESS")]
    pub mail_from: Option<String>,
    /// The program of bun-worker [default: bun, where PATH has it]
    #[arg(long, env = "SANDBAR_BUN", value_name = "FILE")]
    pub bun: Option<PathBuf>,
    /// Folder of the compiled engine of scripts, which nobody else may write to; servers of one version can share it
    /// [default: script-cache below the data directory]
    #[arg(long, env = "SANDBAR_SCRIPT_CACHE_DIR", value_name = "DIR")]
    pub script_cache_dir: Option<PathBuf>,
    /// Runs of apps at once; of one team at most half of them [default: 64]
    #[arg(long, env = "SANDBAR_APP_RUNS_AT_ONCE", value_name = "N")]
    pub app_runs_at_once: Option<u32>,
    /// What runs of apps cost, for their receipts and budgets: currency=USD and any of run, cpu_hour, memory_gib_hour, disk_gib and network_gib,
    /// each with _micros=MILLIONTHS; in TOML also a table [default: none, receipts have no price and budgets are refused]
    #[arg(long, env = "SANDBAR_PRICES", value_name = "PRICES")]
    pub prices: Option<PriceTable>,
    /// Form of the log [default: text]
    #[arg(long, env = "SANDBAR_LOG", value_enum, value_name = "FORM")]
    pub log: Option<LogFormat>,
    /// A level or tracing filter, for example info or info,sandbar_node=debug [default: info]
    #[arg(long, env = "SANDBAR_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
}

impl Layer {
    /// This layer where it says something, `below` where it does not.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            listen: self.listen.or(below.listen),
            bootstrap_token: self.bootstrap_token.or(below.bootstrap_token),
            public_domain: self.public_domain.or(below.public_domain),
            gateway_listen: self.gateway_listen.or(below.gateway_listen),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            acme_directory: self.acme_directory.or(below.acme_directory),
            acme_contact: self.acme_contact.or(below.acme_contact),
            acme_orders_per_week: self.acme_orders_per_week.or(below.acme_orders_per_week),
            acme_ca: self.acme_ca.or(below.acme_ca),
            ssh_listen: self.ssh_listen.or(below.ssh_listen),
            trusted_proxies: self.trusted_proxies.or(below.trusted_proxies),
            registration: self.registration.or(below.registration),
            egress_allow: self.egress_allow.or(below.egress_allow),
            nameservers: self.nameservers.or(below.nameservers),
            egress_ca_file: self.egress_ca_file.or(below.egress_ca_file),
            pool_min_idle: self.pool_min_idle.or(below.pool_min_idle),
            image_registries: self.image_registries.or(below.image_registries),
            functions_sandbox: self.functions_sandbox.or(below.functions_sandbox),
            functions_exec_url: self.functions_exec_url.or(below.functions_exec_url),
            sandbox_rpc_token: self.sandbox_rpc_token.or(below.sandbox_rpc_token),
            self_url: self.self_url.or(below.self_url),
            functions_fetch_allow: self.functions_fetch_allow.or(below.functions_fetch_allow),
            functions_sandbox_trust_all_authors: self.functions_sandbox_trust_all_authors.or(below.functions_sandbox_trust_all_authors),
            smtp_url: self.smtp_url.or(below.smtp_url),
            mail_from: self.mail_from.or(below.mail_from),
            bun: self.bun.or(below.bun),
            script_cache_dir: self.script_cache_dir.or(below.script_cache_dir),
            app_runs_at_once: self.app_runs_at_once.or(below.app_runs_at_once),
            prices: self.prices.or(below.prices),
            log: self.log.or(below.log),
            log_level: self.log_level.or(below.log_level),
        }
    }

    /// Fills in the defaults and checks what a type cannot.
    pub fn complete(mut self) -> anyhow::Result<ServeSettings> {
        let scripts = self.take_scripts()?;
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => bail!("tls_cert needs its tls_key"),
            (None, Some(_)) => bail!("tls_key needs its tls_cert"),
        };
        if tls.is_some() && self.gateway_listen.is_none() {
            bail!("tls_cert and tls_key are for the gateway's own listener; give it an address with gateway_listen");
        }
        let acme = match self.acme_directory.filter(|url| !url.is_empty()) {
            Some(directory) => Some(AcmeSettings {
                directory,
                contact: self.acme_contact.filter(|url| !url.is_empty()),
                orders_per_week: self.acme_orders_per_week.unwrap_or(ORDERS_PER_WEEK),
                ca: self.acme_ca,
            }),
            None if self.acme_contact.is_some() || self.acme_orders_per_week.is_some() || self.acme_ca.is_some() => {
                bail!("acme_contact, acme_orders_per_week and acme_ca are for an authority; name it with acme_directory")
            }
            None => None,
        };
        if acme.is_some() && self.gateway_listen.is_none() {
            bail!("acme_directory is for the gateway's own listener; give it an address with gateway_listen");
        }
        let settings = ServeSettings {
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("/var/lib/sandbar")),
            listen: self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8700))),
            bootstrap_token: self.bootstrap_token.filter(|token| !token.is_empty()),
            public_domain: self.public_domain.unwrap_or_else(|| "localhost".into()),
            gateway_listen: self.gateway_listen,
            tls,
            acme,
            ssh_listen: self.ssh_listen.map_or(SshListen::IfFree(SSH_LISTEN_DEFAULT), |given| given.0),
            trusted_proxies: self.trusted_proxies.unwrap_or_default().0,
            registration: self.registration.unwrap_or(false),
            egress_allow: self.egress_allow.unwrap_or_default().0,
            nameservers: self.nameservers.map(|list| list.0).filter(|list| !list.is_empty()),
            egress_ca_file: self.egress_ca_file.filter(|path| !path.as_os_str().is_empty()),
            pool_min_idle: self.pool_min_idle.unwrap_or(4),
            image_registries: self.image_registries.unwrap_or_default().0,
            scripts,
            app_runs_at_once: self.app_runs_at_once.unwrap_or(RUNS_AT_ONCE_DEFAULT),
            prices: self.prices.and_then(|table| table.0),
            log: self.log.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
        };
        if settings.data_dir.as_os_str().is_empty() {
            bail!("data_dir is empty; it must name a folder");
        }
        if let Some(token) = &settings.bootstrap_token
            && (token.len() < 8 || token.len() > 200 || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            bail!("bootstrap_token must be 8 to 200 visible ASCII characters");
        }
        if !is_domain(&settings.public_domain) {
            bail!("public_domain {:?} is no host name", settings.public_domain);
        }
        if let Some(acme) = &settings.acme {
            acme.check(&settings.public_domain)?;
        }
        if settings.pool_min_idle > POOL_MAX_IDLE {
            bail!("pool_min_idle {} is above {POOL_MAX_IDLE}", settings.pool_min_idle);
        }
        if !(1..=RUNS_AT_ONCE_MAX).contains(&settings.app_runs_at_once) {
            bail!("app_runs_at_once {} is not from 1 to {RUNS_AT_ONCE_MAX}", settings.app_runs_at_once);
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&settings.log_level) {
            bail!("log_level {:?} is no tracing filter: {error}", settings.log_level);
        }
        Ok(settings)
    }
}

impl AcmeSettings {
    fn check(&self, domain: &str) -> anyhow::Result<()> {
        if !(1..=ORDERS_PER_WEEK_MAX).contains(&self.orders_per_week) {
            bail!("acme_orders_per_week {} is not from 1 to {ORDERS_PER_WEEK_MAX}", self.orders_per_week);
        }
        let is_url = |host: &str| !host.is_empty() && host.len() <= URL_MAX_BYTES && host.bytes().all(|b| b.is_ascii_graphic());
        if !self.directory.strip_prefix("https://").is_some_and(is_url) {
            bail!("acme_directory {:?} is no https URL", self.directory);
        }
        if let Some(contact) = &self.contact
            && !contact.strip_prefix("mailto:").is_some_and(|address| is_url(address) && address.contains('@'))
        {
            bail!("acme_contact {contact:?} is not of the form mailto:NAME@HOST");
        }
        let local = domain.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost") || last.bytes().all(|b| b.is_ascii_digit()));
        if local || !domain.contains('.') {
            bail!("acme_directory needs a public_domain that the world can look up, and {domain:?} is none");
        }
        Ok(())
    }
}

/// Reads settings: `flags` (which clap already put over the environment), the environment by the names that other products use,
/// then the file, then `defaults` of the command.
///
/// # Errors
/// The file cannot be read, has a key that no setting has, or a value does not fit.
pub fn load(flags: Layer, config: Option<&Path>, defaults: Layer) -> anyhow::Result<ServeSettings> {
    let file = match config {
        Some(path) => read(path)?,
        None if Path::new(CONFIG_PATH_DEFAULT).exists() => read(Path::new(CONFIG_PATH_DEFAULT))?,
        None => Layer::default(),
    };
    let known = Layer::of_known_names(|name| std::env::var(name).ok())?;
    flags.over(known).over(file).over(defaults).complete()
}

fn read(path: &Path) -> anyhow::Result<Layer> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read the configuration {}", path.display()))?.len();
    if size > CONFIG_BYTES_MAX {
        bail!("the configuration {} has {size} bytes; at most {CONFIG_BYTES_MAX} are read", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    parse(&text).with_context(|| format!("the configuration {} is wrong", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Layer> {
    Ok(toml::from_str(text)?)
}

fn is_domain(name: &str) -> bool {
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    name.len() <= 190 && name.split('.').all(label)
}

/// Where people come in by SSH: an address and port, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SshAddress(pub SshListen);

impl FromStr for SshAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(SshListen::Off));
        }
        let address = text.parse().map_err(|_| format!("{text:?} is neither an address with a port, such as 0.0.0.0:2222, nor off"))?;
        Ok(Self(SshListen::At(address)))
    }
}

impl<'de> Deserialize<'de> for SshAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Ranges: comma-separated text, in TOML also a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cidrs(pub Vec<Prefix>);

impl FromStr for Cidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(|error: PrefixError| error.to_string()))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Cidrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        joined(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Name servers: comma-separated text, in TOML also a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nameservers(pub Vec<SocketAddr>);

impl FromStr for Nameservers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let server = |part: &str| {
            let port_53 = |addr: IpAddr| SocketAddr::new(addr, 53);
            part.parse()
                .or_else(|_| part.parse().map(port_53))
                .map_err(|_| format!("{part:?} is no address of a name server, as in 192.0.2.53 or [2001:db8::53]:5353"))
        };
        let list: Vec<_> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(server).collect::<Result<_, _>>()?;
        if list.len() > NAMESERVERS_MAX {
            return Err(format!("{} name servers; at most {NAMESERVERS_MAX} are asked", list.len()));
        }
        Ok(Self(list))
    }
}

impl<'de> Deserialize<'de> for Nameservers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        joined(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Registries: comma-separated text, in TOML also a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(pub Vec<String>);

impl FromStr for Hosts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = |part: &str| match part {
            "*" | "default" => Ok(part.to_owned()),
            part => match format!("{part}/x").parse::<ImageName>() {
                Ok(name) if name.registry.as_deref() == Some(part) => Ok(part.to_owned()),
                _ => Err(format!("{part:?} is no HOST or HOST:PORT of a registry, `default` or `*`")),
            },
        };
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(host).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        joined(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A list, or a text of comma-separated entries, as the latter.
fn joined<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::Text(text) => text,
        Form::List(list) => list.join(","),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = parse("listen = '127.0.0.1:9000'\npool_min_idle = 7\negress_allow = ['10.0.0.0/8', '::1']\n").unwrap();
        let flags = Layer { pool_min_idle: Some(2), ..Layer::default() };
        let settings = flags.over(file).complete().unwrap();
        assert_eq!(settings.listen.port(), 9000);
        assert_eq!(settings.pool_min_idle, 2);
        assert_eq!(settings.public_domain, "localhost");
        assert_eq!(settings.egress_allow.iter().map(Prefix::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    }

    #[test]
    fn an_authority_needs_a_listener_and_a_real_domain() {
        let rest = "gateway_listen = '0.0.0.0:443'\npublic_domain = 'example.com'\n";
        let complete = |text: &str| parse(text).unwrap().complete();
        let acme = complete(&format!("{rest}acme_directory = 'https://ca.example/dir'\nacme_contact = 'mailto:a@example.com'")).unwrap().acme.unwrap();
        assert_eq!((acme.directory.as_str(), acme.contact.as_deref(), acme.ca), ("https://ca.example/dir", Some("mailto:a@example.com"), None));
        for (text, named) in [
            ("public_domain = 'example.com'\nacme_directory = 'https://ca.example/dir'", "gateway_listen"),
            ("gateway_listen = '0.0.0.0:443'\nacme_directory = 'https://ca.example/dir'", "public_domain"),
            ("gateway_listen = '0.0.0.0:443'\npublic_domain = '10.0.0.1'\nacme_directory = 'https://ca.example/dir'", "public_domain"),
            ("gateway_listen = '0.0.0.0:443'\npublic_domain = 'example.com'\nacme_directory = 'http://ca.example/dir'", "https"),
            ("gateway_listen = '0.0.0.0:443'\npublic_domain = 'example.com'\nacme_contact = 'mailto:a@example.com'", "acme_directory"),
            ("gateway_listen = '0.0.0.0:443'\npublic_domain = 'example.com'\nacme_directory = 'https://ca.example/dir'\nacme_contact = 'a@b'", "mailto"),
        ] {
            let error = complete(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn name_servers_have_port_53_when_none_is_said() {
        let list = |text: &str| parse(text).unwrap().complete().unwrap().nameservers.map(|list| list.iter().map(SocketAddr::to_string).collect::<Vec<_>>());
        assert_eq!(list("nameservers = '192.0.2.53, [2001:db8::53]:5353,2001:db8::1'").unwrap(), ["192.0.2.53:53", "[2001:db8::53]:5353", "[2001:db8::1]:53"]);
        assert_eq!(list("nameservers = ['192.0.2.53']").unwrap(), ["192.0.2.53:53"]);
        for unsaid in ["", "nameservers = ''", "nameservers = []"] {
            assert_eq!(list(unsaid), None, "{unsaid}");
        }
    }

    #[test]
    fn ssh_listens_where_it_is_told_and_else_where_it_can() {
        let listen = |text: &str| parse(text).unwrap().complete().unwrap().ssh_listen;
        assert_eq!(listen(""), SshListen::IfFree(SSH_LISTEN_DEFAULT));
        assert_eq!(listen("ssh_listen = 'off'"), SshListen::Off);
        assert_eq!(listen("ssh_listen = '0.0.0.0:22'"), SshListen::At(SocketAddr::from(([0, 0, 0, 0], 22))));
        assert!(parse("ssh_listen = 'yes'").unwrap_err().to_string().contains("nor off"));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = format!("{:#}", parse("data_dirr = '/x'\n").unwrap_err());
        assert!(error.contains("data_dirr") && error.contains("data_dir"), "{error}");
    }

    #[test]
    fn wrong_values_are_refused() {
        assert_eq!("127.0.0.1:5000, default,*".parse::<Hosts>().unwrap().0, ["127.0.0.1:5000", "default", "*"]);
        for text in [
            "image_registries = ['http://a.b']",
            "image_registries = 'a b'",
            "egress_allow = '10.0.0.0/33'",
            "egress_allow = 'example.com'",
            "nameservers = 'dns.example'",
            "nameservers = '192.0.2.53:99999'",
            "nameservers = '192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4'",
            "pool_min_idle = -1",
            "log = 'xml'",
            "listen = 'localhost'",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["public_domain = 'a..b'", "bootstrap_token = 'a b c d e f'", "log_level = 'a=b=c'", "pool_min_idle = 20000"] {
            assert!(parse(text).unwrap().complete().is_err(), "{text}");
        }
    }
}
