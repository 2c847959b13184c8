//! Keys that are nearly ones that are known. Clients of other generations send keys that mean nothing here, which is fine;
//! but what a misspelt one was meant to restrict would be open.
use serde_json::{Map, Value};

use super::Violation;

/// Letters that were changed, added, left out or swapped.
const SLIPS_MAX: usize = 2;
/// Of shorter words too many are near.
const KEY_CHARS_MIN: usize = 5;

/// Says which of the unknown keys were probably meant to be known ones.
pub(super) fn misspelt(unknown: &Map<String, Value>, known: &[&str], path: &str) -> Vec<Violation> {
    let meant = |key: &str| known.iter().find(|known| known.len() >= KEY_CHARS_MIN && slips(key, known) <= SLIPS_MAX);
    unknown.keys().filter_map(|key| Some(Violation::new(format!("{path}.{}", super::shown(key)), format!("is not known; is {} meant?", meant(key)?)))).collect()
}

/// The one of some words that was probably meant by another. Of short words, one slip makes too many others already.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|known| (slips(word, known), known));
    near.filter(|(slips, known)| *slips <= if known.len() < KEY_CHARS_MIN { 1 } else { SLIPS_MAX }).min().map(|(_, known)| known)
}

/// The distance of two words, in which swapped neighbours are one slip, and case is none.
fn slips(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > SLIPS_MAX {
        return SLIPS_MAX + 1;
    }
    let mut rows: [Vec<usize>; 3] = [vec![0; other.len() + 1], (0..=other.len()).collect(), vec![0; other.len() + 1]];
    for (i, a) in one.iter().enumerate() {
        rows[2][0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = rows[1][j] + usize::from(a != b);
            let mut best = changed.min(rows[1][j + 1] + 1).min(rows[2][j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(rows[0][j - 1] + 1);
            }
            rows[2][j + 1] = best;
        }
        rows.rotate_left(1);
    }
    rows[1][other.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn near_keys_are_told() {
        let known = ["network", "env_vars", "ttl", "webhook"];
        for (key, meant) in [
            ("netwrok", Some("network")),
            ("Network", Some("network")),
            ("networks", Some("network")),
            ("envVars", Some("env_vars")),
            ("env-vars", Some("env_vars")),
            ("webhok", Some("webhook")),
            ("labels", None),
            ("ttt", None),
            ("annotations", None),
            ("net", None),
            ("", None),
        ] {
            let unknown = json!({ key: 1 });
            let found = misspelt(unknown.as_object().expect("an object"), &known, "config");
            let want: Vec<_> = meant.into_iter().map(|meant| Violation::new(format!("config.{key}"), format!("is not known; is {meant} meant?"))).collect();
            assert_eq!(found, want, "{key}");
        }
    }
}
