//! Script functions over HTTP, below `/api/functions`.

use utoipa_axum::router::OpenApiRouter;

use crate::app::SharedApp;

pub mod wire;

/// `/api/functions`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
}
