//! Everything random in a script: a stream that a seed decides, HMAC-SHA-256 of a counter. Who sees some of it learns nothing
//! of the rest.

use ring::hmac;

pub(super) struct Stream {
    key: hmac::Key,
    counter: u64,
    rest: Vec<u8>,
}

impl Stream {
    pub(super) fn new(seed: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), counter: 0, rest: Vec::new() }
    }

    pub(super) fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.rest.is_empty() {
                self.rest = hmac::sign(&self.key, &self.counter.to_be_bytes()).as_ref().to_vec();
                self.counter += 1;
            }
            let taken = out.len().min(self.rest.len());
            let (now, later) = out.split_at_mut(taken);
            now.copy_from_slice(&self.rest[self.rest.len() - taken..]);
            self.rest.truncate(self.rest.len() - taken);
            out = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides() {
        let draw = |seed: &[u8]| {
            let mut stream = Stream::new(seed);
            let mut bytes = [0; 100];
            stream.fill(&mut bytes[..3]);
            stream.fill(&mut bytes[3..]);
            bytes
        };
        assert_eq!(draw(b"a"), draw(b"a"));
        assert_ne!(draw(b"a"), draw(b"b"));
        assert_ne!(draw(b"a")[..32], draw(b"a")[32..64]);
    }
}
