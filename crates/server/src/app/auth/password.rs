//! Passwords, by Argon2id. Hashing takes memory and time, so only a few run at once and never on a thread that serves.

use std::{sync::Arc, time::Duration};

use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::{PasswordHash, SaltString},
};
use sandbar_core::limits;
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Hashings at once; each takes 19 MiB.
const AT_ONCE: usize = 2;
/// Who waits longer than this for a turn is sent away.
const WAIT_MAX: Duration = Duration::from_secs(5);
const SALT_BYTES: usize = 16;

pub struct Hasher {
    turns: Arc<Semaphore>,
}

impl Hasher {
    pub fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The PHC string of a password.
    pub async fn hash(&self, password: &str) -> Result<String, ApiError> {
        let password = password.to_owned();
        self.run(move || {
            let mut salt = [0u8; SALT_BYTES];
            getrandom::fill(&mut salt).map_err(|e| e.to_string())?;
            let salt = SaltString::encode_b64(&salt).map_err(|e| e.to_string())?;
            Argon2::default().hash_password(password.as_bytes(), &salt).map(|hash| hash.to_string()).map_err(|e| e.to_string())
        })
        .await
    }

    /// Whether a password belongs to a hash. Without a hash it takes as long and is false, so that nobody learns which
    /// accounts exist.
    pub async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, ApiError> {
        let Some(hash) = hash.map(str::to_owned) else {
            self.hash(password).await?;
            return Ok(false);
        };
        let password = password.to_owned();
        self.run(move || {
            let hash = PasswordHash::new(&hash).map_err(|e| e.to_string())?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = match turn {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) | Err(_) => return Err(ApiError::unavailable("too many people log in at once; try again").retry_after(2)),
        };
        let result = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ApiError::internal("hashing the password", &error)),
            Err(error) => Err(ApiError::internal("hashing the password", &error)),
        }
    }
}

/// Refuses a password that is too short or too long.
pub fn check(password: &str, field: &str) -> Result<(), ApiError> {
    if password.chars().count() < limits::PASSWORD_MIN_CHARS {
        return Err(ApiError::bad_request(format!("{field}: must have at least {} characters", limits::PASSWORD_MIN_CHARS)));
    }
    if password.len() > limits::PASSWORD_MAX_BYTES {
        return Err(ApiError::bad_request(format!("{field}: must have at most {} bytes", limits::PASSWORD_MAX_BYTES)));
    }
    Ok(())
}
