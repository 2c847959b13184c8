//! The open connections of a sandbox, and what is known of each: so that a policy that changes can judge them again.
use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use sandbar_core::egress::{
    self as rules, App, Claim, CredentialRule, Flow, Handling, Outcome, Policy, Protected, ProtocolRule, Request, RequestOutcome, Said, Seen, Verdict,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Attached, Inner, Sources};

/// What a flow was judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    pub flow: Flow,
    /// The names that the sandbox was told the address for.
    pub names: Vec<Arc<str>>,
    /// What its first bytes say, when they were looked at.
    pub said: Option<(Option<App>, Name)>,
}

/// Whom a client says it wants to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Absent,
    Hidden,
    /// Each request will say it.
    Later,
    Said {
        name: String,
        belongs: bool,
    },
}

impl Evidence {
    /// As the judge takes it.
    pub fn seen(&self) -> Seen<'_> {
        let said = match &self.said {
            None => Said::Nothing,
            Some((app, name)) => {
                let name = match name {
                    Name::Absent => Claim::Absent,
                    Name::Hidden => Claim::Hidden,
                    Name::Later => Claim::Later,
                    Name::Said { name, belongs } => Claim::Name { name, belongs: *belongs },
                };
                Said::Bytes { app: *app, name }
            }
        };
        Seen { flow: self.flow, names: &self.names, said }
    }

    /// Whom the user would say the flow is to.
    pub fn host(&self) -> Option<&str> {
        match &self.said {
            Some((_, Name::Said { name, .. })) => Some(name),
            Some((_, Name::Absent | Name::Hidden | Name::Later)) | None => self.names.first().map(|name| &**name),
        }
    }

    /// Whether the client said a name.
    pub fn is_named(&self) -> bool {
        matches!(self.said, Some((_, Name::Said { .. })))
    }

    /// With those names alone that a rule is for, if it is for any of them.
    pub fn meant_by(&self, rule: &CredentialRule) -> Self {
        let seen = self.seen();
        let is_meant = |name: &&Arc<str>| rule.is_for(&Seen { names: std::slice::from_ref(*name), ..seen });
        let names: Vec<_> = self.names.iter().filter(is_meant).cloned().collect();
        if names.is_empty() { self.clone() } else { Self { names, ..self.clone() } }
    }

    /// The name that the client said, when the address is one of it.
    pub fn proven_name(&self) -> Option<&str> {
        match &self.said {
            Some((_, Name::Said { name, belongs: true })) => Some(name),
            Some((_, Name::Said { belongs: false, .. } | Name::Absent | Name::Hidden | Name::Later)) | None => None,
        }
    }

    pub fn app(&self) -> Option<App> {
        self.said.as_ref().and_then(|(app, _)| *app)
    }
}

/// What was asked of a server, and by what it was judged.
pub(super) struct Asked {
    pub evidence: Evidence,
    /// It came within TLS.
    pub tls: bool,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// For its head.
    pub _room: OwnedSemaphorePermit,
}

impl Asked {
    /// Calls `judge` with the request as the judge takes it.
    pub fn with<T>(&self, judge: impl FnOnce(&Request<'_>) -> T) -> T {
        // A value that is no text fits no text.
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), std::str::from_utf8(value.as_bytes()).unwrap_or_default())).collect();
        let path = if self.uri.path().is_empty() { "/" } else { self.uri.path() };
        judge(&Request { tls: self.tls, method: self.method.as_str(), path, query: self.uri.query(), headers: &headers })
    }

    /// Whether it is still allowed, with the same secret and the same rules about its body.
    fn holds(&self, before: &Policy, policy: &Policy, protected: &Protected) -> bool {
        self.with(|request| {
            let [was, is] = [before, policy].map(|policy| policy.judge_request(protected, &self.evidence.seen(), request));
            match (was, is) {
                (RequestOutcome::Allow { credential: was, mcp: before, .. }, RequestOutcome::Allow { credential: is, mcp: now, .. }) => {
                    was == is && before == now
                }
                (RequestOutcome::Deny(_), _) | (_, RequestOutcome::Deny(_)) => false,
            }
        })
    }
}

/// What is done with a request that is allowed.
pub(super) struct Allowed {
    pub verdict: Verdict,
    pub credential: Option<CredentialRule>,
    /// Those of the policy that has judged it: another may hold by now.
    pub sources: Sources,
    pub mcp: Vec<ProtocolRule>,
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its first bytes are waited for; `dialled` when the server was already connected to.
    Listening {
        dialled: bool,
    },
    Carried(Handling),
}

/// The open connections of one sandbox by number. Bounded by [`super::proxy::FLOWS_MAX`].
#[derive(Default)]
pub(super) struct Flows {
    open: HashMap<u64, Open>,
    next: u64,
}

struct Open {
    evidence: Arc<Evidence>,
    stage: Stage,
    cut: CancellationToken,
    /// Requests that are not answered to the end. Bounded by what one connection may ask at once.
    asked: HashMap<u64, Asked>,
}

impl Flows {
    /// Cuts all.
    pub fn cut(&self) {
        for open in self.open.values() {
            open.cut.cancel();
        }
    }

