//! The same tests as [`it`](../it.rs), as a kernel before 6.15 would have a launch done, and what only concerns that way.
#![allow(clippy::unwrap_used)]
#[path = "it/isolation.rs"]
mod isolation;
#[path = "it/life.rs"]
mod life;
#[path = "it/room.rs"]
mod room;

use std::{
    fs,
    time::{Duration, Instant},
};

use room::{LIMITS, Room};
use sandbar_linux::launch::{Lower, layers_are_attached};

fn prepare() {
    sandbar_linux::launch::refuse_detached_layers();
}

/// The mounts of the thread that attaches layers, once it is idle.
fn mounts_of_the_thread() -> Vec<String> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let tasks: Vec<_> = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path()).collect();
        let ours = |task: &&std::path::PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "sandbar-layers");
        let threads: Vec<_> = tasks.iter().filter(ours).collect();
        assert_eq!(threads.len(), 1);
        let mounts: Vec<String> = fs::read_to_string(threads[0].join("mountinfo")).unwrap().lines().map(str::to_owned).collect();
        // Other tests are launching meanwhile.
        if mounts.len() == 1 || Instant::now() > until {
            return mounts;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn layers_are_attached_out_of_sight_and_for_a_moment() {
    let mut room = Room::new(&LIMITS);
    fs::create_dir_all(room.dir.join("second/etc")).unwrap();
    fs::write(room.dir.join("second/etc/passwd"), "hidden").unwrap();
    fs::write(room.dir.join("second/etc/below"), "seen").unwrap();
    room.more_lowers.push(Lower::shared(room.dir.join("second")));
    let live = room.launch();
    assert!(layers_are_attached());
    assert_eq!(live.sh("head -c 4 /etc/passwd; cat /etc/below; stat -c %u /etc/below"), "rootseen0");
    let mounts = mounts_of_the_thread();
    assert!(mounts.len() == 1 && mounts[0].contains(" / / ") && mounts[0].contains("tmpfs"), "{mounts:?}");
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&room.name));

    // A layer that cannot be attached, when others already are.
    drop(live);
    room.more_lowers.push(Lower::shared(room.dir.join("second/etc/below")));
    let error = room.try_launch(&mut |_| Ok(())).err().unwrap().to_string();
    assert!(error.contains("mount the root filesystem") && error.contains("Invalid argument"), "{error}");
    room.more_lowers.pop();
    fs::rename(room.dir.join("upper"), room.dir.join("away")).unwrap();
    fs::write(room.dir.join("upper"), "").unwrap();
    assert!(room.try_launch(&mut |_| Ok(())).is_err());
    fs::remove_file(room.dir.join("upper")).unwrap();
    fs::rename(room.dir.join("away"), room.dir.join("upper")).unwrap();
    let mounts = mounts_of_the_thread();
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    assert_eq!(room.launch().sh("cat /etc/below"), "seen");
}

#[test]
fn as_many_layers_as_allowed() {
    let mut room = Room::new(&LIMITS);
    for n in 1..sandbar_linux::launch::LOWERS_MAX {
        let dir = room.dir.join(format!("layer-{n}"));
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join(format!("etc/from-{n}")), "").unwrap();
        room.more_lowers.push(Lower::shared(dir));
    }
    assert_eq!(room.launch().sh("ls /etc | grep -c from-"), "199");
    assert_eq!(mounts_of_the_thread().len(), 1);
}
