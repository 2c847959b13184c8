//! Metrics of one sandbox: what is measured, and how samples become the points of a chart.
//!
//! What was not measured is a gap and never zero, and no rate is taken over the end of a runtime, where counters begin
//! anew.

use serde::{Deserialize, Serialize};

/// Everything measured of a runtime at one moment. Counters count from the runtime's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since 1970 UTC.
    pub at_ms: i64,
    pub runtime_id: String,
    pub cpu_usec: u64,
    /// Thousandths of a core; 0 = no limit.
    pub cpu_limit_millis: u64,
    pub memory_bytes: u64,
    /// Without what the kernel would give back at once.
    pub working_set_bytes: u64,
    pub memory_limit_bytes: u64,
    pub processes: u64,
    pub disk_bytes: u64,
    pub inodes: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Connections that were refused or could not be made.
    pub network_errors: u64,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    CpuLimit,
    CpuTime,
    CpuUsage,
    CpuUtilization,
    MemoryAvailable,
    MemoryLimit,
    MemoryUsage,
    MemoryUtilization,
    MemoryWorkingSet,
    NetworkErrors,
    NetworkIo,
    ProcessCount,
    RootfsInodes,
    RootfsUsage,
}

/// How the samples of one step become its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    /// The rate of a counter, the average of a gauge.
    Auto,
    Average,
    Last,
    Maximum,
    Minimum,
    /// Of counters only.
    Rate,
}

/// Points without a hole between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Start of the step in milliseconds, and the value.
    pub points: Vec<(i64, f64)>,
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub metric: Metric,
    pub unit: &'static str,
    pub statistic: Statistic,
    /// Such as `direction` = `transmit`.
    pub dimension: Option<(&'static str, &'static str)>,
    pub segments: Vec<Segment>,
    /// Where there are no points, and why: `no_data` or `series_reset`.
    pub gaps: Vec<Gap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub start_ms: i64,
    pub end_ms: i64,
    pub reason: &'static str,
}

/// What to make of samples. `end_ms` is not in the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start_ms: i64,
    pub end_ms: i64,
    pub step_ms: i64,
}

impl Metric {
    /// In the order of the catalogue.
    pub const ALL: [Self; 14] = [
        Self::CpuLimit,
        Self::CpuTime,
        Self::CpuUsage,
        Self::CpuUtilization,
        Self::MemoryAvailable,
        Self::MemoryLimit,
        Self::MemoryUsage,
        Self::MemoryUtilization,
        Self::MemoryWorkingSet,
        Self::NetworkErrors,
        Self::NetworkIo,
        Self::ProcessCount,
        Self::RootfsInodes,
        Self::RootfsUsage,
    ];

    pub fn name(self) -> &'static str {
        self.words().0
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// `counter` or `gauge`.
    pub fn kind(self) -> &'static str {
        if self.is_counter() { "counter" } else { "gauge" }
    }

    pub fn unit(self) -> &'static str {
        self.words().1
    }

    pub fn description(self) -> &'static str {
        self.words().2
    }

    /// Names of the dimensions that its series have.
    pub fn dimensions(self) -> &'static [&'static str] {
        if self == Self::NetworkIo { &["direction"] } else { &[] }
    }

    fn is_counter(self) -> bool {
        matches!(self, Self::CpuTime | Self::NetworkErrors | Self::NetworkIo)
    }

    fn unit_of_rate(self) -> &'static str {
        match self {
            Self::CpuTime => "cores",
            Self::NetworkIo => "bytes_per_second",
            _ => "count_per_second",
        }
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::CpuLimit => ("sandbox.cpu.limit", "cores", "Cores that the sandbox may use; no points where there is no limit"),
            Self::CpuTime => ("sandbox.cpu.time", "seconds", "Processor time since the runtime began"),
            Self::CpuUsage => ("sandbox.cpu.usage", "cores", "Cores in use"),
            Self::CpuUtilization => ("sandbox.cpu.utilization", "ratio", "Cores in use as part of the limit"),
            Self::MemoryAvailable => ("sandbox.memory.available", "bytes", "Limit less working set"),
            Self::MemoryLimit => ("sandbox.memory.limit", "bytes", "Memory that the sandbox may use"),
            Self::MemoryUsage => ("sandbox.memory.usage", "bytes", "Memory in use, with cached files"),
            Self::MemoryUtilization => ("sandbox.memory.utilization", "ratio", "Working set as part of the limit"),
            Self::MemoryWorkingSet => ("sandbox.memory.working_set", "bytes", "Memory in use without cached files that are not active"),
            Self::NetworkErrors => ("sandbox.network.errors", "count", "Connections that were refused or could not be made"),
            Self::NetworkIo => ("sandbox.network.io", "bytes", "Bytes sent and received outside"),
            Self::ProcessCount => ("sandbox.process.count", "count", "Processes and threads"),
            Self::RootfsInodes => ("sandbox.rootfs.writable.inodes", "count", "Files and folders of the sandbox's own"),
            Self::RootfsUsage => ("sandbox.rootfs.writable.usage", "bytes", "Bytes of the sandbox's own files"),
        }
    }
}

