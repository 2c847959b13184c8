//! Archives between clients and the disk: kept on their way in, packed on their way out as fast as the client reads.

use std::{
    fs::File,
    io::{self, Seek, Write},
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use crate::{
    app::{App, room::full},
    error::ApiError,
};

/// Pieces of an archive between the packer and the client.
const PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 64 << 10;
/// The room on the disk is looked at each time so much more came.
const LOOK_EVERY_BYTES: usize = 4 << 20;

/// Writes a request's body to a file, which is then at its beginning. The last room on the disk is not taken for it.
pub(super) async fn keep(app: &App, spool: File, body: Body) -> Result<File, ApiError> {
    let mut spool = tokio::fs::File::from_std(spool);
    let mut body = body.into_data_stream();
    let mut until_look = 0;
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| ApiError::bad_request(format!("the archive broke off: {error}")))?;
        match bytes.len().checked_sub(until_look) {
            None => until_look -= bytes.len(),
            Some(_) => {
                app.check_room()?;
                until_look = LOOK_EVERY_BYTES;
            }
        }
        spool.write_all(&bytes).await.map_err(|error| unwritten(&error))?;
    }
    spool.flush().await.map_err(|error| unwritten(&error))?;
    let mut spool = spool.into_std().await;
    spool.rewind().map_err(|error| unwritten(&error))?;
    Ok(spool)
}

/// A body of what `pack` writes; what it fails with goes to the log, and the body breaks off.
pub(super) fn packed(pack: impl FnOnce(&mut dyn Write) -> Result<(), String> + Send + 'static) -> Body {
    let (pieces, queue) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces.clone()));
        let done = pack(&mut out).and_then(|()| out.flush().map_err(|error| error.to_string()));
        if let Err(text) = done {
            tracing::warn!(error = text, "an archive broke off");
            // The client must not take a part for the whole.
            let _ = pieces.blocking_send(Err(io::Error::other("the archive broke off")));
        }
    });
    Body::from_stream(futures_util::stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|piece| (piece, queue)) }))
}

/// Sends what is written; an error once nobody reads any more.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unwritten(error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(),
        _ => ApiError::internal("keeping the archive", error),
    }
}
