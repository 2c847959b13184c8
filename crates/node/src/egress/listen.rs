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

/// Nothing is lost when [`Self::listen`] is given up and begun again.
#[derive(Default)]
pub(super) struct Ears {
    /// What was read, to be passed on.
    pub bytes: BytesMut,
    until: Option<Instant>,
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
        Self { bytes: BytesMut::new(), until: silent_for.map(|silent_for| Instant::now() + silent_for) }
    }

    pub async fn listen(&mut self, inside: &TcpStream) -> io::Result<Heard> {
        loop {
            let readable = match self.until {
                Some(until) => match tokio::time::timeout_at(until, inside.readable()).await {
                    Ok(readable) => readable,
                    Err(_) => return Ok(Heard::Late),
                },
                None => inside.readable().await,
            };
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
            if let Sniff::Known { app, name } = sniff::first_bytes(&self.bytes, len == 0) {
                return Ok(Heard::Said { app, name });
            }
            // What is known at its longest, or at its end, is never waited for.
            if len == 0 {
                return Ok(Heard::Late);
            }
        }
    }
}
