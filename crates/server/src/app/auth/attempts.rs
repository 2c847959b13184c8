//! How often somebody tried to log in.

use std::collections::HashMap;

use sandbar_core::limits;

/// Accounts counted at once.
const ACCOUNTS_MAX: usize = 4096;

/// Attempts per account within a window.
#[derive(Default)]
pub struct Attempts(HashMap<String, (i64, u32)>);

impl Attempts {
    /// Counts an attempt. The error is the seconds to wait.
    pub fn take(&mut self, account: &str, now_ms: i64) -> Result<(), u32> {
        let window_ms = limits::LOGIN_WINDOW_S * 1000;
        if self.0.len() >= ACCOUNTS_MAX {
            self.0.retain(|_, (began, _)| now_ms - *began < window_ms);
            // So many names at once are no people: everybody waits a moment.
            if self.0.len() >= ACCOUNTS_MAX {
                return Err(limits::LOGIN_WINDOW_S as u32);
            }
        }
        let (began, count) = self.0.entry(account.to_ascii_lowercase()).or_insert((now_ms, 0));
        if now_ms - *began >= window_ms {
            (*began, *count) = (now_ms, 0);
        }
        if *count >= limits::LOGIN_ATTEMPTS_MAX {
            let left_ms = window_ms - (now_ms - *began);
            return Err((left_ms / 1000 + 1) as u32);
        }
        *count += 1;
        Ok(())
    }

    /// A success takes the account's attempts back.
    pub fn clear(&mut self, account: &str) {
        self.0.remove(&account.to_ascii_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_so_many_tries_in_a_window() {
        let mut attempts = Attempts::default();
        for _ in 0..limits::LOGIN_ATTEMPTS_MAX {
            assert_eq!(attempts.take("a@x", 1000), Ok(()));
        }
        assert_eq!(attempts.take("A@X", 31_000), Err(31));
        assert_eq!(attempts.take("b@x", 31_000), Ok(()));
        assert_eq!(attempts.take("a@x", 61_000), Ok(()));
        attempts.clear("a@x");
        assert_eq!(attempts.0.len(), 1);
    }

    #[test]
    fn names_are_bounded() {
        let mut attempts = Attempts::default();
        for n in 0..ACCOUNTS_MAX {
            assert!(attempts.take(&n.to_string(), 0).is_ok());
        }
        assert!(attempts.take("one more", 0).is_err());
        assert!(attempts.take("one more", limits::LOGIN_WINDOW_S * 1000).is_ok());
    }
}
