//! Commands, shells, streams and ends.

use std::time::Instant;

use super::*;

#[test]
fn streams_are_apart_and_the_end_is_told() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({ "env_vars": { "OWN": "of the sandbox" } })));
    let done = me.ssh(&sandbox, &["printf out; printf err >&2; exit 42"]).output().unwrap();
    assert_eq!((done.status.code(), done.stdout.as_slice(), done.stderr.as_slice()), (Some(42), &b"out"[..], &b"err"[..]));
    // Where contexts run, and with what they have.
    assert_eq!(me.ok(&sandbox, "pwd; echo $OWN; echo ${SSH_AUTH_SOCK:-none}; tty; id -u"), "/workspace\nof the sandbox\nnone\nnot a tty\n0\n");
    assert_eq!(me.ssh(&sandbox, &["kill -TERM $$"]).output().unwrap().status.code(), Some(255));
    assert_eq!(me.ssh(&sandbox, &["sh -c 'kill -9 $$'; echo $?"]).output().unwrap().stdout, b"137\n");
    let missing = me.ssh(&sandbox, &["no-such-program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
    // What may be set by the client, and what may not.
    let mut setting = me.ssh_with(&["-o", "SetEnv=LC_TEST=here LD_PRELOAD=/x"], &sandbox, &["echo $LC_TEST,$LD_PRELOAD"]);
    assert_eq!(run(&mut setting).stdout, b"here,\n");
    // The sandbox by its longer name; another suffix is nobody.
    let mut named = me.client("ssh");
    assert_eq!(run(named.args([&format!("{}+main@sandbox", sandbox.id), "echo main"])).stdout, b"main\n");
}

#[test]
fn bytes_stay_as_they_are_in_both_directions_and_stdin_has_an_end() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let input = noise(8 << 20);
    let hashed = feed(me.ssh(&sandbox, &["sha256sum"]), input.clone());
    assert_eq!(String::from_utf8_lossy(&hashed.stdout), format!("{}  -\n", hash(&input)));
    let back = feed(me.ssh(&sandbox, &["cat"]), input.clone());
    assert_eq!(hash(&back.stdout), hash(&input));
    let both = feed(me.ssh(&sandbox, &["tee /dev/stderr"]), input.clone());
    assert_eq!((hash(&both.stdout), hash(&both.stderr)), (hash(&input), hash(&input)));
    // A program that reads nothing holds up nobody: neither its own output nor its end.
    let unread = feed(me.ssh(&sandbox, &["echo done"]), input);
    assert_eq!((unread.status.code(), unread.stdout.as_slice()), (Some(0), &b"done\n"[..]));
}

#[test]
fn a_shell_is_one_of_login_and_has_a_terminal_that_changes_its_size() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let shell = feed(me.ssh(&sandbox, &[]), b"shopt login_shell; echo $0; exit 3\n".to_vec());
    assert_eq!((shell.status.code(), String::from_utf8_lossy(&shell.stdout).as_ref()), (Some(3), "login_shell    \ton\nbash\n"));
    assert!(run(&mut me.ssh_with(&["-tt"], &sandbox, &["tty; echo $TERM"])).stdout.starts_with(b"/dev/pts/"));
    // In a terminal of this machine's, whose size is changed.
    let script = r#"
import fcntl, os, pty, re, struct, sys, termios, time, signal
def size(fd, rows, cols): fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
size(fd, 31, 97)
os.kill(pid, signal.SIGWINCH)
seen = b""
def until(text):
    global seen
    end = time.time() + 20
    while not re.search(text, seen):
        assert time.time() < end, seen
        try: seen += os.read(fd, 4096)
        except OSError: raise AssertionError(seen)
os.write(fd, b"echo be''gun\n"); until(b"begun")
for rows, cols in ((31, 97), (40, 120), (7, 33)):
    size(fd, rows, cols); os.kill(pid, signal.SIGWINCH)
    end = time.time() + 20
    while b"%d %d\r" % (rows, cols) not in seen:
        assert time.time() < end, seen
        os.write(fd, b"stty size\n"); time.sleep(0.1); seen += os.read(fd, 65536)
os.write(fd, b"sleep 1000\n"); time.sleep(0.3); os.write(fd, b"\x03"); os.write(fd, b"echo inter''rupted; exit 9\n"); until(b"interrupted")
try:
    while os.read(fd, 4096): pass
except OSError: pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let done = Command::new("python3").args(["-c", script, "ssh", "-F", &me.config(), &format!("{}@sandbox", sandbox.id)]).output().unwrap();
    assert_eq!(done.status.code(), Some(9), "{}", stderr(&done));
}

#[test]
fn a_client_that_is_killed_leaves_no_process() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    for arguments in [vec!["exec sleep 4711"], vec!["trap '' HUP; sleep 4711; sleep 4711"], vec!["sleep 4711 | cat"]] {
        for options in [&[][..], &["-tt"][..]] {
            let mut child = spawn(me.ssh_with(options, &sandbox, &arguments));
            crate::it::http::eventually("the command", Duration::from_secs(20), || match sandbox.sh("pgrep -f 'sleep [4]711'").code {
                0 => Ok(()),
                code => Err(format!("pgrep ends with {code}")),
            });
            child.kill().unwrap();
            child.wait().unwrap();
            crate::it::http::eventually("its end", Duration::from_secs(20), || match sandbox.sh("pgrep -fa 'sleep [4]711'") {
                done if done.code == 1 => Ok(()),
                done => Err(done.stdout),
            });
        }
    }
}

#[test]
fn a_program_in_the_background_outlives_its_session() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let begun = Instant::now();
    me.ok(&sandbox, "nohup sleep 4712 >/dev/null 2>&1 </dev/null &");
    assert!(begun.elapsed() < Duration::from_secs(8), "who has closed its streams is not waited for");
    assert_eq!(sandbox.sh("pgrep -f 'sleep [4]712'").code, 0);
    // One that holds them is waited for while it prints.
    assert_eq!(me.ok(&sandbox, "(sleep 1; echo late) & echo early"), "early\nlate\n");
}

#[test]
fn what_the_client_has_is_not_reached_from_inside() {
    let ground = ground();
    let api = ground.server.api();
    let (me, sandbox) = (Me::with_key(&ground, &api), Sandbox::claim(&api, json!({})));
    let agent = run(&mut Command::new("ssh-agent"));
    let text = String::from_utf8(agent.stdout).unwrap();
    let part = |name: &str| text.split(&format!("{name}=")).nth(1).unwrap().split(';').next().unwrap().to_owned();
    let (socket, pid) = (part("SSH_AUTH_SOCK"), part("SSH_AGENT_PID"));
    let mut forwarding = me.ssh_with(&["-A"], &sandbox, &["echo ${SSH_AUTH_SOCK:-none}"]);
    let answer = forwarding.env("SSH_AUTH_SOCK", socket).output().unwrap();
    let _ = Command::new("kill").arg(pid).status();
    assert_eq!(answer.stdout, b"none\n");
    let remote = me.ssh_with(&["-o", "ExitOnForwardFailure=yes", "-R", "18080:localhost:80"], &sandbox, &["true"]).output().unwrap();
    assert_eq!(remote.status.code(), Some(255));
    assert!(stderr(&remote).contains("remote port forwarding failed"), "{}", stderr(&remote));
    let unknown = me.client("ssh").args(["-s", &format!("{}@sandbox", sandbox.id), "nosuch"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(255));
}
