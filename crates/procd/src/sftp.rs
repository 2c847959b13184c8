//! SFTP.
pub const NAME: &str = "sftp-server";
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
