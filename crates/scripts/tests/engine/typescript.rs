//! Types go, places stay.

use sandbar_scripts::typescript::{SOURCE_BYTES_MAX, strip};

#[test]
fn types_become_spaces() {
    for (code, expected) in [
        ("const a: number = 1;\nreturn a", "const a         = 1;\nreturn a"),
        ("interface A { b: string }\nreturn (x as A).b!", ";                        \nreturn (x     ).b "),
        ("type T = string;\nreturn 1", ";               \nreturn 1"),
        ("const f = <T,>(x: T): T => x; return f<number>(1)", "const f =     (x   )    => x; return f        (1)"),
        ("return ctx satisfies unknown", "return ctx                  "),
        ("", ""),
        ("return await ctx.db.one('a', 1)", "return await ctx.db.one('a', 1)"),
        ("const s = `a: ${1 as number}`; return s // as x", "const s = `a: ${1          }`; return s // as x"),
    ] {
        let stripped = strip(code).unwrap_or_else(|error| panic!("{code}: {error}"));
        assert_eq!(stripped.trim_end(), expected.trim_end(), "{code}");
        assert_eq!(stripped.lines().count(), code.lines().count(), "{code}");
    }
}

#[test]
fn what_is_refused_is_said_with_its_place() {
    for (code, line, message) in [
        ("const a = 1;\nenum E { A }", 2, "enum"),
        ("namespace N { export const a = 1 }", 1, "namespace"),
        ("\nclass A { constructor(private x: number) {} }", 2, "parameter property"),
        ("const a: = 1", 1, ""),
        ("\n\nreturn {", 3, ""),
        ("import fs from 'fs'", 1, ""),
        ("export const a = 1", 1, ""),
        ("const x = <string>y; return (", 1, ""),
        ("'unclosed", 1, ""),
    ] {
        let error = strip(code).expect_err(code);
        assert_eq!(error.line, line, "{code}: {error}");
        assert!(error.message.to_lowercase().contains(message), "{code}: {error}");
    }
}

#[test]
fn there_is_a_most() {
    assert!(strip(&" ".repeat(SOURCE_BYTES_MAX)).is_ok());
    let error = strip(&"x".repeat(SOURCE_BYTES_MAX + 1)).expect_err("more than is read");
    assert_eq!(error.message, "the code has 131073 bytes: 131072 are allowed");
}
