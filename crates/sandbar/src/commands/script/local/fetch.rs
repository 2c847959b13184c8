//! `ctx.fetch` of a script that runs here: it goes where `--fetch-allow` says, hop by hop, also to this machine, whose owner asks.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Client, Method, Response, Url, header};
use sandbar_core::{
    limits,
    script::fetch_allow::{self, FetchAllow},
};
use sandbar_scripts::{OpError, OpResult};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

pub struct Fetch {
    client: Client,
    allow: FetchAllow,
}

#[derive(Deserialize)]
struct Args {
    url: String,
    #[serde(default)]
    init: Option<Init>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Init {
    method: Option<String>,
    headers: Option<Headers>,
    body: Option<String>,
    /// A body of bytes that are no text.
    #[serde(rename = "bodyBase64")]
    body_base64: Option<String>,
    redirect: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Headers {
    Pairs(Vec<(String, String)>),
    Object(BTreeMap<String, String>),
}

impl Fetch {
    pub fn new(allow: FetchAllow) -> anyhow::Result<Self> {
        Ok(Self { client: Client::builder().redirect(reqwest::redirect::Policy::none()).build()?, allow })
    }

    pub async fn fetch(&self, args: &RawValue) -> OpResult {
        let Args { url, init } = sandbar_server::http::json::read(args.get().as_bytes()).map_err(|error| OpError::wrong(format!("fetch: {error}")))?;
        let init = init.unwrap_or_default();
        let mut url = fetch_allow::judge(&url, &self.allow, None).map_err(refused)?;
        let name = init.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let mut method = Method::from_bytes(name.as_bytes()).map_err(|_| OpError::wrong("fetch: the method is none"))?;
        let mut body = match init.body_base64 {
            Some(base64) => Some(BASE64_STANDARD.decode(base64).map_err(|_| OpError::wrong("fetch: bodyBase64 is no base64"))?),
            None => init.body.map(String::into_bytes),
        };
        let follows = init.redirect.as_deref().unwrap_or("follow") == "follow";
        let pairs: Vec<(String, String)> = match init.headers {
            Some(Headers::Pairs(pairs)) => pairs,
            Some(Headers::Object(object)) => object.into_iter().collect(),
            None => Vec::new(),
        };
        let mut hops = 0;
        let response = loop {
            let mut request = self.client.request(method.clone(), url.clone());
            // What was meant for one server is not shown to another.
            for (name, value) in pairs.iter().filter(|(name, _)| hops == 0 || !is_credential(name)) {
                request = request.header(name, value);
            }
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            let response = request.send().await.map_err(|error| failed(&error))?;
            let target = next(&response, &url).filter(|_| follows);
            let Some(target) = target else { break response };
            hops += 1;
            if hops > limits::SCRIPT_FETCH_REDIRECTS_MAX {
                return Err(OpError::wrong(format!("fetch failed: more than {} redirects", limits::SCRIPT_FETCH_REDIRECTS_MAX)));
            }
            fetch_allow::judge_url(&target, target.as_str(), &self.allow, None).map_err(refused)?;
            if !matches!(response.status().as_u16(), 307 | 308) && method != Method::HEAD {
                (method, body) = (Method::GET, None);
            }
            url = target;
        };
        shown(response, &url, hops > 0).await
    }
}

async fn shown(mut response: Response, url: &Url, redirected: bool) -> OpResult {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| failed(&error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > limits::SCRIPT_FETCH_ANSWER_MAX_BYTES {
            return Err(OpError::wrong(format!("response_too_large: more than {} bytes", limits::SCRIPT_FETCH_ANSWER_MAX_BYTES)));
        }
    }
    let headers: Vec<(&str, String)> =
        response.headers().iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    let status = response.status();
    let shown = json!({
        "status": status.as_u16(), "ok": status.is_success(), "text": String::from_utf8_lossy(&bytes), "url": url.as_str(),
        "redirected": redirected, "headers": headers,
    });
    serde_json::value::to_raw_value(&shown).map_err(|error| OpError::internal(error.to_string()))
}

fn next(response: &Response, url: &Url) -> Option<Url> {
    if !response.status().is_redirection() {
        return None;
    }
    url.join(response.headers().get(header::LOCATION)?.to_str().ok()?).ok()
}

fn is_credential(name: &str) -> bool {
    ["authorization", "cookie", "proxy-authorization"].iter().any(|credential| name.eq_ignore_ascii_case(credential))
}

fn refused(refusal: fetch_allow::Refusal) -> OpError {
    match refusal {
        fetch_allow::Refusal::Invalid(_) => OpError::wrong(refusal.to_string()),
        fetch_allow::Refusal::NotAllowed(_) => OpError::denied(refusal.to_string()),
    }
}

fn failed(error: &reqwest::Error) -> OpError {
    OpError::wrong(format!("fetch failed: {error}"))
}
