//! Times as the wire writes them.

use jiff::Timestamp;
use sandbar_core::lifecycle::Profile;

/// What the May generation writes for "not set".
const ZERO: &str = "0001-01-01T00:00:00Z";

/// The last time that RFC 3339 can write, which stands for "never" and for all that is later.
const LAST: &str = "9999-12-31T23:59:59Z";

/// RFC 3339 with milliseconds where there are any.
pub fn rfc3339(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_string(),
        Err(_) => if ms > 0 { LAST } else { ZERO }.to_owned(),
    }
}

/// RFC 3339 in whole seconds.
pub fn rfc3339_seconds(ms: u64) -> String {
    rfc3339(i64::try_from(ms / 1000 * 1000).unwrap_or(i64::MAX))
}

/// RFC 3339 with nanoseconds where there are any.
pub fn rfc3339_nanos(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default().to_string()
}

/// A deadline that may be off: null now, the zero time in the May profile.
pub fn deadline(ms: Option<i64>, profile: Profile) -> Option<String> {
    match (ms, profile) {
        (Some(ms), Profile::Current | Profile::May) => Some(rfc3339(ms)),
        (None, Profile::Current) => None,
        (None, Profile::May) => Some(ZERO.to_owned()),
    }
}

/// Now.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        assert_eq!(rfc3339(1_500), "1970-01-01T00:00:01.5Z");
        assert_eq!(rfc3339_seconds(1_999), "1970-01-01T00:00:01Z");
        assert_eq!(rfc3339_nanos(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!((rfc3339(i64::MAX).as_str(), rfc3339(i64::MIN).as_str()), (LAST, ZERO));
        assert_eq!(deadline(None, Profile::Current), None);
        assert_eq!(deadline(None, Profile::May).as_deref(), Some(ZERO));
    }
}
