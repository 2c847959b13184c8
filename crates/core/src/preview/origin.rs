//! Whose page asks through a preview. The cookie that opens one goes with requests of every page that is around or beside it
//! in the same browser, so that a preview can be shown within another page; what such a page asks for is not what its visitor wants.

/// A request, as far as it tells whose page made it.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub method: &'a str,
    /// It asks for another protocol, such as a WebSocket.
    pub upgrades: bool,
    /// What the browser says in `Sec-Fetch-Site`, which no page can set.
    pub fetch_site: Option<&'a str>,
    /// The public host that is asked, with its port.
    pub host: &'a str,
    /// The request came by TLS.
    pub tls: bool,
}

impl Asker<'_> {
    /// Whether a page of one of these origins (all that the request names) must not ask for this. Whoever names none is no
    /// page of another host: browsers say it of WebSockets and of what changes something.
    pub fn is_stranger<'o>(&self, mut origins: impl Iterator<Item = &'o str>) -> bool {
        let only_asks = matches!(self.method, "GET" | "HEAD" | "OPTIONS") && !self.upgrades;
        !only_asks && origins.any(|origin| !self.is_own(origin))
    }

    /// An origin of the host itself, or of another port of the same sandbox: what is there reaches the server inside anyway.
    fn is_own(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if origin == "null" {
            // So do pages that let nobody know where they come from; that they are on the host is said elsewhere.
            return self.fetch_site == Some("same-origin");
        }
        let (default, asking) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
            (Some(host), _) => (":443", host),
            // Whoever can change what goes in the clear is another than the host.
            (None, Some(host)) if !self.tls => (":80", host),
            (None, _) => return false,
        };
        let asked = self.host.to_ascii_lowercase();
        let asked = asked.strip_suffix(default).unwrap_or(&asked);
        let asking = asking.strip_suffix(default).unwrap_or(asking);
        asking == asked || sandbox_of(asking).is_some_and(|of| Some(of) == sandbox_of(asked))
    }
}

/// The id of a sandbox and what follows its label, of the public host of a port.
fn sandbox_of(host: &str) -> Option<(&str, &str)> {
    let (label, domain) = host.split_once('.')?;
    let (id, port) = label.rsplit_once("--p")?;
    (!id.is_empty() && port.parse::<u16>().is_ok()).then_some((id, domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "sb-a--p5173.localhost:8700";
    const OWN: &str = "http://sb-a--p5173.localhost:8700";
    const EVIL: &str = "http://evil.test";

    #[test]
    fn pages_of_others_open_no_sockets_and_change_nothing() {
        // Method, upgrade, origin, whether it is refused.
        for (method, upgrades, origin, refused) in [
            ("GET", true, Some(OWN), false),
            ("GET", true, Some(EVIL), true),
            ("GET", true, None, false),
            ("GET", false, Some(EVIL), false),
            ("HEAD", false, Some(EVIL), false),
            ("OPTIONS", false, Some(EVIL), false),
            ("OPTIONS", true, Some(EVIL), true),
            ("POST", false, Some(OWN), false),
            ("POST", false, Some(EVIL), true),
            ("POST", false, None, false),
            ("PUT", false, Some(EVIL), true),
            ("PATCH", false, Some(EVIL), true),
            ("DELETE", false, Some(EVIL), true),
            ("CONNECT", false, Some(EVIL), true),
            ("get", false, Some(EVIL), true),
            ("PROPFIND", false, Some(EVIL), true),
        ] {
            let asker = Asker { method, upgrades, fetch_site: None, host: HOST, tls: false };
            assert_eq!(asker.is_stranger(origin.into_iter()), refused, "{method} {upgrades} {origin:?}");
        }
        let asker = Asker { method: "POST", upgrades: false, fetch_site: None, host: HOST, tls: false };
        assert!(asker.is_stranger([OWN, EVIL].into_iter()), "one of two is enough");
    }

    #[test]
    fn the_host_and_other_ports_of_its_sandbox_are_own_and_nobody_else() {
        let plain = "sb-a--p5173.sandboxes.example";
        // Host, by TLS, origin, whether it is the host's own.
        for (host, tls, origin, own) in [
            (HOST, false, OWN, true),
            (HOST, false, "HTTP://SB-A--P5173.LOCALHOST:8700", true),
            (HOST, false, "http://sb-a--p3000.localhost:8700", true),
            (HOST, false, "http://sb-b--p5173.localhost:8700", false),
            (HOST, false, "http://sb-a--p5173.localhost:8701", false),
            (HOST, false, "http://sb-a--p5173.localhost", false),
            (HOST, false, "http://sb-a--px.localhost:8700", false),
            (HOST, false, "http://localhost:8700", false),
            (HOST, false, "http://localhost:5173", false),
            (HOST, false, "http://sb-a--p5173.localhost:8700.evil.test", false),
            (HOST, false, "http://evil.test/sb-a--p5173.localhost:8700", false),
            (HOST, false, "//sb-a--p5173.localhost:8700", false),
            (HOST, false, "file://", false),
            (HOST, false, "", false),
            (plain, true, "https://sb-a--p5173.sandboxes.example", true),
            (plain, true, "https://sb-a--p1.sandboxes.example", true),
            (plain, true, "https://sb-a--p5173.sandboxes.example:443", true),
            ("sb-a--p5173.sandboxes.example:443", true, "https://sb-a--p5173.sandboxes.example", true),
            (plain, true, "http://sb-a--p5173.sandboxes.example", false),
            (plain, true, "https://sb-a--p5173.sandboxes.example:80", false),
            // Somebody in front of us has the TLS.
            (plain, false, "https://sb-a--p5173.sandboxes.example", true),
            (plain, false, "http://sb-a--p5173.sandboxes.example:80", true),
            (plain, true, "https://sb-a--p5173.example", false),
            (plain, true, "https://sandboxes.example", false),
        ] {
            let asker = Asker { method: "POST", upgrades: false, fetch_site: Some("same-site"), host, tls };
            assert_eq!(asker.is_stranger([origin].into_iter()), !own, "{host} {tls} {origin}");
        }
        for (fetch_site, refused) in [(Some("same-origin"), false), (Some("same-site"), true), (Some("cross-site"), true), (Some("none"), true), (None, true)] {
            let asker = Asker { method: "POST", upgrades: false, fetch_site, host: HOST, tls: false };
            assert_eq!(asker.is_stranger(["null"].into_iter()), refused, "{fetch_site:?}");
            assert!(asker.is_stranger([EVIL].into_iter()), "{fetch_site:?} says nothing of an origin that is told");
        }
    }
}
