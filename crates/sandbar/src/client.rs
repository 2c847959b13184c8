//! The API as the command line speaks it: a bearer token, the envelope, one error.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::{cli::Global, credentials};

const URL_DEFAULT: &str = "http://127.0.0.1:8700";
/// Where the address and the key come from when no flag says them.
pub const URL_VARIABLES: [&str; 2] = ["SANDBAR_URL", "SANDBOX0_BASE_URL"];
pub const TOKEN_VARIABLES: [&str; 2] = ["SANDBAR_TOKEN", "SANDBOX0_TOKEN"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An error's body beyond this many bytes is not looked at.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A connection to a server, or to be.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// The server and key that flags, environment or the stored login name, in this order.
    ///
    /// # Errors
    /// The stored login cannot be read, or there is no key at all.
    pub fn from_global(global: &Global) -> anyhow::Result<Self> {
        let stored = credentials::load()?;
        let url = first(&global.url, &URL_VARIABLES).or_else(|| stored.as_ref().map(|s| s.url.clone()));
        // A stored key belongs to the stored address: it is not shown to another server.
        let url_text = url.unwrap_or_else(|| URL_DEFAULT.into());
        let url = url_text.trim_end_matches('/').to_owned();
        parse_url(&url)?;
        let token = first(&global.token, &TOKEN_VARIABLES).or_else(|| stored.filter(|s| s.url.trim_end_matches('/') == url).map(|s| s.token));
        let Some(token) = token else {
            bail!("no API key for {url}: run `sandbar login`, or give --token or SANDBAR_TOKEN");
        };
        Self::new(&url, &token)
    }

    /// A client of one server.
    ///
    /// # Errors
    /// The address is no http or https URL, or the key cannot stand in a header.
    pub fn new(url: &str, token: &str) -> anyhow::Result<Self> {
        let parsed = parse_url(url)?;
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            bail!("the API key must be visible ASCII characters");
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sandbar/", env!("CARGO_PKG_VERSION")));
        if matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        Ok(Self { http: builder.build()?, base: url.trim_end_matches('/').into(), token: token.into() })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// A request with the key. `path` begins with a slash; ids in it are made safe by [`segment`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// Sends and turns every refusal into a [`Refusal`].
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| unreachable(&self.base, error))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await.into()) }
    }

    /// Sends and takes `data` out of the envelope.
    pub async fn data(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let response = self.send(request).await?;
        let mut body: Value = response.json().await.with_context(|| format!("{} sent no JSON; is it a Sandbar server?", self.base))?;
        Ok(body.get_mut("data").map(Value::take).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.data(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.data(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.data(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.data(self.request(Method::PATCH, path).json(body)).await
    }

    /// What a public host of the server answers, as text.
    pub async fn public(&self, url: &str, path: &str) -> anyhow::Result<String> {
        let response = self.ask_public(url, path).await?;
        let (status, text) = (response.status(), response.text().await?);
        if !status.is_success() {
            bail!("{url}{path} answered {status}: {text}");
        }
        Ok(text)
    }

    /// The status with which a public host of the server answers.
    pub async fn public_status(&self, url: &str, path: &str) -> anyhow::Result<u16> {
        Ok(self.ask_public(url, path).await?.status().as_u16())
    }

    /// Names below `localhost` need no resolver: they are the server's own machine.
    async fn ask_public(&self, url: &str, path: &str) -> anyhow::Result<Response> {
        let parsed = parse_url(url)?;
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy();
        if let Some(host) = parsed.host_str().filter(|host| host.ends_with(".localhost")) {
            let server = parse_url(&self.base)?;
            let ip = server.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            builder = builder.resolve(host, SocketAddr::new(ip, parsed.port_or_known_default().unwrap_or(80)));
        }
        let url = format!("{}{path}", url.trim_end_matches('/'));
        builder.build()?.get(&url).send().await.map_err(|error| unreachable(&url, error))
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.data(self.request(Method::DELETE, path)).await
    }
}

fn parse_url(url: &str) -> anyhow::Result<reqwest::Url> {
    match reqwest::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok(parsed),
        _ => bail!("{url:?} is no http or https URL; one looks like {URL_DEFAULT}"),
    }
}

/// `/api/v1/sandboxes/{id}` and what follows.
pub fn sandbox_path(id: &str, rest: &str) -> String {
    format!("/api/v1/sandboxes/{}{rest}", segment(id))
}

/// A text as one segment of a path.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (byte == b'.' && text.len() > 2) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What the server said instead of doing it.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub details: Option<Value>,
    pub request_id: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, HTTP {}", self.message, self.code, self.status)?;
        if let Some(id) = &self.request_id {
            write!(f, ", request {id}")?;
        }
        write!(f, ")")?;
        // A list of {path, message} is what a refused body comes back with.
        let lists = |details: &Value| ["errors", "diagnostics"].into_iter().find_map(|key| details.get(key)).unwrap_or(details).as_array().cloned();
        for item in self.details.as_ref().and_then(lists).into_iter().flatten() {
            // The first, or all, may have been told.
            if let (Some(path), Some(message)) = (item["path"].as_str(), item["message"].as_str())
                && !self.message.contains(message)
            {
                write!(f, "; {path}: {message}")?;
            }
        }
        if self.status == 401 {
            write!(f, "; run `sandbar login` with a key of this server, or give another by --token or SANDBAR_TOKEN")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

async fn refusal(mut response: Response) -> Refusal {
    let status = response.status().as_u16();
    let request_id = response.headers().get("x-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_BYTES_MAX {
            break;
        }
    }
    let error = serde_json::from_slice::<Value>(&body).ok().map(|mut v| v["error"].take()).unwrap_or_default();
    let text = |key: &str| error[key].as_str().map(str::to_owned);
    Refusal {
        status,
        code: text("code").unwrap_or_else(|| "error".into()),
        message: text("message").unwrap_or_else(|| format!("the server answered {}", String::from_utf8_lossy(&body[..body.len().min(200)]).trim())),
        details: error.get("details").cloned(),
        request_id,
    }
}

fn unreachable(base: &str, error: reqwest::Error) -> anyhow::Error {
    let refused = error.is_connect();
    let error = anyhow::Error::new(error.without_url());
    let cause = error.chain().last().map(ToString::to_string).unwrap_or_default();
    if refused {
        anyhow::anyhow!("no server answers at {base}: {cause}; start one with `sandbar serve`, or name it with --url or SANDBAR_URL")
    } else {
        anyhow::anyhow!("the connection to {base} failed: {cause}")
    }
}

/// The flag, else the first variable that is set and not empty.
pub fn first(flag: &Option<String>, variables: &[&str]) -> Option<String> {
    flag.clone().filter(|v| !v.is_empty()).or_else(|| variables.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(segment("sb-0abc"), "sb-0abc");
        assert_eq!(segment("../x?y#z"), "..%2Fx%3Fy%23z");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn a_refusal_is_one_line_with_message_code_and_request() {
        let refusal = Refusal {
            status: 400,
            code: "bad_request".into(),
            message: "the body is wrong".into(),
            details: Some(serde_json::json!([{"path": "config.ttl", "message": "is negative"}])),
            request_id: Some("r1".into()),
        };
        assert_eq!(refusal.to_string(), "the body is wrong (bad_request, HTTP 400, request r1); config.ttl: is negative");
    }
}
