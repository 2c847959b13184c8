//! What a call is and how it ends.

use super::*;

#[test]
fn a_script_returns_what_it_computes() {
    assert_eq!(value("return ctx.data.n + 1"), json!(42));
}

#[test]
fn results_are_json() {
    for (code, expected) in [
        ("return {a: [1, 'x', null, true], b: undefined, c: () => 1}", json!({"a": [1, "x", null, true]})),
        ("return new Date(0)", json!("1970-01-01T00:00:00.000Z")),
        ("return {toJSON: () => 'mine'}", json!("mine")),
        ("return [NaN, Infinity, -0]", json!([null, null, 0])),
        ("return 'ä\\u0000\\n\u{1f600}'", json!("ä\u{0}\n\u{1f600}")),
        ("return '\\ud83d'", json!("\u{fffd}")),
        ("return new Map([[1, 2]])", json!({})),
        ("return Promise.resolve(3)", json!(3)),
        ("return {then: (resolve) => resolve(4)}", json!(4)),
        ("return {n: JSON.rawJSON('1e30')}", json!({"n": 1e30})),
        ("return null", Value::Null),
        ("return {__proto__: {a: 1}, b: 2}", json!({"b": 2})),
        ("return JSON.parse('{\"__proto__\": 1}')", json!({"__proto__": 1})),
    ] {
        assert_eq!(value(code), expected, "{code}");
    }
    for code in ["return undefined", "", "return () => 1", "return Symbol('x')", "// nothing"] {
        let ended = call(code).end();
        assert!(ended.value.is_none() && ended.failure.is_none(), "{code}");
    }
}

#[test]
fn what_is_no_json_is_said() {
    for (code, message) in [
        ("const a = {}; a.a = a; return a", "circular"),
        ("return 1n", "BigInt"),
        ("return {toJSON() { throw new Error('mine') }}", "mine"),
        ("return {get a() { throw new Error('getter') }}", "getter"),
        ("let a = []; for (let i = 0; i < 200; i++) a = [a]; return a", "nested too deep"),
        ("return {n: JSON.rawJSON('1e999')}", "a number that is too large"),
    ] {
        let (failed, _, said) = failure(code);
        assert_eq!(failed, FailureCode::Unserializable, "{code}: {said}");
        assert!(said.contains(message), "{code}: {said}");
    }
    let large = call("return 'x'.repeat(100)").with(|run| run.output_bytes = 100).failure();
    assert_eq!(large.code, FailureCode::PayloadTooLarge);
    assert_eq!(call("return 'x'.repeat(98)").with(|run| run.output_bytes = 100).value().as_str().unwrap().len(), 98);
}

#[test]
fn errors_say_what_and_where() {
    let code = "const x = 1;\nfunction inner() {\n  null.length;\n}\ninner();";
    let failed = call(code).failure();
    assert_eq!((failed.code, failed.name.as_str()), (FailureCode::UserError, "TypeError"));
    assert_eq!(failed.stack.as_deref(), Some("    at inner (job:3:3)\n    at <anonymous> (job:5:1)"));
    let after_await = call("await ctx.db.one('a', 1);\n\nthrow new RangeError('late')").failure();
    assert_eq!((after_await.name.as_str(), after_await.message.as_str()), ("RangeError", "late"));
    assert_eq!(after_await.stack.as_deref(), Some("    at <anonymous> (job:3:11)"));
    let in_callback = call("return [1].map(() => {\n throw new Error('x') })").failure();
    assert_eq!(in_callback.stack.as_deref(), Some("    at <anonymous> (job:2:12)\n    at <anonymous> (job:1:12)"));
    let no_json = call("\nJSON.parse('{')").failure();
    assert_eq!((no_json.name.as_str(), no_json.stack.as_deref()), ("SyntaxError", Some("    at <anonymous> (job:2:6)")));
    class_of_thrown();
}

