use super::*;

const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
";

/// A made-up v2 tree; the kernel's files are plain ones.
struct Tree(PathBuf);

impl Tree {
    fn new(tag: &str) -> Self {
        let root = std::env::temp_dir().join(format!("sandbar-cgroup-{tag}-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let tree = Self(root);
        tree.dir("", &[("cgroup.controllers", "cpu io memory pids\n"), ("cgroup.subtree_control", "")]);
        tree
    }

    fn dir(&self, at: &str, files: &[(&str, &str)]) {
        fs::create_dir_all(self.0.join(at)).unwrap();
        for (name, text) in files {
            fs::write(self.0.join(at).join(name), text).unwrap();
        }
    }

    fn text(&self, at: &str) -> String {
        fs::read_to_string(self.0.join(at)).unwrap()
    }

    fn layout(&self, own: &str) -> Layout {
        Layout::read(&format!("cgroup2 {} cgroup2 rw,nosuid 0 0\n", self.0.display()), own).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn hybrid_takes_each_v1_mount_once() {
    let layout = Layout::read(HYBRID, "0::/\n").unwrap();
    assert!(!layout.v2_limits);
    assert_eq!(layout.base, Path::new("/sys/fs/cgroup/unified"));
    let dirs: Vec<_> = layout.v1.iter().map(|m| (m.dir.to_str().unwrap(), m.controllers.clone())).collect();
    assert_eq!(
        dirs,
        [("/sys/fs/cgroup/cpu,cpuacct", vec!["cpu", "cpuacct"]), ("/sys/fs/cgroup/memory", vec!["memory"]), ("/sys/fs/cgroup/pids", vec!["pids"])]
    );
}

#[test]
fn what_is_missing_is_named() {
    assert!(matches!(Layout::read("", ""), Err(CgroupError::NoUnified)));
    let bare = "cgroup2 /nowhere-at-all cgroup2 rw 0 0\n";
    assert!(matches!(Layout::read(bare, ""), Err(CgroupError::NoController("memory"))));
    let without_pids = HYBRID.replace("cgroup rw,relatime,pids", "cgroup rw,relatime,rdma").replace("/sys/fs/cgroup/unified", "/nowhere-at-all");
    assert!(matches!(Layout::read(&without_pids, ""), Err(CgroupError::NoController("pids"))));
}

#[test]
fn pure_v2_outside_a_service_begins_at_the_root() {
    let tree = Tree::new("root");
    let layout = tree.layout("0::/user.slice/session-1.scope\n");
    assert_eq!((layout.base.clone(), layout.v2_limits, layout.leave_base), (tree.0.clone(), true, false));
    for at in ["sandbar", "sandbar/abc"] {
        tree.dir(at, &[("cgroup.subtree_control", "")]);
    }
    let hierarchy = Hierarchy::with_layout(layout, "abc").unwrap();
    for at in ["", "sandbar/", "sandbar/abc/"] {
        assert_eq!(tree.text(&format!("{at}cgroup.subtree_control")), "+cpu +memory +pids");
    }
    assert!(hierarchy.describe().starts_with("cgroup v2 at "));
}

#[test]
fn pure_v2_in_a_delegated_service_moves_the_server_aside() {
    let tree = Tree::new("service");
    let own = "0::/system.slice/sandbar.service\n";
    tree.dir("system.slice/sandbar.service", &[("cgroup.procs", &std::process::id().to_string()), ("cgroup.subtree_control", "cpu memory")]);
    tree.dir("system.slice/sandbar.service/server", &[("cgroup.procs", "")]);
    for at in ["sandbar", "sandbar/abc"] {
        tree.dir(&format!("system.slice/sandbar.service/{at}"), &[("cgroup.subtree_control", "")]);
    }
    let layout = tree.layout(own);
    assert!(layout.leave_base);
    assert_eq!(layout.base, tree.0.join("system.slice/sandbar.service"));
    Hierarchy::with_layout(layout, "abc").unwrap();
    assert_eq!(tree.text("system.slice/sandbar.service/server/cgroup.procs"), std::process::id().to_string());
    // A plain file keeps the rest of its old text; the kernel's would not.
    assert!(tree.text("system.slice/sandbar.service/cgroup.subtree_control").starts_with("+pids"));
    // Once moved, the service's group is still the base, and nobody has to move.
    let again = tree.layout("0::/system.slice/sandbar.service/server\n");
    assert!(!again.leave_base && again.base.ends_with("sandbar.service"));
    // A service with strangers in it is not ours to rearrange.
    tree.dir("system.slice/sandbar.service", &[("cgroup.procs", "1\n2\n")]);
    assert_eq!(tree.layout(own).base, tree.0);
}

#[test]
fn v2_limits_are_written_in_its_own_words() {
    let tree = Tree::new("limits");
    let files = ["memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight"].map(|f| (f, ""));
    tree.dir("g", &files);
    let limits = Limits { memory_bytes: 64 << 20, pids: 100, cpu_millis: 1500, cpu_weight: 100 };
    v2::set_limits(&tree.0.join("g"), &limits).unwrap();
    assert_eq!(files.map(|(f, _)| tree.text(&format!("g/{f}"))), ["67108864", "0", "100", "150000 100000", "100"]);
    let none = Limits { memory_bytes: 0, pids: 0, cpu_millis: 0, cpu_weight: 0 };
    for (file, _) in files {
        tree.dir("g", &[(file, "")]);
    }
    v2::set_limits(&tree.0.join("g"), &none).unwrap();
    assert_eq!(files.map(|(f, _)| tree.text(&format!("g/{f}"))), ["max", "max", "max", "max 100000", "1"]);
}

#[test]
fn names_cannot_leave_their_directory() {
    for name in ["", ".", "..", "a/b", "-\n", &"x".repeat(65)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    assert!(check_name("rt-0123456789abcdef").is_ok());
}

#[test]
fn oom_kills_are_read_in_both_dialects() {
    assert_eq!(parse_oom_kills("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
    assert_eq!(parse_oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), 4);
}
