//! Quantities as Kubernetes writes them: `512Mi`, `1.5Gi`, `10G` for bytes, `2`, `0.5`, `500m` for CPU.

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("is empty; expected a number such as 512Mi")]
    Empty,
    #[error("{0:?} is not a number with one of the units {1}")]
    Malformed(String, &'static str),
    #[error("{0:?} is negative")]
    Negative(String),
    #[error("{0:?} is too large")]
    Overflow(String),
}

const BYTE_UNITS: &str = "Ki, Mi, Gi, Ti, Pi, k, M, G, T, P (or none for bytes)";
const CPU_UNITS: &str = "m (thousandths of a CPU, or none for whole CPUs)";
/// Fraction digits that are read; the tenth is below a nanosecond of CPU and below a byte of anything sensible.
const FRACTION_DIGITS_MAX: usize = 9;

/// Binary units, largest first.
const BINARY: [(&str, u64); 5] = [("Pi", 1 << 50), ("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
const DECIMAL: [(&str, u64); 6] = [("P", 1_000_000_000_000_000), ("T", 1_000_000_000_000), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1000), ("K", 1000)];

/// Reads an amount of bytes. Fractions of a byte are rounded up.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let text = text.trim();
    let unit = BINARY.iter().chain(&DECIMAL).find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|number| (number, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    scaled(text, number, factor, BYTE_UNITS)
}

/// Reads an amount of CPU in thousandths of one. Finer fractions are rounded up.
pub fn parse_cpu_millis(text: &str) -> Result<u64, QuantityError> {
    let text = text.trim();
    match text.strip_suffix('m') {
        Some(number) => scaled(text, number, 1, CPU_UNITS),
        None => scaled(text, text, 1000, CPU_UNITS),
    }
}

/// Writes an amount of bytes with the largest binary unit that loses nothing.
pub fn format_bytes(bytes: u64) -> String {
    let unit = BINARY.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    match unit {
        Some((suffix, factor)) => format!("{}{suffix}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Writes an amount of bytes for people, rounded: `512 B`, `1.50 GiB`.
pub fn readable_bytes(bytes: u64) -> String {
    match BINARY.iter().find(|(_, factor)| bytes >= *factor) {
        Some((suffix, factor)) => format!("{:.2} {suffix}B", bytes as f64 / *factor as f64),
        None => format!("{bytes} B"),
    }
}

/// Writes an amount of CPU.
pub fn format_cpu_millis(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// `number` times `factor`, exactly, rounded up to a whole.
fn scaled(text: &str, number: &str, factor: u64, units: &'static str) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Malformed(text.to_owned(), units);
    let overflow = || QuantityError::Overflow(text.to_owned());
    if text.is_empty() {
        return Err(QuantityError::Empty);
    }
    if number.starts_with('-') {
        return Err(QuantityError::Negative(text.to_owned()));
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') || fraction.len() > FRACTION_DIGITS_MAX {
        return Err(malformed());
    }
    let whole: u64 = whole.parse().map_err(|_| overflow())?;
    let fraction_scale = 10u128.pow(fraction.len() as u32);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| malformed())? };
    let scaled = (u128::from(whole) * fraction_scale + fraction) * u128::from(factor);
    u64::try_from(scaled.div_ceil(fraction_scale)).map_err(|_| overflow())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_737_419, "10.24 MiB"),
            (3 << 29, "1.50 GiB"),
            (10 << 30, "10.00 GiB"),
            (u64::MAX, "16384.00 PiB"),
        ] {
            assert_eq!(readable_bytes(bytes), text);
        }
    }
    use proptest::prelude::*;

    #[test]
    fn table_of_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("128Ki", 131_072),
            ("512Mi", 512 << 20),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("2k", 2000),
            ("3M", 3_000_000),
            ("4G", 4_000_000_000),
            ("0.5", 1),
            (" 1Ti ", 1 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", " ", "Mi", "1gb", "1 Gi", "1e3", "0x10", "1.", ".5", "1..5", "1Gi1", "+1", "½", "1_0", "500m"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(parse_bytes("-1Gi"), Err(QuantityError::Negative("-1Gi".into())));
        assert_eq!(parse_bytes("99999999999999999999"), Err(QuantityError::Overflow("99999999999999999999".into())));
        assert_eq!(parse_bytes("17000000Ti"), Err(QuantityError::Overflow("17000000Ti".into())));
    }

    #[test]
    fn table_of_cpu() {
        for (text, millis) in [("2", 2000), ("0.5", 500), ("500m", 500), ("1.25", 1250), ("0.0001", 1), ("0", 0)] {
            assert_eq!(parse_cpu_millis(text), Ok(millis), "{text}");
        }
        for text in ["", "m", "1Gi", "two", "-1", "1e2"] {
            assert!(parse_cpu_millis(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_round_trip(bytes: u64) {
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn cpu_round_trip(millis in 0..u64::MAX / 1000) {
            prop_assert_eq!(parse_cpu_millis(&format_cpu_millis(millis)), Ok(millis));
        }

        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = parse_bytes(&text);
            let _ = parse_cpu_millis(&text);
        }
    }
}
