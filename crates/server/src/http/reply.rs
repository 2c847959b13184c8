//! Replies in the envelope.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sandbar_api::reply::{Envelope, Message};
use serde::Serialize;

use crate::error::ApiError;

/// A success: its status and what stands under `data`.
#[derive(Debug)]
pub struct Reply<T>(StatusCode, T);

/// What handlers return.
pub type Result<T> = std::result::Result<Reply<T>, ApiError>;

/// 200 with data.
pub fn ok<T>(data: T) -> Result<T> {
    Ok(Reply(StatusCode::OK, data))
}

/// 201 with data.
pub fn created<T>(data: T) -> Result<T> {
    Ok(Reply(StatusCode::CREATED, data))
}

/// Data with another status.
pub fn with_status<T>(status: StatusCode, data: T) -> Result<T> {
    Ok(Reply(status, data))
}

/// 200 with a sentence.
pub fn message(text: &str) -> Result<Message> {
    ok(Message { message: text.to_owned() })
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&Envelope::new(self.1)) {
            Ok(json) => {
                let mut response = Response::new(Body::from(json));
                *response.status_mut() = self.0;
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => ApiError::internal("rendering the reply", &error).into_response(),
        }
    }
}
