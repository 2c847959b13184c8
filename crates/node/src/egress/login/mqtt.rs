//! `CONNECT` of MQTT (3.1, 3.1.1 and 5), written anew with a name and a password.
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Login, LoginError, Stream, read_bytes};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
/// With a will that a client may leave; far more than others have.
const PACKET_BYTES_MAX: usize = 64 << 10;
const VERSION_5: u8 = 5;

const FLAG_USERNAME: u8 = 0x80;
const FLAG_PASSWORD: u8 = 0x40;
const FLAG_WILL: u8 = 0x04;

/// Takes the client's packet and sends the one with the login. What the server says to it, it says to the client, too: also
/// that it refuses.
pub(super) async fn log_in(client: &mut impl Stream, server: &mut impl Stream, login: Login<'_>) -> Result<(), LoginError> {
    if client.read_u8().await? != CONNECT {
        return Err(LoginError::Client);
    }
    let len = read_len(client).await?;
    if len > PACKET_BYTES_MAX {
        return Err(LoginError::Client);
    }
    let packet = read_bytes(client, len).await?;
    server.write_all(&rewrite(&packet, login)?).await?;
    acknowledged(client, server).await
}

/// Passes on the server's first packet. Any other than `CONNACK`, such as a challenge, is between it and the client.
async fn acknowledged(client: &mut impl Stream, server: &mut impl Stream) -> Result<(), LoginError> {
    let kind = server.read_u8().await?;
    if kind != CONNACK {
        return Ok(client.write_all(&[kind]).await?);
    }
    let len = read_len(server).await.map_err(of_server)?;
    if len > PACKET_BYTES_MAX {
        return Err(LoginError::Server);
    }
    let body = read_bytes(server, len).await?;
    let mut packet = vec![kind];
    write_len(len, &mut packet);
    packet.extend_from_slice(&body);
    client.write_all(&packet).await?;
    match body.get(1) {
        Some(0) => Ok(()),
        Some(code) => Err(LoginError::Connack(*code)),
        None => Err(LoginError::Server),
    }
}

fn of_server(error: LoginError) -> LoginError {
    if matches!(error, LoginError::Client) { LoginError::Server } else { error }
}

/// In up to four bytes of seven bits, the lowest first.
async fn read_len(client: &mut impl Stream) -> Result<usize, LoginError> {
    let mut len = 0;
    for shift in [0, 7, 14, 21] {
        let byte = client.read_u8().await?;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(len);
        }
    }
    Err(LoginError::Client)
}

fn write_len(mut len: usize, out: &mut Vec<u8>) {
    loop {
        let more = len >= 0x80;
        out.push((len & 0x7f) as u8 | if more { 0x80 } else { 0 });
        len >>= 7;
        if !more {
            return;
        }
    }
}

