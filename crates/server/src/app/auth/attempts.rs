//! How often somebody tried to log in.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use sandbar_core::limits;

/// Pairs of accounts and networks, and networks, that are counted at once.
const COUNTED_MAX: usize = 4096;

/// Attempts within a window, per account and network that they came from: what strangers try elsewhere locks nobody out.
/// Per network too, so that nobody tries many accounts, nor fills what is counted.
#[derive(Default)]
pub struct Attempts {
    by_account: Windows<(String, IpAddr)>,
    by_network: Windows<IpAddr>,
}

impl Attempts {
    /// Counts an attempt. The error is the seconds to wait.
    pub fn take(&mut self, account: &str, network: IpAddr, now_ms: i64) -> Result<(), u32> {
        self.by_network.take(network, limits::LOGIN_ATTEMPTS_PER_NETWORK_MAX, now_ms)?;
        let taken = self.by_account.take((account.to_ascii_lowercase(), network), limits::LOGIN_ATTEMPTS_MAX, now_ms);
        if taken.is_err() {
            // Nothing was tried: a program with an old password locks out its account here, and none of its neighbours.
            self.by_network.give_back(&network);
        }
        taken
    }

    /// A success takes the account's attempts back, and its own from those of the network.
    pub fn clear(&mut self, account: &str, network: IpAddr) {
        self.by_account.0.remove(&(account.to_ascii_lowercase(), network));
        self.by_network.give_back(&network);
    }
}

/// When the window of each began, and how many there were since.
struct Windows<K>(HashMap<K, (i64, u32)>);

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Windows<K> {
    fn take(&mut self, key: K, max: u32, now_ms: i64) -> Result<(), u32> {
        let window_ms = limits::LOGIN_WINDOW_S * 1000;
        if self.0.len() >= COUNTED_MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, (began, _)| now_ms - *began < window_ms);
            if self.0.len() >= COUNTED_MAX {
                // Whoever fills it with names and networks makes it forget its oldest, and locks nobody out.
                let oldest = self.0.iter().min_by_key(|(_, (began, _))| *began).map(|(key, _)| key.clone());
                oldest.map(|oldest| self.0.remove(&oldest));
            }
        }
        let (began, count) = self.0.entry(key).or_insert((now_ms, 0));
        if now_ms - *began >= window_ms {
            (*began, *count) = (now_ms, 0);
        }
        if *count >= max {
            let left_ms = window_ms - (now_ms - *began);
            return Err((left_ms / 1000 + 1) as u32);
        }
        *count += 1;
        Ok(())
    }

    fn give_back(&mut self, key: &K) {
        if let Some((_, count)) = self.0.get_mut(key) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn network(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn an_account_has_so_many_tries_in_a_window_from_each_network() {
        let mut attempts = Attempts::default();
        let (here, there) = (network(1), network(2));
        for _ in 0..limits::LOGIN_ATTEMPTS_MAX {
            assert_eq!(attempts.take("a@x", here, 1000), Ok(()));
        }
        assert_eq!(attempts.take("A@X", here, 31_000), Err(31));
        assert_eq!(attempts.take("a@x", there, 31_000), Ok(()), "strangers lock nobody out");
        assert_eq!(attempts.take("b@x", here, 31_000), Ok(()));
        assert_eq!(attempts.take("a@x", here, 61_000), Ok(()));
        attempts.clear("a@x", here);
        assert_eq!(attempts.by_account.0.len(), 2);
    }

    #[test]
    fn a_network_has_so_many_for_all_accounts_and_those_that_succeed_do_not_count() {
        let mut attempts = Attempts::default();
        for n in 0..2 * limits::LOGIN_ATTEMPTS_PER_NETWORK_MAX {
            assert_eq!(attempts.take(&n.to_string(), network(1), 1000), Ok(()));
            attempts.clear(&n.to_string(), network(1));
        }
        for n in 0..limits::LOGIN_ATTEMPTS_PER_NETWORK_MAX {
            assert_eq!(attempts.take(&n.to_string(), network(1), 1000), Ok(()));
        }
        assert_eq!(attempts.take("one more", network(1), 1000), Err(61));
        assert_eq!(attempts.take("one more", network(2), 1000), Ok(()));
        assert!(attempts.by_account.0.len() <= limits::LOGIN_ATTEMPTS_PER_NETWORK_MAX as usize + 1, "what is refused is not kept");
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let mut attempts = Attempts::default();
        for n in 0..2 * COUNTED_MAX as u32 {
            assert!(attempts.take(&n.to_string(), network(n), i64::from(n)).is_ok());
        }
        assert_eq!((attempts.by_account.0.len(), attempts.by_network.0.len()), (COUNTED_MAX, COUNTED_MAX));
        assert!(attempts.take("one more", network(u32::MAX), limits::LOGIN_WINDOW_S * 1000).is_ok());
    }

    #[test]
    fn what_is_refused_of_an_account_is_not_counted_of_its_network() {
        let mut attempts = Attempts::default();
        for _ in 0..2 * limits::LOGIN_ATTEMPTS_PER_NETWORK_MAX {
            let _ = attempts.take("a@x", network(1), 1000);
        }
        assert_eq!(attempts.take("b@x", network(1), 1000), Ok(()));
    }
}
