//! What a call leaves behind its reply: threads and exit functions.
use std::time::{Duration, Instant};

use serde_json::json;

use super::Agent;

#[test]
fn a_reply_does_not_wait_for_what_goes_on_behind_it() {
    let agent = Agent::start();
    let (open, done) = (agent.path("open"), agent.path("done"));
    // Both wait for what is only done once the reply is there.
    let thread = format!(
        "import os, threading, time\ndef late():\n    while not os.path.exists({open:?}): time.sleep(0.01)\n    open({done:?}, 'a').write('thread ')\ndef handler(r):\n    threading.Thread(target=late).start()\n    return 'early'\n"
    );
    let exit = format!(
        "import atexit, os, time\ndef late():\n    while not os.path.exists({open:?}): time.sleep(0.01)\n    open({done:?}, 'a').write('exit ')\ndef handler(r):\n    atexit.register(late)\n    yield 'ear'\n    yield 'ly'\n"
    );
    for code in [&thread, &exit] {
        let reply = agent.run_code(code);
        assert_eq!(reply.text(), "early");
    }
    std::fs::write(&open, "").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(&done).unwrap_or_default().len() < "thread exit ".len() {
        assert!(Instant::now() < deadline, "what goes on behind the reply was ended");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_goes_on_behind_a_reply_ends_with_the_time_of_its_call() {
    let agent = Agent::start();
    let code = "import os, threading, time\ndef handler(r):\n    threading.Thread(target=time.sleep, args=(100,)).start()\n    return str(os.getpid())\n";
    let reply = agent.invoke(&json!({"source": {"code": code}, "handler": "handler", "timeout_ms": 2000, "request": {}}));
    let stat = format!("/proc/{}/stat", reply.text());
    assert!(std::path::Path::new(&stat).exists(), "it was ended with its reply");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::path::Path::new(&stat).exists() {
        assert!(Instant::now() < deadline, "it goes on for ever");
        std::thread::sleep(Duration::from_millis(10));
    }
}
