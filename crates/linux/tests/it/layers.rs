//! Layers that another sandbox wrote, and folders in memory.
use std::fs;

use sandbar_linux::launch::{Lower, Tmpfs, overlay_view};

use crate::room::{LIMITS, Room};

#[test]
fn a_layer_of_another_sandbox_is_seen_with_the_ids_inside_and_is_not_written() {
    let first = Room::new(&LIMITS);
    let live = first.launch();
    assert_eq!(live.sh("echo one >/etc/own; echo two >/root/x; rm /etc/passwd; mkdir -p /tmp/d; chown 7:8 /root/x; stat -c %u:%g /root/x"), "7:8");
    drop(live);
    let upper = first.dir.join("upper");
    let mut second = Room::new(&LIMITS);
    second.lowers_above.push(Lower { path: upper.clone(), base: first.uid_base });
    let live = second.launch();
    assert_eq!(live.sh("cat /etc/own /root/x; stat -c %u:%g /root/x /etc/own; test -e /etc/passwd || echo gone"), "one\ntwo\n7:8\n0:0\ngone");
    assert_eq!(live.sh("echo more >>/etc/own; chown 9 /root/x; rm -r /tmp/d; cat /etc/own"), "one\nmore");
    assert_eq!(fs::read_to_string(upper.join("etc/own")).unwrap(), "one\n");
    assert!(upper.join("tmp/d").is_dir());
}

#[test]
fn a_folder_in_memory_holds_its_size_and_belongs_to_root_inside() {
    let mut room = Room::new(&LIMITS);
    room.tmpfs.push(Tmpfs { target: "var/scratch".into(), bytes: 1 << 20 });
    let live = room.launch();
    assert_eq!(live.sh("stat -c %u:%a /var/scratch; echo x >/var/scratch/x && cat /var/scratch/x"), "0:755\nx");
    assert!(live.sh("head -c 2000000 /dev/zero >/var/scratch/big 2>&1; stat -c %s /var/scratch/big").ends_with("1044480"));
    drop(live);
    assert!(!room.dir.join("upper/var/scratch/x").exists());
}

#[test]
fn a_view_shows_layers_merged_with_the_ids_of_a_range() {
    use std::os::{fd::AsRawFd, unix::fs::MetadataExt};
    let room = Room::new(&LIMITS);
    let live = room.launch();
    live.sh("echo a >/etc/a; rm /etc/passwd");
    drop(live);
    let layers = [Lower { path: room.dir.join("upper"), base: room.uid_base }, Lower::shared(room.dir.join("lower"))];
    let view = overlay_view(&layers, room.uid_base).unwrap();
    let top = std::path::PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd()));
    assert_eq!(fs::read_to_string(top.join("etc/a")).unwrap(), "a\n");
    assert!(!top.join("etc/passwd").exists());
    assert_eq!(fs::metadata(top.join("etc")).unwrap().uid(), room.uid_base);
    assert!(fs::write(top.join("etc/b"), "").is_err());
}
