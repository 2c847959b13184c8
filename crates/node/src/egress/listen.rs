//! The first bytes of a client, read until they say what it speaks and to whom.
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use sandbar_core::egress::App;
use sandbar_core::egress::sniff::{self, Named, Sniff};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long a client may say nothing where its silence is refused.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(30);
/// How long a client may take to say what it has begun to say.
const SAID_WITHIN: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 4 << 10;
/// What was read is looked at from its beginning: again when it has grown by one part in so many, so that all looks together
/// cost little more than the last, whatever the pieces it comes in.
const GROWN_BY: usize = 8;
/// Or when nothing came for so long; each time that this was in vain it takes longer.
const QUIET_FOR: Duration = Duration::from_millis(10);
const QUIET_FOR_MAX: Duration = Duration::from_millis(640);

/// Nothing is lost when [`Self::listen`] is given up and begun again.
pub(super) struct Ears {
    /// What was read, to be passed on.
    pub bytes: BytesMut,
    until: Option<Instant>,
    /// How much of it was looked at.
    looked_at: usize,
    /// When the rest will be.
    look_by: Option<Instant>,
    quiet_for: Duration,
}

#[derive(Debug)]
pub(super) enum Heard {
    Said {
        app: Option<App>,
        name: Named,
    },
    /// The client said that it is done, and nothing else.
    Nothing,
    /// It did not come to an end in time.
    Late,
}

impl Ears {
    pub fn new(silent_for: Option<Duration>) -> Self {
        let until = silent_for.map(|silent_for| Instant::now() + silent_for);
        Self { bytes: BytesMut::new(), until, looked_at: 0, look_by: None, quiet_for: QUIET_FOR }
    }

    /// From here on it may take as long as it takes.
    pub fn take_time(&mut self) {
        self.until = None;
    }

    /// `is_settled` says whether it makes no difference any more which of these it speaks, or something unknown.
    pub async fn listen(&mut self, inside: &TcpStream, is_settled: impl Fn(&[App]) -> bool) -> io::Result<Heard> {
        loop {
            let readable = match self.until.into_iter().chain(self.look_by).min() {
                Some(until) => tokio::time::timeout_at(until, inside.readable()).await.ok(),
                None => Some(inside.readable().await),
            };
            let end = match readable {
                Some(readable) => {
                    readable?;
                    let is_first = self.bytes.is_empty();
                    self.bytes.reserve(READ_BYTES);
                    let len = match inside.try_read_buf(&mut self.bytes) {
                        Ok(len) => len,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error),
                    };
                    if is_first && len == 0 {
                        return Ok(Heard::Nothing);
                    }
                    if is_first {
                        self.until = Some(Instant::now() + SAID_WITHIN);
                    }
                    if len > 0 && !self.has_grown() {
                        self.look_by = Some(Instant::now() + self.quiet_for);
                        continue;
                    }
                    len == 0
                }
                None if self.look_by.is_none() => return Ok(Heard::Late),
                None => {
                    self.quiet_for = (self.quiet_for * 2).min(QUIET_FOR_MAX);
                    false
                }
            };
            (self.looked_at, self.look_by) = (self.bytes.len(), None);
            match sniff::first_bytes(&self.bytes, end) {
                Sniff::Known { app, name } => return Ok(Heard::Said { app, name }),
                Sniff::More { apps } if is_settled(&apps) => return Ok(Heard::Said { app: None, name: Named::Absent }),
                // What is known at its longest, or at its end, is never waited for.
                Sniff::More { .. } if end => return Ok(Heard::Late),
                Sniff::More { .. } => {}
            }
        }
    }

    fn has_grown(&self) -> bool {
        self.bytes.len() >= sniff::BYTES_MAX || (self.bytes.len() - self.looked_at) * GROWN_BY >= self.looked_at
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_that_trickle_are_looked_at_now_and_then() {
        let (mut client, inside) = pair().await;
        let head = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 4000], b"\r\nHost: a.test\r\n\r\n".to_vec()].concat();
        let sent = head.clone();
        let looks = Cell::new(0);
        let trickle = async {
            for byte in sent {
                client.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let mut ears = Ears::new(None);
        let listen = ears.listen(&inside, |_| {
            looks.set(looks.get() + 1);
            false
        });
        let (heard, ()) = tokio::join!(listen, trickle);
        assert!(matches!(heard.unwrap(), Heard::Said { app: Some(App::Http), name: Named::Name(name) } if name == "a.test"));
        assert_eq!(ears.bytes, head);
        assert!(looks.get() < 120, "{looks:?}");
    }

    #[tokio::test]
    async fn only_what_makes_a_difference_is_waited_for() {
        // A question of DNS would begin like this.
        for (settled, want) in [(true, true), (false, false)] {
            let (mut client, inside) = pair().await;
            client.write_all(&[0, 32, 1]).await.unwrap();
            let mut ears = Ears::new(None);
            let heard = tokio::time::timeout(
                Duration::from_millis(300),
                ears.listen(&inside, |apps| apps.contains(&App::Dns) && !apps.contains(&App::Http) && settled),
            )
            .await;
            assert_eq!(matches!(heard, Ok(Ok(Heard::Said { app: None, name: Named::Absent }))), want);
        }
    }
}
