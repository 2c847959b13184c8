//! How an app is: what of it runs, whether it is ready, and where it can be seen.

use std::{collections::BTreeSet, sync::Arc};

use sandbar_core::{
    app::{
        AppState, PreviewState,
        launch::{Launch, SeenEntry, preview_state},
        manifest::{Access, AuthPolicy, McpEndpoint, Port, START},
        supervise::Ending,
    },
    limits::FUNCTION_SERVICE_PORT,
    public_host,
    sandbox::SandboxRecord,
};

use sandbar_store::{AppRecord, AppSandboxRecord};

use super::{
    AppWhole, manifest_of,
    online::{seen_of, shape_of},
    supervise::{EntryView, Supervised},
    volumes::AppVolume,
};
use crate::{
    app::{App, auth::Principal},
    error::ApiError,
};

/// An app as it is now.
pub(crate) struct AppStatus {
    pub whole: AppWhole,
    pub sandbox: Option<SandboxRecord>,
    /// Its sandbox runs.
    pub awake: bool,
    /// The start command first, if there is one.
    pub entries: Vec<EntryStatus>,
    pub ports: Vec<PortStatus>,
    pub volumes: Vec<AppVolume>,
    /// Ports on which somebody listens and that nobody declared.
    pub unlisted: Vec<u16>,
    pub mcp: Vec<McpStatus>,
}

/// A place where an app speaks the Model Context Protocol: on one of its ports.
#[derive(Debug, Clone)]
pub(crate) struct McpStatus {
    pub name: String,
    pub path: String,
    pub port: PortStatus,
}

/// A process that is or would be kept up.
#[derive(Debug, Clone)]
pub(crate) struct EntryStatus {
    pub name: String,
    pub state: AppState,
    pub last: Option<Ending>,
    pub restarts: u32,
    pub retry_at_ms: Option<i64>,
    pub waits_for: Option<String>,
    pub pid: Option<u32>,
    pub started_at_ms: Option<i64>,
    pub ready_at_ms: Option<i64>,
}

/// A declared port.
#[derive(Debug, Clone)]
pub(crate) struct PortStatus {
    /// `start`, or the service that it belongs to.
    pub of: String,
    pub port: u16,
    pub label: Option<String>,
    pub path: String,
    pub access: Access,
    pub auth_policy: Option<AuthPolicy>,
    pub state: PreviewState,
    /// Of the public host, without a path.
    pub origin: Option<String>,
}

impl App {
    /// How the start command of an app is.
    pub(super) fn app_state(&self, app: &AppRecord, online: Option<&AppSandboxRecord>) -> AppState {
        let supervised = online.and_then(|row| self.supervised(&row.sandbox_id));
        let entry = match supervised.as_ref().and_then(|supervised| Some((supervised.view(START)?, supervised.is_awake()))) {
            Some((view, awake)) => EntryStatus::of(view, awake),
            None => EntryStatus::unwatched(START, seen_of(app).entries.get(START)),
        };
        entry.state
    }