impl Statistic {
    const NAMES: [(&'static str, Self); 6] =
        [("auto", Self::Auto), ("average", Self::Average), ("last", Self::Last), ("maximum", Self::Maximum), ("minimum", Self::Minimum), ("rate", Self::Rate)];

    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, statistic)| statistic)
    }

    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, known)| *known == self).map_or("auto", |(name, _)| name)
    }
}

/// The step that shows a range in at most `points_max` points: what was asked for, or the least that fits.
pub fn step_s(start_ms: i64, end_ms: i64, asked_s: Option<u32>, points_max: u32, sample_every_s: u32) -> u32 {
    let range_s = u32::try_from((end_ms - start_ms).max(0) / 1000).unwrap_or(u32::MAX);
    let fits = range_s.div_ceil(points_max.max(1));
    asked_s.unwrap_or(sample_every_s).max(fits).max(1)
}

/// The series of one metric; `samples` in order of time, those of the step before `start_ms` may be among them and only
/// serve as what rates begin from.
pub fn series(metric: Metric, statistic: Statistic, samples: &[Sample], range: Range) -> Vec<Series> {
    let lines: &[Option<(&'static str, &'static str)>] = match metric {
        Metric::NetworkIo => &[Some(("direction", "transmit")), Some(("direction", "receive"))],
        _ => &[None],
    };
    lines.iter().map(|dimension| line(metric, statistic, *dimension, samples, range)).collect()
}

fn line(metric: Metric, statistic: Statistic, dimension: Option<(&'static str, &'static str)>, samples: &[Sample], range: Range) -> Series {
    let chosen = match (statistic, metric.is_counter()) {
        (Statistic::Auto, true) => Statistic::Rate,
        (Statistic::Auto, false) => Statistic::Average,
        (other, _) => other,
    };
    let as_rate = chosen == Statistic::Rate && metric.is_counter();
    let received = dimension.is_some_and(|(_, value)| value == "receive");
    let mut values = Vec::with_capacity(samples.len());
    let mut before: Option<&Sample> = None;
    for sample in samples {
        let former = before.filter(|former| former.runtime_id == sample.runtime_id && former.at_ms < sample.at_ms);
        if let Some(value) = value_of(metric, as_rate, received, former, sample)
            && (range.start_ms..range.end_ms).contains(&sample.at_ms)
        {
            values.push((sample.at_ms, value, sample.runtime_id.as_str()));
        }
        before = Some(sample);
    }
    let (segments, gaps) = cut(&values, chosen, metric.is_counter(), range);
    Series { metric, unit: if as_rate { metric.unit_of_rate() } else { metric.unit() }, statistic: chosen, dimension, segments, gaps }
}

