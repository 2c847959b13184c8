//! Both sides of SSH 2 (RFC 4251 to 4254): transport, login by public key, channels. Knows nothing of sandboxes.
//!
//! Three layers, each in its file: [`transport`] makes packets of bytes and knows when keys change, [`login`] asks a
//! [`Doorkeeper`] who may come in ([`client`] is the other side of that), [`session`] is the task that owns a connection and hands out [`Channel`]s. Everything is
//! bounded, and what a channel's reader has not taken is not granted anew: one that stands still holds up nobody else, neither
//! another channel nor the other direction of its own.
//!
//! The choice of algorithms is short on purpose: X25519 and P-256, ChaCha20-Poly1305 and AES-GCM. Every cipher is authenticated,
//! so there is no MAC and no CBC; there is no compression, no SHA-1 and no password.
#![forbid(unsafe_code)]

mod channel;
mod cipher;
mod client;
mod exchange;
mod hostkey;
mod key;
mod known_hosts;
mod login;
mod message;
mod private;
mod session;
mod transport;
pub mod wire;

use std::io;

pub use channel::{Channel, Event, Outcome, PtyRequest, Request, Stream};
pub use client::{Account, ConnectError, connect};
pub use hostkey::HostKey;
pub use key::{KeyError, PublicKey};
pub use known_hosts::{HostKeyError, HostKeys};
pub use login::{Doorkeeper, LoggedIn, login};
pub use private::{PrivateKey, PrivateKeyError};
pub use session::{NotOpened, Open, OpenKind, Opener, Refusal, Session};

/// What holds for every connection to us.
#[derive(Debug)]
pub struct Settings {
    pub host_key: HostKey,
    /// Who we are: visible ASCII without `-` and space.
    pub software: &'static str,
}

/// Bounds of a connection, in one place.
pub mod limits {
    use std::time::Duration;

    /// From connect to login.
    pub const LOGIN_WITHIN: Duration = Duration::from_secs(30);
    /// Requests for a login that a client may make. Each key that it offers is one, and agents hold many.
    pub const TRIES_MAX: u32 = 30;
    /// The line with which a client says what it is.
    pub const IDENTIFICATION_BYTES_MAX: usize = 255;
    /// Lines that a server may send before that one.
    pub const LINES_BEFORE_MAX: usize = 64;
    /// A packet before and after login.
    pub const PACKET_BEFORE_BYTES_MAX: usize = 35_000;
    pub const PACKET_BYTES_MAX: usize = 256 << 10;
    /// Payload of one message with data, in both directions.
    pub const DATA_BYTES_MAX: u32 = 32 << 10;
    /// What a client may send on a session, or on a forwarded connection, that nobody has taken yet.
    pub const SESSION_WINDOW_BYTES: u32 = 1 << 20;
    pub const FORWARD_WINDOW_BYTES: u32 = 256 << 10;
    /// All windows of a connection together get about so much: the more channels, the smaller is the next one's,
    pub const WINDOWS_BYTES: u32 = 4 << 20;
    /// but not smaller than this.
    pub const WINDOW_BYTES_MIN: u32 = 32 << 10;
    /// Sessions and forwarded connections at once.
    pub const SESSIONS_MAX: usize = 16;
    pub const FORWARDS_MAX: usize = 128;
    /// Requests of a channel that nobody has looked at or that no answer is written to yet, and bytes of the former.
    pub const REQUESTS_MAX: usize = 64;
    pub const REQUESTS_BYTES_MAX: usize = 256 << 10;
    /// A command, and anything else that is asked for. What is longer is like something that we do not know.
    pub const COMMAND_BYTES_MAX: usize = 128 << 10;
    pub const ARGUMENT_BYTES_MAX: usize = 4 << 10;
    /// What we ask a server for in one request.
    pub const REQUEST_BYTES_MAX: usize = 64 << 10;
    /// Data of all channels on its way to the socket.
    pub const SENDING_BYTES_MAX: usize = 256 << 10;
    /// What a message costs of that besides its data: the other side may take them byte by byte.
    pub const MESSAGE_BYTES: usize = 64;
    /// Above this many bytes that the client does not take, nothing is read from it either.
    pub const OUTPUT_BYTES_MAX: usize = 1 << 20;
    /// Messages that wait while keys change.
    pub const HELD_BYTES_MAX: usize = 256 << 10;
    /// Keys are changed after this many bytes in one direction, and after this time.
    pub const REKEY_BYTES: u64 = 1 << 30;
    pub const REKEY_AFTER: Duration = Duration::from_secs(3600);
    /// What an exchange of keys may take.
    pub const REKEY_WITHIN: Duration = Duration::from_secs(60);
    /// The other side may ask for new keys after this many bytes, or this time.
    pub const REKEY_BYTES_MIN: u64 = 256 << 10;
    pub const REKEY_AFTER_MIN: Duration = Duration::from_secs(1);
    /// A client that says nothing for so long is asked whether it is there, so many times.
    pub const KEEPALIVE: Duration = Duration::from_secs(20);
    pub const KEEPALIVES_MAX: u32 = 3;
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The peer did what the protocol does not allow.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("no {0} in common")]
    NothingInCommon(&'static str),
    #[error("the other side hung up")]
    Closed,
    #[error("no login within {} s", limits::LOGIN_WITHIN.as_secs())]
    Late,
    #[error("more than {} requests for a login", limits::TRIES_MAX)]
    TooManyTries,
    #[error("the other side does not answer any more")]
    Dead,
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error("the machine gives no random numbers")]
    NoRandom,
}

impl From<wire::Malformed> for SshError {
    fn from(_: wire::Malformed) -> Self {
        Self::Protocol("a message is cut short or has too much")
    }
}

impl From<ring::error::Unspecified> for SshError {
    fn from(_: ring::error::Unspecified) -> Self {
        Self::NoRandom
    }
}
