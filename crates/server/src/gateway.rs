//! The gateway: what the internet reaches of sandboxes. The host says which port of which sandbox, or which function, is
//! meant; the route says who may come in; then the service is asked, woken and started when it has to be.
//!
//! The order is the same for all: host, route, preflight, method, origin, credential, rate, rewrite, wake, start, proxy.
//! Nothing is woken or started for somebody who is not let in.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
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
mod loopback;
mod preview;
mod sandbox;
mod shares;
mod tls;
mod upstream;
mod wait;
mod waking;

pub(crate) use front::{Front, Side};
pub(crate) use shares::Shares;
pub(crate) use tls::{Tls, TlsError};

use limiter::Limiter;
use upstream::Upstreams;
use waking::Waking;

/// Parsed services kept, and about so many bytes of them.
const SITES_MAX: usize = 8192;
const SITES_MAX_BYTES: usize = 64 << 20;
/// Tunnels of all sandboxes and functions together, and of one.
const TUNNELS_MAX: usize = 8192;
const TUNNELS_EACH_MAX: usize = 1024;
/// A service that is started has so long to be up, where its route names no timeout.
const START_WITHIN: Duration = Duration::from_secs(10);

/// What the gateway keeps between requests.
pub struct Gateway {
    upstreams: Upstreams,
    limiter: Limiter,
    waking: Waking,
    sites: Mutex<Sites>,
    /// Connections that have become tunnels.
    tunnels: TaskTracker,
    /// By runtime.
    tunnel_places: Arc<Shares<String>>,
    stop: CancellationToken,
}

/// The services of sandboxes, as long as their records are the same.
#[derive(Default)]
struct Sites {
    /// With the version of the record.
    by_sandbox: HashMap<String, (i64, Arc<Vec<Service>>)>,
    bytes: usize,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            upstreams: Upstreams::default(),
            limiter: Limiter::default(),
            waking: Waking::default(),
            sites: Mutex::default(),
            tunnels: TaskTracker::new(),
            tunnel_places: Shares::new(TUNNELS_MAX, TUNNELS_EACH_MAX),
            stop: CancellationToken::new(),
        }
    }
}

/// Who sent a request, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub addr: IpAddr,
    pub tls: bool,
}

impl Client {
    /// Its address, or what of it is not its own to choose.
    pub(crate) fn network(self) -> IpAddr {
        network(self.addr)
    }
}

/// An address of IPv4, or the /64 of one of IPv6.
pub(crate) fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => addr.into(),
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl Gateway {
    /// Cuts what is left of tunnels.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    fn services(&self, record: &SandboxRecord) -> Arc<Vec<Service>> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, services)) = sites.by_sandbox.get(&record.id).filter(|(version, _)| *version == record.version) {
            return Arc::clone(services);
        }
        let services = Arc::new(Service::list(record.config.services.as_ref()));
        let bytes = services.iter().map(Service::size).sum::<usize>();
        if sites.by_sandbox.len() >= SITES_MAX || sites.bytes + bytes > SITES_MAX_BYTES {
            *sites = Sites::default();
        }
        sites.bytes += bytes;
        sites.by_sandbox.insert(record.id.clone(), (record.version, Arc::clone(&services)));
        services
    }
}

/// Answers a request to a public host.
pub(crate) async fn serve(app: &SharedApp, host: PublicHost<'_>, request: Request, client: Client) -> Response {
    let begun = Instant::now();
    let (kind, answer) = match host {
        PublicHost::Sandbox { id, port } => ("sandbox", sandbox::serve(app, id, port, request, client).await),
        PublicHost::Function { label } => ("function", function::serve(app, label, request, client).await),
        PublicHost::Unknown | PublicHost::Api => ("unknown", Err(unknown())),
    };
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    // A status that a service makes up would be a series more.
    let status = response.status().as_u16();
    app.metrics.served(kind, if status < 600 { status } else { 599 }, begun.elapsed());
    response
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
                let served = services.iter().any(is_public) || self.has_preview(id, port).await?;
                Ok(served.then(|| record.team_id.clone()))
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
