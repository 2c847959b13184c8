//! Servers of the outside world and clients of the sandbox, of HTTP in its forms.
use std::convert::Infallible;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::egress::Authority;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) fn full(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync()
}

/// Runs a client as a program of the sandbox.
pub(super) async fn within<T: Send + 'static, F: Future<Output = T>>(netns: &OwnedFd, client: impl FnOnce() -> F + Send + 'static) -> T {
    let netns = netns.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns.as_fd(), kind).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(client())
    });
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap()
}

/// Answers on every connection, with TLS if it has a name and an authority for it.
pub(super) fn serve(outside: &std::net::TcpListener, tls: Option<Arc<ServerConfig>>) {
    let outside = outside.try_clone().unwrap();
    outside.set_nonblocking(true).unwrap();
    let outside = TcpListener::from_std(outside).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = outside.accept().await {
            stream.set_nodelay(true).unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => {
                        let mut first = [0; 3];
                        let len = stream.peek(&mut first).await.unwrap_or(0);
                        serve_one(stream, &first[..len] == b"PRI").await;
                    }
                    Some(tls) => {
                        let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve_one(stream, is_http2).await;
                    }
                }
            });
        }
    });
}

pub(super) fn tls_server(authority: &Authority, name: &str, alpn: &[&str]) -> ServerConfig {
    let key = authority.leaf(name).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config
}

pub(super) fn tls_client(root: &CertificateDer<'static>, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config
}

pub(super) async fn connect_tls(to: std::net::SocketAddr, name: &str, config: ClientConfig) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn serve_one(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, is_http2: bool) {
    let service = hyper::service::service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    let io = TokioIo::new(io);
    if is_http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await.ok();
    } else {
        hyper::server::conn::http1::Builder::new().preserve_header_case(true).serve_connection(io, service).with_upgrades().await.ok();
    }
}

/// What it was asked, as text: the head with its headers sorted, then the body.
async fn answer(mut request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/ws" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut said = [0; 64];
                while let Ok(len @ 1..) = stream.read(&mut said).await {
                    stream.write_all(&said[..len]).await.unwrap();
                }
            });
            let mut response = Response::new(Empty::new().boxed_unsync());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            response
        }
        // Answered before it is read, which it is nevertheless.
        "/early" => {
            tokio::spawn(request.into_body().collect());
            Response::new(full("early"))
        }
        // Each part of the request is answered with itself, and a trailer at the end.
        "/stream" => {
            let body = request.into_body();
            let frames = futures_util::stream::unfold(Some(body), |body| async {
                let mut body = body?;
                match body.frame().await {
                    Some(Ok(frame)) if frame.is_data() => Some((Ok::<_, Infallible>(frame), Some(body))),
                    _ => Some((
                        Ok(Frame::trailers([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))].into_iter().collect())),
                        None,
                    )),
                }
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        _ => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let mut headers: Vec<String> =
                parts.headers.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))).collect();
            headers.sort();
            let text = format!("{} {} {:?}\n{}\n{}", parts.method, parts.uri, parts.version, headers.concat(), String::from_utf8_lossy(&body));
            Response::new(full(&text))
        }
    }
}

/// A client's connection; drives it until it is dropped.
pub(super) enum Client {
    One(hyper::client::conn::http1::SendRequest<Body>),
    Two(hyper::client::conn::http2::SendRequest<Body>),
}

impl Client {
    pub async fn new(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, version: Version) -> Self {
        let io = TokioIo::new(io);
        if version == Version::HTTP_2 {
            let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            return Self::Two(sender);
        }
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self::One(sender)
    }

    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => sender.send_request(request).await,
        }
    }

    /// Status and body.
    pub async fn fetch(&mut self, request: Request<Body>) -> (u16, String) {
        let response = self.send(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}
