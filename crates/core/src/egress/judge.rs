//! The decision about a flow, by what is known of it so far.
use std::sync::Arc;

use super::credential::CredentialRule;
use super::{Action, App, AppMatch, Domains, Flow, Policy, Protected, Protocol, ProtocolRule, Rule, TlsMode, Verdict, fits};

/// What is known of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub flow: Flow,
    /// The names that the sandbox was told this address for, in the form of [`super::normal_name`].
    pub names: &'a [Arc<str>],
    pub said: Said<'a>,
}

/// What the client has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// Its first bytes have not been looked at.
    Nothing,
    /// They were. No `app`: none that we tell apart, or the client waits for the server to speak first.
    Bytes { app: Option<App>, name: Claim<'a> },
}

/// Whom the client says it wants to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'a> {
    /// Nobody, or an address: there is no place for a name, or it was left out.
    Absent,
    /// It is encrypted or cannot be read.
    Hidden,
    /// Each request of the connection will say it.
    Later,
    /// `belongs` says whether the flow's address is one of that name's.
    Name { name: &'a str, belongs: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Decided {
        verdict: Verdict,
        handling: Handling,
    },
    /// The client's first bytes decide. `silent` holds as long as it says nothing: some wait for the server to begin.
    Listen {
        silent: Verdict,
    },
}

impl Outcome {
    /// True when the flow is allowed without a look at its bytes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Decided { verdict, .. } if verdict.allow)
    }
}

/// What becomes of an allowed flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Its bytes go through as they are.
    Pass,
    /// It is HTTP, and each request is judged.
    Http,
    /// Its TLS is ended here and made anew. With `http` each request inside is judged; else bytes go through.
    Terminate { http: bool },
    /// The proxy logs in for the client, in this protocol.
    Login(App),
}

/// Decides about a flow.
pub fn judge(policy: &Policy, protected: &Protected, seen: &Seen<'_>) -> Outcome {
    let seen = Seen { flow: Flow { addr: seen.flow.addr.to_canonical(), ..seen.flow }, ..*seen };
    if let Some(reason) = protected.reason(seen.flow.addr) {
        return refused(Verdict::deny(format!("protected address: {reason}")));
    }
    if policy.proxy.is_some() && seen.flow.proto == Protocol::Udp {
        return refused(Verdict::deny("egress.proxy (UDP does not go through it)"));
    }
    match policy.traffic(&seen) {
        // The connection itself decides nothing, each request does.
        Traffic::Open if matches!(seen.said, Said::Bytes { name: Claim::Later, .. }) => {
            Outcome::Decided { verdict: Verdict { allow: true, rule: "each request is judged".into() }, handling: Handling::Http }
        }
        Traffic::Open => policy.listen(protected, &seen),
        Traffic::Decided(verdict) if !verdict.allow => refused(verdict),
        Traffic::Decided(verdict) => policy.handling(protected, &seen, verdict),
    }
}

fn refused(verdict: Verdict) -> Outcome {
    Outcome::Decided { verdict, handling: Handling::Pass }
}

/// What the traffic rules say.
pub(super) enum Traffic {
    Decided(Verdict),
    /// The client's bytes can change it.
    Open,
}

/// Whether a rule is about a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    No,
    Yes,
    /// The client's bytes will tell.
    Open,
    /// Nothing will.
    Unclear,
}

impl Policy {
    pub(super) fn traffic(&self, seen: &Seen<'_>) -> Traffic {
        // What rules before would decide if the bytes made them match.
        let mut possible = [false, false];
        let mut decided = None;
        for rule in &self.rules {
            let is_match = match rule.matches(seen) {
                Match::No => false,
                Match::Yes => true,
                Match::Unclear => rule.action == Action::Deny,
                Match::Open => {
                    possible[usize::from(rule.action == Action::Allow)] = true;
                    false
                }
            };
            if is_match {
                decided = Some(rule.verdict());
                break;
            }
        }
        let verdict = decided.unwrap_or_else(|| self.default_verdict());
        if possible[usize::from(!verdict.allow)] { Traffic::Open } else { Traffic::Decided(verdict) }
    }

    /// The bytes are needed; says what holds without any.
    fn listen(&self, protected: &Protected, seen: &Seen<'_>) -> Outcome {
        let silent = Seen { said: Said::Bytes { app: None, name: Claim::Absent }, ..*seen };
        match judge(self, protected, &silent) {
            Outcome::Decided { verdict, .. } | Outcome::Listen { silent: verdict } => Outcome::Listen { silent: verdict },
        }
    }

