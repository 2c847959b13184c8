//! The gateway: what the internet reaches of sandboxes. The host says which port of which sandbox, or which function, is
//! meant; the route says who may come in; then the service is asked, woken and started when it has to be.
//!
//! The order is the same for all: host, route, preflight, method, origin, credential, rate, rewrite, wake, start, proxy.
//! Nothing is woken or started for somebody who is not let in.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use sandbar_api::ErrorCode;
use sandbar_core::{public_host::PublicHost, sandbox::SandboxRecord, service::Service};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, SharedApp, functions::serve::FunctionLookup},
    error::ApiError,
};

mod acme;
mod admit;
mod forward;
mod front;
mod function;
mod headers;
mod inline;
mod limiter;
mod sandbox;
mod tls;
mod upstream;
mod wait;

pub(crate) use front::{Front, Side};
pub(crate) use tls::{Tls, TlsError};

use limiter::Limiter;
use upstream::Upstreams;

/// Parsed services kept by sandbox.
const SITES_MAX: usize = 8192;
/// A service that is started has so long to be up, where its route names no timeout.
const START_WITHIN: Duration = Duration::from_secs(10);

/// What the gateway keeps between requests.
#[derive(Default)]
pub struct Gateway {
    upstreams: Upstreams,
    limiter: Limiter,
    sites: Mutex<HashMap<String, Site>>,
    /// Connections that have become tunnels.
    tunnels: TaskTracker,
    stop: CancellationToken,
}

/// The services of a sandbox, as long as its record is the same.
struct Site {
    record: Weak<SandboxRecord>,
    services: Arc<Vec<Service>>,
}

/// Who sent a request, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub addr: IpAddr,
    pub tls: bool,
}

impl Gateway {
    /// Cuts what is left of tunnels.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    fn services(&self, record: &Arc<SandboxRecord>) -> Arc<Vec<Service>> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = sites.get(&record.id).filter(|site| std::ptr::eq(site.record.as_ptr(), Arc::as_ptr(record)) && site.record.strong_count() > 0) {
            return Arc::clone(&site.services);
        }
        if sites.len() >= SITES_MAX {
            sites.retain(|_, site| site.record.strong_count() > 0);
        }
        if sites.len() >= SITES_MAX {
            sites.clear();
        }
        let services = Arc::new(Service::list(record.config.services.as_ref()));
        sites.insert(record.id.clone(), Site { record: Arc::downgrade(record), services: Arc::clone(&services) });
        services
    }
}

/// Answers a request to a public host.
pub(crate) async fn serve(app: &SharedApp, host: PublicHost<'_>, request: Request, client: Client) -> Response {
    let answer = match host {
        PublicHost::Sandbox { id, port } => sandbox::serve(app, id, port, request, client).await,
        PublicHost::Function { label } => function::serve(app, label, request, client).await,
        PublicHost::Unknown | PublicHost::Api => Err(unknown()),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

impl App {
    /// The team whose is what is served on a public host, awake or asleep; `None` when nothing is. Only such hosts get
    /// certificates.
    pub(crate) async fn team_served_at(&self, host: PublicHost<'_>) -> Result<Option<String>, ApiError> {
        match host {
            PublicHost::Sandbox { id, port } => {
                let Some((record, _)) = self.look(id).await? else { return Ok(None) };
                let services = self.gateway.services(&record);
                let is_public = |service: &Service| service.port == port && service.ingress.public && !service.ingress.routes.is_empty();
                Ok(services.iter().any(is_public).then(|| record.team_id.clone()))
            }
            PublicHost::Function { label } => match self.function_by_label(label).await? {
                FunctionLookup::Found(host) => Ok(Some(host.function.team_id.clone())),
                FunctionLookup::NotFound | FunctionLookup::Disabled | FunctionLookup::NoRevision => Ok(None),
            },
            PublicHost::Unknown | PublicHost::Api => Ok(None),
        }
    }
}

/// What is said of every host and path that nothing is served on: the same for those that exist and those that do not.
fn unknown() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "not found")
}
