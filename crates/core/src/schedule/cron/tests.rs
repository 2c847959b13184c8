use croner::parser::{CronParser, Seconds, Year};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use proptest::prelude::*;

use super::*;

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().map(Timestamp::as_millisecond).unwrap()
}

/// The ticks after a moment, as the zone's clock shows them.
fn ticks(pattern: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::parse(pattern, zone).unwrap();
    let mut at = ms(after);
    let mut found = Vec::new();
    for _ in 0..count {
        at = schedule.next_after(at).unwrap();
        let zoned = Timestamp::from_millisecond(at).unwrap().to_zoned(schedule.zone.clone());
        found.push(zoned.strftime("%m-%dT%H:%M:%S%:z").to_string());
    }
    found
}

#[test]
fn where_the_clock_is_moved() {
    // Berlin, 29 March 2026: from 02:00 to 03:00, and 25 October: from 03:00 back to 02:00.
    let spring = "2026-03-28T12:00:00Z";
    let autumn = "2026-10-24T12:00:00Z";
    let berlin = "Europe/Berlin";
    assert_eq!(ticks("30 2 * * *", berlin, spring, 2), ["03-29T03:00:00+02:00", "03-30T02:30:00+02:00"]);
    assert_eq!(ticks("30 2 * * *", berlin, autumn, 2), ["10-25T02:30:00+02:00", "10-26T02:30:00+01:00"]);
    assert_eq!(ticks("*/20 2 * * *", berlin, spring, 2), ["03-29T03:00:00+02:00", "03-30T02:00:00+02:00"], "all of a gap are one");
    assert_eq!(ticks("0 2,3 * * *", berlin, spring, 2), ["03-29T03:00:00+02:00", "03-30T02:00:00+02:00"]);
    assert_eq!(
        ticks("*/30 2 * * *", berlin, autumn, 3),
        ["10-25T02:00:00+02:00", "10-25T02:30:00+02:00", "10-26T02:00:00+01:00"],
        "the hour is named, so it counts once"
    );
    let repeated = "2026-10-24T23:40:00Z";
    assert_eq!(
        ticks("*/30 * * * *", berlin, repeated, 6),
        ["10-25T02:00:00+02:00", "10-25T02:30:00+02:00", "10-25T02:00:00+01:00", "10-25T02:30:00+01:00", "10-25T03:00:00+01:00", "10-25T03:30:00+01:00"],
        "half hours are half hours"
    );
    assert_eq!(ticks("*/30 * * * *", berlin, "2026-03-29T00:10:00Z", 3), ["03-29T01:30:00+01:00", "03-29T03:00:00+02:00", "03-29T03:30:00+02:00"]);
    // In the middle of the hour that comes again.
    assert_eq!(ticks("45 2 * * *", berlin, "2026-10-25T01:10:00Z", 1), ["10-26T02:45:00+01:00"]);

    // New York: 8 March 2026 from 02:00 to 03:00, 1 November from 02:00 back to 01:00.
    let york = "America/New_York";
    assert_eq!(ticks("15 2 * * *", york, "2026-03-08T00:00:00Z", 2), ["03-08T03:00:00-04:00", "03-09T02:15:00-04:00"]);
    assert_eq!(ticks("15 1 * * *", york, "2026-11-01T00:00:00Z", 2), ["11-01T01:15:00-04:00", "11-02T01:15:00-05:00"]);
    assert_eq!(ticks("0 9 * * MON-FRI", york, "2026-03-06T15:00:00Z", 2), ["03-09T09:00:00-04:00", "03-10T09:00:00-04:00"]);

    // Lord Howe moves by half an hour: 5 April 2026 from 02:00 back to 01:30, 4 October from 02:00 to 02:30.
    let howe = "Australia/Lord_Howe";
    assert_eq!(ticks("45 1 * * *", howe, "2026-04-04T00:00:00Z", 2), ["04-05T01:45:00+11:00", "04-06T01:45:00+10:30"]);
    assert_eq!(ticks("15 2 * * *", howe, "2026-10-03T00:00:00Z", 2), ["10-04T02:30:00+11:00", "10-05T02:15:00+11:00"]);
    assert_eq!(
        ticks("*/15 * * * *", howe, "2026-04-04T14:20:00Z", 5),
        ["04-05T01:30:00+11:00", "04-05T01:45:00+11:00", "04-05T01:30:00+10:30", "04-05T01:45:00+10:30", "04-05T02:00:00+10:30"]
    );

    // Cairo leaves out midnight: 24 April 2026 begins at 01:00; on 30 October 00:00 goes back to 23:00.
    let cairo = "Africa/Cairo";
    assert_eq!(ticks("0 0 * * *", cairo, "2026-04-23T00:00:00Z", 2), ["04-24T01:00:00+03:00", "04-25T00:00:00+03:00"]);
    assert_eq!(ticks("30 23 * * *", cairo, "2026-10-29T00:00:00Z", 2), ["10-29T23:30:00+03:00", "10-30T23:30:00+02:00"]);

    // Samoa had no 30 December 2011.
    assert_eq!(ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T20:00:00Z", 3), ["12-29T12:00:00-10:00", "12-31T00:00:00+14:00", "12-31T12:00:00+14:00"]);
    // A day that does not exist, with a month that has it.
    assert_eq!(ticks("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1), ["02-29T00:00:00+00:00"]);
    assert_eq!(ticks("* * * * * *", "UTC", "2026-01-01T00:00:00.400Z", 2), ["01-01T00:00:01+00:00", "01-01T00:00:02+00:00"]);
    assert_eq!(ticks("@hourly", "Asia/Kathmandu", "2026-01-01T00:00:00Z", 1), ["01-01T06:00:00+05:45"]);
}

#[test]
fn days_and_weekdays() {
    // Both named: one is enough. One of them from a star: the other decides.
    assert_eq!(ticks("0 0 13 * FRI", "UTC", "2026-02-01T00:00:00Z", 3), ["02-06T00:00:00+00:00", "02-13T00:00:00+00:00", "02-20T00:00:00+00:00"]);
    assert_eq!(ticks("0 0 13 * *", "UTC", "2026-02-01T00:00:00Z", 2), ["02-13T00:00:00+00:00", "03-13T00:00:00+00:00"]);
    assert_eq!(ticks("0 0 * * 7", "UTC", "2026-02-01T00:00:00Z", 2), ["02-08T00:00:00+00:00", "02-15T00:00:00+00:00"]);
    assert_eq!(ticks("0 0 * * sat-sun", "UTC", "2026-02-02T00:00:00Z", 2), ["02-07T00:00:00+00:00", "02-08T00:00:00+00:00"]);
    assert_eq!(ticks("0 0 */10 * MON", "UTC", "2026-02-01T00:00:00Z", 2), ["05-11T00:00:00+00:00", "06-01T00:00:00+00:00"]);
}

#[test]
fn what_is_refused() {
    let long = format!("{} * * * *", "1,".repeat(200));
    for (pattern, word) in [
        ("", "five or six fields"),
        ("* * * *", "has 4"),
        ("* * * * * * *", "has 7"),
        ("60 * * * *", "minute: 60 is not from 0 to 59"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of the month"),
        ("* * 32 * *", "day of the month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of the week"),
        ("* * * FOO *", "names from JAN to DEC"),
        ("*/0 * * * *", "a step is from 1 to 59"),
        ("*/99 * * * *", "a step is from 1 to 59"),
        ("5/10 * * * *", "steps are of a range or of *"),
        ("5-1 * * * *", "ends before it begins"),
        ("1,,2 * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("1- * * * *", "minute"),
        ("+1 * * * *", "minute"),
        ("١ * * * *", "minute"),
        ("99999999999999999999 * * * *", "minute"),
        ("0 0 31 2 *", "never comes"),
        ("0 0 30 FEB *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("@reboot", "none of @yearly"),
        (&long, "at most 256 bytes"),
    ] {
        let error = Schedule::parse(pattern, "UTC").unwrap_err();
        assert!(error.contains(word), "{pattern:?}: {error}");
    }
    for zone in ["", "Mars/Olympus", "UTC+1", "../etc/passwd", "Europe/Berlin\0"] {
        assert!(Schedule::parse("* * * * *", zone).unwrap_err().contains("no time zone"), "{zone:?}");
    }
    assert!(Schedule::parse("0 0 31 2 MON", "UTC").is_ok(), "Mondays in February do come");
    assert!(Schedule::parse(" 0  9\t* * 1 ", "Europe/Berlin").is_ok());
}

#[test]
fn the_calendar_ends() {
    let schedule = Schedule::parse("* * * * * *", "UTC").unwrap();
    for at in [i64::MIN, i64::MAX, Timestamp::MAX.as_millisecond(), Timestamp::MIN.as_millisecond()] {
        let _ = schedule.next_after(at);
    }
    assert_eq!(schedule.next_after(Timestamp::MAX.as_millisecond()), None);
}

fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
    let value = min..=max;
    let range = (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let part = prop_oneof![
        value.prop_map(|value| value.to_string()),
        range.clone(),
        (range, 1..=9u32).prop_map(|(range, step)| format!("{range}/{step}")),
        (1..=9u32).prop_map(|step| format!("*/{step}")),
    ];
    prop_oneof![2 => Just("*".to_owned()), 3 => proptest::collection::vec(part, 1..3).prop_map(|parts| parts.join(","))]
}

fn pattern() -> impl Strategy<Value = String> {
    let second = prop_oneof![Just(None), field(0, 59).prop_map(Some)];
    (second, field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)).prop_map(|(second, minute, hour, day, month, weekday)| {
        let five = format!("{minute} {hour} {day} {month} {weekday}");
        second.map_or(five.clone(), |second| format!("{second} {five}"))
    })
}

/// Whether a time on the wall is one of the pattern's, by another implementation. It does not take `*/n` of days for a star.
fn oracle(pattern: &str) -> Option<croner::Cron> {
    let words: Vec<&str> = pattern.split(' ').collect();
    let [.., day, _, weekday] = words[..] else { return None };
    let step = |word: &str| word.starts_with("*") && word != "*";
    if step(day) || step(weekday) {
        return None;
    }
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build().parse(pattern).ok()
}

const ZONES_OF_NOTE: [&str; 8] =
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/St_Johns", "Africa/Casablanca", "Pacific/Apia"];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks_only_go_on(pattern in pattern(), zone in proptest::sample::select(ZONES_OF_NOTE.to_vec()), start in 1_000_000_000_000i64..2_000_000_000_000) {
        let Ok(schedule) = Schedule::parse(&pattern, zone) else { return Ok(()) };
        let mut at = start;
        for _ in 0..50 {
            let next = schedule.next_after(at).unwrap();
            prop_assert!(next > at && next % 1000 == 0);
            // From wherever it is looked for in between, it is the same one: none is lost and none comes twice.
            for between in [at + 1, (at + next) / 2, next - 1] {
                prop_assert_eq!(schedule.next_after(between), Some(next));
            }
            at = next;
        }
    }

    #[test]
    fn agrees_with_another_in_utc(pattern in pattern(), start in 1_000_000_000i64..2_000_000_000) {
        let (Ok(schedule), Some(oracle)) = (Schedule::parse(&pattern, "UTC"), oracle(&pattern)) else { return Ok(()) };
        let mut at: Zoned = Timestamp::from_second(start).unwrap().to_zoned(TimeZone::UTC);
        for _ in 0..5 {
            let next = oracle.find_next_occurrence(&at, false).unwrap();
            prop_assert_eq!(schedule.next_after(at.timestamp().as_millisecond()), Some(next.timestamp().as_millisecond()), "after {}", at);
            at = next;
        }
    }

    /// Each time on the wall is a tick at its first moment, or at the end of the gap that it lies in; and there is no other.
    #[test]
    fn each_time_on_the_wall_is_one_tick(
        zone in proptest::sample::select(ZONES_OF_NOTE[1..].to_vec()),
        minute in field(0, 59), hour in field(0, 23), start in 1_000_000_000i64..2_000_000_000,
    ) {
        let pattern = format!("{minute} {hour} * * *");
        let schedule = Schedule::parse(&pattern, zone).unwrap();
        // Two days around the next move of the clock.
        let tz = schedule.zone.clone();
        let Some(moved) = tz.following(Timestamp::from_second(start).unwrap()).next().map(|moved| moved.timestamp()) else { return Ok(()) };
        let (begin, end) = (moved.as_second() - 86_400, moved.as_second() + 86_400);
        let mut expected = std::collections::BTreeSet::new();
        // Minute by minute on the wall, a day beyond both ends.
        let mut wall = tz.to_datetime(Timestamp::from_second(begin - 86_400).unwrap()).with().second(0).build().unwrap();
        let last = tz.to_datetime(Timestamp::from_second(end + 86_400).unwrap());
        while wall < last {
            if schedule.fields.next(wall) == Some(wall) {
                let ambiguous = tz.to_ambiguous_timestamp(wall);
                match ambiguous.offset() {
                    jiff::tz::AmbiguousOffset::Unambiguous { offset } => { expected.insert(offset.to_timestamp(wall).unwrap()); }
                    jiff::tz::AmbiguousOffset::Gap { .. } => { expected.insert(moved_over(&tz, wall)); }
                    jiff::tz::AmbiguousOffset::Fold { before, after } => {
                        expected.insert(before.to_timestamp(wall).unwrap());
                        if schedule.fields.by_elapsed_time {
                            expected.insert(after.to_timestamp(wall).unwrap());
                        }
                    }
                }
            }
            wall = wall.checked_add(SignedDuration::from_mins(1)).unwrap();
        }
        let expected: Vec<i64> = expected.into_iter().map(Timestamp::as_millisecond).filter(|at| (begin * 1000 + 1..end * 1000).contains(at)).collect();
        let mut found = Vec::new();
        let mut at = begin * 1000;
        while let Some(next) = schedule.next_after(at).filter(|next| *next < end * 1000) {
            found.push(next);
            at = next;
        }
        prop_assert_eq!(found, expected, "{} in {}", pattern, zone);
    }

    #[test]
    fn anything_is_answered(pattern in "[-*/,0-9A-Za-z@# ]{0,40}", at in any::<i64>()) {
        if let Ok(schedule) = Schedule::parse(&pattern, "Europe/Berlin") {
            schedule.next_after(at);
        }
    }
}

/// The end of the gap that a time lies in.
fn moved_over(tz: &TimeZone, wall: jiff::civil::DateTime) -> Timestamp {
    let before = tz.to_offset(TimeZone::UTC.to_timestamp(wall).unwrap().checked_sub(LONGEST_MOVE).unwrap());
    let around = before.to_timestamp(wall).unwrap().checked_sub(LONGEST_MOVE).unwrap();
    tz.following(around)
        .find(|moved| {
            let former = tz.to_offset(moved.timestamp().checked_sub(SECOND).unwrap());
            (former.to_datetime(moved.timestamp())..moved.offset().to_datetime(moved.timestamp())).contains(&wall)
        })
        .unwrap()
        .timestamp()
}