    /// What has to be done with a flow that the traffic rules allow.
    fn handling(&self, protected: &Protected, seen: &Seen<'_>, verdict: Verdict) -> Outcome {
        let pass = |verdict| Outcome::Decided { verdict, handling: Handling::Pass };
        let restricting = || self.protocols.iter().filter(|rule| rule.may_be_for(seen));
        let mut granting = self.credentials.iter().filter(|rule| rule.may_be_for(seen)).peekable();
        let Said::Bytes { app, .. } = seen.said else {
            let looks = restricting().next().is_some() || granting.peek().is_some();
            return if looks { self.listen(protected, seen) } else { pass(verdict) };
        };
        if seen.flow.proto == Protocol::Udp {
            // QUIC cannot be ended here; what a rule wants to see of HTTP would go by unseen.
            return match restricting().find(|rule| app == Some(App::Tls) && rule.tls != TlsMode::Passthrough) {
                Some(rule) => refused(Verdict::deny(format!("{} (QUIC is not looked into; TLS over TCP is)", rule.label))),
                None => pass(verdict),
            };
        }
        match app {
            Some(App::Http) => {
                let looks = restricting().next().is_some() || granting.any(CredentialRule::is_for_http) || self.hangs_on_names(seen.flow);
                let handling = if looks { Handling::Http } else { Handling::Pass };
                Outcome::Decided { verdict, handling }
            }
            Some(App::Tls) => {
                let mut terminate = None;
                for rule in restricting() {
                    match rule.tls {
                        TlsMode::Unsaid => {
                            return refused(Verdict::deny(format!("{} (TLS is not looked into without tlsMode terminate-reoriginate)", rule.label)));
                        }
                        TlsMode::Passthrough => {}
                        TlsMode::Terminate => terminate = Some(Handling::Terminate { http: true }),
                    }
                }
                for rule in granting.filter(|rule| rule.terminates()) {
                    let http = rule.is_for_https() || terminate == Some(Handling::Terminate { http: true });
                    terminate = Some(Handling::Terminate { http });
                }
                Outcome::Decided { verdict, handling: terminate.unwrap_or(Handling::Pass) }
            }
            other => {
                // Whoever asks for HTTP rules at a place wants HTTP there. Without a place, they are about HTTP wherever it is.
                let unclear = |rule: &&ProtocolRule| !(rule.domains.is_empty() && rule.ports.is_empty());
                if let Some(rule) = restricting().find(unclear) {
                    return refused(Verdict::deny(format!("{} (this is no HTTP)", rule.label)));
                }
                let login = other.filter(|app| granting.any(|rule| rule.is_login(*app)));
                Outcome::Decided { verdict, handling: login.map_or(Handling::Pass, Handling::Login) }
            }
        }
    }

    /// Whether a later request of the same connection, with another name, could be judged otherwise.
    fn hangs_on_names(&self, flow: Flow) -> bool {
        let deciding = self.rules.iter().find(|rule| rule.is_for(flow) && (rule.is_plain() || !rule.domains.is_empty()));
        deciding.is_some_and(|rule| !rule.domains.is_empty()) || self.protocols.iter().any(|rule| fits(&rule.ports, flow))
    }

    /// The credential that makes the TLS to a server one with a client's certificate.
    pub fn certificate_for(&self, seen: &Seen<'_>) -> Option<&CredentialRule> {
        self.credentials.iter().find(|rule| rule.is_certificate() && rule.is_for(seen))
    }

    /// The credential to log in with.
    pub fn login_for(&self, seen: &Seen<'_>, app: App) -> Option<&CredentialRule> {
        self.credentials.iter().find(|rule| rule.is_login(app) && rule.is_for(seen))
    }
}

impl Rule {
    fn matches(&self, seen: &Seen<'_>) -> Match {
        if !self.is_for(seen.flow) {
            return Match::No;
        }
        let apps = match seen.said {
            _ if self.apps.is_empty() => Match::Yes,
            _ if self.apps.contains(&AppMatch::Udp) && seen.flow.proto == Protocol::Udp => Match::Yes,
            Said::Nothing => Match::Open,
            Said::Bytes { app, .. } if app.is_some_and(|app| self.apps.contains(&AppMatch::App(app))) => Match::Yes,
            Said::Bytes { .. } => Match::No,
        };
        match (apps, name_match(&self.domains, seen)) {
            (Match::No, _) | (_, Match::No) => Match::No,
            (Match::Open, _) | (_, Match::Open) => Match::Open,
            (Match::Unclear, _) | (_, Match::Unclear) => Match::Unclear,
            (Match::Yes, Match::Yes) => Match::Yes,
        }
    }
}

/// Whether a flow is to one of these domains.
fn name_match(domains: &Domains, seen: &Seen<'_>) -> Match {
    if domains.is_empty() {
        return Match::Yes;
    }
    let Said::Bytes { app, name } = seen.said else {
        return Match::Open;
    };
    match name {
        Claim::Name { name, belongs: true } => yes_if(domains.matches(name)),
        // A lie, or a name that we cannot find: it allows nothing, and hides nothing.
        Claim::Name { belongs: false, .. } | Claim::Hidden => Match::Unclear,
        Claim::Later => Match::Open,
        // Who could have said a name and did not may mean any that lives at this address.
        Claim::Absent if app.is_some_and(App::has_names) || seen.names.is_empty() => Match::Unclear,
        Claim::Absent => yes_if(seen.names.iter().any(|name| domains.matches(name))),
    }
}

fn yes_if(is_match: bool) -> Match {
    if is_match { Match::Yes } else { Match::No }
}

impl ProtocolRule {
    /// False only when the flow is surely to somewhere else.
    pub(super) fn may_be_for(&self, seen: &Seen<'_>) -> bool {
        fits(&self.ports, seen.flow) && name_match(&self.domains, seen) != Match::No
    }
}

impl CredentialRule {
    /// True only when the flow is surely to one of the rule's domains.
    pub fn is_for(&self, seen: &Seen<'_>) -> bool {
        self.enabled && fits(&self.ports, seen.flow) && name_match(&self.domains, seen) == Match::Yes
    }

    /// True too when the client's bytes can make it so.
    fn may_be_for(&self, seen: &Seen<'_>) -> bool {
        self.enabled && fits(&self.ports, seen.flow) && matches!(name_match(&self.domains, seen), Match::Yes | Match::Open)
    }
}
