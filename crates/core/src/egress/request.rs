//! The decision about a request of HTTP, plain or within TLS that is ended here.
use std::borrow::Cow;

use super::judge::Traffic;
use super::{CredentialRule, Policy, Projection, Protected, ProtocolRule, ProtocolWhat, Seen, Verdict};
use crate::service::{percent_decoded, plain_path};

/// A request, as far as rules can see it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// It came within TLS.
    pub tls: bool,
    pub method: &'a str,
    /// As it was sent, without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome<'p> {
    Deny(Verdict),
    Allow {
        verdict: Verdict,
        /// The secret to put into it.
        credential: Option<&'p CredentialRule>,
        /// Rules about what its body asks for.
        mcp: Vec<&'p ProtocolRule>,
    },
}

/// Which requests a rule is about: all kinds that it has must match, of each one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HttpMatch {
    pub methods: Vec<String>,
    pub paths: Vec<String>,
    pub prefixes: Vec<String>,
    pub query: Vec<ValueMatch>,
    pub headers: Vec<ValueMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ValueMatch {
    pub name: String,
    /// Empty: any value.
    pub values: Vec<String>,
    pub present: bool,
}

/// What may be asked for. Denied goes before allowed; an empty list of allowed ones allows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HttpLimits {
    pub methods_allowed: Vec<String>,
    pub methods_denied: Vec<String>,
    pub paths_allowed: Vec<String>,
    pub paths_denied: Vec<String>,
    pub prefixes_allowed: Vec<String>,
    pub prefixes_denied: Vec<String>,
}

impl Policy {
    /// Decides about one request of a flow that is handled as HTTP. `seen` says what the request itself claims.
    pub fn judge_request(&self, protected: &Protected, seen: &Seen<'_>, request: &Request<'_>) -> RequestOutcome<'_> {
        if let Some(reason) = protected.reason(seen.flow.addr) {
            return RequestOutcome::Deny(Verdict::deny(format!("protected address: {reason}")));
        }
        let verdict = match self.traffic(seen) {
            Traffic::Decided(verdict) if verdict.allow => verdict,
            Traffic::Decided(verdict) => return RequestOutcome::Deny(verdict),
            Traffic::Open => return RequestOutcome::Deny(Verdict::deny("the request was judged before it was read")),
        };
        let mut mcp = Vec::new();
        for rule in self.protocols.iter().filter(|rule| rule.may_be_for(seen)) {
            if rule.only.as_ref().is_some_and(|only| !only.may_fit(request)) {
                continue;
            }
            match &rule.what {
                ProtocolWhat::Http(limits) => {
                    if let Some(what) = limits.refusal(request) {
                        return RequestOutcome::Deny(Verdict::deny(format!("{} ({what})", rule.label)));
                    }
                }
                ProtocolWhat::Mcp(_) => mcp.push(rule),
            }
        }
        RequestOutcome::Allow { verdict, credential: self.credential_for(seen, request), mcp }
    }

    /// Of the rules for the place, the first whose conditions fit; else the first without conditions.
    fn credential_for(&self, seen: &Seen<'_>, request: &Request<'_>) -> Option<&CredentialRule> {
        let for_place = || {
            self.credentials.iter().filter(|rule| {
                let in_requests = matches!(rule.binding.projection, Projection::HttpHeaders(_) | Projection::Placeholders(_));
                let spoken = if request.tls { rule.speaks.https } else { rule.speaks.http };
                in_requests && spoken && rule.is_for(seen)
            })
        };
        let conditional = for_place().find(|rule| rule.only.as_ref().is_some_and(|only| only.fits(request)));
        conditional.or_else(|| for_place().find(|rule| rule.only.is_none()))
    }
}

impl HttpMatch {
    /// Surely.
    fn fits(&self, request: &Request<'_>) -> bool {
        self.fits_by(request, |method| method == request.method, false)
    }

    /// Unless it surely does not: servers read methods in any case, and some paths in different ways.
    fn may_fit(&self, request: &Request<'_>) -> bool {
        self.fits_by(request, |method| method.eq_ignore_ascii_case(request.method), true)
    }

    fn fits_by(&self, request: &Request<'_>, is_method: impl Fn(&str) -> bool, unclear: bool) -> bool {
        let anywhere = self.paths.is_empty() && self.prefixes.is_empty();
        let in_place = anywhere || plain_path(request.path).map_or(unclear, |path| is_listed(&path, &self.paths, &self.prefixes));
        in_place
            && (self.methods.is_empty() || self.methods.iter().any(|method| is_method(method)))
            && self.query.iter().all(|value| value.fits(&query_values(request.query.unwrap_or_default(), &value.name)))
            && self.headers.iter().all(|value| {
                let name = value.name.to_ascii_lowercase();
                value.fits(&request.headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(*value)).collect::<Vec<_>>())
            })
    }
}

impl ValueMatch {
    fn fits(&self, found: &[Cow<'_, str>]) -> bool {
        match (self.present, self.values.is_empty()) {
            (false, _) => found.is_empty(),
            (true, true) => !found.is_empty(),
            (true, false) => found.iter().any(|value| self.values.iter().any(|wanted| wanted == value.as_ref())),
        }
    }
}

impl HttpLimits {
    /// What of the request is not allowed.
    fn refusal(&self, request: &Request<'_>) -> Option<String> {
        let is_denied = self.methods_denied.iter().any(|method| method.eq_ignore_ascii_case(request.method));
        let is_allowed = self.methods_allowed.is_empty() || self.methods_allowed.iter().any(|method| method == request.method);
        if is_denied || !is_allowed {
            return Some(format!("method {}", request.method));
        }
        let nothing = [&self.paths_allowed, &self.paths_denied, &self.prefixes_allowed, &self.prefixes_denied].iter().all(|list| list.is_empty());
        if nothing {
            return None;
        }
        let Some(path) = plain_path(request.path) else {
            return Some("a path that servers read in different ways".to_owned());
        };
        let listed = |paths: &[String], prefixes: &[String]| is_listed(&path, paths, prefixes);
        let any_allowed = self.paths_allowed.is_empty() && self.prefixes_allowed.is_empty();
        let refused = listed(&self.paths_denied, &self.prefixes_denied) || !any_allowed && !listed(&self.paths_allowed, &self.prefixes_allowed);
        refused.then(|| "path".to_owned())
    }
}

/// Whether a plain path is one of these, or below one of the prefixes: `/a` covers `/a` and `/a/b`, not `/ab`.
fn is_listed(path: &str, paths: &[String], prefixes: &[String]) -> bool {
    let below = |prefix: &String| path.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    paths.iter().any(|entry| entry == path) || prefixes.iter().any(below)
}

/// The values of a query's parameter, decoded.
fn query_values<'a>(query: &'a str, name: &str) -> Vec<Cow<'a, str>> {
    let decode = |text: &'a str| -> Cow<'a, str> {
        if !text.contains(['%', '+']) {
            return Cow::Borrowed(text);
        }
        let spaced = text.replace('+', " ");
        Cow::Owned(String::from_utf8_lossy(&percent_decoded(spaced.as_bytes())).into_owned())
    };
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| decode(key) == name).map(|(_, value)| decode(value)).collect()
}
