//! Who may talk to whom: network policies, the addresses that no policy opens, and the judge of both.
//!
//! [`compile`] turns the policy as users write it into a [`Policy`], or says what is wrong with which field. A flow is
//! judged by [`judge`]: protected addresses first, then the rules in order (the first that matches decides), then the
//! mode. [`routes`] says what an address alone decides, so that the kernel can refuse it inside the sandbox already.
//!
//! Rules are judged by address, port and protocol. What a rule says beyond that (domains, application protocols) is
//! not looked at yet and fails closed: such an allow matches nothing, such a deny matches all of its address and port
//! part. The same holds for `protocolRules` (denied where they would apply) and `proxy` (everything is denied).
use std::net::IpAddr;
use std::sync::Arc;

mod compile;
mod merge;
mod prefix;
mod protected;
mod routes;
mod wire;

pub use compile::{PolicyError, compile, compile_value};
pub use merge::merge;
pub use prefix::{Prefix, PrefixError};
pub use protected::Protected;
pub use routes::{Routes, routes};
pub use wire::{EgressPolicy, NetworkPolicy, PortRule, ProtocolRule, ProxyPolicy, TrafficRule};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A connection that a program of a sandbox asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A compiled policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    mode: Mode,
    rules: Vec<Rule>,
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
    domains: Vec<Domain>,
    /// It says something that is not judged yet.
    partial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PortRange {
    /// None: both.
    proto: Option<Protocol>,
    first: u16,
    last: u16,
}

/// In lower case, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Domain {
    Exact(String),
    /// The name itself and everything below it.
    Tree(String),
}

impl Policy {
    /// What holds for a sandbox that says nothing about its network.
    pub fn allow_all() -> Self {
        Self { mode: Mode::AllowAll, rules: Vec::new() }
    }

    pub fn block_all() -> Self {
        Self { mode: Mode::BlockAll, rules: Vec::new() }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// May this name be looked up? Asking for a name tells its server something, so block-all resolves only the names
    /// that a rule allows, and any name when a rule allows every address at some port.
    pub fn judge_name(&self, name: &str) -> Verdict {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        for rule in &self.rules {
            let named = rule.domains.iter().any(|domain| domain.matches(&name));
            match rule.action {
                Action::Deny if named && rule.ports.is_empty() && rule.cidrs.is_empty() => {
                    return rule.verdict();
                }
                Action::Allow if named || (rule.domains.is_empty() && rule.cidrs.is_empty() && rule.is_for_tcp()) => {
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
            Mode::BlockAll => Verdict { allow: false, rule: "mode block-all".into() },
        }
    }
}

impl Rule {
    fn verdict(&self) -> Verdict {
        Verdict { allow: self.action == Action::Allow, rule: self.label.clone() }
    }

    fn matches(&self, flow: Flow) -> bool {
        if self.partial && self.action == Action::Allow {
            return false;
        }
        (self.cidrs.is_empty() || self.cidrs.iter().any(|cidr| cidr.contains(flow.addr)))
            && (self.ports.is_empty() || self.ports.iter().any(|range| range.matches(flow)))
    }

    fn is_for_tcp(&self) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|range| range.proto != Some(Protocol::Udp))
    }
}

impl PortRange {
    fn matches(&self, flow: Flow) -> bool {
        self.proto.is_none_or(|proto| proto == flow.proto) && (self.first..=self.last).contains(&flow.port)
    }
}

impl Domain {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(domain) => name == domain,
            Self::Tree(domain) => name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        }
    }
}

/// Decides about a flow. Nothing but TCP is carried.
pub fn judge(policy: &Policy, protected: &Protected, flow: Flow) -> Verdict {
    let flow = Flow { addr: flow.addr.to_canonical(), ..flow };
    if flow.proto == Protocol::Udp {
        return Verdict { allow: false, rule: "udp is not carried".into() };
    }
    if let Some(reason) = protected.reason(flow.addr) {
        return Verdict { allow: false, rule: format!("protected address: {reason}").into() };
    }
    let rule = policy.rules.iter().find(|rule| rule.matches(flow));
    rule.map_or_else(|| policy.default_verdict(), Rule::verdict)
}

#[cfg(test)]
mod tests;
