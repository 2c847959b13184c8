//! A small blocking HTTP client on the standard library: one connection per request, so that a killed server is an
//! error of that request and of nothing else.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, client::IntoClientRequest};

/// Nothing here takes this long; a test that hangs must end.
const IO_TIMEOUT: Duration = Duration::from_secs(90);

/// Who asks whom.
#[derive(Debug, Clone)]
pub struct Api {
    addr: SocketAddr,
    token: Option<String>,
    prefix: String,
    /// Of a public host, where it is not the address.
    host: Option<String>,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An answer whose body has not been read.
pub struct Incoming {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
    framing: Framing,
}

enum Framing {
    Length(u64),
    /// Bytes left of the present chunk; `None` after the last.
    Chunked(Option<u64>),
    UntilEnd,
}

impl Api {
    pub fn new(addr: SocketAddr, token: &str) -> Self {
        Self { addr, token: Some(token.to_owned()), prefix: String::new(), host: None }
    }

    /// The same as somebody else.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same as nobody.
    pub fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The same in the May profile.
    pub fn may(&self) -> Self {
        Self { prefix: "/compat/2026-05".into(), ..self.clone() }
    }

    /// Asks a public host, as nobody.
    pub fn at(&self, host: &str) -> Self {
        Self { token: None, host: Some(host.to_owned()), ..self.clone() }
    }

    /// The same, of a public URL.
    pub fn at_url(&self, url: &Value) -> Self {
        let url = url.as_str().expect("a public URL");
        let rest = url.split_once("://").expect("a scheme").1;
        self.at(rest.split('/').next().unwrap())
    }

    /// The same at another address.
    pub fn via(&self, addr: SocketAddr) -> Self {
        Self { addr, ..self.clone() }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends a request whose body is in memory, and reads the answer.
    pub fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Reply> {
        let mut stream = self.open(method, path, headers, Some(body.len() as u64))?;
        // A server that refuses early may close while we still write; its answer counts.
        let written = stream.write_all(body);
        match Incoming::read(stream).and_then(Incoming::whole) {
            Ok(reply) => Ok(reply),
            Err(error) => Err(written.err().unwrap_or(error)),
        }
    }

    pub fn try_json(&self, method: &str, path: &str, body: &Value) -> io::Result<Reply> {
        self.try_send(method, path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        self.try_send(method, path, &[], body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn json(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.try_json(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, b"")
    }

    pub fn post(&self, path: &str, body: Value) -> Reply {
        self.json("POST", path, &body)
    }

    pub fn put(&self, path: &str, body: Value) -> Reply {
        self.json("PUT", path, &body)
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, b"")
    }

    /// Writes head only; the caller sends the body and then reads with [`Incoming::read`]. Without a length there is no
    /// body.
    pub fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], length: Option<u64>) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.addr, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut head = format!("{method} {}{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.prefix, self.host());
        if let Some(token) = &self.token {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        Ok(stream)
    }

    fn host(&self) -> String {
        self.host.clone().unwrap_or_else(|| self.addr.to_string())
    }

    /// Sends a request without a body; the answer's body is left to the caller.
    pub fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Incoming {
        let stream = self.open("GET", path, headers, None).unwrap_or_else(|error| panic!("GET {path}: {error}"));
        Incoming::read(stream).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// A WebSocket, or the status with which the server refused it.
    pub fn ws(&self, path: &str) -> Result<WebSocket<TcpStream>, u16> {
        self.ws_with(path, &[])
    }

    /// The same with more headers.
    pub fn ws_with(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<WebSocket<TcpStream>, u16> {
        let mut request = format!("ws://{}{}{path}", self.addr, self.prefix).into_client_request().unwrap();
        if let Some(token) = &self.token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request.headers_mut().insert("host", self.host().parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.addr).expect("the server listens");
        stream.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(IO_TIMEOUT)).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response.status().as_u16()),
            Err(error) => panic!("WebSocket {path}: {error}"),
        }
    }
}

impl Incoming {
    /// Reads status and headers.
    pub fn read(stream: TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(64 << 10, stream);
        let (mut status, mut headers) = read_head(&mut reader)?;
        while status == 100 {
            (status, headers) = read_head(&mut reader)?;
        }
        let find = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let framing = match (find("content-length"), find("transfer-encoding")) {
            (Some(length), _) => Framing::Length(length.parse().map_err(io::Error::other)?),
            (None, Some(coding)) if coding.contains("chunked") => Framing::Chunked(Some(0)),
            (None, _) => Framing::UntilEnd,
        };
        Ok(Self { status, headers, reader, framing })
    }

    /// Reads the rest.
    pub fn whole(mut self) -> io::Result<Reply> {
        let mut body = Vec::new();
        if self.status != 204 && self.status != 304 {
            self.read_to_end(&mut body)?;
        }
        Ok(Reply { status: self.status, headers: self.headers, body })
    }

    /// The next line of a text stream.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.read(&mut byte)? == 1 {
            if byte[0] == b'\n' {
                break;
            }
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Self { reader, framing, .. } = self;
        match framing {
            Framing::UntilEnd => reader.read(out),
            Framing::Length(0) => Ok(0),
            Framing::Length(left) => {
                let want = out.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let read = reader.read(&mut out[..want])?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= read as u64;
                Ok(read)
            }
            Framing::Chunked(None) => Ok(0),
            Framing::Chunked(Some(left)) => {
                if *left == 0 {
                    let size = read_line(reader)?;
                    *left = u64::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16).map_err(io::Error::other)?;
                    if *left == 0 {
                        read_line(reader)?;
                        *framing = Framing::Chunked(None);
                        return Ok(0);
                    }
                }
                let want = out.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let read = reader.read(&mut out[..want])?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= read as u64;
                if *left == 0 {
                    read_line(reader)?;
                }
                Ok(read)
            }
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = read_line(reader)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| io::Error::other(format!("no status in {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, null when it is none.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// `data` of a success with this status.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        let body = self.value();
        assert!(self.status == status && body["success"] == true, "want {status}, got {} {}", self.status, self.text());
        body["data"].clone()
    }

    /// `error` of a failure with one of these statuses, in the envelope.
    #[track_caller]
    pub fn error(&self, statuses: &[u16]) -> Value {
        let body = self.value();
        assert!(statuses.contains(&self.status), "want {statuses:?}, got {} {}", self.status, self.text());
        assert_eq!(body["success"], json!(false), "no envelope: {}", self.text());
        let error = &body["error"];
        assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "no code: {}", self.text());
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "no message: {}", self.text());
        error.clone()
    }
}

/// The path of a file in a query string.
pub fn encode(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() || b"-_./".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The next JSON frame of a WebSocket; `None` after a close, which must be 1000.
#[track_caller]
pub fn next_frame(socket: &mut WebSocket<TcpStream>) -> Option<Value> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                assert!(text.len() < 64 << 10, "a frame of {} bytes", text.len());
                return Some(serde_json::from_str(&text).expect("a JSON frame"));
            }
            Ok(Message::Close(frame)) => {
                let code = frame.map(|frame| u16::from(frame.code));
                assert_eq!(code, Some(1000), "closed with another code");
                return None;
            }
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return None,
            Err(error) => panic!("the WebSocket broke: {error}"),
        }
    }
}

/// Asks again until there is an answer. For things that become true and cannot be waited for in another way.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + within;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if Instant::now() > end => panic!("{what} did not come true within {within:?}: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
