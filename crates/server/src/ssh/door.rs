//! Who may come in: whoever has a key that somebody added for the sandbox's team, and may write sandboxes there.

use sandbar_core::limits;
use sandbar_ssh::{Doorkeeper, PublicKey};

use crate::{app::SharedApp, error::ApiError};

/// What may stand behind the sandbox, and means the same.
const MAIN: &str = "+main";

pub(super) struct Door<'a> {
    app: &'a SharedApp,
}

impl<'a> Door<'a> {
    pub fn new(app: &'a SharedApp) -> Self {
        Self { app }
    }

    async fn knows(&self, user: &str, key: &PublicKey) -> Result<bool, ApiError> {
        let sandbox = sandbox_of(user);
        let team = match sandbox {
            Some(sandbox) => self.app.look(sandbox).await?.map(|(record, _)| record.team_id.clone()),
            None => None,
        };
        // Asked for those that there are not, too. The answer is the same; how long it takes may differ.
        let known = self.app.auth.ssh_principal(team.as_deref().unwrap_or_default(), &key.fingerprint()).await?;
        Ok(team.is_some() && known.is_some())
    }
}

impl Doorkeeper for Door<'_> {
    async fn admits(&self, user: &str, key: &PublicKey) -> bool {
        // What goes wrong is logged where it does; a door that cannot be asked is closed.
        self.knows(user, key).await.unwrap_or(false)
    }
}

/// The sandbox that a user's name means; `None` for a name that is none.
pub(super) fn sandbox_of(user: &str) -> Option<&str> {
    let id = user.strip_suffix(MAIN).unwrap_or(user);
    let fits = !id.is_empty() && id.len() <= limits::LABEL_MAX_CHARS && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (user, sandbox) in [
            ("sb-abc123", Some("sb-abc123")),
            ("sb-abc123+main", Some("sb-abc123")),
            ("sb-abc123+other", None),
            ("sb-abc123+main+main", None),
            ("+main", None),
            ("", None),
            ("sb abc", None),
            ("team/sb-abc", None),
            ("sb-abc:x", None),
            ("sb-abc@x", None),
            ("sb-é", None),
        ] {
            assert_eq!(sandbox_of(user), sandbox, "{user:?}");
        }
    }
}
