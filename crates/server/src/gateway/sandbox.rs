//! A request to a port of a sandbox.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use sandbar_core::{
    preview::{Admission, BOOTSTRAP_PATH, PreviewRecord},
    sandbox::SandboxRecord,
    service::{Route, RuntimeKind, Service, matching, unclear},
};
use sandbar_node::Runtime;
use tokio::time::{Instant, timeout};

use super::{
    Client, START_WITHIN,
    admit::{self, Headers, admit},
    forward::{Dress, Outgoing, Target, Trouble, broken, nobody, paused},
    front, inline,
    preview::{self, Held},
    unknown, wait,
    waking::Sleeping,
};
use crate::{
    app::{SharedApp, sandboxes::now_ms},
    error::ApiError,
};

/// A sandbox may end and a service may be started again while a request is on its way to it.
const ATTEMPTS_MAX: u32 = 3;

/// Answers it.
pub(super) async fn serve(app: &SharedApp, id: &str, port: u16, request: Request, client: Client) -> Result<Response, ApiError> {
    let path = request.uri().path();
    if let Some(why) = unclear(path) {
        return Err(ApiError::bad_request(why));
    }
    if path == BOOTSTRAP_PATH {
        return preview::bootstrap(app, id, port, request, client).await;
    }
    // Without a preview the port is what it is for everybody.
    let (is_useless, is_foreign) = match preview::held(app, id, port, request.headers(), client).await? {
        Held::Good(preview) if !preview::is_asked_by_stranger(&request, client) => return preview::serve(app, preview, request, client).await,
        Held::Good(_) => (false, true),
        Held::Useless => (true, false),
        Held::Nothing => (false, false),
    };
    let host = front::host_of(&request).unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let browser = wait::is_browser(&parts);
    // The same for hosts that exist and those that do not.
    let nothing = || match (is_useless, is_foreign) {
        (true, _) => Ok(preview::useless(browser)),
        (_, true) => Ok(preview::foreign(browser)),
        (false, false) => Err(unknown()),
    };
    let Some((record, runtime)) = app.look(id).await? else { return nothing() };
    let services = app.gateway.services(&record);
    let Some(matched) = matching(services.iter(), port, parts.uri.path()) else { return nothing() };
    let (service, route) = (matched.service, matched.route);
    let cors = match admit(&app.gateway, &record.id, service, route, &parts, client) {
        Ok(cors) => cors,
        Err(answer) => return Ok(*answer),
    };
    let limit = (route.timeout_seconds > 0).then(|| Duration::from_secs(route.timeout_seconds));
    let call = Call { service, route, host, cors, browser, limit, preview: None };
    pass(app, (record, runtime), call, Request::from_parts(parts, body), &matched.path, client).await
}

/// A request that was let in, and what it was let in by.
pub(super) struct Call<'a> {
    pub service: &'a Service,
    pub route: &'a Route,
    /// As the caller named it.
    pub host: String,
    /// Put on every answer.
    pub cors: Headers,
    /// Whether a person waits for a page.
    pub browser: bool,
    /// For all of it, where the route names one.
    pub limit: Option<Duration>,
    pub preview: Option<&'a Arc<PreviewRecord>>,
}

