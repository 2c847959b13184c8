//! What a client's first bytes say: the protocol, and whom the client wants to talk to.
//!
//! Each protocol's reader accepts, rejects, or asks for more. What all reject is unknown at once, so that protocols
//! that are not told apart here are not held up.
use super::App;

mod http;
mod tls;
mod wire;

pub use tls::client_hello;

/// More of a client's bytes are not looked at: what has not said by then whom it means hides it.
pub const BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniff {
    /// What was read so far can still become one of these, or something unknown.
    More { apps: Vec<App> },
    /// `app` is None for what none of the readers knows.
    Known { app: Option<App>, name: Named },
}

/// Whom the client means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Nobody, or an address.
    Absent,
    /// Somebody, but it cannot be told who: encrypted, said twice, broken or too long.
    Hidden,
    /// In the form of [`super::normal_name`].
    Name(String),
    /// Each request will say it (HTTP/2).
    Later,
}

/// What one reader says.
enum Reading {
    No,
    More,
    Yes(Named),
}

/// Looks at the first bytes of a connection. `end`: no more will come, or no more will be waited for.
pub fn first_bytes(bytes: &[u8], end: bool) -> Sniff {
    let end = end || bytes.len() >= BYTES_MAX;
    let mut apps = Vec::new();
    for (app, read) in READERS {
        match read(bytes) {
            Reading::Yes(name) => return Sniff::Known { app: Some(app), name },
            Reading::More => apps.push(app),
            Reading::No => {}
        }
    }
    if !apps.is_empty() && !end {
        return Sniff::More { apps };
    }
    // A part of TLS or HTTP hides its name; of the others nothing depends on one.
    let hidden = apps.into_iter().find(|app| match app {
        App::Tls => tls::is_begun(bytes),
        App::Http => http::is_begun(bytes),
        _ => false,
    });
    match hidden {
        Some(app) => Sniff::Known { app: Some(app), name: Named::Hidden },
        None => Sniff::Known { app: None, name: Named::Absent },
    }
}

type Reader = fn(&[u8]) -> Reading;

const READERS: [(App, Reader); 9] = [
    (App::Tls, tls::read),
    (App::Http, http::read),
    (App::Ssh, wire::ssh),
    (App::Amqp, wire::amqp),
    (App::Mqtt, wire::mqtt),
    (App::Redis, wire::redis),
    (App::Mongodb, wire::mongodb),
    (App::Socks5, wire::socks5),
    (App::Dns, wire::dns),
];

/// Whether a datagram is a question of DNS.
pub fn is_dns_question(datagram: &[u8]) -> bool {
    wire::is_dns_question(datagram)
}

#[cfg(test)]
mod tests;
