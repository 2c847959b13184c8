//! Who may talk to whom: network policies, the addresses that no policy opens, and the judge of both.
//!
//! [`compile`] turns the policy as users write it into a [`Policy`], or says what is wrong with which field. A flow is
//! judged by [`judge`]: protected addresses first, then the traffic rules in order (the first that matches decides),
//! then the mode. What is allowed may still have to be looked into: for protocol rules and for credentials.
//! [`routes`] says what an address alone decides, so that the kernel can refuse it inside the sandbox already.
//!
//! What the judge knows of a flow grows: first its address and the names that the sandbox was told it for, later what
//! its client's first bytes say ([`sniff`]). It asks for those only when they can change the answer, so a flow that a
//! rule decides by address and port never waits.
//!
//! What cannot be told fails closed: an allow does not match, a deny and a restriction do.
use std::net::IpAddr;
use std::sync::Arc;

mod compile;
mod credential;
mod domain;
mod judge;
pub mod mcp;
mod merge;
mod prefix;
mod protected;
mod request;
mod routes;
pub mod sniff;
mod template;
mod wire;

pub use compile::{PolicyError, check_part, compile, compile_value};
pub use credential::{Binding, CredentialRule, FRAMING_HEADERS, Projection, Replacement, SshProxy, UpstreamProxy};
pub use domain::{host_of_authority, normal_name};
pub use judge::{Claim, Handling, Outcome, Said, Seen, judge};
pub use merge::merge;
pub use prefix::{Prefix, PrefixError};
pub use protected::Protected;
pub use request::{Request, RequestOutcome};
pub use routes::{Routes, routes};
pub use template::{Template, TemplateError};
pub use wire::{EgressPolicy, NetworkPolicy, PortRule, ProxyPolicy, TrafficRule};

use domain::{Domain, Domains};

/// What happens to a flow that no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    AllowAll,
    BlockAll,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowAll => "allow-all",
            Self::BlockAll => "block-all",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// An application's protocol, as far as it is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum App {
    Http,
    /// TLS, and QUIC where the flow is UDP.
    Tls,
    Ssh,
    Socks5,
    Mqtt,
    Redis,
    Amqp,
    Dns,
    Mongodb,
}

impl App {
    pub const ALL: [Self; 9] = [Self::Http, Self::Tls, Self::Ssh, Self::Socks5, Self::Mqtt, Self::Redis, Self::Amqp, Self::Dns, Self::Mongodb];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Ssh => "ssh",
            Self::Socks5 => "socks5",
            Self::Mqtt => "mqtt",
            Self::Redis => "redis",
            Self::Amqp => "amqp",
            Self::Dns => "dns",
            Self::Mongodb => "mongodb",
        }
    }

    /// Whether a client of it says whom it wants to talk to.
    pub fn has_names(self) -> bool {
        matches!(self, Self::Http | Self::Tls)
    }
}

/// A connection that a program of a sandbox asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    pub addr: IpAddr,
    pub port: u16,
    pub proto: Protocol,
}

/// The decision, and what made it, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub allow: bool,
    pub rule: Arc<str>,
}

impl Verdict {
    pub fn deny(rule: impl Into<Arc<str>>) -> Self {
        Self { allow: false, rule: rule.into() }
    }
}

/// A compiled policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    mode: Mode,
    rules: Vec<Rule>,
    protocols: Vec<ProtocolRule>,
    credentials: Vec<CredentialRule>,
    proxy: Option<UpstreamProxy>,
    /// Nothing is refused where nobody sees it.
    audit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
}

/// Matches when every kind of matcher that it has matches; a kind matches when one of its entries does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// For the user: the rule's name or its place in the policy.
    label: Arc<str>,
    action: Action,
    /// Empty: any address.
    cidrs: Vec<Prefix>,
    /// Empty: any port of any protocol.
    ports: Vec<PortRange>,
    /// Empty: any name, or none.
    domains: Domains,
    /// Empty: whatever is spoken.
    apps: Vec<AppMatch>,
}

/// What a rule's `appProtocols` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AppMatch {
    App(App),
    /// Anything over UDP.
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PortRange {
    /// None: both.
    proto: Option<Protocol>,
    first: u16,
    last: u16,
}

