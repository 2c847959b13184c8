//! A registry, as far as pulling needs it. Everything that it says has a bound, and where it sends us is looked at before
//! we go: its redirects and token services must not reach what is protected, and what they answer is shown to nobody.
//! Sources: OCI distribution specification, "Pulling"; distribution's `docs/spec/auth/token.md`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header,
};
use sandbar_core::{egress::Protected, image::ImageName};
use serde::Deserialize;

use super::{
    ImageError, Pull,
    config::{CONFIG_MAX_BYTES, digest_of, platform},
};

/// Where images without a registry in their name come from, and the part of their path that short names leave out.
const DEFAULT_HOST: &str = "registry-1.docker.io";
const DEFAULT_NAMESPACE: &str = "library";
/// All of a manifest, a configuration or a token has to come within this time.
const SMALL_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// A registry that sends nothing for this long is gone.
const READ_WITHIN: Duration = Duration::from_secs(60);
const TOKEN_MAX_BYTES: u64 = 1 << 20;
const ERROR_MAX_BYTES: u64 = 64 << 10;
const REDIRECTS_MAX: usize = 5;
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// One image's repository in a registry.
pub(super) struct Registry {
    /// For the registry itself, when it was named by somebody who may name any.
    own: Client,
    /// For everything else: finds no protected address.
    guarded: Client,
    base: Url,
    repository: String,
    is_trusted: bool,
    credentials: Option<super::Credentials>,
    /// What `Authorization` says, once that is known.
    authorization: Mutex<Option<String>>,
    protected: Arc<Protected>,
}

