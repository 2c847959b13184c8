//! A pattern of cron in the time of a zone.
//!
//! A pattern speaks of the clock on the wall, and some days that clock is moved:
//! - A time that the clock leaves out counts as the first moment after the gap: 02:30 of a night that goes from 02:00 to
//!   03:00 is 03:00. Several of them are one tick.
//! - A time that comes twice is one tick, the first. Only where the hour is `*` or a step of it (`*/2`), a pattern goes by the
//!   time that passes, as Vixie's cron does: every quarter of an hour stays so in the hour that comes twice.
//!
//! Zones are those of the tz database that is built in, so that every server decides alike.

use std::sync::LazyLock;

use jiff::{
    SignedDuration, Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};

mod fields;
#[cfg(test)]
mod tests;

use super::Ticks;
use fields::Fields;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Longer than any zone ever moved its clock.
const LONGEST_MOVE: SignedDuration = SignedDuration::from_hours(49);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// Says what is wrong with the name of a zone.
pub fn check_timezone(timezone: &str) -> Result<(), String> {
    zone(timezone).map(drop)
}

fn zone(timezone: &str) -> Result<TimeZone, String> {
    ZONES.get(timezone).map_err(|_| format!("{timezone:?} is no time zone: zones have names such as UTC or Europe/Berlin"))
}

/// Moments without end.
#[derive(Debug, Clone)]
pub struct Schedule {
    fields: Fields,
    zone: TimeZone,
}

impl Schedule {
    /// Five fields (minute, hour, day, month, weekday), or six with seconds first, or a name such as `@hourly`; and the name
    /// of a zone.
    pub fn parse(pattern: &str, timezone: &str) -> Result<Self, String> {
        let fields = Fields::parse(pattern)?;
        Ok(Self { fields, zone: zone(timezone)? })
    }

    /// Whether it comes more often than once a minute.
    pub fn is_by_seconds(&self) -> bool {
        self.fields.is_by_seconds()
    }
}

impl Ticks for Schedule {
    /// None where the calendar ends.
    fn next_after(&self, at_ms: i64) -> Option<i64> {
        let at = Timestamp::from_second(at_ms.div_euclid(1000)).ok()?;
        let mut offset = self.zone.to_offset(at);
        let mut from = offset.to_datetime(at).checked_add(SECOND).ok()?;
        if !self.fields.by_elapsed_time {
            // What the clock showed before it was put back counts once.
            let lately = self.zone.preceding(at.checked_add(SECOND).ok()?).take_while(|moved| at.duration_since(moved.timestamp()) < LONGEST_MOVE);
            for moved in lately {
                let before = self.zone.to_offset(moved.timestamp().checked_sub(SECOND).ok()?);
                from = from.max(before.to_datetime(moved.timestamp()));
            }
        }
        let mut moves = self.zone.following(at);
        loop {
            let tick = self.fields.next(from)?;
            let instant = offset.to_timestamp(tick).ok();
            let Some(moved) = moves.next() else { return Some(instant?.as_millisecond()) };
            if let Some(instant) = instant
                && instant < moved.timestamp()
            {
                return Some(instant.as_millisecond());
            }
            let (ends, begins) = (offset.to_datetime(moved.timestamp()), moved.offset().to_datetime(moved.timestamp()));
            if (ends..begins).contains(&tick) {
                return Some(moved.timestamp().as_millisecond());
            }
            from = if begins < ends && self.fields.by_elapsed_time { begins } else { tick };
            offset = moved.offset();
        }
    }
}
