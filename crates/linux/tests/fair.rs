//! What a sandbox uses up of what the kernel counts for the whole machine must be missing nowhere else.
#![allow(clippy::unwrap_used)]
#[allow(dead_code)]
#[path = "it/room.rs"]
mod room;

use room::{LIMITS, Live, Room};

fn prepare() {}

/// Takes as many as it gets, says how many, and holds on to them in the background.
fn take_all(live: &Live, take_one: &str) -> u64 {
    let code = format!(
        "import os, ctypes, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\ntaken = 0\nkept = []\ntry:\n    while taken < 5000:\n        {take_one}\n        taken += 1\nexcept OSError:\n    pass\nprint(taken, flush=True)\nos.close(1)\nos.close(2)\ntime.sleep(60)\n"
    );
    live.sh(&format!("cat > /tmp/take.py <<'END'\n{code}END\nulimit -n $(ulimit -Hn); python3 -I /tmp/take.py & wait_for=$!"))
        .lines()
        .next()
        .and_then(|line| line.parse().ok())
        .unwrap_or(0)
}

fn other_has_enough(take_one: &str, enough: u64) {
    let mut room = Room::new(&LIMITS);
    room.nofile = 20_000;
    let greedy = room.launch();
    let first = take_all(&greedy, take_one);
    let other = Room::new(&LIMITS);
    let second = take_all(&other.launch(), take_one);
    assert!(second >= enough, "the first took {first}, the second got {second}");
    assert!(first >= enough, "the first got only {first}");
}

#[test]
fn terminals() {
    let mut room = Room::new(&LIMITS);
    room.nofile = 20_000;
    let taken = take_all(&room.launch(), "kept.append(os.open(\"/dev/ptmx\", os.O_RDWR | os.O_NOCTTY))");
    assert!((64..=512).contains(&taken), "one sandbox got {taken} of all terminals of the machine");
}

#[test]
fn inotify_instances() {
    other_has_enough("fd = libc.inotify_init()\n        if fd < 0: raise OSError()\n        kept.append(fd)", 100);
}

#[test]
fn message_queues() {
    other_has_enough("fd = libc.mq_open(f\"/q{taken}\".encode(), 0o102, 0o600, None)\n        if fd < 0: raise OSError()\n        kept.append(fd)", 8);
}

#[test]
fn no_program_takes_limits_away_from_the_agent() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    let limits = live.sh("python3 -I -c \"import resource; print(resource.prlimit(1, resource.RLIMIT_NOFILE))\"");
    let set = live.sh("python3 -I -c \"import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))\" 2>&1");
    assert!(set.contains("PermissionError"), "{limits} {set}");
    live.ping();
}

#[test]
fn the_agent_is_the_last_to_be_killed_for_memory() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    let may = rustix::thread::capabilities(None).unwrap().effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    assert_eq!(live.sh("cat /proc/1/oom_score_adj"), if may { "-941" } else { "0" });
    let lowered = live.sh("echo 500 > /proc/self/oom_score_adj; for score in 0 -1 -941; do (echo $score > /proc/self/oom_score_adj) 2>/dev/null && cat /proc/self/oom_score_adj; done; cat /proc/self/oom_score_adj");
    // In the shell itself: built in, so `self` is the shell; 0 is as low as it gets.
    assert!(!lowered.contains('-'), "{lowered}");
}