/// One sample's value, if it has one: rates need a former sample of the same runtime, parts need a limit.
fn value_of(metric: Metric, as_rate: bool, received: bool, former: Option<&Sample>, sample: &Sample) -> Option<f64> {
    let counter = |sample: &Sample| match metric {
        Metric::NetworkErrors => sample.network_errors as f64,
        Metric::NetworkIo if received => sample.received_bytes as f64,
        Metric::NetworkIo => sample.sent_bytes as f64,
        _ => sample.cpu_usec as f64 / 1e6,
    };
    let per_second = || former.map(|former| (counter(sample) - counter(former)).max(0.0) / ((sample.at_ms - former.at_ms) as f64 / 1000.0));
    let cores_max = Some(sample.cpu_limit_millis).filter(|millis| *millis > 0).map(|millis| millis as f64 / 1000.0);
    let memory_max = Some(sample.memory_limit_bytes).filter(|bytes| *bytes > 0).map(|bytes| bytes as f64);
    match metric {
        Metric::CpuTime | Metric::NetworkErrors | Metric::NetworkIo if as_rate => per_second(),
        Metric::CpuTime | Metric::NetworkErrors | Metric::NetworkIo => Some(counter(sample)),
        Metric::CpuUsage => per_second(),
        Metric::CpuLimit => cores_max,
        Metric::CpuUtilization => Some(per_second()? / cores_max?),
        Metric::MemoryAvailable => Some((memory_max? - sample.working_set_bytes as f64).max(0.0)),
        Metric::MemoryLimit => memory_max,
        Metric::MemoryUsage => Some(sample.memory_bytes as f64),
        Metric::MemoryUtilization => Some(sample.working_set_bytes as f64 / memory_max?),
        Metric::MemoryWorkingSet => Some(sample.working_set_bytes as f64),
        Metric::ProcessCount => Some(sample.processes as f64),
        Metric::RootfsInodes => Some(sample.inodes as f64),
        Metric::RootfsUsage => Some(sample.disk_bytes as f64),
    }
}

/// Puts values into steps, steps into segments, and says where nothing is.
fn cut(values: &[(i64, f64, &str)], statistic: Statistic, is_counter: bool, range: Range) -> (Vec<Segment>, Vec<Gap>) {
    let step = range.step_ms.max(1);
    let floor = |at: i64| range.start_ms + (at - range.start_ms).div_euclid(step) * step;
    let mut segments: Vec<Segment> = Vec::new();
    let mut gaps = Vec::new();
    let mut next = range.start_ms;
    let mut runtime = "";
    let mut rest = values;
    while let Some((at, _, first_runtime)) = rest.first() {
        let begin = floor(*at);
        let count = rest.iter().take_while(|(at, _, run)| floor(*at) == begin && (!is_counter || run == first_runtime)).count();
        let (step_values, later) = rest.split_at(count);
        rest = later;
        let is_reset = is_counter && !runtime.is_empty() && runtime != *first_runtime;
        if begin > next {
            gaps.push(Gap { start_ms: next, end_ms: begin, reason: if is_reset { "series_reset" } else { "no_data" } });
        }
        if begin > next || is_reset || segments.is_empty() {
            segments.push(Segment { points: Vec::new() });
        }
        if let Some(segment) = segments.last_mut() {
            segment.points.push((begin, combine(step_values, statistic)));
        }
        runtime = first_runtime;
        next = begin + step;
    }
    if next < range.end_ms {
        gaps.push(Gap { start_ms: next, end_ms: range.end_ms, reason: "no_data" });
    }
    (segments, gaps)
}

