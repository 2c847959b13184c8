//! What a request is answered when it fails.
use std::io;

use rustix::io::Errno;
use sandbar_procd_api::{ErrorBody, ErrorCode};

/// A failure that the host is told.
#[derive(Debug)]
pub struct Failure(pub ErrorBody);

impl Failure {
    /// A failure with this code and text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorBody { code, message: message.into() })
    }

    /// A file operation failed: the code that fits the system's error, the text naming the path. `missing` is the
    /// code for a path that does not exist.
    pub fn file(error: &io::Error, path: &str, missing: ErrorCode) -> Self {
        let errno = Errno::from_io_error(error);
        let code = match errno {
            Some(Errno::NOENT) => missing,
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorCode::PermissionDenied,
            Some(Errno::EXIST | Errno::NOTEMPTY) => ErrorCode::PathExists,
            Some(Errno::NOTDIR) => ErrorCode::PathNotDirectory,
            Some(Errno::ISDIR) => ErrorCode::PathNotFile,
            Some(Errno::NOSPC | Errno::DQUOT) => ErrorCode::DiskFull,
            Some(Errno::FBIG) => ErrorCode::FileTooLarge,
            Some(Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL) => ErrorCode::InvalidRequest,
            _ => ErrorCode::OperationFailed,
        };
        Self::new(code, format!("{path}: {}", describe(error)))
    }
}

/// The system's words for an error, without its number.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(ErrorCode::InvalidRequest, format!("the body is not what was expected: {error}"))
    }
}
