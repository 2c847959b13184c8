//! The source of a version on its way in: an archive of a stranger, unpacked beside everything else, and its manifest.

use axum::body::Body;
use sandbar_api::ErrorCode;
use sandbar_core::{
    app::{
        artifact::Pattern,
        manifest::{Code, Diagnostic, FILE_NAMES, Parsed, is_app_name, locate, parse_bytes},
        receipt::{Prices, check_budget},
    },
    limits::{apps as manifest_limits, deploys as limits},
    validate::Violation,
};
use sandbar_node::{
    error_text,
    staging::{Listed, Staged},
    volumes::{ArchiveLimits, ImportError, VolumeError},
};
use sandbar_store::NewAppVersion;
use sha2::{Digest, Sha256};

use super::{Deploy, diagnosed, ground::Ground};
use crate::{
    app::{App, auth::Principal, room::full, sandboxes::violations, streams::keep, volumes},
    error::ApiError,
};

/// What the key of a setup is of; changed when setups are done in another way.
const SETUP_KEY_VERSION: u32 = 1;

/// A source that was taken in.
pub(super) struct Source {
    pub staged: Staged,
    listing: Vec<Listed>,
    sha256: String,
    pub manifest_text: String,
    pub parsed: Parsed,
}

/// Refuses what is no name of an app.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    if is_app_name(name) {
        return Ok(());
    }
    let max = manifest_limits::APP_NAME_MAX_CHARS;
    Err(ApiError::bad_request(format!("name: must have 2 to {max} lower-case letters, digits and hyphens, and no hyphen at its ends")))
}

pub(super) fn check_message(message: Option<&str>) -> Result<(), ApiError> {
    if message.is_some_and(|message| message.chars().count() > limits::APP_MESSAGE_MAX_CHARS) {
        let text = format!("is longer than {} characters", limits::APP_MESSAGE_MAX_CHARS);
        return Err(violations(vec![Violation::new("message", text)]));
    }
    Ok(())
}

impl App {
    /// Unpacks the archive in a request's body, and reads the manifest in it. What is wrong with that is told before anything is made.
    pub(super) async fn take_source(&self, body: Body) -> Result<Source, ApiError> {
        let spool = self.node.volume_spool().map_err(|error| volumes::failure("keeping the source", &error))?;
        let spool = keep(self, spool, body).await?;
        let bounds = ArchiveLimits { entries_max: limits::APP_SOURCE_ENTRIES_MAX, bytes_max: limits::APP_SOURCE_MAX_BYTES };
        let staged = self.node.stage(spool, bounds).await.map_err(|error| unpacked_failure(&error))?;
        let (file, manifest_text) = manifest_in(&staged).await?;
        let wrong = |diagnostics: &[Diagnostic]| diagnosed(diagnostics).with_message(|text| format!("{file}: {text}"));
        let parsed = parse_bytes(&manifest_text).map_err(|diagnostics| wrong(&diagnostics))?;
        // It was read, so it is text.
        let manifest_text = String::from_utf8_lossy(&manifest_text).into_owned();
        let refused = unsupported(&parsed, self.receipts.prices().as_deref());
        if !refused.is_empty() {
            return Err(wrong(&located(&manifest_text, refused)));
        }
        let listing = staged.listing().await.map_err(|error| volumes::failure("reading the source", &error))?;
        let sha256 = digest_of(listing.iter());
        Ok(Source { staged, listing, sha256, manifest_text, parsed })
    }
}

impl Source {
    pub fn version(&self, who: &Principal, name: &str, deploy: &Deploy, ground: &Ground, now_ms: i64) -> NewAppVersion {
        NewAppVersion {
            team_id: who.team_id.clone(),
            app_name: name.to_owned(),
            app_id: uuid::Uuid::new_v4().to_string(),
            manifest_sha256: self.parsed.hash.clone(),
            source_sha256: self.sha256.clone(),
            source_bytes: self.staged.unpacked.bytes,
            message: deploy.message.clone().filter(|message| !message.is_empty()),
            created_by: Some(who.user_id.clone()),
            created_at_ms: now_ms,
            template_id: ground.template_id.clone(),
            template: ground.template.clone(),
            manifest_text: self.manifest_text.clone(),
            manifest: self.parsed.normalised.to_string(),
        }
    }

    /// The patterns of what the setup commands read; none for all of the source.
    pub fn setup_inputs(&self) -> Option<Vec<Pattern>> {
        let inputs = self.parsed.manifest.setup.inputs.as_ref()?;
        // Read once already, with the manifest.
        Some(inputs.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect())
    }

