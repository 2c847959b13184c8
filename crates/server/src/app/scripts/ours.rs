//! Where this server is, as far as it knows its own names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use url::{Host, Url};

use crate::app::App;

/// Names and addresses of ours.
struct Ours<'a> {
    self_url: Option<&'a str>,
    domain: &'a str,
    listen: SocketAddr,
}

impl App {
    fn ours(&self) -> Ours<'_> {
        let listen = self.reach.listening().unwrap_or(self.config.listen);
        Ours { self_url: self.config.scripts.self_url.as_deref(), domain: &self.config.public_domain, listen }
    }

    /// Where an executor reaches us. What a request says of our name is believed only where it can name nobody else: the grant goes
    /// there, and who invokes a script that is public may say any name.
    pub(crate) fn main_origin(&self, request_origin: Option<&str>) -> String {
        self.ours().main_origin(request_origin)
    }

    /// Whether a URL leads to our API. What lies below our domain are sandboxes, which are their owners'; and what is at an address
    /// of this machine is ours at our port alone.
    pub(crate) fn is_ours(&self, url: &Url) -> bool {
        self.ours().has(url, is_of_this_machine)
    }
}

impl Ours<'_> {
    fn main_origin(&self, request_origin: Option<&str>) -> String {
        if let Some(url) = self.self_url {
            return url.to_owned();
        }
        let is_ours = |origin: &&str| {
            let Ok(url) = Url::parse(origin) else { return false };
            let host = url.host_str().unwrap_or_default();
            let is_name = self.has_name(host) || host.trim_matches(['[', ']']).parse() == Ok(self.listen.ip());
            // Behind another port there is a proxy at best, which may want TLS; that is for the operator to say.
            is_name && url.port_or_known_default() == Some(self.listen.port())
        };
        if let Some(origin) = request_origin.filter(is_ours) {
            return origin.to_owned();
        }
        let mut listen = self.listen;
        if listen.ip().is_unspecified() {
            listen.set_ip(if listen.is_ipv6() { IpAddr::from(Ipv6Addr::LOCALHOST) } else { IpAddr::from(Ipv4Addr::LOCALHOST) });
        }
        format!("http://{listen}")
    }

    fn has(&self, url: &Url, is_of_this_machine: impl Fn(IpAddr) -> bool) -> bool {
        let port = url.port_or_known_default();
        let at = |addr: IpAddr| {
            let (addr, listen) = (addr.to_canonical(), self.listen.ip().to_canonical());
            port == Some(self.listen.port()) && (addr == listen || listen.is_unspecified() && is_of_this_machine(addr))
        };
        let is_self_url = || {
            let ours = self.self_url.and_then(|text| Url::parse(text).ok());
            ours.is_some_and(|ours| ours.host() == url.host() && ours.port_or_known_default() == port)
        };
        let is_here = match url.host() {
            Some(Host::Ipv4(addr)) => at(addr.into()),
            Some(Host::Ipv6(addr)) => at(addr.into()),
            Some(Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                let is_loopback = name == "localhost" || name.ends_with(".localhost");
                // Names below localhost are this machine, and whatever else listens on it.
                self.has_name(name) && (!is_loopback || port == Some(self.listen.port()))
                    || is_loopback && (at(Ipv4Addr::LOCALHOST.into()) || at(Ipv6Addr::LOCALHOST.into()))
            }
            None => false,
        };
        is_here || is_self_url()
    }

    fn has_name(&self, host: &str) -> bool {
        host == self.domain || host.strip_prefix("api.") == Some(self.domain)
    }
}

