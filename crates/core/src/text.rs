//! Texts of others as far as there is room for them.

/// At most so many bytes of a text, cut at a character.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The same where the text is ours.
pub fn shorten(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
}

/// At most so many characters of a text as a part of one line.
pub fn line(text: &str, chars_max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_is_cut_at_a_character(text in ".{0,40}", max in 0usize..60) {
            let mut whole = text.clone();
            shorten(&mut whole, max);
            let cut = cut(&text, max);
            prop_assert_eq!(cut, whole);
            prop_assert!(cut.len() <= max && text.starts_with(cut));
            prop_assert!(cut.len() + 4 > max || cut == text);
        }
    }

    #[test]
    fn a_line_stays_one() {
        assert_eq!(line("a\r\nb\u{1b}[0mä", 5), "a  b ");
        assert_eq!(line("äöü", 2), "äö");
    }
}
