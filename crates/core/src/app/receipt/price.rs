//! What a run costs by a table of prices. Money is in millionths of a currency's unit; parts of a millionth are rounded up, per line.

use serde::{Deserialize, Serialize};

use super::Usage;
use crate::app::amount::Amount;

const GIB: u128 = 1 << 30;
const HOUR_MS: u128 = 3_600_000;
const HOUR_US: u128 = 3_600_000_000;
const MICROS: u128 = 1_000_000;

/// What an operator asks for. Time is priced by the hour: a second of little memory costs less than a millionth.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// `USD`.
    pub currency: String,
    /// Of each run, whatever it does.
    pub run_micros: u64,
    /// Of an hour of one processor.
    pub cpu_hour_micros: u64,
    /// Of a GiB for an hour: the most that was used, for as long as the run took.
    pub memory_gib_hour_micros: u64,
    /// Of a GiB written.
    pub disk_gib_micros: u64,
    /// Of a GiB sent or received.
    pub network_gib_micros: u64,
}

/// What a run cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub currency: String,
    pub line_items: Vec<LineItem>,
    /// The sum of the lines.
    pub total_micros: u64,
    /// What has a price, and of which it is not known how much was used: it is in no line.
    pub unknown: Vec<String>,
}

/// A part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineItem {
    pub label: String,
    /// Millionths of the unit, rounded up.
    pub quantity_micros: u64,
    pub unit: String,
    /// Of one unit.
    pub unit_price_micros: u64,
    pub amount_micros: u64,
}

/// The currency in which budgets are told.
pub const BUDGET_CURRENCY: &str = "USD";

/// Why nothing can be said about what a run may cost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBudget {
    #[error("this server has no prices, so nothing is known of what a run costs: leave it out, or have the operator set prices (`sandbar serve --prices`)")]
    NoPrices,
    #[error("the prices of this server are in {0}, and a budget is in {BUDGET_CURRENCY}: leave it out")]
    OtherCurrency(String),
    #[error("each run costs {} {BUDGET_CURRENCY} by itself, whatever it does: say more than that", Amount::of_micros(*.0))]
    TooSmall(u64),
}

/// Whether a run can be held to what it may cost.
pub fn check_budget(prices: Option<&Prices>, max_micros: u64) -> Result<(), NoBudget> {
    let prices = prices.ok_or(NoBudget::NoPrices)?;
    if prices.currency != BUDGET_CURRENCY {
        return Err(NoBudget::OtherCurrency(prices.currency.clone()));
    }
    if prices.run_micros > max_micros { Err(NoBudget::TooSmall(prices.run_micros)) } else { Ok(()) }
}

impl Prices {
    /// Lines for what has a price and was used.
    pub fn bill(&self, usage: &Usage) -> Price {
        let both = |one: Option<u64>, other: Option<u64>| Some((u128::from(one?), u128::from(other?)));
        let network = both(usage.network_sent_bytes, usage.network_received_bytes).map(|(sent, received)| sent + received);
        let memory = both(usage.memory_peak_bytes, usage.duration_ms).map(|(bytes, ms)| bytes * ms);
        let lines = [
            ("run", "run", self.run_micros, Some(1), 1),
            ("processor", "cpu_hour", self.cpu_hour_micros, usage.cpu_us.map(u128::from), HOUR_US),
            ("memory", "gib_hour", self.memory_gib_hour_micros, memory, GIB * HOUR_MS),
            ("disk", "gib", self.disk_gib_micros, usage.disk_bytes.map(u128::from), GIB),
            ("network", "gib", self.network_gib_micros, network, GIB),
        ];
        let (mut line_items, mut unknown) = (Vec::new(), Vec::new());
        for (label, unit, price, quantity, per) in lines.into_iter().filter(|(_, _, price, _, _)| *price > 0) {
            match quantity {
                None => unknown.push(label.to_owned()),
                Some(0) => {}
                Some(quantity) => line_items.push(LineItem {
                    label: label.to_owned(),
                    quantity_micros: product(quantity, MICROS, per),
                    unit: unit.to_owned(),
                    unit_price_micros: price,
                    amount_micros: product(quantity, u128::from(price), per),
                }),
            }
        }
        let total_micros = line_items.iter().fold(0_u64, |total, line| total.saturating_add(line.amount_micros));
        Price { currency: self.currency.clone(), line_items, total_micros, unknown }
    }
}

