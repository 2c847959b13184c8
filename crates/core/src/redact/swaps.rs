//! Texts that are put in the place of others, all in one pass: what was put in is not looked at again.

use std::collections::{HashMap, HashSet};

/// Bytes that a text to be found begins with: it has at least as many, as every secret has.
pub(super) const KEY_BYTES: usize = crate::limits::SCRIPT_SECRET_MIN_BYTES;
/// Bytes that are compared before a text is compared as a whole.
const HEAD_BYTES: usize = 16;
const FILTER_BITS: usize = 1 << 16;

/// What is looked for, and what is put in its place.
#[derive(Default)]
pub struct Swaps {
    swaps: Vec<Swap>,
    /// By their first bytes, the longest first.
    by_key: HashMap<[u8; KEY_BYTES], Vec<usize>>,
    /// Bits of the keys that there may be.
    filter: Vec<u64>,
    /// The begins that are shorter than a key.
    begins: HashSet<Vec<u8>>,
    shortest: usize,
}

/// A text and what is put in its place.
pub type Swap = (String, String);

/// What bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin<'a> {
    Whole(&'a Swap),
    /// All of them are the begin of something that may still come; of what, where there are enough of them to say.
    Begun(Option<&'a Swap>),
    Nothing,
}

/// What the passes over what was kept of one run may still take. Once it was too much, it stays so.
#[derive(Debug)]
pub struct Room {
    /// Bytes by which all may grow.
    growth: usize,
    /// Bytes that may be compared.
    effort: usize,
    pub is_over: bool,
}

/// There was not enough room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over;

impl Room {
    pub fn new(growth: usize, effort: usize) -> Self {
        Self { growth, effort, is_over: false }
    }

    /// Bytes that may still be compared.
    pub fn effort(&self) -> usize {
        self.effort
    }

    /// Something has become so much longer.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Over> {
        let left = self.growth.checked_sub(bytes).ok_or(Over);
        self.growth = self.over(left)?;
        Ok(())
    }

    pub(super) fn compare(&mut self, bytes: usize) -> Result<(), Over> {
        let left = self.effort.checked_sub(bytes).ok_or(Over);
        self.effort = self.over(left)?;
        Ok(())
    }

    fn over<T>(&mut self, result: Result<T, Over>) -> Result<T, Over> {
        self.is_over |= result.is_err();
        result
    }
}

impl Swaps {
    /// Of two that look for the same, the first.
    pub fn new(swaps: impl IntoIterator<Item = Swap>) -> Self {
        let mut swaps: Vec<_> = swaps.into_iter().filter(|(from, _)| from.len() >= KEY_BYTES).collect();
        swaps.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
        let mut made = Self { shortest: swaps.last().map_or(usize::MAX, |(from, _)| from.len()), filter: vec![0; FILTER_BITS / 64], ..Self::default() };
        for (place, (from, _)) in swaps.iter().enumerate() {
            let Some(key) = from.as_bytes().first_chunk() else { continue };
            made.by_key.entry(*key).or_default().push(place);
            let bit = bit_of(*key);
            made.filter[bit / 64] |= 1 << (bit % 64);
            made.begins.extend((1..KEY_BYTES).map(|length| key[..length].to_vec()));
        }
        made.swaps = swaps;
        made
    }

    pub fn is_empty(&self) -> bool {
        self.swaps.is_empty()
    }

    /// Bytes of the shortest text that it changes.
    pub fn shortest(&self) -> usize {
        self.shortest
    }

    /// From the left, and of all that begin at one place the longest; none where nothing is found. It never becomes longer by more
    /// than there is room for, but does not take that room.
    pub fn swap(&self, text: &str, room: &mut Room) -> Result<Option<String>, Over> {
        if self.is_empty() || text.len() < self.shortest {
            return Ok(None);
        }
        let bytes = text.as_bytes();
        // Both begin at characters: what is found is text, and so is what it is found in.
        let (mut out, mut copied, mut at) = (String::new(), 0, 0);
        while at + self.shortest <= bytes.len() {
            let Some((from, to)) = self.found(&bytes[at..], room)? else {
                at += 1;
                continue;
            };
            out.push_str(&text[copied..at]);
            out.push_str(to);
            at += from.len();
            copied = at;
            if out.len() > copied + room.growth {
                return room.over(Err(Over));
            }
        }
        if copied == 0 {
            return Ok(None);
        }
        out.push_str(&text[copied..]);
        Ok(Some(out))
    }

