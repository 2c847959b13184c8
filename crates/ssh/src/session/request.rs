//! What clients ask for on a session.
use crate::{
    PtyRequest, Request,
    limits::{ARGUMENT_BYTES_MAX, COMMAND_BYTES_MAX},
    wire::{Malformed, Reader},
};

/// Of the name of a request that is too long.
pub(super) const NAME_CHARS_MAX: usize = 64;

/// What a request on a session asks for. What is longer than it may be is not kept: it is refused when its turn comes.
pub(super) fn parse(name: &str, reader: &mut Reader<'_>) -> Result<Request, Malformed> {
    let max = if name == "exec" { "exec".len() + 4 + COMMAND_BYTES_MAX } else { ARGUMENT_BYTES_MAX };
    if name.len() + reader.rest().len() > max {
        return Ok(Request::Other(name.chars().take(NAME_CHARS_MAX).collect()));
    }
    Ok(match name {
        "pty-req" => {
            let (term, cols, rows) = (reader.text()?.to_owned(), reader.u32()?, reader.u32()?);
            reader.take(8)?;
            let modes = reader.string()?.to_vec();
            Request::Pty(PtyRequest { term, cols, rows, modes })
        }
        "env" => Request::Env { name: lossy(reader.string()?), value: lossy(reader.string()?) },
        "shell" => Request::Shell,
        "exec" => Request::Exec(reader.string()?.to_vec()),
        "subsystem" => Request::Subsystem(reader.text()?.to_owned()),
        "window-change" => Request::Resize { cols: reader.u32()?, rows: reader.u32()? },
        "signal" => Request::Signal(reader.text()?.to_owned()),
        "auth-agent-req@openssh.com" => Request::Agent,
        "x11-req" => Request::X11,
        name => Request::Other(name.to_owned()),
    })
}

pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
