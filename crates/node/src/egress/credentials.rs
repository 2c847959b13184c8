//! Secrets put into requests on their way. What is said about a failure never repeats any of them.
use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use sandbar_core::credential::Material;
use sandbar_core::egress::{FRAMING_HEADERS, Projection, Replacement, Template};

/// Why a secret was not put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("its credential source is not there")]
    Missing,
    #[error("its credential source cannot be opened")]
    Closed,
    #[error("its credential source has not all values that it needs")]
    Values,
    #[error("what its credential source holds does not fit into a request")]
    Form,
}

/// What is put into a request, made before anything of the request is changed.
pub(super) enum Secret {
    Headers(Vec<(HeaderName, HeaderValue)>),
    Placeholders(Vec<Placeholder>),
}

pub(super) struct Placeholder {
    text: String,
    secret: String,
    in_headers: bool,
    in_query: bool,
    in_body: bool,
}

impl Secret {
    /// Of a binding that is about requests.
    pub fn make(projection: &Projection, material: Option<&Material>) -> Result<Self, CredentialError> {
        let values = values(material.ok_or(CredentialError::Missing)?)?;
        let render = |template: &Template| template.render(&values).map_err(|_| CredentialError::Values);
        match projection {
            Projection::HttpHeaders(headers) => {
                let header = |(name, template): &(String, Template)| {
                    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| CredentialError::Form)?;
                    Ok((name, header_value(render(template)?.as_bytes())?))
                };
                headers.iter().map(header).collect::<Result<_, _>>().map(Self::Headers)
            }
            Projection::Placeholders(replacements) => {
                let placeholder = |replacement: &Replacement| {
                    let Replacement { placeholder, template, in_headers, in_query, in_body } = replacement;
                    let (in_headers, in_query, in_body) = (*in_headers, *in_query, *in_body);
                    Ok(Placeholder { text: placeholder.clone(), secret: render(template)?, in_headers, in_query, in_body })
                };
                replacements.iter().map(placeholder).collect::<Result<_, _>>().map(Self::Placeholders)
            }
            Projection::ClientCertificate | Projection::UsernamePassword | Projection::SshProxy(_) => Err(CredentialError::Form),
        }
    }

    /// Puts it into a request's head. A head that it does not fit into is as good as lost.
    pub fn put(&self, uri: &mut Uri, headers: &mut HeaderMap) -> Result<(), CredentialError> {
        match self {
            Self::Headers(own) => {
                for (name, value) in own {
                    headers.insert(name, value.clone());
                }
            }
            Self::Placeholders(placeholders) => {
                let in_headers = pairs(placeholders, |placeholder| placeholder.in_headers);
                for (name, value) in headers.iter_mut().filter(|(name, _)| !FRAMING_HEADERS.contains(&name.as_str())) {
                    let replaced = replace(value.as_bytes(), &in_headers).or_else(|| (name == AUTHORIZATION).then(|| replace_basic(value, &in_headers))?);
                    if let Some(replaced) = replaced {
                        *value = header_value(&replaced)?;
                    }
                }
                if let Some(query) = uri.query()
                    && let Some(replaced) = replace_query(query, &pairs(placeholders, |placeholder| placeholder.in_query))
                {
                    *uri = with_query(uri, &replaced).ok_or(CredentialError::Form)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the body has to be read as a whole for it.
    pub fn wants_body(&self) -> bool {
        matches!(self, Self::Placeholders(placeholders) if placeholders.iter().any(|placeholder| placeholder.in_body))
    }

    /// The body with it; None when it is as it was.
    pub fn put_into_body(&self, body: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Headers(_) => None,
            Self::Placeholders(placeholders) => replace(body, &pairs(placeholders, |placeholder| placeholder.in_body)),
        }
    }
}

fn values(material: &Material) -> Result<Cow<'_, BTreeMap<String, String>>, CredentialError> {
    match material {
        Material::Headers(values) => Ok(Cow::Borrowed(values)),
        Material::UsernamePassword { username, password } => {
            let values = [("username", username), ("password", password)];
            Ok(Cow::Owned(values.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()))
        }
        Material::ClientCertificate { .. } | Material::SshPrivateKey { .. } => Err(CredentialError::Form),
    }
}

/// It is kept out of `Debug` and of HTTP/2's tables.
fn header_value(bytes: &[u8]) -> Result<HeaderValue, CredentialError> {
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| CredentialError::Form)?;
    value.set_sensitive(true);
    Ok(value)
}

type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The longest first, so that one that begins like another is not taken for it.
fn pairs(placeholders: &[Placeholder], is_here: impl Fn(&Placeholder) -> bool) -> Pairs<'_> {
    let here = placeholders.iter().filter(|placeholder| is_here(placeholder) && !placeholder.text.is_empty());
    let mut pairs: Pairs<'_> = here.map(|placeholder| (placeholder.text.as_bytes(), placeholder.secret.as_bytes())).collect();
    pairs.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    pairs
}

