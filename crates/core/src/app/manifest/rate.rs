//! Rates of schedules: `5 minutes`, and `rate(5 minutes)` as elsewhere.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::apps as limits;

/// Seconds from one tick to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u32);

/// Largest first, but for seconds, which everything can be said in.
const UNITS: [(&str, u32); 5] = [("week", 7 * 86_400), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)];

impl Rate {
    /// None of what is more often than every ten seconds or less often than once a year.
    pub fn of_seconds(seconds: u32) -> Option<Self> {
        (limits::APP_RATE_MIN_S..=limits::APP_RATE_MAX_S).contains(&seconds).then_some(Self(seconds))
    }

    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix("rate(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(inner);
        let mut words = inner.split_ascii_whitespace();
        let (Some(number), Some(unit), None) = (words.next(), words.next(), words.next()) else {
            return Err("must be a number and a unit, such as \"5 minutes\" or \"rate(1 hour)\"".to_owned());
        };
        let unit_name = unit.strip_suffix('s').unwrap_or(unit);
        let Some((_, unit_s)) = UNITS.iter().find(|(name, _)| *name == unit_name) else {
            return Err("has a unit that is not known; there are seconds, minutes, hours, days and weeks".to_owned());
        };
        let number = Some(number).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit())).and_then(|number| number.parse::<u32>().ok());
        number.and_then(|number| Self::of_seconds(number.checked_mul(*unit_s)?)).ok_or_else(|| {
            format!("must be a whole number of them, from {} seconds to {} days together", limits::APP_RATE_MIN_S, limits::APP_RATE_MAX_S / 86_400)
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit_s) = UNITS.into_iter().find(|(_, unit_s)| self.0.is_multiple_of(*unit_s)).unwrap_or(("second", 1));
        let number = self.0 / unit_s;
        write!(f, "{number} {name}{}", if number == 1 { "" } else { "s" })
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, seconds, shown) in [
            ("5 minutes", 300, "5 minutes"),
            ("rate(5 minutes)", 300, "5 minutes"),
            ("1 minute", 60, "1 minute"),
            ("60 seconds", 60, "1 minute"),
            ("10 seconds", 10, "10 seconds"),
            ("  24   hours ", 86_400, "1 day"),
            ("14 days", 14 * 86_400, "2 weeks"),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.seconds(), rate.to_string().as_str()), (seconds, shown), "{text}");
        }
        for text in [
            "",
            "5",
            "minutes",
            "5 lightyears",
            "0 minutes",
            "9 seconds",
            "-5 minutes",
            "+5 minutes",
            "1.5 hours",
            "367 days",
            "99999999999 weeks",
            "5 minutes or so",
            "rate(5 minutes",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn rates_survive_their_text(seconds in limits::APP_RATE_MIN_S..=limits::APP_RATE_MAX_S) {
            let rate = Rate::of_seconds(seconds).expect("a rate");
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }
}
