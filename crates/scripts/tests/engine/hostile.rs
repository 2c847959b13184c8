//! Scripts that mean no good. Each ends as the table says, and the next script notices nothing.

use super::*;

enum End {
    /// With this value.
    Is(&'static str),
    /// With this code, and this in name or message.
    Fails(FailureCode, &'static str),
    /// One or the other: what matters is that it ends, and how the next one fares.
    Any,
}
use End::{Any, Fails, Is};
use FailureCode::{Memory, Timeout, UserError};

const SCRIPTS: &[(&str, &str, End)] = &[
    // Prototypes and built-ins.
    ("every object gets a then", "Object.prototype.then = function (r) { r('hijacked') }; return {a: 1}", Is("\"hijacked\"")),
    (
        "arrays keep what is stored",
        "let seen = 0; Object.defineProperty(Array.prototype, 0, {set(v) { seen++ }, configurable: true}); setTimeout(() => {}, 1); await ctx.db.one('a', 1); console.log('a', 'b'); return 1",
        Is("1"),
    ),
    ("JSON.stringify lies", "JSON.stringify = () => '{\"forged\":true}'; return {mine: 1}", Is("{\"mine\":1}")),
    ("JSON.parse lies", "JSON.parse = () => 'forged'; return (await ctx.db.one('a', 1)).id", Is("1")),
    ("toJSON everywhere", "Object.prototype.toJSON = () => 'forged'; return await ctx.db.one('a', 1)", Is("\"forged\"")),
    ("promises resolve to nothing", "Promise.prototype.then = () => { throw 1 }; Promise.resolve = null; return (await ctx.db.one('a', 7)).id", Is("7")),
    ("promises are something else", "globalThis.Promise = class { constructor() { throw 1 } }; return (await ctx.db.one('a', 7)).id", Is("7")),
    (
        "constructor of promises",
        "Object.defineProperty(Promise.prototype, 'constructor', {get() { throw new Error('gotcha') }}); return await (async () => 1)()",
        Fails(UserError, "gotcha"),
    ),
    (
        "Reflect is replaced",
        "Reflect.apply = () => { throw 1 }; Function.prototype.call = Function.prototype.apply = null; console.log('x'); return (await ctx.fetch('https://x/')).status",
        Is("200"),
    ),
    ("Map is replaced", "Map.prototype.get = Map.prototype.set = () => { throw 1 }; let n = 0; await new Promise(r => setTimeout(r, 1)); return 1", Is("1")),
    (
        "iterators are replaced",
        "Array.prototype[Symbol.iterator] = function* () { yield 'x' }; console.log('a', 'b'); return (await ctx.db.list('a', {limit: 1}))[0].limit",
        Is("1"),
    ),
    (
        "strings are replaced",
        "for (const k of Object.getOwnPropertyNames(String.prototype)) { try { String.prototype[k] = () => { throw 1 } } catch {} } console.log(new Error('e')); return 1",
        Is("1"),
    ),
    ("errors are replaced", "globalThis.Error = globalThis.TypeError = null; await ctx.db.one('missing', 1)", Fails(UserError, "not found")),
    ("instanceof lies", "Object.defineProperty(Error, Symbol.hasInstance, {value: () => { throw 1 }}); console.log({a: 1}); return 1", Is("1")),
    ("the log of a log", "console.log = () => {}; delete globalThis.console; ctx.console.error('still'); return 1", Is("1")),
    // Ways out.
    (
        "the constructor of constructors",
        "return ({}).constructor.constructor('return typeof process + typeof require + typeof std + typeof scriptArgs')()",
        Is("\"undefinedundefinedundefinedundefined\""),
    ),
    ("functions of ctx lead to a global", "return ctx.fetch.constructor('return this === undefined || typeof this.process')()", Is("\"undefined\"")),
    ("the frames of the stack", "Error.prepareStackTrace = (e, frames) => frames; const s = new Error().stack; return typeof s", Is("\"string\"")),
    (
        "frames through the host's calls",
        "let got = 0; Error.prepareStackTrace = (e, f) => { got += 1 }; try { await ctx.fetch({toString() { new Error().stack; throw 1 }}) } catch {} return got",
        Is("0"),
    ),
    ("callers", "function f() { return f.caller } try { return String([1].map(f)[0]) } catch (e) { return e.name }", Any),
    (
        "arguments.callee.caller",
        "function f() { try { return arguments.callee.caller } catch (e) { return null } } return f() === null || f() === undefined",
        Any,
    ),
    ("hooks by name", "return Object.getOwnPropertyNames(globalThis).filter(n => /host|hook|sandbar|__/.test(n))", Is("[]")),
    ("modules", "const m = await import('std').catch(e => e.message); return /not available/.test(m)", Is("true")),
    ("modules by eval", "try { return await eval('import(\"os\")') } catch (e) { return e.name }", Is("\"TypeError\"")),
    ("the body closes itself", "}); globalThis.pwned = 1; (async function () {", Fails(UserError, "closes")),
    (
        "code from text",
        "return [eval('1+1'), new Function('a', 'return a+1')(1), await (async () => {}).constructor('return 3')(), [...(function* () {}).constructor('yield 4')()]]",
        Is("[2,2,3,[4]]"),
    ),
    (
        "shared memory",
        "return [typeof SharedArrayBuffer, typeof Atomics, typeof WebAssembly, typeof Worker]",
        Is("[\"undefined\",\"undefined\",\"undefined\",\"undefined\"]"),
    ),
    ("the signature of an answer", "const p = ctx.db.one('a', 1); p.then = r => r('forged'); return (await p).id", Is("1")),
    ("codes of the host", "const e = new Error('x'); e.code = 'timeout'; throw e", Fails(UserError, "x")),
    ("unhandled, and thrown by its handler", "Promise.reject({get message() { throw 1 }, toJSON() { throw 2 }}); await 0; return 1", Is("1")),
    // Proxies, getters and conversions.
    (
        "a proxy for a result",
        "return new Proxy({}, {get(t, k) { return k === 'toJSON' ? undefined : 'x' }, ownKeys() { return ['a'] }, getOwnPropertyDescriptor() { return {value: 1, enumerable: true, configurable: true} }})",
        Is("{\"a\":\"x\"}"),
    ),
    ("a proxy that throws", "return new Proxy({}, {get() { throw new Error('trap') }})", Fails(UserError, "trap")),
    ("a proxy thrown", "throw new Proxy({}, {get() { throw new Error('trap') }, getPrototypeOf() { throw 1 }})", Fails(UserError, "")),
    (
        "an error whose parts throw",
        "const e = new Error(); Object.defineProperty(e, 'message', {get() { throw 1 }}); Object.defineProperty(e, 'name', {get() { for (;;); }}); throw e",
        Fails(Timeout, "timed out"),
    ),
    ("a revoked proxy", "const {proxy, revoke} = Proxy.revocable({}, {}); revoke(); throw proxy", Fails(UserError, "")),
    ("ctx behind a proxy", "const p = new Proxy(ctx, {get() { return 1 }}); return p.data", Fails(UserError, "")),
    ("conversion without end", "return `${{[Symbol.toPrimitive]() { for (;;); }}}`", Fails(Timeout, "timed out")),
    ("a name without end", "await ctx.db.one({toJSON() { for (;;); }}, 1)", Fails(Timeout, "timed out")),
    ("thenables all the way", "const t = {then(r) { r(t) }}; return t", Fails(Timeout, "timed out")),
    (
        "a getter that asks again",
        "let n = 0; const a = {get x() { if (n++ < 50) ctx.db.list('a', a); return 1 }}; await ctx.db.list('a', a); return n > 0",
        Any,
    ),
    // Time.
    ("a loop", "for (;;);", Fails(Timeout, "timed out")),
    ("a loop that catches", "for (;;) { try { for (;;); } catch {} finally { continue } }", Fails(Timeout, "timed out")),
    ("a loop in finally", "try { for (;;); } finally { for (;;); }", Fails(Timeout, "timed out")),
    (
        "a loop in a generator's end",
        "const g = (function* () { try { yield 1 } finally { for (;;); } })(); for (const x of g) break",
        Fails(Timeout, "timed out"),
    ),
    ("microtasks without end", "const f = () => queueMicrotask(f); f(); await new Promise(() => {})", Fails(Timeout, "timed out")),
    ("microtasks beside a result", "(async () => { for (;;) await 0 })(); return 1", Is("1")),
    ("await without end", "for (;;) await 0", Fails(Timeout, "timed out")),
    ("timers without end", "setInterval(() => {}, 0); await new Promise(() => {})", Fails(UserError, "DeadlockError")),
    ("a regular expression", "return /^(a+)+$/.test('a'.repeat(60) + 'b')", Fails(Timeout, "timed out")),
    ("another one", "return /(x+x+)+y/.exec('x'.repeat(60))", Fails(Timeout, "timed out")),
    ("replace without end", "return 'a'.repeat(1e5).replace(/a*?b/g, '')", Any),
    ("a sort that never ends", "[1, 2, 3].sort(() => { for (;;); })", Fails(Timeout, "timed out")),
    ("a sort of much", "const a = []; for (let i = 0; i < 2e5; i++) a.push(Math.random()); for (;;) a.sort()", Fails(Timeout, "timed out")),
    ("much JSON", "const a = new Array(5e5).fill({a: 1}); for (;;) JSON.parse(JSON.stringify(a))", Fails(Timeout, "timed out")),
    ("indexOf over much", "const s = 'a'.repeat(4e6); for (;;) s.indexOf('ab')", Fails(Timeout, "timed out")),
    ("numbers without end", "let n = 3n; for (;;) n = n * n", Any),
    ("digests without end", "const b = new Uint8Array(1 << 20); for (;;) await crypto.subtle.digest('SHA-512', b)", Fails(Timeout, "timed out")),
    ("one large digest", "const b = new Uint8Array(6 << 20); for (;;) await crypto.subtle.digest('SHA-512', b)", Fails(Timeout, "timed out")),
    ("random bytes without end", "const b = new Uint8Array(65536); for (;;) crypto.getRandomValues(b)", Fails(Timeout, "timed out")),
    ("waiting by the clock", "const t = Date.now(); while (Date.now() < t + 1e6);", Fails(Timeout, "timed out")),
    // Memory.
    ("bytes", "const a = []; for (;;) a.push(new Uint8Array(1 << 20))", Fails(Memory, "memory")),
    ("objects", "const a = []; for (;;) a.push({})", Fails(Memory, "memory")),
    ("promises", "const a = []; for (;;) a.push(Promise.resolve({ n: a.length }))", Fails(Memory, "memory")),
    ("promises that follow each other", "let p = Promise.resolve(); for (;;) p = p.then(() => ({}))", Fails(Memory, "memory")),
    ("async functions", "const f = async (n) => { await 0; return n }; const a = []; for (;;) a.push(f(a.length))", Fails(Memory, "memory")),
    ("promises of everything", "return await Promise.all(Array.from({ length: 1e6 }, async (_, n) => { await 0; return { n } }))", Fails(Memory, "memory")),
    ("promises with many to wait for", "const p = new Promise(() => {}); for (;;) p.then(() => {}, () => {})", Fails(Memory, "memory")),
    ("errors", "const a = []; for (;;) a.push(new Error('x'))", Fails(Memory, "memory")),
    ("errors of the engine", "const a = []; for (;;) { try { null.x } catch (e) { a.push(e) } }", Fails(Memory, "memory")),
    ("functions", "const a = []; for (;;) a.push(() => a)", Fails(Memory, "memory")),
    ("instances", "class A { b = { c: [1] }; #d = 2 } const a = []; for (;;) a.push(new A())", Fails(Memory, "memory")),
    ("closures", "let f = () => 0; for (;;) { const g = f; f = () => g }", Any),
    ("strings that double", "let s = 'x'; for (;;) s += s", Fails(Memory, "memory")),
    ("a string that repeats", "return 'x'.repeat(2 ** 30 - 1).length", Any),
    ("strings that pad", "const a = []; for (;;) a.push('x'.padEnd(1e6, a.length))", Fails(Memory, "memory")),
    ("memory again after none was left", "for (;;) { try { const a = []; for (;;) a.push(new Uint8Array(1 << 16)) } catch {} }", Any),
    ("a map of much", "const m = new Map(); for (let i = 0; ; i++) m.set(i, i)", Fails(Memory, "memory")),
    ("an array of great length", "const a = []; a.length = 2 ** 32 - 1; return a.fill(1)", Any),
    ("a result that is too large", "return 'x'.repeat(7e6)", Fails(FailureCode::PayloadTooLarge, "7000002")),
    (
        "weak references",
        "const w = new WeakRef({}); const r = new FinalizationRegistry(() => { for (;;); }); r.register({}, 1); await 0; return typeof w.deref()",
        Any,
    ),
    // Depth.
    ("recursion", "const f = () => f() + 1; f()", Fails(UserError, "RangeError")),
    ("recursion through natives", "const f = () => [1].map(() => [1].sort(f).reduce(f, f())); f()", Fails(UserError, "RangeError")),
    ("recursion through replace", "const f = () => 'a'.replace(/a/, f); f()", Fails(UserError, "RangeError")),
    ("recursion through constructors", "class A { constructor() { new A() } } new A()", Fails(UserError, "RangeError")),
    ("recursion through Reflect", "const f = () => Reflect.apply(f, null, []); f()", Fails(UserError, "RangeError")),
    ("recursion through generators", "function* f() { yield* f() } [...f()]", Fails(UserError, "RangeError")),
    ("recursion through JSON.parse", "const f = () => JSON.parse('[1]', f); f()", Fails(UserError, "RangeError")),
    ("recursion through getters", "const o = {get x() { return o.x }}; o.x", Fails(UserError, "RangeError")),
    ("recursion through eval", "const f = () => eval('f()'); f()", Fails(UserError, "RangeError")),
    ("recursion of wide functions", "const f = (...a) => Math.max(f(...a, 1), f.call(null, ...a)); f()", Any),
    ("recursion that catches", "let n = 0; const f = () => { try { f() } catch { n++; f() } }; f()", Any),
    ("recursion through toString", "const o = {toString() { return `${o}` }}; `${o}`", Fails(UserError, "RangeError")),
    ("recursion through a proxy", "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); return p.x", Fails(UserError, "RangeError")),
    ("recursion through JSON", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a", Fails(FailureCode::Unserializable, "nested too deep")),
    ("a result of deep objects", "let a = {}; for (let i = 0; i < 1e5; i++) a = {a}; return {a}", Fails(FailureCode::Unserializable, "nested too deep")),
    ("a result that is deep by toJSON", "const o = {toJSON() { return [o] }}; return o", Fails(FailureCode::Unserializable, "nested too deep")),
    ("recursion through JSON.stringify", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return JSON.stringify(a)", Fails(UserError, "RangeError")),
    ("recursion of the parser", "return JSON.parse('['.repeat(1e5))", Fails(UserError, "")),
    ("recursion of the compiler", "return eval('('.repeat(1e5))", Fails(UserError, "")),
    ("recursion of a pattern", "return new RegExp('('.repeat(1e5))", Fails(UserError, "")),
    ("recursion of bound functions", "let f = () => 1; for (let i = 0; i < 1e5; i++) f = f.bind(); return f()", Any),
    // Floods.
    ("a flood of lines", "for (;;) console.log('x'.repeat(1000))", Fails(Timeout, "timed out")),
    ("a flood of calls", "const a = []; for (;;) a.push(ctx.db.one('a', 1))", Any),
    ("a flood of calls that wait", "for (;;) await ctx.db.one('a', 1)", Fails(UserError, "too many")),
    ("a flood of rejections", "for (let i = 0; i < 1e5; i++) Promise.reject(i); return 1", Is("1")),
    ("a flood of URLs", "for (;;) new URL('http://h/' + 'x'.repeat(6e4))", Fails(Timeout, "timed out")),
];

#[test]
fn each_ends_as_it_must_and_the_next_notices_nothing() {
    let wrong: Vec<String> = SCRIPTS.iter().filter_map(|(name, code, end)| run(name, code, end)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(SCRIPTS.len() >= 40);
}

/// What is wrong with how it ended, if anything is.
fn run(name: &str, code: &str, end: &End) -> Option<String> {
    let timed = matches!(end, Fails(Timeout, _) | Any);
    let ended = call(code).with(|run| {
        run.timeout_ms = if timed { 150 } else { 30_000 };
        run.memory_bytes = 32 << 20;
    });
    let ended = ended.end();
    let as_said = match (end, &ended.failure) {
        (Is(expected), None) => ended.value.as_ref().map_or("null".into(), Value::to_string) == *expected,
        (Fails(code, part), Some(failed)) => failed.code == *code && (failed.name.contains(part) || failed.message.contains(part)),
        (Any, failed) => failed.as_ref().is_none_or(|failed| failed.code != FailureCode::Internal),
        _ => false,
    };
    let bounded = ended.logs.len() <= 1001 && ended.done.usage.peak_memory_bytes <= 32 << 20;
    let next = value("const r = await ctx.db.one('a', 5); return [r.id, ctx.data.n, [1, 2].map(x => x * 2), `${[3]}`, typeof pwned]");
    if as_said && bounded && next == json!([5, 41, [2, 4], "3", "undefined"]) {
        return None;
    }
    Some(format!("{name}: {:?} {:?} {:?} {:?}", ended.value, ended.failure, ended.logs.first(), ended.done.usage))
}
