//! Samples and what is said of them.

use std::time::Duration;

use serde_json::{Value, json};

/// Times of one operation, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    /// Those of another measurement of the same.
    pub fn append(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `share` (0 to 1) of the samples lie, by nearest rank; 0 of none.
    pub fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }

    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut samples = Self::default();
        times.into_iter().for_each(|time| samples.push(time));
        samples
    }
}

/// One line of the result.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub n: usize,
    pub p50: f64,
    /// Of single figures there is none.
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    /// What the same work costs without us, in the row's unit, and its name.
    pub floor: Option<(f64, &'static str)>,
    pub target: Target,
    pub note: String,
}

/// What the row is held to.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    None,
    /// At most, at p50 and p99.
    Times {
        p50: f64,
        p99: f64,
    },
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    pub fn times(name: &'static str, samples: &Samples, floor: Option<(f64, &'static str)>, target: Target) -> Self {
        let enough = samples.len() > 1;
        Self {
            name,
            unit: "ms",
            n: samples.len(),
            p50: samples.median(),
            p95: enough.then(|| samples.percentile(0.95)),
            p99: enough.then(|| samples.percentile(0.99)),
            floor,
            target,
            note: String::new(),
        }
    }

    pub fn figure(name: &'static str, unit: &'static str, n: usize, value: f64, target: Target) -> Self {
        Self { name, unit, n, p50: value, p95: None, p99: None, floor: None, target, note: String::new() }
    }

    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether the target is met; `None` without one.
    pub fn met(&self) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::Times { p50, p99 } => Some(self.p50 <= p50 && self.p99.is_none_or(|value| value <= p99)),
            Target::AtMost(most) => Some(self.p50 <= most),
            Target::AtLeast(least) => Some(self.p50 >= least),
        }
    }

    pub fn cells(&self) -> Vec<String> {
        let optional = |value: Option<f64>| value.map(figure).unwrap_or_default();
        let target = match self.target {
            Target::None => String::new(),
            Target::Times { p50, p99 } => format!("{} / {}", figure(p50), figure(p99)),
            Target::AtMost(most) => format!("<= {}", figure(most)),
            Target::AtLeast(least) => format!(">= {}", figure(least)),
        };
        vec![
            self.name.into(),
            self.unit.into(),
            self.n.to_string(),
            figure(self.p50),
            optional(self.p95),
            optional(self.p99),
            self.floor.map(|(value, name)| format!("{} {name}", figure(value))).unwrap_or_default(),
            self.ratio().map(|r| format!("{r:.1}x")).unwrap_or_default(),
            target,
            self.met().map_or("", |met| if met { "met" } else { "MISSED" }).into(),
            self.note.clone(),
        ]
    }

    pub fn json(&self) -> Value {
        let target = match self.target {
            Target::None => Value::Null,
            Target::Times { p50, p99 } => json!({"p50_max": p50, "p99_max": p99}),
            Target::AtMost(most) => json!({"max": most}),
            Target::AtLeast(least) => json!({"min": least}),
        };
        json!({
            "name": self.name, "unit": self.unit, "n": self.n, "p50": self.p50, "p95": self.p95, "p99": self.p99,
            "floor": self.floor.map(|(value, name)| json!({"value": value, "name": name})), "ratio": self.ratio(),
            "target": target, "met": self.met(), "note": self.note,
        })
    }

    fn ratio(&self) -> Option<f64> {
        self.floor.filter(|(value, _)| *value > 0.0).map(|(value, _)| self.p50 / value)
    }
}

/// Columns of [`Row::cells`].
pub const HEADER: [&str; 11] = ["OPERATION", "UNIT", "N", "P50", "P95", "P99", "FLOOR", "RATIO", "TARGET", "", "NOTE"];

/// Three significant digits or so.
fn figure(value: f64) -> String {
    match value.abs() {
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Samples = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((samples.median(), samples.percentile(0.95), samples.percentile(0.99)), (50.0, 95.0, 99.0));
        let one: Samples = [Duration::from_millis(7)].into_iter().collect();
        assert_eq!(one.percentile(0.99), 7.0);
        assert_eq!(Samples::default().median(), 0.0);
    }

    #[test]
    fn a_target_is_met_at_both_ends() {
        let samples: Samples = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(Row::times("x", &samples, None, Target::Times { p50: 50.0, p99: 99.0 }).met(), Some(true));
        assert_eq!(Row::times("x", &samples, None, Target::Times { p50: 50.0, p99: 98.0 }).met(), Some(false));
        assert_eq!(Row::figure("x", "/s", 1, 299.0, Target::AtLeast(300.0)).met(), Some(false));
    }
}