    /// What a setup depends on, as one number: what it is made on, what it runs, and what that reads.
    pub fn setup_key(&self, base: &str) -> String {
        let manifest = &self.parsed.manifest;
        let read = match self.setup_inputs() {
            None => self.sha256.clone(),
            Some(patterns) => digest_of(self.listing.iter().filter(|listed| !listed.is_folder && any_matches(&patterns, &listed.path))),
        };
        let parts = serde_json::json!([SETUP_KEY_VERSION, base, manifest.setup.commands, manifest.env, manifest.network, read]);
        hex::encode(Sha256::digest(parts.to_string()))
    }
}

/// Whether one of the patterns is for a path of a source.
pub(super) fn any_matches(patterns: &[Pattern], path: &[u8]) -> bool {
    // Patterns are text, so they are for nothing else.
    std::str::from_utf8(path).is_ok_and(|path| patterns.iter().any(|pattern| pattern.matches(path)))
}

fn digest_of<'a>(listing: impl Iterator<Item = &'a Listed>) -> String {
    let mut hash = Sha256::new();
    for listed in listing {
        hash.update((listed.path.len() as u64).to_le_bytes());
        hash.update(&listed.path);
        hash.update(listed.digest);
    }
    hex::encode(hash.finalize())
}

/// The manifest at the top of a source, with its name.
async fn manifest_in(staged: &Staged) -> Result<(&'static str, Vec<u8>), ApiError> {
    for name in FILE_NAMES {
        let wrong = |message: &str| {
            let at = Diagnostic { path: "$".to_owned(), code: Code::TooLarge, message: message.to_owned(), line: 1, column: 1 };
            diagnosed(&[at]).with_message(|text| format!("{name}: {text}"))
        };
        let bytes = match staged.read(name, manifest_limits::MANIFEST_MAX_BYTES as u64).await {
            Ok(None) => continue,
            Ok(Some(bytes)) => bytes,
            Err(VolumeError::Tree(_)) => return Err(wrong(&format!("must be a file of at most {} bytes", manifest_limits::MANIFEST_MAX_BYTES))),
            Err(error) => return Err(volumes::failure("reading the manifest", &error)),
        };
        return Ok((name, bytes));
    }
    let text = format!("the archive has no manifest: one of {} has to stand at its top", FILE_NAMES.join(", "));
    let at = Diagnostic { path: "$".to_owned(), code: Code::Missing, message: text.clone(), line: 1, column: 1 };
    Err(diagnosed(&[at]).with_message(|_| text))
}

/// The same where they stand in the text.
pub(super) fn located(text: &str, diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let place = |one: Diagnostic| {
        let (line, column) = locate(text, &one.path);
        Diagnostic { line, column, ..one }
    };
    diagnostics.into_iter().map(place).collect()
}

/// What a manifest may say and this server does not do. Nothing of it is passed over in silence.
pub(super) fn unsupported(parsed: &Parsed, prices: Option<&Prices>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut refuse = |path: &str, message: &str| {
        found.push(Diagnostic { path: path.to_owned(), code: Code::UnsupportedKey, message: message.to_owned(), line: 1, column: 1 });
    };
    if let sandbar_core::app::manifest::Runtime::Image(image) = &parsed.manifest.runtime
        && image.registry_secret_ref.is_some()
    {
        refuse(
            "$.runtime.image.registrySecretRef",
            "is not supported: an image that was pulled is there for every team, so one that needs a login is pulled by the operator, with `sandbar image pull --username`; leave the key out then",
        );
    }
    for (at, schedule) in parsed.manifest.schedules.iter().enumerate() {
        let key = if schedule.budget.is_some() { "budget.maxUsd" } else { "quotas.maxSpendUsd" };
        if let Some(Err(why)) = schedule.max_spend_micros().map(|max_micros| check_budget(prices, max_micros)) {
            refuse(&format!("$.schedules[{at}].{key}"), &why.to_string());
        }
    }
    found
}

fn unpacked_failure(error: &ImportError) -> ApiError {
    match error {
        ImportError::Volume(error) => volumes::failure("unpacking the source", error),
        ImportError::Archive(error) if error.is_disk_full() => full(),
        ImportError::Archive(error) if error.is_too_large() => {
            let text = format!("the source may have at most {} bytes, unpacked; leave out what is built from the rest", limits::APP_SOURCE_MAX_BYTES);
            ApiError::new(ErrorCode::PayloadTooLarge, text)
        }
        ImportError::Archive(error) => ApiError::bad_request(format!("the source cannot be unpacked: {}", error_text(error))),
    }
}