/// All placeholders in one go, so that none is looked for in a secret. None when there are none.
fn replace(bytes: &[u8], pairs: &Pairs<'_>) -> Option<Vec<u8>> {
    let find = |at: usize| pairs.iter().find(|(text, _)| bytes[at..].starts_with(text));
    let mut first = (0..bytes.len()).find(|at| find(*at).is_some())?;
    let mut out = bytes[..first].to_vec();
    while first < bytes.len() {
        match find(first) {
            Some((text, secret)) => {
                out.extend_from_slice(secret);
                first += text.len();
            }
            None => {
                out.push(bytes[first]);
                first += 1;
            }
        }
    }
    Some(out)
}

/// In `Basic` the name and the password are encoded together.
fn replace_basic(value: &HeaderValue, pairs: &Pairs<'_>) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let replaced = replace(&BASE64.decode(encoded.trim()).ok()?, pairs)?;
    Some(format!("{scheme} {}", BASE64.encode(replaced)).into_bytes())
}

/// What has no placeholder stays as it was written, and all stays in its order.
fn replace_query(query: &str, pairs: &Pairs<'_>) -> Option<String> {
    let mut any = false;
    let mut part = |text: &str| {
        let decoded = form_urlencoded::parse(text.as_bytes()).next().map(|(text, _)| text.into_owned()).unwrap_or_default();
        match replace(decoded.as_bytes(), pairs) {
            Some(replaced) => {
                any = true;
                form_urlencoded::byte_serialize(&replaced).collect::<String>()
            }
            None => text.to_owned(),
        }
    };
    let mut parameter = |text: &str| match text.split_once('=') {
        Some((name, value)) => format!("{}={}", part(name), value.split('=').map(&mut part).collect::<Vec<_>>().join("=")),
        None => part(text),
    };
    let replaced = query.split('&').map(&mut parameter).collect::<Vec<_>>().join("&");
    any.then_some(replaced)
}

fn with_query(uri: &Uri, query: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{}?{query}", uri.path())).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn material() -> Material {
        Material::Headers(BTreeMap::from([("token".to_owned(), "s3 cr&t".to_owned()), ("bad".to_owned(), "a\nb".to_owned())]))
    }

    fn headers(template: &str) -> Projection {
        Projection::HttpHeaders(vec![("authorization".to_owned(), Template::parse(template).unwrap())])
    }

    fn placeholder(text: &str) -> Replacement {
        let template = Template::parse("{{ .token }}").unwrap();
        Replacement { placeholder: text.to_owned(), template, in_headers: true, in_query: true, in_body: true }
    }

    #[test]
    fn headers_take_the_place_of_the_clients() {
        let secret = Secret::make(&headers("Bearer {{ .token }}"), Some(&material())).unwrap();
        let mut own = HeaderMap::new();
        own.append(AUTHORIZATION, "mine".parse().unwrap());
        own.append(AUTHORIZATION, "other".parse().unwrap());
        secret.put(&mut Uri::from_static("/"), &mut own).unwrap();
        assert_eq!(own.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer s3 cr&t"]);
        assert_eq!(format!("{own:?}"), r#"{"authorization": Sensitive}"#);
    }

    #[test]
    fn what_cannot_be_made_says_nothing_of_the_secret() {
        let fails = |projection: &Projection, material: Option<&Material>| Secret::make(projection, material).err();
        assert_eq!(fails(&headers("{{ .token }}"), None), Some(CredentialError::Missing));
        assert_eq!(fails(&headers("{{ .other }}"), Some(&material())), Some(CredentialError::Values));
        assert_eq!(fails(&headers("{{ .bad }}"), Some(&material())), Some(CredentialError::Form));
    }

    #[test]
    fn placeholders_are_replaced_where_they_may_be() {
        let secret = Secret::make(&Projection::Placeholders(vec![placeholder("KEY"), placeholder("KEY2")]), Some(&material())).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-key", "a KEY b KEY2"), ("host", "KEY"), ("x-other", "key")] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.insert(AUTHORIZATION, format!("Basic {}", BASE64.encode("me:KEY")).parse().unwrap());
        let mut uri = Uri::from_static("http://a.test/KEY?b=%31&a=KEY&c=%4bEY=x&KEY&d");
        secret.put(&mut uri, &mut headers).unwrap();
        let value = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!([value("x-key"), value("host"), value("x-other")], ["a s3 cr&t b s3 cr&t", "KEY", "key"]);
        assert_eq!(value("authorization"), format!("Basic {}", BASE64.encode("me:s3 cr&t")));
        assert_eq!(uri, "http://a.test/KEY?b=%31&a=s3+cr%26t&c=s3+cr%26t=x&s3+cr%26t&d");
        assert_eq!(secret.put_into_body(b"{\"k\":\"KEY\"}").unwrap(), b"{\"k\":\"s3 cr&t\"}");
        assert_eq!(secret.put_into_body(b"KE"), None);
    }

    #[test]
    fn a_secret_is_not_looked_into() {
        let both = vec![(&b"A"[..], &b"B"[..]), (b"B", b"A")];
        assert_eq!(replace(b"ABx", &both).unwrap(), b"BAx");
        assert_eq!(replace(b"", &both), None);
    }
}
