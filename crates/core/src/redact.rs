//! Secrets that a command was given do not stand in what is kept or shown of its output: in their place stands `[secret NAME]`, also
//! where one comes in pieces, over the ends of lines, as JSON spells it, or as a terminal prints its line ends.
//!
//! What was cut is never looked through: redaction comes first, and where somebody else did the cutting, the halves of secrets at that
//! place are taken out, too.

use std::sync::Arc;

pub mod lines;
pub mod swaps;

pub use lines::LineRedactor;
use swaps::{Begin, KEY_BYTES, Over, Room, Swap, Swaps};

/// Shorter ones are left alone: they would be found in words that have nothing to do with them.
pub const SECRET_MIN_BYTES: usize = KEY_BYTES;
/// A line of a secret of several lines is taken out by itself, too, when it is at least so long.
const LINE_MIN_BYTES: usize = 16;
/// Lines of a secret that are looked for by themselves.
const LINES_MAX: usize = 256;
/// Bytes that may be compared for one stream: so many at once, and so many for each byte of it. Only what is made to look like secrets
/// comes near.
const EFFORT_MAX_BYTES: usize = 1 << 28;
const EFFORT_PER_BYTE: usize = 1 << 10;
/// In the place of all that follows in such a stream.
const TOO_ALIKE: &str = "[sandbar: what follows looks too much like secrets to be looked through, and is left out]\n";

/// Takes secrets out of a stream of bytes. Clones have the same secrets and a stream of their own.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<Secrets>,
    /// What may become a secret with what follows.
    held: Vec<u8>,
    /// Bytes that were compared and not earned.
    spent: usize,
    /// Nothing is let through any more.
    over: bool,
    /// What comes next may be the end of a secret.
    cut: bool,
}

#[derive(Default)]
struct Secrets {
    /// Names and values.
    given: Vec<(String, String)>,
    swaps: Swaps,
    /// Bytes of the longest that is looked for.
    longest: usize,
}

/// What follows some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    More,
    Nothing,
    /// Something that was not seen.
    Unseen,
}

/// How a secret that is in an output is told.
#[must_use]
pub fn mark(name: &str) -> String {
    format!("[secret {name}]")
}

/// The ways in which a secret is spelt wherever it is printed, each with its mark: as it is, and as it stands in JSON within a text.
pub fn spellings(name: &str, value: &str) -> Vec<Swap> {
    let mut spelt = Vec::with_capacity(2);
    let escaped = serde_json::to_string(value).unwrap_or_default();
    // One quotation mark from each end: the value may have its own there.
    let escaped = escaped.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default();
    if escaped != value {
        spelt.push((escaped.to_owned(), mark(name)));
    }
    spelt.push((value.to_owned(), mark(name)));
    spelt
}

/// What else is looked for in the output of processes: lines as a terminal ends them, and long lines alone, which may stand between those
/// of others. What only frames a key is no secret.
fn printed(name: &str, value: &str) -> Vec<Swap> {
    if !value.contains('\n') {
        return Vec::new();
    }
    let lines = value.lines().map(str::trim).filter(|line| line.len() >= LINE_MIN_BYTES && !line.starts_with("-----"));
    let mut more: Vec<Swap> = lines.take(LINES_MAX).map(|line| (line.to_owned(), mark(name))).collect();
    let plain = value.replace("\r\n", "\n");
    // The last line end is lost, or added, on many a way.
    for value in [plain.as_str(), plain.trim_end()] {
        more.push((value.to_owned(), mark(name)));
        more.push((value.replace('\n', "\r\n"), mark(name)));
    }
    more
}

