//! The two sockets of a flow, and the bytes between them.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{Shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Attached;
use super::log::Entry;

/// Buffer of each direction, held only while bytes wait in it.
const COPY_BUFFER_BYTES: usize = 32 << 10;
/// A peer that is gone without a word is noticed after about idle + 3 intervals.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 3;

/// Best effort: the connection works without.
pub(super) fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).ok();
    sockopt::set_socket_keepalive(stream, true).ok();
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE).ok();
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL).ok();
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES).ok();
}

/// Makes the close of the stream a reset.
pub(super) fn reset(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).ok();
}

/// A connection in any form.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Whose bytes are counted where.
#[derive(Clone)]
pub(super) struct Meter {
    pub attached: Arc<Attached>,
    pub entry: Arc<Entry>,
}

impl Meter {
    pub fn sent(&self, bytes: usize) {
        self.attached.log.sent(&self.entry, bytes as u64);
    }

    pub fn received(&self, bytes: usize) {
        self.attached.log.received(&self.entry, bytes as u64);
    }
}

/// One direction of a flow whose bytes go through as they are. Nothing is lost when [`Self::run`] is given up and begun
/// again.
pub(super) struct Pump {
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    waiting: BytesMut,
    begun: bool,
    ended: bool,
}

impl Pump {
    pub fn new(from: Arc<TcpStream>, to: Arc<TcpStream>) -> Self {
        Self::with(from, to, BytesMut::new())
    }

    /// `waiting` was read from `from` already.
    pub fn with(from: Arc<TcpStream>, to: Arc<TcpStream>, waiting: BytesMut) -> Self {
        Self { from, to, begun: !waiting.is_empty(), waiting, ended: false }
    }

    pub fn from(&self) -> &Arc<TcpStream> {
        &self.from
    }

    /// Whether anything was read, were it the end.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Until `from` has said that it is done, and `to` was told.
    pub async fn run(&mut self, count: impl Fn(usize)) -> io::Result<()> {
        while !self.ended {
            while !self.waiting.is_empty() {
                self.to.writable().await?;
                match self.to.try_write(&self.waiting) {
                    Ok(len) => {
                        self.waiting.advance(len);
                        count(len);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            // Most connections idle.
            self.waiting = BytesMut::new();
            self.from.readable().await?;
            let mut buffer = BytesMut::with_capacity(COPY_BUFFER_BYTES);
            match self.from.try_read_buf(&mut buffer) {
                Ok(0) => {
                    (self.begun, self.ended) = (true, true);
                    rustix::net::shutdown(&*self.to, Shutdown::Write)?;
                }
                Ok(_) => (self.begun, self.waiting) = (true, buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A socket for protocols: what was read ahead of it comes first. Its peer can be reset while somebody else holds it.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    ahead: Bytes,
    /// Of the socket to the server: what the sandbox uses is counted there.
    meter: Option<Meter>,
}

impl Socket {
    pub fn inside(stream: Arc<TcpStream>, ahead: Bytes) -> Self {
        Self { stream, ahead, meter: None }
    }

    pub fn outside(stream: Arc<TcpStream>, meter: Meter) -> Self {
        Self { stream, ahead: Bytes::new(), meter: Some(meter) }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(len));
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(len) => {
                    buffer.advance(len);
                    if let Some(meter) = &self.meter {
                        meter.received(len);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(slices) {
                Ok(len) => {
                    if let Some(meter) = &self.meter {
                        meter.sent(len);
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&*self.stream, Shutdown::Write)?))
    }
}
