//! A request in a user's name whose answer the user sees. Each address on its way is judged: by whoever asks (the URL, before each
//! step) and by us (where its name leads to, for each connection).

use std::net::IpAddr;

use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HeaderMap, HeaderName, LOCATION},
};
use tokio::time::{Instant, timeout_at};

use super::{Outbound, OutboundError, TEAM, failure};

/// What is asked for.
#[derive(Debug)]
pub struct FetchAsk<'a> {
    /// For whom.
    pub team: &'a str,
    pub method: Method,
    pub url: Url,
    /// Those that are marked as sensitive go to the origin of the URL alone, like `authorization` and `cookie`.
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
    pub redirects: Redirects,
    /// More is an error.
    pub answer_bytes_max: usize,
    /// All of it has to be there by then.
    pub until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirects {
    /// Up to so many.
    Follow(usize),
    /// The redirect is the answer.
    Manual,
    Refuse,
}

/// What was answered in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub status: u16,
    /// Who answered.
    pub url: Url,
    pub redirected: bool,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
    #[error("response_too_large: the answer has more than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("more than {0} redirects")]
    TooManyRedirects(usize),
    #[error("it redirects, which was not wanted")]
    Redirected,
    #[error("no answer in time")]
    Late,
}

impl Outbound {
    /// Asks, and follows redirects as far as it is wanted. `judge` says of each URL why it is not asked, or what it alone is sent
    /// besides.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn fetch(&self, ask: FetchAsk<'_>, judge: impl Fn(&Url) -> Result<HeaderMap, String>) -> Result<Fetched, FetchError> {
        let FetchAsk { team, mut method, mut url, mut headers, mut body, redirects, answer_bytes_max, until } = ask;
        let mut steps = 0;
        loop {
            let besides = judge(&url).map_err(FetchError::Refused)?;
            self.judge_address(&url)?;
            let mut request = self.fetcher.request(method.clone(), url.clone()).headers(headers.clone()).headers(besides);
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            let sent = TEAM.scope(team.to_owned(), request.send());
            let mut response = timeout_at(until, sent).await.map_err(|_| FetchError::Late)?.map_err(|error| match failure(&error) {
                OutboundError::Refused(text) => FetchError::Refused(text),
                OutboundError::Failed(text) => FetchError::Failed(text),
            })?;
            if let Some(next) = next_url(&response, &url) {
                match redirects {
                    Redirects::Manual => {}
                    Redirects::Refuse => return Err(FetchError::Redirected),
                    Redirects::Follow(max) => {
                        let next = next.map_err(FetchError::Failed)?;
                        steps += 1;
                        if steps > max {
                            return Err(FetchError::TooManyRedirects(max));
                        }
                        if becomes_get(response.status().as_u16(), &method) {
                            method = Method::GET;
                            body = None;
                            remove(&mut headers, |name, _| name.as_str().starts_with("content-"));
                        }
                        if next.origin() != url.origin() {
                            remove(&mut headers, |name, is_sensitive| is_sensitive || name == AUTHORIZATION || name == COOKIE);
                        }
                        url = next;
                        continue;
                    }
                }
            }
            let too_large = FetchError::TooLarge { max_bytes: answer_bytes_max };
            let says = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            if method != Method::HEAD && says.is_some_and(|bytes| bytes > answer_bytes_max as u64) {
                return Err(too_large);
            }
            let mut got = Vec::new();
            loop {
                let piece = timeout_at(until, response.chunk()).await.map_err(|_| FetchError::Late)?;
                let Some(piece) = piece.map_err(|_| FetchError::Failed("the answer ended before its end".to_owned()))? else { break };
                if got.len() + piece.len() > answer_bytes_max {
                    return Err(too_large);
                }
                got.extend_from_slice(&piece);
            }
            let headers = std::mem::take(response.headers_mut());
            return Ok(Fetched { status: response.status().as_u16(), url, redirected: steps > 0, headers, body: got });
        }
    }

    /// Names are judged when they are looked up, addresses are not looked up.
    fn judge_address(&self, url: &Url) -> Result<(), FetchError> {
        let host = url.host_str().unwrap_or_default();
        let addr = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let reason = addr.ok().and_then(|addr| self.walls.reason(addr, true));
        reason.map_or(Ok(()), |reason| Err(FetchError::Refused(format!("{host} is not reached: {reason} (the operator can allow it by --egress-allow)"))))
    }
}

/// Where an answer sends us, if it does.
fn next_url(response: &reqwest::Response, url: &Url) -> Option<Result<Url, String>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?;
    let next = std::str::from_utf8(location.as_bytes()).ok().and_then(|text| url.join(text).ok());
    Some(next.ok_or_else(|| "it redirects to what is no URL".to_owned()).map(|mut next| {
        if next.fragment().is_none() {
            next.set_fragment(url.fragment());
        }
        next
    }))
}

fn becomes_get(status: u16, method: &Method) -> bool {
    match status {
        301 | 302 => *method == Method::POST,
        303 => !matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

fn remove(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName, bool) -> bool) {
    let unwanted: Vec<_> = headers.iter().filter(|(name, value)| is_unwanted(name, value.is_sensitive())).map(|(name, _)| name.clone()).collect();
    for name in unwanted {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
