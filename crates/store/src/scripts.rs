//! Script functions: their rows, versions, aliases, secrets and keys.

use sandbar_core::script::{AuthorKind, ScriptSpec, Trigger};

/// A script.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptRecord {
    pub id: String,
    pub team_id: String,
    pub name: String,
    pub trigger: Trigger,
    /// Of an event or a schedule.
    pub pattern: Option<String>,
    pub active: bool,
    pub last_version: u32,
    pub spec: ScriptSpec,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub generation: i64,
}

/// Code that a script had or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptVersion {
    pub script_id: String,
    pub number: u32,
    pub hash: String,
    pub language: Language,
    pub source: String,
    /// What is run, with lines and columns of the source; none: the source itself.
    pub code: Option<String>,
    pub author_kind: Option<AuthorKind>,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    JavaScript,
    TypeScript,
}

impl Language {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        [Self::JavaScript, Self::TypeScript].into_iter().find(|language| language.as_str() == text)
    }
}
