//! What a run used, from what is known of it: of each figure the one that is the run's own.

use super::{Source, Sources, Usage};
use crate::app::run::{Known, Place};

impl Usage {
    /// Of a sandbox that was made for the run all of it counts. In the app's other things run, too: there the command's own figures
    /// count, and of its processor time the sandbox's where an agent of before does not tell them. Nobody counts the network of a
    /// single command.
    pub fn of(known: &Known, place: Place) -> Self {
        let sandbox = known.usage.as_ref();
        let (whole, used) = (sandbox.filter(|_| place == Place::Fresh), known.used.as_ref());
        let all_of = if place == Place::Fresh { Source::RunSandbox } else { Source::AppSandbox };
        let from = |figure: Option<u64>, source: Source| figure.map(|figure| (figure, source));
        let cpu = from(whole.map(|sandbox| sandbox.cpu_us), Source::RunSandbox)
            .or(from(used.map(|used| used.cpu_us), Source::Command))
            .or(from(sandbox.map(|sandbox| sandbox.cpu_us), all_of));
        let memory =
            from(whole.and_then(|sandbox| sandbox.peak_memory_bytes), Source::RunSandbox).or(from(used.map(|used| used.peak_memory_bytes), Source::Command));
        let disk = from(whole.and_then(|sandbox| sandbox.disk_bytes), Source::RunSandbox).or(from(used.map(|used| used.written_bytes), Source::Command));
        let seen_ms = known.commanded_at_ms.zip(known.exited_at_ms).map(|(begun, ended)| ended.saturating_sub(begun).max(0).unsigned_abs());
        Self {
            duration_ms: used.map(|used| used.duration_ms).or(seen_ms),
            collecting_ms: known.collecting_ms,
            cpu_us: cpu.map(|(figure, _)| figure),
            memory_peak_bytes: memory.map(|(figure, _)| figure),
            disk_bytes: disk.map(|(figure, _)| figure),
            network_sent_bytes: sandbox.map(|sandbox| sandbox.sent_bytes),
            network_received_bytes: sandbox.map(|sandbox| sandbox.received_bytes),
            network_partial: sandbox.is_some_and(|sandbox| sandbox.network_partial),
            sources: Sources {
                cpu: cpu.map(|(_, source)| source),
                memory: memory.map(|(_, source)| source),
                disk: disk.map(|(_, source)| source),
                network: sandbox.map(|_| all_of),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::run::{CommandUse, RunUsage};

    fn sandbox() -> RunUsage {
        RunUsage { cpu_us: 1, peak_memory_bytes: Some(2), disk_bytes: Some(3), sent_bytes: 4, received_bytes: 5, network_partial: true, ..RunUsage::default() }
    }

    fn command() -> CommandUse {
        CommandUse { duration_ms: 10, cpu_us: 11, peak_memory_bytes: 12, written_bytes: 13 }
    }

    #[test]
    fn each_figure_is_the_runs_own_or_says_whose_it_is() {
        use Source::{AppSandbox as App, Command as Cmd, RunSandbox as Run};
        let table = [
            (Place::Fresh, Some(sandbox()), Some(command()), [Some((1, Run)), Some((2, Run)), Some((3, Run)), Some((4, Run))]),
            (Place::App, Some(sandbox()), Some(command()), [Some((11, Cmd)), Some((12, Cmd)), Some((13, Cmd)), Some((4, App))]),
            // An agent of before: what is the whole sandbox's memory and disk is not the run's.
            (Place::App, Some(sandbox()), None, [Some((1, App)), None, None, Some((4, App))]),
            // The sandbox is gone, and the command had told.
            (Place::Fresh, None, Some(command()), [Some((11, Cmd)), Some((12, Cmd)), Some((13, Cmd)), None]),
            (
                Place::Fresh,
                Some(RunUsage { peak_memory_bytes: None, disk_bytes: None, ..sandbox() }),
                Some(command()),
                [Some((1, Run)), Some((12, Cmd)), Some((13, Cmd)), Some((4, Run))],
            ),
            (Place::App, None, None, [None; 4]),
        ];
        for (place, usage, used, wanted) in table {
            let known = Known { usage: usage.clone(), used, ..Known::default() };
            let found = Usage::of(&known, place);
            let figures = [
                found.cpu_us.zip(found.sources.cpu),
                found.memory_peak_bytes.zip(found.sources.memory),
                found.disk_bytes.zip(found.sources.disk),
                found.network_sent_bytes.zip(found.sources.network),
            ];
            assert_eq!(figures, wanted, "{place:?} {usage:?} {used:?}");
            assert_eq!(found.network_partial, usage.is_some());
        }
    }

    #[test]
    fn only_the_command_takes_time() {
        let known = Known { commanded_at_ms: Some(1000), exited_at_ms: Some(1500), collecting_ms: Some(7), ..Known::default() };
        let found = Usage::of(&known, Place::App);
        assert_eq!((found.duration_ms, found.collecting_ms), (Some(500), Some(7)));
        let found = Usage::of(&Known { used: Some(command()), ..known.clone() }, Place::App);
        assert_eq!(found.duration_ms, Some(10), "the agent's clock is not set back");
        assert_eq!(Usage::of(&Known { exited_at_ms: Some(5), ..known.clone() }, Place::App).duration_ms, Some(0));
        for unknown in [Known { exited_at_ms: None, ..known.clone() }, Known { commanded_at_ms: None, ..known }, Known::default()] {
            assert_eq!(Usage::of(&unknown, Place::App).duration_ms, None);
        }
    }
}
