//! What `sandbar serve` is told about the prices in receipts.

use std::str::FromStr;

use sandbar_core::app::receipt::Prices;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Prices: text of `name=value` with commas between, in TOML also a table; none when it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceTable(pub Option<Prices>);

impl FromStr for PriceTable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let mut table = serde_json::Map::new();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not of the form NAME=VALUE"))?;
            let (name, value) = (name.trim(), value.trim());
            let value = match value.parse::<u64>() {
                Ok(number) => number.into(),
                Err(_) => value.into(),
            };
            if table.insert(name.to_owned(), value).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        checked(serde_json::from_value(table.into()).map_err(|error| error.to_string())?)
    }
}

fn checked(prices: Prices) -> Result<PriceTable, String> {
    if (1..=8).contains(&prices.currency.len()) && prices.currency.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(PriceTable(Some(prices)))
    } else {
        Err("currency has to be 1 to 8 letters and digits, such as USD".to_owned())
    }
}

impl<'de> Deserialize<'de> for PriceTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Table(Prices),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse().map_err(D::Error::custom),
            Form::Table(prices) => checked(prices).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_whole_or_not_at_all() {
        let PriceTable(prices) = "currency=USD, cpu_hour_micros=50000".parse().unwrap();
        let prices = prices.unwrap();
        assert_eq!((prices.currency.as_str(), prices.cpu_hour_micros, prices.run_micros), ("USD", 50_000, 0));
        assert_eq!("".parse(), Ok(PriceTable(None)));
        for wrong in ["cpu_hour_micros=1", "currency=USD,cpu=1", "currency=USD,run_micros=-1", "currency=USD,currency=EUR", "currency", "currency=$"] {
            assert!(wrong.parse::<PriceTable>().is_err(), "{wrong}");
        }
    }
}