#[test]
fn what_cannot_be_read_is_replaced() {
    assert_eq!(failure("throw new TypeError('bad \\ud83d')"), (FailureCode::UserError, "TypeError".into(), "bad \u{fffd}".into()));
    let long = failure("throw new Error('x' + '\u{1f600}'.repeat(6000))").2;
    assert!(long.starts_with("x\u{1f600}") && long.ends_with("\u{1f600}\u{fffd}"), "{long}");
    assert_eq!(failure("const e = new Error('m'); e.name = '\\ude00'; throw e"), (FailureCode::UserError, "\u{fffd}".into(), "m".into()));
    assert_eq!(failure("throw '\\ud83d'").2, "\u{fffd}");
    assert_eq!(call("console.log('a\\ud83d'); return 1").end().logs[0].text, "a\u{fffd}");
}

#[test]
fn codes_are_the_hosts_whatever_a_script_writes() {
    let of = |code: &str| failure(code).0;
    assert_eq!(failure("try { await ctx.db.one('missing', 1) } catch (e) { e.code = 'E_LIST'; throw e }").2, "Collection \"missing\" not found");
    assert_eq!(of("try { await ctx.db.one('missing', 1) } catch (e) { e.code = 'denied'; throw e }"), FailureCode::UserError);
    assert_eq!(of("try { await ctx.fetch('https://denied/') } catch (e) { e.code = 'mine'; throw e }"), FailureCode::Denied);
    assert_eq!(of("try { await ctx.fetch('https://denied/') } catch (e) { throw Object.assign(new Error('x'), e) }"), FailureCode::UserError);
    assert_eq!(of("WeakMap.prototype.get = () => 'denied'; throw new Error('x')"), FailureCode::UserError);
}

fn class_of_thrown() {
    for (code, name, message) in [
        ("throw 'text'", "Error", "text"),
        ("throw 42", "Error", "42"),
        ("throw null", "Error", "null was thrown"),
        ("throw undefined", "Error", "undefined was thrown"),
        ("throw {a: 1}", "Error", "{\"a\":1}"),
        ("throw {name: 'Mine', message: 'm'}", "Mine", "m"),
        ("throw Symbol('s')", "Error", "Symbol(s)"),
        ("throw 10n", "Error", "10"),
        ("class E extends Error { name = 'E' }; throw new E('m')", "E", "m"),
        ("throw Object.create(null)", "Error", "{}"),
        ("await Promise.reject(new TypeError('t'))", "TypeError", "t"),
        ("await Promise.any([Promise.reject(1)])", "AggregateError", ""),
    ] {
        let (failed, found_name, found) = failure(code);
        assert_eq!((failed, found_name.as_str()), (FailureCode::UserError, name), "{code}");
        assert!(found.contains(message), "{code}: {found}");
    }
}

#[test]
fn code_that_does_not_compile_says_where() {
    for (code, line, column) in [
        ("return 1 +", 1, 11),
        ("const a = 1;\nconst a = 2;", 2, 7),
        ("let x = ;", 1, 9),
        ("\n\n  foo bar", 3, 7),
        ("if (x) {", 1, 9),
        ("import fs from 'fs'", 1, 1),
        ("export default 1", 1, 1),
        ("let ctx = 1", 1, 5),
        ("}); (async function () {", 1, 1),
        ("return 1\n}, async function () {", 2, 1),
        ("}(0), function () {", 1, 1),
        ("} + function () {", 1, 1),
        ("// a comment\n} /* and */ , function () {", 2, 1),
        ("'unclosed", 1, 1),
        ("`unclosed", 1, 1),
        ("/* unclosed", 1, 1),
        ("return /(/", 1, 8),
    ] {
        let checked = ENGINE.check(code, "job").error.unwrap_or_else(|| panic!("{code} compiles"));
        assert_eq!(checked.line, line, "{code}: {checked}");
        assert!(checked.column.abs_diff(column) <= 12, "{code}: {checked}");
        let failed = call(code).failure();
        assert_eq!((failed.code, failed.name.as_str()), (FailureCode::UserError, "SyntaxError"), "{code}");
    }
    for code in [
        "",
        "return 1 // comment",
        "'use strict'; return this",
        "await 0; for await (const x of []) {}",
        "<!-- html",
        "return {}\n/* } */ // }",
        "return `${'}'}`",
    ] {
        assert_eq!(ENGINE.check(code, "job").error, None, "{code}");
    }
}

