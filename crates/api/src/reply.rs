//! The envelope of every success.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `{"success":true,"data":...}`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Envelope<T> {
    /// Always true.
    pub success: bool,
    pub data: T,
}

impl<T> Envelope<T> {
    /// A success with what it gives.
    pub fn new(data: T) -> Self {
        Self { success: true, data }
    }
}

/// Says in a sentence what was done.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Message {
    pub message: String,
}
