//! Limits of schedules of apps.

/// Schedules of one app, those of its manifest and those that clients keep.
pub const APP_SCHEDULES_PER_APP_MAX: usize = 100;
/// Ticks that are remembered of one schedule.
pub const APP_TICKS_KEPT_MAX: usize = 10_000;
/// Schedules of one app that are gone and remembered for what they ran.
pub const APP_SCHEDULES_GONE_KEPT_MAX: usize = 100;