    /// Cuts what a policy refuses, or would have handled otherwise from the start.
    pub fn judge(&self, before: &Policy, policy: &Policy, protected: &Protected) {
        // By another way: whatever was sent and received is not to be continued there.
        let same_way = before.proxy() == policy.proxy();
        for open in self.open.values() {
            let seen = open.evidence.seen();
            let outcome = rules::judge(policy, protected, &seen);
            let holds = match (open.stage, &outcome) {
                // Who was logged in by another rule might not be any more, or as somebody else.
                (Stage::Carried(Handling::Terminate { .. }), _) if before.certificate_for(&seen) != policy.certificate_for(&seen) => false,
                (Stage::Carried(Handling::Login(app)), _) if before.login_for(&seen, app) != policy.login_for(&seen, app) => false,
                (Stage::Carried(handling), Outcome::Decided { verdict, handling: now }) => verdict.allow && handling == *now,
                // What should have been looked at has gone by.
                (Stage::Carried(_), Outcome::Listen { .. }) => false,
                (Stage::Listening { .. }, Outcome::Decided { verdict, .. }) => verdict.allow,
                (Stage::Listening { dialled }, Outcome::Listen { silent }) => silent.allow || !dialled,
            };
            if !same_way || !holds || !open.asked.values().all(|asked| asked.holds(before, policy, protected)) {
                open.cut.cancel();
            }
        }
    }
}

/// What became of a flow that was shown to the judge.
pub(super) enum Admitted {
    Refused(Verdict),
    /// Address and port decide.
    Carried(Verdict, OpenFlow),
    /// Its first bytes will tell; until then this holds.
    Listening(Verdict, OpenFlow),
}

/// A connection in the list of open ones, until it is dropped.
pub(super) struct OpenFlow {
    attached: Arc<Attached>,
    number: u64,
    pub cut: CancellationToken,
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        self.attached.state().flows.open.remove(&self.number);
    }
}

/// A request in the list of its connection, until it is dropped.
pub(super) struct OpenRequest {
    flow: Arc<OpenFlow>,
    number: u64,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if let Some(open) = self.flow.attached.state().flows.open.get_mut(&self.flow.number) {
            open.asked.remove(&self.number);
        }
    }
}

impl Attached {
    /// Whether a flow's first bytes would have to be looked at.
    pub(super) fn listens(&self, inner: &Inner, evidence: &Evidence) -> bool {
        matches!(rules::judge(&self.state().policy, &inner.protected(), &evidence.seen()), Outcome::Listen { .. })
    }

    pub(super) fn is_judged_differently(&self, inner: &Inner, one: &Evidence, other: &Evidence) -> bool {
        let (policy, protected) = (Arc::clone(&self.state().policy), inner.protected());
        rules::judge(&policy, &protected, &one.seen()) != rules::judge(&policy, &protected, &other.seen())
    }

    pub(super) fn is_request_judged_differently(&self, inner: &Inner, asked: &Asked, one: &Evidence, other: &Evidence) -> bool {
        let (policy, protected) = (Arc::clone(&self.state().policy), inner.protected());
        asked.with(|request| {
            let [one, other] = [one, other].map(|evidence| policy.judge_request(&protected, &evidence.seen(), request));
            one != other
        })
    }

    /// Judges a connection and, when it is not refused, puts it into the list in the same moment: a policy that changes
    /// just now either judges it first or finds it there.
    pub(super) fn admit(self: &Arc<Self>, inner: &Inner, evidence: Evidence) -> Admitted {
        let mut state = self.state();
        if let Some(rule) = &state.suspended {
            return Admitted::Refused(Verdict::deny(Arc::clone(rule)));
        }
        let (verdict, stage) = match rules::judge(&state.policy, &inner.protected(), &evidence.seen()) {
            Outcome::Decided { verdict, .. } if !verdict.allow => return Admitted::Refused(verdict),
            Outcome::Decided { verdict, handling } => (verdict, Stage::Carried(handling)),
            Outcome::Listen { silent } => (silent.clone(), Stage::Listening { dialled: silent.allow }),
        };
        let number = state.flows.next;
        state.flows.next += 1;
        let cut = self.stop.child_token();
        state.flows.open.insert(number, Open { evidence: Arc::new(evidence), stage, cut: cut.clone(), asked: HashMap::new() });
        drop(state);
        let open = OpenFlow { attached: Arc::clone(self), number, cut };
        match stage {
            Stage::Carried(_) => Admitted::Carried(verdict, open),
            Stage::Listening { .. } => Admitted::Listening(verdict, open),
        }
    }
}

impl OpenFlow {
    /// Judges it again with what its first bytes say.
    pub fn learn(&self, inner: &Inner, evidence: Evidence) -> (Verdict, Handling) {
        let mut state = self.attached.state();
        let outcome = rules::judge(&state.policy, &inner.protected(), &evidence.seen());
        let (verdict, handling) = match outcome {
            Outcome::Decided { verdict, handling } => (verdict, handling),
            // More than its first bytes is never asked for.
            Outcome::Listen { silent } => (Verdict { allow: false, ..silent }, Handling::Pass),
        };
        if let Some(open) = state.flows.open.get_mut(&self.number) {
            open.evidence = Arc::new(evidence);
            open.stage = Stage::Carried(handling);
        }
        (verdict, handling)
    }

    /// Judges a request and, when it is allowed, puts it into the list in the same moment.
    pub fn ask(self: &Arc<Self>, inner: &Inner, asked: Asked) -> Result<(Allowed, OpenRequest), Verdict> {
        let mut state = self.attached.state();
        let (policy, sources) = (Arc::clone(&state.policy), state.sources.clone());
        let protected = inner.protected();
        let outcome = asked.with(|request| match policy.judge_request(&protected, &asked.evidence.seen(), request) {
            RequestOutcome::Deny(verdict) => Err(verdict),
            RequestOutcome::Allow { verdict, credential, mcp } => {
                let mcp = mcp.into_iter().cloned().collect();
                Ok(Allowed { verdict, credential: credential.cloned(), sources, mcp })
            }
        });
        let allowed = outcome?;
        let number = state.flows.next;
        state.flows.next += 1;
        if let Some(open) = state.flows.open.get_mut(&self.number) {
            open.asked.insert(number, asked);
        }
        drop(state);
        Ok((allowed, OpenRequest { flow: Arc::clone(self), number }))
    }
}
