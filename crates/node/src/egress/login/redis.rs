//! `AUTH` of Redis, sent before anything of the client's.
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Login, LoginError, Stream};

const REPLY_BYTES_MAX: usize = 512;
/// The user whom a password alone means. Servers before Redis 6 know no names.
const DEFAULT_USER: &str = "default";

pub(super) async fn log_in(server: &mut impl Stream, login: Login<'_>) -> Result<(), LoginError> {
    server.write_all(&command(login)).await?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n") {
        if reply.len() >= REPLY_BYTES_MAX {
            return Err(LoginError::Server);
        }
        reply.push(server.read_u8().await?);
    }
    match reply.first() {
        Some(b'+') => Ok(()),
        Some(b'-') => Err(LoginError::Refused),
        _ => Err(LoginError::Server),
    }
}

fn command(login: Login<'_>) -> Vec<u8> {
    let named = [login.username, login.password];
    let words = if matches!(login.username, "" | DEFAULT_USER) { &named[1..] } else { &named };
    let mut command = format!("*{}\r\n$4\r\nAUTH\r\n", words.len() + 1);
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    command.into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_server_has_the_word() {
        for (reply, taken) in [("+OK\r\n+PONG", true), ("-WRONGPASS x\r\n", false), ("$3\r\n", false), ("+O", false)] {
            let want = "*3\r\n$4\r\nAUTH\r\n$6\r\nünser\r\n$4\r\na\r\nb\r\n";
            let (mut ours, mut server) = tokio::io::duplex(1024);
            server.write_all(reply.as_bytes()).await.unwrap();
            server.shutdown().await.unwrap();
            let done = log_in(&mut ours, Login { username: "ünser", password: "a\r\nb" }).await;
            assert_eq!(done.is_ok(), taken, "{reply}");
            drop(ours);
            let mut said = String::new();
            server.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, want);
        }
    }

    #[test]
    fn a_password_alone() {
        for username in ["", "default"] {
            assert_eq!(command(Login { username, password: "p" }), b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n");
        }
    }
}
