//! `{{secrets.NAME}}` in a header: the value is put in here and never enters the script.

use sandbar_scripts::OpError;

use super::super::reach::SecretOf;

const OPEN: &str = "{{secrets.";
const CLOSE: &str = "}}";
/// Of a secret's name in a message.
const NAME_SHOWN_MAX: usize = 64;

/// Names of the secrets that a header's text wants.
pub(super) fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(OPEN).skip(1).filter_map(|after| after.split_once(CLOSE).map(|(name, _)| name.trim()))
}

/// A header's text with its secrets, and whether there are any.
pub(super) fn filled_in(text: &str, secret: Option<SecretOf<'_>>) -> Result<(String, bool), OpError> {
    let mut filled = String::new();
    let mut rest = text;
    let mut is_secret = false;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((name, after)) = after.split_once(CLOSE) else { break };
        let name = name.trim();
        let value = secret.and_then(|secret| secret(name));
        let value =
            value.ok_or_else(|| OpError::denied(format!("secret {:?} is not bound to this script", name.chars().take(NAME_SHOWN_MAX).collect::<String>())))?;
        filled.push_str(before);
        // What it holds is not looked at again.
        filled.push_str(&value);
        is_secret = true;
        rest = after;
    }
    filled.push_str(rest);
    Ok((filled, is_secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_put_in_by_name() {
        let known = |name: &str| match name {
            "KEY" => Some("hush".to_owned()),
            "ODD" => Some("{{secrets.KEY}}".to_owned()),
            _ => None,
        };
        for (text, filled, is_secret) in [
            ("plain", "plain", false),
            ("Bearer {{secrets.KEY}}", "Bearer hush", true),
            ("{{secrets.KEY}}:{{ secrets.KEY }}", "hush:{{ secrets.KEY }}", true),
            ("{{secrets. KEY }}{{secrets.KEY}}", "hushhush", true),
            ("{{secrets.KEY", "{{secrets.KEY", false),
            ("{{secrets.ODD}}", "{{secrets.KEY}}", true),
            ("", "", false),
        ] {
            assert_eq!(filled_in(text, Some(&known)), Ok((filled.to_owned(), is_secret)), "{text}");
            assert_eq!(names(text).next().is_some(), is_secret, "{text}");
        }
        assert!(filled_in("{{secrets.OTHER}}", Some(&known)).unwrap_err().message.contains("OTHER"));
        assert!(filled_in("{{secrets.KEY}}", None).is_err(), "nobody knows any");
        assert_eq!(filled_in("{{other.KEY}}", None), Ok(("{{other.KEY}}".to_owned(), false)));
    }
}
