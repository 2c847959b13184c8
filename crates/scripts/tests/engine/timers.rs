//! Timers, with a host whose time is told and not waited for.

use super::*;

/// Answers what is due first, as the clock would have it; gives the value, and how many sleeps there were.
fn timed(call: Call) -> (Ended, usize) {
    let mut now = 0.0_f64;
    let mut sleeps: Vec<(f64, u32)> = Vec::new();
    let mut count = 0;
    // The clock stands, and time is what sleeps take.
    let (mut instance, mut step) = ENGINE.start(call.with(|run| run.clock = Some(Clock::default())).run, Arc::default());
    let mut logs = Vec::new();
    loop {
        logs.append(&mut step.logs);
        for asked in step.ops {
            assert_eq!(asked.op, Op::Sleep);
            let args: Value = serde_json::from_str(asked.args.get()).unwrap();
            sleeps.push((now + args["ms"].as_f64().unwrap(), asked.seq));
            count += 1;
        }
        if let Some(mut done) = step.done {
            let value = done.value.take().map(|value| serde_json::from_str(value.get()).unwrap());
            return (Ended { value, failure: done.failure.take(), logs, done }, count);
        }
        sleeps.sort_by(|a, b| b.partial_cmp(a).unwrap());
        let (at, seq) = sleeps.pop().expect("the script waits and asks for nothing");
        now = at;
        step = instance.as_mut().unwrap().settle(Settle { seq, value: Some(RawValue::NULL.to_owned()), error: None });
    }
}

const WAIT: &str = "const said = []; const wait = ms => new Promise(r => setTimeout(r, ms)); const say = x => () => said.push(x);";

fn said(code: &str) -> Value {
    let (ended, _) = timed(call(&format!("{WAIT} {code}; return said")));
    assert_eq!(ended.failure, None, "{code}");
    ended.value.unwrap()
}

#[test]
fn timers_come_when_they_are_due_and_then_in_the_order_of_their_making() {
    for (code, expected) in [
        ("setTimeout(say(3), 30); setTimeout(say(1), 10); setTimeout(say(2), 20); await wait(40)", json!([1, 2, 3])),
        ("setTimeout(say('a'), 5); setTimeout(say('b'), 5); setTimeout(say('c'), 0); setTimeout(say('d')); await wait(5)", json!(["c", "d", "a", "b"])),
        // Set at 0 for 10, and at 5 for 10.
        ("setTimeout(say('first'), 10); await wait(5); setTimeout(say('second'), 5); await wait(20)", json!(["first", "second"])),
        ("setTimeout(() => { say(1)(); setTimeout(say(3), 0) }, 5); setTimeout(say(2), 5); await wait(6)", json!([1, 2, 3])),
        ("setTimeout(say('late'), 1000); await wait(1); setTimeout(say('soon'), 2); await wait(5)", json!(["soon"])),
        ("setTimeout((...all) => say(all)(), 1, 'x', 2); await wait(1)", json!([["x", 2]])),
        ("setTimeout(say(1), 1.9); setTimeout(say(2), 1); setTimeout(say(0), -5); setTimeout(say('nan'), NaN); await wait(2)", json!([0, "nan", 1, 2])),
        // What one leaves to do comes before the next one.
        ("setTimeout(() => { (async () => { for (let i = 0; i < 5; i++) await 0; say(1)() })() }, 1); setTimeout(say(2), 1); await wait(2)", json!([1, 2])),
        (
            "const t = setInterval(() => { if (said.push(said.length) === 4) clearInterval(t) }, 10); setTimeout(say('x'), 25); await wait(100)",
            json!([0, 1, "x", 3]),
        ),
        (
            "const t = setTimeout(say(1), 5); setTimeout(() => clearTimeout(t), 5); const u = setTimeout(say(2), 6); await wait(5); clearInterval(u); await wait(5)",
            json!([1]),
        ),
        ("const u = setTimeout(() => clearTimeout(t), 5); const t = setTimeout(say(1), 5); await wait(9)", json!([])),
        (
            "clearTimeout(); clearTimeout(99); clearTimeout('x'); clearTimeout(null); const t = setTimeout(say(1), 1); await wait(2); clearTimeout(t)",
            json!([1]),
        ),
        (
            "const all = []; for (let i = 0; i < 200; i++) all.push(setTimeout(say(i), (i * 37) % 101)); for (let i = 0; i < 200; i++) if (i % 3) clearTimeout(all[i]); await wait(200); const want = []; for (let i = 0; i < 200; i += 3) want.push(i); want.sort((a, b) => (a * 37) % 101 - (b * 37) % 101 || a - b); said.splice(0, said.length, JSON.stringify(want) === JSON.stringify([...said]), said.length)",
            json!([true, 67]),
        ),
    ] {
        assert_eq!(said(code), expected, "{code}");
    }
}

#[test]
fn timers_that_were_cleared_take_nothing() {
    let (ended, sleeps) =
        timed(call(&format!("{WAIT} for (let i = 0; i < 70000; i++) clearTimeout(setTimeout(say(i), 1000 - i % 1000)); await wait(1); return said.length")));
    assert_eq!((ended.failure, ended.value, sleeps), (None, Some(json!(0)), 1));
    let (ended, sleeps) = timed(call(&format!(
        "{WAIT} for (let i = 0; i < 300; i++) {{ const t = setTimeout(say(i), 5000); await wait(1); clearTimeout(t) }} return said.length"
    )));
    assert_eq!((ended.failure, ended.value), (None, Some(json!(0))));
    assert!(sleeps <= 301, "{sleeps}");
}

#[test]
fn timers_are_no_ops() {
    let ticks = "let n = 0; await new Promise(r => { const t = setInterval(() => { if (++n === 5000) { clearInterval(t); r() } }, 10) }); return n";
    let (ended, sleeps) = timed(call(ticks).with(|run| (run.ops, run.ops_pending) = (0, 0)));
    assert_eq!((ended.failure, ended.value, sleeps), (None, Some(json!(5000)), 5000));
    let many = "let n = 0; for (let i = 0; i < 5000; i++) setTimeout(() => n++, i); await new Promise(r => setTimeout(r, 5000)); return n";
    assert_eq!(timed(call(many)).0.value, Some(json!(5000)));
}

#[test]
fn timers_have_an_end_that_is_told() {
    let (ended, sleeps) = timed(call("setInterval(() => {}, 0); await new Promise(() => {})").with(|run| (run.timeout_ms, run.cpu_ms) = (120_000, 120_000)));
    assert_eq!((ended.failure.unwrap().name.as_str(), sleeps), ("DeadlockError", 100_000));
    assert!(ended.logs[0].text.contains("too many timers in one run"), "{:?}", ended.logs);
}
