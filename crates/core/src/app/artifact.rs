//! Paths of artifacts: patterns relative to the workspace, of which `*`, `?` and `[...]` stay within a name and `**` does not.
//!
//! What matching costs is bounded by the product of the two lengths, whatever the pattern: nothing is tried twice.

use crate::limits::apps as limits;

/// `reports/*.json`, `out/**/page-[0-9].png`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`: any number of names, also none.
    Deep,
    Name(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    One(char),
    /// `?`.
    Any,
    /// `*`.
    Run,
    /// `[a-z]`, `[!a-z]`.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A path relative to the workspace, without parts that say nothing (`./a` is `a`; the workspace itself is empty); or what is
/// wrong with it.
pub fn clean_path(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.chars().count() > limits::APP_PATH_MAX_CHARS {
        return Err("must have between 1 and 1000 characters");
    }
    if text.starts_with('/') {
        return Err("must be relative to the workspace, without / at its beginning");
    }
    if text.contains(['\0', '\\']) {
        return Err("must not hold zero bytes or backslashes");
    }
    // One of blanks would be an empty text where another stood before it and says nothing.
    if text.split('/').any(|part| part.trim().is_empty()) {
        return Err("must not have empty parts, or / at its end (all that is in a folder is folder/**)");
    }
    if text.split('/').any(|part| part == "..") {
        return Err("must not leave the workspace by \"..\"");
    }
    Ok(text.split('/').filter(|part| *part != ".").collect::<Vec<_>>().join("/"))
}

impl Pattern {
    /// Reads a pattern that [`clean_path`] let pass.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let clean = clean_path(text)?;
        if clean.is_empty() {
            return Err("must name something in the workspace; all of it is **");
        }
        let mut segments = Vec::new();
        for part in clean.split('/') {
            let segment = if part == "**" { Segment::Deep } else { Segment::Name(tokens(part)?) };
            // Two in a row say no more than one.
            if segment != Segment::Deep || segments.last() != Some(&Segment::Deep) {
                segments.push(segment);
            }
        }
        // What is matched is a file, which has a name.
        if segments.last() == Some(&Segment::Deep) {
            segments.push(Segment::Name(vec![Token::Run]));
        }
        Ok(Self { segments })
    }

    /// Whether it means a path (relative, clean).
    pub fn matches(&self, path: &str) -> bool {
        self.reached(path.split('/')).last().copied().unwrap_or(false)
    }

    /// Whether something in a folder, or in a folder in it, may be meant. Of the workspace itself always.
    pub fn may_match_in(&self, folder: &str) -> bool {
        let reached = self.reached(folder.split('/').filter(|name| !name.is_empty()));
        reached[..self.segments.len()].contains(&true)
    }

    /// Whether it leads through a folder that it names, and does not only look everywhere. Of a link it says that what is meant lies behind it.
    pub fn leads_through(&self, folder: &str) -> bool {
        let mut segments = self.segments.iter();
        let named = folder.split('/').all(|name| {
            segments.next().is_some_and(|segment| match segment {
                Segment::Name(tokens) => name_matches(tokens, name),
                Segment::Deep => false,
            })
        });
        named && segments.next().is_some()
    }

    /// The path itself, when it is one and no pattern: a file that is not there is missing then.
    pub fn literal(&self) -> Option<String> {
        let names = self.segments.iter().map(|segment| match segment {
            Segment::Name(tokens) => tokens.iter().map(|token| if let Token::One(c) = token { Some(*c) } else { None }).collect::<Option<String>>(),
            Segment::Deep => None,
        });
        Some(names.collect::<Option<Vec<_>>>()?.join("/"))
    }

    /// Which places in the pattern can have been reached after so many names.
    fn reached<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<bool> {
        let mut reached = vec![false; self.segments.len() + 1];
        reached[0] = true;
        self.skip_deep(&mut reached);
        for name in names {
            let mut next = vec![false; reached.len()];
            for (at, segment) in self.segments.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match segment {
                    Segment::Deep => next[at] = true,
                    Segment::Name(tokens) => next[at + 1] |= name_matches(tokens, name),
                }
            }
            self.skip_deep(&mut next);
            reached = next;
        }
        reached
    }

    /// `**` may be nothing.
    fn skip_deep(&self, reached: &mut [bool]) {
        for (at, segment) in self.segments.iter().enumerate() {
            if reached[at] && *segment == Segment::Deep {
                reached[at + 1] = true;
            }
        }
    }
}