#[test]
fn ctx_asks_the_host() {
    assert_eq!(value("return await ctx.db.one('posts', 7)"), json!({"id": 7, "slug": "posts"}));
    assert_eq!(value("return await ctx.db.list('posts', {limit: 2})"), json!([{"limit": 2}]));
    assert_eq!(value("return await ctx.email.send({to: 'a@b', subject: 's'})"), json!(true));
    assert_eq!(value("return [await ctx.secrets.get('KEY'), await ctx.secrets.get('NO')]"), json!(["s3cret", null]));
    assert_eq!(value("const r = await Promise.all([ctx.db.one('a', 1), ctx.db.one('b', 2)]); return r.map(x => x.slug)"), json!(["a", "b"]));
    let (code, name, message) = failure("await ctx.db.one('missing', 1)");
    assert_eq!((code, name.as_str(), message.as_str()), (FailureCode::UserError, "Error", "Collection \"missing\" not found"));
    assert_eq!(call("\nawait ctx.db.one('missing', 1)").failure().stack.as_deref(), Some("    at <anonymous> (job:2:14)"));
    let denied = call("await ctx.fetch('https://denied/')").failure();
    assert_eq!((denied.code, denied.message.contains("not in fetch allow-list")), (FailureCode::Denied, true));
    assert_eq!(value("try { await ctx.fetch('https://denied/') } catch (e) { return [e.code, e instanceof Error] }"), json!(["denied", true]));
    assert_eq!(failure("throw Object.assign(new Error('x'), {code: 'denied'})").0, FailureCode::UserError, "only the host denies");
}

#[test]
fn a_fetched_answer_is_three_things_and_more() {
    assert_eq!(value("return await ctx.fetch('https://x/')").as_object().unwrap().keys().collect::<Vec<_>>(), ["ok", "status", "text"]);
    assert_eq!(
        value(
            "const r = await ctx.fetch(new URL('https://x/a')); return [r.headers.get('Content-Type'), r.url, r.redirected, typeof r.text, (await r.json()).url, Object.keys(r)]"
        ),
        json!(["text/plain", "https://x/a", false, "string", "https://x/a", ["status", "ok", "text"]])
    );
    assert_eq!(
        value("const r = await ctx.fetch('https://x/', {method: 'POST', headers: {A: 1}, body: new URLSearchParams({q: 'a b'})}); return r.json()"),
        json!({"url": "https://x/", "init": {"method": "POST", "body": "q=a+b", "headers": {"a": "1", "content-type": "application/x-www-form-urlencoded;charset=UTF-8"}}})
    );
    // Bytes go as base64.
    for (body, expected) in [
        ("new Uint8Array([0, 255, 128, 10])", "AP+ACg=="),
        ("new Uint8Array([1, 2, 3, 4, 5]).subarray(1, 4)", "AgME"),
        ("new Uint8Array([251, 255]).buffer", "+/8="),
        ("new DataView(new ArrayBuffer(1))", "AA=="),
        ("new Uint16Array([258])", "AgE="),
        ("new ArrayBuffer(0)", ""),
    ] {
        let code = format!("const r = await ctx.fetch('https://x/', {{method: 'POST', body: {body}}}); return (await r.json()).init");
        assert_eq!(value(&code), json!({"method": "POST", "bodyBase64": expected, "headers": {}}), "{body}");
    }
    let long = value(
        "const r = await ctx.fetch('https://x/', {method: 'POST', body: new Uint8Array(20000).fill(7)}); const text = (await r.json()).init.bodyBase64; return [text.length, atob(text) === '\\x07'.repeat(20000)]",
    );
    assert_eq!(long, json!([26668, true]));
    assert_eq!(failure("await ctx.fetch('https://x/', {body: {a: 1}})").1, "TypeError");
    assert_eq!(value("try { await ctx.fetch('https://x/', {signal: AbortSignal.abort()}) } catch (e) { return e.name }"), json!("AbortError"));
}

