//! Modules are what most people write first, and a script is none: it is told so in words that say what to write instead.

const IMPORT: &str = "a function imports nothing: it is one file, the body of an async function of ctx. Put what it needs into its code; the world is reached by ctx (ctx.fetch, ctx.db, ...)";
const EXPORT: &str = "a function exports nothing: it is the body of an async function of ctx and no module. Write the statements themselves and return what comes of them, as in: return { id: ctx.data.id };";

/// The column from 1, and what to say, when the line of a source that cannot be compiled is a statement of modules.
pub fn module_syntax(source: &str, line: u32) -> Option<(u32, &'static str)> {
    let text = source.split('\n').nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    // Several statements may stand in a line.
    let mut at = 0;
    text.split(';').find_map(|statement| {
        let trimmed = statement.trim_start();
        let column = text[..at + statement.len() - trimmed.len()].chars().count() as u32 + 1;
        at += statement.len() + 1;
        let follows = |keyword: &str, starts: fn(char) -> bool| {
            let rest = trimmed.strip_prefix(keyword)?;
            let next = rest.trim_start().chars().next();
            let is_word = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
            (!is_word && next.is_none_or(starts)).then_some(())
        };
        let is_name = |c: char| c.is_alphabetic() || matches!(c, '_' | '$' | '{' | '*' | '"' | '\'');
        if follows("import", is_name).is_some() {
            Some((column, IMPORT))
        } else if follows("export", is_name).is_some() {
            Some((column, EXPORT))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_modules_are_known() {
        for (source, line, expected) in [
            ("import x from 'y';\nreturn x", 1, Some((1, "imports"))),
            ("const a = 1;\n  import { b } from \"c\"", 2, Some((3, "imports"))),
            ("import 'side'", 1, Some((1, "imports"))),
            ("import * as a from 'b'", 1, Some((1, "imports"))),
            ("import {\n  a\n} from 'b'", 1, Some((1, "imports"))),
            ("import type { A } from 'b'", 1, Some((1, "imports"))),
            ("export default async (ctx) => 1", 1, Some((1, "exports"))),
            ("export const a = 1", 1, Some((1, "exports"))),
            ("export{a}", 1, Some((1, "exports"))),
            ("export * from 'b'", 1, Some((1, "exports"))),
            ("const ž = 1; export default ž", 1, Some((14, "exports"))),
            ("exports.handler = 1 +", 1, None),
            ("importer(", 1, None),
            ("export = 1", 1, None),
            ("import('x'", 1, None),
            ("import.meta.url", 1, None),
            ("return (", 1, None),
            ("import x", 2, None),
            ("import x", 0, None),
        ] {
            let found = module_syntax(source, line);
            assert_eq!(found.map(|(column, _)| column), expected.map(|(column, _)| column), "{source}");
            if let (Some((_, message)), Some((_, word))) = (found, expected) {
                assert!(message.contains(word), "{source}: {message}");
            }
        }
    }
}
