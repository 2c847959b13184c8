//! What a run asked of its host and what it was told: enough to run it again and have it see the same world.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Op, OpError, call::Clock};

/// The ops of one run, in the order in which it asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    pub ops: Vec<OpRecord>,
    /// None where the engine cannot tell; a replay's clock then stands still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// 64 hexadecimal digits.
    pub seed: String,
    /// Results that were left out for want of room: such a run cannot be replayed.
    #[serde(default)]
    pub incomplete: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpRecord {
    pub seq: u32,
    pub op: Op,
    pub args: Box<RawValue>,
    /// After the start of the run.
    pub asked_us: u64,
    /// None when the run ended before there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Which answer of the run it was, from 0.
    pub nth: u32,
    pub took_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::frame::present")]
    pub value: Option<Box<RawValue>>,
    /// There is this or a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OpError>,
}
