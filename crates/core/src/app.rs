//! Apps: what their manifests say, and the decisions about them.

pub mod amount;
pub mod artifact;
pub mod canonical;
pub mod inputs;
pub mod manifest;
pub mod receipt;
