//! How long a launch takes until its agent answers, beside a bare clone of the same namespaces:
//! `cargo run --release -p sandbar-linux --example floor [rounds] [attached]`, as root. "attached" goes the way of kernels before 6.15.
#![allow(clippy::unwrap_used)]
#[path = "../tests/it/room.rs"]
#[allow(dead_code)]
mod room;

use std::time::{Duration, Instant};

use room::{LIMITS, Room};
use sandbar_linux::{cgroup::Cgroup, pidfd};

fn prepare() {}

fn main() {
    if std::env::args().any(|word| word == "attached") {
        sandbar_linux::launch::refuse_detached_layers();
    }
    let rounds: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    let (mut group, mut start, mut answer, mut end) = (vec![], vec![], vec![], vec![]);
    let mut bare = vec![];
    println!("{}", room::hierarchy().describe());
    room::agent();
    for _ in 0..rounds {
        bare.push(bare_clone());
        let t0 = Instant::now();
        let room = Room::new(&LIMITS);
        let t1 = Instant::now();
        let live = room.launch();
        let t2 = Instant::now();
        live.ping();
        let t3 = Instant::now();
        pidfd::kill(&live.launched.pidfd).unwrap();
        live.wait();
        Cgroup::remove(&room.cgroup).unwrap();
        let t4 = Instant::now();
        group.push(t1 - t0);
        start.push(t2 - t1);
        answer.push(t3 - t1);
        end.push(t4 - t3);
    }
    print("bare clone, wait for its end", &mut bare);
    print("directories and cgroup", &mut group);
    print("launch returns", &mut start);
    print("launch until the agent answers", &mut answer);
    print("kill, reap, remove the cgroup", &mut end);
}

/// A child in namespaces of its own that ends at once.
fn bare_clone() -> Duration {
    let begun = Instant::now();
    let namespaces =
        libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    // SAFETY: a fork by raw call, whose child makes one system call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, namespaces | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    }
    let mut status = 0;
    // SAFETY: writes one integer of ours.
    assert_eq!(i64::from(unsafe { libc::waitpid(pid as i32, &mut status, 0) }), pid);
    begun.elapsed()
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1000.0;
    println!("{what:32} median {:6.3} ms  p90 {:6.3} ms", ms(times.len() / 2), ms(times.len() * 9 / 10));
}
