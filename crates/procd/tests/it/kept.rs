//! Commands to which all belongs that they start.
use std::time::{Duration, Instant};

use sandbar_procd_api::frame::Kind;
use serde_json::{Value, json};

use super::super::{Agent, NEXT, installed};

/// A time to sleep by which the processes of one test are known.
fn mark() -> String {
    format!("600.{}{:06}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

fn spec(script: &str, kept: &str) -> Value {
    json!({"type": "cmd", "cmd": {"command": ["sh", "-c", script]}, "kept": kept})
}

fn begin(agent: &Agent, script: &str, kept: &str) -> String {
    agent.ok("POST", "/v1/contexts", spec(script, kept))["id"].as_str().unwrap().to_owned()
}

/// The processes that sleep for `mark`.
fn sleepers(mark: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"sleep\0") && String::from_utf8_lossy(&line).contains(mark)
    })
    .collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What takes a session of its own in each way that there is, and what ignores a warning.
fn strays(mark: &str) -> String {
    format!("setsid sleep {mark} & (setsid sh -c 'sleep {mark} & sleep {mark}' &) ; (trap '' TERM; setsid sh -c 'sleep {mark}; sleep {mark}' &)")
}

#[test]
fn a_kept_command_is_like_any_other() {
    let agent = Agent::start();
    let run = |script: &str, kept: bool| {
        let mut spec = spec(script, "until_end");
        spec["wait_until_done"] = json!(true);
        if !kept {
            spec.as_object_mut().unwrap().remove("kept");
        }
        spec["env_vars"] = json!({"OWN": "a b"});
        agent.ok("POST", "/v1/contexts", spec)
    };
    for script in [
        "echo $K $OWN; echo wrong >&2; pwd; ls /proc/self/fd | wc -l; exit 3",
        "cat; cat /proc/self/oom_score_adj; env | sort | grep -v '^_='",
        "kill -TERM $$",
        "kill -KILL $$",
        "grep -E 'SigBlk|SigIgn' /proc/self/status; test $(cut -d' ' -f5 /proc/$$/stat) = $$ && echo leads",
    ] {
        let (kept, plain) = (run(script, true), run(script, false));
        for key in ["stdout", "stderr", "exit_code", "state", "reason", "cwd"] {
            assert_eq!(kept[key], plain[key], "{script}: {key}");
        }
    }
    // Nothing is held of those that have ended, though they are listed.
    let held = || std::fs::read_dir(format!("/proc/{}/fd", agent.child.id())).unwrap().count();
    run("exit 0", true);
    until("it is let go", || held() < 40);
    for _ in 0..30 {
        run("exit 0", true);
    }
    until("they are let go", || held() < 40);
    // Errors, too, and what is kept has a pid that leads its group.
    let refused = |command: Value, more: Value| {
        let mut spec = json!({"type": "cmd", "cmd": {"command": command}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        agent.call("POST", "/v1/contexts", spec)
    };
    let bad = agent.path("ws/bad");
    std::fs::write(&bad, "#!/no/such/interpreter\n").unwrap();
    agent.sh(&format!("chmod +x {bad}"));
    for command in [json!(["no-such-program"]), json!([bad]), json!(["echo", "x".repeat(200_000)])] {
        assert_eq!(refused(command.clone(), json!({"kept": "until_end"})), refused(command, json!({})));
    }
    assert_eq!(refused(json!(["sh"]), json!({"kept": "until_end", "pty_size": {"rows": 5, "cols": 5}})).0, 400);
    let id = begin(&agent, "read line; echo got $line; exec sleep 600", "until_end");
    agent.ok("POST", &format!("/v1/contexts/{id}/input"), json!({"data": "hello\n"}));
    until("it answers", || agent.ok("GET", &format!("/v1/contexts/{id}"), Value::Null)["stdout"] == "got hello\n");
    let context = agent.ok("GET", &format!("/v1/contexts/{id}"), Value::Null);
    until("it is the command itself", || std::fs::read(format!("/proc/{}/cmdline", context["pid"])).unwrap() == b"sleep\x00600\0");
    agent.ok("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "INT"}));
    assert_eq!(agent.ended(&id)["exit_code"], 130);
    assert_eq!(agent.call("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "INT"})).0, 410);
}

#[test]
fn what_is_ended_is_ended_with_all_that_it_started() {
    let agent = Agent::start();
    for kept in ["until_end", "until_deleted"] {
        for (wait, how) in [
            ("sleep 600", "delete"),
            ("trap 'exit 0' TERM; sleep 600 & wait", "delete"),
            ("trap '' TERM; while :; do sleep 1; done", "delete"),
            ("sleep 600", "restart"),
        ] {
            let mark = mark();
            let id = begin(&agent, &format!("{}; {wait}", strays(&mark)), kept);
            until("they sleep", || sleepers(&mark).len() == 4);
            let before = sleepers(&mark);
            match how {
                "delete" => {
                    agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
                    assert_eq!(sleepers(&mark), [0; 0], "{kept} {wait}");
                }
                _ => {
                    agent.ok("POST", &format!("/v1/contexts/{id}/restart"), Value::Null);
                    until("they sleep anew", || sleepers(&mark).len() == 4);
                    assert!(sleepers(&mark).iter().all(|pid| !before.contains(pid)), "{kept} {wait}");
                    agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
                }
            }
        }
    }
    let mark = mark();
    let mut timed = spec(&format!("{}; sleep 600", strays(&mark)), "until_end");
    timed["ttl_sec"] = json!(1);
    timed["wait_until_done"] = json!(true);
    let done = agent.ok("POST", "/v1/contexts", timed);
    assert!(done["reason"].as_str().unwrap().starts_with("ttl:"), "{done}");
    assert_eq!(sleepers(&mark), [0; 0]);
}

#[test]
fn what_forks_all_the_time_is_ended() {
    let agent = Agent::start();
    let mark = mark();
    let id = begin(&agent, &format!("setsid sh -c \"trap '' TERM; while :; do setsid sleep {mark} & sleep 0.02; done\" & sleep 600"), "until_end");
    until("some sleep", || sleepers(&mark).len() > 5);
    agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
    assert_eq!(sleepers(&mark), [0; 0]);
}

#[test]
fn what_a_command_leaves_when_it_ends_by_itself_goes_on() {
    let agent = Agent::start();
    for (kept, goes_on) in [("until_end", true), ("until_deleted", false)] {
        let mark = mark();
        let id = begin(&agent, &format!("setsid sleep {mark} >/dev/null 2>&1 & sleep {mark} >/dev/null 2>&1 & exit 7"), kept);
        assert_eq!(agent.ended(&id)["exit_code"], 7);
        until("they sleep", || sleepers(&mark).len() == 2);
        let stats = agent.ok("GET", &format!("/v1/contexts/{id}/stats"), Value::Null);
        assert_eq!(stats["running_contexts"], 0);
        if !goes_on {
            assert_eq!(stats["process_count"], 2, "{stats}");
        }
        // Whoever follows it hears of the end.
        assert_eq!(agent.attach(&id).until(Kind::Done).1["exit_code"], 7);
        agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
        assert_eq!(sleepers(&mark).len(), if goes_on { 2 } else { 0 }, "{kept}");
        for pid in sleepers(&mark) {
            agent.sh(&format!("kill -9 {pid}"));
        }
    }
}

#[test]
fn a_signal_reaches_what_has_a_session_of_its_own_once() {
    let agent = Agent::start();
    let (told, up) = (agent.path("ws/told"), agent.path("ws/up"));
    let trap = format!("trap 'echo told >> {told}' TERM; echo >> {up}; while :; do sleep 0.05; done");
    let id = begin(&agent, &format!("setsid sh -c \"{trap}\" & {trap}"), "until_deleted");
    let lines = |path: &str| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    until("both are there", || lines(&up) == 2);
    agent.ok("POST", &format!("/v1/contexts/{id}/signal"), json!({"signal": "TERM"}));
    until("both are told", || lines(&told) == 2);
    agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
    // Once more by the deletion.
    assert!((2..=4).contains(&lines(&told)));
}

#[test]
fn figures_are_of_all_that_was_started() {
    let agent = Agent::start();
    let done = agent.path("ws/done");
    let work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
    let id =
        begin(&agent, &format!("setsid sh -c '{work}; echo >> {done}; exec sleep 600' & (setsid sh -c '{work}; echo >> {done}' &); sleep 600"), "until_end");
    until("the work is done", || std::fs::read_to_string(&done).is_ok_and(|text| text.lines().count() == 2));
    until("one has been waited for", || agent.ok("GET", &format!("/v1/contexts/{id}/stats"), Value::Null)["process_count"] == 3);
    let stats = agent.ok("GET", &format!("/v1/contexts/{id}/stats"), Value::Null);
    let live = stats["cpu_us"].as_u64().unwrap();
    let mut reader = agent.attach(&id);
    agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
    let all = reader.until(Kind::Done).1;
    let used = all["used"]["cpu_us"].as_u64().unwrap();
    // Far less than either took, and far more than a shell that does nothing.
    assert!(live > 60_000 && used > 60_000 && used + 40_000 > live, "{stats} {all}");
}

#[test]
fn what_is_left_is_counted_once() {
    let agent = Agent::start();
    let done = agent.path("ws/done");
    let work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
    let used = |script: &str| {
        let id = begin(&agent, &format!("{script}\nuntil [ -e {done} ]; do sleep 0.01; done; rm {done}; exit 0"), "until_end");
        agent.attach(&id).until(Kind::Done).1["used"].clone()
    };
    let (own, left) = (used(&format!("{work}; echo >{done}")), used(&format!("setsid sh -c '{work}; echo >{done}; exec sleep 5' >/dev/null 2>&1 &")));
    let cpu = |used: &Value| used["cpu_us"].as_u64().unwrap();
    // The same work, whoever does it; the shell that waits takes some.
    assert!(cpu(&left) > cpu(&own) / 3, "{own} {left}");
    let own = used(&format!("{work}; setsid sleep 5 >/dev/null 2>&1 & {work}; echo >{done}"));
    let twice = used(&format!("{work}; {work}; echo >{done}"));
    assert!(cpu(&own) < cpu(&twice) * 3 / 2, "{own} {twice}");
    if installed("python3") {
        let held = used(&format!("setsid python3 -c 'x = bytearray(100 << 20); del x; open(\"{done}\", \"w\"); import time; time.sleep(5)' >/dev/null 2>&1 &"));
        assert!(held["memory_peak_bytes"].as_u64().unwrap() >= 100 << 20, "{held}");
    }
}

#[test]
fn a_keeper_that_is_killed_or_stopped_ends_nothing_less() {
    let agent = Agent::start();
    let mark = mark();
    let id = begin(&agent, &format!("read go; sleep {mark} & kill -9 $PPID; sleep {mark}"), "until_end");
    agent.ok("POST", &format!("/v1/contexts/{id}/input"), json!({"data": "go\n"}));
    let end = agent.ended(&id);
    assert_eq!((&end["exit_code"], &end["state"]), (&json!(137), &json!("killed")), "{end}");
    until("its session has ended", || sleepers(&mark).is_empty());
    for after in ["sleep 600", "exit 0"] {
        let id = begin(
            &agent,
            &format!(
                "kill -TERM $PPID; kill -HUP $PPID; setsid sleep {mark} & while [ -d /proc/$! ] && ! grep -q sleep /proc/$!/comm; do :; done; kill -STOP $PPID; {after}"
            ),
            "until_end",
        );
        until("it sleeps", || !sleepers(&mark).is_empty());
        agent.ok("DELETE", &format!("/v1/contexts/{id}"), Value::Null);
        until("all have ended", || sleepers(&mark).is_empty());
    }
    let id = begin(&agent, "echo on", "until_end");
    assert_eq!(agent.ended(&id)["exit_code"], 0);
}
