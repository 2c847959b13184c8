//! sftp, scp, rsync and git.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// 2020-02-03 04:05:06 UTC.
const OLD: i64 = 1_580_702_706;

/// A file with a mode and a time of its own.
fn old_file(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    run(Command::new("touch").args(["-d", &format!("@{OLD}")]).arg(path));
}

fn kept(path: &Path) -> (u32, i64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.mode() & 0o7777, metadata.mtime())
}

fn sftp(me: &Me, sandbox: &Sandbox, batch: &str) -> Output {
    let path = me.path("batch");
    fs::write(&path, batch).unwrap();
    me.client("sftp").arg("-b").arg(path).arg(format!("{}@sandbox", sandbox.id)).current_dir(&me.dir).output().unwrap()
}

#[test]
fn sftp_keeps_bytes_modes_and_times() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let content = noise(9 << 20);
    old_file(&me.path("a"), &content);
    let batch = "put -p a /tmp/a\nget -p /tmp/a b\nmkdir /tmp/d\nchmod 700 /tmp/d\nput a /tmp/d/plain\nln -s ../a /tmp/d/link\nln /tmp/a /tmp/d/hard\n\
                 rename /tmp/d/plain /tmp/d/other\nls -la /tmp/d\ndf /tmp\nrm /tmp/d/other\n";
    let done = sftp(&me, &sandbox, batch);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(hash(&fs::read(me.path("b")).unwrap()), hash(&content));
    assert_eq!(kept(&me.path("b")), (0o640, OLD));
    let inside = sandbox.sh_ok("stat -c '%a %Y' /tmp/a; stat -c %a /tmp/d; readlink /tmp/d/link; stat -c %h /tmp/d/hard; sha256sum < /tmp/a");
    assert_eq!(inside, format!("640 {OLD}\n700\n../a\n2\n{}  -\n", hash(&content)));
    assert!(String::from_utf8_lossy(&done.stdout).contains("other"), "{}", String::from_utf8_lossy(&done.stdout));
    for (batch, says) in [
        ("get /tmp/nothing x\n", "not found"),
        ("rm /tmp/nothing\n", "No such file"),
        ("rmdir /tmp/d\n", "Failure"),
        ("mkdir /proc/x\n", ""),
        ("put a /proc/x\n", ""),
    ] {
        let refused = sftp(&me, &sandbox, batch);
        assert!(!refused.status.success() && stderr(&refused).contains(says), "{batch}: {}", stderr(&refused));
    }
}

#[test]
fn sftp_lists_large_folders_and_copies_trees() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    sandbox.sh_ok("mkdir -p /tmp/many && cd /tmp/many && seq -f 'file-with-a-name-%06g' 5000 | xargs touch");
    let listed = sftp(&me, &sandbox, "ls -1 /tmp/many\n");
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains("file-with-a-name")).count(), 5000);
    let tree = me.path("tree");
    fs::create_dir_all(tree.join("x/y")).unwrap();
    for n in 0..200 {
        fs::write(tree.join(format!("x/y/{n}")), n.to_string()).unwrap();
    }
    let done = sftp(&me, &sandbox, "put -r tree /tmp/\nget -r /tmp/tree back\n");
    assert!(done.status.success(), "{}", stderr(&done));
    run(Command::new("diff").arg("-r").arg(&tree).arg(me.path("back")));
}

#[test]
fn scp_in_both_of_its_protocols() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let content = noise(3 << 20);
    old_file(&me.path("a"), &content);
    for protocol in ["-s", "-O"] {
        let there = format!("{}@sandbox:/tmp/copied{protocol}", sandbox.id);
        run(me.client("scp").args([protocol, "-p"]).arg(me.path("a")).arg(&there));
        let back = me.path(&format!("back{protocol}"));
        run(me.client("scp").args([protocol, "-p"]).arg(&there).arg(&back));
        assert_eq!((hash(&fs::read(&back).unwrap()), kept(&back)), (hash(&content), (0o640, OLD)), "{protocol}");
        let missing = me.client("scp").arg(protocol).arg(format!("{}@sandbox:/nothing", sandbox.id)).arg(&back).output().unwrap();
        assert!(!missing.status.success() && stderr(&missing).contains("No such file"), "{}", stderr(&missing));
    }
}

#[test]
fn rsync_and_git() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let shell = format!("ssh -F {}", me.config());
    let tree = me.path("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    old_file(&tree.join("deep/er/old"), &noise(2 << 20));
    std::os::unix::fs::symlink("er/old", tree.join("deep/link")).unwrap();
    let there = format!("{}@sandbox:/tmp/tree/", sandbox.id);
    run(Command::new("rsync").args(["-a", "-e", &shell]).arg(format!("{}/", tree.display())).arg(&there));
    run(Command::new("rsync").args(["-a", "-e", &shell]).arg(&there).arg(me.path("back")));
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(&tree).arg(me.path("back")));
    assert_eq!(kept(&me.path("back/deep/er/old")), (0o640, OLD));
    // Nothing is sent again that is there.
    let again = run(Command::new("rsync").args(["-a", "--stats", "-e", &shell]).arg(format!("{}/", tree.display())).arg(&there));
    assert!(String::from_utf8_lossy(&again.stdout).contains("Number of regular files transferred: 0"));
    sandbox.sh_ok(
        "git config --global user.email me@example.com && git config --global user.name Me && git init -q -b main /tmp/repo && cd /tmp/repo && \
         echo one > a && git add a && git commit -qm one && git config receive.denyCurrentBranch updateInstead",
    );
    let git = |dir: &Path, arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.email=me@example.com", "-c", "user.name=Me"]).args(arguments).current_dir(dir).env("GIT_SSH_COMMAND", &shell);
        run(&mut command)
    };
    git(&me.dir, &["clone", "-q", &format!("{}@sandbox:/tmp/repo", sandbox.id), "clone"]);
    let clone = me.path("clone");
    fs::write(clone.join("b"), noise(1 << 20)).unwrap();
    git(&clone, &["add", "b"]);
    git(&clone, &["commit", "-qm", "two"]);
    git(&clone, &["push", "-q"]);
    assert_eq!(sandbox.sh_ok("cd /tmp/repo && git log --oneline | wc -l && ls"), "2\na\nb\n");
}
