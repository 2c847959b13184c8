//! Ops of a call, asked of the server that it comes from.

use std::{pin::Pin, time::Duration};

use reqwest::{Client, header};
use sandbar_core::{limits, text::line};
use sandbar_node::error_text;
use sandbar_scripts::{
    FailureCode, Host, Op, OpError, OpResult,
    remote::{NO_BRIDGE, RpcAuth, RpcReply, RpcRequest},
};
use serde_json::value::RawValue;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Of what a server says in place of an answer.
const ERROR_MAX_CHARS: usize = 200;

/// Asks a server.
pub(super) struct Bridge {
    client: Client,
    url: String,
    token: String,
    auth: RpcAuth,
}

/// Nobody to ask.
pub(super) struct NoBridge;

/// The client of all calls.
pub(super) fn client() -> Result<Client, reqwest::Error> {
    // Only where a call says, and nowhere else: what it shows there opens that server.
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).connect_timeout(CONNECT_MAX).build()
}

impl Bridge {
    pub fn new(client: Client, origin: &str, token: String, auth: RpcAuth) -> Self {
        Self { client, url: format!("{origin}/api/_internal/sandbox-rpc"), token, auth }
    }

    async fn ask(&self, op: Op, args: &RawValue) -> OpResult {
        let unreached = |error: reqwest::Error| OpError::internal(format!("sandbox-rpc failed: {}", line(&error_text(&error.without_url()), ERROR_MAX_CHARS)));
        let request = RpcRequest { op: op.as_str().to_owned(), args: args.to_owned(), auth: self.auth.clone() };
        let json = serde_json::to_vec(&request).map_err(|error| OpError::internal(error.to_string()))?;
        let sent = self.client.post(&self.url).bearer_auth(&self.token).header(header::CONTENT_TYPE, "application/json").body(json).send().await;
        let mut response = sent.map_err(unreached)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreached)? {
            if body.len() + piece.len() > limits::SCRIPT_RPC_ANSWER_MAX_BYTES {
                return Err(OpError::wrong(format!("response_too_large: the server answered with more than {} bytes", limits::SCRIPT_RPC_ANSWER_MAX_BYTES)));
            }
            body.extend_from_slice(&piece);
        }
        if !status.is_success() {
            return Err(OpError::internal(format!("sandbox-rpc http {}: {}", status.as_u16(), line(&String::from_utf8_lossy(&body), ERROR_MAX_CHARS))));
        }
        let reply: RpcReply = serde_json::from_slice(&body).map_err(|_| OpError::internal("sandbox-rpc returned non-JSON body"))?;
        if reply.ok {
            return Ok(reply.value.unwrap_or_else(|| RawValue::NULL.to_owned()));
        }
        let message = reply.error.unwrap_or_else(|| "the server gave no reason".to_owned());
        Err(OpError { code: reply.code.unwrap_or_else(|| code_of(&message)), message })
    }
}

impl Host for Bridge {
    fn op<'a>(&'a self, op: Op, args: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(self.ask(op, args))
    }
}

impl Host for NoBridge {
    fn op<'a>(&'a self, _: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(async { Err(OpError::wrong(NO_BRIDGE)) })
    }
}

/// What others give as a sentence alone.
fn code_of(message: &str) -> FailureCode {
    if message.contains("not in fetch allow-list") || message.starts_with("No read permission") { FailureCode::Denied } else { FailureCode::UserError }
}