fn tokens(part: &str) -> Result<Vec<Token>, &'static str> {
    let chars: Vec<char> = part.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        match chars[at] {
            '*' if tokens.last() == Some(&Token::Run) => {}
            '*' => tokens.push(Token::Run),
            '?' => tokens.push(Token::Any),
            '{' | '}' => return Err("must not hold braces: give one pattern for each of them, or [{] for a brace itself"),
            '[' => {
                let (set, end) = set(&chars, at + 1)?;
                tokens.push(set);
                at = end;
            }
            c => tokens.push(Token::One(c)),
        }
        at += 1;
    }
    Ok(tokens)
}

/// What stands between brackets, and where the closing one is.
fn set(chars: &[char], begin: usize) -> Result<(Token, usize), &'static str> {
    const OPEN: &str = "has a [ without its ]";
    let negated = matches!(chars.get(begin), Some('!' | '^'));
    let first = begin + usize::from(negated);
    // A ] at the begin is one of the characters.
    let end = (first + 1..chars.len()).find(|at| chars[*at] == ']').ok_or(OPEN)?;
    let mut ranges = Vec::new();
    let mut at = first;
    while at < end {
        if at + 2 < end && chars[at + 1] == '-' {
            if chars[at] > chars[at + 2] {
                return Err("has a range in [...] that ends before it begins");
            }
            ranges.push((chars[at], chars[at + 2]));
            at += 3;
        } else {
            ranges.push((chars[at], chars[at]));
            at += 1;
        }
    }
    Ok((Token::Set { negated, ranges }, end))
}

