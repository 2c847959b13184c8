//! `procd sftp-server`: SFTP version 3 on standard input and output, with those extensions that OpenSSH's clients use.
//!
//! A process of its own in the sandbox like any other: what it may do with files is the kernel's to say, and it may wait for a
//! slow disk as long as it likes. It answers in the order of the requests and holds one of them at a time.
use std::io::{self, Read, Write};
use std::process::ExitCode;

mod entry;
mod server;
mod wire;

use server::Server;
use wire::PACKET_BYTES_MAX;

/// The name of this mode.
pub const NAME: &str = "sftp-server";
const READ_BYTES: usize = 64 << 10;
/// Answers are sent when so many bytes of them wait, or nothing is left to do.
const ANSWERS_BYTES: usize = 256 << 10;

/// Serves until standard input ends.
pub fn run() -> ExitCode {
    match serve(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sftp-server: {}", crate::error::describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn serve(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut server = Server::default();
    let (mut input, mut begin, mut answers) = (Vec::new(), 0, Vec::new());
    let mut piece = vec![0; READ_BYTES];
    loop {
        while let Some(length) = whole(&input[begin..])? {
            let packet = &input[begin + 4..begin + 4 + length];
            server.answer(packet, &mut answers)?;
            begin += 4 + length;
            if answers.len() >= ANSWERS_BYTES {
                to.write_all(&answers)?;
                answers.clear();
            }
        }
        input.drain(..begin);
        begin = 0;
        to.write_all(&answers)?;
        to.flush()?;
        answers.clear();
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => input.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The length of a packet that is whole.
fn whole(input: &[u8]) -> io::Result<Option<usize>> {
    let Some(header) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if !(1..=PACKET_BYTES_MAX).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a packet of {length} bytes; the limit is {PACKET_BYTES_MAX}")));
    }
    Ok((input.len() >= 4 + length).then_some(length))
}

#[cfg(test)]
mod tests;
