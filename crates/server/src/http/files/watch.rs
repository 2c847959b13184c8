//! Changes of files over a WebSocket: several folders per socket, each with an id.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::{
        Path, State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use sandbar_api::error::ErrorEnvelope;
use sandbar_core::{
    limits,
    roles::{Permission, Permissions},
};
use sandbar_node::client::ProcdError;
use sandbar_procd_api::WatchLine;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::check_path;
use crate::{
    app::{
        SharedApp,
        auth::Principal,
        files::{FileOwner, FileWatch},
        standing::Standing,
    },
    error::ApiError,
    http::contexts::ws::{PING_EVERY, checked, dismiss, drain, unheard},
};

/// Frames between the watches of a socket and its writer; a full queue holds the agent's sending back.
const QUEUE_MAX: usize = 64;
/// The agent must have begun to watch within this time; clients wait ten seconds for the answer.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(8);

/// Watch folders by WebSocket.
///
/// Client to server: `{"action":"subscribe","path","recursive"?}` and `{"action":"unsubscribe","watch_id"}`. Server to
/// client: `{"type":"subscribed","watch_id","path"}`, then `{"type":"event","watch_id","event","path"}` with event
/// create, write, remove, rename, chmod or invalidate (events were lost: look again); `{"type":"unsubscribed",...}`;
/// `{"type":"error","error"}`.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/files/watch", tag = "files", params(("id" = String, Path)), responses(
    (status = 101, description = "switched to WebSocket"), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
pub async fn watch(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    who.require(Permission::SandboxRead)?;
    upgraded(app, who, Permission::SandboxRead, FileOwner::Sandbox(id), upgrade).await
}

/// Switches to a socket that watches an owner's files.
pub async fn upgraded(
    app: SharedApp,
    who: Principal,
    needs: Permission,
    owner: FileOwner,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let (upgrade, place) = checked(upgrade)?;
    let standing = Standing::new(&app, &who, Permissions::of(&[needs]));
    app.wake_files(&who, &owner).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        serve(app, who, owner, socket, standing).await;
        drop(place);
    }))
}

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Request {
    Subscribe {
        path: String,
        #[serde(default)]
        recursive: Option<bool>,
    },
    Unsubscribe {
        watch_id: String,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame {
    Subscribed {
        watch_id: String,
        path: String,
    },
    Unsubscribed {
        watch_id: String,
    },
    Event {
        watch_id: String,
        event: String,
        path: String,
    },
    Error {
        error: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        watch_id: Option<String>,
    },
}

async fn serve(app: SharedApp, who: Principal, owner: FileOwner, socket: WebSocket, standing: Standing) {
    let (sink, mut stream) = socket.split();
    let (frames, queue) = mpsc::channel(QUEUE_MAX);
    // Dropping the set ends the watches with the socket.
    let mut watches = JoinSet::new();
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    let mut asked = standing.clone();
    let read_in = async {
        while let Some(Ok(message)) = stream.next().await {
            if asked.pass().await.is_err() {
                // The writer hears of it, too, and closes.
                std::future::pending::<()>().await;
            }
            let text = match &message {
                Message::Text(text) => text.as_str(),
                Message::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) => continue,
            };
            running.retain(|_, watch| !watch.is_finished());
            while watches.try_join_next().is_some() {}
            let answer = match serde_json::from_str(text) {
                Err(error) => error_frame(format!("not a request: {error}"), None),
                Ok(Request::Unsubscribe { watch_id }) => match running.remove(&watch_id) {
                    Some(watch) => {
                        watch.abort();
                        Frame::Unsubscribed { watch_id }
                    }
                    None => error_frame("no such watch".to_owned(), Some(watch_id)),
                },
                Ok(Request::Subscribe { .. }) if running.len() >= limits::WATCHES_PER_SOCKET_MAX => {
                    error_frame(format!("a socket may watch at most {} folders", limits::WATCHES_PER_SOCKET_MAX), None)
                }
                Ok(Request::Subscribe { path, recursive }) => {
                    let watch_id = new_watch_id();
                    let watch = run(app.clone(), who.clone(), owner.clone(), watch_id.clone(), path, recursive.unwrap_or_default(), frames.clone());
                    running.insert(watch_id, watches.spawn(watch));
                    continue;
                }
            };
            if frames.send(answer).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read_in => {}
        () = write_out(sink, queue, standing.clone()) => drain(&mut stream).await,
        () = unheard(standing) => {}
    }
}

async fn write_out(mut sink: SplitSink<WebSocket, Message>, mut queue: mpsc::Receiver<Frame>, mut standing: Standing) {
    let mut over = std::pin::pin!(standing.clone().over());
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    loop {
        let message = tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => Message::text(serde_json::to_string(&frame).unwrap_or_default()),
                None => return,
            },
            _ = ping.tick() => Message::Ping(bytes::Bytes::new()),
            error = &mut over => return dismiss(&mut sink, &error).await,
        };
        if let Err(error) = standing.pass().await {
            return dismiss(&mut sink, &error).await;
        }
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

/// One watch: the answer first, then its events, until it is aborted or the agent ends.
async fn run(app: SharedApp, who: Principal, owner: FileOwner, watch_id: String, path: String, recursive: bool, frames: mpsc::Sender<Frame>) {
    let begun = tokio::time::timeout(SUBSCRIBE_TIMEOUT, begin(&app, &who, &owner, &path, recursive)).await;
    let (mut lines, path) = match begun.unwrap_or_else(|_| Err("the sandbox did not answer in time".to_owned())) {
        Ok(begun) => begun,
        Err(error) => {
            let _ = frames.send(error_frame(error, None)).await;
            return;
        }
    };
    if frames.send(Frame::Subscribed { watch_id: watch_id.clone(), path }).await.is_err() {
        return;
    }
    loop {
        let frame = match lines.next().await {
            Ok(Some(WatchLine::Event { event, path, old_path: _ })) => Frame::Event { watch_id: watch_id.clone(), event, path },
            Ok(Some(WatchLine::Subscribed { path: _ })) => continue,
            Ok(Some(WatchLine::Error { code: _, message })) => error_frame(message, Some(watch_id.clone())),
            Ok(None) => {
                let _ = frames.send(error_frame("the watch has ended: the sandbox was paused, restarted or ended".to_owned(), Some(watch_id))).await;
                return;
            }
            Err(error) => {
                let _ = frames.send(error_frame(format!("the watch has ended: {error}"), Some(watch_id))).await;
                return;
            }
        };
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

async fn begin(app: &SharedApp, who: &Principal, owner: &FileOwner, path: &str, recursive: bool) -> Result<(FileWatch, String), String> {
    let text = |error: ApiError| error.message().to_owned();
    check_path("path", path).map_err(text)?;
    let mut lines = app.watch_files(who, owner, path, recursive).await.map_err(text)?;
    match lines.next().await {
        Ok(Some(WatchLine::Subscribed { path })) => Ok((lines, path)),
        Ok(Some(WatchLine::Error { code: _, message })) => Err(message),
        Ok(Some(WatchLine::Event { .. }) | None) => Err("the sandbox did not begin to watch".to_owned()),
        Err(error @ (ProcdError::Api { .. } | ProcdError::Gone(_) | ProcdError::Protocol(_))) => Err(error.to_string()),
    }
}

fn error_frame(error: String, watch_id: Option<String>) -> Frame {
    Frame::Error { error, watch_id }
}

fn new_watch_id() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("watch-{}", &id[..8])
}
