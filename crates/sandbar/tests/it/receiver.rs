//! A receiver of webhooks, on threads and the standard library: what it got is kept, what it answers is up to the test.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use super::http::eventually;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Got {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn event(&self) -> Value {
        assert_eq!(self.method, "POST");
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub fn kind(&self) -> String {
        self.event()["event_type"].as_str().expect("a type").to_owned()
    }
}

/// What it answers.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Status(u16),
    /// A status and another header.
    With(u16, &'static str),
    /// Nothing, until the receiver ends.
    Silence,
}

/// An HTTP server that keeps what it got.
pub struct Receiver {
    pub addr: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    /// Connections that are open.
    pub open: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Receiver {
    pub fn start(answer: impl Fn(&Got) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self { addr: listener.local_addr().unwrap(), got: Arc::default(), open: Arc::default(), stop: Arc::default() };
        let (got, open, stop, answer) = (Arc::clone(&receiver.got), Arc::clone(&receiver.open), Arc::clone(&receiver.stop), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (got, open, stop, answer) = (Arc::clone(&got), Arc::clone(&open), Arc::clone(&stop), Arc::clone(&answer));
                thread::spawn(move || {
                    open.fetch_add(1, Ordering::Relaxed);
                    let _ = serve(stream, &got, &stop, answer.as_ref());
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        receiver
    }

    pub fn ok() -> Self {
        Self::start(|_| Answer::Status(204))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    pub fn kinds(&self) -> Vec<String> {
        self.got().iter().map(Got::kind).collect()
    }

    /// Waits for requests of which `wanted` is true, and returns them all.
    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        eventually(what, Duration::from_secs(60), || {
            let got = self.got();
            if wanted(&got) { Ok(got) } else { Err(format!("{:?}", got.iter().map(|got| String::from_utf8_lossy(&got.body).into_owned()).collect::<Vec<_>>())) }
        })
    }

    #[track_caller]
    pub fn wait_kind(&self, kind: &str) -> Value {
        let got = self.wait(kind, |got| got.iter().any(|got| got.kind() == kind));
        got.iter().find(|got| got.kind() == kind).unwrap().event()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(stream: TcpStream, got: &Mutex<Vec<Got>>, stop: &AtomicBool, answer: &dyn Fn(&Got) -> Answer) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
                None => break,
            };
        }
        let mut body = vec![0; headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let mut words = first.split(' ').map(str::to_owned);
        let one = Got { method: words.next().unwrap_or_default(), path: words.next().unwrap_or_default(), headers, body };
        let said = answer(&one);
        got.lock().unwrap().push(one);
        let (status, header) = match said {
            Answer::Status(status) => (status, String::new()),
            Answer::With(status, header) => (status, format!("{header}\r\n")),
            Answer::Silence => {
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
        };
        let body = if status == 204 { "" } else { "said" };
        write!(out, "HTTP/1.1 {status} x\r\n{header}content-length: {}\r\n\r\n{body}", body.len())?;
    }
}
