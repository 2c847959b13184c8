//! How long a launch takes until its agent answers: `cargo run --release -p sandbar-linux --example floor [rounds]`, as root.
#![allow(clippy::unwrap_used)]
#[path = "../tests/it/room.rs"]
#[allow(dead_code)]
mod room;

use std::time::{Duration, Instant};

use room::{LIMITS, Room};
use sandbar_linux::{cgroup::Cgroup, pidfd};

fn main() {
    let rounds: usize = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(200);
    let (mut group, mut start, mut answer, mut end) = (vec![], vec![], vec![], vec![]);
    println!("{}", room::hierarchy().describe());
    room::agent();
    for _ in 0..rounds {
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
    print("directories and cgroup", &mut group);
    print("launch returns", &mut start);
    print("launch until the agent answers", &mut answer);
    print("kill, reap, remove the cgroup", &mut end);
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1000.0;
    println!(
        "{what:32} median {:6.3} ms  p90 {:6.3} ms",
        ms(times.len() / 2),
        ms(times.len() * 9 / 10)
    );
}
