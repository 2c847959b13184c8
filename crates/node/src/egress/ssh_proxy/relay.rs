//! Sessions of the sandbox's client, each of which is one at the server.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use sandbar_ssh::{Channel, Event, Open, OpenKind, Opener, Refusal, Request, Session, Stream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::egress::socket::Socket;

/// How long the server may take to hear that the client has left.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// How long the server may take to say how a program ended that has sent all it had, and whose client has closed the session.
const OUTCOME_WITHIN: Duration = Duration::from_secs(5);

/// Until either side ends. What a side does not take holds up whoever sends it, on that channel and in that direction
/// alone.
pub(super) async fn relay(client: Session<Socket>, server: Session<Socket>) {
    let opener = server.opener();
    // A session at the server may outlive the client's, until the server has taken what it was sent.
    let places = Arc::new(Semaphore::new(sandbar_ssh::limits::SESSIONS_MAX));
    let mut tasks = JoinSet::new();
    let (leave, left) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    tasks.spawn(async move {
        let stop = async {
            let _ = left.await;
            String::new()
        };
        let text = match server.run(drop, stop).await {
            Ok(()) => "the server has ended the connection".to_owned(),
            Err(error) => format!("the connection to the server has ended: {error}"),
        };
        let _ = tell.send(text);
    });
    let open = |open: Open| {
        while tasks.try_join_next().is_some() {}
        match (&open.kind, Arc::clone(&places).try_acquire_owned()) {
            (OpenKind::Tcp { .. } | OpenKind::Unix { .. }, _) => open.refuse(Refusal::Prohibited, "forwarding does not go through to the server; sessions do"),
            (OpenKind::Session, Err(_)) => open.refuse(Refusal::Shortage, "too many sessions at once"),
            (OpenKind::Session, Ok(place)) => {
                let opener = opener.clone();
                tasks.spawn(async move {
                    session(open, opener).await;
                    drop(place);
                });
            }
        }
    };
    // How it ended is of interest to nobody but the client.
    let _ = client.run(open, async { told.await.unwrap_or_default() }).await;
    drop(leave);
    let _ = tokio::time::timeout(LEAVE_WITHIN, async { while tasks.join_next().await.is_some() {} }).await;
}

async fn session(open: Open, opener: Opener) {
    let outside = match opener.session().await {
        Ok(outside) => outside,
        Err(error) => return open.refuse(Refusal::ConnectFailed, error.to_string()),
    };
    let Some(inside) = open.accept() else { return };
    let has_begun = tokio::select! {
        has_begun = begin(&inside, &outside) => has_begun,
        () = outside.closed() => false,
    };
    if !has_begun {
        return;
    }
    let is_brought = AtomicBool::new(false);
    let back = async {
        let bring = async {
            let all = bring_back(&outside, &inside).await;
            is_brought.store(all, Relaxed);
        };
        tokio::join!(bring, async {
            if let Some(outcome) = outside.outcome().await {
                inside.exit(outcome);
            }
        });
        outside.closed().await;
    };
    let mut back = std::pin::pin!(back);
    let out = async {
        tokio::join!(bring_out(&inside, &outside), async { while ask(&inside, &outside).await.is_some() {} });
    };
    tokio::select! {
        () = &mut back => return,
        () = out => {}
    }
    // Its client has closed it, which it may do before it knows how the program ended.
    if is_brought.load(Relaxed) {
        tokio::time::timeout(OUTCOME_WITHIN, back).await.ok();
    }
}

/// Until the server runs what the client wants; a server may drop data that comes before. False when the client leaves.
async fn begin(inside: &Channel, outside: &Channel) -> bool {
    loop {
        match ask(inside, outside).await {
            Some(true) => return true,
            Some(false) => {}
            None => return false,
        }
    }
}

/// Asks the server for the next thing that the client asks for, and says whether that began a program; `None` when the
/// client has closed its session.
async fn ask(inside: &Channel, outside: &Channel) -> Option<bool> {
    let Event::Request { request, wants_reply } = inside.event().await?;
    let yes = outside.request(&request, wants_reply).await.unwrap_or(false);
    if wants_reply {
        inside.answer(yes);
    }
    Some(yes && matches!(request, Request::Shell | Request::Exec(_) | Request::Subsystem(_)))
}

async fn bring_out(inside: &Channel, outside: &Channel) {
    while let Some(data) = inside.read().await {
        if outside.write(Stream::Out, data).await.is_err() {
            return;
        }
    }
    outside.end();
}

/// False when the client has closed the session before it had all.
async fn bring_back(outside: &Channel, inside: &Channel) -> bool {
    while let Some((stream, data)) = outside.read_either().await {
        if inside.write(stream, data).await.is_err() {
            return false;
        }
    }
    inside.end();
    true
}