impl Redactor {
    /// Of names and values.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::of(secrets.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn of(given: Vec<(String, String)>) -> Self {
        let spelt = given.iter().flat_map(|(name, value)| spellings(name, value).into_iter().chain(printed(name, value)));
        let swaps = Swaps::new(spelt);
        let longest = swaps.all().first().map_or(0, |(from, _)| from.len());
        Self { secrets: Arc::new(Secrets { given, swaps, longest }), ..Self::default() }
    }

    /// With the secrets of another, too.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let more: Vec<_> = other.secrets.given.iter().filter(|secret| !self.secrets.given.contains(secret)).cloned().collect();
        if more.is_empty() {
            return Self { secrets: Arc::clone(&self.secrets), ..Self::default() };
        }
        Self::of(self.secrets.given.iter().cloned().chain(more).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.secrets.swaps.is_empty()
    }

    /// The bytes of so far that are no part of a secret.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.is_empty() {
            return bytes.to_vec();
        }
        self.spent = self.spent.saturating_sub(bytes.len().saturating_mul(EFFORT_PER_BYTE));
        self.held.extend_from_slice(bytes);
        self.take(Then::More)
    }

    /// Bytes that are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What was held back: nothing follows.
    pub fn finish(&mut self) -> Vec<u8> {
        self.take(Then::Nothing)
    }

    /// What was held back, where something is missing then: neither the begin of a secret before the gap is let through nor the end of
    /// one after it.
    pub fn cut(&mut self) -> Vec<u8> {
        let out = self.take(Then::Unseen);
        self.cut = true;
        out
    }

    /// A text that is whole.
    pub fn text(&self, text: &str) -> String {
        self.part(text, false, false)
    }

    /// A part of a text, of which the begin or the end is not there.
    pub fn part(&self, text: &str, begin_is_cut: bool, end_is_cut: bool) -> String {
        if self.is_empty() {
            return text.to_owned();
        }
        let mut own = Self { secrets: Arc::clone(&self.secrets), cut: begin_is_cut, ..Self::default() };
        let mut bytes = own.push(text.as_bytes());
        bytes.extend(if end_is_cut { own.cut() } else { own.finish() });
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What an agent has of an output: of one that goes on the end is cut, and where it dropped the begin, it says so in a line.
    pub fn printed(&self, text: &str, goes_on: bool) -> String {
        match after_drop(text) {
            Some((told, rest)) => format!("{told}{}", self.part(rest, true, goes_on)),
            None => self.part(text, false, goes_on),
        }
    }

    fn take(&mut self, then: Then) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        if self.over {
            return Vec::new();
        }
        let mut room = Room::new(usize::MAX, EFFORT_MAX_BYTES - self.spent);
        let mut out = Vec::with_capacity(held.len());
        if self.taken(&held, then, &mut out, &mut room).is_err() {
            self.over = true;
            self.held.clear();
            out.extend_from_slice(TOO_ALIKE.as_bytes());
        }
        self.spent = EFFORT_MAX_BYTES - room.effort();
        out
    }

    fn taken(&mut self, held: &[u8], then: Then, out: &mut Vec<u8>, room: &mut Room) -> Result<(), Over> {
        let swaps = &self.secrets.swaps;
        let mut at = 0;
        if self.cut && !held.is_empty() {
            match self.secrets.end(held, then, room)? {
                End::Undecided => {
                    self.held = held.to_vec();
                    return Ok(());
                }
                End::Of(length, to) => {
                    out.extend_from_slice(to.as_bytes());
                    at = length;
                }
                End::None => {}
            }
            self.cut = false;
        }
        while at < held.len() {
            let rest = &held[at..];
            match swaps.begin(rest, then != Then::Nothing, room)? {
                Begin::Whole((from, to)) => {
                    out.extend_from_slice(to.as_bytes());
                    at += from.len();
                    continue;
                }
                Begin::Begun(_) if then == Then::More => {
                    self.held = rest.to_vec();
                    return Ok(());
                }
                // The other half was not seen.
                Begin::Begun(Some((_, to))) => {
                    out.extend_from_slice(to.as_bytes());
                    return Ok(());
                }
                Begin::Begun(None) | Begin::Nothing => {}
            }
            out.push(held[at]);
            at += 1;
        }
        Ok(())
    }
}

/// Whether bytes begin with the end of a secret.
enum End<'a> {
    None,
    /// So many of them, and what stands in their place.
    Of(usize, &'a str),
    /// That depends on what follows.
    Undecided,
}

impl Secrets {
    /// Looks for the longest end of a secret that bytes begin with. In one pass over each: for every place of the secret it is known how
    /// much of the bytes' begin ends there.
    fn end(&self, bytes: &[u8], then: Then, room: &mut Room) -> Result<End<'_>, Over> {
        let bytes = &bytes[..bytes.len().min(self.longest)];
        let fails = failures(bytes);
        let (mut found, mut longest, mut inside) = (End::None, KEY_BYTES - 1, None);
        for (from, to) in self.swaps.all() {
            room.compare(from.len())?;
            let mut same = 0;
            for (at, byte) in from.as_bytes().iter().enumerate() {
                while same > 0 && (same == bytes.len() || bytes[same] != *byte) {
                    same = fails[same - 1];
                }
                if bytes[same] == *byte {
                    same += 1;
                }
                if same == bytes.len() && at + 1 < from.len() {
                    inside = Some(to);
                }
            }
            if same > longest {
                (found, longest) = (End::Of(same, to), same);
            }
        }
        Ok(match (inside, then) {
            // The secret may go on as the bytes will.
            (Some(_), Then::More) => End::Undecided,
            (Some(to), Then::Unseen) if bytes.len() > longest => End::Of(bytes.len(), to),
            (Some(_) | None, Then::More | Then::Unseen | Then::Nothing) => found,
        })
    }
}

/// For each begin of these bytes, how long the longest shorter begin is that is its end as well.
fn failures(bytes: &[u8]) -> Vec<usize> {
    let mut fails = vec![0; bytes.len()];
    let mut same = 0;
    for at in 1..bytes.len() {
        while same > 0 && bytes[same] != bytes[at] {
            same = fails[same - 1];
        }
        same += usize::from(bytes[same] == bytes[at]);
        fails[at] = same;
    }
    fails
}

/// How many bytes an agent says that it does not keep any more, where that is all that a piece says. A command that prints the same
/// deceives its own log.
pub fn dropped_bytes(piece: &str) -> Option<u64> {
    piece.strip_prefix("[sandbar: ")?.strip_suffix(" bytes of earlier output dropped]\n")?.parse().ok()
}

/// An output that begins with that line: the line, and what follows.
fn after_drop(text: &str) -> Option<(&str, &str)> {
    let end = text.find('\n')? + 1;
    dropped_bytes(&text[..end])?;
    Some(text.split_at(end))
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("secrets", &self.secrets.given.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
