//! What a script may ask of its host, when its owner listed that.

use super::draft::is_slug;

/// What an op needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    Fetch,
    /// To read this collection.
    DbRead(&'a str),
    Email,
    Secrets,
}

/// Which ones there are, for errors.
pub const KNOWN: &str = "fetch, db:read, db:read:SLUG, email and secrets";

/// Whether a list (none: everything) allows what an op needs.
pub fn allows(capabilities: Option<&[String]>, need: Need<'_>) -> bool {
    let Some(capabilities) = capabilities else { return true };
    capabilities.iter().any(|capability| match need {
        Need::Fetch => capability == "fetch",
        Need::DbRead(slug) => capability == "db:read" || capability.strip_prefix("db:read:") == Some(slug),
        Need::Email => capability == "email",
        Need::Secrets => capability == "secrets",
    })
}

/// Whether there is such a capability.
pub fn is_known(capability: &str) -> bool {
    matches!(capability, "fetch" | "db:read" | "email" | "secrets") || capability.strip_prefix("db:read:").is_some_and(is_slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_allowed() {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let cases = [
            ("fetch", Need::Fetch, true),
            ("fetch", Need::Email, false),
            ("", Need::Fetch, false),
            ("db:read", Need::DbRead("posts"), true),
            ("db:read:posts", Need::DbRead("posts"), true),
            ("db:read:posts", Need::DbRead("users"), false),
            ("db:read:", Need::DbRead(""), true),
            ("email secrets", Need::Secrets, true),
            ("email", Need::Secrets, false),
        ];
        for (capabilities, need, allowed) in cases {
            assert_eq!(allows(Some(&list(capabilities)), need), allowed, "{capabilities:?} {need:?}");
        }
        assert!(allows(None, Need::Email));
        assert!(is_known("db:read:posts") && !is_known("db:read:") && !is_known("db:write") && !is_known("*"));
    }
}