#[test]
fn ctx_is_what_was_given_and_stays_so() {
    let whole = call("return [ctx.user, Object.keys(ctx), ctx.data]")
        .with(|run| run.user = User { id: Some("u".into()), email: Some("a@b".into()), roles: vec!["admin".into()] });
    assert_eq!(whole.value(), json!([{"id": "u", "email": "a@b", "roles": ["admin"]}, ["data", "user", "fetch", "db", "email", "secrets"], {"n": 41}]));
    assert_eq!(value("return ctx.user"), json!({"id": null, "email": null, "roles": []}));
    assert_eq!(
        value(
            "ctx.fetch = 1; ctx.db.list = 2; ctx.user.id = 'root'; delete ctx.email; return [typeof ctx.fetch, typeof ctx.db.list, ctx.user.id, typeof ctx.email]"
        ),
        json!(["function", "function", null, "object"])
    );
    assert_eq!(failure("'use strict'; ctx.fetch = 1").1, "TypeError");
    assert_eq!(value("ctx.data.n = 1; return ctx.data"), json!({"n": 1}));
    assert_eq!(
        value(
            "return ['fetch', 'process', 'require', 'Bun', 'std', 'os', 'SharedArrayBuffer', 'Atomics', 'navigator', 'print', 'gc'].filter(name => name in globalThis)"
        ),
        json!([])
    );
    assert!(failure("await import('fs')").2.contains("import() is not available"));
}

#[test]
fn the_console_is_kept() {
    let ended = call("console.log('a', 1, {b: [2]}, undefined, null); console.error('e'); console.warn('w'); console.info('i'); console.debug('d'); const c = {}; c.c = c; console.log(c, 1n, Symbol('s'));").end();
    let said: Vec<(String, String)> = ended.logs.iter().map(|line| (format!("{:?}", line.level), line.text.clone())).collect();
    let expected =
        [("Log", "a 1 {\"b\":[2]} undefined null"), ("Error", "e"), ("Warn", "w"), ("Info", "i"), ("Debug", "d"), ("Log", "[unserializable] 1n Symbol(s)")];
    assert_eq!(said, expected.map(|(level, text)| (level.to_owned(), text.to_owned())));
    let thrown = call("console.log(new TypeError('bad'))").end();
    assert_eq!(thrown.logs[0].text, "TypeError: bad\n    at <anonymous> (job:1:17)");
    let flood = call("for (let i = 0; i < 1e5; i++) console.log('x'.repeat(100))").with(|run| (run.log_lines, run.log_bytes) = (10, 1 << 20)).end();
    assert_eq!((flood.logs.len(), flood.logs[10].text.contains("full")), (11, true));
    let wide = call("console.log('x'.repeat(1e6)); console.log('y')").end();
    assert_eq!(wide.logs.len(), 1);
}

#[test]
fn promises_that_nobody_looks_after_are_logged() {
    let ended =
        call("Promise.reject(new Error('lost')); (async () => { throw 'gone' })(); const kept = Promise.reject(1); kept.catch(() => {}); await 0; return 1")
            .end();
    assert_eq!(ended.value, Some(json!(1)));
    let texts: Vec<&str> = ended.logs.iter().map(|line| line.text.lines().next().unwrap()).collect();
    assert_eq!(texts, ["Uncaught (in promise) Error: lost", "Uncaught (in promise) gone"]);
    let timer = call("setTimeout(() => { throw new Error('tick') }, 1); await new Promise(r => setTimeout(r, 2)); return 2").end();
    assert_eq!((timer.value, timer.logs[0].text.lines().next()), (Some(json!(2)), Some("Uncaught Error: tick")));
}

#[test]
fn nothing_to_wait_for_is_an_end() {
    for code in ["await new Promise(() => {})", "return new Promise(() => {})", "await {then() {}}"] {
        let (failed, name, _) = failure(code);
        assert_eq!((failed, name.as_str()), (FailureCode::UserError, "DeadlockError"), "{code}");
    }
}

#[test]
fn ops_have_a_limit() {
    let run = |code: &str| call(code).with(|run| (run.ops_pending, run.ops) = (3, 5));
    assert_eq!(
        run("return (await Promise.allSettled([1, 2, 3, 4].map(i => ctx.db.one('a', i)))).map(r => r.status)").value(),
        json!(["fulfilled", "fulfilled", "fulfilled", "rejected"])
    );
    assert!(run("for (let i = 0; i < 6; i++) await ctx.db.one('a', i)").failure().message.contains("too many calls of ctx"));
    assert!(failure("await ctx.db.list('a', 1n)").2.contains("BigInt"));
    assert!(failure("await ctx.db.list('a', 'x'.repeat(9e6))").2.contains("too large"));
    assert!(failure("let a = []; for (let i = 0; i < 200; i++) a = [a]; await ctx.db.list('a', a)").2.contains("too deep"));
    assert_eq!(value("const a = {}; a.a = a; try { await ctx.db.list('x', a) } catch (e) { return e.name }"), json!("TypeError"));
}

