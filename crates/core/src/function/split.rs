//! How an alias divides requests among revisions.

use serde::{Deserialize, Serialize};

use crate::{limits, validate::Violation};

/// A revision and its part of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub revision_id: String,
    pub revision_number: i64,
    pub weight: u32,
}

/// What an alias points to. Its weights add up to more than nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    pub targets: Vec<Target>,
    /// Whether a client stays with the revision that it got first.
    #[serde(default)]
    pub sticky: bool,
}

impl Split {
    /// All requests to one revision.
    pub fn whole(revision_id: impl Into<String>, revision_number: i64) -> Self {
        Self { targets: vec![Target { revision_id: revision_id.into(), revision_number, weight: 1 }], sticky: false }
    }

    /// The revision with the greatest part; of equal ones the newest.
    pub fn main(&self) -> Option<&Target> {
        self.targets.iter().max_by_key(|target| (target.weight, target.revision_number))
    }

    /// Whether requests may come to a revision by this alias.
    pub fn serves(&self, revision_id: &str) -> bool {
        self.targets.iter().any(|target| target.weight > 0 && target.revision_id == revision_id)
    }

    /// Which target a request goes to, by position. `sticky` is the number of the revision that the client had before,
    /// `random` is from 0 to 1.
    pub fn choose(&self, sticky: Option<i64>, random: f64) -> Option<usize> {
        let serving = |target: &Target| target.weight > 0;
        if self.sticky
            && let Some(before) = sticky
            && let Some(index) = self.targets.iter().position(|target| serving(target) && target.revision_number == before)
        {
            return Some(index);
        }
        let sum: u64 = self.targets.iter().map(|target| u64::from(target.weight)).sum();
        let mut place = (random.clamp(0.0, 1.0) * sum as f64) as u64;
        for (index, target) in self.targets.iter().enumerate() {
            let weight = u64::from(target.weight);
            if place < weight {
                return Some(index);
            }
            place -= weight;
        }
        // A `random` of 1 falls behind the last.
        self.targets.iter().rposition(serving)
    }
}

/// Checks the weights that a client gave: revision numbers and weights.
pub fn check_weights(weights: &[(i64, i64)]) -> Result<(), Vec<Violation>> {
    let mut out = Vec::new();
    if weights.is_empty() || weights.len() > limits::ALIAS_WEIGHTS_MAX {
        return Err(vec![Violation::new("weights", format!("there are {}; 1 to {} are allowed", weights.len(), limits::ALIAS_WEIGHTS_MAX))]);
    }
    for (index, (number, weight)) in weights.iter().enumerate() {
        if *number < 1 {
            out.push(Violation::new(format!("weights[{index}].revision_number"), "must be at least 1"));
        }
        if !(0..=limits::ALIAS_WEIGHT_MAX).contains(weight) {
            out.push(Violation::new(format!("weights[{index}].weight"), format!("must be from 0 to {}", limits::ALIAS_WEIGHT_MAX)));
        }
        if weights[..index].iter().any(|(other, _)| other == number) {
            out.push(Violation::new(format!("weights[{index}].revision_number"), format!("revision {number} stands here twice")));
        }
    }
    if out.is_empty() && weights.iter().all(|(_, weight)| *weight == 0) {
        out.push(Violation::new("weights", "add up to nothing; at least one must be above 0"));
    }
    if out.is_empty() { Ok(()) } else { Err(out) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(weights: &[u32], sticky: bool) -> Split {
        let target = |(index, weight): (usize, &u32)| Target { revision_id: format!("r{}", index + 1), revision_number: index as i64 + 1, weight: *weight };
        Split { targets: weights.iter().enumerate().map(target).collect(), sticky }
    }

    #[test]
    fn requests_are_divided_by_weight() {
        let canary = split(&[90, 10], false);
        for (random, expected) in [(0.0, 0), (0.5, 0), (0.899, 0), (0.9, 1), (0.999, 1), (1.0, 1), (7.0, 1), (-1.0, 0), (f64::NAN, 0)] {
            assert_eq!(canary.choose(None, random), Some(expected), "{random}");
        }
        assert_eq!(canary.choose(Some(2), 0.0), Some(0), "not sticky");
        assert_eq!(canary.main().map(|target| target.revision_number), Some(1));
        let sticky = split(&[90, 10, 0], true);
        assert_eq!(sticky.choose(Some(2), 0.0), Some(1));
        assert_eq!(sticky.choose(Some(3), 0.0), Some(0), "who was with a revision that has no part any more is divided anew");
        assert_eq!(sticky.choose(Some(9), 0.95), Some(1));
        assert!(sticky.serves("r2") && !sticky.serves("r3") && !sticky.serves("r4"));
        assert_eq!(split(&[0, 5, 0], false).choose(None, 1.0), Some(1));
        assert_eq!(split(&[], false).choose(None, 0.5), None);
    }

    #[test]
    fn weights_of_clients() {
        let wrong = |weights: &[(i64, i64)]| check_weights(weights).expect_err("refused")[0].to_string();
        assert!(check_weights(&[(1, 90), (2, 10)]).is_ok() && check_weights(&[(1, 1)]).is_ok());
        assert!(wrong(&[]).contains("1 to 8"));
        assert!(wrong(&[(1, 1); 9]).contains("there are 9"));
        assert!(wrong(&[(0, 1)]).starts_with("weights[0].revision_number"));
        assert!(wrong(&[(1, -1)]).starts_with("weights[0].weight"));
        assert!(wrong(&[(1, 1001)]).starts_with("weights[0].weight"));
        assert!(wrong(&[(1, 1), (1, 1)]).contains("twice"));
        assert!(wrong(&[(1, 0), (2, 0)]).contains("nothing"));
    }

    proptest! {
        #[test]
        fn nobody_is_sent_where_nothing_goes(weights in prop::collection::vec(0u32..5, 1..8), random in 0.0f64..=1.0, sticky in prop::option::of(0i64..9)) {
            let split = split(&weights, true);
            match split.choose(sticky, random) {
                Some(index) => prop_assert!(weights[index] > 0),
                None => prop_assert!(weights.iter().all(|weight| *weight == 0)),
            }
        }
    }
}
