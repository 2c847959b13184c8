//! What is wrong with a manifest, and where.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// `$`, `$.actions[0].name`; names that are no plain words are quoted: `$.env["a b"]`.
    pub path: String,
    pub code: Code,
    /// Says what is allowed.
    pub message: String,
    /// From 1 on.
    pub line: u32,
    /// In characters, from 1 on.
    pub column: u32,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}: {}", self.line, self.column, self.path, self.code.as_str(), self.message)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// Kinds of what can be wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[$doc])* $variant,)+ }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

codes! {
    /// The text is no YAML, or uses what is not allowed here (tags, several documents).
    InvalidYaml = "invalid_yaml",
    /// Bytes, values, depth.
    TooLarge = "too_large",
    /// A key stands twice in one mapping.
    DuplicateKey = "duplicate_key",
    UnknownKey = "unknown_key",
    /// A key of former manifests.
    RemovedKey = "removed_key",
    /// A key that means something elsewhere and nothing here.
    UnsupportedKey = "unsupported_key",
    Missing = "missing",
    InvalidType = "invalid_type",
    /// A number, or the length of a text or list.
    OutOfRange = "out_of_range",
    InvalidValue = "invalid_value",
    InvalidName = "invalid_name",
    /// A path that is not relative, or leaves the workspace.
    UnsafePath = "unsafe_path",
    InvalidPattern = "invalid_pattern",
    DuplicateName = "duplicate_name",
    ReservedName = "reserved_name",
    DuplicatePort = "duplicate_port",
    ReservedPort = "reserved_port",
    /// Keys that exclude one another.
    Conflict = "conflict",
    RequiresStartWithoutStart = "requires_start_without_start",
    UnknownService = "unknown_service",
    DependencyCycle = "dependency_cycle",
    ScheduleTargetMissing = "schedule_target_missing",
    /// An endpoint at a port that nothing declares.
    UndeclaredPort = "undeclared_port",
    /// The schema of the inputs.
    InvalidSchema = "invalid_schema",
    UnknownVolume = "unknown_volume",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_they_are_called() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).expect("JSON"), code.as_str());
        }
    }
}
