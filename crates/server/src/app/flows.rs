//! What sandboxes reached and what was refused: read from the egress of their runtimes, which are not woken for it.

use sandbar_node::egress::FlowLog;

use crate::{
    app::{App, auth::Principal},
    error::ApiError,
};

/// The flows of a runtime.
#[derive(Clone)]
pub struct Flows {
    pub runtime_id: String,
    pub log: FlowLog,
}

impl App {
    /// The flows of a sandbox's runtime; none while it has no runtime.
    pub async fn flows(&self, who: &Principal, id: &str) -> Result<Option<Flows>, ApiError> {
        let runtime = self.runtime_of(who, id).await?;
        Ok(runtime.map(|runtime| Flows { runtime_id: runtime.id.clone(), log: runtime.egress().flows() }))
    }
}
