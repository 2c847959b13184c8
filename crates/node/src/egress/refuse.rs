//! A refusal in the words of the client's protocol.
use std::time::Duration;

use sandbar_core::egress::{App, Verdict};
use tokio::net::TcpStream;

use super::flow::Evidence;
use super::socket::reset;

/// What a refused client may still send before its connection ends, so that it reads our answer and not a reset.
const DRAIN_BYTES_MAX: usize = 64 << 10;
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// How HTTP/2 begins (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Fatal alerts of TLS (RFC 8446, 6.2), in a record of their own.
pub(super) const HANDSHAKE_FAILURE: Alert = [21, 3, 3, 0, 2, 2, 40];
const ACCESS_DENIED: Alert = [21, 3, 3, 0, 2, 2, 49];
pub(super) const UNRECOGNIZED_NAME: Alert = [21, 3, 3, 0, 2, 2, 112];
type Alert = [u8; 7];

/// What a client of HTTP reads.
pub(super) fn text(verdict: &Verdict) -> String {
    format!("refused by the sandbox's network policy: {}\n", verdict.rule)
}

pub(super) fn is_http2(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(HTTP2_PREFACE)
}

/// Answers a client that was not carried, and ends its connection.
pub(super) async fn refuse(inside: &TcpStream, evidence: &Evidence, first_bytes: &[u8], verdict: &Verdict) {
    let answer = match &evidence.said {
        Some((Some(App::Http), _)) if !is_http2(first_bytes) => {
            let text = text(verdict);
            let head = "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: ";
            format!("{head}{}\r\n\r\n{text}", text.len()).into_bytes()
        }
        Some((Some(App::Tls), _)) => ACCESS_DENIED.to_vec(),
        Some(_) | None => return reset(inside),
    };
    tell(inside, &answer).await;
}

/// Ends a TLS connection before it has begun.
pub(super) async fn alert(inside: &TcpStream, alert: Alert) {
    tell(inside, &alert).await;
}

async fn tell(inside: &TcpStream, answer: &[u8]) {
    // It fits into the socket's empty buffer.
    let told = inside.try_write(answer).is_ok_and(|len| len == answer.len());
    if !told || rustix::net::shutdown(inside, rustix::net::Shutdown::Write).is_err() {
        return reset(inside);
    }
    tokio::time::timeout(DRAIN_WITHIN, drain(inside)).await.ok();
}

/// Reads what still comes, until the client hangs up.
pub(super) async fn drain(inside: &TcpStream) {
    let mut buffer = [0; 4096];
    let mut left = DRAIN_BYTES_MAX;
    while left > 0 && inside.readable().await.is_ok() {
        match inside.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => left = left.saturating_sub(len),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
