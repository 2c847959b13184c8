//! What sandboxes reach.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A connection or flow that a program tried, or a name that it asked for: what was decided and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkEvent {
    /// Grows within a sandbox.
    pub seq: i64,
    /// RFC 3339; of the first, when it was refused several times.
    pub at: String,
    /// How often the same was refused within a short time: such repeats are one event.
    pub times: i64,
    /// The name that the client said, or that the sandbox was told the address for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub addr: String,
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// What the client speaks, where that was looked at. QUIC is `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// `allow` or `deny`.
    pub decision: String,
    /// What decided: a rule of the policy, its mode, or another reason.
    pub rule: String,
    /// From the sandbox, so far.
    pub bytes_sent: i64,
    /// To the sandbox, so far.
    pub bytes_received: i64,
    /// `open`, `closed` or `failed`.
    pub state: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NetworkEventsResponse {
    /// Oldest first.
    pub events: Vec<NetworkEvent>,
    /// Where to go on: the last seq of this page, or the `after` of an empty one.
    pub next_after: i64,
    /// Flows after `after` that were forgotten, since more came than are kept.
    pub missed: i64,
    /// False when the sandbox has no runtime: what its former one did is not kept.
    pub running: bool,
}
