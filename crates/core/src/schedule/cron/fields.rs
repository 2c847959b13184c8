//! The fields of a pattern, and the dates and times that they allow.

use jiff::civil::{Date, DateTime, Time};

use crate::limits;

/// Days within which each pattern that is possible at all has a match: a 29th of February on a certain day of the week can
/// be forty years away.
const DAYS_LOOKED_AT: u32 = 45 * 366;
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// What each field allows, a bit for each value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    second: u64,
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// The field of days begins with `*`, so weekdays decide, and the other way round; else one of them is enough.
    any_day: bool,
    any_weekday: bool,
    /// The hour is `*` or a step of it.
    pub(super) by_elapsed_time: bool,
}

/// A field: what it is called, its values, and words for them.
struct Field {
    name: &'static str,
    min: u64,
    max: u64,
    words: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", min: 0, max: 59, words: &[] };
const MINUTE: Field = Field { name: "minute", min: 0, max: 59, words: &[] };
const HOUR: Field = Field { name: "hour", min: 0, max: 23, words: &[] };
const DAY: Field = Field { name: "day of the month", min: 1, max: 31, words: &[] };
const MONTH: Field = Field { name: "month", min: 1, max: 12, words: &MONTHS };
const WEEKDAY: Field = Field { name: "day of the week", min: 0, max: 7, words: &WEEKDAYS };

impl Fields {
    /// Whether several seconds of a minute match.
    pub(super) fn is_by_seconds(&self) -> bool {
        self.second.count_ones() > 1
    }

    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        let max = limits::SCRIPT_CRON_MAX_BYTES;
        if pattern.len() > max {
            return Err(format!("a schedule has at most {max} bytes, and this one has {}", pattern.len()));
        }
        let pattern = pattern.trim_ascii();
        let pattern = match NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(pattern)) {
            Some((_, meaning)) => meaning,
            None if pattern.starts_with('@') => {
                return Err(format!("{pattern:?} is none of {}", NICKNAMES.map(|(name, _)| name).join(", ")));
            }
            None => pattern,
        };
        let words: Vec<&str> = pattern.split_ascii_whitespace().collect();
        let (second, [minute, hour, day, month, weekday]) = match words[..] {
            [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday]),
            [second, minute, hour, day, month, weekday] => (second, [minute, hour, day, month, weekday]),
            _ => {
                let fields = "minute hour day month weekday, with seconds before them if wanted";
                return Err(format!("a schedule has five or six fields ({fields}), and this one has {}", words.len()));
            }
        };
        let weekdays = WEEKDAY.parse(weekday)?;
        let fields = Self {
            second: SECOND.parse(second)?,
            minute: MINUTE.parse(minute)?,
            hour: HOUR.parse(hour)?,
            day: DAY.parse(day)?,
            month: MONTH.parse(month)?,
            // Sunday is 0 and 7.
            weekday: (weekdays | weekdays >> 7) & 0x7f,
            any_day: day.starts_with('*'),
            any_weekday: weekday.starts_with('*'),
            by_elapsed_time: hour.starts_with('*'),
        };
        match fields.next(Date::constant(2024, 1, 1).at(0, 0, 0, 0)) {
            Some(_) => Ok(fields),
            None => Err(format!("{pattern:?} never comes: there is no such date")),
        }
    }

    /// The first time from one on, that one included. None where the calendar ends, or when there never is one.
    pub(super) fn next(&self, from: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        if self.has_date(date)
            && let Some(time) = self.time_from(from.hour(), from.minute(), from.second())
        {
            return Some(date.to_datetime(time));
        }
        let last = date.checked_add(jiff::Span::new().days(DAYS_LOOKED_AT)).unwrap_or(Date::MAX);
        while date < last {
            date = if self.has_month(date) { date.tomorrow().ok()? } else { date.last_of_month().tomorrow().ok()? };
            if self.has_date(date) {
                return Some(date.to_datetime(self.time_from(0, 0, 0)?));
            }
        }
        None
    }

    fn has_month(&self, date: Date) -> bool {
        has(self.month, date.month())
    }

    fn has_date(&self, date: Date) -> bool {
        let (day, weekday) = (has(self.day, date.day()), has(self.weekday, date.weekday().to_sunday_zero_offset()));
        self.has_month(date) && if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }

    fn time_from(&self, hour: i8, minute: i8, second: i8) -> Option<Time> {
        let first = |mask| at_least(mask, 0);
        let time = |hour, minute, second| Time::new(hour, minute, second, 0).ok();
        let this_hour = has(self.hour, hour);
        if this_hour
            && has(self.minute, minute)
            && let Some(second) = at_least(self.second, second)
        {
            return time(hour, minute, second);
        }
        if this_hour && let Some(minute) = at_least(self.minute, minute + 1) {
            return time(hour, minute, first(self.second)?);
        }
        time(at_least(self.hour, hour + 1)?, first(self.minute)?, first(self.second)?)
    }
}

fn has(mask: u64, value: i8) -> bool {
    mask >> value & 1 == 1
}

/// The first value that is set from one on; values are less than 64.
fn at_least(mask: u64, value: i8) -> Option<i8> {
    let rest = mask >> value;
    (rest != 0).then(|| value + rest.trailing_zeros() as i8)
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, String> {
        let mut mask = 0;
        for part in text.split(',') {
            mask |= self.part(part)?;
        }
        Ok(mask)
    }

    /// `*`, a value or a range; the first and the last with a step if wanted.
    fn part(&self, part: &str) -> Result<u64, String> {
        let (range, step) = match part.split_once('/') {
            None => (part, 1),
            Some((range, step)) => {
                let step = number(step).ok_or_else(|| self.wrong(part))?;
                if step == 0 || step > self.max {
                    return Err(format!("{}: a step is from 1 to {}, and {part:?} has another", self.name, self.max));
                }
                (range, step)
            }
        };
        let (from, to) = match range.split_once('-') {
            // Sunday is in this once.
            None if range == "*" => (self.min, if self.max == WEEKDAY.max { 6 } else { self.max }),
            None if step > 1 => return Err(format!("{}: steps are of a range or of *, as in {range}-{}/{step} or */{step}", self.name, self.max)),
            None => {
                let value = self.value(range, part)?;
                (value, value)
            }
            Some((from, to)) => {
                let (from, to) = (self.value(from, part)?, self.value(to, part)?);
                // SAT-SUN
                (from, if to == 0 && from > 0 && self.max == WEEKDAY.max { WEEKDAY.max } else { to })
            }
        };
        if from > to {
            return Err(format!("{}: {part:?} ends before it begins", self.name));
        }
        Ok((from..=to).step_by(step as usize).fold(0, |mask, value| mask | 1 << value))
    }

    fn value(&self, text: &str, part: &str) -> Result<u64, String> {
        if let Some(position) = self.words.iter().position(|word| word.eq_ignore_ascii_case(text)) {
            return Ok(self.min + position as u64);
        }
        let value = number(text).ok_or_else(|| self.wrong(part))?;
        if !(self.min..=self.max).contains(&value) {
            return Err(format!("{}: {value} is not from {} to {}", self.name, self.min, self.max));
        }
        Ok(value)
    }

    fn wrong(&self, part: &str) -> String {
        let words = match self.words {
            [first, .., last] => format!(", names from {first} to {last}"),
            _ => String::new(),
        };
        format!(
            "{}: {part:?} is none; it has numbers from {} to {}{words}, * and, of these, lists (1,2), ranges (1-5) and steps (*/5)",
            self.name, self.min, self.max
        )
    }
}

/// At most three digits.
fn number(text: &str) -> Option<u64> {
    ((1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}
