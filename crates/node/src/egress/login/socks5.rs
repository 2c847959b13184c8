//! SOCKS5 (RFC 1928, 1929): logins for clients that speak it, and connections through a policy's own proxy.
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Login, LoginError, Stream, read_bytes};

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const BY_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const TO_V4: u8 = 1;
const TO_NAME: u8 = 3;
const TO_V6: u8 = 4;

/// The ways to log in that a client offers.
pub(super) async fn greeted(client: &mut impl Stream) -> Result<Vec<u8>, LoginError> {
    let [version, count] = [client.read_u8().await?, client.read_u8().await?];
    if version != VERSION {
        return Err(LoginError::Client);
    }
    read_bytes(client, count.into()).await
}

/// Tells a client that it is logged in, in one of the ways that it offered.
pub(super) async fn welcome(client: &mut impl Stream, methods: &[u8]) -> Result<(), LoginError> {
    if methods.contains(&NO_LOGIN) {
        return Ok(client.write_all(&[VERSION, NO_LOGIN]).await?);
    }
    if !methods.contains(&BY_PASSWORD) {
        client.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(LoginError::Client);
    }
    client.write_all(&[VERSION, BY_PASSWORD]).await?;
    // Whatever name and password it has stays here.
    if client.read_u8().await? != LOGIN_VERSION {
        return Err(LoginError::Client);
    }
    for _ in 0..2 {
        let len = client.read_u8().await?;
        read_bytes(client, len.into()).await?;
    }
    Ok(client.write_all(&[LOGIN_VERSION, 0]).await?)
}

/// Greets a server, and logs in if there is a login.
pub(in super::super) async fn log_in(server: &mut impl Stream, login: Option<Login<'_>>) -> Result<(), LoginError> {
    let method = if login.is_some() { BY_PASSWORD } else { NO_LOGIN };
    server.write_all(&[VERSION, 1, method]).await?;
    match [server.read_u8().await?, server.read_u8().await?] {
        [VERSION, chosen] if chosen == method => {}
        [VERSION, NO_METHOD] => return Err(LoginError::Refused),
        _ => return Err(LoginError::Server),
    }
    let Some(login) = login else { return Ok(()) };
    let mut packet = vec![LOGIN_VERSION];
    for text in [login.username, login.password] {
        // An empty one cannot be said.
        let len = u8::try_from(text.len()).ok().filter(|len| *len > 0).ok_or(LoginError::Long)?;
        packet.push(len);
        packet.extend_from_slice(text.as_bytes());
    }
    server.write_all(&packet).await?;
    match [server.read_u8().await?, server.read_u8().await?] {
        [_, 0] => Ok(()),
        _ => Err(LoginError::Refused),
    }
}

/// Where a server is asked to connect to.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Target<'a> {
    Name(&'a str),
    Addr(IpAddr),
}

/// After [`log_in`]: has the server connect. The number is its reason not to.
pub(in super::super) async fn connect(server: &mut impl Stream, target: Target<'_>, port: u16) -> Result<Result<(), u8>, LoginError> {
    let mut packet = vec![VERSION, CONNECT, 0];
    match target {
        Target::Name(name) => {
            packet.extend([TO_NAME, u8::try_from(name.len()).map_err(|_| LoginError::Long)?]);
            packet.extend_from_slice(name.as_bytes());
        }
        Target::Addr(IpAddr::V4(addr)) => packet.extend([&[TO_V4], &addr.octets()[..]].concat()),
        Target::Addr(IpAddr::V6(addr)) => packet.extend([&[TO_V6], &addr.octets()[..]].concat()),
    }
    packet.extend_from_slice(&port.to_be_bytes());
    server.write_all(&packet).await?;
    let reply = read_bytes(server, 4).await?;
    if reply[0] != VERSION {
        return Err(LoginError::Server);
    }
    if reply[1] != 0 {
        return Ok(Err(reply[1]));
    }
    let bound_bytes = match reply[3] {
        TO_V4 => 4,
        TO_V6 => 16,
        TO_NAME => usize::from(server.read_u8().await?),
        _ => return Err(LoginError::Server),
    };
    read_bytes(server, bound_bytes + 2).await?;
    Ok(Ok(()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LOGIN: Login<'_> = Login { username: "user", password: "pass" };

    /// What is said to a peer that says this.
    async fn said_to<T>(peer: &[u8], talk: impl AsyncFnOnce(&mut tokio::io::DuplexStream) -> T) -> (T, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(peer).await.unwrap();
        let done = talk(&mut near).await;
        drop(near);
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        (done, said)
    }

    #[tokio::test]
    async fn a_login() {
        let (done, said) = said_to(&[5, 2, 1, 0], async |server| log_in(server, Some(LOGIN)).await).await;
        done.unwrap();
        assert_eq!(said, b"\x05\x01\x02\x01\x04user\x04pass");
        for refusal in [&[5, 2, 1, 1][..], &[5, 0xff], &[5, 0], &[4, 2]] {
            assert!(said_to(refusal, async |server| log_in(server, Some(LOGIN)).await).await.0.is_err());
        }
        let (done, said) = said_to(&[5, 0], async |server| log_in(server, None).await).await;
        done.unwrap();
        assert_eq!(said, [5, 1, 0]);
    }

    #[tokio::test]
    async fn a_client_is_welcome_in_its_own_way() {
        let table: [(&[u8], &[u8], bool); 4] = [
            (&[5, 1, 0], &[5, 0], true),
            (&[5, 2, 2, 0], &[5, 0], true),
            (b"\x05\x01\x02\x01\x01x\x01y", &[5, 2, 1, 0], true),
            (&[5, 1, 1], &[5, 0xff], false),
        ];
        for (client, want, is_done) in table {
            let talk = async |client: &mut tokio::io::DuplexStream| {
                let methods = greeted(client).await?;
                welcome(client, &methods).await
            };
            let (done, said) = said_to(client, talk).await;
            assert_eq!((done.is_ok(), said.as_slice()), (is_done, want));
        }
    }

    #[tokio::test]
    async fn a_connection() {
        let ok = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let (done, said) = said_to(&ok, async |server| connect(server, Target::Name("a.test"), 443).await).await;
        assert!(matches!(done, Ok(Ok(()))));
        assert_eq!(said, b"\x05\x01\x00\x03\x06a.test\x01\xbb");
        let (done, said) = said_to(&[5, 5, 0, 1], async |server| connect(server, Target::Addr([9, 9, 9, 9].into()), 80).await).await;
        assert!(matches!(done, Ok(Err(5))));
        assert_eq!(said, [5, 1, 0, 1, 9, 9, 9, 9, 0, 80]);
    }
}