/// What may be asked of a server in a protocol that is looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolRule {
    pub label: Arc<str>,
    domains: Domains,
    ports: Vec<PortRange>,
    tls: TlsMode,
    only: Option<request::HttpMatch>,
    what: ProtocolWhat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ProtocolWhat {
    Http(request::HttpLimits),
    Mcp(mcp::Tools),
}

/// What becomes of TLS where a rule wants to see what is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TlsMode {
    /// Nothing was said: what cannot be seen is refused.
    Unsaid,
    /// TLS goes by unseen, as its author wants.
    Passthrough,
    Terminate,
}

impl Policy {
    /// What holds for a sandbox that says nothing about its network.
    pub fn allow_all() -> Self {
        Self::of_mode(Mode::AllowAll)
    }

    pub fn block_all() -> Self {
        Self::of_mode(Mode::BlockAll)
    }

    fn of_mode(mode: Mode) -> Self {
        Self { mode, rules: Vec::new(), protocols: Vec::new(), credentials: Vec::new(), proxy: None, audit: false }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The SOCKS5 server that everything goes through.
    pub fn proxy(&self) -> Option<&UpstreamProxy> {
        self.proxy.as_ref()
    }

    /// Whether a name can decide about anything, so that programs should have no other way to names than ours.
    pub fn has_names(&self) -> bool {
        self.rules.iter().any(|rule| !rule.domains.is_empty()) || self.protocols.iter().any(|rule| !rule.domains.is_empty()) || !self.credentials.is_empty()
    }

    /// Whether some flow's TLS is ended here and made anew, so that the sandbox has to trust this installation.
    pub fn needs_trust(&self) -> bool {
        self.protocols.iter().any(|rule| rule.tls == TlsMode::Terminate) || self.credentials.iter().any(CredentialRule::terminates)
    }

    /// Domains, as written but in lower case, whose SSH is ended here and made anew.
    pub fn ssh_domains(&self) -> impl Iterator<Item = String> {
        let ssh = self.credentials.iter().filter(|rule| matches!(rule.binding.projection, Projection::SshProxy(_)));
        ssh.flat_map(|rule| rule.domains.texts())
    }

    /// Names of the credential sources that the policy uses.
    pub fn source_refs(&self) -> impl Iterator<Item = &str> {
        let own = self.credentials.iter().map(|rule| &*rule.binding.source);
        own.chain(self.proxy.iter().filter_map(|proxy| Some(&*proxy.credential.as_ref()?.source)))
    }

    /// May this name be looked up? Asking for a name tells its server something, so block-all resolves only the names
    /// that a rule allows, and any name when a rule allows every address at some port.
    pub fn judge_name(&self, name: &str) -> Verdict {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        for rule in &self.rules {
            let named = rule.domains.matches(&name);
            match rule.action {
                Action::Deny if named && rule.ports.is_empty() && rule.cidrs.is_empty() && rule.apps.is_empty() => {
                    return rule.verdict();
                }
                Action::Allow if named || (rule.domains.is_empty() && rule.cidrs.is_empty()) => {
                    return rule.verdict();
                }
                Action::Allow | Action::Deny => {}
            }
        }
        self.default_verdict()
    }

    fn default_verdict(&self) -> Verdict {
        match self.mode {
            Mode::AllowAll => Verdict { allow: true, rule: "mode allow-all".into() },
            Mode::BlockAll => Verdict::deny("mode block-all"),
        }
    }
}

impl Rule {
    fn verdict(&self) -> Verdict {
        Verdict { allow: self.action == Action::Allow, rule: self.label.clone() }
    }

    /// Whether address and port fit.
    fn is_for(&self, flow: Flow) -> bool {
        (self.cidrs.is_empty() || self.cidrs.iter().any(|cidr| cidr.contains(flow.addr))) && fits(&self.ports, flow)
    }

    /// Address and port alone decide.
    fn is_plain(&self) -> bool {
        self.domains.is_empty() && self.apps.is_empty()
    }

    fn is_for_protocol(&self, proto: Protocol) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|range| range.proto.is_none_or(|of| of == proto))
    }
}

/// Whether a flow's port is one of these; no ports are all.
fn fits(ports: &[PortRange], flow: Flow) -> bool {
    ports.is_empty() || ports.iter().any(|range| range.matches(flow))
}

impl PortRange {
    fn matches(&self, flow: Flow) -> bool {
        self.proto.is_none_or(|proto| proto == flow.proto) && (self.first..=self.last).contains(&flow.port)
    }
}

#[cfg(test)]
mod tests;
