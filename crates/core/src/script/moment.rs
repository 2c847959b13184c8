//! Moments as items have them: what a field of type `datetime` takes, and the one form in which it is kept.

use std::fmt::Write as _;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::Value;

/// The year 0, and the last moment that the library knows, a day before the year 10000: what four digits can say.
const FIRST_MS: i64 = -62_167_219_200_000;
const LAST_MS: i64 = 253_402_207_200_999;

/// Such as `2026-05-01T10:00:00.000Z`, which is what JavaScript's `toISOString` writes: always as long, so texts have the order
/// of their moments. What four digits cannot say becomes the nearest that they can.
pub fn iso(ms: i64) -> String {
    let Ok(moment) = Timestamp::from_millisecond(ms.clamp(FIRST_MS, LAST_MS)) else { return "9999-12-31T23:59:59.999Z".to_owned() };
    let civil = moment.to_zoned(TimeZone::UTC).datetime();
    let mut text = String::with_capacity(24);
    // Writing into a text does not fail.
    let _ = write!(text, "{:04}-{:02}-{:02}T", civil.year(), civil.month(), civil.day());
    let _ = write!(text, "{:02}:{:02}:{:02}.{:03}Z", civil.hour(), civil.minute(), civil.second(), civil.subsec_nanosecond() / 1_000_000);
    text
}

/// Reads a moment: RFC 3339 with `Z` or an offset, a date alone (its midnight in UTC), or milliseconds since 1970.
pub fn read(value: &Value) -> Option<i64> {
    let ms = match value {
        Value::Number(number) => number.as_i64()?,
        Value::String(text) => text_ms(text)?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (FIRST_MS..=LAST_MS).contains(&ms).then_some(ms)
}

fn text_ms(text: &str) -> Option<i64> {
    if text.len() == "2026-05-01".len() {
        let date: Date = text.parse().ok()?;
        return date.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp().as_millisecond());
    }
    text.parse::<Timestamp>().ok().map(|moment| moment.as_millisecond())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn moments_are_read_and_written_in_one_form() {
        for (value, text) in [
            (json!("2026-05-01T10:00:00Z"), "2026-05-01T10:00:00.000Z"),
            (json!("2026-05-01T12:00:00.1234+02:00"), "2026-05-01T10:00:00.123Z"),
            (json!("2026-05-01"), "2026-05-01T00:00:00.000Z"),
            (json!(0), "1970-01-01T00:00:00.000Z"),
            (json!(-1), "1969-12-31T23:59:59.999Z"),
            (json!("0000-01-01T00:00:00Z"), "0000-01-01T00:00:00.000Z"),
            (json!("9999-12-30T22:00:00Z"), "9999-12-30T22:00:00.000Z"),
        ] {
            assert_eq!(read(&value).map(iso).as_deref(), Some(text), "{value}");
        }
        for value in [
            json!("2026-05-01T10:00:00"),
            json!("yesterday"),
            json!(""),
            json!(1.5),
            json!(true),
            json!(null),
            json!(i64::MAX),
            json!("-000001-01-01T00:00:00Z"),
            json!("2026-13-01"),
        ] {
            assert_eq!(read(&value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn texts_have_the_order_of_their_moments(a in FIRST_MS..=LAST_MS, b in FIRST_MS..=LAST_MS) {
            prop_assert_eq!(iso(a).cmp(&iso(b)), a.cmp(&b));
            prop_assert_eq!(read(&Value::String(iso(a))), Some(a));
        }
    }
}