/// `quantity * times / per`, rounded up; the most there is where that is too much.
fn product(quantity: u128, times: u128, per: u128) -> u64 {
    // A quantity may have all but a few bits already.
    let (whole, rest) = (quantity / per, quantity % per);
    let product = whole.checked_mul(times).and_then(|whole| whole.checked_add(rest.checked_mul(times)?.div_ceil(per)));
    product.and_then(|product| u64::try_from(product).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prices() -> Prices {
        Prices {
            currency: "USD".to_owned(),
            run_micros: 10,
            cpu_hour_micros: 36_000_000,
            memory_gib_hour_micros: 3600,
            disk_gib_micros: 1024,
            network_gib_micros: 90_000,
        }
    }

    #[test]
    fn what_was_used_is_billed() {
        let usage = Usage {
            duration_ms: Some(10_000),
            cpu_us: Some(1_500_000),
            memory_peak_bytes: Some(1 << 29),
            disk_bytes: Some(1),
            network_sent_bytes: Some(1 << 30),
            network_received_bytes: Some(1 << 29),
            ..Usage::default()
        };
        let price = prices().bill(&usage);
        let lines: Vec<_> = price.line_items.iter().map(|line| (line.label.as_str(), line.quantity_micros, line.amount_micros)).collect();
        // 1.5 s of 0.01 a second; 5 GiB seconds; less than a millionth is one.
        let wanted = [("run", 1_000_000, 10), ("processor", 417, 15_000), ("memory", 1389, 5), ("disk", 1, 1), ("network", 1_500_000, 135_000)];
        assert_eq!(lines, wanted);
        assert_eq!((price.total_micros, price.currency.as_str()), (150_016, "USD"));
        assert_eq!(price.unknown, [""; 0]);
    }

    #[test]
    fn what_is_not_known_is_no_nothing() {
        let price = prices().bill(&Usage { cpu_us: Some(0), duration_ms: Some(5), network_sent_bytes: Some(5), ..Usage::default() });
        assert_eq!(price.unknown, ["memory", "disk", "network"]);
        assert_eq!((price.line_items.len(), price.total_micros), (1, 10));
        assert_eq!(
            Prices { disk_gib_micros: 0, ..prices() }.bill(&Usage::default()).unknown,
            ["processor", "memory", "network"],
            "what is free need not be known"
        );
    }

    #[test]
    fn a_budget_needs_prices_of_its_currency() {
        let euros = Prices { currency: "EUR".to_owned(), ..prices() };
        assert_eq!(check_budget(None, 5), Err(NoBudget::NoPrices));
        assert_eq!(check_budget(Some(&euros), 50), Err(NoBudget::OtherCurrency("EUR".to_owned())));
        assert_eq!(check_budget(Some(&prices()), 9), Err(NoBudget::TooSmall(10)));
        assert_eq!(check_budget(Some(&prices()), 10), Ok(()));
        assert!(NoBudget::TooSmall(10).to_string().contains("0.00001 USD"));
    }

    #[test]
    fn what_has_no_price_or_was_not_used_has_no_line() {
        assert_eq!(Prices::default().bill(&Usage { cpu_us: Some(5), ..Usage::default() }).line_items, []);
        let price = prices().bill(&Usage::default());
        assert_eq!((price.line_items.len(), price.total_micros), (1, 10));
    }

    proptest! {
        #[test]
        fn any_usage_has_a_price(
            cpu_us: Option<u64>, memory_peak_bytes: Option<u64>, duration_ms: Option<u64>, disk_bytes: Option<u64>, sent: Option<u64>, received: Option<u64>,
            cpu_hour_micros: u64,
        ) {
            let prices = Prices { cpu_hour_micros, memory_gib_hour_micros: u64::MAX, ..prices() };
            let usage =
                Usage { duration_ms, cpu_us, memory_peak_bytes, disk_bytes, network_sent_bytes: sent, network_received_bytes: received, ..Usage::default() };
            let price = prices.bill(&usage);
            prop_assert_eq!(price.total_micros, price.line_items.iter().fold(0_u64, |sum, line| sum.saturating_add(line.amount_micros)));
        }
    }
}