    /// All of them, the longest first.
    pub(super) fn all(&self) -> &[Swap] {
        &self.swaps
    }

    /// The longest that this begins with.
    fn found(&self, bytes: &[u8], room: &mut Room) -> Result<Option<&Swap>, Over> {
        Ok(match self.begin(bytes, false, room)? {
            Begin::Whole(swap) => Some(swap),
            Begin::Begun(_) | Begin::Nothing => None,
        })
    }

    /// What this begins with: the longest. Where more may come, what may still become longer is only begun.
    pub(super) fn begin(&self, bytes: &[u8], more: bool, room: &mut Room) -> Result<Begin<'_>, Over> {
        let Some(key) = bytes.first_chunk() else {
            return Ok(if more && self.begins.contains(bytes) { Begin::Begun(None) } else { Begin::Nothing });
        };
        let bit = bit_of(*key);
        if self.filter.get(bit / 64).is_none_or(|word| word & (1 << (bit % 64)) == 0) {
            return Ok(Begin::Nothing);
        }
        for &place in self.by_key.get(key).into_iter().flatten() {
            room.compare(HEAD_BYTES)?;
            let swap = &self.swaps[place];
            let from = swap.0.as_bytes();
            if bytes.len() < from.len() && !more {
                continue;
            }
            let common = from.len().min(bytes.len());
            let head = &from[..common.min(HEAD_BYTES)];
            if !bytes.starts_with(head) {
                continue;
            }
            room.compare(common)?;
            if bytes.starts_with(&from[..common]) {
                return Ok(if common < from.len() { Begin::Begun(Some(swap)) } else { Begin::Whole(swap) });
            }
        }
        Ok(Begin::Nothing)
    }
}

fn bit_of(key: [u8; KEY_BYTES]) -> usize {
    (u32::from_le_bytes(key).wrapping_mul(0x9e37_79b1) >> 16) as usize % FILTER_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swaps(of: &[(&str, &str)]) -> Swaps {
        Swaps::new(of.iter().map(|&(from, to)| (from.to_owned(), to.to_owned())))
    }

    #[test]
    fn the_leftmost_and_longest_is_found_and_what_is_put_in_is_not_looked_at() {
        let of = swaps(&[("abcd", "[bcde]"), ("abcdef", "long"), ("bcde", "[abcd]"), ("ünde", "ü"), ("abcd", "never")]);
        for (text, swapped) in [
            ("", None),
            ("abc", None),
            ("xyzabc", None),
            ("abcd", Some("[bcde]")),
            ("-abcde-", Some("-[bcde]e-")),
            ("abcdefabcd", Some("long[bcde]")),
            ("bcdebcde", Some("[abcd][abcd]")),
            ("Gründe, Gründe", Some("Grü, Grü")),
        ] {
            assert_eq!(of.swap(text, &mut Room::new(100, 10_000)).unwrap().as_deref(), swapped, "{text}");
        }
        assert_eq!(Swaps::new([]).swap("abcd", &mut Room::new(0, 0)), Ok(None));
    }

    #[test]
    fn neither_growth_nor_effort_is_without_end() {
        let mut room = Room::new(10, 10_000);
        assert_eq!(swaps(&[("abcd", "123456789")]).swap("abcd abcd abcd", &mut room), Err(Over));
        assert!(room.is_over);
        // Each place looks like the begin of it.
        let of = swaps(&[(&format!("{}b", "a".repeat(16 << 10)), "x")]);
        let mut room = Room::new(0, 1 << 20);
        assert_eq!(of.swap(&"a".repeat(1 << 20), &mut room), Err(Over));
        assert!(room.is_over && room.grow(0).is_ok() && room.grow(1).is_err());
    }
}
