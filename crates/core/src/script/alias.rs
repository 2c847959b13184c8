//! What an alias of a script points to: one version, or two that share its calls.

use serde::{Deserialize, Serialize};

use crate::validate::Violation;

/// The alias that is always there, and that is run unless another is asked for.
pub const LIVE: &str = "live";

/// Weights of a split add up to at most this.
const WEIGHTS_MAX: u32 = 1000;

/// A version and its part of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub version: u32,
    pub weight: u32,
}

/// What an alias points to; never nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split(Vec<Part>);

impl Split {
    /// All calls to one version.
    pub fn whole(version: u32) -> Self {
        Self(vec![Part { version, weight: 1 }])
    }

    /// Checks what a client asked for.
    pub fn of(parts: Vec<Part>) -> Result<Self, Violation> {
        let wrong = |message: &str| Err(Violation::new("split", message));
        match parts.as_slice() {
            [] => wrong("is empty; it names one version or two"),
            [_, _, _, ..] => wrong("names more than two versions"),
            [one, other] if one.version == other.version => wrong("names the same version twice"),
            parts if parts.iter().any(|part| part.version == 0) => wrong("versions count from 1"),
            parts if parts.iter().any(|part| part.weight > WEIGHTS_MAX) => wrong("a weight is from 0 to 1000"),
            parts if parts.iter().all(|part| part.weight == 0) => wrong("its weights add up to nothing"),
            _ => Ok(Self(parts)),
        }
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The version with the greatest part; of equal ones the newest.
    pub fn main(&self) -> u32 {
        self.0.iter().max_by_key(|part| (part.weight, part.version)).map_or(0, |part| part.version)
    }

    /// Which version a call goes to. Calls at the same `place` go to the same one for as long as the split is the same.
    pub fn choose(&self, place: u64) -> u32 {
        let sum: u64 = self.0.iter().map(|part| u64::from(part.weight)).sum();
        let mut place = if sum == 0 { 0 } else { place % sum };
        for part in &self.0 {
            if place < u64::from(part.weight) {
                return part.version;
            }
            place -= u64::from(part.weight);
        }
        self.main()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(parts: &[(u32, u32)]) -> Result<Split, Violation> {
        Split::of(parts.iter().map(|(version, weight)| Part { version: *version, weight: *weight }).collect())
    }

    #[test]
    fn calls_are_divided_by_weight() {
        let canary = split(&[(3, 90), (4, 10)]).unwrap();
        assert_eq!((0..100).filter(|place| canary.choose(*place) == 4).count(), 10);
        assert_eq!((canary.main(), Split::whole(7).choose(u64::MAX)), (3, 7));
        assert_eq!(canary.choose(95), canary.choose(195), "the same place, the same version");
        assert!((0..50).all(|place| split(&[(1, 0), (2, 5)]).unwrap().choose(place) == 2));
    }

    #[test]
    fn splits_of_clients() {
        for (parts, word) in [
            (&[][..], "empty"),
            (&[(1, 1), (2, 1), (3, 1)], "more than two"),
            (&[(1, 1), (1, 1)], "twice"),
            (&[(0, 1)], "from 1"),
            (&[(1, 1001)], "from 0 to 1000"),
            (&[(1, 0), (2, 0)], "nothing"),
        ] {
            let error = split(parts).unwrap_err();
            assert!(error.message.contains(word), "{error}");
        }
    }
}
