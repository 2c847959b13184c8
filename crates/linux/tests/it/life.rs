//! Beginning, limits and end.
use std::{fs, io, path::Path, time::Duration};

use sandbar_linux::{
    cgroup::Limits,
    launch::{LaunchError, Step},
    pidfd,
};

use super::room::{LIMITS, Room, hierarchy};

#[test]
fn an_agent_runs_and_ends() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    live.ping();
    assert_eq!(live.sh("echo hello"), "hello");
    assert!(pidfd::is_same(live.launched.pid, live.launched.start_time_ticks));
    assert_eq!(room.cgroup.procs().unwrap(), [live.launched.pid]);
    pidfd::kill(&live.launched.pidfd).unwrap();
    assert!(live.wait().is_some());
}

#[test]
fn files_outlive_the_runtime() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    live.sh("echo kept > /root/note; rm /etc/passwd");
    drop(live);
    assert_eq!(room.launch().sh("cat /root/note; ls /etc"), "kept");
}

#[test]
fn too_many_processes_are_refused() {
    let room = Room::new(&Limits { pids: 8, ..LIMITS });
    let live = room.launch();
    let answer = live.sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done 2>&1; wait");
    assert!(answer.contains("fork"), "{answer}");
    assert!(room.cgroup.usage().pids <= 8);
}

#[test]
fn running_out_of_memory_is_counted_and_stays_inside() {
    let room = Room::new(&Limits { memory_bytes: 32 << 20, ..LIMITS });
    let live = room.launch();
    assert_eq!(room.cgroup.oom_kills(), 0);
    live.python("x = bytearray(200 << 20); print(len(x))");
    assert_eq!(room.cgroup.oom_kills(), 1);
    let mut text = String::new();
    io::Read::read_to_string(&mut room.cgroup.open_oom_counter().unwrap(), &mut text).unwrap();
    assert_eq!(sandbar_linux::cgroup::parse_oom_kills(&text), 1);
    assert_eq!(live.sh("echo alive"), "alive");
    // Limits can grow and shrink while it runs.
    room.cgroup.set_limits(&Limits { memory_bytes: 300 << 20, ..LIMITS }).unwrap();
    assert_eq!(live.python("x = bytearray(100 << 20); print(1)"), "1");
    room.cgroup.set_limits(&Limits { memory_bytes: 64 << 20, cpu_millis: 500, ..LIMITS }).unwrap();
    let usage = room.cgroup.usage();
    assert!(usage.memory_peak_bytes > 30 << 20 && usage.cpu_usec > 0 && usage.pids == 1, "{usage:?}");
}

#[test]
fn freezing_stops_everything_and_killing_works_on_the_frozen() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    live.sh("(while :; do :; done) >/dev/null 2>&1 & (while :; do sleep 0.01; done) >/dev/null 2>&1 & :");
    room.cgroup.freeze().unwrap();
    assert!(room.cgroup.is_frozen().unwrap());
    let before = room.cgroup.usage().cpu_usec;
    std::thread::sleep(Duration::from_millis(30));
    // The last moments before the stop may be booked after it; a spinner that goes on would add all 30 ms.
    let more = room.cgroup.usage().cpu_usec - before;
    assert!(more < 15_000, "{more}");
    room.cgroup.thaw().unwrap();
    assert!(!room.cgroup.is_frozen().unwrap());
    assert_eq!(live.sh("echo on"), "on");
    room.cgroup.freeze().unwrap();
    room.cgroup.kill().unwrap();
    assert!(live.wait().is_some());
    room.cgroup.remove().unwrap();
    assert!(hierarchy().open(&room.name).is_none());
    assert!(!hierarchy().list().unwrap().contains(&room.name));
}

#[test]
fn a_crashed_server_can_adopt_or_clear() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    let adopted = hierarchy().open(&room.name).unwrap();
    assert_eq!(adopted.procs().unwrap(), [live.launched.pid]);
    assert!(hierarchy().list().unwrap().contains(&room.name));
    hierarchy().clear(&room.name).unwrap();
    assert!(hierarchy().open(&room.name).is_none());
    assert!(live.wait().is_some());
}

