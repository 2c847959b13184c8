//! Secrets that a command was given do not stand in what is kept of its output: in their place stands `[secret NAME]`, also where
//! one comes in pieces.

/// Shorter ones are left alone: they would be found in words that have nothing to do with them.
pub const SECRET_MIN_BYTES: usize = 4;

/// Takes secrets out of a stream of bytes.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// The longest first, so that of two that begin alike the whole one is found. Value and mark.
    secrets: Vec<(Vec<u8>, Vec<u8>)>,
    /// What may become a secret with what follows.
    held: Vec<u8>,
}

impl Redactor {
    /// Of names and values.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let marked = |(name, value): (&str, &str)| (value.as_bytes().to_vec(), format!("[secret {name}]").into_bytes());
        let mut secrets: Vec<_> = secrets.into_iter().filter(|(_, value)| value.len() >= SECRET_MIN_BYTES).map(marked).collect();
        secrets.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        Self { secrets, held: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The bytes of so far that are no part of a secret.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        self.take(false)
    }

    /// Bytes that are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What was held back: nothing follows.
    pub fn finish(&mut self) -> Vec<u8> {
        self.take(true)
    }

    /// A text that is whole.
    pub fn text(&self, text: &str) -> String {
        let mut own = Self { secrets: self.secrets.clone(), held: Vec::new() };
        let mut bytes = own.push(text.as_bytes());
        bytes.extend(own.finish());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn take(&mut self, is_end: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        let mut at = 0;
        while at < held.len() {
            let rest = &held[at..];
            if let Some((value, mark)) = self.secrets.iter().find(|(value, _)| rest.starts_with(value)) {
                // A longer one that begins here may still come.
                let longer = !is_end && self.secrets.iter().any(|(other, _)| other.len() > rest.len() && other.starts_with(rest));
                if !longer {
                    out.extend_from_slice(mark);
                    at += value.len();
                    continue;
                }
            }
            if !is_end && self.secrets.iter().any(|(value, _)| value.len() > rest.len() && value.starts_with(rest)) {
                self.held = rest.to_vec();
                return out;
            }
            out.push(held[at]);
            at += 1;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_marked_wherever_they_are_cut() {
        let text = "a hunter2222 b hunter22 hunter2 c";
        let redactor = Redactor::new([("SHORT", "hunter22"), ("LONG", "hunter2222"), ("TINY", "a b")]);
        let expected = "a [secret LONG] b [secret SHORT] hunter2 c";
        assert_eq!(redactor.text(text), expected);
        for cut in 0..text.len() {
            let mut pieces = redactor.clone();
            let mut out = pieces.push(&text.as_bytes()[..cut]);
            out.extend(pieces.push(&text.as_bytes()[cut..]));
            out.extend(pieces.finish());
            assert_eq!(String::from_utf8(out).expect("text"), expected, "{cut}");
        }
        assert_eq!(Redactor::new([("A", "abc")]).text("abc"), "abc", "too short to be told from other words");
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_the_pieces(text in "[ab]{0,60}", secret in "[ab]{4,8}", other in "[ab]{4,8}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let redactor = Redactor::new([("ONE", secret.as_str()), ("TWO", other.as_str())]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut pieces, mut out, mut at) = (redactor.clone(), Vec::new(), 0);
            for cut in cuts.into_iter().chain([text.len()]) {
                out.extend(pieces.push(&text.as_bytes()[at..cut]));
                at = cut;
            }
            out.extend(pieces.finish());
            let whole = redactor.text(&text);
            prop_assert_eq!(String::from_utf8(out).expect("text"), whole.clone());
            prop_assert!(!whole.contains(&secret) && !whole.contains(&other));
        }
    }
}
