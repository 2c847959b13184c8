//! Handlers of functions: what they return, print and do to themselves and to others.
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandbar_procd_api::function::{Decoded, FailureKind, FunctionEnd, FunctionStart, HEADER_BYTES, Kind, decode, encode};
use serde_json::{Value, json};

use super::super::Agent;

mod behind;

/// A source that Python has no reason to doubt: older than the moment in which it could still change unseen.
const SETTLED: Duration = Duration::from_millis(120);

#[derive(Debug)]
struct Done {
    start: Option<FunctionStart>,
    body: Vec<u8>,
    end: FunctionEnd,
}

impl Done {
    fn text(&self) -> String {
        assert!(self.end.failure.is_none(), "{self:?}");
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn status(&self) -> u16 {
        self.start.as_ref().expect("a start").status
    }

    fn header(&self, name: &str) -> Vec<String> {
        self.start.as_ref().expect("a start").headers.get(name).cloned().unwrap_or_default()
    }

    fn failed(&self) -> (FailureKind, &str) {
        let failure = self.end.failure.as_ref().unwrap_or_else(|| panic!("it did not fail: {self:?}"));
        (failure.kind, &failure.message)
    }

    fn log(&self, name: &str) -> String {
        let stream = serde_json::from_value(json!(name)).unwrap();
        self.end.logs.iter().find(|log| log.stream == stream).map_or_else(String::new, |log| log.text.clone())
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let mut all = Vec::new();
    while let Decoded::Frame { kind, bytes: length } = decode(bytes, usize::MAX - 1) {
        all.push((kind, bytes[HEADER_BYTES..length].to_vec()));
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty(), "half a frame at the end");
    all
}

impl Agent {
    fn write(&self, name: &str, source: &str) -> String {
        let path = self.path(&format!("ws/functions/{name}"));
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, source).unwrap();
        path
    }

    fn invoke(&self, call: &Value) -> Done {
        let (status, _, body) = self.raw("POST", "/v1/functions/call", "", &serde_json::to_vec(call).unwrap());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let mut done = Done { start: None, body: Vec::new(), end: FunctionEnd::default() };
        let mut ended = false;
        for (kind, payload) in frames(&body) {
            assert!(!ended);
            match kind {
                Kind::Start => done.start = Some(serde_json::from_slice(&payload).unwrap()),
                Kind::Chunk => done.body.extend(payload),
                Kind::End => {
                    done.end = serde_json::from_slice(&payload).unwrap();
                    ended = true;
                }
                Kind::Failed | Kind::Text | Kind::Binary | Kind::Close | Kind::Request => panic!("{kind:?}"),
            }
        }
        assert!(ended, "the last frame is missing");
        done
    }

    fn run(&self, path: &str) -> Done {
        self.invoke(&json!({ "source": { "path": path }, "handler": "handler", "timeout_ms": 60_000, "request": {} }))
    }

    fn run_code(&self, code: &str) -> Done {
        self.invoke(&json!({ "source": { "code": code }, "handler": "handler", "timeout_ms": 60_000, "request": { "a": "b" } }))
    }
}

#[test]
fn what_handlers_return() {
    let agent = Agent::start();
    let returns = |expression: &str| agent.run_code(&format!("def handler(request):\n    return {expression}\n"));
    for (expression, status, content_type, body) in [
        ("None", 204, None, ""),
        ("'h\u{e9}'", 200, None, "h\u{e9}"),
        ("b'a\\x00'", 200, None, "a\0"),
        ("bytearray(b'x')", 200, None, "x"),
        ("{'a': 1, 'b': [True, None]}", 200, Some("application/json"), r#"{"a":1,"b":[true,null]}"#),
        ("{}", 200, Some("application/json"), "{}"),
        ("[1, 'x']", 200, Some("application/json"), r#"[1,"x"]"#),
        ("7", 200, Some("application/json"), "7"),
        // A dict that only looks like a response is a body.
        ("{'status': 'ok'}", 200, Some("application/json"), r#"{"status":"ok"}"#),
        ("{'status': True}", 200, Some("application/json"), r#"{"status":true}"#),
        ("{'status': 200, 'message': 'x'}", 200, Some("application/json"), r#"{"status":200,"message":"x"}"#),
        ("{'headers': 'x', 'body': 1}", 200, Some("application/json"), r#"{"headers":"x","body":1}"#),
        ("{'status': 201}", 201, None, ""),
        ("{'status': 0, 'body': None}", 200, None, ""),
        ("{'status': 418, 'body': {'x': 1}}", 418, Some("application/json"), r#"{"x":1}"#),
        ("{'body': [1], 'headers': {'Content-Type': 'text/x'}}", 200, None, "[1]"),
        ("{'body': 'plain'}", 200, None, "plain"),
        ("{'body_base64': 'AQI='}", 200, None, "\u{1}\u{2}"),
        ("{'body': (1, 2)}", 200, Some("application/json"), "[1,2]"),
    ] {
        let done = returns(expression);
        assert_eq!((done.status(), done.text().as_str()), (status, body), "{expression}");
        assert_eq!(done.header("content-type"), content_type.into_iter().collect::<Vec<_>>(), "{expression}");
        assert!(!done.start.unwrap().stream, "{expression}");
    }
    let headers = returns("{'headers': {'X-A': ['1', 2], 'x-a': 3, 'x-none': None, 'Content-Type': 'a/b'}, 'body': {}}");
    assert_eq!(
        (headers.header("X-A"), headers.header("x-none"), headers.header("Content-Type")),
        (vec!["1".into(), "2".into(), "3".into()], vec![], vec!["a/b".into()])
    );
    assert_eq!(returns("{'headers': [('a', 'b'), ('A', 'c')]}").header("a"), ["b", "c"]);
    for (expression, says) in
        [("{'status': 600}", "100 and 599"), ("{'status': 1, 'body': 2}", "100 and 599"), ("{'body_base64': 'x'}", "base64"), ("{'headers': [1]}", "headers")]
    {
        let done = returns(expression);
        assert_eq!(done.failed().0, FailureKind::BadResponse, "{expression}");
        assert!(done.failed().1.contains(says), "{expression}: {:?}", done.failed());
    }
    assert!(returns("float('nan')").failed().1.contains("ValueError"));
    assert!(returns("{1, 2}").failed().1.contains("TypeError"));
    assert_eq!(agent.run_code("async def handler(r):\n    import asyncio\n    await asyncio.sleep(0)\n    return r['a']\n").text(), "b");
    assert_eq!(agent.run_code("class A:\n    @staticmethod\n    def f(r): return 'dotted'\nhandler = A.f\n").text(), "dotted");
}

#[test]
fn bodies_that_come_in_their_own_time() {
    let agent = Agent::start();
    for code in [
        "def handler(r):\n    yield 'a'\n    yield b'b'\n    yield {'c': 1}\n",
        "async def handler(r):\n    yield 'a'\n    yield b'b'\n    yield {'c': 1}\n",
        "def handler(r):\n    return {'body': iter(['a', b'b', {'c': 1}])}\n",
        "async def handler(r):\n    async def body():\n        yield 'ab'\n        yield {'c': 1}\n    return {'status': 200, 'body': body()}\n",
        "def handler(r):\n    async def body():\n        yield 'ab'\n        yield {'c': 1}\n    return {'status': 200, 'body': body()}\n",
    ] {
        let done = agent.run_code(code);
        assert_eq!(done.text(), r#"ab{"c":1}"#, "{code}");
        assert!(done.start.unwrap().stream);
    }
    let done = agent.run_code("def handler(r):\n    raise ValueError('before')\n    yield 1\n");
    assert!(done.start.is_none() && done.failed().1.contains("before"));
    let done = agent.run_code("def handler(r):\n    yield 'first'\n    raise ValueError('after')\n");
    assert_eq!(done.body, b"first");
    assert!(done.failed().1.contains("after"));
    // More than a whole reply may have.
    let done = agent.run_code("def handler(r):\n    for _ in range(6):\n        yield 'x' * (1 << 20)\n");
    assert_eq!(done.text().len(), 6 << 20);
}

#[test]
fn all_that_is_printed_is_the_calls_log_and_nothing_of_it_the_reply() {
    let agent = Agent::start();
    let source = "import os, sys, subprocess\nprint('import')\nos.write(1, b'raw import\\n')\nsubprocess.run(['echo', 'child of import'])\n\
        def handler(r):\n    print('call')\n    os.write(1, b'raw call\\n')\n    subprocess.run(['sh', '-c', 'echo child; echo child error >&2'])\n    print('error', file=sys.stderr)\n    return 'clean'\n";
    let path = agent.write("noisy.py", source);
    std::thread::sleep(SETTLED);
    for _ in 0..3 {
        let done = agent.run(&path);
        assert_eq!(done.text(), "clean");
        assert_eq!(done.log("stdout"), "import\nraw import\nchild of import\ncall\nraw call\nchild\n");
        assert_eq!(done.log("stderr"), "child error\nerror\n");
    }
    let done = agent.run_code("def handler(r):\n    print('x' * 1000000)\n    return 'done'\n");
    assert_eq!(done.text(), "done");
    let log = done.log("stdout");
    assert!(log.len() < 70_000 && log.ends_with("[stdout truncated]"), "{}", log.len());
    let done = agent.invoke(
        &json!({ "source": { "code": "def handler(r):\n    while True: print('y' * 1000)\n" }, "handler": "handler", "timeout_ms": 1500, "request": {} }),
    );
    assert_eq!(done.failed().0, FailureKind::TimedOut);
    assert!(done.log("stdout").starts_with("yyy"));
}

#[test]
fn no_call_sees_what_another_did() {
    let agent = Agent::start();
    let path = agent.write(
        "count.py",
        "import os, random\nn = 0\nimported = os.getpid()\ndef handler(r):\n    global n\n    n += 1\n    return [n, imported, os.getpid(), random.random()]\n",
    );
    std::thread::sleep(SETTLED);
    let all: Vec<Value> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..16).map(|_| scope.spawn(|| serde_json::from_str(&agent.run(&path).text()).unwrap())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(all.iter().all(|call: &Value| call[0] == 1), "{all:?}");
    let distinct = |at: usize| all.iter().map(|call| call[at].to_string()).collect::<std::collections::BTreeSet<_>>().len();
    // One import, a process for each call, other random numbers for each.
    assert_eq!((distinct(1), distinct(2), distinct(3)), (1, 16, 16), "{all:?}");
    let cold = |_| {
        let call = json!({ "source": { "path": path }, "handler": "handler", "cold": true, "request": {} });
        serde_json::from_str::<Value>(&agent.invoke(&call).text()).unwrap()
    };
    let [a, b] = [0, 1].map(cold);
    assert!(a[1] != b[1] && a[1] == a[2] && a[0] == 1, "{a} {b}");
}

#[test]
fn changed_files_count_at_once() {
    let agent = Agent::start();
    let main = "import part, os\nfrom package import inner\ntry:\n    import extra\n    e = extra.E\nexcept ImportError:\n    e = 'none'\nwhere = os.getpid()\ndef handler(r):\n    return f'{part.V} {inner.V} {e} {V}'\nV = 'm%'\n";
    let path = agent.write("main.py", &main.replace('%', "0"));
    agent.write("package/__init__.py", "");
    agent.write("package/inner.py", "V = 'i0'\n");
    agent.write("part.py", "V = 'p0'\n");
    // Same size each time, in place, as fast as it goes.
    for round in 0..6 {
        assert_eq!(agent.run(&path).text(), format!("p{round} i{round} none m{round}"));
        for (name, letter) in [("part.py", 'p'), ("package/inner.py", 'i')] {
            agent.write(name, &format!("V = '{letter}{}'\n", round + 1));
        }
        agent.write("main.py", &main.replace('%', &(round + 1).to_string()));
    }
    std::thread::sleep(SETTLED);
    assert_eq!(agent.run(&path).text(), "p6 i6 none m6");
    // A module that was looked for and was not there.
    agent.write("extra.py", "E = 'there'\n");
    assert_eq!(agent.run(&path).text(), "p6 i6 there m6");
    std::fs::remove_file(agent.path("ws/functions/extra.py")).unwrap();
    assert_eq!(agent.run(&path).text(), "p6 i6 none m6");
    std::thread::sleep(SETTLED);
    // Another function beside it changes nothing: the import is kept.
    let pid = |agent: &Agent| agent.invoke(&json!({ "source": { "path": path }, "handler": "where.__str__", "request": {} })).failed().1.to_owned();
    agent.write("unrelated.py", "x");
    assert!(pid(&agent).contains("TypeError"));
    assert_eq!(agent.run(&path).text(), "p6 i6 none m6");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(agent.run(&path).failed().0, FailureKind::NotFound);
}

#[test]
fn failures_are_told_with_their_traceback() {
    let agent = Agent::start();
    let path = agent.write("bad.py", "def helper():\n    raise KeyError('deep')\ndef handler(r):\n    return helper()\n");
    let done = agent.run(&path);
    let (kind, text) = done.failed();
    assert_eq!(kind, FailureKind::Failed);
    assert!(
        text.starts_with("Traceback") && text.contains("bad.py\", line 2, in helper") && text.contains("raise KeyError('deep')") && !text.contains("<sandbar>"),
        "{text}"
    );
    assert!(done.log("stderr").contains("KeyError"));
    for (code, says) in [
        ("def handler(r)\n    pass\n", "SyntaxError"),
        ("import nothing_like_that\n", "ModuleNotFoundError"),
        ("x = 1\n", "no handler 'handler'"),
        ("handler = 1\n", "not callable"),
        ("def handler(): pass\n", "TypeError"),
        ("def handler(r):\n    raise SystemExit(3)\n", "SystemExit: 3"),
        ("import os\nos._exit(4)\n", "exit code 4"),
        ("import os\ndef handler(r): os._exit(5)\n", "exit code 5"),
        ("import os\ndef handler(r): os.kill(os.getpid(), 11)\n", "SIGSEGV"),
        ("import os\ndef handler(r):\n    print('last words', file=__import__('sys').stderr)\n    os._exit(6)\n", "last words"),
    ] {
        let done = agent.run_code(code);
        assert_eq!(done.failed().0, FailureKind::Failed, "{code}");
        assert!(done.failed().1.contains(says), "{code}: {}", done.failed().1);
    }
    assert_eq!(agent.run_code("import os\ndef handler(r): os._exit(0)\n").failed().0, FailureKind::BadResponse);
    assert_eq!(agent.run(&agent.path("ws/functions/absent.py")).failed().0, FailureKind::NotFound);
    // A file that does not compile and is mended is served.
    let path = agent.write("mended.py", "def handler(r)");
    assert!(agent.run(&path).failed().1.contains("SyntaxError"));
    agent.write("mended.py", "def handler(r): return 1");
    assert_eq!(agent.run(&path).text(), "1");
}

#[test]
fn hostile_handlers_hurt_only_themselves() {
    let agent = Agent::start();
    for code in [
        "import os\ndef handler(r):\n    for fd in range(3, 64):\n        try: os.write(fd, b'\\xff' * 100)\n        except OSError: pass\n    return 'x'\n",
        "import os\ndef handler(r):\n    for fd in range(64):\n        try: os.write(fd, b'garbage\\n')\n        except OSError: pass\n    os._exit(0)\n",
        "import os\nos.write(3, b'nonsense')\ndef handler(r): return 'x'\n",
        "import os\nos.write(3, b'{\"ready\":true}')\nos.write(3, b'{\"ready\":true}')\nimport time\ntime.sleep(60)\n",
        "import os\nos.closerange(3, 256)\ndef handler(r): return 'x'\n",
        "import os\ndef handler(r):\n    os.closerange(0, 256)\n    return 'x'\n",
        "import os, signal\ndef handler(r):\n    os.kill(os.getpid(), signal.SIGKILL)\n",
        "import sys\nsys.modules['json'].dumps = None\nsys.modules['os'].write = None\ndef handler(r): return 'x'\n",
        "def handler(r): return 'x' * (5 << 20)\n",
        "def handler(r): return {'headers': {'a': 'x' * 300000}}\n",
    ] {
        let done = agent.invoke(&json!({ "source": { "code": code }, "handler": "handler", "timeout_ms": 20_000, "request": {} }));
        assert!(done.end.failure.is_some(), "{code}: {done:?}");
    }
    assert_eq!(agent.run_code("def handler(r): return 'x' * (5 << 20)\n").failed().0, FailureKind::TooLarge);
    // Who ends the process that imported has his answer all the same, and so has the next.
    let path = agent.write("parricide.py", "import os, signal\ndef handler(r):\n    if os.getppid() > 1 and os.getppid() != r.get('agent'):\n        os.kill(os.getppid(), signal.SIGKILL)\n    return 'alive'\n");
    std::thread::sleep(SETTLED);
    let call = json!({ "source": { "path": path }, "handler": "handler", "timeout_ms": 60_000, "request": { "agent": agent.child.id() } });
    for _ in 0..4 {
        assert_eq!(agent.invoke(&call).text(), "alive");
    }
    // A copy of the handler that comes back says nothing, and a process of its own does not hold up the reply.
    assert_eq!(agent.run_code("import os\ndef handler(r):\n    return 'child' if os.fork() == 0 else 'parent'\n").text(), "parent");
    assert_eq!(agent.run_code("import os, time\ndef handler(r):\n    if os.fork() == 0: time.sleep(100)\n    os._exit(7)\n").failed().0, FailureKind::Failed);
    assert_eq!(agent.sh("echo fine")["stdout"], "fine\n");
}

#[test]
fn a_call_ends_with_all_its_processes() {
    let agent = Agent::start();
    let marker = agent.path("ended");
    let code = "import os, subprocess, time\ndef handler(r):\n    for extra in ({}, {'process_group': 0} if __import__('sys').version_info >= (3, 11) else {}):\n        subprocess.Popen(['sh', '-c', f'echo $$ >>{r[\"at\"]}; exec sleep 1000'], **extra)\n    subprocess.Popen(['sh', '-c', f'(echo $$; sleep 1000) >>{r[\"at\"]} &'])\n    if r['wait']: time.sleep(1000)\n    return 'x'\n";
    let alive = || {
        let pids = std::fs::read_to_string(&marker).unwrap_or_default();
        pids.lines().filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))).count()
    };
    let call = |timeout: u64| json!({ "source": { "code": code }, "handler": "handler", "timeout_ms": timeout, "request": { "at": marker, "wait": true } });
    assert_eq!(agent.invoke(&call(3000)).failed(), (FailureKind::TimedOut, "function invocation timed out"));
    let soon = Instant::now() + Duration::from_secs(10);
    while alive() > 0 {
        assert!(Instant::now() < soon, "processes are left");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The caller goes away.
    let mut stream = agent.connect();
    let body = serde_json::to_vec(&call(0)).unwrap();
    write!(stream, "POST /v1/functions/call HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(&body).unwrap();
    std::fs::remove_file(&marker).unwrap();
    while alive() < 2 {
        assert!(Instant::now() < soon + Duration::from_secs(10), "the call does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stream);
    let soon = Instant::now() + Duration::from_secs(10);
    while alive() > 0 {
        assert!(Instant::now() < soon, "processes are left");
        std::thread::sleep(Duration::from_millis(20));
    }
    // An import that does not end.
    let endless = json!({ "source": { "code": "import time\ntime.sleep(1000)\n" }, "handler": "handler", "timeout_ms": 500, "request": {} });
    assert_eq!(agent.invoke(&endless).failed().0, FailureKind::TimedOut);
}

#[test]
fn modules_with_threads_are_imported_for_each_call() {
    let agent = Agent::start();
    let path = agent.write("threads.py", "import os, threading, time\nbeats = []\ndef beat():\n    while True:\n        beats.append(1)\n        time.sleep(0.005)\nthreading.Thread(target=beat, daemon=True).start()\nhome = os.getpid()\ndef handler(r):\n    before = len(beats)\n    time.sleep(0.1)\n    return {'home': home == os.getpid(), 'alive': len(beats) > before}\n");
    std::thread::sleep(SETTLED);
    for _ in 0..3 {
        assert_eq!(agent.run(&path).text(), r#"{"home":true,"alive":true}"#);
    }
    // A thread that is no daemon is waited for, as Python does, for a moment.
    let done = agent.run_code("import threading, time\ndef late():\n    time.sleep(0.02)\n    print('late')\ndef handler(r):\n    threading.Thread(target=late).start()\n    return 'early'\n");
    assert_eq!((done.text().as_str(), done.log("stdout").as_str()), ("early", "late\n"));
    let done = agent.run_code("import atexit\ndef handler(r):\n    atexit.register(print, 'at exit')\n    return 'x'\n");
    assert_eq!(done.log("stdout"), "at exit\n");
}

#[test]
fn environments_and_folders() {
    let agent = Agent::start();
    let code = "import os\ndef handler(r): return [os.environ.get('K'), os.environ.get('ONLY'), os.environ.get('PYTHONUNBUFFERED'), os.getcwd(), __name__]\n";
    let call = |env: Value| agent.invoke(&json!({ "source": { "code": code }, "handler": "handler", "env_vars": env, "request": {} })).text();
    assert_eq!(call(json!({})), format!(r#"["sandbox","sb","1","{}","sandbox0_function"]"#, agent.path("ws")));
    assert!(call(json!({ "K": "service" })).starts_with(r#"["service","sb""#));
    agent.ok("POST", "/v1/assign", json!({ "sandbox_id": "sb-it", "env": { "K": "new" }, "cwd": agent.path("ws") }));
    assert!(call(json!({})).starts_with(r#"["new",null"#));
    let path = agent.write("paths.py", "import sys\ndef handler(r): return [sys.path[0], __file__]\n");
    assert_eq!(agent.run(&path).text(), format!(r#"["{}","{path}"]"#, agent.path("ws/functions")));
}

#[test]
fn calls_at_once_have_limits() {
    let agent = Agent::start();
    let gate = agent.path("gate");
    let code = "import os, time\ndef handler(r):\n    open(r['gate'] + str(os.getpid()), 'w')\n    while not os.path.exists(r['gate']): time.sleep(0.02)\n    return 'through'\n";
    let call = |limit: Value| json!({ "source": { "code": code }, "handler": "handler", "limit": limit, "request": { "gate": gate } });
    let two = call(json!({ "key": "service:a", "max": 2 }));
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..2).map(|_| scope.spawn(|| agent.invoke(&two).text())).collect();
        let inside = || std::fs::read_dir(&agent.dir).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with("gate")).count();
        let soon = Instant::now() + Duration::from_secs(30);
        while inside() < 2 {
            assert!(Instant::now() < soon, "the calls do not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        let refused = agent.invoke(&two).end.failure.expect("a third is refused");
        assert_eq!(refused.kind, FailureKind::Busy);
        // Others are not counted with them.
        assert_eq!(agent.run_code("def handler(r): return 'free'").text(), "free");
        std::fs::write(&gate, "").unwrap();
        assert!(held.into_iter().all(|call| call.join().unwrap() == "through"));
    });
    assert_eq!(agent.invoke(&two).text(), "through");
    std::fs::remove_file(&gate).unwrap();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..80).map(|_| scope.spawn(|| agent.invoke(&call(Value::Null)))).collect();
        let soon = Instant::now() + Duration::from_secs(60);
        while calls.iter().filter(|call| call.is_finished()).count() < 16 {
            assert!(Instant::now() < soon, "the calls beyond the limit are not refused");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::write(&gate, "").unwrap();
        let done: Vec<Done> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        let busy = done.iter().filter(|done| done.end.failure.as_ref().is_some_and(|f| f.kind == FailureKind::Busy)).count();
        let through = done.iter().filter(|done| done.end.failure.is_none() && done.body == b"through").count();
        assert_eq!((busy, through), (16, 64));
    });
}

#[test]
fn what_an_import_opened_and_left_for_the_end_is_no_calls_to_share_or_to_remove() {
    let agent = Agent::start();
    let is_own = |name: &str, import: &str| {
        let path = agent.write(name, &format!("import os\n{import}\nhome = os.getpid()\ndef handler(r):\n    return home == os.getpid()\n"));
        std::thread::sleep(SETTLED);
        [0, 1].map(|_| agent.run(&path).text())
    };
    for (name, import) in [
        ("socket.py", "import socket\npair = socket.socketpair()"),
        ("loop.py", "import asyncio\nloop = asyncio.new_event_loop()"),
        ("pipe.py", "pipe = os.pipe()"),
        ("file.py", "file = open(__file__)"),
    ] {
        assert_eq!(is_own(&format!("opens_{name}"), import), ["true", "true"], "{import}");
    }
    for (name, import) in [
        ("none.py", "with open(__file__) as file: pass"),
        ("log.py", "log = open('/tmp/' + str(os.getpid()), 'a')\nos.unlink(log.name)\nnull = open('/dev/null')"),
    ] {
        assert_eq!(is_own(&format!("opens_{name}"), import), ["false", "false"], "{import}");
    }
    let path = agent.write(
        "folder.py",
        "import atexit, os, tempfile\nfolder = tempfile.TemporaryDirectory()\natexit.register(print, 'of the import')\ndef handler(r):\n    global own\n    own = tempfile.TemporaryDirectory()\n    atexit.register(print, 'of the call')\n    return os.path.isdir(folder.name), own.name\n",
    );
    std::thread::sleep(SETTLED);
    for _ in 0..2 {
        let done = agent.run(&path);
        let (there, own): (bool, String) = serde_json::from_str(&done.text()).unwrap();
        assert!(there, "an earlier call removed the import's folder");
        assert!(!std::path::Path::new(&own).exists(), "what the call itself made stays");
        assert_eq!(done.log("stdout"), "of the call\n");
    }
}

#[test]
fn a_process_that_does_not_answer_is_given_up() {
    let agent = Agent::start();
    let path = agent
        .write("stops.py", "import os, signal\nhome = os.getpid()\ndef handler(r):\n    if r.get('stop'): os.kill(home, signal.SIGSTOP)\n    return home\n");
    std::thread::sleep(SETTLED);
    let call = |stop: bool, timeout: u64| {
        agent.invoke(&json!({ "source": { "path": path }, "handler": "handler", "timeout_ms": timeout, "request": { "stop": stop } }))
    };
    let first = call(true, 60_000).text();
    assert_eq!(call(false, 1500).failed().0, FailureKind::TimedOut);
    assert_ne!(call(false, 60_000).text(), first);
}

#[test]
fn without_descriptors_of_processes_they_are_reaped_all_the_same() {
    let agent = Agent::start();
    let path = agent.write(
        "old.py",
        "import os\nos.__dict__.pop('pidfd_open', None)\nhome = os.getpid()\ndef handler(r):\n    if r.get('die'): os._exit(7)\n    return home\n",
    );
    std::thread::sleep(SETTLED);
    let home = agent.run(&path).text();
    let done = agent.invoke(&json!({ "source": { "path": path }, "handler": "handler", "timeout_ms": 60_000, "request": { "die": true } }));
    let (kind, message) = done.failed();
    assert!(kind == FailureKind::Failed && message.contains("with exit code 7"), "{message}");
    assert_eq!(agent.run(&path).text(), home);
    let children = || {
        let stats = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        stats.filter(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some(&home))).collect::<Vec<_>>()
    };
    let soon = Instant::now() + Duration::from_secs(60);
    while !children().is_empty() {
        assert!(Instant::now() < soon, "{:?}", children());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn large_requests_and_replies() {
    let agent = Agent::start();
    let body = "x".repeat(11 << 20);
    let call = json!({ "source": { "code": "def handler(r): return {'headers': {'n': str(len(r['b']))}, 'body': r['b'][:4 << 20]}" }, "handler": "handler", "request": { "b": body } });
    let done = agent.invoke(&call);
    assert_eq!(done.header("n"), [(11 << 20).to_string()]);
    assert_eq!(done.text().len(), 4 << 20);
}

#[test]
fn a_socket_has_messages_both_ways() {
    let agent = Agent::start();
    let open = |code: &str| {
        let mut stream = agent.connect();
        stream.write_all(b"GET /v1/functions/socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: sandbar-function\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        let call = json!({ "source": { "code": code }, "handler": "handler", "request": { "path": "/p" } });
        stream.write_all(&encode(Kind::Request, &serde_json::to_vec(&call).unwrap())).unwrap();
        stream
    };
    let next = |stream: &mut std::os::unix::net::UnixStream| {
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut rest = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut rest).unwrap();
        (Kind::from_byte(rest[0]).unwrap(), rest[1..].to_vec())
    };
    let end = |payload: &[u8]| serde_json::from_slice::<FunctionEnd>(payload).unwrap();
    let mut stream =
        open("async def handler(request, ws):\n    await ws.send(request['path'])\n    async for m in ws:\n        await ws.send(m)\n    print('gone')\n");
    assert_eq!(next(&mut stream).0, Kind::Start);
    assert_eq!(next(&mut stream), (Kind::Text, b"/p".to_vec()));
    for (kind, message) in [(Kind::Text, "h\u{e9}".as_bytes().to_vec()), (Kind::Binary, vec![0, 255]), (Kind::Text, vec![b'x'; 1 << 20])] {
        stream.write_all(&encode(kind, &message)).unwrap();
        assert_eq!(next(&mut stream), (kind, message));
    }
    stream.write_all(&encode(Kind::Close, b"{\"code\":1000}")).unwrap();
    let (kind, payload) = next(&mut stream);
    assert_eq!((kind, end(&payload).failure), (Kind::End, None));
    assert_eq!(end(&payload).logs[0].text, "gone\n");

    let mut stream = open("async def handler(request, ws):\n    m = await ws.receive()\n    await ws.close(4001, 'bye ' + m)\n");
    assert_eq!(next(&mut stream).0, Kind::Start);
    stream.write_all(&encode(Kind::Text, b"you")).unwrap();
    assert_eq!(next(&mut stream), (Kind::Close, b"{\"code\":4001,\"reason\":\"bye you\"}".to_vec()));
    assert_eq!(next(&mut stream).0, Kind::End);

    // What is said last is said whole, however slowly it is read and whatever follows.
    for (tail, count, bytes) in [
        ("for _ in range(60): await ws.send(b'x' * (40 << 10))", 60, 40 << 10),
        ("asyncio.ensure_future(ws.send(b'x' * (3 << 20)))\n    await asyncio.sleep(0)\n    raise ValueError", 1, 3 << 20),
    ] {
        let mut stream = open(&format!("import asyncio\nasync def handler(request, ws):\n    {tail}\n"));
        assert_eq!(next(&mut stream).0, Kind::Start);
        for _ in 0..count {
            std::thread::sleep(Duration::from_millis(10));
            let (kind, message) = next(&mut stream);
            assert_eq!((kind, message.len()), (Kind::Binary, bytes));
        }
        let (kind, payload) = match next(&mut stream) {
            (Kind::Close, _) => next(&mut stream),
            other => other,
        };
        assert_eq!((kind, end(&payload).failure.map(|failure| failure.kind)), (Kind::End, tail.contains("raise").then_some(FailureKind::Failed)));
    }

    // A host that goes is noticed, also while what it said before is not read.
    let marker = agent.path("reads_nothing");
    let mut stream = open(&format!("import os, time\ndef handler(request, ws):\n    open('{marker}', 'w').write(str(os.getpid()))\n    time.sleep(1000)\n"));
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let message = encode(Kind::Binary, &vec![0; 1 << 20]);
    assert!((0..64).any(|_| stream.write_all(&message).is_err()), "all of it was taken");
    let pid = std::fs::read_to_string(&marker).unwrap();
    drop(stream);
    let soon = Instant::now() + Duration::from_secs(90);
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < soon, "the handler goes on");
        std::thread::sleep(Duration::from_millis(50));
    }

    for (code, kind) in [
        ("def handler(request): return 1\n", FailureKind::BadHandler),
        ("async def handler(request, ws):\n    await ws.send('x')\n    raise ValueError('no')\n", FailureKind::Failed),
        ("async def handler(request, ws):\n    await ws.send(1)\n", FailureKind::Failed),
    ] {
        let mut stream = open(code);
        let failure = loop {
            match next(&mut stream) {
                (Kind::End, payload) => break end(&payload).failure.expect("a failure"),
                (Kind::Start | Kind::Text, _) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(failure.kind, kind, "{failure:?}");
    }
}

#[test]
fn a_text_is_looked_at_before_it_is_kept() {
    let agent = Agent::start();
    let check = |code: &str| agent.ok("POST", "/v1/functions/check", json!({ "path": "/f.py", "code": code }));
    assert_eq!(check("def handler(r): return 1\n")["message"], Value::Null);
    assert_eq!(check("raise SystemExit\n")["message"], Value::Null);
    let wrong = check("x = 1\ndef handler(r)\n");
    assert_eq!(wrong["line"], 2);
    assert!(wrong["message"].as_str().unwrap().starts_with("SyntaxError"), "{wrong}");
    assert!(check("x = '\0'")["message"].is_string());
}

#[test]
fn a_handler_can_be_run_by_hand() {
    let dir = std::env::temp_dir().join(format!("procd-hand-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let runner = dir.join("python-runner");
    let _ = std::fs::remove_file(&runner);
    symlink(env!("CARGO_BIN_EXE_sandbar-procd"), &runner).unwrap();
    std::fs::write(dir.join("part.py"), "V = 'part'\n").unwrap();
    std::fs::write(dir.join("m.py"), "import part\nprint('printed')\nclass A:\n    async def h(r): return {'status': 201, 'headers': {'a': 'b'}, 'body': part.V + r['x']}\ndef bad(r): raise ValueError('why')\n").unwrap();
    let run = |args: &[&str], path: Option<&str>| {
        let mut command = Command::new(&runner);
        command.args(args).current_dir(&dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(br#"{"x":"!"}"#);
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, err) = run(&["m.py", "A.h"], None);
    assert_eq!((code, err.as_str()), (0, "printed\n"));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), json!({ "status": 201, "headers": { "a": ["b"] }, "body_base64": "cGFydCE=" }));
    assert_eq!(out.matches('\n').count(), 1);
    let (code, out, err) = run(&["m.py", "bad"], None);
    assert!(code == 1 && out.is_empty() && err.contains("ValueError: why"), "{code} {out} {err}");
    assert_eq!(run(&["m.py"], None).0, 64);
    assert_eq!(run(&["m.py", "A.h"], Some("/nowhere")).0, 127);
    std::fs::remove_dir_all(&dir).unwrap();
}