fn rewrite(packet: &[u8], login: Login<'_>) -> Result<Vec<u8>, LoginError> {
    let mut reader = Reader(packet);
    let parts = reader.parts().ok_or(LoginError::Client)?;
    // The client's own name and password are left behind, and nothing may follow them.
    for flag in [FLAG_USERNAME, FLAG_PASSWORD] {
        if parts.flags & flag != 0 {
            reader.field().ok_or(LoginError::Client)?;
        }
    }
    if !reader.0.is_empty() {
        return Err(LoginError::Client);
    }
    let mut body = parts.before_flags.to_vec();
    body.push(parts.flags | FLAG_USERNAME | FLAG_PASSWORD);
    body.extend_from_slice(parts.after_flags);
    for text in [login.username, login.password] {
        let len = u16::try_from(text.len()).map_err(|_| LoginError::Long)?;
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut out = vec![CONNECT];
    write_len(body.len(), &mut out);
    out.extend(body);
    Ok(out)
}

/// What stays of a packet.
struct Parts<'a> {
    before_flags: &'a [u8],
    flags: u8,
    /// To where the name would begin.
    after_flags: &'a [u8],
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    /// With its length before it.
    fn field(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(len.into())
    }

    fn properties(&mut self) -> Option<()> {
        let mut len = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            len |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return self.take(len).map(drop);
            }
        }
        None
    }

    fn parts(&mut self) -> Option<Parts<'a>> {
        let whole = self.0;
        let name = self.field()?;
        let version = self.byte()?;
        if !matches!((name, version), (b"MQIsdp", 3) | (b"MQTT", 4 | VERSION_5)) {
            return None;
        }
        let before_flags = &whole[..whole.len() - self.0.len()];
        let flags = self.byte()?;
        let rest = self.0;
        self.take(2)?;
        if version == VERSION_5 {
            self.properties()?;
        }
        self.field()?;
        if flags & FLAG_WILL != 0 {
            if version == VERSION_5 {
                self.properties()?;
            }
            self.field()?;
            self.field()?;
        }
        Some(Parts { before_flags, flags, after_flags: &rest[..rest.len() - self.0.len()] })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOGIN: Login<'_> = Login { username: "user", password: "pass" };

    fn field(text: &[u8]) -> Vec<u8> {
        [&(text.len() as u16).to_be_bytes(), text].concat()
    }

    fn connect(name: &[u8], version: u8, flags: u8, rest: &[Vec<u8>]) -> Vec<u8> {
        [&field(name)[..], &[version, flags, 0, 60], &rest.concat()].concat()
    }

    #[test]
    fn a_login_takes_the_place_of_the_clients() {
        let will = [vec![0], field(b"id"), vec![2, 24, 0], field(b"topic"), field(b"last")];
        let table = [
            (connect(b"MQTT", 4, 2, &[field(b"id")]), connect(b"MQTT", 4, 0xc2, &[field(b"id"), field(b"user"), field(b"pass")])),
            (
                connect(b"MQIsdp", 3, 0xc2, &[field(b"id"), field(b"me"), field(b"mine")]),
                connect(b"MQIsdp", 3, 0xc2, &[field(b"id"), field(b"user"), field(b"pass")]),
            ),
            (connect(b"MQTT", 5, 0x86, &[will.concat(), field(b"me")]), connect(b"MQTT", 5, 0xc6, &[will.concat(), field(b"user"), field(b"pass")])),
        ];
        for (packet, want) in table {
            let got = rewrite(&packet, LOGIN).unwrap();
            assert_eq!((got[0], usize::from(got[1])), (CONNECT, want.len()));
            assert_eq!(got[2..], want);
        }
    }

    #[test]
    fn what_is_no_connect_is_refused() {
        for packet in [
            connect(b"HTTP", 4, 2, &[field(b"id")]),
            connect(b"MQTT", 9, 2, &[field(b"id")]),
            connect(b"MQTT", 4, 2, &[field(b"id"), field(b"more")]),
            connect(b"MQTT", 4, 0xc2, &[field(b"id")]),
        ] {
            assert!(rewrite(&packet, LOGIN).is_err());
        }
    }

    #[tokio::test]
    async fn only_the_first_packet_is_written_anew() {
        let (mut client, mut near) = tokio::io::duplex(1024);
        let (mut far, mut server) = tokio::io::duplex(1024);
        let packet = connect(b"MQTT", 4, 2, &[field(b"id")]);
        client.write_all(&[&[CONNECT, packet.len() as u8], &packet[..], b"rest"].concat()).await.unwrap();
        server.write_all(&[CONNACK, 2, 0, 0, 9]).await.unwrap();
        log_in(&mut near, &mut far, LOGIN).await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!((answer, far.read_u8().await.unwrap()), ([CONNACK, 2, 0, 0], 9));
        let mut rest = [0; 4];
        near.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
        drop(far);
        let mut sent = Vec::new();
        server.read_to_end(&mut sent).await.unwrap();
        assert!(sent.ends_with(b"\0\x04user\0\x04pass"));
    }

    #[tokio::test]
    async fn a_refusal_is_noticed_and_passed_on() {
        for (said, code) in [(&[CONNACK, 2, 0, 5][..], Some(5)), (&[CONNACK, 3, 0, 0x86, 0], Some(0x86)), (&[CONNACK, 0], None), (&[0xf0], Some(0))] {
            let (mut client, mut near) = tokio::io::duplex(64);
            let (mut far, mut server) = tokio::io::duplex(64);
            server.write_all(said).await.unwrap();
            let got = match acknowledged(&mut near, &mut far).await {
                Ok(()) => Some(0),
                Err(LoginError::Connack(code)) => Some(code),
                Err(_) => None,
            };
            drop(near);
            let mut passed = Vec::new();
            client.read_to_end(&mut passed).await.unwrap();
            assert_eq!((got, passed.as_slice()), (code, said));
        }
    }

    proptest! {
        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..64)) {
            rewrite(&packet, LOGIN).ok();
        }

        #[test]
        fn lengths_round_trip(len in 0_usize..(1 << 28)) {
            let mut bytes = Vec::new();
            write_len(len, &mut bytes);
            let (mut near, mut far) = tokio::io::duplex(8);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                far.write_all(&bytes).await.unwrap();
                read_len(&mut near).await.unwrap()
            });
            prop_assert_eq!(read, len);
        }
    }
}
