//! From when until when a certificate is valid, read from its DER. Everything else of it is read by rustls.

use jiff::{civil, tz::TimeZone};
use sandbar_core::certificates::Validity;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version of a certificate, which the oldest ones leave out.
const VERSION: u8 = 0xa0;

/// Reads it (RFC 5280, 4.1). `None` for what is no certificate.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let (certificate, _) = take(certificate, SEQUENCE)?;
    let (fields, _) = take(certificate, SEQUENCE)?;
    let fields = take(fields, VERSION).map_or(fields, |(_, rest)| rest);
    let (_serial, fields) = take(fields, INTEGER)?;
    let (_algorithm, fields) = take(fields, SEQUENCE)?;
    let (_issuer, fields) = take(fields, SEQUENCE)?;
    let (times, _) = take(fields, SEQUENCE)?;
    let (not_before_ms, times) = time(times)?;
    let (not_after_ms, _) = time(times)?;
    Some(Validity { not_before_ms, not_after_ms })
}

/// The contents of the value in front, which has this tag, and what follows it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // So many bytes of length; four are more than any certificate has.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        0x80 | 0x85..=0xff => return None,
    };
    rest.split_at_checked(length)
}

/// Milliseconds since 1970 of the time in front, and what follows it.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, year_digits, rest) = match take(der, UTC_TIME) {
        Some((text, rest)) => (text, 2, rest),
        None => take(der, GENERALIZED_TIME).map(|(text, rest)| (text, 4, rest))?,
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0i16, |number, digit| number * 10 + i16::from(digit - b'0'));
    let (year, rest_digits) = digits.split_at(year_digits);
    let year = match (year_digits, number(year)) {
        (4, year) => year,
        // Two digits stand for 1950 to 2049.
        (_, year @ 0..50) => 2000 + year,
        (_, year) => 1900 + year,
    };
    let part = |at: usize| i8::try_from(number(&rest_digits[at * 2..at * 2 + 2])).ok();
    let moment = civil::DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    Some((moment.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond(), rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["web.example.test".to_owned()]).expect("params");
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn both_ways_of_writing_years_are_read() {
        for (from, to, not_before_ms, not_after_ms) in [
            ((2026, 1, 31), (2026, 5, 1), 1_769_817_600_000, 1_777_593_600_000),
            ((1999, 12, 31), (2049, 12, 31), 946_598_400_000, 2_524_521_600_000),
            ((2049, 12, 31), (2050, 1, 1), 2_524_521_600_000, 2_524_608_000_000),
        ] {
            assert_eq!(validity(&certificate(from, to)), Some(Validity { not_before_ms, not_after_ms }), "{from:?} {to:?}");
        }
    }

    #[test]
    fn what_is_cut_short_or_mangled_is_none_and_no_panic() {
        let whole = certificate((2026, 1, 1), (2026, 2, 1));
        for end in 0..100 {
            assert_eq!(validity(&whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x30, 0x80, 0x84, 0xff] {
                let mut mangled = whole.clone();
                mangled[at] = byte;
                let _ = validity(&mangled);
            }
        }
    }
}
