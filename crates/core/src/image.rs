//! Names of images: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, as everywhere in the field.
//! Source: OCI distribution specification, "Pulling manifests"; the reference grammar of `distribution/reference`.

use std::{fmt, str::FromStr};

/// The image that is built in.
pub const HOST: &str = "host";
/// What the default registry is called in names that say it, and the part of its paths that short names leave out.
const DEFAULT_REGISTRIES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
const DEFAULT_NAMESPACE: &str = "library/";
/// What is meant where no tag is said.
pub const TAG_DEFAULT: &str = "latest";
const NAME_MAX_BYTES: usize = 255;
const TAG_MAX_BYTES: usize = 128;

/// The name of an image, whole: with its tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// Where it is pulled from; the default registry, or this machine alone, when absent.
    pub registry: Option<String>,
    pub path: String,
    pub tag: Option<String>,
    /// `sha256:` and 64 hex digits.
    pub digest: Option<String>,
}

/// Why a text is no name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name of an image: {why}; names look like \"python:3.12\" or \"registry.example:5000/team/app@sha256:...\"")]
pub struct ImageNameError {
    text: String,
    why: &'static str,
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let shown = || text.chars().filter(|c| !c.is_control()).take(100).collect();
        parse(text).map_err(|why| ImageNameError { text: shown(), why })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether a text is the id of an image's content: `sha256:` and 64 hex digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn parse(text: &str) -> Result<ImageName, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if is_digest(text) {
        return Err("it is the id of a content");
    }
    if text.len() > NAME_MAX_BYTES {
        return Err("it is longer than 255 bytes");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
        Some(_) => return Err("after @ there must be sha256: and 64 hex digits"),
        None => (text, None),
    };
    // A colon in the last part begins the tag; before, it is the port's.
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    let (rest, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag has letters, digits, \"_\", \".\" and \"-\", at most 128, and begins with one of the first three kinds but \".\"");
    }
    let (registry, path) = match rest.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        _ => (None, rest),
    };
    if registry.is_some_and(|registry| !is_host(registry)) {
        return Err("its registry is no HOST or HOST:PORT");
    }
    if !path.split('/').all(is_part) {
        return Err("each part of its path has lower-case letters and digits, with single \".\", \"_\", \"__\" or \"-\" between them");
    }
    if registry.is_none() && path == HOST && (tag.is_some() || digest.is_some()) {
        return Err("the built-in image \"host\" has no tags");
    }
    // One content has one name here, however it was written.
    let (registry, path) = match registry {
        Some(known) if DEFAULT_REGISTRIES.contains(&known) => (None, path.strip_prefix(DEFAULT_NAMESPACE).filter(|rest| !rest.contains('/')).unwrap_or(path)),
        other => (other, path),
    };
    if registry.is_none() && path == HOST && rest != HOST {
        return Err("\"host\" is the built-in image, not one of a registry");
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) if registry.is_none() && path == HOST => None,
        (None, None) => Some(TAG_DEFAULT.to_owned()),
    };
    Ok(ImageName { registry: registry.map(str::to_owned), path: path.to_owned(), tag, digest })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_MAX_BYTES).contains(&tag.len()) && word(tag.as_bytes()[0]) && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_host(host: &str) -> bool {
    // An IPv6 address stands in brackets.
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| address.parse::<std::net::Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port)));
    }
    let (name, port) = match host.find(':') {
        Some(colon) => host.split_at(colon),
        None => (host, ""),
    };
    let label =
        |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    name.split('.').all(label) && (port.is_empty() || is_port(port))
}

/// With its colon.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|port| port != 0))
}

fn is_part(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(*first) || !word(*last) {
        return false;
    }
    // Between letters and digits: ".", "_", "__", or any number of "-".
    part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let table = [
            ("python", None, "python", Some("latest"), "python:latest"),
            ("python:3.12-slim", None, "python", Some("3.12-slim"), "python:3.12-slim"),
            ("team/app", None, "team/app", Some("latest"), "team/app:latest"),
            ("localhost/app", Some("localhost"), "app", Some("latest"), "localhost/app:latest"),
            ("127.0.0.1:5000/a/b__c:V1", Some("127.0.0.1:5000"), "a/b__c", Some("V1"), "127.0.0.1:5000/a/b__c:V1"),
            ("[::1]:5000/a", Some("[::1]:5000"), "a", Some("latest"), "[::1]:5000/a:latest"),
            ("registry.example/app", Some("registry.example"), "app", Some("latest"), "registry.example/app:latest"),
            ("docker.io/library/python:3", None, "python", Some("3"), "python:3"),
            ("index.docker.io/team/app", None, "team/app", Some("latest"), "team/app:latest"),
            ("docker.io/library/a/b", None, "library/a/b", Some("latest"), "library/a/b:latest"),
            ("host", None, "host", None, "host"),
        ];
        for (text, registry, path, tag, shown) in table {
            let name: ImageName = text.parse().expect(text);
            assert_eq!((name.registry.as_deref(), name.path.as_str(), name.tag.as_deref(), name.to_string().as_str()), (registry, path, tag, shown));
        }
        let name: ImageName = format!("a.b/c@{digest}").parse().expect("a digest");
        assert_eq!((name.tag.as_deref(), name.digest.as_deref()), (None, Some(digest.as_str())));
        let both: ImageName = format!("a.b/c:t@{digest}").parse().expect("both");
        assert_eq!(both.to_string(), format!("a.b/c:t@{digest}"));
    }

    #[test]
    fn what_is_no_name() {
        let (long, digest) = ("a".repeat(256), format!("sha256:{}", "a1".repeat(32)));
        let table = [
            digest.as_str(),
            "",
            " ",
            "A",
            "a b",
            "a:",
            "a:-x",
            "/a",
            "a/",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a.b:/c",
            "a.b:0/c",
            "a.b:70000/c",
            "a@sha256:ab",
            "host:1",
            "../etc",
            "a/../b",
            "a\n",
            "-x.y/a",
            "[::1/a",
            &long,
        ];
        for text in table {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(text in "[a-z0-9.:/@_-]{1,40}") {
            if let Ok(name) = text.parse::<ImageName>() {
                prop_assert_eq!(name.to_string().parse::<ImageName>(), Ok(name));
            }
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,300}") {
            let _ = text.parse::<ImageName>();
        }
    }
}