#[test]
fn nothing_is_left_of_a_launch_that_failed() {
    let room = Room::new(&LIMITS);
    let error = room.try_launch(&mut |_| Err("no routes today".to_owned())).err().unwrap();
    assert_eq!(error.to_string(), "could not set up the network: no routes today");
    assert_eq!(room.cgroup.procs().unwrap(), [] as [u32; 0]);

    // Host-side: the upper layer is gone.
    fs::rename(room.dir.join("lower"), room.dir.join("away")).unwrap();
    let error = room.try_launch(&mut |_| Ok(())).err().unwrap();
    assert!(matches!(&error, LaunchError::Step { step: Step::Overlay, path: Some(p), .. } if p.ends_with("lower")), "{error}");
    assert!(error.to_string().ends_with("No such file or directory (os error 2)"), "{error}");
    fs::rename(room.dir.join("away"), room.dir.join("lower")).unwrap();

    // In the child: a file where /proc must be.
    fs::remove_dir(room.dir.join("lower/proc")).unwrap();
    fs::write(room.dir.join("lower/proc"), "").unwrap();
    let error = room.try_launch(&mut |_| Ok(())).err().unwrap();
    assert!(matches!(&error, LaunchError::Step { step: Step::Proc, .. }), "{error}");
    fs::remove_file(room.dir.join("lower/proc")).unwrap();

    // Killed from outside while it waits: an error, or another child that lives.
    let mut killed = false;
    let result = room.try_launch(&mut |_| {
        if !std::mem::replace(&mut killed, true) {
            room.cgroup.kill().unwrap();
        }
        Ok(())
    });
    match result {
        Ok(live) => {
            assert_eq!(live.sh("echo anew"), "anew");
            room.cgroup.kill().unwrap();
            live.wait();
        }
        Err(error) => assert!(matches!(error, LaunchError::Died { .. } | LaunchError::Step { step: Step::Talk, .. }), "{error}"),
    }

    assert_eq!(room.cgroup.procs().unwrap(), [] as [u32; 0]);
    assert_eq!(room.launch().sh("echo well"), "well");
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let room = Room::new(&LIMITS);
    let file = fs::File::open("/etc/passwd").unwrap();
    let spec = sandbar_linux::launch::LaunchSpec {
        uid_base: room.uid_base,
        lowers: &[sandbar_linux::launch::Lower::shared(room.dir.join("lower"))],
        upper: &room.dir.join("upper"),
        work: &room.dir.join("work"),
        binds: &[],
        tmpfs: &[],
        hostname: "box",
        shm_bytes: 4096,
        nofile: 64,
        file_size_max_bytes: 0,
        agent: std::os::fd::AsFd::as_fd(&file),
        argv: &[c"x".into()],
        env: &[],
        fds: &[],
        cgroup: &room.cgroup,
    };
    let error = sandbar_linux::launch::launch(&spec, &mut |_| Ok(())).unwrap_err().to_string();
    assert_eq!(error, "could not execute the agent: Permission denied (os error 13)");
}

#[test]
fn twenty_at_once() {
    let rooms: Vec<Room> = (0..20).map(|_| Room::new(&LIMITS)).collect();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let handles: Vec<_> = rooms.iter().map(|room| scope.spawn(|| room.launch().sh("cat /proc/self/uid_map"))).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    for (room, answer) in rooms.iter().zip(answers) {
        assert!(answer.split_whitespace().eq(["0", &room.uid_base.to_string(), "65536"]));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(rooms.iter().all(|room| !mounts.contains(&room.name)));
    let dirs: Vec<_> = rooms.iter().map(|r| r.dir.clone()).collect();
    drop(rooms);
    assert!(dirs.iter().all(|dir: &std::path::PathBuf| !Path::exists(dir)));
}

#[test]
fn the_probe_finds_what_the_other_tests_use() {
    crate::prepare();
    let dir = std::env::temp_dir().join(format!("sandbar-probe-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let found = sandbar_linux::probe::features(&dir);
    let left = fs::read_dir(&dir).unwrap().count();
    fs::remove_dir(&dir).unwrap();
    assert_eq!(left, 0);
    for feature in &found {
        println!("{} {}: {} {}", if feature.ok { "ok" } else { "--" }, feature.name, feature.detail, feature.remedy);
    }
    assert!(found.iter().all(|f| f.ok || !f.required), "{found:?}");
    assert!(found.iter().any(|f| f.name == "sandbox"), "{found:?}");
}
