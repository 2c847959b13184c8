//! Who may do what with a collection's items. One resolver, whoever asks: a request, or `ctx.db` of a script.
//!
//! Roles add up. What any rule of any of one's roles allows is allowed: the items are those that at least one of the rules'
//! filters lets through, the fields those that at least one of them names. Without a rule nothing is allowed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{collection::CollectionSpec, item::listed, query::Filter};
use crate::{limits, roles::Role, validate::Violation};

/// Holds for everybody, nobody included.
pub const PUBLIC: &str = "public";
/// Holds for whoever has a user's id.
pub const AUTHENTICATED: &str = "authenticated";
/// What the role of a service account begins with.
pub const SERVICE_PREFIX: &str = "service:";

/// A permission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// `public`, `authenticated`, a role of the team, or `service:NAME`.
    pub role: String,
    pub action: RuleAction,
    /// Which items; all without it. A new item, and what an update makes of one, has to pass it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// Which fields; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    Read,
    Create,
    Update,
    Delete,
    #[serde(rename = "*")]
    All,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Read,
    Create,
    Update,
    Delete,
}

/// Who asks. The system is nobody: neither a user nor a role.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asker<'a> {
    pub user_id: Option<&'a str>,
    pub roles: &'a [String],
}

/// What the rules say.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Denied,
    Allowed(Allowed),
}

/// What may be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Allowed {
    /// Which items; all without it.
    pub filter: Option<Filter>,
    /// Which fields, `ownerId` among them; all without it. What else a row has of itself is always there.
    pub fields: Option<BTreeSet<String>>,
}

impl Action {
    pub const ALL: [Self; 4] = [Self::Read, Self::Create, Self::Update, Self::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl RuleAction {
    fn is(self, action: Action) -> bool {
        match self {
            Self::Read => action == Action::Read,
            Self::Create => action == Action::Create,
            Self::Update => action == Action::Update,
            Self::Delete => action == Action::Delete,
            Self::All => true,
        }
    }
}

impl Allowed {
    pub fn may_use(&self, field: &str) -> bool {
        self.fields.as_ref().is_none_or(|fields| fields.contains(field))
    }
}

impl Rule {
    pub(super) fn check(&self, path: &str, spec: &CollectionSpec, found: &mut Vec<Violation>) {
        if !is_role(&self.role) {
            let message = "has to be public, authenticated, viewer, developer, builder, admin or service:NAME";
            found.push(Violation::new(format!("{path}.role"), message));
        }
        if let Some(filter) = &self.filter
            && let Err(error) = spec.filter(filter)
        {
            found.push(Violation::new(format!("{path}.filter"), error.to_string()));
        }
        let unknown = |name: &&String| name.as_str() != "*" && name.as_str() != "ownerId" && spec.field(name).is_none();
        match &self.fields {
            Some(_) if self.action == RuleAction::Delete => found.push(Violation::new(format!("{path}.fields"), "means nothing for the action delete")),
            Some(fields) if fields.len() > limits::FIELDS_PER_COLLECTION_MAX + 1 => {
                found.push(Violation::new(format!("{path}.fields"), format!("may be at most {}", limits::FIELDS_PER_COLLECTION_MAX + 1)));
            }
            Some(fields) => {
                if let Some(name) = fields.iter().find(unknown) {
                    let known = listed(spec.fields.iter().map(|field| field.name.as_str()).chain(["ownerId", "*"]));
                    found.push(Violation::new(format!("{path}.fields"), format!("names {:?}, which is no field; there are {known}", super::item::shown(name))));
                }
            }
            None => {}
        }
    }

    fn holds_for(&self, asker: &Asker<'_>) -> bool {
        match self.role.as_str() {
            PUBLIC => true,
            AUTHENTICATED => asker.user_id.is_some(),
            role => asker.roles.iter().any(|held| held == role),
        }
    }
}

/// What somebody may do with a collection's items.
pub fn resolve(asker: &Asker<'_>, spec: &CollectionSpec, action: Action) -> Verdict {
    if asker.roles.iter().any(|role| role == Role::Admin.as_str()) {
        return Verdict::Allowed(Allowed::default());
    }
    let mut filters = Some(Vec::new());
    let mut fields = Some(BTreeSet::new());
    let mut any = false;
    for rule in spec.permissions.iter().filter(|rule| rule.action.is(action) && rule.holds_for(asker)) {
        match rule.filter.as_ref().map(|filter| spec.filter(filter)) {
            None => filters = None,
            Some(Ok(filter)) => filters.iter_mut().for_each(|filters| filters.push(filter.clone())),
            // Read once already, when the rule was written. One that cannot be read allows nothing.
            Some(Err(_)) => continue,
        }
        any = true;
        match &rule.fields {
            Some(named) if !named.iter().any(|name| name == "*") => fields.iter_mut().for_each(|fields| fields.extend(named.iter().cloned())),
            Some(_) | None => fields = None,
        }
    }
    match any {
        true => Verdict::Allowed(Allowed { filter: filters.map(Filter::any), fields }),
        false => Verdict::Denied,
    }
}

/// Whether a text names a role that rules know.
pub fn is_role(text: &str) -> bool {
    match text.strip_prefix(SERVICE_PREFIX) {
        Some(name) => is_service_name(name),
        None => text == PUBLIC || text == AUTHENTICATED || text.parse::<Role>().is_ok(),
    }
}

/// Whether a text can be the name of a service account.
pub fn is_service_name(text: &str) -> bool {
    (1..=limits::COLLECTION_NAME_MAX_CHARS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests;
