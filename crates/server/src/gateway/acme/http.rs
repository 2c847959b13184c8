//! How the authority is asked: by HTTPS, within bounds of time and size, and where it sends us nowhere else.

use std::{future::Future, path::Path, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use super::AcmeError;

/// One request with its answer.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Of an answer. A chain of certificates has a few kilobytes.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Of the file with the authority's own roots.
const CA_BYTES_MAX: u64 = 1 << 20;

/// Asks an authority. Clones share their connections.
#[derive(Clone)]
pub(super) struct Http(reqwest::Client);

impl Http {
    /// Believes the usual roots, or in their place those in `ca`, a PEM file.
    pub fn new(ca: Option<&Path>) -> Result<Self, AcmeError> {
        let mut builder =
            reqwest::Client::builder().https_only(true).redirect(reqwest::redirect::Policy::none()).connect_timeout(CONNECT_WITHIN).timeout(REQUEST_WITHIN);
        if let Some(path) = ca {
            let pem = super::kept::read(path, CA_BYTES_MAX)?;
            let unfit = |source| AcmeError::Ca { path: path.to_owned(), source };
            let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(unfit)?;
            if roots.is_empty() {
                return Err(AcmeError::NoCa { path: path.to_owned() });
            }
            builder = roots.into_iter().fold(builder.tls_built_in_root_certs(false), reqwest::ClientBuilder::add_root_certificate);
            return builder.build().map(Self).map_err(unfit);
        }
        builder.build().map(Self).map_err(AcmeError::Client)
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let other = |error: reqwest::Error| Error::Other(Box::new(error));
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let mut answer = self.0.request(head.method, head.uri.to_string()).headers(head.headers).body(body).send().await.map_err(other)?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(other)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Error::Other(format!("the answer has more than {ANSWER_BYTES_MAX} bytes").into()));
            }
            bytes.extend_from_slice(&chunk);
        }
        let mut response = http::Response::new(());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(BytesResponse { parts: response.into_parts().0, body: Box::new(bytes.freeze()) })
    }
}

impl HttpClient for Http {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}
