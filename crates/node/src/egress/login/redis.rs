//! `AUTH` of Redis, sent before anything of the client's. Logins of the client's own are taken from what it sends: the
//! connection stays who we logged in as.
//!
//! Commands are framed anew on their way, so that the server reads exactly those that were looked at here. Nothing secret is
//! ever among them.
use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};

use super::{Login, LoginError, Stream};

const REPLY_BYTES_MAX: usize = 512;
const BUFFER_BYTES: usize = 16 << 10;
/// Commands that are about who the client is; no name of one is longer than this.
const OWN: [&[u8]; 3] = [b"AUTH", b"HELLO", b"RESET"];
const NAME_BYTES_MAX: u64 = 8;
/// What such a command may have, the client's own password too.
const OWN_WORDS_MAX: u64 = 16;
const OWN_WORD_BYTES_MAX: u64 = 4096;
/// Of counts and lengths.
const DIGITS_MAX: usize = 10;
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
    let named = ["AUTH", login.username, login.password];
    let without_name = ["AUTH", login.password];
    framed(if matches!(login.username, "" | DEFAULT_USER) { &without_name } else { &named })
}

fn framed(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    command
}

/// Carries a client that is logged in, until both sides are done.
pub(super) async fn carry(client: impl Stream, server: impl Stream) -> io::Result<()> {
    let (from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, to_server) = tokio::io::split(server);
    let mut commands = BufReader::with_capacity(BUFFER_BYTES, from_client);
    let mut to_server = BufWriter::with_capacity(BUFFER_BYTES, to_server);
    // Before anything has gone to the server, an answer of ours is in its turn.
    let mut next = read_command(&mut commands).await?;
    while matches!(&next, Some(Command::Own(words)) if words[0].eq_ignore_ascii_case(b"AUTH") && words.len() > 1) {
        to_client.write_all(b"+OK\r\n").await?;
        next = read_command(&mut commands).await?;
    }
    let out = async {
        while let Some(command) = next {
            pass(command, &mut commands, &mut to_server).await?;
            if commands.buffer().is_empty() {
                to_server.flush().await?;
            }
            next = read_command(&mut commands).await?;
        }
        to_server.shutdown().await
    };
    let back = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(out, back).map(drop)
}

/// A command of which so much was read as decides what becomes of it.
enum Command {
    /// One that is about who the client is.
    Own(Vec<Vec<u8>>),
    /// Any other: its beginning, then its first word when that was not read, then more words.
    Other { begin: Vec<u8>, unread: Option<u64>, words: u64 },
}

/// The next command; None at the end.
async fn read_command(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Command>> {
    if from.fill_buf().await?.is_empty() {
        return Ok(None);
    }
    let words = read_number(from, b'*').await?;
    if words == 0 {
        return Err(malformed());
    }
    let first = read_number(from, b'$').await?;
    if first > NAME_BYTES_MAX {
        let begin = format!("*{words}\r\n${first}\r\n").into_bytes();
        return Ok(Some(Command::Other { begin, unread: Some(first), words: words - 1 }));
    }
    let name = read_word(from, first).await?;
    if !OWN.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        let mut begin = format!("*{words}\r\n${first}\r\n").into_bytes();
        begin.extend_from_slice(&name);
        begin.extend_from_slice(b"\r\n");
        return Ok(Some(Command::Other { begin, unread: None, words: words - 1 }));
    }
    if words > OWN_WORDS_MAX {
        return Err(malformed());
    }
    let mut own = vec![name];
    for _ in 1..words {
        let len = read_number(from, b'$').await?;
        if len > OWN_WORD_BYTES_MAX {
            return Err(malformed());
        }
        own.push(read_word(from, len).await?);
    }
    Ok(Some(Command::Own(own)))
}

