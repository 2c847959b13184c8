//! What a script finds beside the language.

use super::*;

#[test]
fn web_basics_do_what_they_do_elsewhere() {
    for (code, expected) in [
        (
            "const u = new URL('../c?x=1#h', 'https://u:p@example.org:8080/a/b'); return [u.href, u.origin, u.port, u.pathname, u.search, u.hash, u.username]",
            json!(["https://u:p@example.org:8080/c?x=1#h", "https://example.org:8080", "8080", "/c", "?x=1", "#h", "u"]),
        ),
        (
            "const u = new URL('http://h/?a=1'); u.searchParams.append('b', 'ü &'); u.hostname = 'example.org'; return [u.href, u.searchParams.get('b'), JSON.stringify(u)]",
            json!(["http://example.org/?a=1&b=%C3%BC+%26", "ü &", "\"http://example.org/?a=1&b=%C3%BC+%26\""]),
        ),
        ("const u = new URL('http://h/?a=1'); const s = u.searchParams; u.search = '?z=9'; return [s.get('z'), s.has('a')]", json!(["9", false])),
        ("try { new URL('nope') } catch (e) { return [e.name, URL.canParse('nope'), URL.parse('nope')] }", json!(["TypeError", false, null])),
        (
            "const s = new URLSearchParams('?a=1&b=2&a=3%20x+y'); s.delete('b'); return [s.getAll('a'), s.toString(), [...s], s.size]",
            json!([["1", "3 x y"], "a=1&a=3+x+y", [["a", "1"], ["a", "3 x y"]], 2]),
        ),
        ("return new URLSearchParams({a: '1', b: 'ä'}).toString() + new URLSearchParams([['c', 'd']])", json!("a=1&b=%C3%A4c=d")),
        ("return [...new TextEncoder().encode('aä€😀\\ud800')]", json!([97, 195, 164, 226, 130, 172, 240, 159, 152, 128, 239, 191, 189])),
        (
            "return new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 0xe2, 0x82, 0xac, 0xff, 0xe2, 0x82, 0x41, 0xed, 0xa0, 0x80]))",
            json!("€\u{fffd}\u{fffd}A\u{fffd}\u{fffd}\u{fffd}"),
        ),
        ("const d = new TextDecoder(); return d.decode(new Uint8Array([0xe2, 0x82]), {stream: true}) + d.decode(new Uint8Array([0xac]))", json!("€")),
        ("try { new TextDecoder('utf-8', {fatal: true}).decode(new Uint8Array([0xff])) } catch (e) { return e.name }", json!("TypeError")),
        ("return [btoa('hi'), atob('aGk=')]", json!(["aGk=", "hi"])),
        (
            "const s = {d: new Date(0), m: new Map([[1, {a: 2}]]), r: /x/g, e: new RangeError('r'), b: new Uint8Array([1, 2])}; s.self = s; const c = structuredClone(s); return [c.self === c, c.d.getTime(), c.m.get(1).a, c.r.flags, c.e instanceof RangeError, c.b[1], c.m !== s.m]",
            json!([true, 0, 2, "g", true, 2, true]),
        ),
        ("try { structuredClone({f() {}}) } catch (e) { return e.name }", json!("DataCloneError")),
        (
            "return [...new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode('abc')))].map(b => b.toString(16).padStart(2, '0')).join('')",
            json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ),
        (
            "return [(await crypto.subtle.digest('SHA-1', new ArrayBuffer(0))).byteLength, (await crypto.subtle.digest({name: 'sha-512'}, new Uint8Array())).byteLength]",
            json!([20, 64]),
        ),
        ("return /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())", json!(true)),
        ("const a = crypto.getRandomValues(new Uint32Array(4)); return new Set(a).size > 2", json!(true)),
        ("try { crypto.getRandomValues(new Uint8Array(65537)) } catch (e) { return e.name }", json!("QuotaExceededError")),
        (
            "const said = []; setTimeout(() => said.push('b'), 5); queueMicrotask(() => said.push('a')); const no = setTimeout(() => said.push('no'), 1); clearTimeout(no); await new Promise(r => setTimeout(r, 9)); return said",
            json!(["a", "b"]),
        ),
        ("let n = 0; await new Promise(done => { const t = setInterval(() => { if (++n === 3) { clearInterval(t); done() } }, 1) }); return n", json!(3)),
        ("return await new Promise(r => setTimeout((a, b) => r([a, b]), 1, 1, 2))", json!([1, 2])),
        (
            "const c = new AbortController(); const seen = []; c.signal.addEventListener('abort', e => seen.push(e.type)); c.abort(); c.abort(); return [seen, c.signal.aborted, c.signal.reason.name]",
            json!([["abort"], true, "AbortError"]),
        ),
        (
            "const h = new Headers({'X-A': '1', b: ' 2 '}); h.append('x-a', '3'); return [[...h], h.get('X-a'), h.has('c')]",
            json!([[["b", "2"], ["x-a", "1, 3"]], "1, 3", false]),
        ),
        ("try { new Headers({'a b': 'c'}) } catch (e) { return e.name }", json!("TypeError")),
        ("return [typeof performance.now(), performance.timeOrigin > 1e12]", json!(["number", true])),
        ("return new Date(2020, 0, 1).getTimezoneOffset()", json!(0)),
    ] {
        assert_eq!(value(code), expected, "{code}");
    }
}
