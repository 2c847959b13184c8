//! `ctx.fetch`: a script asks another server. What may be asked is decided by the operator's allow list, by the script's own and by
//! the address; what is sent and shown is bounded.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sandbar_core::{
    limits,
    script::fetch_allow::{self, FetchAllow},
};
use sandbar_node::outbound::{FetchAsk, FetchError, Fetched, Outbound, Redirects};
use sandbar_scripts::{OpError, OpResult};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::reach::Asker;
use crate::{
    app::{
        App,
        script_events::{DEPTH_HEADER, RUN_HEADER},
    },
    http::json,
};

mod secrets;
#[cfg(test)]
mod tests;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("Sandbar-Script/", env!("CARGO_PKG_VERSION")));
const TEXT: HeaderValue = HeaderValue::from_static("text/plain;charset=UTF-8");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Of a method's name.
const METHOD_MAX_BYTES: usize = 32;
/// Of an answer as JSON: with everything else it has to fit into a frame.
const RENDERED_MAX_BYTES: usize = 32 << 20;

#[derive(Deserialize)]
struct Args {
    url: String,
    #[serde(default)]
    init: Option<Init>,
}

/// What else `fetch` knows is left alone.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Init {
    method: Option<String>,
    headers: Option<Headers>,
    body: Option<String>,
    /// A body of bytes that are no text.
    #[serde(rename = "bodyBase64")]
    body_base64: Option<String>,
    redirect: Option<Redirect>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Headers {
    Pairs(Vec<(String, String)>),
    Object(serde_json::Map<String, serde_json::Value>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Redirect {
    Follow,
    Manual,
    Error,
}

#[derive(Serialize)]
struct Shown<'a> {
    status: u16,
    ok: bool,
    text: String,
    url: &'a str,
    redirected: bool,
    headers: Vec<(&'a str, String)>,
}

/// Names of the secrets that are to be put into a request's headers: whoever asks gives them by [`Asker::secret`].
pub(crate) fn secret_names(args: &RawValue) -> BTreeSet<String> {
    let Ok(Args { init: Some(Init { headers: Some(headers), .. }), .. }) = serde_json::from_str(args.get()) else { return BTreeSet::new() };
    let texts: Vec<&str> = match &headers {
        Headers::Pairs(pairs) => pairs.iter().map(|(_, text)| text.as_str()).collect(),
        Headers::Object(object) => object.values().filter_map(|value| value.as_str()).collect(),
    };
    texts.into_iter().flat_map(secrets::names).take(limits::SCRIPT_FETCH_HEADERS_MAX).map(str::to_owned).collect()
}

/// Where it may go: what the operator allows, and what the script's owner leaves of that.
struct Allowed<'a> {
    ceiling: &'a FetchAllow,
    own: Option<FetchAllow>,
}

/// Asks for who asks. Dropping the future gives it up.
pub(crate) async fn fetch_as(app: &App, asker: Asker<'_>, args: &RawValue) -> OpResult {
    let own = asker.script.and_then(|script| script.spec.fetch_allow.as_deref()).map(own_list).transpose()?;
    let allowed = Allowed { ceiling: &app.config.scripts.fetch_allow, own };
    let ask = prepare(asker, args, &allowed)?;
    let places = app.reach.fetches.take(asker.team_id).await?;
    let fetched = fetched(app.node.outbound(), ask, &allowed, |url| if app.is_ours(url) { marks(asker) } else { HeaderMap::new() }).await?;
    drop(places);
    render(&fetched)
}

/// The same for a script that runs without a server, and where the operator is who runs it.
pub async fn fetch_alone(outbound: &Outbound, allow: &FetchAllow, args: &RawValue) -> OpResult {
    let asker = Asker { team_id: "", script: None, run_id: "", depth: 0, secret: None };
    let allowed = Allowed { ceiling: allow, own: None };
    render(&fetched(outbound, prepare(asker, args, &allowed)?, &allowed, |_| HeaderMap::new()).await?)
}

/// Asks from here on for as long as a request may take. `marks` are what a URL alone is sent besides.
async fn fetched(outbound: &Outbound, mut ask: FetchAsk<'_>, allowed: &Allowed<'_>, marks: impl Fn(&url::Url) -> HeaderMap) -> Result<Fetched, OpError> {
    ask.until = Instant::now() + Duration::from_millis(limits::SCRIPT_FETCH_MAX_MS);
    let asked_for = ask.url.to_string();
    let judge = |url: &url::Url| {
        fetch_allow::judge_url(url, url.as_str(), allowed.ceiling, allowed.own.as_ref()).map_err(|refusal| refusal.to_string())?;
        Ok(marks(url))
    };
    outbound.fetch(ask, judge).await.map_err(|error| op_error(&asked_for, &error))
}

/// What a request that comes back to us says: loops end by that. It is nobody else's business.
fn marks(asker: Asker<'_>) -> HeaderMap {
    let mut marks = HeaderMap::new();
    marks.insert(DEPTH_HEADER, asker.depth.saturating_add(1).into());
    // Nobody knows the run of an executor that knows no grants.
    if !asker.run_id.is_empty()
        && let Ok(run_id) = HeaderValue::from_str(asker.run_id)
    {
        marks.insert(RUN_HEADER, run_id);
    }
    marks
}

/// A script's own list was checked when it was saved. One that cannot be read allows nothing.
fn own_list(entries: &[String]) -> Result<FetchAllow, OpError> {
    FetchAllow::of(entries.iter().map(String::as_str)).map_err(|error| OpError::denied(error.to_string()))
}

fn refusal_error(refusal: &fetch_allow::Refusal) -> OpError {
    match refusal {
        fetch_allow::Refusal::Invalid(_) => OpError::wrong(refusal.to_string()),
        fetch_allow::Refusal::NotAllowed(_) => OpError::denied(refusal.to_string()),
    }
}

fn op_error(url: &str, error: &FetchError) -> OpError {
    match error {
        // The allow list's words stand for themselves.
        FetchError::Refused(text) if text.contains("not in fetch allow-list") => OpError::denied(text.clone()),
        FetchError::Refused(text) => OpError::denied(format!("fetch refused: {text}")),
        FetchError::TooLarge { .. } => OpError::wrong(error.to_string()),
        FetchError::Failed(_) | FetchError::TooManyRedirects(_) | FetchError::Redirected | FetchError::Late => {
            let origin = url.split(['?', '#']).next().unwrap_or_default();
            OpError::wrong(format!("fetch failed: {error} ({})", origin.chars().take(limits::SCRIPT_URL_SHOWN_MAX_CHARS).collect::<String>()))
        }
    }
}

/// From arguments to a request, as far as nobody has to be asked for it.
fn prepare<'a>(asker: Asker<'a>, args: &RawValue, allowed: &Allowed<'_>) -> Result<FetchAsk<'a>, OpError> {
    let Args { url, init } =
        json::read(args.get().as_bytes()).map_err(|error| OpError::wrong(format!("fetch takes a URL and {{method, headers, body, redirect}}: {error}")))?;
    let init = init.unwrap_or_default();
    if url.len() > limits::SCRIPT_URL_MAX_BYTES {
        return Err(OpError::wrong(format!("fetch: a URL has at most {} bytes", limits::SCRIPT_URL_MAX_BYTES)));
    }
    let url = fetch_allow::judge(&url, allowed.ceiling, allowed.own.as_ref()).map_err(|refusal| refusal_error(&refusal))?;
    let method = method(init.method.as_deref().unwrap_or("GET"))?;
    let is_text = init.body_base64.is_none();
    let body = match (init.body, init.body_base64) {
        (Some(_), Some(_)) => return Err(OpError::wrong("fetch: body and bodyBase64 exclude each other")),
        (text, None) => text.map(Bytes::from),
        (None, Some(base64)) => {
            let bytes = BASE64_STANDARD.decode(base64).map_err(|_| OpError::wrong("fetch: bodyBase64 is no base64"))?;
            Some(Bytes::from(bytes))
        }
    };
    if body.is_some() && matches!(method, Method::GET | Method::HEAD) {
        return Err(OpError::wrong(format!("fetch: {method} has no body")));
    }
    if body.as_ref().is_some_and(|body| body.len() > limits::SCRIPT_FETCH_BODY_MAX_BYTES) {
        return Err(OpError::wrong(format!("fetch: a body has at most {} bytes", limits::SCRIPT_FETCH_BODY_MAX_BYTES)));
    }
    let mut headers = headers(init.headers, asker)?;
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
    if body.is_some() && is_text {
        headers.entry(header::CONTENT_TYPE).or_insert(TEXT);
    }
    if !headers.contains_key(&TRACEPARENT) {
        headers.insert(TRACEPARENT, traceparent(asker.run_id));
    }
    let redirects = match init.redirect.unwrap_or(Redirect::Follow) {
        Redirect::Follow => Redirects::Follow(limits::SCRIPT_FETCH_REDIRECTS_MAX),
        Redirect::Manual => Redirects::Manual,
        Redirect::Error => Redirects::Refuse,
    };
    let answer_bytes_max = limits::SCRIPT_FETCH_ANSWER_MAX_BYTES;
    Ok(FetchAsk { team: asker.team_id, method, url, headers, body, redirects, answer_bytes_max, until: Instant::now() })
}

fn method(name: &str) -> Result<Method, OpError> {
    let upper = name.to_ascii_uppercase();
    let usual = matches!(upper.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS");
    let forbidden = matches!(upper.as_str(), "CONNECT" | "TRACE" | "TRACK");
    let text = if usual { &upper } else { name };
    let wrong = || OpError::wrong(format!("fetch: {:?} is no method that can be asked with", name.chars().take(METHOD_MAX_BYTES).collect::<String>()));
    if forbidden || text.len() > METHOD_MAX_BYTES { Err(wrong()) } else { Method::from_bytes(text.as_bytes()).map_err(|_| wrong()) }
}

/// What is sent of the headers that a script gives: not those that say how a request is carried, and not those by which we are
/// known elsewhere.
fn headers(given: Option<Headers>, asker: Asker<'_>) -> Result<HeaderMap, OpError> {
    let pairs = match given {
        None => Vec::new(),
        Some(Headers::Pairs(pairs)) => pairs,
        Some(Headers::Object(object)) => object.into_iter().map(|(name, value)| Ok((name, plain(value)?))).collect::<Result<_, OpError>>()?,
    };
    if pairs.len() > limits::SCRIPT_FETCH_HEADERS_MAX {
        return Err(OpError::wrong(format!("fetch: at most {} headers are sent", limits::SCRIPT_FETCH_HEADERS_MAX)));
    }
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    for (name, text) in pairs {
        let shown = || name.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
        let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| OpError::wrong(format!("fetch: {:?} is no name of a header", shown())))?;
        if is_carriage(known.as_str()) {
            continue;
        }
        let (text, is_secret) = secrets::filled_in(text.trim(), asker.secret)?;
        let value = Some(&text).filter(|text| text.is_ascii()).and_then(|text| HeaderValue::from_str(text).ok());
        let mut value = value.ok_or_else(|| OpError::wrong(format!("fetch: the header {} has characters that no header may have", shown())))?;
        value.set_sensitive(is_secret);
        bytes += name.len() + text.len();
        if bytes > limits::SCRIPT_FETCH_HEADERS_MAX_BYTES {
            return Err(OpError::wrong(format!("fetch: headers have at most {} bytes", limits::SCRIPT_FETCH_HEADERS_MAX_BYTES)));
        }
        headers.append(known, value);
    }
    Ok(headers)
}

fn plain(value: serde_json::Value) -> Result<String, OpError> {
    match value {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        serde_json::Value::Bool(flag) => Ok(flag.to_string()),
        _ => Err(OpError::wrong("fetch: the value of a header is text")),
    }
}

fn is_carriage(name: &str) -> bool {
    const NAMES: [&str; 11] =
        ["accept-encoding", "connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
    NAMES.contains(&name) || ["proxy-", "x-sandbar-", "x-sandbox0-"].iter().any(|start| name.starts_with(start))
}

/// W3C Trace Context: the run is the trace, each request a span of its own.
fn traceparent(run_id: &str) -> HeaderValue {
    let trace = uuid::Uuid::parse_str(run_id).unwrap_or_else(|_| uuid::Uuid::new_v4());
    let span = uuid::Uuid::new_v4().simple().to_string();
    HeaderValue::from_str(&format!("00-{}-{}-01", trace.simple(), &span[..16])).unwrap_or(HeaderValue::from_static(""))
}

fn render(fetched: &Fetched) -> OpResult {
    // It was not asked for, and what it becomes has no bound.
    let coding = fetched.headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    if !coding.eq_ignore_ascii_case("identity") && !fetched.body.is_empty() {
        return Err(OpError::wrong(format!(
            "fetch failed: the answer is encoded as {:?}, which was not asked for",
            coding.chars().take(32).collect::<String>()
        )));
    }
    let headers = fetched.headers.iter().take(limits::SCRIPT_FETCH_ANSWER_HEADERS_MAX);
    let shown = Shown {
        status: fetched.status,
        ok: (200..300).contains(&fetched.status),
        text: text(&fetched.body, fetched.headers.get(header::CONTENT_TYPE)),
        url: fetched.url.as_str(),
        redirected: fetched.redirected,
        headers: headers.map(|(name, value)| (name.as_str(), latin1(value.as_bytes()))).collect(),
    };
    let json = serde_json::value::to_raw_value(&shown).map_err(|error| OpError::internal(error.to_string()))?;
    if json.get().len() > RENDERED_MAX_BYTES {
        return Err(OpError::wrong(format!("response_too_large: the answer has more than {RENDERED_MAX_BYTES} bytes as JSON")));
    }
    Ok(json)
}

/// UTF-8, unless the answer says that each byte is a character.
fn text(body: &[u8], content_type: Option<&HeaderValue>) -> String {
    let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let charset = content_type.split(';').skip(1).find_map(|part| part.trim().strip_prefix("charset=").map(|name| name.trim_matches('"')));
    match charset {
        Some("iso-8859-1" | "latin1" | "us-ascii" | "windows-1252") => latin1(body),
        _ => String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).into_owned(),
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