fn combine(values: &[(i64, f64, &str)], statistic: Statistic) -> f64 {
    let mut numbers = values.iter().map(|(_, value, _)| *value);
    match statistic {
        Statistic::Last => numbers.next_back().unwrap_or_default(),
        Statistic::Maximum => numbers.fold(f64::MIN, f64::max),
        Statistic::Minimum => numbers.fold(f64::MAX, f64::min),
        Statistic::Auto | Statistic::Average | Statistic::Rate => numbers.sum::<f64>() / values.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: i64, runtime: &str, cpu_ms: u64, memory: u64) -> Sample {
        Sample {
            at_ms: at_s * 1000,
            runtime_id: runtime.into(),
            cpu_usec: cpu_ms * 1000,
            cpu_limit_millis: 2000,
            memory_bytes: memory,
            working_set_bytes: memory / 2,
            memory_limit_bytes: 1000,
            processes: 3,
            disk_bytes: 10,
            inodes: 2,
            sent_bytes: cpu_ms,
            received_bytes: cpu_ms * 2,
            network_errors: 0,
        }
    }

    const MINUTE: Range = Range { start_ms: 0, end_ms: 60_000, step_ms: 15_000 };

    #[test]
    fn a_rate_does_not_cross_a_runtime() {
        let samples = [sample(0, "a", 1000, 1), sample(15, "a", 16_000, 1), sample(30, "b", 500, 1), sample(45, "b", 8_000, 1)];
        let lines = series(Metric::CpuUsage, Statistic::Auto, &samples, MINUTE);
        assert_eq!(lines.len(), 1);
        let points: Vec<_> = lines[0].segments.iter().map(|s| s.points.clone()).collect();
        assert_eq!(points, vec![vec![(15_000, 1.0)], vec![(45_000, 0.5)]]);
        let counter = series(Metric::CpuTime, Statistic::Last, &samples, MINUTE);
        assert_eq!(counter[0].segments.len(), 2, "a counter that begins anew begins a segment");
        assert_eq!(counter[0].unit, "seconds");
        assert_eq!(series(Metric::CpuTime, Statistic::Auto, &samples, MINUTE)[0].unit, "cores");
    }

    #[test]
    fn what_was_not_measured_is_a_gap() {
        let samples = [sample(0, "a", 0, 100), sample(5, "a", 0, 300), sample(50, "a", 0, 500)];
        let line = series(Metric::MemoryUsage, Statistic::Auto, &samples, MINUTE).remove(0);
        assert_eq!(line.segments, vec![Segment { points: vec![(0, 200.0)] }, Segment { points: vec![(45_000, 500.0)] }]);
        assert_eq!(line.gaps, vec![Gap { start_ms: 15_000, end_ms: 45_000, reason: "no_data" }]);
        let nothing = series(Metric::MemoryUsage, Statistic::Auto, &[], MINUTE).remove(0);
        assert!(nothing.segments.is_empty());
        assert_eq!(nothing.gaps, vec![Gap { start_ms: 0, end_ms: 60_000, reason: "no_data" }]);
    }

    #[test]
    fn statistics_and_directions() {
        let samples = [sample(0, "a", 0, 100), sample(5, "a", 10_000, 300)];
        let of = |statistic| series(Metric::MemoryUsage, statistic, &samples, MINUTE)[0].segments[0].points[0].1;
        assert_eq!((of(Statistic::Maximum), of(Statistic::Minimum), of(Statistic::Last), of(Statistic::Average)), (300.0, 100.0, 300.0, 200.0));
        let io = series(Metric::NetworkIo, Statistic::Auto, &samples, MINUTE);
        assert_eq!(io.iter().map(|s| s.segments[0].points[0].1).collect::<Vec<_>>(), vec![2000.0, 4000.0]);
        let unlimited = [Sample { cpu_limit_millis: 0, ..sample(0, "a", 0, 1) }];
        assert!(series(Metric::CpuLimit, Statistic::Auto, &unlimited, MINUTE)[0].segments.is_empty());
    }

    #[test]
    fn steps_fit_the_points() {
        assert_eq!(step_s(0, 3_600_000, None, 240, 15), 15);
        assert_eq!(step_s(0, 30 * 86_400_000, None, 240, 15), 10_800);
        assert_eq!(step_s(0, 3_600_000, Some(60), 240, 15), 60);
        assert_eq!(step_s(0, 3_600_000, Some(1), 240, 15), 15);
        for metric in Metric::ALL {
            assert_eq!(Metric::named(metric.name()), Some(metric));
        }
    }
}
