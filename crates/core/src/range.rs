//! Which bytes of a file an HTTP request asks for (RFC 9110, section 14).

/// What is sent of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    /// From a byte on, up to another that is not sent any more.
    Part {
        from: u64,
        to: u64,
    },
    /// Nothing of the file is in the range.
    Outside,
}

/// What is sent of a file of `size` bytes. A header that cannot be read, and one of several ranges, is passed over, as the RFC allows; so is
/// a range of another state of the file than `etag` is of (`If-Range`; dates are known of none).
pub fn wanted(range: Option<&str>, if_range: Option<&str>, etag: Option<&str>, size: u64) -> Wanted {
    if if_range.is_some_and(|of| etag != Some(of.trim())) {
        return Wanted::Whole;
    }
    range.and_then(|range| single(range, size)).unwrap_or(Wanted::Whole)
}

/// A single range; none of a header that is none.
fn single(header: &str, size: u64) -> Option<Wanted> {
    let (unit, set) = header.trim().split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(if suffix == 0 || size == 0 { Wanted::Outside } else { Wanted::Part { from: size.saturating_sub(suffix), to: size } });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(if first >= size { Wanted::Outside } else { Wanted::Part { from: first, to: last.saturating_add(1).min(size) } })
}

/// Digits. What is too large for any file is the largest number.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_is_sent_and_what_is_none_is_passed_over() {
        let part = |from, to| Wanted::Part { from, to };
        for (header, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-4", part(2, 5)),
            ("bytes=2-", part(2, 10)),
            ("bytes=2-99", part(2, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-99", part(0, 10)),
            (" Bytes= 9-9 ", part(9, 10)),
            ("bytes=2-99999999999999999999999", part(2, 10)),
            ("bytes=10-", Wanted::Outside),
            ("bytes=99999999999999999999999-", Wanted::Outside),
            ("bytes=-0", Wanted::Outside),
            ("bytes=4-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), None, Some("\"e\""), 10), expected, "{header}");
        }
        assert_eq!(wanted(None, None, None, 10), Wanted::Whole);
        for header in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(wanted(Some(header), None, None, 0), Wanted::Outside, "{header} of nothing");
        }
    }

    #[test]
    fn a_range_of_another_state_is_none() {
        let part = Wanted::Part { from: 0, to: 1 };
        for (if_range, etag, expected) in [
            ("\"e\"", Some("\"e\""), part),
            ("\"f\"", Some("\"e\""), Wanted::Whole),
            ("\"e\"", None, Wanted::Whole),
            ("W/\"e\"", Some("\"e\""), Wanted::Whole),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some("\"e\""), Wanted::Whole),
        ] {
            assert_eq!(wanted(Some("bytes=0-0"), Some(if_range), etag, 10), expected, "{if_range}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_part_lies_within_the_file(header in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}", size: u64) {
            if let Wanted::Part { from, to } = wanted(Some(&header), None, None, size) {
                prop_assert!(from < to && to <= size);
            }
        }
    }
}
