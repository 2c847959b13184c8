//! `procd connect HOST PORT` and `procd connect PATH`: a connection from inside, on standard input and output.
//!
//! It is made like by any program of the sandbox, and judged like it.
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use sandbar_procd_api::process::CONNECTED;

/// The name of this mode.
pub const NAME: &str = "connect";
const PIECE_BYTES: usize = 32 << 10;

/// Connects and carries bytes until the other side ends; that ours has ended is passed on.
pub fn run(arguments: &[String]) -> ExitCode {
    let carried = match arguments {
        [host, port] => match port.parse::<u16>() {
            Ok(port) => tcp(host, port),
            Err(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "that is no port")),
        },
        [path] => unix(path),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: procd connect HOST PORT | PATH")),
    };
    match carried {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", crate::error::describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn tcp(host: &str, port: u16) -> io::Result<()> {
    let stream = TcpStream::connect((host.trim_start_matches('[').trim_end_matches(']'), port))?;
    let _ = stream.set_nodelay(true);
    let ours = stream.try_clone()?;
    carry(stream.try_clone()?, stream, move || drop(ours.shutdown(Shutdown::Write)))
}

fn unix(path: &str) -> io::Result<()> {
    let stream = UnixStream::connect(path)?;
    let ours = stream.try_clone()?;
    carry(stream.try_clone()?, stream, move || drop(ours.shutdown(Shutdown::Write)))
}

fn carry(mut read: impl Read, mut write: impl Write + Send + 'static, end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(&[CONNECTED])?;
    out.flush()?;
    std::thread::Builder::new().spawn(move || {
        let _ = copy(&mut io::stdin().lock(), &mut write);
        end();
    })?;
    copy(&mut read, &mut out)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&piece[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