async fn pass(command: Command, from: &mut (impl AsyncBufRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    match command {
        Command::Own(words) => to.write_all(&framed(&in_place_of(words))).await,
        Command::Other { begin, unread, words } => {
            to.write_all(&begin).await?;
            if let Some(len) = unread {
                pass_word(len, from, to).await?;
            }
            for _ in 0..words {
                let len = read_number(from, b'$').await?;
                to.write_all(format!("${len}\r\n").as_bytes()).await?;
                pass_word(len, from, to).await?;
            }
            Ok(())
        }
    }
}

/// The bytes of a word, and its end.
async fn pass_word(len: u64, from: &mut (impl AsyncBufRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let copied = tokio::io::copy_buf(&mut (&mut *from).take(len), to).await?;
    if copied < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    read_end(from).await?;
    to.write_all(b"\r\n").await
}

/// What the server gets for a command that is about who the client is; each has one answer, in its turn.
fn in_place_of(words: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let (name, rest) = (&words[0], &words[1..]);
    if name.eq_ignore_ascii_case(b"AUTH") && !rest.is_empty() {
        // Answered with +OK, and nothing changes.
        return ["CLIENT", "REPLY", "ON"].map(|word| word.as_bytes().to_vec()).to_vec();
    }
    if name.eq_ignore_ascii_case(b"RESET") {
        // It would log out. With a word too many it is an error.
        return vec![name.clone(), b"not-here".to_vec()];
    }
    if name.eq_ignore_ascii_case(b"HELLO") {
        return without_login(words);
    }
    words
}

/// `HELLO 3 AUTH name password SETNAME x` as `HELLO 3 SETNAME x`.
fn without_login(words: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut kept = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    kept.extend(words.by_ref().take(2));
    while let Some(word) = words.next() {
        let is_login = word.eq_ignore_ascii_case(b"AUTH");
        let values: Vec<_> = words.by_ref().take(if is_login { 2 } else { 1 }).collect();
        if !is_login {
            kept.push(word);
            kept.extend(values);
        }
    }
    kept
}

/// A line such as `*3` or `$10`, as clients write it: other forms might be read otherwise by the server.
async fn read_number(from: &mut (impl AsyncBufRead + Unpin), kind: u8) -> io::Result<u64> {
    if from.read_u8().await? != kind {
        return Err(malformed());
    }
    let mut digits = String::new();
    loop {
        match from.read_u8().await? {
            digit if digit.is_ascii_digit() && digits.len() < DIGITS_MAX && digits != "0" => digits.push(char::from(digit)),
            b'\r' if from.read_u8().await? == b'\n' => return digits.parse().map_err(|_| malformed()),
            _ => return Err(malformed()),
        }
    }
}

async fn read_word(from: &mut (impl AsyncBufRead + Unpin), len: u64) -> io::Result<Vec<u8>> {
    // Bounded by who asks.
    let mut word = vec![0; len as usize];
    from.read_exact(&mut word).await?;
    read_end(from).await?;
    Ok(word)
}

async fn read_end(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    let end = [from.read_u8().await?, from.read_u8().await?];
    if end == *b"\r\n" { Ok(()) } else { Err(malformed()) }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the client's commands are not as Redis's protocol has them; inline ones are not carried with a credential")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

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

    /// What the server and the client get of what the client says.
    async fn carried(said: &[u8]) -> (io::Result<()>, String, String) {
        let (mut client, near) = tokio::io::duplex(1 << 16);
        let (far, mut server) = tokio::io::duplex(1 << 16);
        client.write_all(said).await.unwrap();
        client.shutdown().await.unwrap();
        let talk = async {
            let mut got = String::new();
            server.read_to_string(&mut got).await.unwrap();
            drop(server);
            got
        };
        let (done, got) = tokio::join!(carry(near, far), talk);
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        (done, got, answers)
    }

    fn commands(lines: &[&str]) -> Vec<u8> {
        lines.iter().flat_map(|line| framed(&line.split(' ').collect::<Vec<_>>())).collect()
    }

    #[tokio::test]
    async fn a_client_stays_who_it_is_logged_in_as() {
        let table: [(&[&str], &[&str], &str); 6] = [
            (&["PING"], &["PING"], ""),
            (&["auth me mine", "AUTH mine", "PING", "GET a-long-name"], &["PING", "GET a-long-name"], "+OK\r\n+OK\r\n"),
            (&["HELLO 3 AUTH me mine SETNAME AUTH", "hello 3 setname x auth a b"], &["HELLO 3 SETNAME AUTH", "hello 3 setname x"], ""),
            (&["PING", "AUTH me mine", "PING"], &["PING", "CLIENT REPLY ON", "PING"], ""),
            (&["RESET", "HELLO", "AUTH"], &["RESET not-here", "HELLO", "AUTH"], ""),
            (&["SUBSCRIBELONG x", "ECHO AUTH"], &["SUBSCRIBELONG x", "ECHO AUTH"], ""),
        ];
        for (said, want, answer) in table {
            let (done, got, answers) = carried(&commands(said)).await;
            done.unwrap();
            assert_eq!((got.as_bytes(), answers.as_str()), (&*commands(want), answer), "{said:?}");
        }
    }

    #[tokio::test]
    async fn what_could_be_read_otherwise_is_not_carried() {
        for said in ["PING\r\n", "*-1\r\n", "*0\r\n", "*01\r\n$4\r\nPING\r\n", "*1\n$4\r\nPING\r\n", "*1\r\n$4\r\nPINGxx", "*1\r\n$-1\r\n", "*1\r\n$4\r\nPI"] {
            assert!(carried(said.as_bytes()).await.0.is_err(), "{said}");
        }
    }

    proptest! {
        #[test]
        fn other_commands_come_as_they_were(words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..8)) {
            prop_assume!(!OWN.iter().any(|own| words[0].eq_ignore_ascii_case(own)));
            let said = framed(&words);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(async {
                let (mut from, mut to) = (&*said, Vec::new());
                while let Some(command) = read_command(&mut from).await.unwrap() {
                    pass(command, &mut from, &mut to).await.unwrap();
                }
                to
            });
            prop_assert_eq!(got, said);
        }

        #[test]
        fn no_bytes_panic(said in proptest::collection::vec(any::<u8>(), 0..64)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async { read_command(&mut &*said).await.map(drop).ok() });
        }
    }
}