fn name_matches(tokens: &[Token], name: &str) -> bool {
    let chars: Vec<char> = name.chars().collect();
    let one = |token: &Token, c: char| match token {
        Token::One(own) => *own == c,
        Token::Any | Token::Run => true,
        Token::Set { negated, ranges } => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated,
    };
    // The last `*`, and how far the name had come there: only that one is tried again, with one more character.
    let (mut token, mut at, mut star) = (0, 0, None);
    while at < chars.len() {
        if tokens.get(token) == Some(&Token::Run) {
            star = Some((token, at));
            token += 1;
        } else if tokens.get(token).is_some_and(|token| one(token, chars[at])) {
            token += 1;
            at += 1;
        } else if let Some((star_token, star_at)) = star {
            star = Some((star_token, star_at + 1));
            token = star_token + 1;
            at = star_at + 1;
        } else {
            return false;
        }
    }
    tokens[token..].iter().all(|token| *token == Token::Run)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, path, wanted) in [
            ("artifacts/report.json", "artifacts/report.json", true),
            ("./artifacts/./report.json", "artifacts/report.json", true),
            ("artifacts/report.json", "artifacts/report.jsonl", false),
            ("*.json", "a.json", true),
            ("*.json", "b/a.json", false),
            ("*", ".hidden", true),
            ("**/*.json", "a.json", true),
            ("**/*.json", "b/c/a.json", true),
            ("**", "b/c/a.json", true),
            ("out/**", "out/a", true),
            ("out/**", "out/a/b", true),
            ("out/**", "out", false),
            ("out/**/**/x", "out/x", true),
            ("out/**/x/*", "out/x/x/y", true),
            ("out/**/x/*", "out/x/x/y/z", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?c", "aöc", true),
            ("page-[0-9].png", "page-7.png", true),
            ("page-[!0-9].png", "page-7.png", false),
            ("page-[^0-9].png", "page-x.png", true),
            ("[]x]", "]", true),
            ("[a-]", "-", true),
            ("[{]", "{", true),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("**a", "xxa", true),
            ("**a", "x/a", false),
        ] {
            let compiled = Pattern::parse(pattern).expect(pattern);
            assert_eq!(compiled.matches(path), wanted, "{pattern} {path}");
        }
        for pattern in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\\b", "a\0b", "[a", "[", "[]", "[z-a]", "{a,b}", ".", "./."] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn folders_where_nothing_can_be_are_told() {
        let pattern = Pattern::parse("out/*/x/*.json").expect("a pattern");
        for (folder, wanted) in [("", true), ("out", true), ("out/a", true), ("out/a/x", true), ("out/a/y", false), ("out/a/x/b", false), ("src", false)] {
            assert_eq!(pattern.may_match_in(folder), wanted, "{folder}");
        }
        assert!(Pattern::parse("**/x").expect("a pattern").may_match_in("any/where"));
        assert_eq!(Pattern::parse("a/b.json").expect("a pattern").literal().as_deref(), Some("a/b.json"));
        assert_eq!(Pattern::parse("a/*.json").expect("a pattern").literal(), None);
    }

    #[test]
    fn patterns_lead_through_the_folders_that_they_name() {
        for (pattern, folder, wanted) in [
            ("out/**", "out", true),
            ("out/**", "out/a", false),
            ("out/*/x.json", "out/a", true),
            ("out/*/x.json", "out", true),
            ("out/*/x.json", "out/a/x.json", false),
            ("*/x", "any", true),
            ("**/x", "any", false),
            ("a/**/x", "a", true),
            ("a/**/x", "a/b", false),
            ("out", "out", false),
        ] {
            assert_eq!(Pattern::parse(pattern).expect(pattern).leads_through(folder), wanted, "{pattern} {folder}");
        }
    }

    #[test]
    fn hostile_patterns_cost_no_more_than_they_are_long() {
        let pattern = Pattern::parse(&"*a".repeat(400)).expect("a pattern");
        assert!(!pattern.matches(&"a".repeat(200)));
        let pattern = Pattern::parse(&format!("{}b", "**/a/".repeat(150))).expect("a pattern");
        assert!(!pattern.matches(&vec!["a"; 500].join("/")));
    }

    /// The plain definition, which tries everything.
    fn by_definition(tokens: &[Token], chars: &[char]) -> bool {
        match (tokens.first(), chars.first()) {
            (None, None) => true,
            (Some(Token::Run), _) => by_definition(&tokens[1..], chars) || (!chars.is_empty() && by_definition(tokens, &chars[1..])),
            (Some(Token::Any), Some(_)) => by_definition(&tokens[1..], &chars[1..]),
            (Some(Token::One(own)), Some(c)) => own == c && by_definition(&tokens[1..], &chars[1..]),
            (Some(Token::Set { negated, ranges }), Some(c)) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(c)) != *negated && by_definition(&tokens[1..], &chars[1..])
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn names_match_as_defined(pattern in "[ab*?]{1,8}", name in "[ab]{1,8}") {
            let tokens = tokens(&pattern).expect("a pattern");
            prop_assert_eq!(name_matches(&tokens, &name), by_definition(&tokens, &name.chars().collect::<Vec<_>>()));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}", path in "\\PC{0,40}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                let _ = pattern.matches(&path);
                let _ = pattern.may_match_in(&path);
            }
        }

        #[test]
        fn a_path_that_matches_lies_in_folders_that_may(pattern in "([ab*]{1,3}|\\*\\*)(/([ab*]{1,3}|\\*\\*)){0,3}", path in "[ab]{1,2}(/[ab]{1,2}){0,3}") {
            let pattern = Pattern::parse(&pattern).expect("a pattern");
            if pattern.matches(&path) {
                let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
                for folder in folders {
                    prop_assert!(pattern.may_match_in(folder), "{}", folder);
                }
            }
        }
    }
}
