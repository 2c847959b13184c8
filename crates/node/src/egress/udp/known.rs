//! What is known of a UDP flow, and what the judge says of it.
use std::sync::Arc;

use sandbar_core::egress::{self as rules, App, Claim, Flow, Handling, Outcome, Policy, Protected, Said, Seen, Verdict};

/// Names that may be asked for over one flow: clients of QUIC may have several connections on one socket.
const SAID_MAX: usize = 8;

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its datagrams wait for the decision.
    Undecided,
    Carried,
    Refused,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub stage: Stage,
    flow: Flow,
    /// The names that the sandbox was told the address for.
    pub names: Vec<Arc<str>>,
    /// What its datagrams say, when they were looked at; each has to be allowed.
    said: Vec<Words>,
}

/// What the begin of a connection says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words {
    pub app: Option<App>,
    pub name: Whom,
}

/// Whom a client says it wants to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whom {
    /// No name, or there is no place for one.
    Nobody,
    Hidden,
    Named {
        name: String,
        belongs: bool,
    },
}

/// The decision about all that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Allowed(Verdict),
    Refused(Verdict),
    /// Its datagrams have to be looked at.
    Listen,
}

impl Known {
    pub fn new(flow: Flow, names: Vec<Arc<str>>) -> Self {
        Self { stage: Stage::Undecided, flow, names, said: Vec::new() }
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    pub fn app(&self) -> Option<App> {
        self.said.last().and_then(|words| words.app)
    }

    /// Whom the user would say the flow is to.
    pub fn host(&self) -> Option<String> {
        match self.said.last() {
            Some(Words { name: Whom::Named { name, .. }, .. }) => Some(name.clone()),
            Some(Words { name: Whom::Nobody | Whom::Hidden, .. }) | None => self.names.first().map(|name| name.to_string()),
        }
    }

    /// False when there were too many different ones.
    pub fn learn(&mut self, words: Words) -> bool {
        // The last one is what the user is shown.
        self.said.retain(|known| *known != words);
        self.said.push(words);
        self.said.len() <= SAID_MAX
    }

    pub fn judge(&self, policy: &Policy, protected: &Protected) -> Judged {
        let outcome = |said| match rules::judge(policy, protected, &Seen { flow: self.flow, names: &self.names, said }) {
            Outcome::Decided { verdict, handling: Handling::Pass } if verdict.allow => Judged::Allowed(verdict),
            // Nothing but passing it on can be done with a datagram.
            Outcome::Decided { verdict, .. } => Judged::Refused(Verdict { allow: false, ..verdict }),
            Outcome::Listen { silent } if said != Said::Nothing => Judged::Refused(Verdict { allow: false, ..silent }),
            Outcome::Listen { .. } => Judged::Listen,
        };
        let mut judged = None;
        for words in &self.said {
            let name = match &words.name {
                Whom::Nobody => Claim::Absent,
                Whom::Hidden => Claim::Hidden,
                Whom::Named { name, belongs } => Claim::Name { name, belongs: *belongs },
            };
            match outcome(Said::Bytes { app: words.app, name }) {
                allowed @ Judged::Allowed(_) => judged = Some(allowed),
                other => return other,
            }
        }
        judged.unwrap_or_else(|| outcome(Said::Nothing))
    }

    /// Whether a policy decides what was decided.
    pub fn holds(&self, policy: &Policy, protected: &Protected) -> bool {
        match (self.stage, self.judge(policy, protected)) {
            (Stage::Undecided, Judged::Allowed(_) | Judged::Listen) => true,
            (Stage::Carried, Judged::Allowed(_)) => true,
            (Stage::Refused, Judged::Refused(_)) => true,
            // What should have been looked at has gone by, or may be allowed now.
            (Stage::Undecided, Judged::Refused(_)) | (Stage::Carried, Judged::Refused(_) | Judged::Listen) => false,
            (Stage::Refused, Judged::Allowed(_) | Judged::Listen) => false,
        }
    }
}
