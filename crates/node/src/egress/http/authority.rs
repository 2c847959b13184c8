//! Whom a request is for.
use http::header::HOST;
use http::{Request, StatusCode};
use sandbar_core::egress::host_of_authority;

use super::refusal::Refusal;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Host {
    /// Nobody, or an address.
    Absent,
    /// What stands there is no host.
    Unreadable,
    Name(String),
}

impl Host {
    /// All that a request says of it has to be the same.
    pub fn of<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let bad = |text| Refusal::new(StatusCode::BAD_REQUEST, text);
        let mut hosts = request.headers().get_all(HOST).iter();
        let header = hosts.next();
        if hosts.next().is_some() {
            return Err(bad("the request has more than one Host"));
        }
        let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        match (target, header.map(|host| host.as_bytes())) {
            (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => Err(bad("the request's target and its Host are not the same")),
            (Some(host), _) | (None, Some(host)) if !host.is_empty() => Ok(Self::read(host)),
            (Some(_) | None, Some(_) | None) => Ok(Self::Absent),
        }
    }

    fn read(authority: &[u8]) -> Self {
        match std::str::from_utf8(authority).ok().and_then(host_of_authority) {
            Some((Ok(name), _)) => Self::Name(name),
            Some((Err(_), _)) => Self::Absent,
            None => Self::Unreadable,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let of = |target: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            Host::of(&request.body(()).unwrap()).ok()
        };
        let name = || Some(Host::Name("a.test".to_owned()));
        assert_eq!(of("/x", &["A.test"]), name());
        assert_eq!(of("/x", &["a.test.:8080"]), name());
        assert_eq!(of("http://a.test/x", &["a.test"]), name());
        assert_eq!(of("http://a.test/x", &[]), name());
        assert_eq!(of("http://a.test/x", &["b.test"]), None);
        assert_eq!(of("/x", &["a.test", "a.test"]), None);
        assert_eq!(of("/x", &[]), Some(Host::Absent));
        assert_eq!(of("/x", &[""]), Some(Host::Absent));
        for addr in ["9.9.9.9", "[2600::1]:80"] {
            assert_eq!(of("/x", &[addr]), Some(Host::Absent), "{addr}");
        }
        for odd in ["0x09090909", "1234567", "b\u{e9}.test", "user@a.test", "a..test", "a.test:80:80", "a.test/x", "a.test, b.test"] {
            assert_eq!(of("/x", &[odd]), Some(Host::Unreadable), "{odd}");
        }
    }
}