/// What a manifest names.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Descriptor {
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An image's manifest.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub digest: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Registry {
    pub fn new(pull: &Pull, protected: Arc<Protected>) -> Result<Self, ImageError> {
        let ImageName { registry, path, .. } = &pull.name;
        let host = registry.as_deref().unwrap_or(DEFAULT_HOST);
        let repository = if registry.is_none() && !path.contains('/') { format!("{DEFAULT_NAMESPACE}/{path}") } else { path.clone() };
        let scheme = if pull.plain_http || is_loopback(host) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| ImageError::Registry(format!("its address: {error}")))?;
        let client = |guard: Option<Arc<Protected>>| {
            let builder = Client::builder()
                .user_agent(concat!("sandbar/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_WITHIN)
                .read_timeout(READ_WITHIN)
                .redirect(reqwest::redirect::Policy::none());
            let builder = match guard {
                Some(protected) => builder.dns_resolver(Arc::new(Guard(protected))),
                None => builder,
            };
            builder.build().map_err(|error| ImageError::Registry(format!("a client cannot be made: {}", shown(&error))))
        };
        let (own, guarded) = (client(None)?, client(Some(Arc::clone(&protected)))?);
        let credentials = pull.credentials.clone();
        Ok(Self { own, guarded, base, repository, is_trusted: pull.is_trusted, credentials, authorization: Mutex::default(), protected })
    }

    /// The manifest for this machine, by way of a list where there is one.
    pub async fn manifest(&self, name: &ImageName) -> Result<Manifest, ImageError> {
        let asked = name.digest.as_deref().or(name.tag.as_deref()).unwrap_or_default();
        let (mut digest, mut wire) = self.one_manifest(asked).await?;
        if let Some(list) = wire.manifests {
            let (os, architecture) = platform();
            let is_ours = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|platform| platform.os == os && platform.architecture == architecture);
            let Some(ours) = list.iter().find(is_ours) else {
                return Err(ImageError::Malformed(format!("its list of manifests has none for the platform of this machine, {os}/{architecture}")));
            };
            (digest, wire) = self.one_manifest(&ours.digest).await?;
        }
        let config = wire.config.ok_or_else(|| ImageError::Malformed("its manifest names no configuration".to_owned()))?;
        Ok(Manifest { digest, config, layers: wire.layers })
    }

    async fn one_manifest(&self, reference: &str) -> Result<(String, Wire), ImageError> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let body = within(SMALL_WITHIN, async { bounded(self.get(url, Some(ACCEPTED), 0).await?, CONFIG_MAX_BYTES, "a manifest").await }).await?;
        let digest = digest_of(&body);
        if sandbar_core::image::is_digest(reference) && digest != reference {
            return Err(ImageError::Malformed(format!("manifest {reference} came with other contents, with the digest {digest}")));
        }
        let wire = serde_json::from_slice(&body).map_err(|error| ImageError::Malformed(format!("its manifest cannot be read: {error}")))?;
        Ok((digest, wire))
    }

    /// The text of a configuration, checked.
    pub async fn config(&self, descriptor: &Descriptor) -> Result<String, ImageError> {
        let url = self.url(&format!("blobs/{}", descriptor.digest))?;
        let body = within(SMALL_WITHIN, async { bounded(self.get(url, None, 0).await?, CONFIG_MAX_BYTES, "a configuration").await }).await?;
        let digest = digest_of(&body);
        if digest != descriptor.digest {
            return Err(ImageError::Malformed(format!("its configuration {} came with other contents, with the digest {digest}", descriptor.digest)));
        }
        String::from_utf8(body).map_err(|_| ImageError::Malformed("its configuration is no text".to_owned()))
    }

    /// A layer from `offset` on; `true` when the registry sends it from there, and not from its beginning.
    pub async fn layer(&self, descriptor: &Descriptor, offset: u64) -> Result<(Response, bool), ImageError> {
        let url = self.url(&format!("blobs/{}", descriptor.digest))?;
        let response = within(SMALL_WITHIN, self.get(url, None, offset)).await?;
        let continues = response.status() == StatusCode::PARTIAL_CONTENT;
        Ok((response, continues))
    }

    fn url(&self, rest: &str) -> Result<Url, ImageError> {
        self.base.join(&format!("{}/{rest}", self.repository)).map_err(|error| ImageError::Registry(format!("its address: {error}")))
    }

    /// Asks, with a token when one is wanted, and goes where the registry sends us.
    async fn get(&self, url: Url, accept: Option<&str>, offset: u64) -> Result<Response, ImageError> {
        let response = self.follow(url.clone(), accept, offset).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return accepted(response).await;
        }
        let challenges: Vec<_> = response.headers().get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let authorization = self.authorize(&challenges).await?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        accepted(self.follow(url, accept, offset).await?).await
    }

    async fn follow(&self, mut url: Url, accept: Option<&str>, offset: u64) -> Result<Response, ImageError> {
        for _ in 0..=REDIRECTS_MAX {
            let is_own = self.is_own(&url);
            let mut request = self.client_for(&url)?.get(url.clone());
            if let Some(accept) = accept {
                request = request.header(header::ACCEPT, accept);
            }
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            // Nobody but the registry itself gets what it gave us.
            if let Some(authorization) = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| is_own) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let host = url.host_str().unwrap_or_default().to_owned();
            let response = request.send().await.map_err(|error| ImageError::Registry(format!("{host}: {}", shown(&error))))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let to = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
            url = url.join(to).map_err(|_| ImageError::Registry("it redirects to what is no address".to_owned()))?;
        }
        Err(ImageError::Registry(format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    fn is_own(&self, url: &Url) -> bool {
        url.scheme() == self.base.scheme() && url.host_str() == self.base.host_str() && url.port_or_known_default() == self.base.port_or_known_default()
    }

    /// The client that may go there.
    fn client_for(&self, url: &Url) -> Result<&Client, ImageError> {
        let is_own = self.is_own(url);
        match url.scheme() {
            "https" => {}
            "http" if self.base.scheme() == "http" => {}
            other => return Err(ImageError::Registry(format!("it leads to an address of the kind {other:?}, which is not followed from here"))),
        }
        if is_own && self.is_trusted {
            return Ok(&self.own);
        }
        let literal = url.host_str().unwrap_or_default().trim_matches(['[', ']']).parse::<IpAddr>().ok();
        if let Some(reason) = literal.and_then(|address| self.protected.reason(address)) {
            let host = url.host_str().unwrap_or_default();
            return Err(ImageError::Registry(format!("{host} is not asked: {reason} (the operator can allow it by --egress-allow)")));
        }
        Ok(&self.guarded)
    }

    /// What `Authorization` has to say after these challenges.
    async fn authorize(&self, challenges: &[&str]) -> Result<String, ImageError> {
        let basic = self.credentials.as_ref().map(|given| {
            let pair = format!("{}:{}", given.username, given.password);
            format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, pair))
        });
        for challenge in challenges {
            let (kind, parameters) = challenge.trim().split_once(' ').unwrap_or((challenge, ""));
            if kind.eq_ignore_ascii_case("bearer") {
                return self.token(&parameters_of(parameters), basic).await;
            }
            if kind.eq_ignore_ascii_case("basic") {
                return basic.ok_or_else(|| ImageError::Credentials("without any it gives nothing".to_owned()));
            }
        }
        Err(ImageError::Credentials("it says 401 and not how to authenticate".to_owned()))
    }

    async fn token(&self, parameters: &[(String, String)], basic: Option<String>) -> Result<String, ImageError> {
        let of = |key: &str| parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str());
        let mut url =
            of("realm").and_then(|realm| Url::parse(realm).ok()).ok_or_else(|| ImageError::Registry("its token service has no address".to_owned()))?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = of("service") {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &format!("repository:{}:pull", self.repository));
        }
        let mut request = self.client_for(&url)?.get(url);
        if let Some(basic) = basic {
            request = request.header(header::AUTHORIZATION, basic);
        }
        #[derive(Deserialize)]
        struct Token {
            #[serde(alias = "access_token")]
            token: String,
        }
        within(SMALL_WITHIN, async {
            let response = request.send().await.map_err(|error| ImageError::Registry(format!("its token service: {}", shown(&error))))?;
            if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Err(ImageError::Credentials("its token service refuses them".to_owned()));
            }
            let status = response.status();
            if !status.is_success() {
                return Err(ImageError::Registry(format!("its token service answered {}", status.as_u16())));
            }
            let body = bounded(response, TOKEN_MAX_BYTES, "a token").await?;
            let token: Token = serde_json::from_slice(&body).map_err(|_| ImageError::Registry("its token service sent no token".to_owned()))?;
            if token.token.bytes().all(|byte| byte.is_ascii_graphic()) {
                Ok(format!("Bearer {}", token.token))
            } else {
                Err(ImageError::Registry("its token service sent no token".to_owned()))
            }
        })
        .await
    }
}

