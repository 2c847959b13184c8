//! How mail of scripts leaves: the URL of an SMTP server.

use std::{fmt, str::FromStr};

use url::{Host, Url};

/// A server that takes mail.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpConfig {
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    pub login: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    Off,
    /// STARTTLS when the server offers it.
    IfOffered,
    /// STARTTLS, or no mail.
    Required,
    /// From the first byte.
    Wrapped,
}

impl FromStr for SmtpConfig {
    type Err = String;

    /// `smtp://[USER:PASSWORD@]HOST[:PORT][?tls=required|opportunistic|none]` or `smtps://...`. A password is not sent to another
    /// machine without TLS, unless `tls=none` says so.
    fn from_str(text: &str) -> Result<Self, String> {
        // The text has a password in it, so no error shows it.
        let wrong = |what: &str| format!("the SMTP URL {what}; it is smtp://[USER:PASSWORD@]HOST[:PORT][?tls=required|opportunistic|none] or smtps://...");
        let url = Url::parse(text).map_err(|error| wrong(&format!("cannot be read ({error})")))?;
        let wrapped = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            _ => return Err(wrong("is neither smtp nor smtps")),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(wrong("has a path"));
        }
        // Of a scheme that it does not know the parser leaves the host as it stands.
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?;
        let host = Host::parse(host).map_err(|_| wrong("names no host"))?;
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => {
                let plain = |text| unescape(text).ok_or_else(|| wrong("has a user or password that is not percent-encoded"));
                Some((plain(user)?, plain(password)?))
            }
            _ => return Err(wrong("has a user without a password, or the other way round")),
        };
        let is_local = match &host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(addr) => addr.is_loopback(),
            Host::Ipv6(addr) => addr.is_loopback(),
        };
        let mut tls = match (wrapped, &login) {
            (true, _) => SmtpTls::Wrapped,
            (false, Some(_)) if !is_local => SmtpTls::Required,
            (false, _) => SmtpTls::IfOffered,
        };
        for (key, value) in url.query_pairs() {
            tls = match (key.as_ref(), value.as_ref()) {
                ("tls", "required") if !wrapped => SmtpTls::Required,
                ("tls", "opportunistic") if !wrapped => SmtpTls::IfOffered,
                ("tls", "none") if !wrapped => SmtpTls::Off,
                _ => return Err(wrong("has something behind the question mark that nobody knows")),
            };
        }
        let host = match host {
            Host::Domain(name) => name,
            Host::Ipv4(addr) => addr.to_string(),
            Host::Ipv6(addr) => addr.to_string(),
        };
        let usual = match tls {
            SmtpTls::Wrapped => 465,
            SmtpTls::Required => 587,
            SmtpTls::Off | SmtpTls::IfOffered => 25,
        };
        Ok(Self { host, port: url.port().unwrap_or(usual), tls, login })
    }
}

/// Percent-encoded text as it is meant.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                (digit(rest.next())? * 16 + digit(rest.next())?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

impl fmt::Debug for SmtpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, tls, login } = self;
        write!(f, "{host}:{port} {tls:?}{}", if login.is_some() { " with a login" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_how_it_is_spoken_to() {
        for (text, host, port, tls, login) in [
            ("smtp://127.0.0.1:2525", "127.0.0.1", 2525, SmtpTls::IfOffered, None),
            ("smtp://mail.test", "mail.test", 25, SmtpTls::IfOffered, None),
            ("smtp://mail.test/?tls=none", "mail.test", 25, SmtpTls::Off, None),
            ("smtp://u:p@mail.test", "mail.test", 587, SmtpTls::Required, Some(("u", "p"))),
            ("smtp://u:p@mail.test:25?tls=none", "mail.test", 25, SmtpTls::Off, Some(("u", "p"))),
            ("smtp://u:p@localhost:25", "localhost", 25, SmtpTls::IfOffered, Some(("u", "p"))),
            ("smtp://mail.test?tls=required", "mail.test", 587, SmtpTls::Required, None),
            ("smtps://u%40a.test:p%3A%25@mail.test", "mail.test", 465, SmtpTls::Wrapped, Some(("u@a.test", "p:%"))),
            ("smtps://[::1]:99", "::1", 99, SmtpTls::Wrapped, None),
        ] {
            let login = login.map(|(user, password): (&str, &str)| (user.to_owned(), password.to_owned()));
            assert_eq!(text.parse(), Ok(SmtpConfig { host: host.into(), port, tls, login }), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_without_the_password() {
        for text in [
            "mail.test",
            "http://u:secret@mail.test",
            "smtp://u:secret@",
            "smtp://u@mail.test",
            "smtp://:secret@mail.test",
            "smtp://u:secret@mail.test/x",
            "smtp://u:secret@mail.test?tls=maybe",
            "smtps://u:secret@mail.test?tls=none",
            "smtp://u:secret%0a@mail.test",
            "smtp://u:secret%zz@mail.test",
            "smtp://mail.test#x",
        ] {
            let error = text.parse::<SmtpConfig>().expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
        let config: SmtpConfig = "smtp://u:secret@mail.test".parse().unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
