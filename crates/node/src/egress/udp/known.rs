//! What is known of a UDP flow, and what the judge says of it.
use std::sync::Arc;

use sandbar_core::egress::{self as rules, App, Flow, Handling, Outcome, Policy, Protected, Verdict};

use crate::egress::flow::{Evidence, Name};

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
    /// As it is without what the program says.
    pub silent: Evidence,
    /// What the connections say that were begun over it, when they were looked at. Each has to be allowed.
    said: Vec<Evidence>,
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
        Self { stage: Stage::Undecided, silent: Evidence { flow, names, said: None }, said: Vec::new() }
    }

    /// For the user to read: the latest that was said.
    pub fn evidence(&self) -> &Evidence {
        self.said.last().unwrap_or(&self.silent)
    }

    /// The evidence if this were said.
    pub fn with(&self, app: Option<App>, name: Name) -> Evidence {
        Evidence { said: Some((app, name)), ..self.silent.clone() }
    }

    /// Whether a datagram that greets nobody belongs to what was said: what is no question goes on with a connection
    /// that was begun.
    pub fn includes(&self, app: Option<App>) -> bool {
        self.said.iter().filter_map(|known| known.said.as_ref()).any(|(said, _)| *said == app || app.is_none() && *said == Some(App::Tls))
    }

    /// False when there were too many different ones.
    pub fn learn(&mut self, evidence: Evidence) -> bool {
        self.said.retain(|known| known.said != evidence.said);
        self.said.push(evidence);
        self.said.len() <= SAID_MAX
    }

    pub fn judge(&self, policy: &Policy, protected: &Protected) -> Judged {
        let outcome = |evidence: &Evidence| match rules::judge(policy, protected, &evidence.seen()) {
            Outcome::Decided { verdict, handling: Handling::Pass } if verdict.allow => Judged::Allowed(verdict),
            // Nothing but passing it on can be done with a datagram.
            Outcome::Decided { verdict, .. } => Judged::Refused(Verdict { allow: false, ..verdict }),
            Outcome::Listen { .. } if evidence.said.is_none() => Judged::Listen,
            Outcome::Listen { silent } => Judged::Refused(Verdict { allow: false, ..silent }),
        };
        let mut judged = None;
        for evidence in &self.said {
            match outcome(evidence) {
                allowed @ Judged::Allowed(_) => judged = Some(allowed),
                other @ (Judged::Refused(_) | Judged::Listen) => return other,
            }
        }
        judged.unwrap_or_else(|| outcome(&self.silent))
    }

    /// Whether a policy decides what was decided.
    pub fn holds(&self, policy: &Policy, protected: &Protected) -> bool {
        match (self.stage, self.judge(policy, protected)) {
            (Stage::Undecided, Judged::Allowed(_) | Judged::Listen) | (Stage::Carried, Judged::Allowed(_)) | (Stage::Refused, Judged::Refused(_)) => true,
            // What should have been looked at has gone by, or may be allowed now.
            (Stage::Undecided, Judged::Refused(_)) | (Stage::Carried, Judged::Refused(_) | Judged::Listen) => false,
            (Stage::Refused, Judged::Allowed(_) | Judged::Listen) => false,
        }
    }
}
