//! A request through a preview: the URL that works once, the cookie that it is changed for, and what both sides see of each
//! other after that.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use sandbar_api::ErrorCode;
use sandbar_core::{
    preview::{self, COOKIE, Over, PLAIN_COOKIE, PreviewRecord, Protocol, origin::Asker, rewrite},
    service::{Ingress, Route, Service},
};

use super::{
    Client, front, headers,
    sandbox::{Call, pass},
    unknown, wait,
};
use crate::{
    app::{
        App, SharedApp,
        previews::{self, Gate},
    },
    error::ApiError,
};

/// What the cookies of a request say of previews of the port.
pub(super) enum Held {
    /// None, or none that was one of this server's.
    Nothing,
    /// One that opens nothing any more.
    Useless,
    Good(Arc<PreviewRecord>),
}

/// Looks for a preview that the request's cookie opens.
pub(super) async fn held(app: &App, sandbox_id: &str, port: u16, headers: &HeaderMap, client: Client) -> Result<Held, ApiError> {
    let cookies = || headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let names = if is_plain(app, client) { &[COOKIE, PLAIN_COOKIE][..] } else { &[COOKIE] };
    let mut held = Held::Nothing;
    for said in names.iter().filter_map(|name| cookies().find_map(|value| rewrite::cookie(value, name))) {
        match app.preview_of(sandbox_id, port, said).await? {
            Some(preview) => return Ok(Held::Good(preview)),
            None => held = Held::Useless,
        }
    }
    Ok(held)
}

