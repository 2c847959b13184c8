//! Room on the server's disk: what needs some of it for good asks here first.

use sandbar_api::ErrorCode;
use sandbar_core::quantity::format_bytes;
use sandbar_node::room::{FLOOR_BYTES, free_bytes};

use crate::{app::App, error::ApiError};

/// Seconds after which it is worth to ask again.
const AGAIN_S: u32 = 10;

impl App {
    /// Refuses what would keep room on a disk that has next to none. Deleting, pausing and going on need no leave.
    pub(crate) fn check_room(&self) -> Result<(), ApiError> {
        match free_bytes(&self.config.data_dir) {
            Ok(free) if free < FLOOR_BYTES => {
                let (free, floor) = (format_bytes(free), format_bytes(FLOOR_BYTES));
                let text = format!("the server's disk is full: {free} is free, and the last {floor} are for deleting; nothing was changed");
                Err(ApiError::new(ErrorCode::InsufficientStorage, text).retry_after(AGAIN_S))
            }
            Ok(_) => Ok(()),
            // Whatever is wrong, what is asked for will run into it and say so.
            Err(error) => {
                tracing::warn!(%error, "the room on the disk is not known");
                Ok(())
            }
        }
    }
}

/// The answer to what ran out of room on its way.
pub(crate) fn full() -> ApiError {
    ApiError::new(ErrorCode::InsufficientStorage, "the server's disk is full; nothing was changed").retry_after(AGAIN_S)
}