    /// How an app is now.
    pub(crate) async fn app_status(&self, who: &Principal, name: &str) -> Result<AppStatus, ApiError> {
        let app = self.app(who, name).await?;
        let whole = self.app_whole(app).await?;
        let sandbox = match &whole.online {
            Some(row) => self.record_of(&row.sandbox_id).await?,
            None => None,
        };
        let volumes = self.volumes_of_app(&whole.app, whole.live.as_ref().map(manifest_of).transpose()?.as_ref(), sandbox.as_ref()).await?;
        let supervised = sandbox.as_ref().and_then(|sandbox| self.supervised(&sandbox.id));
        let launch = match (&supervised, &whole.live) {
            (Some(supervised), _) => Arc::clone(supervised.launch()),
            (None, Some(live)) => Arc::new(shape_of(&whole.app, live)?),
            // Nothing could be built of it yet.
            (None, None) => {
                return Ok(AppStatus { whole, sandbox, awake: false, entries: Vec::new(), ports: Vec::new(), volumes, unlisted: Vec::new(), mcp: Vec::new() });
            }
        };
        let seen = seen_of(&whole.app);
        let awake = supervised.as_ref().is_some_and(Supervised::is_awake);
        let mut entries: Vec<EntryStatus> = launch
            .entries
            .iter()
            .map(|entry| match supervised.as_ref().and_then(|supervised| supervised.view(&entry.name)) {
                Some(view) => EntryStatus::of(view, awake),
                None => EntryStatus::unwatched(&entry.name, seen.entries.get(&entry.name)),
            })
            .collect();
        // After that: what is ready listens.
        let listening = match &supervised {
            Some(supervised) => supervised.listening().await,
            None => BTreeSet::new(),
        };
        // What everybody looks for first.
        let has_start = entries.last().is_some_and(|last| last.name == START);
        entries.rotate_right(usize::from(has_start));
        let origin = |port: u16| sandbox.as_ref().map(|sandbox| self.config.public_url(&public_host::sandbox_label(&sandbox.id, port.into())));
        let ports: Vec<PortStatus> = launch
            .ports()
            .map(|(of, port)| PortStatus { origin: origin(port.port), ..PortStatus::new(&launch, &entries, of, port, listening.contains(&port.port)) })
            .collect();
        let mcp = launch.manifest.mcp.endpoints.iter().filter_map(|endpoint| McpStatus::of(endpoint, &ports)).collect();
        let is_ours = |port: &u16| *port == FUNCTION_SERVICE_PORT || ports.iter().any(|declared| declared.port == *port);
        let unlisted = listening.into_iter().filter(|port| !is_ours(port)).collect();
        Ok(AppStatus { whole, sandbox, awake, entries, ports, volumes, unlisted, mcp })
    }
}

impl AppStatus {
    /// Of the start command.
    pub fn state(&self) -> AppState {
        self.start().map_or(AppState::None, |start| start.state)
    }

    pub fn start(&self) -> Option<&EntryStatus> {
        self.entries.first().filter(|entry| entry.name == START)
    }

    pub fn services(&self) -> impl Iterator<Item = &EntryStatus> {
        self.entries.iter().filter(|entry| entry.name != START)
    }
}

impl EntryStatus {
    fn of(view: EntryView, awake: bool) -> Self {
        let state = match view.state {
            // What sleeps is neither ready nor about to be.
            AppState::Starting | AppState::Ready | AppState::Unhealthy if !awake => AppState::None,
            state => state,
        };
        let (retry_at_ms, ready_at_ms) = (view.retry_at_ms(), view.ready_at_ms());
        Self {
            name: view.entry.name.clone(),
            state,
            last: view.last,
            restarts: view.restarts,
            retry_at_ms,
            waits_for: view.waits_for,
            pid: view.pid,
            started_at_ms: view.started_at_ms,
            ready_at_ms,
        }
    }

    /// Of one that nobody watches: how it ended is all that counts still.
    fn unwatched(name: &str, seen: Option<&SeenEntry>) -> Self {
        let over = seen.filter(|seen| matches!(seen.state, AppState::Exited | AppState::Failed));
        Self {
            name: name.to_owned(),
            state: over.map_or(AppState::None, |seen| seen.state),
            last: over.and_then(|seen| seen.last.clone()),
            restarts: 0,
            retry_at_ms: None,
            waits_for: None,
            pid: None,
            started_at_ms: None,
            ready_at_ms: None,
        }
    }
}

impl McpStatus {
    fn of(endpoint: &McpEndpoint, ports: &[PortStatus]) -> Option<Self> {
        let process = endpoint.service.as_deref().unwrap_or(START);
        let port = ports.iter().find(|port| port.of == process && port.port == endpoint.port)?;
        Some(Self { name: endpoint.called().to_owned(), path: endpoint.path.clone(), port: port.clone() })
    }
}

impl PortStatus {
    /// Where a path of it is seen.
    pub fn url(&self, path: &str) -> Option<String> {
        self.origin.as_ref().map(|origin| format!("{origin}{path}"))
    }

    fn new(launch: &Launch, entries: &[EntryStatus], of: &str, port: &Port, listens: bool) -> Self {
        let state = entries.iter().find(|entry| entry.name == of).map_or(AppState::None, |entry| entry.state);
        Self {
            of: of.to_owned(),
            port: port.port,
            label: port.label.clone(),
            path: port.path.clone(),
            access: port.access,
            auth_policy: port.auth_policy.clone(),
            state: preview_state(state, launch.entry(of).is_some(), listens),
            origin: None,
        }
    }
}