/// Answers the URL that works once: a cookie, and on to the page.
pub(super) async fn bootstrap(app: &SharedApp, sandbox_id: &str, port: u16, request: Request, client: Client) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    if parts.method != Method::GET {
        // HEAD too: who only looks at a link must not use it up.
        let mut refused = ApiError::new(ErrorCode::MethodNotAllowed, "a preview is opened by GET").into_response();
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return Ok(refused);
    }
    let is_early = ["sec-purpose", "purpose"].iter().any(|name| parts.headers.get(*name).is_some_and(|value| value.as_bytes().starts_with(b"prefetch")));
    if is_early {
        return Err(ApiError::unavailable("a preview is opened when somebody wants to see it, not before"));
    }
    let mut query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let (mut said, mut next) = (None, None);
    for (name, value) in query.by_ref() {
        match &*name {
            "token" => said = said.or(Some(value)),
            "next" => next = next.or(Some(value)),
            _ => {}
        }
    }
    let said = said.unwrap_or_default();
    let next = next.as_deref().and_then(preview::same_origin_path);
    let (opened, cookie) = match app.open_preview(sandbox_id, port, &said).await? {
        Some((opened, cookie)) => (Arc::new(opened), Some(cookie)),
        // Who opened it before comes to the page again.
        None => match held(app, sandbox_id, port, &parts.headers, client).await? {
            Held::Good(opened) if said.split_once('.').is_some_and(|(id, _)| id == opened.id) => (opened, None),
            Held::Good(_) | Held::Useless | Held::Nothing => {
                let text = "the link was used before, has expired or was revoked: it opens a preview once. Ask for a new one";
                return Ok(said_to(wait::is_browser(&parts), ApiError::new(ErrorCode::NotFound, text), "This link is used up", None));
            }
        },
    };
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_str(next.unwrap_or(&opened.path)).unwrap_or(HeaderValue::from_static("/")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    for cookie in cookie.iter().flat_map(|cookie| cookies(cookie, is_plain(app, client))) {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
    Ok(response)
}

fn cookies(value: &str, plain: bool) -> Vec<String> {
    let mut cookies = vec![format!("{COOKIE}={value}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned")];
    if plain {
        cookies.push(format!("{PLAIN_COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax"));
    }
    cookies
}

/// Whether there is no TLS between this server and browsers: it serves names of its own machine, and not all clients keep a
/// `Secure` cookie there.
fn is_plain(app: &App, client: Client) -> bool {
    !client.tls && app.config.public_url("x").starts_with("http:")
}

/// Answers a request of somebody who opened a preview.
pub(super) async fn serve(app: &SharedApp, preview: Arc<PreviewRecord>, request: Request, client: Client) -> Result<Response, ApiError> {
    let Some((record, runtime)) = app.look(&preview.sandbox_id).await? else { return Err(unknown()) };
    let host = front::host_of(&request).unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let (service, route) = standing_for(&preview);
    let path = parts.uri.path().to_owned();
    let call = Call { service: &service, route: &route, host, cors: Vec::new(), browser: wait::is_browser(&parts), limit: None, preview: Some(&preview) };
    pass(app, (record, runtime), call, Request::from_parts(parts, body), &path, client).await
}

/// What is said to who comes with a cookie that opens nothing, where nobody else is let in either.
pub(super) fn useless(browser: bool) -> Response {
    let error = ApiError::new(ErrorCode::Unauthorized, "the preview has expired or was revoked; make a new one");
    said_to(browser, error, "This preview has ended", None)
}

/// Whether a page of somebody else makes use of the cookie that the browser sends along.
pub(super) fn is_asked_by_stranger(request: &Request, client: Client) -> bool {
    let headers = request.headers();
    let asker = Asker {
        method: request.method().as_str(),
        upgrades: headers::upgrade_of(headers).is_some(),
        fetch_site: headers.get("sec-fetch-site").and_then(|site| site.to_str().ok()),
        host: front::host_of(request).unwrap_or_default(),
        tls: client.tls,
    };
    // What is no text is nobody's origin.
    asker.is_stranger(headers.get_all(header::ORIGIN).iter().map(|origin| origin.to_str().unwrap_or_default()))
}

/// What is said to a page of another origin, where nobody else is let in either.
pub(super) fn foreign(browser: bool) -> Response {
    let text =
        "a page of another origin asks here: a preview takes WebSockets and whatever changes something from its own pages and those of the same sandbox alone";
    said_to(browser, ApiError::new(ErrorCode::Forbidden, text), "Not for other pages", None)
}

/// What is said of a preview that is not good any more.
pub(super) fn over(browser: bool, why: Over) -> Response {
    let error = ApiError::new(ErrorCode::Unauthorized, format!("{why}; make a new one"));
    said_to(browser, error, "This preview has ended", None)
}

/// Why a port is closed, if it is.
pub(super) fn closed(app: &App, sandbox_id: &str, port: u16) -> Option<Closed> {
    match app.previews.gate(sandbox_id, port) {
        Gate::Open => None,
        Gate::Opening { reason } => Some(Closed { opening: true, reason }),
        Gate::Closed { reason } => Some(Closed { opening: false, reason }),
    }
}

/// A port that nobody may reach now.
pub(super) struct Closed {
    pub opening: bool,
    reason: String,
}

impl Closed {
    /// A person is shown a page that asks again, a program is told when to.
    pub fn into_response(self, browser: bool) -> Response {
        let Self { opening, reason } = self;
        let (code, title) = if opening { (ErrorCode::PreviewOpening, "Starting") } else { (ErrorCode::PreviewClosed, "Not running") };
        if browser {
            return wait::page_saying(StatusCode::SERVICE_UNAVAILABLE, title, &reason, Some(1));
        }
        let mut response = ApiError::new(code, reason).retry_after(1).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// A page for a person, the error for a program.
fn said_to(browser: bool, error: ApiError, title: &str, again_s: Option<u32>) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = if browser { wait::page_saying(status, title, error.message(), again_s) } else { error.into_response() };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The page where nothing answers behind a preview. It comes again by itself, since such servers are started and stopped.
pub(super) fn nobody_page(port: u16) -> Response {
    wait::page_saying(StatusCode::BAD_GATEWAY, "Nothing listens", &format!("Nothing listens on port {port} of the sandbox."), Some(2))
}

/// What of a head goes on to the server inside, beyond what goes on to every service: it is asked by the name that it has on
/// its own machine, which development servers insist on.
pub(super) fn request(head: &mut HeaderMap, preview: &PreviewRecord, host: &str) {
    let internal: Vec<HeaderName> = head.keys().filter(|name| rewrite::is_internal(name.as_str())).cloned().collect();
    for name in &internal {
        head.remove(name);
    }
    let local = format!("localhost:{}", preview.port);
    // WebSockets of development servers (hot reload) are refused to pages of another host than the one asked. Who asks
    // from elsewhere than our own host is still told from that.
    let own = head.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).is_some_and(|origin| rewrite::is_own_origin(origin, host));
    if own
        && headers::upgrade_of(head).is_some()
        && let Ok(origin) = HeaderValue::from_str(&format!("{}://{local}", preview.protocol.as_str()))
    {
        head.insert(header::ORIGIN, origin);
    }
    if let Ok(local) = HeaderValue::from_str(&local) {
        head.insert(header::HOST, local);
    }
}

/// What of the answer's head goes back.
pub(super) fn response(head: &mut HeaderMap, preview: &PreviewRecord) {
    head.remove(header::X_FRAME_OPTIONS);
    let location = head.get(header::LOCATION).and_then(|value| value.to_str().ok()).and_then(|value| rewrite::location(value, preview.port));
    if let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
        head.insert(header::LOCATION, location);
    }
    let cookies = |value: &HeaderValue| rewrite::set_cookie(value.as_bytes()).and_then(|cookie| HeaderValue::from_bytes(&cookie).ok());
    replace(head, &header::SET_COOKIE, cookies);
    let policies = |value: &HeaderValue| match value.to_str() {
        Ok(text) => rewrite::policy(text).and_then(|policy| HeaderValue::from_str(&policy).ok()),
        Err(_) => Some(value.clone()),
    };
    replace(head, &header::CONTENT_SECURITY_POLICY, policies);
}

fn replace(head: &mut HeaderMap, name: &HeaderName, change: impl Fn(&HeaderValue) -> Option<HeaderValue>) {
    let values: Vec<HeaderValue> = head.get_all(name).iter().filter_map(change).collect();
    head.remove(name);
    for value in values {
        head.append(name.clone(), value);
    }
}

/// Resolves when what is open through a preview has to end.
pub(super) fn end_of(app: &SharedApp, preview: &Arc<PreviewRecord>) -> futures_util::future::BoxFuture<'static, ()> {
    Box::pin(previews::over(Arc::clone(app), Arc::clone(preview)))
}

/// A preview as the service that it is like: everybody who got so far is let in, and nothing is started.
fn standing_for(preview: &PreviewRecord) -> (Service, Route) {
    let service = Service { id: preview.id.clone(), display_name: None, port: preview.port, runtime: None, ingress: Ingress::default(), health_check: None };
    let route = Route {
        id: preview.id.clone(),
        path_prefix: "/".to_owned(),
        methods: Vec::new(),
        rewrite_prefix: None,
        auth: sandbar_core::service::Auth::None,
        cors: None,
        rate_limit: None,
        timeout_seconds: 0,
        resume: preview.wakes,
    };
    (service, route)
}

/// Whether the server inside is spoken to by TLS.
pub(super) fn is_tls(preview: Option<&Arc<PreviewRecord>>) -> bool {
    preview.is_some_and(|preview| preview.protocol == Protocol::Https)
}

#[cfg(test)]
mod tests;
