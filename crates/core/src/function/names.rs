//! Slugs, labels and hosts of functions.

use sha1::{Digest, Sha1};

use crate::{limits, validate::is_label};

/// Characters of a slug.
const SLUG_MAX_CHARS: usize = 48;
/// Characters of a longer name that stay in its slug, before the digest that tells it from others like it.
const SLUG_KEPT_CHARS: usize = 39;
const DIGEST_CHARS: usize = 8;
/// What stands between an alias and a function's label. No label has it inside.
pub const ALIAS_SEPARATOR: &str = "--";

/// The name in paths: lower-case letters and digits, with one hyphen for whatever else there is. Of names without any such letter,
/// each has its own all the same.
pub fn slug(name: &str) -> String {
    let mut slug = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        return if name.trim().is_empty() { "function".to_owned() } else { format!("function-{}", digest(name)) };
    }
    if slug.len() <= SLUG_MAX_CHARS {
        return slug.to_owned();
    }
    let kept = slug[..SLUG_KEPT_CHARS].trim_end_matches('-');
    format!("{kept}-{}", digest(name))
}

/// The first label of a function's host: no other team can have the same.
pub fn domain_label(slug: &str, team_id: &str) -> String {
    format!("{slug}-{}", digest(team_id))
}

/// The first label of an alias's host; none when it would be too long for a name.
pub fn alias_label(alias: &str, domain_label: &str) -> Option<String> {
    if alias == super::PRODUCTION {
        return Some(domain_label.to_owned());
    }
    let label = format!("{alias}{ALIAS_SEPARATOR}{domain_label}");
    (label.len() <= limits::LABEL_MAX_CHARS).then_some(label)
}

/// The alias and the function's label that a host's first label names.
pub fn parse_label(label: &str) -> (&str, &str) {
    label.split_once(ALIAS_SEPARATOR).unwrap_or((super::PRODUCTION, label))
}

/// Whether an alias can have this name.
pub fn is_alias(name: &str) -> bool {
    is_label(name) && !name.contains(ALIAS_SEPARATOR)
}

fn digest(text: &str) -> String {
    Sha1::digest(text.as_bytes()).iter().take(DIGEST_CHARS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slugs_of_names() {
        for (name, expected) in [
            ("My API", "my-api"),
            ("  --A__b!!c-- ", "a-b-c"),
            ("", "function"),
            (" ", "function"),
            ("function", "function"),
            // SHA-1 of the name, as in longer ones.
            ("!!!", "function-9a7b006d"),
            ("ü", "function-94a759fd"),
            ("😀", "function-9c533688"),
            ("Größe", "gr-e"),
            ("api", "api"),
            (&"a".repeat(48), &"a".repeat(48)),
        ] {
            assert_eq!(slug(name), expected, "{name:?}");
        }
        // The digest is that of SHA-1: known to other programs.
        assert_eq!(slug(&"a".repeat(49)), format!("{}-{}", "a".repeat(39), "1e666934"));
        assert_eq!(domain_label("api", "abc"), "api-a9993e36");
    }

    #[test]
    fn hosts_of_aliases() {
        assert_eq!(alias_label("production", "api-a9993e36").as_deref(), Some("api-a9993e36"));
        assert_eq!(alias_label("staging", "api-a9993e36").as_deref(), Some("staging--api-a9993e36"));
        assert_eq!(alias_label("staging", &"a".repeat(57)), None);
        assert_eq!(parse_label("api-a9993e36"), ("production", "api-a9993e36"));
        assert_eq!(parse_label("staging--api-a9993e36"), ("staging", "api-a9993e36"));
        for (name, good) in [("staging", true), ("v2", true), ("a-b", true), ("a--b", false), ("", false), ("-a", false), ("A", false), ("a.b", false)] {
            assert_eq!(is_alias(name), good, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_has_a_label(name in ".{0,200}", team in ".{0,40}") {
            let slug = slug(&name);
            prop_assert!(is_label(&slug) && slug.len() <= SLUG_MAX_CHARS && !slug.contains("--"), "{slug:?}");
            let label = domain_label(&slug, &team);
            prop_assert!(is_label(&label) && !label.contains("--"), "{label:?}");
            prop_assert_eq!(parse_label(&label), ("production", label.as_str()));
        }

        #[test]
        fn an_alias_is_found_again(alias in "[a-z0-9]([a-z0-9]|-[a-z0-9]){0,3}", name in "[a-z]{1,20}") {
            let label = domain_label(&slug(&name), "team");
            let host = alias_label(&alias, &label).expect("short");
            prop_assert_eq!(parse_label(&host), (alias.as_str(), label.as_str()));
        }
    }
}