/// Whether an address is one of this machine's: nothing is sent to find out.
fn is_of_this_machine(addr: IpAddr) -> bool {
    addr.is_loopback() || UdpSocket::bind((addr, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn executors_are_told_where_we_are_and_never_where_we_are_not() {
        for (self_url, listen, request, origin) in [
            (Some("https://api.test"), "0.0.0.0:80", Some("http://evil.test"), "https://api.test"),
            (None, "127.0.0.1:8700", None, "http://127.0.0.1:8700"),
            (None, "0.0.0.0:8700", None, "http://127.0.0.1:8700"),
            (None, "[::]:8700", None, "http://[::1]:8700"),
            (None, "10.0.0.5:8700", Some("http://10.0.0.5:8700"), "http://10.0.0.5:8700"),
            (None, "127.0.0.1:80", Some("http://api.example.com"), "http://api.example.com"),
            (None, "127.0.0.1:8700", Some("https://api.example.com"), "http://127.0.0.1:8700"),
            (None, "127.0.0.1:8700", Some("http://example.com:8700"), "http://example.com:8700"),
            // Sandboxes live below the domain.
            (None, "127.0.0.1:8700", Some("http://sb-1.example.com"), "http://127.0.0.1:8700"),
            (None, "127.0.0.1:8700", Some("http://example.com:9"), "http://127.0.0.1:8700"),
            (None, "127.0.0.1:8700", Some("http://127.0.0.1:9"), "http://127.0.0.1:8700"),
            (None, "127.0.0.1:8700", Some("http://127.0.0.1"), "http://127.0.0.1:8700"),
            (None, "127.0.0.1:8700", Some("http://evil.test"), "http://127.0.0.1:8700"),
            (None, "127.0.0.1:8700", Some("http://example.com.evil.test"), "http://127.0.0.1:8700"),
            (None, "127.0.0.1:8700", Some("nonsense"), "http://127.0.0.1:8700"),
        ] {
            let ours = Ours { self_url, domain: "example.com", listen: address(listen) };
            assert_eq!(ours.main_origin(request), origin, "{request:?}");
        }
    }

    #[test]
    fn what_else_listens_on_this_machine_is_not_ours() {
        let ours = Ours { self_url: None, domain: "localhost", listen: address("127.0.0.1:8700") };
        let is_ours = |url: &str| ours.has(&Url::parse(url).expect("a URL"), |addr| addr.is_loopback());
        for url in ["http://localhost:8700/", "http://api.localhost:8700/", "http://127.0.0.1:8700/"] {
            assert!(is_ours(url), "{url}");
        }
        for url in ["http://localhost:9000/", "http://localhost/", "http://api.localhost:9000/", "http://127.0.0.1:9000/"] {
            assert!(!is_ours(url), "{url}");
        }
    }

    #[test]
    fn what_is_ours_is_known_by_every_name_of_it() {
        let here = |addr: IpAddr| addr.is_loopback() || addr == IpAddr::from([10, 0, 0, 5]);
        let is_ours = |listen: &str, url: &str| {
            let ours = Ours { self_url: Some("https://sandbar.corp:8443"), domain: "example.com", listen: address(listen) };
            ours.has(&Url::parse(url).expect("a URL"), here)
        };
        for (listen, url, expected) in [
            ("0.0.0.0:8700", "https://sandbar.corp:8443/api", true),
            ("0.0.0.0:8700", "https://sandbar.corp/api", false),
            ("0.0.0.0:8700", "https://example.com/", true),
            ("0.0.0.0:8700", "https://example.com./", true),
            ("0.0.0.0:8700", "http://API.example.com:8700/", true),
            // Sandboxes live below the domain.
            ("0.0.0.0:8700", "https://sb-1.example.com/", false),
            ("0.0.0.0:8700", "https://notexample.com/", false),
            ("0.0.0.0:8700", "http://127.0.0.1:8700/", true),
            ("0.0.0.0:8700", "http://10.0.0.5:8700/", true),
            ("[::]:8700", "http://10.0.0.5:8700/", true),
            ("[::]:8700", "http://[::ffff:10.0.0.5]:8700/", true),
            ("0.0.0.0:8700", "http://10.0.0.6:8700/", false),
            ("0.0.0.0:8700", "http://10.0.0.5:8701/", false),
            ("0.0.0.0:8700", "http://localhost:8700/", true),
            ("127.0.0.1:8700", "http://localhost:8700/", true),
            ("127.0.0.1:8700", "http://10.0.0.5:8700/", false),
            ("10.0.0.5:80", "http://10.0.0.5/", true),
            ("10.0.0.5:80", "http://localhost/", false),
            ("0.0.0.0:8700", "https://other.test/", false),
        ] {
            assert_eq!(is_ours(listen, url), expected, "{url} at {listen}");
        }
        assert!(is_of_this_machine(Ipv4Addr::LOCALHOST.into()) && !is_of_this_machine(IpAddr::from([192, 0, 2, 1])));
    }
}
