//! Who started whom, from /proc.
use std::collections::HashMap;

/// Processes that are looked at; more are not seen.
pub const PROCESSES_MAX: usize = 16_384;

/// A process as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// It has ended and nobody has waited for it.
    pub is_dead: bool,
}

/// All processes.
pub fn look() -> Vec<Seen> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| seen(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)).take(PROCESSES_MAX).collect()
}

fn seen(pid: i32, stat: &[u8]) -> Option<Seen> {
    let text = String::from_utf8_lossy(stat);
    // The name may hold anything; the fields begin behind its last bracket.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(Seen { pid, parent: number()?, group: number()?, session: number()?, is_dead: matches!(state, "Z" | "X") })
}

/// Of all processes those that `root` started, and those that these did; not itself.
pub fn below(all: &[Seen], root: i32) -> Vec<Seen> {
    let mut children: HashMap<i32, Vec<Seen>> = HashMap::new();
    for process in all.iter().filter(|process| process.pid != root) {
        children.entry(process.parent).or_default().push(*process);
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut at = 0;
    while let Some(process) = found.get(at) {
        // Each is taken once, so that a number which was given anew meanwhile leads into no circle.
        let more = children.remove(&process.pid).unwrap_or_default();
        found.extend(more);
        at += 1;
    }
    found
}

/// Sends a signal to processes, as far as they are there.
pub fn signal(processes: impl IntoIterator<Item = Seen>, signal: i32) {
    for process in processes {
        let _ = sandbar_linux::process::signal_one(process.pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Seen {
        Seen { pid, parent, group: pid, session: pid, is_dead: false }
    }

    #[test]
    fn what_is_below() {
        let all: Vec<Seen> = [(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 8), (4, 7), (20, 21), (21, 20)].map(|(pid, parent)| process(pid, parent)).to_vec();
        for (root, want) in [(5, vec![6, 7, 4]), (7, vec![4]), (4, vec![]), (8, vec![9]), (20, vec![21]), (77, vec![]), (1, vec![5, 8, 6, 9, 7, 4])] {
            assert_eq!(below(&all, root).iter().map(|p| p.pid).collect::<Vec<_>>(), want, "{root}");
        }
    }

    #[test]
    fn a_line_is_read_whatever_the_name_is() {
        let want = |is_dead| Some(Seen { pid: 7, parent: 3, group: 4, session: 5, is_dead });
        assert_eq!(seen(7, b"7 (a) b) (c) S 3 4 5 0 -1 4194560"), want(false));
        assert_eq!(seen(7, b"7 (x) Z 3 4 5 0"), want(true));
        assert_eq!((seen(7, b"7 (x) S 3"), seen(7, b"")), (None, None));
        assert!(look().iter().any(|p| p.pid == std::process::id() as i32));
    }
}
