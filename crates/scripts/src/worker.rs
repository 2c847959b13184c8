//! The engine's process.

pub(crate) mod desk;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