/// Finds no protected address.
struct Guard(Arc<Protected>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let protected = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let open: Vec<SocketAddr> = found.filter(|address| protected.reason(address.ip()).is_none()).collect();
            if open.is_empty() {
                return Err(format!("{} has only protected addresses (the operator can allow them by --egress-allow)", name.as_str()).into());
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = Result<T, ImageError>>) -> Result<T, ImageError> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(ImageError::Registry(format!("it did not answer within {} s", time.as_secs()))))
}

/// A success, or what the registry says against it: its code, never its words.
async fn accepted(response: Response) -> Result<Response, ImageError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Coded>,
    }
    #[derive(Deserialize)]
    struct Coded {
        code: String,
    }
    let body = bounded(response, ERROR_MAX_BYTES, "an error").await.unwrap_or_default();
    let code = serde_json::from_slice::<Errors>(&body).ok().and_then(|errors| errors.errors.into_iter().next()).map(|error| error.code);
    let code: String = code.unwrap_or_default().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
    let said = if code.is_empty() { format!("status {}", status.as_u16()) } else { format!("status {}, {code}", status.as_u16()) };
    Err(match status {
        StatusCode::NOT_FOUND => ImageError::NoSuchImage(said),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ImageError::Credentials(said),
        _ => ImageError::Registry(said),
    })
}

/// A whole body of at most `max` bytes.
async fn bounded(mut response: Response, max: u64, what: &str) -> Result<Vec<u8>, ImageError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| ImageError::Registry(shown(&error)))? {
        if (body.len() + piece.len()) as u64 > max {
            return Err(ImageError::Malformed(format!("{what} has more than {max} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// `key="value", key=value` as pairs.
fn parameters_of(text: &str) -> Vec<(String, String)> {
    let (mut pairs, mut rest) = (Vec::new(), text.trim());
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        pairs.push((key.trim().to_owned(), value.to_owned()));
        rest = after.trim_start_matches([',', ' ']);
    }
    pairs
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error and its causes, without the address: that may hold what a redirect signed.
pub(super) fn shown(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { "the connection failed".to_owned() };
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let of = |text: &str| parameters_of(text).into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        assert_eq!(of(r#"realm="https://a.b/token?x=1,2",service="a b", scope=c"#), "realm=https://a.b/token?x=1,2 service=a b scope=c");
        assert_eq!(of(""), "");
        assert_eq!(of("realm=\"open"), "realm=open");
        assert_eq!(of("=,=="), "= ==");
    }

    #[test]
    fn loopback_is_known_by_its_address() {
        let table =
            [("localhost", true), ("localhost:5000", true), ("127.0.0.1:5000", true), ("[::1]:5000", true), ("10.0.0.1", false), ("localhost.example", false)];
        for (host, wanted) in table {
            assert_eq!(is_loopback(host), wanted, "{host}");
        }
    }
}
