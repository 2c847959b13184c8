//! Beginning, limits and end.
use std::{fs, time::Duration};

use sandbar_linux::{
    cgroup::Limits,
    launch::{Bind, LaunchError},
    pidfd,
};

use super::room::{LIMITS, Room, exists, hierarchy};

#[test]
fn an_agent_runs_and_ends() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    assert_eq!(live.sh("echo hello"), "hello");
    assert!(pidfd::is_same(live.launched.pid, live.launched.start_time_ticks));
    assert_eq!(room.cgroup.procs().unwrap(), [live.launched.pid]);
    pidfd::kill(&live.launched.pidfd).unwrap();
    assert!(live.wait().is_some());
}