/// Wakes the sandbox and starts the service where it has to be, and passes the request on. `path` is what the service is
/// asked for.
pub(super) async fn pass(
    app: &SharedApp,
    (mut record, mut runtime): (Arc<SandboxRecord>, Option<Arc<Runtime>>),
    call: Call<'_>,
    request: Request,
    path: &str,
    client: Client,
) -> Result<Response, ApiError> {
    let Call { service, route, host, cors, browser, limit, preview } = call;
    let id = record.id.clone();
    let begun = Instant::now();
    let mut outgoing = Outgoing::new(request, path, &host, client, route.credential_header())?;
    if let Some(preview) = preview {
        outgoing = outgoing.by_preview(preview, &host);
    }
    let until = preview.map(|preview| preview::end_of(app, preview));
    let mut dress = Some(Dress { host: host.clone(), headers: cors.clone(), deadline: limit.map(|limit| begun + limit), lease: None, until });
    let mut broke = false;
    for attempt in 1..=ATTEMPTS_MAX {
        if let Some(Admission::Over(why)) = preview.map(|preview| preview.admit(&record, runtime.is_some(), now_ms())) {
            return Ok(preview::over(browser, why));
        }
        // What is closed is not woken for; what is on its way up may be there once it is awake.
        if let Some(closed) = preview::closed(app, &id, service.port).filter(|closed| !closed.opening || runtime.is_some()) {
            return Ok(admit::with(closed.into_response(browser), &cors));
        }
        let awake = match runtime.take() {
            Some(runtime) => runtime,
            None => match wake(app, &record, route).await {
                Ok((now, runtime)) => {
                    record = now;
                    if let Some(closed) = preview::closed(app, &id, service.port) {
                        return Ok(admit::with(closed.into_response(browser), &cors));
                    }
                    runtime
                }
                Err(Sleeping::Long) if browser => return Ok(wait::page()),
                Err(Sleeping::Long) => return Ok(admit::with(ApiError::unavailable("sandbox is waking up").retry_after(1).into_response(), &cors)),
                Err(Sleeping::Refused(error)) => return Ok(admit::with(error.into_response(), &cors)),
            },
        };
        let up = app.is_service_up(&record, &awake, service) && attempt == 1;
        if !up {
            let patience = limit.unwrap_or(START_WITHIN);
            // A person is shown a page, and the start goes on behind it. A program is told why, which has to be asked for then.
            let (patience, within) = if browser { (patience.min(wait::PATIENCE), START_WITHIN) } else { (patience + wait::PATIENCE, patience) };
            let started = timeout(patience, async {
                if attempt == 1 {
                    app.ensure_service(&record, &awake, service, within).await
                } else {
                    app.ensure_service_again(&record, &awake, service, within).await
                }
            });
            match started.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Ok(admit::with(error.into_response(), &cors)),
                Err(_) if browser => return Ok(wait::page()),
                Err(_) => return Ok(admit::with(ApiError::unavailable("the service is starting").retry_after(1).into_response(), &cors)),
            }
        }
        if let RuntimeKind::Function { .. } = service.kind() {
            return Ok(admit::with(inline::call(app, &awake, (service, route), outgoing.into_request(), limit, &host, None).await, &cors));
        }
        // What an app redirects to on its own machine is on the public host for others, where paths are the same on both.
        let is_apps = preview.is_none() && route.rewrite_prefix.is_none() && app.previews.has_gates(&id);
        let target = Target { runtime: &awake, service, route, preview, is_apps };
        match outgoing.send(&app.gateway, &target, &mut dress).await {
            Ok(response) => return Ok(response),
            // Whoever paused it does not want it woken by a request that was there before.
            Err((Trouble::Paused(_), _)) => return Ok(admit::with(paused().into_response(), &cors)),
            Err((Trouble::Said(error), _)) => return Ok(admit::with(error.into_response(), &cors)),
            Err((Trouble::Broke(request), upgrade)) if !broke => {
                broke = true;
                outgoing = Outgoing::with_request(*request, upgrade);
                let Some((now, runtime_now)) = app.look(&id).await? else { return Err(unknown()) };
                (record, runtime) = (now, runtime_now);
            }
            Err((Trouble::Broke(_), _)) => return Ok(admit::with(broken().into_response(), &cors)),
            Err((Trouble::Unasked(request), upgrade)) => {
                outgoing = Outgoing::with_request(*request, upgrade);
                // What was seen of it is old: it may have ended, or sleep by now.
                let Some((now, runtime_now)) = app.look(&id).await? else { return Err(unknown()) };
                let manual = matches!(service.kind(), RuntimeKind::Manual);
                if manual && runtime_now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &awake)) {
                    break;
                }
                (record, runtime) = (now, runtime_now);
            }
        }
    }
    if preview.is_some() && browser {
        return Ok(preview::nobody_page(service.port));
    }
    Ok(admit::with(nobody(service).into_response(), &cors))
}

async fn wake(app: &SharedApp, record: &SandboxRecord, route: &Route) -> Result<(Arc<SandboxRecord>, Arc<Runtime>), Sleeping> {
    if !record.auto_resume() {
        return Err(Sleeping::Refused(ApiError::unavailable("sandbox is not running and auto_resume is disabled")));
    }
    if !route.resume {
        return Err(Sleeping::Refused(ApiError::unavailable("sandbox is not running and resume is disabled for this route")));
    }
    app.gateway.waking.wake(app, record).await
}
