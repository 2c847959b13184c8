//! Which events a script is told of. An event's target is `channel:event`, such as `items:posts:created`; a pattern says its
//! first segments, and `*` stands for any one.

use crate::limits;

/// Whether a pattern is one that can be written down for a script.
pub fn validate(pattern: &str) -> Result<(), String> {
    let max = limits::SCRIPT_PATTERN_MAX_BYTES;
    if pattern.is_empty() {
        return Err("a pattern is like items:posts:created, items:posts or items:*:created, and this one is empty".into());
    }
    if pattern.len() > max {
        return Err(format!("a pattern has at most {max} bytes, and this one has {}", pattern.len()));
    }
    let segments = pattern.split(':').count();
    if segments > limits::SCRIPT_TARGET_SEGMENTS_MAX {
        return Err(format!("a pattern has at most {} segments, and this one has {segments}", limits::SCRIPT_TARGET_SEGMENTS_MAX));
    }
    for segment in pattern.split(':') {
        if segment.contains('*') && segment != "*" {
            return Err(format!("in a pattern * stands for one whole segment, so {segment:?} is none"));
        }
        if segment != "*" {
            check_segment(segment).map_err(|cause| format!("in a pattern {cause}"))?;
        }
    }
    Ok(())
}

/// Whether a channel and an event make a target.
pub fn validate_target(channel: &str, event: &str) -> Result<(), String> {
    let (len, max) = (channel.len() + 1 + event.len(), limits::SCRIPT_PATTERN_MAX_BYTES);
    if len > max {
        return Err(format!("channel and event have at most {max} bytes together, and these have {len}"));
    }
    let segments = channel.split(':').count() + 1;
    if segments > limits::SCRIPT_TARGET_SEGMENTS_MAX {
        return Err(format!("channel and event have at most {} segments together, and these have {segments}", limits::SCRIPT_TARGET_SEGMENTS_MAX));
    }
    for segment in channel.split(':') {
        check_segment(segment).map_err(|cause| format!("channel: {cause}"))?;
    }
    check_segment(event).map_err(|cause| format!("event: {cause}"))
}

/// Whether an event is one that the pattern asks for: it is the target, or its first segments, each as it is or `*`.
pub fn matches(pattern: &str, target: &str) -> bool {
    let mut of_target = target.split(':');
    pattern.split(':').all(|wanted| of_target.next().is_some_and(|segment| wanted == "*" || wanted == segment))
}

fn check_segment(segment: &str) -> Result<(), String> {
    if segment.is_empty() {
        return Err("no segment is empty".into());
    }
    match segment.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))) {
        Some(wrong) => Err(format!("segments are letters, digits, and the characters _ - . so {segment:?} cannot have {wrong:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_written_down() {
        let target = "items:posts:created";
        for (pattern, expected) in [
            ("items:posts:created", true),
            ("items:posts", true),
            ("items:posts:*", true),
            ("items:*", true),
            ("items", true),
            ("*", true),
            ("*:*:*", true),
            ("items:*:created", true),
            ("*:posts", true),
            ("items:posts:updated", false),
            ("items:posts:created:more", false),
            ("items:posts:created:*", false),
            ("*:*:*:*", false),
            ("items:post", false),
            ("items:posts:create", false),
            ("posts", false),
            ("Items:posts", false),
            ("items:po*", false),
            ("", false),
            (":", false),
        ] {
            assert_eq!(matches(pattern, target), expected, "{pattern:?}");
        }
        assert!(matches("system:job.dead_letter", "system:job.dead_letter"));
    }

    #[test]
    fn what_can_be_written_down() {
        for good in ["items:posts:*", "*", "a", "items:posts", "system:job.dead_letter", "A-b_c.9:*:x"] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        let long = "a".repeat(257);
        let many = vec!["a"; 17].join(":");
        for bad in ["", ":", "a:", ":a", "a::b", "po*", "items:**", "a b", "items:posts:créé", "a/b", "a\n", &long, &many] {
            assert!(validate(bad).is_err(), "{bad:?}");
        }
        assert_eq!(validate_target("orders", "paid"), Ok(()));
        assert_eq!(validate_target("shop:orders", "paid"), Ok(()));
        for (channel, event) in [("", "x"), ("x", ""), ("x", "a:b"), ("*", "x"), ("x", "*"), (long.as_str(), "x")] {
            assert!(validate_target(channel, event).is_err(), "{channel:?} {event:?}");
        }
    }

    /// The rule, word for word.
    fn model(pattern: &str, target: &str) -> bool {
        let (pattern, target): (Vec<_>, Vec<_>) = (pattern.split(':').collect(), target.split(':').collect());
        if pattern.len() > target.len() {
            return false;
        }
        for position in 0..pattern.len() {
            if pattern[position] != "*" && pattern[position] != target[position] {
                return false;
            }
        }
        true
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(pattern in "(a|b|\\*|)(:(a|b|\\*|)){0,4}", target in "(a|b|)(:(a|b|)){0,4}") {
            prop_assert_eq!(matches(&pattern, &target), model(&pattern, &target));
        }

        #[test]
        fn a_target_and_its_channel_match_it(channel in "[a-z]{1,3}(:[a-z]{1,3}){0,3}", event in "[a-z]{1,3}") {
            let target = format!("{channel}:{event}");
            prop_assert!(matches(&target, &target) && matches(&channel, &target));
            prop_assert!(!matches(&target, &channel));
            prop_assert!(validate(&target).is_ok() && validate_target(&channel, &event).is_ok());
        }

        #[test]
        fn anything_is_answered(pattern in ".{0,40}", target in ".{0,40}") {
            let _ = validate(&pattern);
            matches(&pattern, &target);
        }
    }
}