#[test]
fn time_is_up() {
    let spin = call("function spin() {\n  let n = 0;\n  for (;;) n = Math.max(n, 1);\n}\nspin()").with(|run| run.timeout_ms = 60).failure();
    assert_eq!((spin.code, spin.message.as_str()), (FailureCode::Timeout, "timed out after 60ms"));
    assert!(spin.stack.as_ref().is_some_and(|stack| stack.contains("at spin (job:3:")), "{spin:?}");
    for (body, line) in [("for (;;) n++", 3), ("for (;;) {\n    n += 1;\n    n -= 1;\n  }", 5), ("while (n === 0);", 3), ("do { n = 1 } while (n)", 3)] {
        let alone = call(&format!("function spin() {{\n  let n = 0;\n  {body}\n}}\nspin()")).with(|run| run.timeout_ms = 60).failure();
        assert!(alone.stack.as_ref().is_some_and(|stack| stack.contains(&format!("at spin (job:{line}:"))), "{body}: {alone:?}");
    }
    let mut wrong = Vec::new();
    // Where nothing is known of the place, no line is made up.
    for (code, line) in [
        ("for (;;);", None),
        ("for (;;) {}", None),
        ("\nwhile (true) {\n}", None),
        ("let n = 0;\nfor (const x of (function* () { for (;;) yield 1 })()) n += x", None),
        ("\nfor (;;) await 0", None),
        ("\n\nwhile (true) Math.random()", Some(3)),
        ("const f = () => { for (;;); };\n[1].map(f)", Some(1)),
        ("const f = async () => {\n  for (;;) { await 0; [3, 2, 1].sort() }\n};\nawait f()", None),
        ("/^(a+)+$/.test('a'.repeat(60) + 'b')", None),
        ("const a = [];\nfor (let i = 0; i < 1e5; i++) a.push(i);\nfor (;;) a.sort()", None),
        ("let s = '';\nfor (;;) {\n  s = JSON.stringify([s.length]);\n}", None),
        ("label: for (;;) { for (;;) { continue label } }", None),
        ("switch (1) { case 1: for (;;) ; }", None),
        ("const o = {};\nfor (;;) { for (const k in o) { } }", None),
    ] {
        let failed = call(code).with(|run| run.timeout_ms = 60).failure();
        let stack = failed.stack.unwrap_or_default();
        let is_right = line.is_none_or(|line| stack.lines().next().is_some_and(|frame| frame.contains(&format!("job:{line}:"))));
        if failed.code != FailureCode::Timeout || stack.contains(":0:") || !is_right {
            wrong.push(format!("{code}: {stack}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let cpu = call("for (;;) {}").with(|run| run.cpu_ms = 50).failure();
    assert_eq!((cpu.code, cpu.message.contains("timed out after 50ms")), (FailureCode::Timeout, true));
    let caught = call("for (;;) { try { for (;;) {} } catch {} finally { continue } }").with(|run| run.timeout_ms = 60).failure();
    assert_eq!(caught.code, FailureCode::Timeout);
}

#[test]
fn a_call_that_is_not_wanted_stops() {
    let cancel = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (instance, step) = ENGINE.start(call("for (;;) {}").run, cancel);
    assert!(instance.is_none());
    assert_eq!(step.done.unwrap().failure.unwrap().code, FailureCode::Cancelled);
    let (instance, step) = ENGINE.start(call("await ctx.db.one('a', 1)").run, Arc::default());
    assert_eq!((step.ops.len(), step.done.is_none()), (1, true));
    assert_eq!(instance.unwrap().cancel().failure.unwrap().code, FailureCode::Cancelled);
}

#[test]
fn an_answer_that_nobody_waits_for_is_nothing() {
    let (instance, _) = ENGINE.start(call("return (await ctx.db.one('a', 1)).id").run, Arc::default());
    let mut instance = instance.unwrap();
    for seq in [0, 2, u32::MAX] {
        let step = instance.settle(Settle { seq, value: Some(raw(&json!({"id": "wrong"}))), error: None });
        assert!(step.done.is_none() && step.ops.is_empty());
    }
    let step = std::thread::spawn(move || instance.settle(Settle { seq: 1, value: Some(raw(&json!({"id": "right"}))), error: None })).join().unwrap();
    assert_eq!(step.done.unwrap().value.unwrap().get(), "\"right\"");
}

#[test]
fn memory_has_a_limit() {
    for code in [
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1))",
        "const a = []; for (;;) a.push('x'.repeat(1e5) + a.length)",
        "const a = []; for (;;) a.push({})",
        "new Array(1e8).fill(0)",
    ] {
        let ended = call(code).with(|run| run.memory_bytes = 24 << 20).end();
        let failed = ended.failure.unwrap();
        assert_eq!((failed.code, failed.name.as_str()), (FailureCode::Memory, "MemoryError"), "{code}: {failed:?}");
        assert!(ended.done.usage.peak_memory_bytes <= 24 << 20);
    }
    assert_eq!(call("try { new Uint8Array(1 << 30) } catch (e) { return e.name }").value(), json!("InternalError"), "a script may go on");
    assert_eq!(call("return 1").with(|run| run.memory_bytes = 1 << 20).failure().code, FailureCode::Memory, "less than an engine needs");
}

#[test]
fn recursion_has_an_end_that_can_be_caught() {
    let (failed, name, _) = failure("const f = () => f() + 1; return f()");
    assert_eq!((failed, name.as_str()), (FailureCode::UserError, "RangeError"));
    let depth = value("let n = 0; const f = () => { n++; f() }; try { f() } catch (e) { return [e instanceof RangeError, n] }");
    assert_eq!(depth[0], json!(true));
    assert!(depth[1].as_u64().unwrap() >= 5000, "{depth}");
    for through in [
        "[1].map(f)",
        "'a'.replace(/a/, f)",
        "[2, 1].sort(f)",
        "Reflect.apply(f, null, [])",
        "JSON.parse('[1]', f)",
        "`${{toString: f}}`",
        "eval('f()')",
        "new f()",
    ] {
        let code = format!("function f() {{ return {through} }} try {{ f() }} catch (e) {{ return e instanceof RangeError }}");
        assert_eq!(value(&code), json!(true), "{through}");
    }
}

#[test]
fn a_replay_sees_the_same_world() {
    let code = "const ids = [crypto.randomUUID(), Math.random(), Math.random()]; const t = Date.now(); while (Date.now() < t + 3); return {ids, t, later: Date.now(), perf: performance.now(), date: new Date().toISOString()}";
    let first = call(code).end();
    let clock = first.done.clock.clone().unwrap();
    let again = call(code).with(|run| run.clock = Some(clock)).end();
    assert_eq!(first.value, again.value);
    assert_eq!(again.done.clock, None);
    let other = call(code).with(|run| run.seed = "08".repeat(32)).value();
    assert_ne!(first.value.unwrap()["ids"], other["ids"]);
    assert_eq!(
        call("return [Date.now(), new Date().toISOString(), performance.now()]").with(|run| run.clock = Some(Clock::default())).value(),
        json!([0, "1970-01-01T00:00:00.000Z", 0])
    );
    assert_eq!(
        call("return [Date.now(), Date.now(), Date.now()]").with(|run| run.clock = Some(Clock(vec![(5, 2), (7, 1)]))).value(),
        json!([5, 7, 7]),
        "the start reads it, too"
    );
}

#[test]
fn calls_see_nothing_of_each_other() {
    value("globalThis.leak = 1; Object.prototype.evil = 2; Array.prototype.map = () => 'mine'; JSON.stringify = () => '3'; return 1");
    assert_eq!(value("return [typeof leak, typeof {}.evil, [1].map(x => x + 1), JSON.stringify(1)]"), json!(["undefined", "undefined", [2], "1"]));
}

#[test]
fn usage_is_measured() {
    let ended = call("for (let i = 0; i < 1e5; i++); return 1").end();
    assert!(ended.done.usage.cpu_us > 0);
    assert!(ended.done.usage.peak_memory_bytes > 1 << 20);
}
