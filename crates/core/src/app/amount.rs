//! Amounts that may have a fraction (processors, gigabytes, dollars), kept as whole millionths so that equal ones are equal.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROS: u64 = 1_000_000;

/// Millionths of a unit. In JSON a number: `2`, `0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(u64);

impl Amount {
    pub const fn of_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub const fn whole(units: u32) -> Self {
        Self(units as u64 * MICROS)
    }

    /// The nearest one to a number; none of what is negative, no number, or too large to be told apart from its neighbours.
    pub fn of(number: f64) -> Option<Self> {
        let micros = (number * MICROS as f64).round();
        // Up to 2^53 every whole number is one of these.
        (0.0..=9_007_199_254_740_992.0).contains(&micros).then_some(Self(micros as u64))
    }

    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Thousandths, rounded up.
    pub const fn millis(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// So many times the amount, rounded up: bytes of gigabytes.
    pub fn times(self, unit: u64) -> u64 {
        let product = u128::from(self.0) * u128::from(unit);
        u64::try_from(product.div_ceil(u128::from(MICROS))).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(MICROS) {
            return write!(f, "{}", self.0 / MICROS);
        }
        let fraction = format!("{:06}", self.0 % MICROS);
        write!(f, "{}.{}", self.0 / MICROS, fraction.trim_end_matches('0'))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(MICROS) { serializer.serialize_u64(self.0 / MICROS) } else { serializer.serialize_f64(self.0 as f64 / MICROS as f64) }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Self::of(number).ok_or_else(|| serde::de::Error::custom("an amount is a number that is not negative"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_written_as_short_as_they_are() {
        for (number, text) in [(0.5, "0.5"), (2.0, "2"), (0.000_001, "0.000001"), (31.25, "31.25")] {
            let amount = Amount::of(number).expect("an amount");
            assert_eq!(amount.to_string(), text);
        }
        for number in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(Amount::of(number), None, "{number}");
        }
        assert_eq!(Amount::of(0.5).map(|amount| (amount.millis(), amount.times(1 << 30))), Some((500, 1 << 29)));
    }

    proptest! {
        #[test]
        fn amounts_survive_json(micros in 0..=1_000_000_000_000_u64) {
            let amount = Amount::of_micros(micros);
            let text = serde_json::to_string(&amount).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Amount>(&text).expect("an amount"), amount);
        }
    }
}
